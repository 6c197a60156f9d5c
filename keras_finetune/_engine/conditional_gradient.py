"""What `ConditionalGradient` needs to know of Keras and of its backend."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from keras_finetune._engine import KERAS_3, backend

# TensorFlow Addons works on Keras 2 only: there its own class is the one to use.
FROM_ADDONS: bool = not KERAS_3


def addons_class() -> type[Any]:
    """TensorFlow Addons' own `ConditionalGradient`, imported when it is asked for."""
    try:
        addons = importlib.import_module("tensorflow_addons.optimizers")
    except ImportError as error:
        raise ImportError(
            "`ConditionalGradient` on Keras 2 is the class of TensorFlow Addons, which "
            "cannot be imported here. It needs TensorFlow 2.12 to 2.15 and Python < "
            "3.12: `pip install keras-finetune[addons]`. On Keras 3 keras-finetune "
            "has its own, without TensorFlow Addons."
        ) from error
    optimizer: type[Any] = addons.ConditionalGradient
    return optimizer


def touched(gradient: Any, variable: Any) -> tuple[Any, Any, Callable[[Any], Any]]:
    """Return the part of a variable that a gradient speaks of.

    TensorFlow gives the gradient of an embedding as the rows that were looked up, and
    an update must leave all other rows alone. Everywhere else a gradient is dense.

    Returns:
        The gradient's values, the variable's values they belong to, and a function
        that makes of new values what `optimizer.assign` takes.
    """
    if backend() != "tensorflow":
        return gradient, variable, _unchanged
    import tensorflow as tf

    if not isinstance(gradient, tf.IndexedSlices):
        return gradient, variable, _unchanged
    # A row that was looked up twice comes twice: its gradient is the sum.
    indices, position = tf.unique(gradient.indices)
    values = tf.math.unsorted_segment_sum(
        gradient.values, position, tf.shape(indices)[0]
    )

    def rows(values: Any) -> Any:
        return tf.IndexedSlices(values, indices, gradient.dense_shape)

    return values, tf.gather(variable, indices), rows


def _unchanged(values: Any) -> Any:
    return values
