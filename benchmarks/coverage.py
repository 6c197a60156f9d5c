"""Do 95 % intervals hold 95 % of the targets? Over many splits of three data sets.

    python benchmarks/coverage.py concrete yacht diabetes --splits 50

Each split trains on 60 % of the rows, keeps 20 % to fit the precision or to calibrate,
and counts on the last 20 %. Features and target are standardised on the training part.
The network is that of Gal & Ghahramani's experiment, one hidden layer of 50 ReLU units
with dropout before each weight layer, at one rate for all sets and without a search,
trained for a tenth of their 4,000 epochs at ten times their learning rate: the question
is whether intervals hold, not how narrow they can be made.

Coverage and mean width, in the target's own unit, of

- `credible`: `MCPrediction.credible_interval`, the interval of the function;
- `predictive`: `MCPrediction.predictive_interval` with `fit_precision`;
- `predictive, ensemble`: the same of a deep ensemble, `ensemble_predict`;
- `conformal`: `conformal_interval` of absolute residuals;
- `conformal, scaled`: of residuals over the spread of the Monte Carlo samples;
- `conformal, scaled, total`: of residuals over `sqrt(predictive_variance(tau))`, with
  `tau` from the training part, so that the held-out rows stay like new ones;
- `conformal, scaled, ensemble`: of residuals over the spread of the ensemble.

Training runs on TensorFlow, whose datasets feed many epochs in one go.
"""

import argparse
import json
import time
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from _data import load

from keras_finetune.uncertainty import (
    conformal_interval,
    ensemble_predict,
    fit_precision,
    interval_coverage,
    mc_predict,
)

LEVEL = 0.95
RATE = 0.05
RESULTS = Path(__file__).parent / "results" / "coverage.json"


def data_of(name):
    if name == "diabetes":
        from sklearn.datasets import load_diabetes

        return load_diabetes(return_X_y=True)
    arrays = load(f"uci_{name}.npz")
    return arrays["x"], arrays["y"]


class Trainer:
    """One compiled network that starts afresh for each fit: nothing is traced twice."""

    def __init__(self, features, epochs):
        self.features = features
        self.rounds = 10
        self.epochs = epochs // self.rounds
        self.model = self.network()
        self.model.compile(
            keras.optimizers.Adam(1e-2), "mse", steps_per_execution=self.epochs
        )

    def network(self):
        layers = keras.layers
        return keras.Sequential(
            [
                keras.Input((self.features,)),
                layers.Dropout(RATE),
                layers.Dense(50, activation="relu"),
                layers.Dropout(RATE),
                layers.Dense(1),
            ]
        )

    def fit(self, x, y, seed):
        keras.utils.set_random_seed(seed)
        self.model.set_weights(self.network().get_weights())
        optimizer = self.model.optimizer
        if optimizer.built:
            for variable in optimizer.variables:
                if variable.path != optimizer._learning_rate.path:
                    variable.assign(keras.ops.zeros_like(variable))
        data = tf.data.Dataset.from_tensor_slices((x, y)).cache()
        data = data.shuffle(len(x), seed=seed).batch(128)
        data = data.repeat(self.epochs).prefetch(64)
        self.model.fit(data, epochs=self.rounds, verbose=0)
        return self.model.get_weights()

    def at(self, several):
        """The model with one set of weights after another."""
        for weights in several:
            self.model.set_weights(weights)
            yield self.model


def standardised(x, y, train):
    mean, std = x[train].mean(axis=0), x[train].std(axis=0)
    std[std == 0] = 1
    inputs = ((x - mean) / std).astype("float32")
    offset, scale = y[train].mean(), y[train].std()
    return inputs, ((y - offset) / scale).astype("float32"), scale, offset


