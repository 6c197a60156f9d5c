"""Calls that were written with `training=False`, which Keras 2 obeys in `fit` too."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_silent: ContextVar[bool] = ContextVar("silent", default=False)


def is_silent() -> bool:
    """Return whether the code that runs is inside such a call."""
    return _silent.get()


@contextmanager
def silence(active: bool) -> Iterator[None]:
    """Run the calls of a block as they were written, not as in training."""
    token = _silent.set(active or _silent.get())
    try:
        yield
    finally:
        _silent.reset(token)
