"""Batches as Keras counts them in its hooks."""

from __future__ import annotations

from typing import Any

from keras_finetune._engine import KERAS_3


def batches_done(model: Any, batch: int, batches: int | None) -> int:
    """Return how many batches of an epoch are over when a hook is called with `batch`.

    Several pass at once with `steps_per_execution`. Keras gives the last of them,
    Keras 3.8 the first.
    """
    at_once = int(model.steps_per_execution) if KERAS_3 else 1
    if at_once > 1 and batch % at_once == 0:
        return min(batch + at_once, batches or batch + at_once)
    return batch + 1
