"""Do conformal sets and intervals hold their level, and are they no larger than others?

    python benchmarks/conformal.py --json benchmarks/results/conformal.json

One network a data set, trained once; its Monte Carlo predictions for the rows that it
has not seen are divided 200 times into held-out rows and new ones. Given the rows, the
expected share of new targets that are held is `ceil((n + 1) level) / (n + 1)` exactly,
so that the mean over divisions tells whether the arithmetic is right.

Beside it, on the same predictions and divisions: MAPIE, crepes and keras-proba, where
they are installed. They are asked for the same scores, APS with its randomised form;
crepes has no APS of its own and is given the scores.

The digits are MNIST's, learned from 500 images, so that there is something to be
uncertain about. Of the sets of regression, `heteroscedastic` is made up (noise of 0.1
to 1.1 along the input), and there a second network predicts the width of the noise.
"""

import argparse
import importlib.util
import json
import math
import warnings
from pathlib import Path

import keras
import numpy as np
from _data import load
from _tables import conformal

from keras_finetune.uncertainty import (
    conformal_interval,
    conformal_set,
    interval_coverage,
    mc_predict,
    set_coverage,
)

LEVEL = 0.9
INSTALLED = {
    name: importlib.util.find_spec(module) is not None
    for name, module in (
        ("MAPIE", "mapie"),
        ("crepes", "crepes"),
        ("keras-proba", "keras_proba"),
    )
}


# Predictions


def digits(seed=0):
    """Mean probabilities and labels of images that the network has not seen."""
    data = load("mnist10k.npz")
    x = (data["x"] / 255.0).astype("float32")[..., np.newaxis]
    y = data["y"].astype("int64")
    order = np.random.default_rng(seed).permutation(len(x))[:3500]
    train, rest = order[:500], order[500:]
    keras.utils.set_random_seed(seed)
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Flatten(),
            layers.Dense(64, activation="relu"),
            layers.Dropout(0.5),
            layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(x[train], y[train], epochs=20, verbose=0)
    prediction = mc_predict(
        model, x[rest], samples=50, batch_size=512, seed=seed, verbose=0
    )
    return prediction.mean, y[rest]


