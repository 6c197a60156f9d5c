"""What our callbacks want of one model, for the time of one `fit`.

A callback may not compile, and after a change of what trains the compiled step and the
optimizer disagree. The session makes them agree: `apply` gives the optimizer the
variables that train now and the model a new step; what a step needs of ours (scaled
rates, frozen layers at inference) sits on the user's objects only while it runs.

`fit` does not tell its callbacks of an exception, so a session cannot rely on
`on_train_end`. It ends with the list of callbacks, which only `fit` holds: as soon as
the exception is dealt with (see lifetime.py). Should somebody keep the traceback, and
with it the list, a later `fit` or `train_on_batch` ends it: the session's one trace on
the model between steps is an instance's `make_train_function`, the first thing that
they call.
"""

from __future__ import annotations

import functools
import inspect
import sys
import textwrap
import weakref
from collections.abc import Callable, Hashable, Iterable, Mapping
from contextlib import nullcontext
from importlib import import_module
from types import FrameType
from typing import Any, NamedTuple

from keras_finetune._engine import KERAS_3, keras, processes
from keras_finetune._engine.lifetime import when_let_go
from keras_finetune._engine.patches import Patch, patched
from keras_finetune._engine.structure import (
    all_layers,
    is_built,
    variable_key,
    weights,
)

world: Any = import_module(
    "keras_finetune._engine.keras3" if KERAS_3 else "keras_finetune._engine.keras2"
)

_GUARD = "make_train_function"


def join(model: Any) -> Session:
    """The session of the model's running `fit`, opened by the first who asks."""
    return _running(model) or Session(model)


def _running(model: Any) -> Session | None:
    """The session of the running `fit`, if any; one that is left over is closed."""
    session = getattr(model.__dict__.get(_GUARD), "session", None)
    if not isinstance(session, Session):
        return None
    if session.is_running():
        return session
    session.close()
    return None


def frozen_for_now(model: Any) -> list[Any]:
    """Single weights that callbacks of ours freeze, whatever their layer's flag says.

    On Keras 2 only the running step shows it.
    """
    session = getattr(model.__dict__.get(_GUARD), "session", None)
    return list(session._hiding) if isinstance(session, Session) else []


