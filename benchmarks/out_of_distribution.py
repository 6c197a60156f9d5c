"""Digits that a network has never been taught: does it notice?

    python benchmarks/out_of_distribution.py --seeds 5

A small CNN with dropout learns the digits 0 to 7 of MNIST. Asked about unseen images of
0 to 7 and about 8 and 9, how well does its uncertainty tell the two apart? Three ways
to predict: the deterministic network (what `predict` gives), Monte Carlo dropout, and a
deep ensemble, the deterministic predictions of several networks from different starts,
the first of which is the network of the other two.

Area under the ROC curve for each measure of uncertainty that a way has. Beside it the
accuracy on unseen 0 to 7, on all and on what is left when the least certain tenth is
refused, and the calibration: the expected calibration error, which dropout at test time
does not promise to improve, and the negative log-likelihood.
"""

import argparse
import json
from pathlib import Path

import keras
import numpy as np
from _data import load
from _tables import CALIBRATION, DETECTION, out_of_distribution
from sklearn.metrics import roc_auc_score

from keras_finetune.uncertainty import (
    MCPrediction,
    ensemble_predict,
    expected_calibration_error,
    mc_predict,
    negative_log_likelihood,
)

KNOWN = 8
MEASURES = {
    "1 - max probability": lambda found: 1 - found.max_probability,
    "predictive entropy": lambda found: found.predictive_entropy,
    "mutual information": lambda found: found.mutual_information,
    "variation ratio": lambda found: found.variation_ratio,
}


def network():
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(16, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(32, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Dropout(0.25),
            layers.Flatten(),
            layers.Dense(128, activation="relu"),
            layers.Dropout(0.5),
            layers.Dense(KNOWN, activation="softmax"),
        ]
    )


def trained(x, y, seed, epochs):
    keras.utils.set_random_seed(seed)
    model = network()
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(x, y, batch_size=64, epochs=epochs, verbose=0)
    return model


def run(x, y, seed, options):
    order = np.random.default_rng(seed).permutation(np.flatnonzero(y < KNOWN))
    half = len(order) // 2
    train, test = order[:half], order[half:]
    unknown = np.flatnonzero(y >= KNOWN)
    models = [
        # The first is the network that this benchmark has always had.
        trained(x[train], y[train], seed + 100 * member, options.epochs)
        for member in range(options.members)
    ]
    images, labels = x[np.concatenate([test, unknown])], y[test]
    single = models[0].predict(images, batch_size=256, verbose=0)
    ways = {
        "deterministic": MCPrediction.from_samples(single[np.newaxis]),
        "Monte Carlo": mc_predict(
            models[0],
            images,
            samples=options.samples,
            batch_size=256,
            seed=seed,
            verbose=0,
        ),
        "ensemble": ensemble_predict(models, images, batch_size=256, verbose=0),
    }
    is_unknown = np.arange(len(images)) >= len(test)
    n, found = len(test), {}
    for way, prediction in ways.items():
        for name, measure in MEASURES.items():
            # One network alone has no disagreement.
            if prediction.num_samples > 1 or name in list(MEASURES)[:2]:
                found[f"AUROC {name}, {way}"] = roc_auc_score(
                    is_unknown, measure(prediction)
                )
        p = prediction.mean[:n]
        right = p.argmax(axis=-1) == labels
        certain = np.argsort(prediction.predictive_entropy[:n], kind="stable")
        kept = right[certain[: int(0.9 * n)]]
        found[f"accuracy, {way}"] = right.mean()
        found[f"accuracy of the most certain 90 %, {way}"] = kept.mean()
        found[f"calibration error, {way}"] = expected_calibration_error(labels, p)
        found[f"negative log-likelihood, {way}"] = negative_log_likelihood(labels, p)
    return {key: float(value) for key, value in found.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--samples", type=int, default=50)
    parser.add_argument("--members", type=int, default=5)
    parser.add_argument("--json", type=Path, help="where to write the results")
    options = parser.parse_args()
    data = load("mnist10k.npz")
    x = (data["x"] / 255.0).astype("float32")[..., np.newaxis]
    y = data["y"].astype("int64")
    runs = []
    for seed in range(options.seeds):
        runs.append(run(x, y, seed, options))
        print(seed, {key: round(value, 4) for key, value in runs[-1].items()})
    summary = {}
    for key in runs[0]:
        values = np.array([found[key] for found in runs])
        error = values.std(ddof=min(1, len(values) - 1)) / np.sqrt(len(values))
        summary[key] = [round(float(values.mean()), 4), round(float(error), 4)]
    print(f"\nmean ± standard error over {options.seeds} seeds")
    print(out_of_distribution(summary, DETECTION + CALIBRATION))
    if options.json:
        text = json.dumps(summary, indent=1) + "\n"
        options.json.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
