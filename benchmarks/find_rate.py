"""Is the suggestion of `find_learning_rate` the rate that a grid would choose?

    python benchmarks/find_rate.py
    python benchmarks/find_rate.py --quick
    python benchmarks/find_rate.py --render

The tasks are those of the study of quality (see `_transfer.py`): networks trained on
the digits 0 to 4, fine-tuned on few images of 5 to 9, ten epochs of ten steps of Adam
under a slanted triangle whose peak is the rate in question; and SqueezeNet on 20
photographs of clothes a class (see `_clothing.py`), first its new head alone, in the
same way, and then both stages of `fine_tune(10)`, the second one at the rate in
question, after a head at 0.02. In every task and for every seed nine rates are tried,
each 2.4 times the one before: 3e-4 to 0.3, for all of SqueezeNet 1e-5 to 0.01. The best
of them has the highest accuracy on the images to choose by; rates that tie with it are
as good. Then the rates are searched for, on the images to train on only, and the
network is fine-tuned at what each rule suggests. A search trains on 100 batches at
rising rates, and reads them again without learning.

The rule "ours" was chosen on the seeds 1 to 4 by the accuracy on the images to choose
by, interpolated in the grid; the seeds of the table are others. `--again` tries kept
curves with rules that have changed.

Reported for each rule: in how many cases its rate lies within a factor of 3 of a best
one, and its accuracy on test images beside that of the rate which the grid has chosen,
as the mean over cases of the difference, with its standard error. `--quick` runs two
tasks with two seeds and keeps nothing. Results are kept in results/find_rate.json, case
by case: a run that was interrupted goes on. MNIST and the photographs come from the
folder in `KERAS_FINETUNE_DATA` (see `_data.py`).
"""

import argparse
import functools
import json
import time
from pathlib import Path

import _clothing
import _grid
import numpy as np
from _tables import best, find_rate
from _transfer import STEPS, compiled, network, pretrained, sources

from keras_finetune import (
    RateSearch,
    SlantedTriangular,
    find_learning_rate,
    fine_tune,
)
from keras_finetune._engine import backend, keras

RESULTS = Path(__file__).resolve().parent / "results" / "find_rate.json"
TASK = "clothes, 20 a class"
EPOCHS = 10
HEAD_RATE = 0.02
FIRST = 5  # of the seeds that are reported
QUICK = ("MNIST, 20 a class", "scikit-learn, 20 a class")


class Triangle(keras.callbacks.Callback):
    """A slanted triangle in plain Keras, set from outside before each step."""

    def __init__(self, rate, steps):
        super().__init__()
        self.rates = iter([rate * f for f in SlantedTriangular().factors(steps)])

    def on_train_batch_begin(self, batch, logs=None):
        self.model.optimizer.learning_rate = next(self.rates)


class OnDigits:
    """A network that has learned 0 to 4, on a few images of 5 to 9."""

    stage, callbacks = 0, ()
    grid = np.geomspace(3e-4, 0.3, 9).tolist()

    def __init__(self, weights, parts, seed):
        self.weights, self.parts, self.seed = weights, parts, seed
        self.batch_size = len(parts[0][0]) // STEPS

    def scores(self, rate):
        """Accuracy on the images to choose by, and on test images."""
        model, (x, y) = self._tried, self.parts[0]
        model.set_weights(self.weights)
        for variable in model.optimizer.variables:
            variable.assign(np.zeros(variable.shape))
        keras.utils.set_random_seed(self.seed)
        model.fit(
            x,
            y,
            batch_size=self.batch_size,
            epochs=EPOCHS,
            verbose=0,
            callbacks=[Triangle(rate, EPOCHS * STEPS)],
        )
        return [_grid.accuracy(model, *part) for part in self.parts[1:]]

    @functools.cached_property
    def _tried(self):
        """One model for all rates, compiled once, which is most of the time."""
        keras.backend.clear_session()
        model = self.model()
        model.optimizer.build(model.trainable_variables)
        return model

    def model(self):
        model = network(self.parts[0][0].shape[1:])
        model.set_weights(self.weights)
        return compiled(model, 1e-3)


class OnClothes:
    """SqueezeNet from ImageNet on photographs."""

    batch_size = _clothing.BATCH

    def __init__(self, per_class, seed):
        self.per_class, self.seed = per_class, seed
        self.parts = _clothing.task(per_class, seed)

    def model(self):
        return _clothing.compiled(_clothing.network(), 1e-3)

    def scores(self, rate):
        """Accuracy on the images to choose by, and on test images."""
        found = _clothing.run(self._train, self.per_class, rate, self.seed)
        return found["validation"], found["test"]