def run_split(trainer, x, y, split, members, samples):
    order = np.random.default_rng(split).permutation(len(x))
    fifth = len(x) // 5
    train, held, test = order[2 * fifth :], order[:fifth], order[fifth : 2 * fifth]
    inputs, targets, scale, offset = standardised(x, y, train)
    weights = [
        trainer.fit(inputs[train], targets[train], seed=1000 * split + member)
        for member in range(members)
    ]
    trainer.model.set_weights(weights[0])
    options = {"keep_samples": True, "verbose": 0}
    dropout, ensemble = {}, {}
    for name, rows in (("train", train), ("held", held), ("test", test)):
        dropout[name] = mc_predict(
            trainer.model, inputs[rows], samples, 512, seed=split, **options
        ).rescale(scale, offset)
        ensemble[name] = ensemble_predict(
            trainer.at(weights), inputs[rows], 512, **options
        ).rescale(scale, offset)

    def predictive(found):
        tau = fit_precision(y[held], found["held"].samples)
        return found["test"].predictive_interval(LEVEL, tau)

    def conformal(found, score, scale=None):
        return conformal_interval(
            y[held], found["held"], found["test"], LEVEL, score=score, scale=scale
        )

    tau = fit_precision(y[train], dropout["train"].samples)
    total = [
        np.sqrt(dropout[name].predictive_variance(tau)) for name in ("held", "test")
    ]

    intervals = {
        "credible": dropout["test"].credible_interval(LEVEL),
        "predictive": predictive(dropout),
        "predictive, ensemble": predictive(ensemble),
        "conformal": conformal(dropout, "absolute"),
        "conformal, scaled": conformal(dropout, "scaled"),
        "conformal, scaled, total": conformal(dropout, "scaled", total),
        "conformal, scaled, ensemble": conformal(ensemble, "scaled"),
    }
    return {
        name: [
            interval_coverage(y[test], low, high),
            float(np.mean(high - low)),
        ]
        for name, (low, high) in intervals.items()
    }


def summary(values):
    values = np.asarray(values)
    return values.mean(axis=0), values.std(axis=0, ddof=1) / np.sqrt(len(values))


def table(results):
    """The Markdown table of the documentation."""
    names = list(results["sets"])
    lines = [
        "| 95 % interval | " + " | ".join(f"{name} | width" for name in names) + " |",
        "|---" * (1 + 2 * len(names)) + "|",
    ]
    for way in results["sets"][names[0]]["ways"]:
        cells = []
        for name in names:
            mean, error = summary(results["sets"][name]["ways"][way])
            cells.append(f"{mean[0]:.3f} ± {error[0]:.3f} | {mean[1]:.3g}")
        lines.append(f"| {way} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sets", nargs="*", default=["concrete", "yacht", "diabetes"])
    parser.add_argument("--splits", type=int, default=50)
    parser.add_argument("--epochs", type=int, default=400)
    parser.add_argument("--members", type=int, default=5)
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--json", type=Path, help="where to write the results")
    options = parser.parse_args()
    results = {
        key: getattr(options, key) for key in ("splits", "epochs", "members", "samples")
    }
    results["sets"] = {}
    for name in options.sets:
        x, y = data_of(name)
        trainer = Trainer(x.shape[1], options.epochs)
        ways = {}
        for split in range(options.splits):
            start = time.perf_counter()
            found = run_split(trainer, x, y, split, options.members, options.samples)
            for way, values in found.items():
                ways.setdefault(way, []).append([round(value, 4) for value in values])
            print(
                f"{name} {split:2d}: "
                + ", ".join(f"{way} {value[0]:.2f}" for way, value in found.items())
                + f", {time.perf_counter() - start:.1f} s",
                flush=True,
            )
        rows = len(x) // 5
        expected = np.ceil(round((rows + 1) * LEVEL, 9)) / (rows + 1)
        results["sets"][name] = {
            "held_out": rows,
            "expected": round(float(expected), 4),
            "ways": ways,
        }
        if options.json:
            options.json.write_text(json.dumps(results) + "\n", encoding="utf-8")
    print(table(results))


if __name__ == "__main__":
    main()
