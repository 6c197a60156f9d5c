"""Fine-tunes a pre-trained network in four ways, at two base learning rates.

The rate is what a user does not know, so each way is tried at a careful base rate for
Adam and at one ten times as high. Three of the ways are plain Keras; the fourth has the
callbacks of this package, with their defaults.

    python examples/fine_tune.py                  # scikit-learn's handwritten digits
    python examples/fine_tune.py --data FOLDER    # SqueezeNet, photographs of clothes

For the photographs the folder needs two files: docs/demo.md says how to get them, and
how the settings were chosen. Runs on Keras 3, Keras 2.15 and tf_keras alike.
"""

from __future__ import annotations

import argparse
import logging
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from tasks import Task, digits, keras, photographs

from keras_finetune import DiscriminativeLR, FeatureCache, GradualUnfreeze

# --- the four ways -------------------------------------------------------------------

# `fit(model, epochs, callbacks)` is `model.fit` on the images of the task.
Fit = Callable[..., None]


def compile_model(model: keras.Model, rate: float) -> None:
    """Compile as any Keras user would: nothing here is of this package."""
    model.compile(
        optimizer=keras.optimizers.Adam(rate),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )


def everything(model: keras.Model, rate: float, epochs: int, fit: Fit) -> None:
    """All layers from the first step."""
    compile_model(model, rate)
    fit(model, epochs)


def head_only(model: keras.Model, rate: float, epochs: int, fit: Fit) -> None:
    """The pre-trained body stays as it is."""
    for layer in model.layers[:-1]:
        layer.trainable = False
    compile_model(model, rate)
    fit(model, epochs)


def two_fits(model: keras.Model, rate: float, epochs: int, fit: Fit) -> None:
    """The head for a third of the epochs, then everything at a tenth of the rate."""
    frozen = epochs // 3
    head_only(model, rate, frozen, fit)
    for layer in model.layers:
        layer.trainable = True
    compile_model(model, rate / 10)
    fit(model, epochs - frozen)


def ours(model: keras.Model, rate: float, epochs: int, fit: Fit) -> None:
    """One fit: in stages, with a rate for each group, frozen layers computed once."""
    compile_model(model, rate)
    fit(model, epochs, [GradualUnfreeze(), DiscriminativeLR(), FeatureCache(verbose=0)])


OURS = "ours, one fit"
WAYS = {
    "everything, one rate": everything,
    "head only": head_only,
    "two fits by hand": two_fits,
    OURS: ours,
}


# --- the comparison ------------------------------------------------------------------


class Results:
    """The test accuracy and the seconds of each fit, by way and rate."""

    def __init__(self, task: Task, tested: int) -> None:
        self.rates = task.rates
        self.tested = tested
        self.fits = {(way, rate): [] for way in WAYS for rate in task.rates}

    def accuracy(self, way: str, rate: float) -> float:
        """The mean over the seeds."""
        return float(np.mean([accuracy for accuracy, _ in self.fits[way, rate]]))

    def variance(self, way: str, rate: float) -> float:
        """Of that mean: from the number of test images, and between the seeds."""
        found = [accuracy for accuracy, _ in self.fits[way, rate]]
        mean = np.mean(found)
        between = np.var(found, ddof=1) / len(found) if len(found) > 1 else 0.0
        return float(mean * (1 - mean) / self.tested + between)

    def best_rate(self, way: str) -> float:
        """The rate with the higher accuracy."""
        return max(self.rates, key=lambda rate: self.accuracy(way, rate))

    def seconds(self, way: str) -> float:
        """The mean over seeds and rates."""
        return float(
            np.mean([s for rate in self.rates for _, s in self.fits[way, rate]])
        )


def compare(task: Task) -> Results:
    """Fine-tune in every way, at every rate, on every seed."""
    total, done = task.seeds * len(task.rates) * len(WAYS), 0
    for seed in range(task.seeds):
        train, test = task.split(seed)
        if seed == 0:
            results = Results(task, len(test[1]))
            print(f"{task.name}:")
            print(f"{len(train[1])} to train on, {len(test[1])} to test on.\n")
        for rate in task.rates:
            for way in WAYS:
                found = run(task, way, rate, seed, train, test)
                results.fits[way, rate].append(found)
                done += 1
                print(
                    f"{done:>2} of {total}: {way}, {rate:g}: {found[1]:.0f} s",
                    flush=True,
                )
    return results


