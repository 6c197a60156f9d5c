"""Arrays and compiled calls on TensorFlow, for Keras 2 and Keras 3 alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import tensorflow as tf

# A trace holds for every number of rows and samples, so nothing is gained by padding.
PADS = False


def shape(x: Any) -> list[Any]:
    """Sizes of a tensor: integers where they are static, else scalar tensors."""
    dynamic = tf.shape(x)
    return [
        dynamic[axis] if size is None else int(size)
        for axis, size in enumerate(x.shape)
    ]


def sizes(values: Any) -> list[Any]:
    """A shape that a layer wrote, tensor or sequence, as `shape` gives it."""
    if tf.is_tensor(values):
        known = tf.get_static_value(values, partial=True)
        parts = tf.unstack(values)
        if known is None:
            return list(parts)
        return [
            part if size is None else int(size)
            for part, size in zip(parts, known, strict=True)
        ]
    return [
        value if value is None or tf.is_tensor(value) else int(value)
        for value in values
    ]


def reshape(x: Any, new: Sequence[Any]) -> Any:
    return tf.reshape(x, new)


def broadcast_to(x: Any, new: Sequence[Any]) -> Any:
    return tf.broadcast_to(x, new)


def tile(x: Any, times: Any) -> Any:
    """`times` copies of a batch, one after the other."""
    return tf.tile(x, [times] + [1] * (len(x.shape) - 1))


def widen(x: Any) -> Any:
    """Half precision as float32, everything else as it is."""
    x = tf.convert_to_tensor(x)
    return tf.cast(x, tf.float32) if x.dtype in (tf.float16, tf.bfloat16) else x


def to_numpy(x: Any) -> np.ndarray:
    return np.asarray(x)


def is_dense(x: Any) -> bool:
    return isinstance(x, (tf.Tensor, tf.Variable, np.ndarray))


def tensor(x: Any, dtype: Any = None) -> Any:
    if isinstance(x, (tf.RaggedTensor, tf.SparseTensor)):
        return x
    return tf.convert_to_tensor(x, dtype=dtype)


class Compiled:
    """One `tf.function`, traced for an unknown number of rows and of samples."""

    def __init__(self, function: Callable[..., Any]) -> None:
        # Keras converts the `call` of a user's layer itself where it needs to.
        self._function = tf.function(function, autograph=False, reduce_retracing=True)
        self._traced = False

    def __call__(self, *arguments: Any, batched: Any = None) -> Any:
        if not self._traced:
            self.trace(*arguments, batched=batched)
        return self._function(*arguments)

    def trace(self, *arguments: Any, batched: Any = None) -> Any:
        """Trace with `None` as the size of the first axis where `batched` says so."""
        specs = tf.nest.map_structure(_spec, list(arguments), batched)
        concrete = self._function.get_concrete_function(*specs)
        self._traced = True
        return concrete

    def largest(self, *arguments: Any, rows: int, batched: Any = None) -> int:
        """Bytes of the largest batched tensor that one sample of a batch computes."""
        graph = self.trace(*arguments, batched=batched).graph
        seen = [np.shape(x) for x in tf.nest.flatten(list(arguments))]
        # An axis whose size is open inside the graph, such as time, is taken to be
        # as long as the longest axis that comes in.
        longest = max([size for dims in seen for size in dims[1:]] or [1])
        largest = 0
        for operation in graph.get_operations():
            for output in operation.outputs:
                dims = output.shape
                if dims.rank and dims[0] is None and output.dtype.is_floating:
                    inner = [longest if d is None else d for d in dims[1:]]
                    if list(dims[1:]).count(None) > 1:
                        # The same tensor as before, regrouped by sample and row.
                        continue
                    size = rows * int(np.prod(inner, dtype=np.int64))
                    largest = max(largest, size * output.dtype.size)
        return largest


def _spec(x: Any, batched: bool) -> Any:
    if isinstance(x, (bool, int)):
        return x
    if not tf.is_tensor(x) or isinstance(x, (tf.RaggedTensor, tf.SparseTensor)):
        return x
    dims = list(x.shape)
    if batched:
        dims[0] = None
    return tf.TensorSpec(dims, x.dtype)


def scalar(value: int) -> Any:
    return tf.constant(value, tf.int32)


def seeded(seed: int) -> AbstractContextManager[None]:
    """Layers draw with the keys that they are given, and from nothing global."""
    return nullcontext()
