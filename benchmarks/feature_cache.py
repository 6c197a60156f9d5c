"""What `FeatureCache` saves, as ratios of epochs within one run.

    python benchmarks/feature_cache.py [--quick] [--cases NAME ...] [--json FILE]

Each case is a frozen backbone, untrained, with a head that trains on noise. In turn, so
that a busy machine slows all alike, one process runs epochs of

- `frozen`: `fit` without the cache;
- `cached`: the same with `FeatureCache`;
- `head`: the bare head, on features that were computed before, with the images going
  through the data pipeline beside them.

Printed are medians of the ratios of paired epochs, by the clock: `frozen / cached`
after the first epoch, `cached / head`, and `cached / frozen` for the first epoch, which
is compiled and computes every row. `hashing / prefix` is the time that finding a row
takes against that of its frozen layers. Seconds are those of this machine; only ratios
are worth keeping.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from keras_finetune import FeatureCache
from keras_finetune._engine import backend, keras
from keras_finetune._engine.features._store import digests

CLASSES = 10


class Clock(keras.callbacks.Callback):
    """The seconds of each epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.start = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.seconds.append(time.perf_counter() - self.start)


def backbone(name: str, size: int) -> Any:
    kind = getattr(keras.applications, name)
    shape = (size, size, 3)
    model = kind(weights=None, include_top=False, pooling="avg", input_shape=shape)
    model.trainable = False
    return model


def classifier(body: Any) -> Any:
    inputs = keras.Input(body.input_shape[1:])
    x = keras.layers.Dropout(0.2)(body(inputs))
    return compiled(keras.Model(inputs, keras.layers.Dense(CLASSES)(x)))


def bare_head(body: Any) -> Any:
    images = keras.Input(body.input_shape[1:], name="images")
    features = keras.Input(body.output_shape[1:], name="features")
    outputs = keras.layers.Dense(CLASSES)(keras.layers.Dropout(0.2)(features))
    return compiled(keras.Model({"images": images, "features": features}, outputs))


def compiled(model: Any) -> Any:
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    xla = {"jit_compile": False} if backend() == "tensorflow" else {}
    model.compile(keras.optimizers.Adam(1e-3), loss, **xla)
    return model


def measure(name: str, size: int, images: int, epochs: int) -> dict[str, Any]:
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(images, size, size, 3)).astype("float32")
    y = rng.integers(0, CLASSES, size=images)
    body = backbone(name, size)
    start = time.perf_counter()
    features = body.predict(x, verbose=0)
    start = time.perf_counter()
    body.predict(x, verbose=0)
    prefix = time.perf_counter() - start
    start = time.perf_counter()
    digests([x])
    hashing = time.perf_counter() - start

    ways = {
        "frozen": (classifier(body), x, []),
        "cached": (classifier(body), x, [FeatureCache(verbose=0)]),
        "head": (bare_head(body), {"images": x, "features": features}, []),
    }
    first: dict[str, float] = {}
    later: dict[str, list[float]] = {way: [] for way in ways}
    for way in ("frozen", "cached") * 2:  # the first of all warms everything up
        _, data, callbacks = ways[way]
        first[way] = _epochs(classifier(body), data, y, callbacks, 1)[0]
    for _ in range(2):
        for way, (model, data, callbacks) in ways.items():
            # A cache lasts for one `fit`, whose first epoch fills it.
            count = max(2, epochs if way != "frozen" else 2)
            later[way] += _epochs(model, data, y, callbacks, count)[1:]
    middle = {way: statistics.median(seconds) for way, seconds in later.items()}
    found = {
        "images": images,
        "size": size,
        "frozen / cached": middle["frozen"] / middle["cached"],
        "cached / head": middle["cached"] / middle["head"],
        "first epoch, cached / frozen": first["cached"] / first["frozen"],
        "hashing / prefix": hashing / prefix,
        "seconds of a cached epoch": middle["cached"],
    }
    print(f"{name} {size} x {size}, {images} images:")
    for key, value in found.items():
        print(f"  {key}: {value:.3g}", flush=True)
    return found


def _epochs(model: Any, x: Any, y: Any, callbacks: Any, epochs: int) -> list[float]:
    clock = Clock()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        model.fit(x, y, epochs=epochs, verbose=0, callbacks=[clock, *callbacks])
    return clock.seconds


CASES = {
    "MobileNetV2": ("MobileNetV2", 96, 512),
    "VGG19": ("VGG19", 64, 256),
    "EfficientNetV2B0": ("EfficientNetV2B0", 96, 256),
}
QUICK = {"MobileNetV2": ("MobileNetV2", 96, 96)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer images, one model")
    parser.add_argument("--cases", nargs="+", choices=CASES, help="all if not given")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--json", type=Path, help="where to add the results")
    options = parser.parse_args()
    lane = f"{keras.__name__} {keras.__version__}, {backend()}"
    print(lane)
    cases = QUICK if options.quick else CASES
    results = {
        name: measure(*case, options.epochs)
        for name, case in cases.items()
        if not options.cases or name in options.cases
    }
    if options.json:
        known = json.loads(options.json.read_text()) if options.json.exists() else {}
        known[lane] = {**known.get(lane, {}), **results}
        options.json.write_text(json.dumps(known, indent=1) + "\n")


if __name__ == "__main__":
    main()
