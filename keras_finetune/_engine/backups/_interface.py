"""What differs in the backups of Keras 2 and Keras 3, each question once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from keras_finetune._engine.patches import Patch


class Files(ABC):
    """Files as the running Keras reads and writes them, remote ones included."""

    @abstractmethod
    def open(self, path: str, mode: str) -> Any:
        """Return an open file."""

    @abstractmethod
    def exists(self, path: str) -> bool:
        """Return whether there is a file or a folder."""

    @abstractmethod
    def join(self, *parts: str) -> str:
        """Return a path."""

    @abstractmethod
    def listdir(self, path: str) -> list[str]:
        """Return the names in a folder."""

    @abstractmethod
    def makedirs(self, path: str) -> None:
        """Make a folder, and those around it."""

    @abstractmethod
    def remove(self, path: str) -> None:
        """Remove a file."""


class BackupLane(ABC):
    """The backups of one Keras."""

    files: Files

    @abstractmethod
    def directory(self, callback: Any) -> str:
        """Return where the files of a backup are."""

    @abstractmethod
    def has_backup(self, callback: Any) -> bool:
        """Return whether there is a backup."""

    def may_write(self, model: Any) -> bool:
        """Return whether this process writes the backup."""
        del model
        return True

    @abstractmethod
    def hooks(self, callback: Any, backups: Any) -> list[Patch]:
        """Return patches for a `BackupAndRestore` that write our records."""

    @abstractmethod
    def generator_states(self, layers: Iterable[Any]) -> list[Any]:
        """Return the states of all random generators that have one."""

    def layers_without_generator(self, layers: Iterable[Any]) -> list[Any]:
        """Return the layers whose random numbers no file reaches."""
        del layers
        return []

    @abstractmethod
    def value(self, state: Any) -> npt.NDArray[np.generic]:
        """Return the value of a generator's state."""
