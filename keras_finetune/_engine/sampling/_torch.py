"""Arrays and calls on PyTorch, which computes eagerly under Keras."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from keras_finetune._engine.sampling._interface import Arrays, Compiled


class TorchArrays(Arrays):
    """Tensors of PyTorch."""

    def reshape(self, x: Any, shape: Sequence[int]) -> Any:
        return x.reshape(tuple(shape))

    def broadcast_to(self, x: Any, shape: Sequence[int]) -> Any:
        return torch.broadcast_to(x, tuple(shape))

    def tile(self, x: Any, times: int) -> Any:
        return x.repeat(times, *[1] * (x.ndim - 1))

    def widen(self, x: Any) -> Any:
        return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x

    def to_numpy(self, x: Any) -> np.ndarray:
        return x.detach().cpu().numpy()

    def is_dense(self, x: Any) -> bool:
        return isinstance(x, (torch.Tensor, np.ndarray))

    def tensor(self, x: Any, dtype: Any = None) -> Any:
        from keras import ops

        return ops.convert_to_tensor(x, dtype=dtype)

    def compile(self, function: Callable[..., Any]) -> Compiled:
        return EagerFunction(function)

    @contextmanager
    def seeded(self, seed: int) -> Iterator[None]:
        # Keras draws from the global generator where a dropout layer was given no
        # seed; it has no other fast way.
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            yield


class EagerFunction(Compiled):
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