class Session:
    """The demands on one model's training, and the step that meets them."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.optimizer = model.optimizer
        callbacks = _list_of_callbacks(fit_frame(model))
        self._fit = _Fit(callbacks)
        self._members: list[Any] = []
        self._factors: dict[Any, Mapping[Hashable, float]] = {}
        self._hidden: dict[Any, list[Any]] = {}
        self._inference: dict[Any, list[Any]] = {}
        self._hiding: list[Any] = []
        self._hide_patches: list[Patch] = []
        self._ever: list[Any] = []
        self._parked: dict[Any, Any] = {}
        self._applied = self._applies = self._adopted = False
        self._at_close: list[Callable[[], None]] = []
        self._compiled: Any = None
        self._is_patched = self._was_hiding = False

        def make_train_function(force: bool = False) -> Any:
            if not self.is_running():
                self.close()
                return model.make_train_function(force=force)
            if force or model.train_function is None:
                self.refresh()
            return model.train_function

        make_train_function.session = self  # type: ignore[attr-defined]
        model.__dict__[_GUARD] = make_train_function

        if callbacks is not None:
            self.at_close(world.free_from_threads(callbacks))
            self.at_close(when_let_go(callbacks, self.close, world.is_plain))

    # --- what callbacks ask for --------------------------------------------------

    def scale(self, owner: Any, factors: Mapping[Hashable, float]) -> None:
        """Multiplies rates: `factors` by `variable_key`, 1 where missing."""
        self._factors[owner] = factors

    def scale_all(self, owner: Any, factor: float) -> None:
        """Multiplies the rates of all variables."""
        self.scale(owner, {variable_key(v): factor for v in weights(self.model)})

    def hide(self, owner: Any, variables: Iterable[Any]) -> None:
        """Freezes single variables of layers that train."""
        self._hidden[owner] = list(variables)

    def at_inference(self, owner: Any, layers: Iterable[Any]) -> None:
        """Lets layers behave as at inference while the model trains."""
        self._inference[owner] = list(layers)

    def expect(self, variables: Iterable[Any]) -> None:
        """Announces the variables that will train in some stage."""
        self._ever = list(variables)

    def enter(self, owner: Any) -> None:
        """Takes part in the session, until `leave`."""
        if owner not in self._members:
            self._members.append(owner)

    def leave(self, owner: Any) -> None:
        """Withdraws; the last to leave closes the session."""
        if owner in self._members:
            self._members.remove(owner)
        if not self._members:
            self.close()

    # --- what they get -----------------------------------------------------------

    def begin(self) -> None:
        """Applies the demands, unless that is done or a stage is about to do it."""
        if not self._applied and not self._ever:
            self.apply()

    def apply(self) -> None:
        """Makes optimizer and step agree with the flags and demands of now."""
        self._applied = self._applies = True
        world.pull_state(self.model)
        self._rehide()
        self._adopt()
        world.renew_compiled_state(self.model)
        self.refresh()
        self._applies = False

    def _rehide(self) -> None:
        # Flags of layers reach into their variables, so single ones are frozen anew.
        layers = all_layers(self.model)
        world.unhide(layers, self._hiding)
        unique = {id(v): v for hidden in self._hidden.values() for v in hidden}
        # Only what trains: `unhide` must not light what others have frozen.
        self._hiding = [v for v in unique.values() if world.trains(v)]
        self._hide_patches = world.hide(layers, self._hiding)

    def _adopt(self) -> None:
        model, hiding = self.model, self._hiding
        now = world.slot_variables(model, model.trainable_variables, hiding)
        known = {id(v) for v in now}
        ever = world.slot_variables(model, self._ever, hiding)
        later = [v for v in ever if id(v) not in known]
        if later:
            order = {id(v): i for i, v in enumerate(weights(model))}
            later = sorted((*now, *later), key=lambda v: order[id(v)])
        # Slots from before this session serve only what trains now; those of later
        # stages are made once, at the start, and anew.
        first, self._adopted = not self._adopted, True
        if first and (later or hiding):
            world.warn_of_checkpoints(model.optimizer, callbacks_of_fit(model))
        world.adopt(model, now, later, hiding, self._parked, first)

    def refresh(self) -> None:
        """Gives the model a step that has not been traced yet."""
        model = self.model
        compiled = world.new_train_function(model)
        world.hold_state(model)
        patches = [*self._rate_patches(), *self._inference_patches()]
        patches += self._hide_patches
        self._compiled, self._is_patched = compiled, bool(patches)
        around = world.around_step

        def step(*args: Any, **kwargs: Any) -> Any:
            with patched(patches), around():
                return compiled(*args, **kwargs)

        if patches or around is not nullcontext:
            model.train_function = step

    def factor(self, variable: Any) -> float:
        """The factor on the base rate of a variable, all demands together."""
        factor = 1.0
        for factors in self._factors.values():
            factor *= factors.get(variable_key(variable), 1.0)
        return factor

    def _rate_patches(self) -> list[Patch]:
        if not self._factors:
            return []
        variables = {id(v): v for v in self.model.trainable_variables}
        factors = {key: self.factor(v) for key, v in variables.items()}
        if all(factor == 1.0 for factor in factors.values()):
            return []
        patches: list[Patch] = []
        for leaf in world.leaves(self.optimizer):
            multipliers = {
                world.slot_key(leaf, v): factors[key]
                for key, v in variables.items()
                if factors[key] != 1.0
            }
            patches += world.rate_patches(leaf, multipliers)
        return patches

    def _inference_patches(self) -> list[Patch]:
        layers = {id(x): x for asked in self._inference.values() for x in asked}
        return [
            Patch(layer, "call", _without_training(layer.call))
            for layer in layers.values()
            if "training" in inspect.signature(layer.call).parameters
        ]

    # --- its end -----------------------------------------------------------------

    def is_running(self) -> bool:
        """Whether the `fit` that opened the session is the one that runs now.

        A later `fit` has another list of callbacks; `train_on_batch` after an
        interrupted `fit` has no `fit` that it is called from. (`model.history` does
        not tell: on Keras 2 `predict` within a callback replaces it.)
        """
        return self._fit.runs(self.model)

    def at_close(self, act: Callable[[], None]) -> None:
        """Has `act` called when the session ends."""
        self._at_close.append(act)

    def close(self) -> None:
        """Leaves the model, its optimizer and its step as plain Keras has them."""
        while self._at_close:
            self._at_close.pop()()
        guard = self.model.__dict__.get(_GUARD)
        if getattr(guard, "session", None) is self:
            self._put_back()
            # Last: should the above fail, the next `fit` tries again, and says so.
            self.model.__dict__.pop(_GUARD, None)

    def _put_back(self) -> None:
        model = self.model
        world.pull_state(model)
        # Remembered, for another try if this one fails.
        self._was_hiding = self._was_hiding or bool(self._hiding)
        self._factors, self._hidden, self._inference = {}, {}, {}
        self._rehide()
        self._ever = []
        if model.optimizer is not self.optimizer:
            # Compiled anew in the meantime: no step and no slots of ours. But JAX and
            # PyTorch build that optimizer before they ask for a step, for what trained
            # while we were hiding.
            if self._was_hiding and world.is_built(model.optimizer):
                self._adopt()
            return
        if self._applied:
            self._adopt()
        # `apply` may have been interrupted: then the step is that of other flags.
        if self._was_hiding or self._applies:
            world.renew_compiled_state(model)
        if self._is_patched or self._was_hiding or self._applies:
            world.new_train_function(model)
        elif self._compiled is not None:
            model.train_function = self._compiled


def _without_training(call: Callable[..., Any]) -> Callable[..., Any]:
    position = list(inspect.signature(call).parameters).index("training")

    @functools.wraps(call)
    def at_inference(*args: Any, **kwargs: Any) -> Any:
        if len(args) > position:
            args = (*args[:position], False, *args[position + 1 :])
        else:
            kwargs["training"] = False
        return call(*args, **kwargs)

    return at_inference


# --- optimizers, as callbacks see them ---------------------------------------------


def check(model: Any, *, scale: bool = False) -> None:
    """Raises, before anything has changed, if this model cannot be worked on.

    Args:
        model: The model.
        scale: Whether rates will be scaled.
    """
    optimizer = getattr(model, "optimizer", None)
    if optimizer is None:
        raise ValueError(
            "The model must be compiled with an optimizer before `fit`. "
            f"Received: model={model!r}, optimizer=None"
        )
    world.check_optimizer(optimizer)
    if scale:
        for leaf in world.leaves(optimizer):
            world.check_scalable(leaf)
    if fit_frame(model) is None:
        # There is no step of Keras to change, and nothing would be frozen or scaled.
        raise ValueError(
            "This callback acts on the training step of `model.fit`; a loop of one's "
            "own cannot use it. To train with `DistributedDataParallel` of PyTorch, "
            "call it in the model's `train_step`. "
            f"Received: model={model!r}, which is not in `fit`"
        )
    build(model)


def build(model: Any) -> None:
    """Gives a model that has no weights yet those that the running `fit` is to train.

    Keras does so itself before `fit` calls back, on JAX and PyTorch.
    """
    frame = fit_frame(model)
    if frame is not None and not is_built(model):
        world.build(model, frame.f_locals)


def warn_inexact(model: Any) -> None:
    """Warns if the optimizer is one that cannot be carried over exactly."""
    world.warn_inexact(model.optimizer)


def learning_rate(model: Any, variable: Any | None = None) -> float:
    """The base learning rate, of the optimizer that updates `variable` if given."""
    optimizer = model.optimizer
    if variable is None:
        return world.learning_rate(world.leaves(optimizer)[0])
    return world.learning_rate(world.leaf_of(optimizer, variable))


def is_scheduled(model: Any) -> bool:
    """Whether the base rate is computed by a schedule, so that it can't be assigned."""
    return any(world.is_scheduled(leaf) for leaf in world.leaves(model.optimizer))


