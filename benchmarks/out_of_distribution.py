"""Digits that a network has never been taught: does it notice?

    python benchmarks/out_of_distribution.py --seeds 5

A small CNN with dropout learns the digits 0 to 7 of MNIST. Asked about unseen images of
0 to 7 and about 8 and 9, how well does its uncertainty tell the two apart? Area under
the ROC curve, for one minus the largest probability of the deterministic network (what
`predict` gives), and for the predictive entropy, the mutual information and one minus
the largest mean probability of Monte Carlo predictions. Beside it: the accuracy on
unseen 0 to 7, on all, and on what is left when the least certain tenth is refused, and
the calibration error, which dropout at test time does not promise to improve.
"""

import argparse
import json

import keras
import numpy as np
from _data import load
from sklearn.metrics import roc_auc_score

from keras_finetune.uncertainty import expected_calibration_error, mc_predict

KNOWN = 8


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


def run(x, y, seed, epochs, samples):
    keras.utils.set_random_seed(seed)
    order = np.random.default_rng(seed).permutation(np.flatnonzero(y < KNOWN))
    half = len(order) // 2
    train, test = order[:half], order[half:]
    unknown = np.flatnonzero(y >= KNOWN)
    model = network()
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(x[train], y[train], batch_size=64, epochs=epochs, verbose=0)
    images, labels = x[np.concatenate([test, unknown])], y[test]
    single = model.predict(images, batch_size=256, verbose=0)
    prediction = mc_predict(
        model, images, samples, batch_size=256, seed=seed, verbose=0
    )
    scores = {
        "1 - max probability, deterministic": 1 - single.max(axis=-1),
        "1 - max probability": 1 - prediction.max_probability,
        "predictive entropy": prediction.predictive_entropy,
        "mutual information": prediction.mutual_information,
        "variation ratio": prediction.variation_ratio,
    }
    is_unknown = np.arange(len(images)) >= len(test)
    found = {f"AUROC {k}": roc_auc_score(is_unknown, v) for k, v in scores.items()}
    n = len(test)
    for name, p, score in (
        ("deterministic", single, "1 - max probability, deterministic"),
        ("Monte Carlo", prediction.mean, "predictive entropy"),
    ):
        right = p[:n].argmax(axis=-1) == labels
        certain = np.argsort(scores[score][:n], kind="stable")[: int(0.9 * n)]
        found[f"accuracy, {name}"] = right.mean()
        found[f"accuracy of the most certain 90 %, {name}"] = right[certain].mean()
        found[f"calibration error, {name}"] = expected_calibration_error(labels, p[:n])
    return {key: float(value) for key, value in found.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--samples", type=int, default=50)
    parser.add_argument("--json", help="where to write the results")
    options = parser.parse_args()
    data = load("mnist10k.npz")
    x = (data["x"] / 255.0).astype("float32")[..., np.newaxis]
    y = data["y"].astype("int64")
    runs = []
    for seed in range(options.seeds):
        runs.append(run(x, y, seed, options.epochs, options.samples))
        print(seed, {key: round(value, 4) for key, value in runs[-1].items()})
    summary = {}
    print(f"\nmean ± standard error over {options.seeds} seeds")
    for key in runs[0]:
        values = np.array([found[key] for found in runs])
        error = values.std(ddof=min(1, len(values) - 1)) / np.sqrt(len(values))
        summary[key] = [round(float(values.mean()), 4), round(float(error), 4)]
        print(f"  {key:45s} {values.mean():.4f} ± {error:.4f}")
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump(summary, file, indent=1)
            file.write("\n")


if __name__ == "__main__":
    main()
