"""What our callbacks demand of one model, for the time of one `fit`.

A callback may not compile, and after a change of what trains the compiled step and the
optimizer disagree. The session makes them agree: `apply` gives the optimizer the
variables that train now and the model a new step; what a step needs of ours (scaled
rates, frozen layers at inference) sits on the user's objects only while it runs.

It ends with `fit`: when the last callback leaves, or where an exception does (see
fit.py). Should something slip through, a later `fit` or `train_on_batch` ends it: the
session's one trace on the model between steps is an instance's `make_train_function`,
the first thing that they call.
"""

from __future__ import annotations

import enum
import functools
import inspect
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from keras_finetune._engine import bias_correction, fit
from keras_finetune._engine.active import lane
from keras_finetune._engine.demands import Demands, Schedule
from keras_finetune._engine.evaluation import Evaluation
from keras_finetune._engine.lane import Scaling, SetAside, Trained, Unsaid
from keras_finetune._engine.patches import Patch, patched
from keras_finetune._engine.structure import all_layers, variable_key, weights

_GUARD = "make_train_function"


def join(model: Any) -> Session:
    """Return the session of the model's running `fit`, opened by the first who asks."""
    session = _of(model)
    if session is not None and session.is_running():
        return session
    end(model)
    return Session(model)


def end(model: Any) -> None:
    """Close a session that is left over from another `fit`, if there is one."""
    session = _of(model)
    if session is not None and not session.is_running():
        session.close()


def abandon(model: Any) -> None:
    """Close the session of a `fit` that fails before it has called any hook."""
    session = _of(model)
    if session is not None:
        session.close()


def frozen_for_now(model: Any) -> list[Any]:
    """Return single weights that we freeze, whatever their layer's flag says.

    On Keras 2 only the running step shows it.
    """
    session = _of(model)
    return [] if session is None else list(session.frozen)


def _of(model: Any) -> Session | None:
    session = getattr(model.__dict__.get(_GUARD), "session", None)
    return session if isinstance(session, Session) else None


class Phase(enum.Enum):
    """How far a session has come."""

    OPEN = enum.auto()  # nothing has been changed
    CHANGING = enum.auto()  # optimizer, flags and step may disagree
    APPLIED = enum.auto()  # they agree with the demands


