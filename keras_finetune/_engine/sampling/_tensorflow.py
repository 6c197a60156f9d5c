"""Arrays and compiled calls on TensorFlow, for Keras 2 and Keras 3 alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from keras_finetune._engine.sampling._interface import Arrays, Compiled


class TensorFlowArrays(Arrays):
    """Tensors of TensorFlow. A trace holds for every number of rows and samples."""

    def shape(self, x: Any) -> list[Any]:
        dynamic = tf.shape(x)
        return [
            dynamic[axis] if size is None else int(size)
            for axis, size in enumerate(x.shape)
        ]

    def sizes(self, values: Any) -> list[Any]:
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

    def reshape(self, x: Any, shape: Sequence[Any]) -> Any:
        return tf.reshape(x, shape)

    def broadcast_to(self, x: Any, shape: Sequence[Any]) -> Any:
        return tf.broadcast_to(x, shape)

    def tile(self, x: Any, times: Any) -> Any:
        return tf.tile(x, [times] + [1] * (len(x.shape) - 1))

    def widen(self, x: Any) -> Any:
        x = tf.convert_to_tensor(x)
        return tf.cast(x, tf.float32) if x.dtype in (tf.float16, tf.bfloat16) else x

    def is_dense(self, x: Any) -> bool:
        return isinstance(x, (tf.Tensor, tf.Variable, np.ndarray))

    def tensor(self, x: Any, dtype: Any = None) -> Any:
        if isinstance(x, (tf.RaggedTensor, tf.SparseTensor)):
            return x
        return tf.convert_to_tensor(x, dtype=dtype)

    def compile(self, function: Callable[..., Any]) -> Compiled:
        return TracedFunction(function)

    def scalar(self, value: int) -> Any:
        return tf.constant(value, tf.int32)


class TracedFunction(Compiled):
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
        given = tf.nest.flatten(list(arguments))
        seen = [np.shape(x) for x in given if isinstance(x, (int, tf.Tensor))]
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
