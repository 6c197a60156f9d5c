"""What the schedules share: where a cycle begins, how long it is, what it goes with."""

from __future__ import annotations

import warnings
from array import array
from collections.abc import Callable, Sequence
from typing import Any, Literal

from keras_finetune import _checks
from keras_finetune._engine import backups, fit, optimizer, session
from keras_finetune._engine.demands import Schedule
from keras_finetune._rules import advice
from keras_finetune._schedule.cycles import in_cycles, in_pieces
from keras_finetune.callbacks._callback import FineTuningCallback
from keras_finetune.callbacks.gradual_unfreeze import GradualUnfreeze

_PER = ("run", "stage")
_POINTS = 100  # of the history of an epoch


class Scheduled(FineTuningCallback):
    """A schedule of the learning rate, worked out for the updates of one `fit`.

    Args:
        per: `"run"` or `"stage"`: what one cycle spans.

    Attributes:
        history: The rates in the order of the steps, for `plot_history`: dictionaries
            of `epoch` (counted from 0) and `learning_rate`, that of the optimizer times
            the factor; of a long epoch about a hundred, the last step among them.
    """

    # Whether it goes with an optimizer that has a `LearningRateSchedule` of its own.
    multiplies_schedules = False
    adds = ("learning_rate",)

    def __init__(self, per: Literal["run", "stage"]) -> None:
        super().__init__()
        self.per = _checks.choice("per", per, _PER)
        self.history: list[dict[str, float]] = []

    def factors(self, updates: int, cycle: int = 0) -> list[float]:
        """Return the factor on the learning rate in each update of a cycle.

        Args:
            updates: The number of updates of the optimizer in one cycle.
            cycle: Which cycle, counted from 0; with `per="stage"` there are several.
        """
        raise NotImplementedError

    def momenta(self, updates: int, cycle: int = 0) -> list[float]:
        """Return the momentum in each update of a cycle; empty if it stays as it is.

        Args:
            updates: The number of updates of the optimizer in one cycle.
            cycle: Which cycle, counted from 0.
        """
        del updates, cycle
        return []

    # --- the hooks -------------------------------------------------------------------

    def _prepare(self, model: Any) -> None:
        self._refuse_neighbours(fit.callbacks_of_fit(model))
        self._run = _Run(self, model)

    def on_train_begin(self, logs: Any = None) -> None:
        model = self.model
        optimizer.check(model, scale=True)
        if optimizer.is_scheduled(model) and not self.multiplies_schedules:
            raise ValueError(
                f"`{type(self).__name__}` multiplies the learning rate of the "
                "optimizer, which is its peak; a `LearningRateSchedule` has no such "
                "rate. Compile with a number. Received: "
                f"learning_rate={model.optimizer.get_config().get('learning_rate')!r}"
            )
        if self.momenta(1):
            optimizer.check_momentum(model)
        self._run.begin(self.params)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._run.begin_epoch(epoch, self.params)
        self.history = [row for row in self.history if row["epoch"] < epoch]

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        running = session.join(self.model)
        if logs is not None and running.is_used():
            rate = optimizer.learning_rate(self.model)
            factors = self._run.factors_of_epoch()
            self.history += [
                {"epoch": epoch, "learning_rate": rate * factor} for factor in factors
            ]
            logs["learning_rate"] = rate * running.factor()

    def on_train_end(self, logs: Any = None) -> None:
        session.join(self.model).leave(self)

    def _refuse_neighbours(self, neighbours: Sequence[Any]) -> None:
        others = [c for c in neighbours if isinstance(c, Scheduled) and c is not self]
        if others:
            raise ValueError(
                "There can be one schedule of the learning rate in a `fit`. "
                f"Received: callbacks={[*others, self]}"
            )

    def spans(self, steps: int | None) -> int | None:
        """Return the steps that a cycle takes at most; `None` for all there are.

        Args:
            steps: The steps of an epoch, if known.
        """
        del steps
        return None


