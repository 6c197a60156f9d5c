"""A record of ours beside every file that `BackupAndRestore` writes.

Keras saves weights, optimizer and epoch. It does not save where the generators of
dropout stand, nor what a callback knows (which stage, how long a metric has stalled),
and on Keras 3 its two files can be torn by a kill. So each time before Keras saves, a
record of the same moment is written, named by the step: whatever file survives has its
record. Files of Keras stay as they are; the records go when Keras deletes its backup.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np

from keras_finetune._engine import KERAS_3, fit, keras, optimizer, processes
from keras_finetune._engine.active import lane
from keras_finetune._engine.backups._interface import BackupLane
from keras_finetune._engine.patches import Patch
from keras_finetune._engine.structure import all_layers

_world = "keras3" if KERAS_3 else "keras2"
_lane: BackupLane = import_module(f"keras_finetune._engine.backups._{_world}").running()

_PREFIX, _SUFFIX = "keras_finetune_step_", ".json"
_FILE = "keras_finetune_file_"
# The file that is being written, the one before, and its copy (`double_checkpoint`).
_KEPT = 3


class Kept(NamedTuple):
    """What a callback keeps with each backup.

    Args:
        state: Gives the state to record, made of what JSON knows.
        observe: Called with the epoch and its logs before a backup at its end.
        files: Gives the files that the state names, and what gives their content.
    """

    state: Callable[[], dict[str, Any]]
    observe: Callable[[int, Mapping[str, Any]], None]
    files: Callable[[], dict[str, Callable[[], bytes]]]


def of_fit(model: Any) -> Backups:
    """Return the backups of the `fit` that runs, one object for all callbacks."""
    for callback in _callbacks(model):
        for present in _present(callback):
            if present.belongs_here():
                return present
            present.unhook()  # left over from a `fit` that was interrupted
    return Backups(model)


class Backups:
    """The `BackupAndRestore` callbacks of one `fit`.

    Args:
        model: The model.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self._fit = fit.current(model)
        self._kept: dict[str, Kept] = {}
        self._restored: dict[str, Any] | None = None
        self._written: set[str] = set()
        self._epoch = 0
        self._hooked: list[Patch] = []

    def keep(
        self,
        name: str,
        state: Callable[[], dict[str, Any]],
        observe: Callable[[int, Mapping[str, Any]], None] = lambda epoch, logs: None,
        files: Callable[[], dict[str, Callable[[], bytes]]] = dict,
    ) -> None:
        """Record a state under a name before each backup, from now to `unhook`."""
        self._kept[name] = Kept(state, observe, files)
        self._hook()

    def latest(self, name: str) -> dict[str, Any] | None:
        """Return a state in the record of the last step that was recorded, if any."""
        records = [
            (step, directory)
            for directory in map(_lane.directory, _callbacks(self.model))
            for step in _steps(directory)
        ]
        for step, directory in sorted(records, reverse=True):
            record = _read(directory, step)
            if record is not None:
                return record.get(name)
        return None

    def belongs_here(self) -> bool:
        """Return whether these are the backups of the `fit` that we are called from."""
        return self._fit.runs()

    def _hook(self) -> None:
        for callback in _callbacks(self.model):
            if self in _present(callback):
                continue
            for patch in _lane.hooks(callback, self):
                patch.value.backups = self
                callback.__dict__[patch.name] = patch.value
                self._hooked.append(patch)

    def unhook(self) -> None:
        """Leaves the callbacks as Keras made them."""
        for callback, name, ours in self._hooked:
            if callback.__dict__.get(name) is ours:
                del callback.__dict__[name]
        self._hooked = []

    def restore(self, name: str) -> dict[str, Any] | None:
        """Return a state in the record of the backup in use; generators are put back.

        That is the backup whose step the optimizer has; `None` if there is none.
        """
        if self._restored is None:
            records = map(self.record_of, _callbacks(self.model))
            self._restored = next((one for one in records if one is not None), {})
            if self._restored:
                _set_generators(self.model, self._restored["generators"])
                _announce_what_starts_again(self.model)
        state = self._restored.get(name)
        return None if state is None else dict(state)

    def file(self, name: str) -> bytes | None:
        """Return the content of a file that a restored state names, if it is there."""
        for directory in map(_lane.directory, _callbacks(self.model)):
            path = _lane.files.join(directory, _FILE + name)
            if _lane.files.exists(path):
                self._written.add(path)
                with _lane.files.open(path, "rb") as file:
                    return bytes(file.read())
        return None

    def begin(self, epoch: int) -> None:
        """Take note of the epoch that runs."""
        self._epoch = epoch

    # --- what the hooks call -----------------------------------------------------

    def is_running(self) -> bool:
        """Whether a hook is called from a `fit`, not left over from a broken one."""
        if fit.frame_of_fit(self.model) is None:
            self.unhook()
            return False
        return True

    def before_epoch_end(self, epoch: int, logs: Mapping[str, Any]) -> None:
        """Return the logs of an epoch, before the backup at its end is written."""
        self._epoch = epoch + 1
        for kept in self._kept.values():
            kept.observe(epoch, logs)

    def before_save(self, callback: Any) -> None:
        """Write the record of this step."""
        lane.pull_state(self.model)
        step = optimizer.steps_taken(self.model)
        record = {
            "epoch": self._epoch,
            "generators": [state.tolist() for state in _generators(self.model)],
            **{name: kept.state() for name, kept in self._kept.items()},
        }
        if _lane.may_write(self.model):
            directory = _lane.directory(callback)
            if not _lane.files.exists(directory):
                _lane.files.makedirs(directory)
            files: dict[str, Callable[[], bytes]] = {}
            for kept in self._kept.values():
                files.update(kept.files())
            self._write(directory, files)
            record["files"] = list(files)
            with _lane.files.open(_path(directory, step), "w") as file:
                file.write(json.dumps(record))
            for old in [s for s in _steps(directory) if s != step][: -(_KEPT - 1)]:
                _lane.files.remove(_path(directory, old))
            self._remove_unnamed(directory)

    def _write(self, directory: str, files: Mapping[str, Callable[[], bytes]]) -> None:
        """Write files, before the record that names them, and each only once.

        One that a killed process has left may be torn: it is written again, unless a
        record has named it.
        """
        for name, content in files.items():
            path = _lane.files.join(directory, _FILE + name)
            if path not in self._written:
                with _lane.files.open(path, "wb") as file:
                    file.write(content())
                self._written.add(path)

    def _remove_unnamed(self, directory: str) -> None:
        if not self._written:
            return
        records = [_read(directory, step) or {} for step in _steps(directory)]
        named = {_FILE + name for record in records for name in record.get("files", ())}
        for name in map(str, _lane.files.listdir(directory)):
            if name.startswith(_FILE) and name not in named:
                path = _lane.files.join(directory, name)
                _lane.files.remove(path)
                self._written.discard(path)

    def record_of(self, callback: Any) -> dict[str, Any] | None:
        """Return the record of the step that the optimizer has taken, if any."""
        step = optimizer.steps_taken(self.model)
        return _read(_lane.directory(callback), step) if step else None


