"""The end of an object that only somebody else's frame holds."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable, Mapping
from typing import Any


def when_let_go(owner: Any, act: Callable[[], None]) -> Callable[[], None]:
    """Calls `act` when the last reference to `owner` goes, in the thread that asks.

    Not if the garbage collector finds it in a cycle, or another thread held it longest:
    those come at any moment, also in the midst of a trace or of a file being written.
    See tests/callbacks/test_gradual_unfreeze.py

    Returns:
        What calls it off.
    """
    thread = threading.get_ident()
    collects = False

    def note(phase: str, info: Mapping[str, int]) -> None:
        nonlocal collects
        collects = phase == "start"

    def end() -> None:
        gc.callbacks.remove(note)
        if not collects and threading.get_ident() == thread:
            act()

    def call_off() -> None:
        if finalizer.detach() is not None:
            gc.callbacks.remove(note)

    gc.callbacks.append(note)
    finalizer = weakref.finalize(owner, end)
    finalizer.atexit = False
    return call_off
