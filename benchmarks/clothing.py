"""Which way of fine-tuning wins on a real task, at which rate, and in how long.

    python benchmarks/clothing.py --json benchmarks/results/clothing.json

SqueezeNet from ImageNet on photographs of clothes (see _clothing.py), a few images of
each of ten classes, 18 epochs in batches of 32 with Adam, over a grid of base rates
(see _grid.py). With all photographs (`--per-class 0`) a fit of 18 epochs takes some 25
minutes of a core; `--epochs` asks for fewer. Rates are chosen on validation images;
test images are for the tables only. `seconds` is by the clock, with nothing else
running if the machine was quiet; `processor_seconds`, which the tables show, counts all
threads.
"""

from __future__ import annotations

import functools
from pathlib import Path

import _grid
import _tables
from _clothing import BATCH, EPOCHS, compiled, run
from matplotlib.figure import Figure

from keras_finetune import (
    DiscriminativeLR,
    FeatureCache,
    FlatCosine,
    GradualUnfreeze,
    find_learning_rate,
    fine_tune,
)

RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)


def everything(model, fit, rate, epochs):
    fit(compiled(model, rate), epochs)


def head_only(model, fit, rate, epochs):
    for layer in model.layers[:-1]:
        layer.trainable = False
    fit(compiled(model, rate), epochs)


def two_fits(model, fit, rate, epochs):
    """Keras by hand: the head, then all at a tenth of the rate."""
    head_epochs = round(epochs / 3)
    for layer in model.layers[:-1]:
        layer.trainable = False
    fit(compiled(model, rate), head_epochs)
    for layer in model.layers:
        layer.trainable = True
    fit(compiled(model, rate / 10), epochs - head_epochs)


def with_callbacks(make):
    def arm(model, fit, rate, epochs):
        fit(compiled(model, rate), epochs, make(epochs))

    return arm


def found(model, fit, rate, epochs):
    """`fine_tune`, each stage at the rate that a search suggests; nothing to choose."""
    stages = find_learning_rate(
        compiled(model, 1e-3),
        fit.x,
        fit.y,
        callbacks=fine_tune(epochs),
        batch_size=BATCH,
        stage="each",
    )
    rates = [stage.suggestion or 1e-3 for stage in stages]
    callbacks = [*fine_tune(epochs, rates=rates), FeatureCache(verbose=0)]
    fit(compiled(model, rates[0]), epochs, callbacks)


ARMS = {
    "everything at one rate": everything,
    "head only": head_only,
    "two fits by hand": two_fits,
    "stages": with_callbacks(lambda _: [GradualUnfreeze(), FeatureCache(verbose=0)]),
    "rates": with_callbacks(lambda _: [DiscriminativeLR()]),
    "stages and rates": with_callbacks(
        lambda _: [GradualUnfreeze(), DiscriminativeLR(), FeatureCache(verbose=0)]
    ),
    "two stages and rates": with_callbacks(
        lambda _: [
            GradualUnfreeze(2, every=1),
            DiscriminativeLR(groups=5),
            FeatureCache(verbose=0),
        ]
    ),
    "stages and rates, counted by group": with_callbacks(
        lambda _: [
            GradualUnfreeze(bias_correction="group"),
            DiscriminativeLR(),
            FeatureCache(verbose=0),
        ]
    ),
    "stages, rates and a cosine": with_callbacks(
        lambda _: [
            GradualUnfreeze(),
            DiscriminativeLR(),
            FlatCosine(0.5),
            FeatureCache(verbose=0),
        ]
    ),
    "fine_tune": with_callbacks(fine_tune),
    "fine_tune, fastai": with_callbacks(lambda n: fine_tune(n, recipe="fastai")),
}
FOUND = {"fine_tune, rates found": found}


PLAIN = ("#2f3b4a", "#71849a", "#8a5fa8", "#3d8b8b")
OURS = ("stages and rates", "fine_tune", *FOUND)
# Of which only the tables tell.
PARTS = (
    *("stages", "rates", "two stages and rates"),
    *("stages and rates, counted by group", "stages, rates and a cosine"),
)


def draw(records, size):
    """Accuracy against the base rate, and against seconds at the rate chosen."""
    figure = Figure((9, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(5, 3))
    plain = iter(PLAIN)
    drawn = [one for one in _tables.chosen(records) if one[0] not in PARTS]
    for i, (way, rate, some) in enumerate(drawn):
        style = {
            "color": "#d9690f" if way in OURS else next(plain),
            "marker": "osD^vXP"[i],
        }
        value, error = _tables.mean(some, "test")
        if rate is None:
            left.axhline(value, color=style["color"], linestyle="--", label=way)
        else:
            of_first = [r for r in records if (r["arm"], r["seed"]) == (way, 0)]
            points = sorted((r["rate"], r["test"]) for r in of_first)
            left.plot(*zip(*points, strict=True), label=way, **style)
        seconds = _tables.mean(some, "processor_seconds")[0]
        right.errorbar(seconds, value, error, capsize=3, ls="", **style)
    left.set_xscale("log")
    left.set_xlim(6e-5, 1.5)  # room for the legend
    left.set_xlabel("base learning rate (dashed: at the rates found)")
    left.legend(loc="lower right", fontsize=8)
    left.set_ylabel("test accuracy")
    left.set_ylim(0, 0.8)
    right.set_xlim(0)
    right.set_xlabel("seconds of processor, at the rate chosen")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.3)
    title = f"SqueezeNet, {size or 'all'} photographs of clothes a class"
    figure.suptitle(title, x=0.01, ha="left")
    return figure


def main():
    parser = _grid.parser(__doc__, [*FOUND, *ARMS], RATES)
    parser.add_argument("--figure", type=Path, help="where to draw this size")
    parser.add_argument("--per-class", type=int, default=20, help="0 for all")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    arguments = parser.parse_args()
    records = _grid.load(arguments.json)
    per_class = arguments.per_class or None
    case = {"per_class": per_class, "epochs": arguments.epochs}

    def fits(arms, rates):
        """Measure some ways."""

        def trained(name, rate, seed):
            arm = functools.partial(arms[name], epochs=arguments.epochs)
            return run(arm, per_class, rate, seed)

        chosen = [name for name in arms if name in (arguments.arm or arms)]
        _grid.measure(
            records, arguments.json, case, chosen, trained, arguments.seeds, rates
        )

    if not arguments.table:
        fits(FOUND, [None])
        fits(ARMS, arguments.rates)
    for size in dict.fromkeys(record["per_class"] for record in records):
        some = _tables.of_size(records, size)
        print(f"{size or 'all'} images a class\n")
        print(_tables.ways(some), _tables.by_rate(some), sep="\n\n", end="\n\n")
        if arguments.figure and size == per_class:
            draw(some, size).savefig(arguments.figure, dpi=120)


if __name__ == "__main__":
    main()