class TheHead(OnClothes):
    """The new head alone trains, under a triangle."""

    stage, callbacks = 0, fine_tune(EPOCHS)
    grid = OnDigits.grid

    @staticmethod
    def _train(model, fit, rate):
        for layer in model.layers[:-1]:
            layer.trainable = False
        fit(_clothing.compiled(model, rate), EPOCHS, [SlantedTriangular()])


class AfterTheHead(OnClothes):
    """Everything trains after the head, as in the second stage of `fine_tune`."""

    stage, callbacks = 1, fine_tune(EPOCHS)
    grid = np.geomspace(1e-5, 1e-2, 9).tolist()

    @staticmethod
    def _train(model, fit, rate):
        callbacks = fine_tune(EPOCHS, rates=[HEAD_RATE, rate])
        fit(_clothing.compiled(model, rate), EPOCHS, callbacks)


def search(on, steps):
    """What a search finds before the network is fine-tuned."""
    keras.backend.clear_session()
    keras.utils.set_random_seed(on.seed)
    model, (x, y) = on.model(), on.parts[0]
    start = time.perf_counter()
    found = find_learning_rate(
        model,
        x,
        y,
        callbacks=on.callbacks,
        stage=on.stage,
        batch_size=on.batch_size,
        steps=steps,
    )
    return found, time.perf_counter() - start


def case(task, on, steps):
    """One task with one seed: the grid, the search, and what was suggested."""
    grid = [[rate, *on.scores(rate)] for rate in on.grid]
    found, seconds = search(on, steps)
    tried = {r: [rate, *on.scores(rate)] for r, rate in found.suggestions.items()}
    return {
        "task": task,
        "seed": on.seed,
        "steps": steps,
        "grid": grid,
        "suggested": tried,
        "reason": found.reason,
        "seconds": seconds,
        "rates": found.rates.tolist(),
        "losses": found.losses.tolist(),
        "baseline": found.baseline.tolist(),
    }


CLOTHES = {f"{TASK}, the head": TheHead, f"{TASK}, after the head": AfterTheHead}


def cases(seeds, wanted, clothes):
    """Task, and the network on it, for each case that is wanted."""
    for seed in seeds:
        for source, old, tasks in sources(seed):
            weights = None
            for n, parts in tasks.items():
                task = f"{source}, {n} a class"
                if wanted(task, seed):
                    if weights is None:
                        weights = pretrained(*old, seed)
                    yield task, OnDigits(weights, parts, seed)
        for task, kind in clothes.items():
            if wanted(task, seed):
                yield task, kind(20, seed)


def again(row, on):
    """Try what today's rules suggest for the curve of a kept case, where it is new."""
    found = RateSearch.of(
        row["rates"], row["losses"], row["baseline"], steps=row["steps"]
    )
    row["reason"] = found.reason
    row["suggested"] = {
        rule: row["suggested"][rule]
        if rule in row["suggested"] and np.isclose(rate, row["suggested"][rule][0])
        else [rate, *on.scores(rate)]
        for rule, rate in found.suggestions.items()
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--render", action="store_true", help="only print the table")
    parser.add_argument("--task", action="append", help="only this task")
    parser.add_argument("--again", action="store_true", help="kept curves, new rules")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    if options.render:
        print(find_rate(json.loads(options.out.read_text())))
        return
    kept = None if options.quick else options.out
    rows = json.loads(kept.read_text())["cases"] if kept and kept.is_file() else []
    done = {(row["task"], row["seed"]): row for row in rows}

    def wanted(task, seed):
        chosen = QUICK if options.quick else options.task
        known = (task, seed) in done
        return known == options.again and (not chosen or task in chosen)

    seeds = range(FIRST, FIRST + (2 if options.quick else options.seeds))
    for task, on in cases(seeds, wanted, CLOTHES):
        if options.again:
            row = done[task, on.seed]
            again(row, on)
        else:
            row = case(task, on, options.steps)
            rows.append(row)
        rates, accuracy = best(row["grid"])
        said = {
            rule: f"{v[0]:.2g} ({v[2]:.3f})" for rule, v in row["suggested"].items()
        }
        best_rates = [f"{rate:.2g}" for rate in rates]
        print(task, on.seed, "best", best_rates, f"{accuracy:.3f}", said, flush=True)
        if kept:
            lane = f"{keras.__name__} {keras.__version__}, {backend()}"
            kept.write_text(json.dumps({"lane": lane, "cases": rows}) + "\n")
    print(find_rate({"cases": rows}))


if __name__ == "__main__":
    main()
