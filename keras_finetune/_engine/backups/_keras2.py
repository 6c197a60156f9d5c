"""`BackupAndRestore` of Keras 2: one checkpoint of TensorFlow, whole or not there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import tensorflow as tf

from keras_finetune._engine.patches import Patch


class files:
    """Files as TensorFlow reads and writes them, remote ones included."""

    open = tf.io.gfile.GFile
    exists = staticmethod(tf.io.gfile.exists)
    join = staticmethod(tf.io.gfile.join)
    listdir = staticmethod(tf.io.gfile.listdir)
    makedirs = staticmethod(tf.io.gfile.makedirs)
    remove = staticmethod(tf.io.gfile.remove)


def directory(callback: Any) -> str:
    """Where the chief's checkpoints are, from which all workers restore."""
    return str(files.join(callback.backup_dir, "chief"))


def has_backup(callback: Any) -> bool:
    """Whether there is a backup."""
    return tf.train.latest_checkpoint(directory(callback)) is not None


def may_write(model: Any) -> bool:
    """Whether this process is the chief."""
    return bool(model.distribute_strategy.extended.should_checkpoint)


def hooks(callback: Any, backups: Any) -> list[Patch]:
    """Patches for a `BackupAndRestore` that write our records."""
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


def generator_states(layers: Iterable[Any]) -> list[Any]:
    """The states of all random generators that have one.

    By default random layers of Keras 2 use operations whose state TensorFlow keeps to
    itself; with `tf.keras.backend.experimental.enable_tf_random_generator()` they have
    generators.
    """
    unique: dict[int, Any] = {}
    for layer in layers:
        owner = getattr(layer, "_random_generator", None)
        generator = getattr(owner, "_generator", None)
        if generator is not None:
            unique[id(generator)] = generator.state
    return list(unique.values())


def layers_without_generator(layers: Iterable[Any]) -> list[Any]:
    """The layers that draw random numbers from operations with a state of their own."""
    return [
        layer
        for layer in layers
        if _kind_of_generator(layer) == "legacy_stateful" and _draws(layer)
    ]


def _kind_of_generator(layer: Any) -> Any:
    return getattr(getattr(layer, "_random_generator", None), "_rng_type", None)


def _draws(layer: Any) -> bool:
    """Recurrent layers have a generator, but use it for nothing without dropout."""
    rates = ("rate", "stddev", "dropout", "recurrent_dropout")
    given = [getattr(layer, name) for name in rates if hasattr(layer, name)]
    return any(given) or not given


def value(state: Any) -> Any:
    """The value of a generator's state."""
    return state.numpy()
