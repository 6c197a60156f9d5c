"""The features of all rows of some data, by Keras's own `predict`."""

from __future__ import annotations

from typing import Any

import numpy as np

from keras_finetune._engine import keras
from keras_finetune._engine.features._call import SplitCall
from keras_finetune._engine.features._plan import Part
from keras_finetune._engine.patches import Patch, patched


def extract(
    model: Any, part: Part, x: Any, **arguments: Any
) -> tuple[list[np.ndarray], Any]:
    """Return the features of rows as at inference, and their targets if `x` has some.

    Args:
        model: The model; nothing is left on it.
        part: Where it is cut.
        x: Data, as `predict` takes it.
        **arguments: Others of `predict`.
    """
    split = SplitCall(model, part)
    has_targets: list[bool] = []

    def predict_step(*args: Any) -> Any:
        _, y, _ = keras.utils.unpack_x_y_sample_weight(args[-1])
        has_targets.append(y is not None)
        # Keras's own, whose inputs are those of the batch; on JAX it takes and returns
        # a state.
        with split.asked() as features:
            returned = keras.Model.predict_step(model, *args)
        found = [features, y] if y is not None else [features]
        return (found, *returned[1:]) if len(args) > 1 else found

    steps = [
        # TensorFlow would track a compiled function that replaces another.
        Patch(model, "_self_setattr_tracking", False),
        Patch(model, "predict_function", None),
        Patch(model, "predict_step", predict_step),
        # What `predict` itself leaves on a model.
        Patch(model, "stop_predicting", False),
        Patch(model, "history", vars(model).get("history")),
    ]
    with patched([*split.patches(), *steps]):
        found = model.predict(x, **arguments)
    return list(found[0]), found[1] if has_targets[0] else None
