"""Which way of fine-tuning wins on a real task, at which rate, and in how long.

    python benchmarks/clothing.py --json benchmarks/results/clothing.json

SqueezeNet from ImageNet on photographs of clothes (see _clothing.py), a few images of
each of ten classes, 18 epochs in batches of 32 with Adam, over a grid of base rates
(see _grid.py). Rates are chosen on validation images; test images are for the tables
only. `seconds` is by the clock, with nothing else running if the machine was quiet;
`processor_seconds`, which the tables show, counts all threads.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import _grid
from _clothing import EPOCHS, compiled, run

from keras_finetune import (
    DiscriminativeLR,
    FeatureCache,
    GradualUnfreeze,
    fine_tune,
)

RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
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


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--arm", choices=ARMS, action="append")
    parser.add_argument("--per-class", type=int, default=20, help="0 for all")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--rates", type=float, nargs="+", default=RATES)
    parser.add_argument("--table", action="store_true", help="only print the tables")
    arguments = parser.parse_args()
    records = _grid.load(arguments.json)
    if not arguments.table:
        per_class = arguments.per_class or None
        _grid.measure(
            records,
            arguments.json,
            {"per_class": per_class},
            arguments.arm or ARMS,
            lambda arm, rate, seed: run(ARMS[arm], per_class, rate, seed),
            arguments.seeds,
            arguments.rates,
        )
    for size in dict.fromkeys(record["per_class"] for record in records):
        some = [record for record in records if record["per_class"] == size]
        print(f"{size or 'all'} images a class\n")
        print("\n".join([*_grid.table(some), "", *_grid.by_rate(some), ""]))


if __name__ == "__main__":
    main()
