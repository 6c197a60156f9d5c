"""The end of an object that only somebody else's frame holds."""

from __future__ import annotations

import gc
import sys
import threading
import weakref
from collections.abc import Callable, Mapping
from types import FrameType
from typing import Any

_FRAMEWORKS = frozenset(
    {"jax", "keras", "keras_finetune", "tensorflow", "tf_keras", "torch"}
)


def when_let_go(
    owner: Any, act: Callable[[], None], is_plain: Callable[[], bool]
) -> Callable[[], None]:
    """Calls `act` when the last reference to `owner` goes.

    At once, where the thread that asks drops it. But the garbage collector, which finds
    what is in a cycle, comes at any moment, also in the midst of a trace or of a file
    being written, and so do other threads. `act` then waits for a collection in the
    asking thread, or the main one, between two lines that are no framework's. See
    tests/_engine/test_lifetime.py

    Args:
        owner: Any object.
        act: A method, whose object is not kept alive for it.
        is_plain: Whether the thread that calls it is in no context of a framework.

    Returns:
        What calls it off.
    """
    asking, acts = threading.get_ident(), weakref.WeakMethod(act)
    collecting: int | None = None
    finalizer: weakref.finalize[..., Any]

    def note(phase: str, info: Mapping[str, int]) -> None:
        nonlocal collecting
        collecting = threading.get_ident() if phase == "start" else None

    def watch(thing: Any) -> None:
        nonlocal finalizer
        finalizer = weakref.finalize(thing, end)
        finalizer.atexit = False

    def end() -> None:
        here, method = threading.get_ident(), acts()
        if method is None:
            call_off()
        elif (here == asking and collecting != here) or is_quiet(here):
            call_off()
            method()
        else:
            watch(_Cycle())

    def is_quiet(here: int) -> bool:
        mine = here in (asking, threading.main_thread().ident)
        return mine and is_plain() and not _works(here) and not _works(asking)

    def call_off() -> None:
        finalizer.detach()
        if note in gc.callbacks:
            gc.callbacks.remove(note)

    gc.callbacks.append(note)
    watch(owner)
    return call_off


class _Cycle:
    """Lives until the garbage collector comes the next time."""

    def __init__(self) -> None:
        self.itself = self


def _works(thread: int) -> bool:
    """Whether a framework is at work in a thread."""
    frame: FrameType | None = sys._current_frames().get(thread)
    while frame is not None:
        name = str(frame.f_globals.get("__name__", ""))
        if name != __name__ and name.partition(".")[0] in _FRAMEWORKS:
            return True
        frame = frame.f_back
    return False
