"""The largest difference from fine-tuning by hand, for each feature, in this lane.

    python tests/exactness.py [--kills 25] [--write FOLDER]
    python tests/exactness.py --table FOLDER

The first form runs in the environment of one lane, prints a row, and keeps it in
FOLDER. The second prints all kept rows as the table of the documentation. What is
compared with what is said in `tests/reference.py`, `tests/killed_run.py` and
`tests/distribution/run.py`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE / "callbacks")]

COLUMNS = {
    "lane": "lane",
    "stages": "stages",
    "rates": "rates, eager",
    "rates_compiled": "rates, compiled",
    "both": "stages and rates, eager",
    "mixed_precision": "mixed precision",
    "distribution": "several devices",
    "resume": "resume",
    "kills": "kills survived",
}


def stages(names):
    """`GradualUnfreeze` against a new optimizer with the old state at each stage."""
    import reference
    import test_gradual_unfreeze_exact as exact

    found = 0.0
    for name in names or exact.EVERY:
        one, other = exact.ours(exact.EVERY[name]), exact.by_hand(exact.EVERY[name])
        for look in (reference.weights, reference.optimizer_state):
            found = max(found, reference.difference(look(one), look(other)))
    return found


def mixed_precision():
    """The stages with half precision and loss scaling."""
    from keras_finetune._engine import keras

    keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        return stages(["adam"])
    finally:
        keras.mixed_precision.set_global_policy("float32")


def rates(eager):
    """`DiscriminativeLR` against one optimizer a group, in a loop by hand."""
    import test_discriminative_lr_exact as exact

    models = [
        (
            exact.ours(exact.EVERY[name](), compile_args={"run_eagerly": eager}),
            exact.by_hand(exact.EVERY[name]),
        )
        for name in ("momentum", "adam", "adamw", "rmsprop")
    ]
    return max(far(*pair) for pair in models)


def both():
    """Both callbacks, in both orders, against that loop."""
    import test_discriminative_lr_exact as exact

    name = exact.NAMES[0]
    expected = exact.by_hand_in_stages(name)
    models = [
        exact.ours_in_stages(name, first, eager=True)[0] for first in (True, False)
    ]
    return max(far(model, expected) for model in models)


def far(model, expected):
    """The largest difference of a model's weights and slots from those expected."""
    import reference
    import test_discriminative_lr_exact as exact

    other, state = expected
    return max(
        reference.difference(reference.weights(model), reference.weights(other)),
        reference.difference(exact.trained_slots(model), state),
    )


def distribution():
    """Several devices against one."""
    run = [sys.executable, str(HERE / "distribution" / "run.py"), "--json"]
    said = subprocess.run(run, capture_output=True, text=True, check=True).stdout
    return json.loads(said.splitlines()[-1])["max_difference"]


def resume(kills):
    """Runs that are killed at random moments against one that is not."""
    import killed_run

    found = 0.0
    share = -(-kills // len(killed_run.CHAINS))
    for seed, (callback, backup) in enumerate(killed_run.CHAINS):
        with tempfile.TemporaryDirectory() as folder:
            rng = np.random.default_rng(1000 + seed)
            ends = killed_run.chains(Path(folder), rng, share, callback, backup)
            whole = np.load(Path(folder, "whole.npz"))
            for end in map(np.load, ends):
                for name in whole.files:
                    rest = whole[name][-len(end[name]) :] if "log/" in name else None
                    expected = whole[name] if rest is None else rest
                    gap = np.abs(np.asarray(end[name], "f8") - expected)
                    found = max(found, float(np.max(gap, initial=0.0)))
    return found, share * len(killed_run.CHAINS)


def measure(kills):
    from keras_finetune._engine import backend, keras

    row = {"lane": f"{keras.__name__} {keras.__version__}, {backend()}"}
    row["stages"] = stages(None)
    row["rates"] = rates(eager=True)
    row["rates_compiled"] = rates(eager=False)
    row["both"] = both()
    row["mixed_precision"] = mixed_precision()
    row["distribution"] = distribution()
    row["resume"], row["kills"] = resume(kills)
    return row


def cell(value):
    if isinstance(value, float):
        return f"{value:.1e}" if value else "0"
    return str(value)


def table(folder):
    rows = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    body = [[cell(row[name]) for name in COLUMNS] for row in rows]
    body = [list(COLUMNS.values()), ["---"] * len(COLUMNS), *body]
    return "\n".join(f"| {' | '.join(row)} |" for row in body)


def main(arguments):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=25)
    parser.add_argument("--write", type=Path)
    parser.add_argument("--table", type=Path)
    options = parser.parse_args(arguments)
    if options.table:
        print(table(options.table))
        return
    row = measure(options.kills)
    text = json.dumps(row, indent=1)
    print(text)
    if options.write:
        options.write.mkdir(parents=True, exist_ok=True)
        name = row["lane"].replace(", ", "-").replace(" ", "-")
        (options.write / f"{name}.json").write_text(text + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
