"""Hyperparameters as tensors, where optimizers expect Python's numbers."""

from __future__ import annotations

from typing import Any


class Positive:
    """A tensor that is known to be greater than 0 before it has a value.

    Optimizers ask `momentum != 0`, or `momentum > 0`, while they are traced.

    Args:
        tensor: A scalar.
    """

    def __init__(self, tensor: Any) -> None:
        self.tensor = tensor
        self.dtype = tensor.dtype
        self.shape = tensor.shape

    def __ne__(self, other: object) -> bool:
        return True if other == 0 else NotImplemented

    def __gt__(self, other: object) -> bool:
        return True if other == 0 else NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __rsub__(self, other: Any) -> Any:
        return other - self.tensor

    def __mul__(self, other: Any) -> Any:
        return self.tensor * other

    __rmul__ = __mul__

    def __tf_tensor__(self, dtype: Any = None, name: str | None = None) -> Any:
        import tensorflow as tf

        tensor = self.tensor
        return tensor if dtype in (None, tensor.dtype) else tf.cast(tensor, dtype, name)

    def __jax_array__(self) -> Any:
        return self.tensor
