"""How far the unfreezing has come: by the calendar, or when a metric stalls."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from keras_finetune import _checks
from keras_finetune._schedule import epochs as _epochs
from keras_finetune._schedule.trigger import MetricTrigger


class Progress:
    """Says which stage an epoch belongs to, and remembers what that depends on.

    Args:
        every: The epochs a stage takes, the epochs at which stages start, or None;
            with a `monitor` the epochs a stage may take at most.
        monitor: Key of the logs whose stall starts the next stage.
        mode: `"min"`, `"max"` or `"auto"`.
        min_delta: Change of the metric that counts as an improvement.
        patience: Epochs without improvement after which the next stage starts.
    """

    def __init__(
        self,
        every: Any,
        monitor: str | None,
        mode: str,
        min_delta: float,
        patience: int | None,
    ) -> None:
        self.every = _check_every(every, monitor)
        self.history: list[dict[str, Any]] = []
        self.stage: int | None = None
        self._monitor = monitor
        self._trigger: MetricTrigger | None = None
        if monitor is not None:
            self._trigger = MetricTrigger(monitor, mode, min_delta, patience)
        elif patience is not None:
            raise ValueError(
                "Argument `patience` needs a `monitor`. "
                f"Received: monitor=None, patience={patience!r}"
            )
        self._due = False
        self._seen_epoch: int | None = None

    def when(self, last: int, epochs: int | None) -> list[str]:
        """The epochs of the stages 0 to `last`, in words."""
        if self._trigger is None:
            return _epochs.spans(_epochs.starts(self.every, last), epochs)
        late = "" if self.every is None else f", at the latest {self.every} later"
        return ["from 0", *[f"when {self._monitor} stalls{late}"] * last]

    # --- while training ----------------------------------------------------------

    def begin_fit(self) -> None:
        """A `fit` begins, in a stage that is not known yet."""
        self.stage = self._seen_epoch = None

    def forget_from(self, epoch: int) -> None:
        """Drops what an earlier `fit` recorded of epochs that now run again."""
        self.history[:] = [entry for entry in self.history if entry["epoch"] < epoch]
        if not self.history:
            self._due = False
            if self._trigger is not None:
                self._trigger.restart()

    def stage_before(self, saved_epoch: int | None, last: int) -> int | None:
        """The stage that trained last, if any did.

        Args:
            saved_epoch: The epoch in which the checkpoint to go on from was written.
            last: The last stage.
        """
        if self.stage is None and self.history:
            return int(self.history[-1]["stage"])
        if self.stage is None and self._trigger is None and saved_epoch is not None:
            return _epochs.stage_at(saved_epoch, self.every, last)
        return self.stage

    def stage_at(self, epoch: int, before: int | None, last: int) -> int:
        """The stage of an epoch that begins, after another stage or none."""
        if self._trigger is None:
            return _epochs.stage_at(epoch, self.every, last)
        if before is None:
            return 0
        since = self.history[-1]["epoch"] if self.history else epoch
        late = self.every is not None and epoch - since >= self.every
        return min(before + 1, last) if self._due or late else before

    def enter(self, stage: int) -> None:
        """A stage begins."""
        self.stage, self._due = stage, False

    def add(self, entry: dict[str, Any]) -> None:
        """Remembers that a stage began, and waits for the next."""
        self.history.append(entry)
        if self._trigger is not None:
            self._trigger.restart(keep_best=True)

    def observe(
        self, epoch: int, logs: Mapping[str, Any], agreed: Callable[[bool], bool]
    ) -> None:
        """Looks at the logs of an epoch, once.

        Args:
            epoch: The epoch.
            logs: Its logs.
            agreed: Makes the decision that the next stage is due one of all processes.
        """
        if self._trigger is not None and epoch != self._seen_epoch:
            self._seen_epoch = epoch
            self._due = agreed(self._trigger.update(epoch, logs)) or self._due

    def observes(self, logs: Mapping[str, Any]) -> bool:
        """Whether the logs have what is monitored."""
        return self._monitor is not None and self._monitor in logs

    # --- what a backup records ---------------------------------------------------

    def state(self) -> dict[str, Any]:
        """All that must go on after a kill, made of what JSON knows."""
        plateau = None if self._trigger is None else self._trigger.plateau
        return {
            "stage": self.stage,
            "history": self.history,
            "due": self._due,
            "best": None if plateau is None else plateau.best,
            "wait": None if plateau is None else plateau.wait,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes on from what `state` gave."""
        self.stage, self._due = state["stage"], state["due"]
        self.history[:] = state["history"]
        if self._trigger is not None:
            self._trigger.plateau.best = state["best"]
            self._trigger.plateau.wait = state["wait"]


def _check_every(every: Any, monitor: Any) -> Any:
    if every is None:
        return 1 if monitor is None else None
    if not isinstance(every, (list, tuple)):
        return _checks.integer("every", every, 1)
    starts = [_checks.integer("every", epoch, 1) for epoch in every]
    if not starts or sorted(set(starts)) != starts:
        raise ValueError(
            "Argument `every` must be a number of epochs, or a rising list of epochs "
            f"from 1 on. Received: every={every!r}"
        )
    if monitor is not None:
        raise ValueError(
            "With a `monitor`, `every` is the number of epochs that a stage may take "
            "at most; a list of epochs contradicts it. "
            f"Received: every={every!r}, monitor={monitor!r}"
        )
    return starts
