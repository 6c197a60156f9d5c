"""The best epoch of the stage that trains, to be put back when the stage ends."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from keras_finetune._engine import session
from keras_finetune._engine.backups import Backups
from keras_finetune._engine.copies import Copy
from keras_finetune._schedule.progress import Progress


class BestOfStage:
    """The weights and optimizer state of one epoch, in memory and beside each backup.

    Args:
        model: The model.
        progress: Tells the best epoch.
    """

    def __init__(self, model: Any, progress: Progress) -> None:
        self._model = model
        self._progress = progress
        self._copy: Copy | None = None
        self._copied: int | None = None

    @property
    def waits(self) -> bool:
        """Whether there is a state to be put back."""
        return self._copy is not None

    def keep(self, epoch: int) -> None:
        """Copy the state at the end of an epoch, if it is the best of its stage."""
        if self._progress.best_epoch == epoch and self._copied != epoch:
            trained = session.join(self._model).trained()
            self._copy = None  # one copy in memory, not two
            self._copy, self._copied = Copy.of(self._model, trained), epoch

    def put_back(self) -> int | None:
        """Put the best state back, if there is one; return its epoch."""
        if self._copy is None:
            return None
        self._copy.put_back(self._model)
        self._copy = None
        return self._progress.best_epoch

    def files(self) -> dict[str, Callable[[], bytes]]:
        """Return the file that a backup needs, and what gives its content."""
        return {} if self._copy is None else {self._file(): self._copy.to_bytes}

    def restore(self, backups: Backups) -> None:
        """Take up the copy that the backup in use has kept."""
        if self._progress.best_epoch is None:
            return
        content = backups.file(self._file())
        if content is None:
            self._progress.forget_best()
        else:
            self._copy = Copy.from_bytes(content)

    def _file(self) -> str:
        return f"best_epoch_{self._progress.best_epoch}.npz"
