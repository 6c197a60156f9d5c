"""A whole fine-tuning with and without `FeatureCache`: accuracy against seconds.

    python benchmarks/cached_run.py --json benchmarks/results/cached_run.json

SqueezeNet from ImageNet on 20 photographs of clothes a class (see _clothing.py), 18
epochs of Adam with validation after each: everything from the first step, and four
stages of the same length with the rates of `DiscriminativeLR()`, without and with a
cache. What is compared is the time of the whole `fit`, tracing included, in turn and in
one process; and whether the cache has changed a weight or a number in the logs.

`--render` draws docs/images/feature_cache.png from what is kept.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
from _clothing import BATCH, EPOCHS, compiled, network, task

from keras_finetune import DiscriminativeLR, FeatureCache, GradualUnfreeze
from keras_finetune._engine import backend, keras

HERE = Path(__file__).resolve().parent
FIGURE = HERE.parent / "docs" / "images" / "feature_cache.png"
EVERYTHING, STAGES, CACHED = "everything at once", "four stages", "four stages, cached"
# The better rates of the study of defaults, and of a first look for everything at once.
RATES = {EVERYTHING: 3e-4, STAGES: 1e-3, CACHED: 1e-3}


class Clock(keras.callbacks.Callback):
    """The seconds since `fit` was called, at the end of each epoch."""

    def __init__(self):
        super().__init__()
        self.seconds, self.start = [], time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        self.seconds.append(round(time.perf_counter() - self.start, 2))


def callbacks_of(arm):
    if arm == EVERYTHING:
        return []
    ours = [GradualUnfreeze(groups=4, every=[5, 9, 14]), DiscriminativeLR(log=False)]
    return [*ours, FeatureCache(verbose=0)] if arm == CACHED else ours


def run(arm, seed):
    """Train one network; return what its epochs took and reached, and its weights."""
    keras.backend.clear_session()
    keras.utils.set_random_seed(seed)
    (x, y), validation, _ = task(20, seed)
    model = compiled(network(), RATES[arm])
    clock = Clock()
    history = model.fit(
        x,
        y,
        batch_size=BATCH,
        epochs=EPOCHS,
        validation_data=validation,
        callbacks=[*callbacks_of(arm), clock],
        verbose=0,
    ).history
    logs = {name: [float(v) for v in values] for name, values in history.items()}
    return {"seconds": clock.seconds, "logs": logs}, model.get_weights()


def difference(one, other):
    return max(float(np.max(np.abs(a - b))) for a, b in zip(one, other, strict=True))


def compared(seed):
    """All arms with one seed, in turn."""
    results, weights = {}, {}
    for arm in RATES:
        results[arm], weights[arm] = run(arm, seed)
        print(arm, seed, results[arm]["seconds"][-1], "s", flush=True)
    logs = [
        np.array([results[arm]["logs"][name] for name in ("loss", "val_loss")])
        for arm in (STAGES, CACHED)
    ]
    return {
        "seed": seed,
        "arms": {
            arm: {
                "seconds": found["seconds"],
                "val_accuracy": found["logs"]["val_accuracy"],
            }
            for arm, found in results.items()
        },
        "difference of weights": difference(weights[STAGES], weights[CACHED]),
        "difference of logs": float(np.max(np.abs(logs[0] - logs[1]))),
    }


def draw(found, path):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for arm in RATES:
        runs = [run["arms"][arm] for run in found]
        seconds = np.mean([run["seconds"] for run in runs], axis=0)
        accuracy = np.mean([run["val_accuracy"] for run in runs], axis=0)
        axes.plot(seconds, accuracy, marker="o", markersize=3, label=arm)
    axes.set(xlabel="seconds since fit was called", ylabel="validation accuracy")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=110)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--render", action="store_true", help="only draw the figure")
    options = parser.parse_args()
    lane = f"{keras.__name__} {keras.__version__}, {backend()}"
    path = options.json
    kept = json.loads(path.read_text()) if path and path.is_file() else {}
    if options.render:
        draw(next(iter(kept.values())), FIGURE)
        return
    run(CACHED, 0)  # warms everything up
    kept[lane] = []
    for seed in range(1, 1 + options.seeds):
        kept[lane].append(compared(seed))
        if path:
            path.write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()
