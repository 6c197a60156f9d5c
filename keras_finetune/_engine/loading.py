"""Files that `fit` resumes from, and an optimizer that must be ready for them.

`BackupAndRestore` loads in `on_train_begin`, before or after our callbacks; Keras skips
an optimizer file that does not fit the optimizer as it stands. Callbacks wait for a
file from `set_model`, which all of them receive before any begins.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

from keras_finetune._engine import fit, session
from keras_finetune._engine.active import lane


class _Waiting(NamedTuple):
    owner: Any
    prepare: Callable[[int], None]
    last: bool


# Whose file is awaited, by the callback that awaits it.
_OPTIMIZERS: weakref.WeakKeyDictionary[Any, weakref.ref[Any]] = (
    weakref.WeakKeyDictionary()
)


def await_file(
    model: Any, owner: Any, prepare: Callable[[int], None], *, last: bool = False
) -> None:
    """Prepare a model's optimizer for files that were saved while we were at work.

    Args:
        model: The model.
        owner: Who waits, until `await_no_file` or until `fit` ends.
        prepare: Called with the number of variables in the file.
        last: Whether to ask this owner after all others.
    """
    await_no_file(owner)
    optimizer = getattr(model, "optimizer", None)
    if optimizer is None or fit.frame_of_fit(model) is None:
        return
    running = session.join(model)
    waiting = _waiting(optimizer)
    if waiting is None:
        waiting = []
        patch = lane.load_patch(optimizer, _asking(waiting))
        if patch is None:
            return
        patch.value.waiting = waiting
        optimizer.__dict__[patch.name] = patch.value
    waiting.append(_Waiting(owner, prepare, last))
    waiting.sort(key=lambda one: one.last)
    _OPTIMIZERS[owner] = weakref.ref(optimizer)
    running.at_close(lambda: await_no_file(owner))


def await_no_file(owner: Any) -> None:
    """Take `await_file` back."""
    optimizer = _OPTIMIZERS.pop(owner, lambda: None)()
    waiting = _waiting(optimizer)
    if waiting is not None:
        waiting[:] = [one for one in waiting if one.owner is not owner]
        if not waiting:
            del optimizer.__dict__["load_own_variables"]


def _waiting(optimizer: Any) -> list[_Waiting] | None:
    attributes = getattr(optimizer, "__dict__", {})
    return getattr(attributes.get("load_own_variables"), "waiting", None)


def _asking(waiting: list[_Waiting]) -> Callable[[int], None]:
    def prepare(count: int) -> None:
        for one in list(waiting):
            one.prepare(count)

    return prepare
