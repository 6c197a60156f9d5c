"""Arrays and compiled calls on JAX."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

# Every new shape is compiled again: a smaller last batch is filled up instead.
PADS = True


def shape(x: Any) -> list[int]:
    return [int(size) for size in x.shape]


def sizes(values: Any) -> list[Any]:
    return [None if value is None else int(value) for value in values]


def reshape(x: Any, new: Sequence[int]) -> Any:
    return jnp.reshape(x, new)


def broadcast_to(x: Any, new: Sequence[int]) -> Any:
    return jnp.broadcast_to(x, new)


def tile(x: Any, times: int) -> Any:
    return jnp.tile(x, [times] + [1] * (x.ndim - 1))


def widen(x: Any) -> Any:
    x = jnp.asarray(x)
    return x.astype(jnp.float32) if x.dtype in (jnp.float16, jnp.bfloat16) else x


def to_numpy(x: Any) -> np.ndarray:
    return np.asarray(x)


def is_dense(x: Any) -> bool:
    return isinstance(x, (jax.Array, np.ndarray))


def tensor(x: Any, dtype: Any = None) -> Any:
    return jnp.asarray(x, dtype=dtype)


class Compiled:
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


def scalar(value: int) -> int:
    return value


def seeded(seed: int) -> AbstractContextManager[None]:
    """Layers draw with the keys that they are given, and from nothing global."""
    return nullcontext()
