"""`BackupAndRestore` of Keras 3: weights in one file, the epoch in another."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from keras.src.utils import file_utils

from keras_finetune._engine import keras, processes
from keras_finetune._engine.patches import Patch, patched


class files:
    """Files as Keras reads and writes them, remote ones included."""

    open = file_utils.File
    exists = staticmethod(file_utils.exists)
    join = staticmethod(file_utils.join)
    listdir = staticmethod(file_utils.listdir)
    makedirs = staticmethod(file_utils.makedirs)
    remove = staticmethod(file_utils.remove)


def directory(callback: Any) -> str:
    """Where the files of a backup are."""
    return str(callback.backup_dir)


def has_backup(callback: Any) -> bool:
    """Whether there is a backup."""
    return bool(files.exists(callback._weights_path))


def may_write(model: Any) -> bool:
    """Whether this process writes the backup: as Keras has it, each does."""
    del model
    return True


def hooks(callback: Any, backups: Any) -> list[Patch]:
    """Patches for a `BackupAndRestore` that keep its files and our records whole."""
    save, load = callback._save_model, callback._load_model
    end = callback.on_epoch_end
    model = backups.model

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

    return [
        Patch(callback, "on_epoch_end", on_epoch_end),
        Patch(callback, "_save_model", _save_model),
        Patch(callback, "_load_model", _load_model),
    ]


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


def generator_states(layers: Iterable[Any]) -> list[Any]:
    """The states of all random generators, each once."""
    unique = {
        id(generator): generator.state
        for layer in layers
        for generator in getattr(layer, "_seed_generators", ())
    }
    return list(unique.values())


def layers_without_generator(layers: Iterable[Any]) -> list[Any]:
    """None: in Keras 3 all that is random draws from a generator."""
    del layers
    return []


def value(state: Any) -> Any:
    """The value of a generator's state."""
    return np.asarray(keras.ops.convert_to_numpy(state))