def set_learning_rate(model: Any, change: Callable[[float], float]) -> None:
    """Assigns `change(rate)` to every base rate that can be assigned."""
    for leaf in world.leaves(model.optimizer):
        if not world.is_scheduled(leaf):
            world.set_learning_rate(leaf, change(world.learning_rate(leaf)))


def steps_taken(model: Any) -> int:
    """The steps that the optimizer has taken."""
    return int(world.iterations(model.optimizer))


def optimizer_size(model: Any) -> int:
    """The number of variables that a file holds of the optimizer."""
    return len(world.in_file(model.optimizer))


def epoch_of_checkpoint(model: Any) -> int | None:
    """The epoch in which the checkpoint was written that `fit` resumes from, if any."""
    return world.epoch_of_checkpoint(model)


def make_room(model: Any, variables: list[Any]) -> None:
    """Lets a backup be loaded in which all these variables have slots."""
    _running(model)
    world.make_room(model, variables)


def announce(model: Any, message: str) -> None:
    """Prints in lines of 80 characters, once, however many processes train."""
    if processes.is_chief(model):
        print("\n" + textwrap.fill(message, 80, subsequent_indent="  "), flush=True)


def frozen_one_by_one(model: Any) -> list[Any]:
    """Single variables that were frozen although their layer trains, as by LoRA."""
    return world.frozen_one_by_one(all_layers(model))


