"""The pass on TensorFlow: one `tf.function`.

MobileNetV2 has 158 variables, most of them tiny: every operation in the graph counts.
So the variables are captured, not passed, a small one costs a cast and a sum, a large
one the norms of its rows, and the terms are put together outside.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from keras_finetune._engine import KERAS_3
from keras_finetune._engine.norms._pass import Matrix, Pass

# On a CPU, TensorFlow adds a row in few chains, so that rows must be short; a small
# weight is widened as a whole.
_ROW = 128
_SMALL = 2**12

# For order 1 a weight is widened block by block, while the block is in the cache.
_BLOCK = 2**18


class TensorFlowPass(Pass):
    """One `tf.function` over captured variables."""

    def __init__(self, order: float | str, variables: Sequence[Any]) -> None:
        super().__init__(order, variables)
        self._on_cpu = all("CPU" in str(_resource(v).device) for v in variables)
        self._counts: list[int] = []
        self._compiled = tf.function(self._rows)
        # Each logger has one for its weights: not the mistake of a function that is
        # made for each call, of which TensorFlow warns.
        self._compiled._omit_frequent_tracing_warning = True

    @staticmethod
    def value(variable: Any) -> Any:
        # Of a mirrored variable TensorFlow reads one replica.
        return tf.convert_to_tensor(_resource(variable))

    @staticmethod
    def copy(variable: Any) -> Any:
        # An update writes elsewhere while somebody holds what was read.
        return TensorFlowPass.value(variable)

    def norms(self, places: Sequence[int], copies: Sequence[Sequence[Any]]) -> Matrix:
        asked = np.isin(np.arange(len(self.variables)), places)
        terms = self._compiled([list(row) for row in copies], tf.constant(asked))
        starts = np.cumsum([0, *self._counts[:-1]])
        together = np.add if self.order in (1, 2) else np.maximum
        found = together.reduceat(terms.numpy(), starts, axis=1)[:, places]
        if self.order == 2:
            return np.sqrt(2 * found)  # `l2_loss` is half the sum of squares
        return np.sqrt(found) if self.order == "spectral" else found

    def _rows(self, copies: Sequence[Sequence[Any]], asked: Any) -> Any:
        asked = tf.unstack(asked, len(self.variables))
        now = [self.value(variable) for variable in self.variables]
        rows = [self._row(now, asked)]
        for then in copies:
            changes = [_wide(x) - _wide(y) for x, y in zip(now, then, strict=True)]
            rows.append(self._row(changes, asked))
        return tf.stack(rows)

    def _row(self, tensors: Sequence[Any], asked: Sequence[Any]) -> Any:
        terms = list(map(self._terms, tensors, asked))
        self._counts = [len(own) for own in terms]
        return tf.cast(tf.stack([term for own in terms for term in own]), tf.float64)

    def _terms(self, x: Any, is_asked: Any) -> list[Any]:
        """Return what adds up to (1, 2), or is (other orders), the norm of a weight."""
        if self.order == 2:
            return [tf.nn.l2_loss(piece) for piece in self._pieces(x)]
        if self.order == 1:
            return [tf.reduce_sum(tf.abs(block)) for block in self._blocks(x)]
        if self.order == math.inf:
            return [tf.reduce_max(tf.abs(_wide(x)))]
        # Not a read but a decomposition: only of what is asked for.
        nothing = tf.zeros((), tf.float64)
        return [tf.cond(is_asked, lambda: _largest_eigenvalue(x), lambda: nothing)]

    def _pieces(self, x: Any) -> list[Any]:
        """Return short pieces in float64, or norms of short rows, on a CPU."""
        size = x.shape.num_elements()
        if not self._on_cpu or size <= _SMALL:
            return [self._widest(x)]
        x, rest, whole = _wide(x), [], size // _ROW * _ROW
        if whole < size:
            flat = tf.reshape(x, (-1,))
            x, rest = flat[:whole], [self._widest(flat[whole:])]
        rows = tf.reshape(x, (-1, _ROW))
        return [self._widest(tf.math.reduce_euclidean_norm(rows, axis=1)), *rest]

    def _blocks(self, x: Any) -> list[Any]:
        """Return blocks in float64 that stay in the cache, on a CPU."""
        size = x.shape.num_elements()
        if not self._on_cpu or size <= _BLOCK:
            return [self._widest(x)]
        flat = tf.reshape(x, (-1,))
        starts = range(0, size, _BLOCK)
        return [self._widest(flat[start : start + _BLOCK]) for start in starts]

    def _widest(self, x: Any) -> Any:
        return tf.cast(x, tf.float64) if self._on_cpu else _wide(x)


def _resource(variable: Any) -> Any:
    return variable.value if KERAS_3 else variable


def _wide(x: Any) -> Any:
    return tf.cast(x, tf.float32) if x.dtype.size < 4 else x


def _largest_eigenvalue(x: Any) -> Any:
    """Return the square of the spectral norm."""
    matrix = tf.cast(tf.reshape(x, (-1, x.shape[-1])), tf.float64)
    tall = matrix.shape[0] >= matrix.shape[1]
    gram = tf.matmul(matrix, matrix, transpose_a=tall, transpose_b=not tall)
    return tf.reduce_max(tf.linalg.eigvalsh(gram))
