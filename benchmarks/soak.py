"""Many fits in one process: does memory grow, do traces accumulate?

    python benchmarks/soak.py [fits]

Fits one small model again and again (200 times by default) with `GradualUnfreeze`,
three stages of an epoch each, and `DiscriminativeLR`. Printed are the resident memory
after the tenth and after the last fit, and how many graphs of TensorFlow, or compiled
functions of JAX, are alive then.
"""

from __future__ import annotations

import gc
import os
import sys

import numpy as np

from keras_finetune import DiscriminativeLR, GradualUnfreeze
from keras_finetune._engine import backend, keras


def resident() -> int:
    """The resident memory of this process in bytes."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def living_traces() -> int:
    """How many traced functions the garbage collector can still find."""
    gc.collect()
    names = ("FuncGraph", "PjitFunction")
    return sum(type(thing).__name__ in names for thing in gc.get_objects())


def main() -> None:
    fits = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    layers = keras.layers
    dense = [layers.Dense(8, name=name) for name in ("low", "middle", "head")]
    model = keras.Sequential([keras.Input((8,)), *dense])
    model.compile("adam", "mse")
    x = np.ones((8, 8), "float32")
    found = []
    for fit in range(fits):
        callbacks = [GradualUnfreeze(["low", "middle", "head"]), DiscriminativeLR()]
        model.fit(x, x, epochs=3, verbose=0, callbacks=callbacks)
        found.append((resident(), living_traces()))
        if fit + 1 in (1, 10, 50, 100, 150, fits):
            memory, traces = found[-1]
            print(
                f"fit {fit + 1}: {memory / 2**20:.1f} MiB, {traces} traces", flush=True
            )
    grown = found[-1][0] / found[min(9, fits - 1)][0] - 1
    print(f"{backend()}, Keras {keras.__version__}: {grown:+.2%} after the tenth fit")


if __name__ == "__main__":
    main()