class _Hook(NamedTuple):
    owner: Any
    prepare: Callable[[int], None]
    last: bool
    fit: _Fit


# Whose file is awaited, by the callback that awaits it.
_AWAITED: weakref.WeakKeyDictionary[Any, weakref.ref[Any]] = weakref.WeakKeyDictionary()


def await_file(
    model: Any, owner: Any, prepare: Callable[[int], None], *, last: bool = False
) -> None:
    """Prepares a model's optimizer for files that were saved while we were at work.

    `BackupAndRestore` loads in `on_train_begin`, before or after ours; Keras skips an
    optimizer file that does not fit the optimizer as it stands. Callbacks wait from
    `set_model`, which all of them receive before any begins.

    Args:
        model: The model.
        owner: Who waits, until `await_no_file`.
        prepare: Called with the number of variables in the file.
        last: Whether to ask this owner after all others.
    """
    await_no_file(owner)
    optimizer = getattr(model, "optimizer", None)
    if optimizer is None:
        return
    hooks = _hooks(optimizer)
    if hooks is None:
        hooks = []
        patch = world.load_patch(optimizer, _preparer(model, hooks))
        if patch is None:
            return
        patch.value.hooks = hooks
        optimizer.__dict__[patch.name] = patch.value
    hooks.append(_Hook(owner, prepare, last, _Fit(_list_above())))
    hooks.sort(key=lambda hook: hook.last)
    _AWAITED[owner] = weakref.ref(optimizer)


def await_no_file(owner: Any) -> None:
    """Takes `await_file` back."""
    optimizer = _AWAITED.pop(owner, lambda: None)()
    hooks = _hooks(optimizer)
    if hooks is not None:
        hooks[:] = [hook for hook in hooks if hook.owner is not owner]
        if not hooks:
            del optimizer.__dict__["load_own_variables"]


def _hooks(optimizer: Any) -> list[_Hook] | None:
    attributes = getattr(optimizer, "__dict__", {})
    return getattr(attributes.get("load_own_variables"), "hooks", None)


def _preparer(model: Any, hooks: list[_Hook]) -> Callable[[int], None]:
    def prepare(count: int) -> None:
        for hook in list(hooks):
            if hook.fit.runs(model):
                hook.prepare(count)
            else:
                await_no_file(hook.owner)  # of a `fit` that was interrupted

    return prepare


def callbacks_of_fit(model: Any) -> list[Any]:
    """The callbacks of the `fit` that we are called from, lists in lists included."""
    frame = fit_frame(model)
    return [] if frame is None else _flat(frame.f_locals.get("callbacks"))


def _flat(callbacks: Any) -> list[Any]:
    """What `fit` was given: nothing, a callback, a list, or a `CallbackList`."""
    callbacks = getattr(callbacks, "callbacks", callbacks)
    if isinstance(callbacks, Iterable):
        return [one for some in callbacks for one in _flat(some)]
    return [callbacks]


def fit_frame(model: Any) -> FrameType | None:
    """The frame of the `fit` of this model that we are called from, if any."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name == "fit" and frame.f_locals.get("self") is model:
            return frame
        frame = frame.f_back
    return None


def _list_of_callbacks(frame: FrameType | None) -> Any | None:
    """Keras's list of the callbacks of a `fit`, once `fit` has made it."""
    callbacks = None if frame is None else frame.f_locals.get("callbacks")
    return callbacks if isinstance(callbacks, keras.callbacks.CallbackList) else None


def _list_above() -> Any | None:
    """Keras's list of callbacks that we are called by; it may be making itself."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        owner = frame.f_locals.get("self")
        if isinstance(owner, keras.callbacks.CallbackList):
            return owner
        frame = frame.f_back
    return None


class _Fit:
    """One `fit`, told from others by the list of callbacks that it has made."""

    def __init__(self, callbacks: Any | None) -> None:
        self._list = None if callbacks is None else weakref.ref(callbacks)

    def runs(self, model: Any) -> bool:
        """Whether this is the `fit` of the model that we are called from."""
        frame = fit_frame(model)
        if frame is None:
            return False
        if self._list is None:
            return _list_of_callbacks(frame) is None
        known = self._list()
        return known is not None and known is _list_of_callbacks(frame)
