"""`BackupAndRestore` of Keras 3: weights in one file, the epoch in another."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from keras.src.utils import file_utils

from keras_finetune._engine import keras, processes
from keras_finetune._engine.backups._interface import BackupLane, Files
from keras_finetune._engine.patches import Patch, patched


class KerasFiles(Files):
    """Files as Keras reads and writes them."""

    def open(self, path: str, mode: str) -> Any:
        return file_utils.File(path, mode)

    def exists(self, path: str) -> bool:
        return bool(file_utils.exists(path))

    def join(self, *parts: str) -> str:
        return str(file_utils.join(*parts))

    def listdir(self, path: str) -> list[str]:
        return list(file_utils.listdir(path))

    def makedirs(self, path: str) -> None:
        file_utils.makedirs(path)

    def remove(self, path: str) -> None:
        file_utils.remove(path)


class Keras3Backups(BackupLane):
    """The backups of Keras 3, whose files and our records are kept whole."""

    files = KerasFiles()

    def directory(self, callback: Any) -> str:
        return str(callback.backup_dir)

    def has_backup(self, callback: Any) -> bool:
        return self.files.exists(callback._weights_path)

    def hooks(self, callback: Any, backups: Any) -> list[Patch]:
        save, load = callback._save_model, callback._load_model
        end, model = callback.on_epoch_end, backups.model

        def on_epoch_end(epoch: int, logs: Mapping[str, Any] | None = None) -> None:
            if backups.is_running():
                backups.before_epoch_end(epoch, logs or {})
            end(epoch, logs)

        def _save_model() -> None:
            if not backups.is_running():
                return save()
            backups.before_save(callback)
            with patched([Patch(model, "save_weights", _at_once(model.save_weights))]):
                save()

        def _load_model() -> None:
            if not backups.is_running():
                return load()
            self._load(callback, backups, load)

        return [
            Patch(callback, "on_epoch_end", on_epoch_end),
            Patch(callback, "_save_model", _save_model),
            Patch(callback, "_load_model", _load_model),
        ]

    def _load(self, callback: Any, backups: Any, load: Callable[[], None]) -> None:
        """Load a backup, also one whose two files do not belong together."""
        model, files = backups.model, self.files
        weights, metadata = callback._weights_path, callback._training_metadata_path
        if not files.exists(weights) and files.exists(metadata):
            processes.announce(
                model,
                f"The backup in {callback.backup_dir} has no weights (a kill while it "
                "was deleted leaves that): training starts afresh.",
            )
            files.remove(metadata)
        try:
            load()
            torn = files.exists(weights) and not files.exists(metadata)
        except json.JSONDecodeError:
            torn = True
        # Weights may be one epoch ahead of a metadata file that was not written yet.
        record = backups.record_of(callback) if files.exists(weights) else None
        if record is not None:
            model._initial_epoch = record["epoch"]
        elif torn:
            raise ValueError(
                f"The backup in {callback.backup_dir} does not tell its epoch, and "
                "there is no record of ours beside it. Delete it to start afresh. "
                f"Received: {metadata} missing or unreadable"
            )

    def generator_states(self, layers: Iterable[Any]) -> list[Any]:
        unique = {
            id(generator): generator.state
            for layer in layers
            for generator in getattr(layer, "_seed_generators", ())
        }
        return list(unique.values())

    def value(self, state: Any) -> npt.NDArray[np.generic]:
        return np.asarray(keras.ops.convert_to_numpy(state))


def running() -> BackupLane:
    """Return the backups of Keras 3."""
    return Keras3Backups()


def _at_once(save_weights: Callable[..., None]) -> Callable[..., None]:
    """`save_weights` that replaces a file when the new one is whole."""

    def save(filepath: Any, overwrite: bool = True, **kwargs: Any) -> None:
        path = str(filepath)
        if file_utils.is_remote_path(path):
            return save_weights(filepath, overwrite=overwrite, **kwargs)
        folder, name = os.path.split(path)
        new = os.path.join(folder, f"new_{name}")
        save_weights(new, overwrite=True, **kwargs)
        os.replace(new, path)

    return save