class Session:
    """The demands on one model's training, and the step that meets them."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.optimizer = model.optimizer
        self.frozen: list[Any] = []
        self._fit = fit.current(model)
        self._phase = Phase.OPEN
        self._begins = True
        self._members: set[Any] = set()
        self._demands = Demands()
        self._unsaid = Unsaid()
        self._freezing: list[Patch] = []
        self._aside: SetAside = {}
        self._at_close: list[Callable[[], None]] = []
        self._evaluation = Evaluation(model)
        # An optimizer that was not built: a `fit` without a step leaves it so.
        built = lane.is_built(self.optimizer)
        self._not_built = None if built else lane.snapshot(self.optimizer)
        self._used: bool | None = None
        self._steps_before: int | None = None
        # A step that holds nothing of ours, and may stay when the session ends.
        self._plain_step: Any = None

        def make_train_function(force: bool = False) -> Any:
            if not self.is_running():
                self.close()
                return model.make_train_function(force=force)
            if self._phase is Phase.OPEN:
                return type(model).make_train_function(model, force=force)
            if force or model.train_function is None:
                self._renew_step()
            return model.train_function

        make_train_function.session = self  # type: ignore[attr-defined]
        model.__dict__[_GUARD] = make_train_function
        self._fit.watch(self.close)

    # --- what callbacks ask for ------------------------------------------------------

    def demand(self, owner: Any, **changes: Any) -> None:
        """Take part in the session, until `leave`; `changes` are fields of `Demand`."""
        self._members.add(owner)
        if "features" in changes and self._phase is Phase.APPLIED:
            # A file that `fit` resumes from may have been met before our turn came.
            self._phase = Phase.CHANGING
        self._demands.change(owner, **changes)

    def follow(self, owner: Any, schedule: Schedule) -> None:
        """Let updates follow a schedule, from the next step on."""
        self.demand(owner, schedule=schedule)
        if self._phase is Phase.APPLIED:
            self.apply()
        else:
            self.begin()

    def make_room(self, variables: Sequence[Any]) -> None:
        """Let a backup be loaded in which all these variables have slots."""
        self._phase = Phase.CHANGING
        lane.make_room(self.model, variables)

    def log_quietly(self, *keys: str) -> None:
        """Keep keys that a callback writes into the logs out of the progress bar."""
        self._fit.hide_from_bar(keys)

    def is_used(self) -> bool:
        """Return whether a step of this `fit` asks the optimizer, as far as known.

        A model with optimizers of its own in `train_step` never does; that is said
        once.
        """
        if self._used is None:
            self._used = lane.iterations(self.optimizer) != self._steps_before
            if not self._used and self.trained():
                warnings.warn(
                    "No step of this epoch has used the optimizer that the model was "
                    "compiled with, so learning rates and multipliers on them change "
                    "nothing. Does its `train_step` have optimizers of its own?",
                    stacklevel=3,
                )
        return self._used

    def at_close(self, act: Callable[[], None]) -> None:
        """Have `act` called when the session ends."""
        self._at_close.append(act)

    def leave(self, owner: Any) -> None:
        """Withdraw; the last to leave closes the session."""
        self._members.discard(owner)
        if self._members:
            return
        if self._unsaid.patches:
            # Flags that decide the order of weights are set last: on Keras 2
            # `EarlyStopping` may put the best weights back as it ends.
            self._fit.after_callbacks(self.close)
        else:
            self.close()

    # --- what they get ---------------------------------------------------------------

    def begin(self) -> None:
        """Apply the demands, unless that is done or a stage is about to do it."""
        if self._phase is not Phase.APPLIED and not self._demands.later():
            self.apply()

    def apply(self) -> None:
        """Make flags, optimizer and compiled functions agree with the demands."""
        self._phase = Phase.CHANGING
        lane.pull_state(self.model)
        self._set_flags(ends=False)
        self._rebuild()
        self._begins = False
        lane.renew_compiled_state(self.model)
        self._end_features()
        self._evaluation.renew_if_stale()
        self._renew_step()
        self._phase = Phase.APPLIED
        if self._steps_before is None:
            self._steps_before = lane.iterations(self.optimizer)

    def trained(self) -> list[Any]:
        """Return the variables that a step trains now."""
        frozen = {id(v) for v in self.frozen}
        return [v for v in self._trained_by_flags() if id(v) not in frozen]

    def multiplier(self, variable: Any) -> float:
        """Return the multiplier on a variable's rate, all demands together."""
        return self._demands.multiplier(variable)

    def factor(self) -> float:
        """Return what a schedule has multiplied the rate of the last update by."""
        schedule = self._demands.schedule()
        if schedule is None:
            return 1.0
        return schedule.factor_of(lane.updates(self.optimizer) - 1)

    def _trained_by_flags(self) -> list[Any]:
        with patched(self._unsaid.patches):
            return lane.trained(self.model)

    def _set_flags(self, *, ends: bool) -> None:
        model, layers = self.model, all_layers(self.model)
        lane.thaw(layers, self.frozen)
        self.frozen, self._freezing = [], []
        for flags in self._demands.flags():
            self._unsaid = lane.set_flags(model, flags, ends=ends)
        if ends:
            return
        trains = {id(v) for v in self._trained_by_flags()}
        asked = (*self._demands.frozen(), *self._unsaid.frozen)
        unique = {id(v): v for v in asked}
        # Only what trains: `thaw` must not thaw what others have frozen.
        self.frozen = [
            v for key, v in unique.items() if key in trains and lane.has_gradient(v)
        ]
        self._freezing = lane.freeze(layers, self.frozen)

    def _rebuild(self) -> None:
        model, begins = self.model, self._begins
        hidden = {id(v) for v in self.frozen}
        now = lane.slot_variables(model, self._trained_by_flags(), hidden)
        later: list[Any] = []
        stages = self._demands.later()
        known = {id(v) for v in now}
        if any(id(v) not in known for v in stages):
            ever = known | {id(v) for v in lane.slot_variables(model, stages, hidden)}
            later = [v for v in weights(model) if id(v) in ever]
        if begins and (later or self.frozen):
            callbacks = fit.callbacks_of_fit(model)
            lane.warn_of_checkpoints(model.optimizer, callbacks)
        lane.rebuild(model, Trained(now, later, self.frozen, begins), self._aside)

    def _renew_step(self) -> None:
        """Give the model a step that has not been traced yet."""
        model = self.model
        resting, features = self._demands.at_inference(), self._demands.features()
        if features is not None:
            with patched(self._unsaid.patches):
                resting += features.resting(self.trained(), resting)
        patches = [*self._rate_patches(), *_inference_patches(resting)]
        patches += [*self._freezing, *self._unsaid.patches]
        feeding = None if features is None else features.begin()
        if feeding is None:
            compiled = lane.new_train_function(model)
        else:
            compiled = feeding.train_function()
            patches += feeding.patches
        lane.hold_state(model)
        self._plain_step = None if patches else compiled

        def step(*args: Any, **kwargs: Any) -> Any:
            with patched(patches), lane.around_step():
                return compiled(*args, **kwargs)

        model.train_function = self._fit.guarded(step)
        if features is not None:
            features.begin_evaluation()

    def _end_features(self) -> None:
        features = self._demands.features()
        if features is not None:
            features.end()

    def _rate_patches(self) -> list[Patch]:
        trained = {id(v): v for v in self._trained_by_flags()}.values()
        multipliers = [(v, self.multiplier(v)) for v in trained]
        begun = [(v, self._demands.begun(v)) for v in trained]
        schedule, factor, momentum = self._demands.schedule(), None, None
        if schedule is not None:
            start, momenta = schedule.start, schedule.momenta
            factor = lane.at_update(self.optimizer, schedule.factors, start)
            if momenta:
                momentum = lane.at_update(self.optimizer, momenta, start)
        elif all(m == 1.0 for _, m in multipliers) and not any(n for _, n in begun):
            return []
        patches: list[Patch] = []
        for inner in lane.inner_optimizers(self.optimizer):
            starts = {lane.slot_key(inner, v): n for v, n in begun if n}
            scaling = Scaling(
                {lane.slot_key(inner, v): m for v, m in multipliers if m != 1.0},
                factor,
                momentum,
                bias_correction.from_starts(inner, starts, schedule),
            )
            patches += lane.rate_patches(inner, scaling)
        return patches

    # --- its end ---------------------------------------------------------------------

    def is_running(self) -> bool:
        """Return whether the `fit` that opened the session is the one that runs now."""
        return self._fit.runs()

    def close(self) -> None:
        """Leave the model, its optimizer and its step as plain Keras has them."""
        if _of(self.model) is not self:
            return
        while self._at_close:
            self._at_close.pop()()
        if self._phase is not Phase.OPEN:
            self._put_back()
        self._fit.let_go()
        # Last: should the above fail, the next `fit` tries again, and says so.
        self.model.__dict__.pop(_GUARD, None)

    def _put_back(self) -> None:
        model = self.model
        was_frozen, was_unsaid = bool(self.frozen), self._unsaid
        interrupted, self._phase = self._phase is Phase.CHANGING, Phase.CHANGING
        self._begins = False
        self._end_features()
        lane.pull_state(model)
        self._set_flags(ends=True)
        self._demands.keep_flags_only()
        if model.optimizer is not self.optimizer:
            # Compiled again in the meantime: no step and no slots of ours. But JAX and
            # PyTorch build that optimizer before they ask for a step, for what trained
            # while some of it was frozen.
            if was_frozen and lane.is_built(model.optimizer):
                self._rebuild()
            return
        self._unsaid = Unsaid()
        if self._not_built is not None and lane.iterations(self.optimizer) == 0:
            self._not_built.put_back()
        else:
            self._rebuild()
        lane.renew_compiled_state(model)
        changed = was_frozen or was_unsaid.patches or interrupted
        if changed or self._plain_step is None:
            lane.new_train_function(model)
        else:
            model.train_function = self._plain_step
        self._evaluation.renew_if_stale()


def _inference_patches(layers: Sequence[Any]) -> list[Patch]:
    return [
        Patch(layer, "call", _without_training(layer.call))
        for layer in layers
        if "training" in inspect.signature(layer.call).parameters
    ]


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


def training_variables(model: Any) -> list[Any]:
    """Return the weights that train now, each once."""
    frozen = {id(variable) for variable in frozen_for_now(model)}
    unique = {
        variable_key(variable): variable
        for variable in model.trainable_variables
        if id(variable) not in frozen
    }
    return list(unique.values())


def later_variables(model: Any) -> list[Any]:
    """Return the weights that train in any stage of the running `fit`."""
    session = _of(model)
    return [] if session is None else session._demands.later()
