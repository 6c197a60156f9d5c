"""The random generators of a process, to be put back.

Data may come through a framework that is not the backend of Keras, so that each
framework that is loaded is asked.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from typing import Any

import numpy as np


def global_states() -> Callable[[], None]:
    """Return what puts Python's, NumPy's and the frameworks' generators back."""
    python, numpy = random.getstate(), np.random.get_state()
    others = [
        note(sys.modules[name])
        for name, note in (("tensorflow", _tensorflow), ("torch", _torch))
        if name in sys.modules
    ]

    def put_back() -> None:
        random.setstate(python)
        np.random.set_state(numpy)
        for other in others:
            other()

    return put_back


def _tensorflow(tf: Any) -> Callable[[], None]:
    from tensorflow.python.eager import context
    from tensorflow.python.ops import stateful_random_ops

    # What eager operations without a seed of their own draw it from.
    eager = context.context()
    operations = getattr(eager, "_rng", None)
    drawn = None if operations is None else operations.getstate()
    generator = stateful_random_ops.global_generator
    state = None if generator is None else generator.state.numpy()

    def put_back() -> None:
        stateful_random_ops.global_generator = generator
        if generator is not None:
            generator.state.assign(state)
        if operations is not None and operations.getstate() != drawn:
            operations.setstate(drawn)
            begin_operations_again()

    return put_back


def begin_operations_again() -> None:
    """Let eager operations of TensorFlow that get a seed again begin again.

    They are kept under their seed, with how far they have drawn.
    """
    from tensorflow.python.eager import context

    context.context().clear_kernel_cache()


def _torch(torch: Any) -> Callable[[], None]:
    cpu = torch.get_rng_state()
    devices = [
        device
        for device in (torch.cuda, torch.mps)
        if device.is_available() and getattr(device, "is_initialized", lambda: True)()
    ]
    states = [_of_device(device) for device in devices]

    def put_back() -> None:
        torch.set_rng_state(cpu)
        for state in states:
            state()

    return put_back


def _of_device(device: Any) -> Callable[[], None]:
    if hasattr(device, "get_rng_state_all"):
        states = device.get_rng_state_all()
        return lambda: device.set_rng_state_all(states)
    state = device.get_rng_state()
    return lambda: device.set_rng_state(state)