class _Run:
    """What a schedule does in one `fit`."""

    def __init__(self, asks: Scheduled, model: Any) -> None:
        self._asks = asks
        self._model = model
        self._name = type(asks).__name__
        self._schedule: Schedule | None = None
        self._steps_before = 0
        self._state: dict[str, Any] = {}
        self._backups = backups.of_fit(model)
        self._keep()

    def begin(self, params: dict[str, Any]) -> None:
        """Take part in the `fit`; refuse one whose length is not known."""
        asks = self._asks
        if params.get("steps") is None and self._needs_steps():
            raise ValueError(
                f"`{self._name}` must know the steps of an epoch before the first one, "
                "and the data does not tell. Give `fit` the `steps_per_epoch`. "
                "Received: steps_per_epoch=None"
            )
        if asks.per == "stage":
            self._check_stages()
        steps = params.get("steps")
        span = asks.spans(steps)
        if span is not None and steps is not None:
            said = advice.of_long_cycle(self._name, span, steps * params["epochs"])
            if said is not None:
                warnings.warn(said, stacklevel=4)
        running = session.join(self._model)
        running.demand(asks)
        self._keep()
        running.at_close(self._backups.unhook)

    def _keep(self) -> None:
        self._backups.keep(self._name, lambda: self._state)

    def begin_epoch(self, epoch: int, params: dict[str, Any]) -> None:
        """Begin a cycle with the first epoch, or go on in that of the backup."""
        self._steps_before = optimizer.steps_taken(self._model)
        if self._schedule is not None:
            return
        model, asks = self._model, self._asks
        steps = optimizer.steps_taken(model)
        state = self._backups.restore(self._name)
        again = state is not None and epoch < state["epochs"]
        if state is not None and again:
            epoch, steps = state["epoch"], state["steps"]
        start = optimizer.updates(model, steps)
        # Stages that begin together share a cycle.
        first = len({e for e in self._stage_starts() if 0 < e <= epoch})
        ends = self._ends(epoch, params, steps)
        lengths = in_pieces([optimizer.updates(model, end) - start for end in ends])
        arguments = asks.get_config()
        if state is not None and again:
            theirs, ours = state["arguments"], state["lengths"]
            if (theirs, ours) != (arguments, lengths):
                raise ValueError(
                    "The backup to resume from was written in the middle of "
                    f"{self._name} with {theirs} over {ours} updates. Give the same "
                    "arguments, and `fit` the same epochs and data, or delete the "
                    f"backup to start afresh. Received: {arguments} over {lengths} "
                    "updates"
                )
        self._state = {
            "arguments": arguments,
            "epoch": epoch,
            "epochs": params["epochs"],
            "steps": steps,
            "lengths": lengths,
        }
        span = asks.spans(params.get("steps"))
        if span is not None:
            span = optimizer.updates(model, span)
        self._schedule = Schedule(
            # Arrays: lists would hold an object for each update.
            array("d", in_cycles(asks.factors, lengths, span, first) or [1.0]),
            start,
            array("d", in_cycles(asks.momenta, lengths, span, first)),
        )
        session.join(model).follow(asks, self._schedule)

    def factors_of_epoch(self) -> list[float]:
        """Return the factors of the steps of the epoch that ends, or of some."""
        schedule, model = self._schedule, self._model
        if schedule is None:
            return []
        first, last = self._steps_before, optimizer.steps_taken(model) - 1
        # From the last one backwards, so that it is among them.
        steps = range(last, first - 1, -max(1, (last + 1 - first) // _POINTS))
        return [schedule.factor_of(optimizer.updates(model, s)) for s in steps][::-1]

    # --- how long a cycle is ---------------------------------------------------------

    def _needs_steps(self) -> bool:
        return self._asks.per == "stage" or self._asks.spans(None) is None

    def _ends(self, epoch: int, params: dict[str, Any], steps: int) -> list[int]:
        """Return the steps, all counted, at which cycles end that begin in an epoch."""
        span = self._asks.spans(params.get("steps"))
        if self._asks.per == "run" and span is not None:
            return [steps + span]
        epochs = params["epochs"]
        bounds = [e for e in self._stage_starts() if epoch < e < epochs]
        return [steps + (e - epoch) * params["steps"] for e in (*bounds, epochs)]

    def _stage_starts(self) -> list[int]:
        if self._asks.per == "run":
            return []
        return list(self._unfreeze()[0].starts or [])

    def _unfreeze(self) -> list[GradualUnfreeze]:
        neighbours = fit.callbacks_of_fit(self._model)
        return [c for c in neighbours if isinstance(c, GradualUnfreeze)]

    def _check_stages(self) -> None:
        found = self._unfreeze()
        if not found:
            raise ValueError(
                "Argument `per='stage'` needs a `GradualUnfreeze` in the same `fit`, "
                "which has stages. Received: per='stage', "
                f"callbacks={fit.callbacks_of_fit(self._model)}"
            )
        if found[0].waits:
            raise ValueError(
                "Argument `per='stage'` needs stages whose lengths are known before "
                "they begin; those that wait for a `monitor` or for `EarlyStopping` "
                "are not. Let stages start by `every`, or use `per='run'`. Received: "
                f"per='stage' beside {found[0]!r}"
            )


def check_momentum(momentum: Any) -> tuple[float, float, float] | None:
    """Return the momenta of a cycle, or raise naming the argument."""
    if momentum is None:
        return None
    expected = (
        "Argument `momentum` must be three numbers between 0 and 1, at the beginning, "
        "at the peak and at the end of a cycle, or `None` to leave the momentum as it "
        f"is. Received: momentum={momentum!r}"
    )
    if not isinstance(momentum, (list, tuple)):
        raise TypeError(expected)
    values = _checks.numbers("momentum", momentum)
    if len(values) != 3 or not all(0.0 < value < 1.0 for value in values):
        raise ValueError(expected)
    first, middle, last = values
    return first, middle, last


def check_per_stage(
    name: str, value: Any, per: str, check: Callable[[str, Any], float]
) -> float | list[float]:
    """Return a number, or those of the cycles of stages, or raise naming the argument.

    Args:
        name: The name of the argument.
        value: Its value.
        per: What one cycle spans.
        check: Checks one number.
    """
    if not isinstance(value, (list, tuple)):
        return check(name, value)
    if per != "stage" or not value:
        raise ValueError(
            f"Argument `{name}` must be a number or, with `per='stage'`, a list with "
            f"at least one. Received: {name}={value!r}, per={per!r}"
        )
    return [check(f"{name}[{i}]", one) for i, one in enumerate(value)]


def in_cycle(value: float | list[float], cycle: int) -> float:
    """Return the number for a cycle; the last of a list is for all later ones."""
    return value[min(cycle, len(value) - 1)] if isinstance(value, list) else value


def check_share(name: str, value: Any) -> float:
    """Return a share of a cycle, from 0 to 1, or raise naming the argument."""
    share = _checks.number(name, value, 0.0)
    if share > 1.0:
        raise ValueError(
            f"Argument `{name}` must be a share, from 0 to 1. "
            f"Received: {name}={value!r}"
        )
    return share


def check_divisor(name: str, value: Any) -> float:
    """Return a number of at least 1, or raise naming the argument."""
    return _checks.number(name, value, 1.0)