def heteroscedastic(rows=1500, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.uniform(0, 1, size=(rows, 1))
    noise = 0.1 + x[:, 0] ** 2
    return x, np.sin(6 * x[:, 0]) + noise * rng.normal(size=rows)


def regression(name, seed=0):
    """Means, targets, and scales by their names, of rows the network has not seen."""
    if name == "heteroscedastic":
        x, y = heteroscedastic()
    else:
        data = load(f"uci_{name}.npz")
        x, y = data["x"], data["y"]
    order = np.random.default_rng(seed).permutation(len(x))
    train, rest = order[: len(x) // 2], order[len(x) // 2 :]
    mean, std = x[train].mean(axis=0), x[train].std(axis=0)
    std[std == 0] = 1
    inputs = ((x - mean) / std).astype("float32")
    offset, scale = y[train].mean(), y[train].std()
    targets = ((y - offset) / scale).astype("float32")
    keras.utils.set_random_seed(seed)
    layers = keras.layers

    def network(units):
        return keras.Sequential(
            [
                keras.Input((x.shape[1],)),
                layers.Dense(50, activation="relu"),
                layers.Dropout(0.1),
                layers.Dense(50, activation="relu"),
                layers.Dropout(0.1),
                layers.Dense(units),
            ]
        )

    model = network(1)
    model.compile(keras.optimizers.Adam(3e-3), "mse", steps_per_execution=8)
    model.fit(inputs[train], targets[train], epochs=150, verbose=0)
    prediction = mc_predict(
        model,
        inputs[rest],
        samples=200,
        batch_size=512,
        seed=seed,
        keep_samples=True,
        verbose=0,
    ).rescale(scale, offset)
    scales = {"Monte Carlo spread": prediction.std[:, 0]}
    if name == "heteroscedastic":
        # A network that learns the size of its own errors on the training part.
        residuals = np.abs(
            targets[train] - model.predict(inputs[train], verbose=0)[:, 0]
        )
        width = network(1)
        width.compile(keras.optimizers.Adam(3e-3), "mse", steps_per_execution=8)
        width.fit(inputs[train], np.log(residuals + 0.01), epochs=50, verbose=0)
        found = np.exp(width.predict(inputs[rest], verbose=0)[:, 0])
        scales["predicted width"] = scale * found.astype("float64")
    return prediction.mean[:, 0], y[rest], scales


# The ways, each from held-out rows to sets or intervals


def ours_set(y, held, new, score, seed):
    return conformal_set(y, held, new, LEVEL, score=score, seed=seed)


def mapie_set(y, held, new, score, seed):
    from mapie.classification import SplitConformalClassifier

    known = SplitConformalClassifier(
        given(held.shape[1]),
        confidence_level=LEVEL,
        conformity_score=score,
        random_state=np.random.RandomState(seed),
    ).conformalize(held, y)
    options = {"include_last_label": "randomized"} if score == "aps" else {}
    return known.predict_set(new, conformity_score_params=options)[1][..., 0]


def crepes_set(y, held, new, score, seed):
    from crepes import ConformalClassifier

    rng = np.random.default_rng(seed)
    known, unknown = (all_scores(p, score, rng) for p in (held, new))
    model = ConformalClassifier().fit(known[np.arange(len(y)), y])
    return model.predict_set(unknown, confidence=LEVEL, smoothing=False) > 0


def keras_proba_set(y, held, new, score, seed):
    from keras_proba.postprocessing import SplitConformalClassifier

    model = SplitConformalClassifier(alpha=1 - LEVEL, score=score, seed=seed)
    return np.asarray(model.fit(y, held).predict_set(new))


def all_scores(p, score, rng):
    if score == "lac":
        return 1 - p
    more = (p[:, np.newaxis, :] > p[:, :, np.newaxis]) * p[:, np.newaxis, :]
    return more.sum(axis=-1) + rng.random((len(p), 1)) * p


def ours_interval(y, held, new, scales):
    score = "absolute" if scales is None else "scaled"
    return conformal_interval(y, held, new, LEVEL, score=score, scale=scales)


def mapie_interval(y, held, new, scales):
    from mapie.regression import SplitConformalRegressor

    if scales is not None:
        # MAPIE's scaled score fits or takes a model of the residuals.
        return None
    known = SplitConformalRegressor(given(0), confidence_level=LEVEL, prefit=True)
    known.conformalize(held[:, np.newaxis], y)
    return known.predict_interval(new[:, np.newaxis])[1][..., 0].T


def crepes_interval(y, held, new, scales):
    from crepes import ConformalRegressor

    known, unknown = (None, None) if scales is None else scales
    model = ConformalRegressor().fit(y - held, sigmas=known)
    return model.predict_int(new, sigmas=unknown, confidence=LEVEL).T


def keras_proba_interval(y, held, new, scales):
    from keras_proba.postprocessing import SplitConformalRegressor

    known, unknown = (None, None) if scales is None else scales
    model = SplitConformalRegressor(alpha=1 - LEVEL).fit(y, held, scale=known)
    return [np.asarray(end) for end in model.predict_interval(new, scale=unknown)]


def given(classes):
    """A fitted scikit-learn estimator whose inputs are its predictions."""
    from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin

    class Given(ClassifierMixin if classes else RegressorMixin, BaseEstimator):
        classes_ = np.arange(classes)

        def fit(self, x, y):
            return self

        def __sklearn_is_fitted__(self):
            return True

        def predict_proba(self, x):
            return x

        def predict(self, x):
            return x.argmax(axis=-1) if classes else x[:, 0]

    return Given()


SETS = {
    "keras-finetune": ours_set,
    "MAPIE": mapie_set,
    "crepes": crepes_set,
    "keras-proba": keras_proba_set,
}
INTERVALS = {
    "keras-finetune": ours_interval,
    "MAPIE": mapie_interval,
    "crepes": crepes_interval,
    "keras-proba": keras_proba_interval,
}


# What is counted


def divisions(rows, held_out, splits):
    for split in range(splits):
        order = np.random.default_rng(split).permutation(rows)
        yield split, order[:held_out], order[held_out:]


def compare_sets(splits, held_out):
    p, y = digits()
    found = {}
    for split, held, new in divisions(len(y), held_out, splits):
        for library, way in SETS.items():
            # crepes compares pair by pair in Python; a quarter of the divisions do.
            few = library == "crepes" and split >= splits // 4
            if few or not INSTALLED.get(library, True):
                continue
            for score in ("lac", "aps"):
                sets = way(y[held], p[held], p[new], score, split)
                found.setdefault(f"{score.upper()}, {library}", []).append(
                    [set_coverage(y[new], sets), float(sets.sum(axis=-1).mean())]
                )
    return {"digits": found}


def compare_intervals(splits, held_out, names):
    results = {}
    for name in names:
        mean, y, scales = regression(name)
        rows = min(held_out, len(y) // 2)
        found = results.setdefault(name, {"held_out": rows, "ways": {}})["ways"]
        for _, held, new in divisions(len(y), rows, splits):
            for kind in (None, *scales):
                scale = (
                    None if kind is None else (scales[kind][held], scales[kind][new])
                )
                for library, way in INTERVALS.items():
                    if not INSTALLED.get(library, True):
                        continue
                    ends = way(y[held], mean[held], mean[new], scale)
                    if ends is None:
                        continue
                    low, high = ends
                    found.setdefault(f"{kind or 'constant'}, {library}", []).append(
                        [
                            interval_coverage(y[new], low, high),
                            float(np.mean(high - low)),
                        ]
                    )
    return results


def expected(held_out):
    return math.ceil(round((held_out + 1) * LEVEL, 9)) / (held_out + 1)


def summarize(runs):
    values = np.array(runs)
    error = values.std(axis=0, ddof=1) / np.sqrt(len(values))
    (coverage, size), (coverage_error, size_error) = values.mean(axis=0), error
    return {
        "divisions": len(values),
        "coverage": [round(float(coverage), 5), round(float(coverage_error), 5)],
        "size": [round(float(size), 4), round(float(size_error), 4)],
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--splits", type=int, default=200)
    parser.add_argument("--held-out", type=int, default=300)
    parser.add_argument("--json", type=Path, help="where to write the results")
    options = parser.parse_args()
    warnings.filterwarnings("ignore", module="mapie")
    names = ("concrete", "yacht", "heteroscedastic")
    found = {
        name: {"held_out": options.held_out, "ways": ways}
        for name, ways in compare_sets(options.splits, options.held_out).items()
    }
    found.update(compare_intervals(options.splits, options.held_out, names))
    results = {"level": LEVEL, "data": {}}
    for name, runs in found.items():
        results["data"][name] = {
            "held_out": runs["held_out"],
            "expected": round(expected(runs["held_out"]), 5),
            "ways": {way: summarize(values) for way, values in runs["ways"].items()},
        }
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(conformal(results))


if __name__ == "__main__":
    main()
