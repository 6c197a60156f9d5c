"""The pass on JAX: one `jax.jit` function."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from keras_finetune._engine.norms._pass import Matrix, Pass


class JaxPass(Pass):
    """One `jax.jit` function over the values of the weights."""

    def __init__(self, order: float | str, variables: Sequence[Any]) -> None:
        super().__init__(order, variables)
        self._compiled = jax.jit(self._rows)

    @staticmethod
    def value(variable: Any) -> Any:
        return variable.value

    @staticmethod
    def copy(variable: Any) -> Any:
        # `fit` gives the buffers of the weights away with each step. Nothing is
        # compiled here; `jnp.copy` is, for each shape.
        value = variable.value
        return jax.device_put(value, value.sharding, may_alias=False)

    def norms(self, places: Sequence[int], copies: Sequence[Sequence[Any]]) -> Matrix:
        values = [variable.value for variable in self.variables]
        asked = np.isin(np.arange(len(values)), places)
        return np.asarray(self._compiled(values, copies, asked), "float64")[:, places]

    def _rows(
        self, values: Sequence[Any], copies: Sequence[Sequence[Any]], asked: Any
    ) -> Any:
        asked = list(asked)
        values = [_wide(x) for x in values]
        rows = [values]
        for row in copies:
            rows.append([x - _wide(y) for x, y in zip(values, row, strict=True)])
        return jnp.stack([jnp.stack(list(map(self._norm, row, asked))) for row in rows])

    def _norm(self, x: Any, is_asked: Any) -> Any:
        # XLA adds a vector as a tree, but a matrix of 60 by 60 in one chain.
        if self.order == 1:
            return jnp.sum(jnp.abs(x.reshape(-1)))
        if self.order == 2:
            return jnp.sqrt(jnp.sum(jnp.square(x.reshape(-1))))
        if self.order == math.inf:
            return jnp.max(jnp.abs(x))
        # Not a read but a decomposition: only of what is asked for.
        nothing = jnp.zeros((), x.dtype)
        return jax.lax.cond(is_asked, _spectral_norm, lambda x: nothing, x)


def _wide(x: Any) -> Any:
    return x.astype(jnp.float32) if x.dtype.itemsize < 4 else x


def _spectral_norm(x: Any) -> Any:
    matrix = x.reshape(-1, x.shape[-1])
    if matrix.shape[0] < matrix.shape[1]:
        matrix = matrix.T
    gram = jnp.matmul(matrix.T, matrix, precision="highest")
    return jnp.sqrt(jnp.max(jnp.linalg.eigvalsh(gram)))
