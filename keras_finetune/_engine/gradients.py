"""What TensorFlow keeps of a traced step, and need not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice

_PREFIX = "CustomGradient-"


@contextmanager
def forgotten() -> Iterator[None]:
    """Lets go of the gradients that are registered while a step is traced.

    Keras's step sums gradients over replicas (also over one), and TensorFlow registers
    the gradient of that sum under a new name for ever, and with it the whole graph:
    megabytes a trace. Nobody differentiates a finished training step.
    """
    from tensorflow.python.framework import ops

    known = ops.gradient_registry._registry
    before = len(known)
    try:
        yield
    finally:
        for name in list(islice(reversed(known), len(known) - before)):
            if name.startswith(_PREFIX):
                del known[name]
