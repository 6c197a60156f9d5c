"""What `FeatureCache` saves, as ratios of epochs within one run.

    python benchmarks/feature_cache.py [--quick] [--cases NAME ...] [--json FILE]

Each case is a frozen backbone, untrained, with a head that trains on noise. In turn, so
that a busy machine slows all alike, one process runs epochs of

- `frozen`: `fit` without the cache, dropout of the frozen body active, as in Keras;
- `cached`: the same with `FeatureCache`, which lets it rest;
- `head`: the bare head, on features that were computed before, with the rows going
  through the data pipeline beside them.

Printed are medians of the ratios of paired epochs, by the clock: `frozen / cached`
after the first epoch, `cached / head`, and `cached / frozen` for the first epoch, which
is compiled and computes every row. `hashing / prefix` is the time that finding a row
takes against that of its frozen layers. Seconds are those of this machine; only ratios
are worth keeping.

`BERT` is left out where KerasHub is not installed.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

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


class Case(NamedTuple):
    """A frozen network, and the rows that it sees.

    Args:
        body: Makes it for rows of some size; its inputs are a dictionary.
        data: Makes that many rows, a dictionary of arrays.
        size: The pixels of a side, or the tokens of a text.
        rows: How many there are.
    """

    body: Callable[[int], Any]
    data: Callable[[np.random.Generator, int, int], dict[str, Any]]
    size: int
    rows: int


def network(name: str, size: int) -> Any:
    shape = (size, size, 3)
    kind = getattr(keras.applications, name)
    model = kind(weights=None, include_top=False, pooling="avg", input_shape=shape)
    inputs = {"images": keras.Input(shape, name="images")}
    return keras.Model(inputs, model(inputs["images"]))


def pictures(rng: np.random.Generator, rows: int, size: int) -> dict[str, np.ndarray]:
    return {"images": rng.normal(size=(rows, size, size, 3)).astype("float32")}


def photographs(rng: np.random.Generator, rows: int, size: int) -> dict[str, Any]:
    """Rows of whole numbers, for a network that rescales them itself."""
    return {"images": rng.integers(0, 256, (rows, size, size, 3), dtype="uint8")}


WORDS = 1000


def bert(size: int) -> Any:
    from keras_hub.models import BertBackbone

    # The size of the smallest one that was trained.
    model = BertBackbone(WORDS, 2, 2, 128, 512, max_sequence_length=size)
    inputs = {
        name: keras.Input((size,), dtype="int32", name=name)
        for name in ("token_ids", "segment_ids", "padding_mask")
    }
    return keras.Model(inputs, model(inputs)["pooled_output"])


def texts(rng: np.random.Generator, rows: int, size: int) -> dict[str, np.ndarray]:
    shape = (rows, size)
    words = rng.integers(1, WORDS, size=shape).astype("int32")
    segments, mask = np.zeros(shape, "int32"), np.ones(shape, "int32")
    return {"token_ids": words, "segment_ids": segments, "padding_mask": mask}


def inputs_for(data: dict[str, np.ndarray]) -> dict[str, Any]:
    return {
        name: keras.Input(
            x.shape[1:], dtype="int32" if x.dtype == "int32" else "float32", name=name
        )
        for name, x in data.items()
    }


def classifier(body: Any, data: dict[str, np.ndarray]) -> Any:
    inputs = inputs_for(data)
    x = keras.layers.Dropout(0.2)(body(inputs))
    return compiled(keras.Model(inputs, keras.layers.Dense(CLASSES)(x)))


def bare_head(data: dict[str, np.ndarray]) -> Any:
    inputs = inputs_for(data)
    x = keras.layers.Dropout(0.2)(inputs["features"])
    return compiled(keras.Model(inputs, keras.layers.Dense(CLASSES)(x)))


def compiled(model: Any) -> Any:
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    xla = {"jit_compile": False} if backend() == "tensorflow" else {}
    model.compile(keras.optimizers.Adam(1e-3), loss, **xla)
    return model


def measure(name: str, case: Case, epochs: int) -> dict[str, Any]:
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    x = case.data(rng, case.rows, case.size)
    y = rng.integers(0, CLASSES, size=case.rows)
    body = case.body(case.size)
    body.trainable = False
    features = body.predict(x, verbose=0)
    start = time.perf_counter()
    body.predict(x, verbose=0)
    prefix = time.perf_counter() - start
    start = time.perf_counter()
    digests(list(x.values()))
    hashing = time.perf_counter() - start

    beside = {**x, "features": features}
    ways = {
        "frozen": (classifier(body, x), x, []),
        "cached": (classifier(body, x), x, [FeatureCache(verbose=0)]),
        "head": (bare_head(beside), beside, []),
    }
    first: dict[str, float] = {}
    later: dict[str, list[float]] = {way: [] for way in ways}
    for way in ("frozen", "cached") * 2:  # the first of all warms everything up
        _, data, callbacks = ways[way]
        first[way] = _epochs(classifier(body, x), data, y, callbacks, 1)[0]
    for _ in range(2):
        for way, (model, data, callbacks) in ways.items():
            # A cache lasts for one `fit`, whose first epoch fills it.
            count = max(2, epochs if way != "frozen" else 2)
            later[way] += _epochs(model, data, y, callbacks, count)[1:]
    middle = {way: statistics.median(seconds) for way, seconds in later.items()}
    found = {
        "rows": case.rows,
        "size": _size(case),
        "frozen / cached": middle["frozen"] / middle["cached"],
        "cached / head": middle["cached"] / middle["head"],
        "first epoch, cached / frozen": first["cached"] / first["frozen"],
        "hashing / prefix": hashing / prefix,
        "seconds of a cached epoch": middle["cached"],
    }
    print(f"{name}, {found['size']}, {case.rows} rows:")
    for key, value in found.items():
        if isinstance(value, float):
            print(f"  {key}: {value:.3g}", flush=True)
    return found


def _size(case: Case) -> str:
    if case.data is texts:
        return f"{case.size} tokens"
    dtype = ", uint8" if case.data is photographs else ""
    return f"{case.size} x {case.size}{dtype}"


def _epochs(model: Any, x: Any, y: Any, callbacks: Any, epochs: int) -> list[float]:
    clock = Clock()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        model.fit(x, y, epochs=epochs, verbose=0, callbacks=[clock, *callbacks])
    return clock.seconds


CASES = {
    "MobileNetV2": Case(partial(network, "MobileNetV2"), pictures, 96, 512),
    "VGG19": Case(partial(network, "VGG19"), pictures, 64, 256),
    "EfficientNetV2B0": Case(
        partial(network, "EfficientNetV2B0"), photographs, 96, 256
    ),
    "BERT": Case(bert, texts, 128, 512),
}
QUICK = ["MobileNetV2"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer rows, one case")
    parser.add_argument("--cases", nargs="+", choices=CASES, help="all if not given")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--json", type=Path, help="where to add the results")
    options = parser.parse_args()
    lane = f"{keras.__name__} {keras.__version__}, {backend()}"
    print(lane)
    results = {}
    for name in options.cases or (QUICK if options.quick else CASES):
        if name == "BERT" and importlib.util.find_spec("keras_hub") is None:
            print("BERT is left out: KerasHub is not installed")
            continue
        case = CASES[name]
        if options.quick:
            case = case._replace(rows=96)
        results[name] = measure(name, case, options.epochs)
    if options.json:
        known = json.loads(options.json.read_text()) if options.json.exists() else {}
        known[lane] = {**known.get(lane, {}), **results}
        options.json.write_text(json.dumps(known, indent=1) + "\n")


if __name__ == "__main__":
    main()
