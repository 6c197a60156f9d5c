"""A copy of what training has made of a model, to be put back later in the same `fit`.

Copied are the weights that can change and the optimizer's slots for them. What counts
steps is not: iterations, the loss scale and random generators go on, and so do the
schedules that depend on them.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from keras_finetune._engine.active import lane
from keras_finetune._engine.structure import all_layers, variable_key, weights


class Copy:
    """The weights and slots of one moment.

    Args:
        arrays: The values, by the name that `_named` gives their variable.
    """

    def __init__(self, arrays: dict[str, npt.NDArray[Any]]) -> None:
        self._arrays = arrays

    @classmethod
    def of(cls, model: Any, trained: Iterable[Any]) -> Copy:
        """Copy the state of now.

        Args:
            model: The model.
            trained: The variables that train; others are copied only if they change
                without a gradient, as moving statistics do.
        """
        lane.pull_state(model)
        moving = {variable_key(v) for v in trained}
        still = {
            variable_key(v)
            for layer in all_layers(model)
            for v in lane.can_train(layer)
        }
        still -= moving
        return cls(
            {
                name: np.array(lane.value(variable))
                for name, variable in _named(model, still).items()
            }
        )

    def put_back(self, model: Any) -> None:
        """Let the model and its optimizer have what was copied."""
        lane.pull_state(model)
        for name, variable in _named(model, ()).items():
            if name in self._arrays:
                array, like = self._arrays[name], lane.value(variable)
                if array.dtype.kind == "V":  # bfloat16, as files have it
                    array = array.view(like.dtype)
                variable.assign(array)

    def to_bytes(self) -> bytes:
        """Return the copy as the content of a file."""
        buffer = io.BytesIO()
        # By position: names have slashes, which would be folders in the archive.
        np.savez(buffer, np.array(list(self._arrays)), *self._arrays.values())
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, content: bytes) -> Copy:
        """Return the copy that `to_bytes` gave."""
        with np.load(io.BytesIO(content)) as file:
            names, *arrays = (file[f"arr_{i}"] for i in range(len(file.files)))
        return cls(dict(zip(names.tolist(), arrays, strict=True)))


def _named(model: Any, still: Iterable[Any]) -> dict[str, Any]:
    """Return weights and their slots, under names that another process gives them too.

    Args:
        model: The model.
        still: The keys of weights to leave out.
    """
    still = set(still)
    # By position: two weights may have one path.
    places = {
        i: v for i, v in enumerate(weights(model)) if variable_key(v) not in still
    }
    named: dict[str, Any] = {str(i): v for i, v in places.items()}
    rows = lane.slots_of(model.optimizer, list(places.values()))
    for i, row in zip(places, rows, strict=True):
        named.update({f"{i}/{name}": slot for name, slot in row.items()})
    return named
