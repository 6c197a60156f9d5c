"""The callback that takes the measurements of a search."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from keras_finetune._engine import keras, rehearsal, session
from keras_finetune.rates._suggestions import EXPLODED, Smooth

_FEW = 6  # batches


class Sweep(keras.callbacks.Callback):
    """Records the loss of each batch and the rate of its update, and ends the `fit`.

    Args:
        rates: The rate of each step of the optimizer.
    """

    def __init__(self, rates: Sequence[float]) -> None:
        super().__init__()
        self.all = rates
        self._first: int | None = None
        self._step = 0
        self._smooth = Smooth()
        self._best = math.inf
        self.rates: list[float] = []
        self.losses: list[float] = []

    def on_train_begin(self, logs: Any = None) -> None:
        # The session gives the model a step of its own.
        session.join(self.model).demand(self)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        session.join(self.model).begin()

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        taken = rehearsal.begin_batch(self.model)
        if self._first is None:
            self._first = taken
        # Loss scaling skips steps, and the rate stays.
        self._step = min(taken - self._first, len(self.all) - 1)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if "loss" not in (logs or {}):
            raise ValueError(
                "The training step of the model must return its `loss`, as that of "
                f"Keras does. Received: logs={logs!r}"
            )
        loss = float(logs["loss"])
        self.rates.append(self.all[self._step])
        self.losses.append(loss)
        is_last = len(self.rates) == len(self.all)
        if is_last or not math.isfinite(loss) or self._explodes(loss):
            self.model.stop_training = True

    def _explodes(self, loss: float) -> bool:
        smoothed = self._smooth.update(loss)
        if len(self.losses) < max(_FEW, len(self.all) // 10):
            return False  # not an average yet, but a batch that is easy or hard
        self._best = min(self._best, smoothed)
        return smoothed > EXPLODED * self._best > 0.0

    def on_train_end(self, logs: Any = None) -> None:
        session.join(self.model).leave(self)
