"""The whole product of which `tests/callbacks/test_failed_fit.py` runs a sample.

    python tests/fault_matrix.py

Lets a `fit` fail in every place, with every callback of ours and with all together,
once with the traceback kept and once with it dropped, in the environment that runs it.
Prints what is not as plain Keras leaves it, and how many cases were plain. It takes
some minutes, so it is no part of the suite.
"""

from __future__ import annotations

import gc
import itertools
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from plain import CALLBACKS, PLACES, failed_fit, problems

from keras_finetune._engine import backend, keras

# Where plain Keras on JAX has lost the weights that it gave to the step.
LOST = ("data", "step", "trace") if backend() == "jax" else ()
STAGED = ("GradualUnfreeze", "together")


def main() -> int:
    cases = [
        case
        for case in itertools.product(CALLBACKS, PLACES, ("kept", "dropped"))
        if case[1] not in LOST
    ]
    wrong = 0
    for name, place, traceback in cases:
        gc.disable()  # plain at once, not after a collection
        model, users, error = failed_fit(place, CALLBACKS[name](), KeyboardInterrupt)
        if traceback == "dropped":
            error = None
        stage = PLACES[place] if name in STAGED else None
        found = problems(model, users, error, place, stage)
        if found:
            wrong += 1
            print(f"{name}, {place}, traceback {traceback}: {found}", flush=True)
        del model, users, error
        gc.enable()
        gc.collect()
    print(
        f"{keras.__name__} {keras.__version__}, {backend()}: "
        f"{len(cases) - wrong} of {len(cases)} plain"
    )
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
