"""Arrays and calls on PyTorch, which computes eagerly under Keras."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

PADS = False


def shape(x: Any) -> list[int]:
    return [int(size) for size in x.shape]


def sizes(values: Any) -> list[Any]:
    return [None if value is None else int(value) for value in values]


def reshape(x: Any, new: Sequence[int]) -> Any:
    return x.reshape(tuple(new))


def broadcast_to(x: Any, new: Sequence[int]) -> Any:
    return torch.broadcast_to(x, tuple(new))


def tile(x: Any, times: int) -> Any:
    return x.repeat(times, *[1] * (x.ndim - 1))


def widen(x: Any) -> Any:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def to_numpy(x: Any) -> np.ndarray:
    return x.detach().cpu().numpy()


def is_dense(x: Any) -> bool:
    return isinstance(x, (torch.Tensor, np.ndarray))


def tensor(x: Any, dtype: Any = None) -> Any:
    from keras import ops

    return ops.convert_to_tensor(x, dtype=dtype)


class Compiled:
    """A call without gradients."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *arguments: Any, batched: Any = None) -> Any:
        with torch.no_grad():
            return self._function(*arguments)

    def largest(self, *arguments: Any, rows: int, batched: Any = None) -> int:
        """Bytes of the largest new tensor that one sample of a batch computes."""
        with torch.no_grad(), _Largest() as seen:
            self._function(*arguments)
        return seen.bytes


class _Largest(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and not _is_view(result, args):
            self.bytes = max(self.bytes, result.numel() * result.element_size())
        return result


def _is_view(result: Any, arguments: Any) -> bool:
    """Whether a result, such as a transposed kernel, takes no memory of its own."""
    storage = result.untyped_storage().data_ptr()
    return any(
        isinstance(x, torch.Tensor) and x.untyped_storage().data_ptr() == storage
        for x in arguments
    )


def scalar(value: int) -> int:
    return value


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the global generator for a block.

    Keras draws from it where a dropout layer was given no seed; it has no other fast
    way.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield
