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
from _tables import coverage

from keras_finetune.uncertainty import (
    MCPrediction,
    conformal_interval,
    ensemble_predict,
    fit_precision,
    interval_coverage,
    mc_predict,
)

LEVEL = 0.95
RATE = 0.05


def data_of(name):
    if name == "diabetes":
        from sklearn.datasets import load_diabetes

        return load_diabetes(return_X_y=True)
    arrays = load(f"uci_{name}.npz")
    return arrays["x"], arrays["y"]


class Trainer:
    """Networks that are trained side by side, started afresh for each split.

    The members share their batches and nothing else: their kernels are stacked, and
    Adam's updates do not depend on the factor that the mean over members puts on each
    gradient. So five small networks cost little more than one, and nothing is traced
    twice.
    """

    def __init__(self, features, epochs, members):
        self.features = features
        self.members = members
        self.rounds = 10
        self.epochs = epochs // self.rounds
        self.model = self.network()
        layers = keras.layers
        self.stacked = keras.Sequential(
            [
                keras.Input((features,)),
                layers.RepeatVector(members),
                layers.Dropout(RATE),
                layers.EinsumDense(
                    "bmf,mfu->bmu", (members, 50), activation="relu", bias_axes="mu"
                ),
                layers.Dropout(RATE),
                layers.EinsumDense("bmu,muo->bmo", (members, 1), bias_axes="mo"),
                layers.Flatten(),
            ]
        )
        self.stacked.compile(
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
        """Train all members; return the weights of each."""
        keras.utils.set_random_seed(seed)
        starts = [self.network().get_weights() for _ in range(self.members)]
        self.stacked.set_weights([np.stack(same) for same in zip(*starts, strict=True)])
        optimizer = self.stacked.optimizer
        if optimizer.built:
            for variable in optimizer.variables:
                if variable.path != optimizer._learning_rate.path:
                    variable.assign(keras.ops.zeros_like(variable))
        targets = np.repeat(y[:, np.newaxis], self.members, axis=1)
        data = tf.data.Dataset.from_tensor_slices((x, targets)).cache()
        data = data.shuffle(len(x), seed=seed).batch(128)
        data = data.repeat(self.epochs).prefetch(64)
        self.stacked.fit(data, epochs=self.rounds, verbose=0)
        return list(zip(*self.stacked.get_weights(), strict=True))

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


def run_split(trainer, x, y, split, samples):
    order = np.random.default_rng(split).permutation(len(x))
    fifth = len(x) // 5
    train, held, test = order[2 * fifth :], order[:fifth], order[fifth : 2 * fifth]
    inputs, targets, scale, offset = standardised(x, y, train)
    weights = trainer.fit(inputs[train], targets[train], seed=split)
    trainer.model.set_weights(weights[0])
    options = {"keep_samples": True, "verbose": 0}
    every = (
        mc_predict(
            trainer.model,
            inputs,
            samples=samples,
            batch_size=2048,
            seed=split,
            **options,
        ),
        ensemble_predict(trainer.at(weights), inputs, batch_size=2048, **options),
    )
    dropout, ensemble = (
        {
            name: MCPrediction.from_samples(found.samples[:, rows], "values").rescale(
                scale, offset
            )
            for name, rows in (("train", train), ("held", held), ("test", test))
        }
        for found in every
    )

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
        trainer = Trainer(x.shape[1], options.epochs, options.members)
        ways = {}
        for split in range(options.splits):
            start = time.perf_counter()
            found = run_split(trainer, x, y, split, options.samples)
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
    print(coverage(results))


if __name__ == "__main__":
    main()
