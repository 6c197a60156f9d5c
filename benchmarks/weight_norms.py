"""What the norm of all weights costs: the compiled pass against an eager loop.

    python benchmarks/weight_norms.py [repetitions]

For MobileNetV2 and VGG19, untrained, on the backend that Keras runs on here, three
ways to read all trainable weights, in turn, so that a busy machine slows all three:
seed S4's eager loop (`total += reduce_sum(w**2)`), the pass of `WeightNormLogger`, and
NumPy's `max` over one array of as many bytes: a plain read of the same memory. Printed
are medians of the ratios of paired repetitions; seconds are those of this machine.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from keras_finetune._engine import backend, keras, session
from keras_finetune._engine.norms import WeightNorms, combine


def eager_loop(weights: list[Any]) -> float:
    """The Frobenius norm as in seed S4."""
    if hasattr(keras, "ops"):
        total_of = keras.ops.sum
    else:
        from tensorflow import reduce_sum as total_of
    total = 0.0
    for weight in weights:
        total = total + total_of(weight**2)
    return float(total) ** 0.5


def seconds(function: Callable[[], Any], at_least: float = 0.1) -> float:
    """Mean seconds of a call, over as many calls as fill `at_least` seconds."""
    function()
    calls = 0
    start = time.perf_counter()
    while (taken := time.perf_counter() - start) < at_least or not calls:
        function()
        calls += 1
    return taken / calls


def measure(name: str, repetitions: int) -> dict[str, float]:
    model = getattr(keras.applications, name)(weights=None)
    weights = session.training_variables(model)
    count = sum(int(np.prod(weight.shape)) for weight in weights)
    norms = WeightNorms(2, "norm")
    memory = np.ones(count, "float32")

    def compiled() -> float:
        return combine(norms.measure(weights)["norm"], 2)

    start = time.perf_counter()
    compiled()
    first = time.perf_counter() - start
    np.testing.assert_allclose(compiled(), eager_loop(weights), rtol=1e-4)
    rows = [
        (
            seconds(lambda: eager_loop(weights)),
            seconds(compiled),
            seconds(lambda: memory.max()),
        )
        for _ in range(repetitions)
    ]
    eager, ours, read = (
        statistics.median(column) for column in zip(*rows, strict=True)
    )
    against_loop = statistics.median(a / b for a, b, _ in rows)
    against_read = statistics.median(b / c for _, b, c in rows)
    print(
        f"{name}: {count:,} weights in {len(weights)} variables\n"
        f"  eager loop {eager * 1e3:8.1f} ms\n"
        f"  pass       {ours * 1e3:8.1f} ms (with its trace {first:.2f} s)\n"
        f"  plain read {read * 1e3:8.1f} ms\n"
        f"  eager loop / pass: {against_loop:.1f}\n"
        f"  pass / plain read: {against_read:.2f}"
    )
    return {"eager loop": eager, "pass": ours, "eager loop / pass": against_loop}


def main() -> None:
    repetitions = int(sys.argv[1]) if len(sys.argv) > 1 else 15
    print(f"{backend()}, Keras {keras.__version__}, {repetitions} repetitions")
    for name in ("MobileNetV2", "VGG19"):
        measure(name, repetitions)


if __name__ == "__main__":
    main()
