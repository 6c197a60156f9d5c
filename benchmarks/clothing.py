"""Which way of fine-tuning wins on a real task, at which rate, and in how long.

    python benchmarks/clothing.py --json benchmarks/results/clothing.json

SqueezeNet from ImageNet on photographs of clothes (see _clothing.py), a few images of
each of ten classes, 18 epochs in batches of 32 with Adam. Every arm is tried at several
base rates on the first seed; the two rates with the best validation accuracy there are
then trained on the other seeds, and what is reported is the rate that is best on all
validation images. Test images are looked at once, for the table.

What has been measured stays in the file, fit by fit: a run that was interrupted goes
on, and `--arm`, `--per-class` and `--seeds` add to it. `seconds` is by the clock, with
nothing else running if the machine was quiet; `processor_seconds` counts all threads.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

import numpy as np
from _clothing import EPOCHS, compiled, run

from keras_finetune import (
    DiscriminativeLR,
    FeatureCache,
    GradualUnfreeze,
    fine_tune,
)

RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
HEAD_EPOCHS = EPOCHS // 3


def everything(model, fit, rate):
    fit(compiled(model, rate), EPOCHS)


def head_only(model, fit, rate):
    for layer in model.layers[:-1]:
        layer.trainable = False
    fit(compiled(model, rate), EPOCHS)


def two_fits(model, fit, rate):
    """Keras by hand: the head, then all at a tenth of the rate."""
    for layer in model.layers[:-1]:
        layer.trainable = False
    fit(compiled(model, rate), HEAD_EPOCHS)
    for layer in model.layers:
        layer.trainable = True
    fit(compiled(model, rate / 10), EPOCHS - HEAD_EPOCHS)


def with_callbacks(make):
    def arm(model, fit, rate):
        fit(compiled(model, rate), EPOCHS, make())

    return arm


ARMS = {
    "everything at one rate": everything,
    "head only": head_only,
    "two fits by hand": two_fits,
    "GradualUnfreeze()": with_callbacks(lambda: [GradualUnfreeze()]),
    "DiscriminativeLR()": with_callbacks(lambda: [DiscriminativeLR()]),
    "both": with_callbacks(lambda: [GradualUnfreeze(), DiscriminativeLR()]),
    "both, FeatureCache()": with_callbacks(
        lambda: [GradualUnfreeze(), DiscriminativeLR(), FeatureCache(verbose=0)]
    ),
    **{
        f"fine_tune, {name}": with_callbacks(
            lambda name=name: fine_tune(EPOCHS, recipe=name)
        )
        for name in ("lp-ft", "ulmfit", "layer-decay", "fastai")
    },
}


def measure(records, path, arms, per_class, seeds, rates):
    """Add what is missing to the records, and write them after each fit."""
    for name in arms:
        chosen = rates
        for i, seed in enumerate(seeds):
            if i == 1:
                chosen = best_rates(records, name, per_class, seeds[0])
            for rate in chosen:
                key = {"per_class": per_class, "arm": name, "rate": rate, "seed": seed}
                if any(key.items() <= record.items() for record in records):
                    continue
                record = {**key, **run(ARMS[name], per_class, rate, seed)}
                print(record, flush=True)
                records.append(record)
                if path:
                    path.write_text(json.dumps(records, indent=1) + "\n")


def best_rates(records, arm, per_class, seed, count=2):
    """The rates with the best validation accuracy on one seed."""
    found = [
        (r["validation"], r["rate"])
        for r in records
        if (r["arm"], r["per_class"], r["seed"]) == (arm, per_class, seed)
    ]
    return [rate for _, rate in sorted(found, reverse=True)[:count]]


def table(records):
    """Rows of a Markdown table: each arm at the rate that is best on validation."""
    for per_class in sorted({r["per_class"] or 0 for r in records}):
        some = [r for r in records if (r["per_class"] or 0) == per_class]
        size = f"{per_class or 'all'} a class"
        yield f"| {size} | rate | validation | test | seconds | fits |"
        yield "|---|---|---|---|---|---|"
        for arm in dict.fromkeys(r["arm"] for r in some):
            of_arm = [r for r in some if r["arm"] == arm]
            rates = {
                r["rate"]: [s for s in of_arm if s["rate"] == r["rate"]] for r in of_arm
            }
            most = max(map(len, rates.values()))
            rates = {rate: rs for rate, rs in rates.items() if len(rs) == most}
            best = max(rates, key=lambda rate: mean(rates[rate], "validation")[0])
            chosen = rates[best]
            cells = [
                f"{best:g}",
                "{:.3f} ± {:.3f}".format(*mean(chosen, "validation")),
                "{:.3f} ± {:.3f}".format(*mean(chosen, "test")),
                "{:.0f}".format(mean(chosen, "processor_seconds")[0]),
                str(len(chosen)),
            ]
            yield f"| {arm} | " + " | ".join(cells) + " |"
        yield ""


def mean(records, key):
    values = [record[key] for record in records]
    error = np.std(values, ddof=1) / math.sqrt(len(values)) if values[1:] else np.nan
    return float(np.mean(values)), float(error)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--arm", choices=ARMS, action="append")
    parser.add_argument("--per-class", type=int, default=20, help="0 for all")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rates", type=float, nargs="+", default=RATES)
    parser.add_argument("--table", action="store_true", help="only print the table")
    arguments = parser.parse_args()
    path = arguments.json
    records = json.loads(path.read_text()) if path and path.is_file() else []
    if not arguments.table:
        measure(
            records,
            path,
            arguments.arm or ARMS,
            arguments.per_class or None,
            range(arguments.seeds),
            arguments.rates,
        )
    print("\n".join(table(records)))


if __name__ == "__main__":
    main()