def resumes(model: Any) -> bool:
    """Whether the `fit` that runs has a backup to start from."""
    return any(_lane.has_backup(callback) for callback in _callbacks(model))


def _present(callback: Any) -> list[Backups]:
    hook = callback.__dict__.get("on_epoch_end")
    present = getattr(hook, "backups", None)
    return [present] if isinstance(present, Backups) else []


def _callbacks(model: Any) -> list[Any]:
    kind = keras.callbacks.BackupAndRestore
    return [c for c in fit.callbacks_of_fit(model) if isinstance(c, kind)]


# --- records ---------------------------------------------------------------------


def _path(directory: str, step: int) -> str:
    return str(_lane.files.join(directory, f"{_PREFIX}{step}{_SUFFIX}"))


def _steps(directory: str) -> list[int]:
    if not _lane.files.exists(directory):
        return []
    names = [str(name) for name in _lane.files.listdir(directory)]
    steps = [
        name[len(_PREFIX) : -len(_SUFFIX)]
        for name in names
        if name.startswith(_PREFIX) and name.endswith(_SUFFIX)
    ]
    return sorted(int(step) for step in steps if step.isdigit())


def _read(directory: str, step: int) -> dict[str, Any] | None:
    path = _path(directory, step)
    if not _lane.files.exists(path):
        return None
    with _lane.files.open(path, "r") as file:
        text = file.read()
    try:
        return dict(json.loads(text))
    except ValueError:
        return None  # killed while it was written: its backup has not been begun


# --- generators ------------------------------------------------------------------


def _generators(model: Any) -> list[Any]:
    return [_lane.value(state) for state in _lane.generator_states(all_layers(model))]


def _set_generators(model: Any, values: list[Any]) -> None:
    states = _lane.generator_states(all_layers(model))
    if len(states) != len(values):
        raise ValueError(
            "The backup is of a model with other random layers: it holds "
            f"{len(values)} generators. Received: a model with {len(states)}"
        )
    for state, value in zip(states, values, strict=True):
        like = _lane.value(state)
        state.assign(np.asarray(value, like.dtype).reshape(like.shape))


def _announce_what_starts_again(model: Any) -> None:
    layers = _lane.layers_without_generator(all_layers(model))
    if layers:
        processes.announce(
            model,
            "The random numbers of these layers start again, so the result will differ "
            f"from an uninterrupted run: {[layer.name for layer in layers]}. Keras 2 "
            "saves them in no file unless the script calls "
            f"`{keras.__name__}.backend.experimental.enable_tf_random_generator()` "
            "before it builds the model.",
        )