def run(task, way, rate, seed, train, test) -> tuple[float, float]:
    """Fine-tune once; return the test accuracy and the seconds of training."""
    keras.backend.clear_session()
    keras.utils.set_random_seed(seed)
    model = task.network()
    x, y = train

    def fit(model, epochs, callbacks=()):
        model.fit(
            x,
            y,
            batch_size=task.batch_size,
            epochs=epochs,
            verbose=0,
            callbacks=list(callbacks),
        )

    start = time.perf_counter()
    WAYS[way](model, rate, task.epochs, fit)
    seconds = time.perf_counter() - start
    x, y = test
    scores = model.predict(x, batch_size=128, verbose=0)
    return float(np.mean(np.argmax(scores, axis=-1) == y)), seconds


# --- what came out -------------------------------------------------------------------


def table(results: Results) -> str:
    """Accuracies at both rates, and seconds."""
    rates = "".join(f"{f'rate {rate:g}':>14}" for rate in results.rates)
    lines = [f"{'test accuracy':<22}{rates}{'seconds a fit':>16}"]
    for way in WAYS:
        cells = [f"{results.accuracy(way, rate):>14.2f}" for rate in results.rates]
        lines.append(f"{way:<22}{''.join(cells)}{results.seconds(way):>16.1f}")
    return "\n".join(lines)


def gained(results: Results) -> str:
    """Say in one sentence what the numbers show, whatever they show."""

    def compared(ours: float, way: str, rate: float) -> str:
        gain = results.accuracy(OURS, ours) - results.accuracy(way, rate)
        variance = results.variance(OURS, ours) + results.variance(way, rate)
        if abs(gain) <= 2 * np.sqrt(variance):
            return "not clearly different from"
        return f"{100 * abs(gain):.0f} points {'better' if gain > 0 else 'worse'} than"

    def best(way: str) -> float:
        return results.accuracy(way, results.best_rate(way))

    plain, high = "everything, one rate", results.rates[1]
    rival = max((way for way in WAYS if way != OURS), key=best)
    at_best = compared(results.best_rate(OURS), rival, results.best_rate(rival))
    return (
        f"At the rate {high:g} ours is {compared(high, plain, high)} training "
        f"everything at one rate; with the better of both rates for each it is "
        f"{at_best} the best other way, {rival}, in {results.seconds(OURS):.0f} s "
        f"instead of {results.seconds(rival):.0f} s."
    )


def draw(results: Results, title: str) -> Figure:
    """Bars of the accuracies at both rates, and of the seconds."""
    figure = Figure((8.4, 3.4), layout="constrained")
    figure.suptitle(title)
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(5, 3))
    shades = {False: ("#b9c4d0", "#71849a"), True: ("#f5bf8f", "#d9690f")}
    for row, way in enumerate(WAYS):
        colors = shades[way == OURS]
        for k, rate in enumerate(results.rates):
            value, y = results.accuracy(way, rate), row + 0.4 * k - 0.2
            left.barh(y, value, 0.37, color=colors[k])
            label = f"{value:.2f}  at {rate:g}"
            left.text(value + 0.01, y, label, va="center", fontsize=8.5)
        value = results.seconds(way)
        right.barh(row, value, 0.5, color=colors[1])
        right.text(value, row, f" {value:.1f} s", va="center", fontsize=8.5)
    left.set_yticks(range(len(WAYS)), list(WAYS))
    left.invert_yaxis()
    left.set_xlim(0, 1)
    left.set_xlabel("test accuracy, by base learning rate")
    right.margins(x=0.2)
    right.set_xlabel("seconds of training")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
    return figure


def main(arguments: list[str] | None = None) -> None:
    """Run the comparison; print the table and write the figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="a folder with the photographs")
    parser.add_argument("--out", type=Path, default=Path("fine_tune.png"))
    chosen = parser.parse_args(arguments)
    # TensorFlow warns of each new model in a loop that it is traced.
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    report(photographs(chosen.data) if chosen.data else digits(), chosen.out)


def report(task: Task, out: Path) -> None:
    """Compare the ways on a task, and show what came out."""
    results = compare(task)
    print(f"\n{table(results)}\n")
    draw(results, task.name).savefig(out, dpi=120)
    print(f"Figure: {out}\n")
    print(textwrap.fill(gained(results), 79))


if __name__ == "__main__":
    main()
