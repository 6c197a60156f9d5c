"""Gal & Ghahramani's UCI regression, on the 20 splits that they published.

    python benchmarks/uci_regression.py concrete yacht --splits 20

The protocol of the authors' grid search (2018, setting x100): features and target
standardised on the training part; one hidden layer of 50 ReLU units with dropout
before each weight layer; Adam, mean squared error, batches of 128, 40 times 100
epochs; an L2 penalty of l^2 (1 - rate) / (2 N tau) on every kernel, with l = 0.01 and
N training rows; 10,000 Monte Carlo samples. Rate and tau are the ones that their
search selected for each split. Root mean squared error and log-likelihood of the test
part are in the target's own unit.

What the model needs of this package is `MCDropout`, `mc_predict` and
`MCPrediction.log_likelihood`. Training runs on TensorFlow, whose datasets feed a
hundred epochs in one go; seconds a split are printed to be compared within a run only.
"""

import argparse
import json
import time
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from _data import load

from keras_finetune.layers import MCDropout
from keras_finetune.uncertainty import mc_predict

LENGTH_SCALE = 1e-2


def train(x, y, rate, tau, epochs):
    penalty = LENGTH_SCALE**2 * (1 - rate) / (2 * len(x) * tau)

    def dense(units, activation=None):
        regularizer = keras.regularizers.L2(penalty)
        return keras.layers.Dense(
            units, activation=activation, kernel_regularizer=regularizer
        )

    model = keras.Sequential(
        [
            keras.Input((x.shape[1],)),
            MCDropout(rate),
            dense(50, "relu"),
            MCDropout(rate),
            dense(1),
        ]
    )
    # A hundred epochs in one call of `fit`'s compiled function.
    rounds = 40 if epochs % 40 == 0 else 1
    data = tf.data.Dataset.from_tensor_slices((x, y)).cache()
    data = data.shuffle(len(x), reshuffle_each_iteration=True).batch(128)
    data = data.repeat(epochs // rounds).prefetch(64)
    model.compile("adam", "mse", steps_per_execution=epochs // rounds)
    model.fit(data, epochs=rounds, verbose=0)
    return model


def run_split(data, split, epochs, samples):
    keras.utils.set_random_seed(split)
    rate, tau = float(data["rate"][split]), float(data["tau"][split])
    train_rows, test_rows = data[f"train_{split}"], data[f"test_{split}"]
    x, y = data["x"][train_rows], data["y"][train_rows]
    x_mean, x_std, y_mean, y_std = x.mean(0), x.std(0), y.mean(), y.std()
    x_std[x_std == 0] = 1
    inputs = ((x - x_mean) / x_std).astype("float32")
    targets = ((y - y_mean) / y_std).astype("float32")[:, np.newaxis]
    model = train(inputs, targets, rate, tau, epochs)
    prediction = mc_predict(
        model,
        ((data["x"][test_rows] - x_mean) / x_std).astype("float32"),
        samples=samples,
        batch_size=128,
        seed=split,
        keep_samples=True,
        verbose=0,
    ).rescale(y_std, y_mean)
    y_test = data["y"][test_rows]
    return prediction.rmse(y_test), prediction.log_likelihood(y_test, tau).mean()


def summary(values):
    values = np.asarray(values)
    error = values.std() / np.sqrt(len(values))
    return float(values.mean()), float(error)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sets", nargs="*", default=["concrete", "yacht"])
    parser.add_argument("--splits", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=4000)
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--json", type=Path, help="where to write the results")
    options = parser.parse_args()
    results = {}
    for name in options.sets:
        data = load(f"uci_{name}.npz")
        found = {"rmse": [], "log_likelihood": []}
        for split in range(options.splits):
            start = time.perf_counter()
            rmse, likelihood = run_split(data, split, options.epochs, options.samples)
            found["rmse"].append(float(rmse))
            found["log_likelihood"].append(float(likelihood))
            print(
                f"{name} {split:2d}: rmse {rmse:6.3f} "
                f"(authors {data['authors_rmse'][split]:6.3f}), "
                f"log-likelihood {likelihood:7.3f} "
                f"(authors {data['authors_ll'][split]:7.3f}), "
                f"{time.perf_counter() - start:.0f} s",
                flush=True,
            )
        theirs = {
            "rmse": data["authors_rmse"][: options.splits],
            "log_likelihood": data["authors_ll"][: options.splits],
        }
        for measure, values in found.items():
            mean, error = summary(values)
            known, known_error = summary(theirs[measure])
            print(
                f"{name} {measure}: {mean:.3f} ± {error:.3f}, "
                f"authors {known:.3f} ± {known_error:.3f}, "
                f"distance {abs(mean - known) / max(known_error, 1e-12):.2f} "
                "standard errors"
            )
        results[name] = found
        if options.json:
            options.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
