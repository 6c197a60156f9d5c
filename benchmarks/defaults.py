"""Which defaults are good ones: the grid by which ours were chosen.

    python benchmarks/defaults.py --json benchmarks/results/defaults.json

`GradualUnfreeze()` and `DiscriminativeLR()` without arguments have to choose how far
below the head the body trains, into how many groups the model is divided, and how soon
everything trains. Each choice is tried at several base rates, on clothes (20 images a
class) and on scikit-learn's digits (20 a class, a network that has learned 0 to 4), by
the accuracy on validation images and on seeds that no other table has. One choice is
varied at a time, the others as in the first row.

What has been measured stays in the file: a run that was interrupted goes on.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import _clothing
import _transfer
import numpy as np
from _tables import defaults as table

from keras_finetune import DiscriminativeLR, FeatureCache, GradualUnfreeze
from keras_finetune._engine import keras
from keras_finetune._schedule import epochs as schedule

SEEDS = (100, 101)
RATES = {"clothes": (3e-3, 1e-2, 1e-3), "digits": (3e-3, 1e-2, 3e-2, 1e-1)}
FIRST = {"body": (0.01, 0.1), "groups": 5, "share": 0.5}
CHOICES = [
    FIRST,
    {**FIRST, "body": (0.03, 0.3)},
    {**FIRST, "share": 0.25},
    {**FIRST, "body": (0.1, 1.0)},
    {**FIRST, "body": (0.1, 0.1)},
    {**FIRST, "groups": 3},
    {**FIRST, "body": (1.0, 1.0)},
    {**FIRST, "groups": 2},
    {**FIRST, "share": 0.75},
    # What else there is: the head alone, and everything from the first step.
    {"body": (0.0, 0.0), "groups": 2, "share": 0.0},
    {"body": (0.01, 0.1), "groups": 5, "share": 0.0},
    {"body": (1.0, 1.0), "groups": 2, "share": 0.0},
]


def arm(choice, groups_of, epochs):
    """The callbacks of one choice, spelled out."""

    def run(model, fit, rate):
        groups = min(choice["groups"], groups_of)
        multipliers = schedule.body_and_head(*choice["body"], groups)
        if choice["body"] == (0.0, 0.0):
            multipliers = [0.0] * (groups - 1) + [1.0]
        callbacks = [DiscriminativeLR(multipliers=multipliers, log=False)]
        if choice["share"]:
            starts = schedule.spread(groups - 1, epochs, choice["share"])
            callbacks.append(GradualUnfreeze(groups, every=starts[1:]))
        # The same weights, bit for bit, in less time.
        callbacks.append(FeatureCache(frozen_mode="training", verbose=0))
        _clothing.compiled(model, rate)
        fit(model, epochs, callbacks)

    return run


def on_clothes(choice, rate, seed):
    run = arm(choice, 5, _clothing.EPOCHS)
    return _clothing.run(run, 20, rate, seed)["validation"]


def on_digits(choice, rate, seed):
    old, found = _transfer.split(*_transfer.digits(), seed, (20,), 400, 200)
    weights = on_digits.weights.setdefault(seed, None)
    if weights is None:
        weights = on_digits.weights[seed] = _transfer.pretrained(*old, seed)
    (x, y), validation, _ = found[20]
    keras.backend.clear_session()
    keras.utils.set_random_seed(seed)
    model = _transfer.network(x.shape[1:])
    model.set_weights(weights)

    def fit(model, epochs, callbacks):
        batch = len(x) // _transfer.STEPS
        model.fit(x, y, batch_size=batch, epochs=epochs, verbose=0, callbacks=callbacks)

    arm(choice, 4, _transfer.EPOCHS)(model, fit, rate)
    scores = model.predict(validation[0], batch_size=1000, verbose=0)
    return float(np.mean(np.argmax(scores, -1) == validation[1]))


on_digits.weights = {}


def words(choice):
    low, high = choice["body"]
    body = f"body at {low:g} to {high:g}" if low != high else f"body at {low:g}"
    stages = (
        f"all train after {choice['share']:.0%}" if choice["share"] else "no stages"
    )
    return f"{body}, {choice['groups']} groups, {stages}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--task", choices=RATES, action="append")
    arguments = parser.parse_args()
    path = arguments.json
    records = json.loads(path.read_text()) if path and path.is_file() else []
    done = {(r["task"], r["choice"], r["rate"], r["seed"]) for r in records}
    scorers = {"clothes": on_clothes, "digits": on_digits}
    for name in arguments.task or RATES:
        for seed in SEEDS:
            for rate in RATES[name]:
                for choice in CHOICES:
                    key = (name, words(choice), rate, seed)
                    if key in done:
                        continue
                    score = scorers[name](choice, rate, seed)
                    print(*key, f"{score:.3f}", flush=True)
                    fields = ("task", "choice", "rate", "seed")
                    records.append({**dict(zip(fields, key)), "validation": score})
                    if path:
                        path.write_text(json.dumps(records, indent=1) + "\n")
    for name in arguments.task or RATES:
        print(table(records, name), end="\n\n")


if __name__ == "__main__":
    main()
