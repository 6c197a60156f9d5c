"""The features of frozen layers as arrays, for what is trained outside the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from keras_finetune import _checks
from keras_finetune._engine.features import Obstacle, extract, part
from keras_finetune._groups.layer_groups import check_model
from keras_finetune.callbacks._caching import check, told

__all__ = ["CachedFeatures", "cache_features"]


@dataclass(frozen=True, eq=False)
class CachedFeatures:
    """The features of some rows, and where in the model they come from.

    `cache_features` returns it.

    Attributes:
        x: The features, an array of shape `(rows, ...)`, in the order of the rows. A
            tuple of arrays where several tensors leave the frozen part.
        y: The targets that the data held beside the inputs, in the same order, or
            `None`.
        layer: The name of the layer that they come out of, the last one of several.

    Example:

    >>> features = CachedFeatures(np.ones((48, 8), "float32"), None, "pool")
    >>> features
    <CachedFeatures of 48 rows: what comes out of 'pool', 32 bytes a row>
    """

    x: Any
    y: Any
    layer: str

    def __repr__(self) -> str:
        arrays = self.x if isinstance(self.x, tuple) else (self.x,)
        rows = len(arrays[0])
        size = sum(array.nbytes for array in arrays) // max(1, rows)
        return (
            f"<CachedFeatures of {rows:,} rows: what comes out of {self.layer!r}, "
            f"{size:,} bytes a row>"
        )


def cache_features(
    model: Any,
    x: Any,
    *,
    batch_size: int | None = None,
    steps: int | None = None,
    verbose: Literal["auto", 0, 1, 2] = "auto",
) -> CachedFeatures:
    """Compute what the frozen layers of a model return, for each row of some data.

    Use it to train a head on its own, for a classifier of scikit-learn, or to search
    for similar rows. `FeatureCache` does the same inside `fit`, without arrays of your
    own.

    The model is cut where `FeatureCache` would cut it with the weights that are
    trainable now, also inside nested models. Layers behave as in `predict`: features
    are those of `keras.Model(model.inputs, layer.output).predict(x)`, bit for bit,
    where `layer` can be reached like that. The model is left as it is.

    Masks and inputs that bypass the frozen layers are not among the features.

    Args:
        model: A built functional or Sequential model with frozen layers. It need not
            be compiled.
        x: Inputs, as `model.predict` takes them: an array, a list or dict of arrays, a
            dataset, `PyDataset`, `Sequence` or `DataLoader`, or a generator. If it
            yields pairs, the targets are in `y` of the result.
        batch_size: Rows a batch, `None` for 32. Ignored if `x` comes in batches.
        steps: Number of batches to read from `x`, `None` for all.
        verbose: `"auto"` or 1 for a progress bar, 2 for one line, 0 for silence.

    Returns:
        `CachedFeatures`: the features `x`, the targets `y`, and the `layer`.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If an argument has a wrong value, if the model has no weights yet
            or a `call` of its own, or if none of its layers is frozen.

    Example:

    >>> model = keras.Sequential([
    ...     keras.Input((4,)),
    ...     keras.layers.Dense(8, trainable=False, name="body"),
    ...     keras.layers.Dense(2, name="classifier"),
    ... ])
    >>> features = cache_features(model, np.ones((5, 4)), verbose=0)
    >>> features.x.shape
    (5, 8)
    >>> features.layer
    'body'
    """
    for name, value in (("batch_size", batch_size), ("steps", steps)):
        if value is not None:
            _checks.integer(name, value, 1)
    _checks.choice("verbose", verbose, ("auto", 0, 1, 2))
    _check_data(x)
    check_model(model)
    check(model, "cache_features")
    # What augments rows may be in the part: it does nothing in `predict`.
    stage = part(model, model.trainable_variables, [], rests=True, varies=True)
    if isinstance(stage, Obstacle):
        raise ValueError(
            "Argument `model` must have frozen layers with weights that come before "
            "all that trains; freeze them, as with `layer.trainable = False`. "
            f"Received: model={model.name!r}, of which {told(stage)}"
        )
    arrays, y = extract(
        model, stage, x, batch_size=batch_size, steps=steps, verbose=verbose
    )
    found = arrays[0] if len(arrays) == 1 else tuple(arrays)
    return CachedFeatures(found, y, stage.layer)


def _check_data(x: Any) -> None:
    kinds = (np.ndarray, dict, list, tuple)
    methods = ("shape", "__iter__", "__getitem__")
    if not isinstance(x, kinds) and not any(hasattr(x, name) for name in methods):
        raise TypeError(
            "Argument `x` must be data that `Model.predict` takes. "
            f"Received: x={x!r} (of type {type(x).__name__})"
        )
