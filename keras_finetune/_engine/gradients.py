"""What TensorFlow keeps, and says, of steps that are traced at each stage."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

_PREFIX = "CustomGradient-"


def traced_on_purpose(step: Callable[..., Any]) -> Callable[..., Any]:
    """Keep TensorFlow from warning that a step is traced often: once a stage."""
    if hasattr(step, "get_concrete_function"):  # else it runs eagerly
        step._omit_frequent_tracing_warning = True  # type: ignore[attr-defined]
    return step


@contextmanager
def forgotten() -> Iterator[None]:
    """Let go of the gradients that are registered while a step is traced.

    Keras's step sums gradients over replicas (also over one), and TensorFlow registers
    the gradient of that sum under a new name indefinitely, and with it the whole graph:
    megabytes a trace. A finished training step is never differentiated.
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
