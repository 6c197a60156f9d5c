"""`BackupAndRestore` of Keras 2: one checkpoint of TensorFlow, whole or not there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from keras_finetune._engine.backups._interface import BackupLane, Files
from keras_finetune._engine.patches import Patch


class TensorFlowFiles(Files):
    """Files as TensorFlow reads and writes them."""

    def open(self, path: str, mode: str) -> Any:
        return tf.io.gfile.GFile(path, mode)

    def exists(self, path: str) -> bool:
        return bool(tf.io.gfile.exists(path))

    def join(self, *parts: str) -> str:
        return str(tf.io.gfile.join(*parts))

    def listdir(self, path: str) -> list[str]:
        return list(tf.io.gfile.listdir(path))

    def makedirs(self, path: str) -> None:
        tf.io.gfile.makedirs(path)

    def remove(self, path: str) -> None:
        tf.io.gfile.remove(path)


class Keras2Backups(BackupLane):
    """The backups of Keras 2."""

    files = TensorFlowFiles()

    def directory(self, callback: Any) -> str:
        # The chief's checkpoints, from which all workers restore.
        return self.files.join(callback.backup_dir, "chief")

    def has_backup(self, callback: Any) -> bool:
        return tf.train.latest_checkpoint(self.directory(callback)) is not None

    def may_write(self, model: Any) -> bool:
        return bool(model.distribute_strategy.extended.should_checkpoint)

    def hooks(self, callback: Any, backups: Any) -> list[Patch]:
        back_up, end = callback._backup, callback.on_epoch_end

        def on_epoch_end(epoch: int, logs: Mapping[str, Any] | None = None) -> None:
            if backups.is_running():
                backups.before_epoch_end(epoch, logs or {})
            end(epoch, logs)

        def _backup(*args: Any, **kwargs: Any) -> None:
            if backups.is_running():
                backups.before_save(callback)
            back_up(*args, **kwargs)

        return [
            Patch(callback, "on_epoch_end", on_epoch_end),
            Patch(callback, "_backup", _backup),
        ]

    def generator_states(self, layers: Iterable[Any]) -> list[Any]:
        # By default random layers of Keras 2 use operations whose state TensorFlow
        # keeps to itself; with `enable_tf_random_generator()` they have generators.
        unique: dict[int, Any] = {}
        for layer in layers:
            owner = getattr(layer, "_random_generator", None)
            generator = getattr(owner, "_generator", None)
            if generator is not None:
                unique[id(generator)] = generator.state
        return list(unique.values())

    def layers_without_generator(self, layers: Iterable[Any]) -> list[Any]:
        return [
            layer
            for layer in layers
            if _kind_of_generator(layer) == "legacy_stateful" and _draws(layer)
        ]

    def value(self, state: Any) -> npt.NDArray[np.generic]:
        return np.asarray(state.numpy())


def running() -> BackupLane:
    """Return the backups of Keras 2."""
    return Keras2Backups()


def _kind_of_generator(layer: Any) -> Any:
    return getattr(getattr(layer, "_random_generator", None), "_rng_type", None)


def _draws(layer: Any) -> bool:
    """Recurrent layers have a generator, but use it for nothing without dropout."""
    rates = ("rate", "stddev", "dropout", "recurrent_dropout")
    given = [getattr(layer, name) for name in rates if hasattr(layer, name)]
    return any(given) or not given
