"""Ways of fine-tuning over a grid of base rates: measured and kept, fit by fit.

Every arm is tried at all rates on the first seed. The two rates with the best
validation accuracy there are then trained on the other seeds, and what is reported is
the rate that is best on all validation images (`_tables.ways`). What has been measured
stays in the file: a run that was interrupted goes on, and more arms or seeds add to it.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

Record = dict[str, Any]


def parser(doc: str, arms: Iterable[str], rates: Sequence[float]) -> Any:
    """The arguments that all studies have."""
    made = argparse.ArgumentParser(description=doc.splitlines()[0])
    made.add_argument("--json", type=Path)
    made.add_argument("--arm", choices=[*arms], action="append")
    made.add_argument("--seeds", type=int, default=5)
    made.add_argument("--rates", type=float, nargs="+", default=rates)
    made.add_argument("--table", action="store_true", help="only print the tables")
    return made


def load(path: Path | None) -> list[Record]:
    return json.loads(path.read_text()) if path and path.is_file() else []


def trained(
    arm: Callable[..., None],
    model: Any,
    parts: Sequence[tuple[Any, Any]],
    rate: float | None,
    batch_size: int,
) -> Record:
    """Train by one arm, a function of `(model, fit, rate)`.

    Args:
        arm: `fit(model, epochs, callbacks, **arguments)` is given to it, and knows the
            images and labels, as `fit.x` and `fit.y`.
        model: The network.
        parts: Images and labels to train on, to choose by, and to test on.
        rate: The base rate.
        batch_size: Of the fits.

    Returns:
        The accuracy on the images to choose by and on test images, and the seconds of
        training by the clock and of all processors.
    """
    (x, y), validation, test = parts

    def fit(model: Any, epochs: int, callbacks: Any = (), **arguments: Any) -> Any:
        arguments = {"batch_size": batch_size, "verbose": 0, **arguments}
        return model.fit(x, y, epochs=epochs, callbacks=list(callbacks), **arguments)

    fit.x, fit.y = x, y  # type: ignore[attr-defined]
    clock, processors = time.perf_counter(), time.process_time()
    arm(model, fit, rate)
    seconds = time.perf_counter() - clock, time.process_time() - processors
    return {
        "validation": accuracy(model, *validation),
        "test": accuracy(model, *test),
        "seconds": round(seconds[0], 1),
        "processor_seconds": round(seconds[1], 1),
    }


def accuracy(model: Any, x: Any, y: Any) -> float:
    scores = model.predict(x, batch_size=128, verbose=0)
    return float(np.mean(np.argmax(scores, -1) == y))


def measure(
    records: list[Record],
    path: Path | None,
    case: Record,
    arms: Iterable[str],
    run: Callable[[str, float | None, int], Record],
    seeds: int,
    rates: Sequence[float | None],
) -> None:
    """Add what is missing to the records, and write them after each fit.

    Args:
        records: What has been measured.
        path: The file to write.
        case: What tells these fits from others in the same file.
        arms: Names of ways.
        run: Trains by a way, at a rate, with a seed.
        seeds: How many.
        rates: The base rates of the first seed; `None` for ways that find their own.
    """
    for arm in arms:
        for seed in range(seeds):
            chosen = _best_rates(records, case, arm) if seed else rates
            for rate in chosen:
                key = {**case, "arm": arm, "rate": rate, "seed": seed}
                if any(key.items() <= record.items() for record in records):
                    continue
                record = {**key, **run(arm, rate, seed)}
                print(record, flush=True)
                records.append(record)
                if path:
                    path.write_text(json.dumps(records, indent=1) + "\n")


def _best_rates(records: list[Record], case: Record, arm: str) -> list[float | None]:
    """The two rates with the best validation accuracy on the first seed."""
    key = {**case, "arm": arm, "seed": 0}
    first = [(r["validation"], r["rate"]) for r in records if key.items() <= r.items()]
    return [rate for _, rate in sorted(first, key=lambda x: x[0])[:-3:-1]]
