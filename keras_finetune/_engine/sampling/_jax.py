"""Arrays and compiled calls on JAX."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from keras_finetune._engine.sampling._interface import Arrays, Compiled


class JaxArrays(Arrays):
    """Arrays of JAX."""

    pads = True

    def reshape(self, x: Any, shape: Sequence[int]) -> Any:
        return jnp.reshape(x, shape)

    def broadcast_to(self, x: Any, shape: Sequence[int]) -> Any:
        return jnp.broadcast_to(x, shape)

    def tile(self, x: Any, times: int) -> Any:
        return jnp.tile(x, [times] + [1] * (x.ndim - 1))

    def widen(self, x: Any) -> Any:
        x = jnp.asarray(x)
        return x.astype(jnp.float32) if x.dtype in (jnp.float16, jnp.bfloat16) else x

    def is_dense(self, x: Any) -> bool:
        return isinstance(x, (jax.Array, np.ndarray))

    def tensor(self, x: Any, dtype: Any = None) -> Any:
        return jnp.asarray(x, dtype=dtype)

    def compile(self, function: Callable[..., Any]) -> Compiled:
        return JittedFunction(function)


class JittedFunction(Compiled):
    """One `jax.jit`, compiled again for every shape. Integers are static."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._plain = function
        self._jitted: dict[tuple[int, ...], Callable[..., Any]] = {}

    def __call__(self, *arguments: Any, batched: Any = None) -> Any:
        static = tuple(i for i, x in enumerate(arguments) if isinstance(x, int))
        if static not in self._jitted:
            self._jitted[static] = jax.jit(self._plain, static_argnums=static)
        return self._jitted[static](*arguments)

    def largest(self, *arguments: Any, rows: int, batched: Any = None) -> int:
        """Bytes of the largest array that one sample of a batch computes."""
        static = tuple(i for i, x in enumerate(arguments) if isinstance(x, int))
        program = jax.make_jaxpr(self._plain, static_argnums=static)(*arguments)
        return _largest(program.jaxpr)


def _largest(program: Any) -> int:
    largest = 0
    for equation in program.eqns:
        for inner in jax.tree_util.tree_leaves(
            list(equation.params.values()), is_leaf=lambda x: hasattr(x, "jaxpr")
        ):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                largest = max(largest, _largest(inner))
        for variable in equation.outvars:
            value = variable.aval
            if jnp.issubdtype(getattr(value, "dtype", np.int32), jnp.floating):
                largest = max(largest, int(value.size) * value.dtype.itemsize)
    return largest
