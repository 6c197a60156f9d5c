"""How far the unfreezing has come: by the calendar, or when a metric stalls."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from keras_finetune import _checks
from keras_finetune._schedule import epochs as _epochs
from keras_finetune._schedule.trigger import Metric, MetricTrigger

# Without `every`, all groups train from this share of the epochs on.
SHARE = 0.5


class Progress:
    """Says which stage an epoch belongs to, and remembers what that depends on.

    Args:
        every: The epochs a stage takes, the epochs at which stages start, or None:
            spread over the first part of the epochs of the first `fit`. With a
            `monitor` the epochs a stage may take at most.
        monitor: Key of the logs whose stall starts the next stage.
        mode: `"min"`, `"max"` or `"auto"`.
        min_delta: Change of the metric that counts as an improvement.
        patience: Epochs without improvement after which the next stage starts.
        restore_best: Whether the best epoch of each stage is looked for.
        verdicts: Whether `end_stage` starts the next stage.
    """

    def __init__(
        self,
        every: Any,
        monitor: str | None,
        mode: str,
        min_delta: float,
        patience: int | None,
        *,
        restore_best: bool = False,
        verdicts: bool = False,
    ) -> None:
        by_metric = monitor is not None and not (restore_best and patience is None)
        # Whether stages wait for something, so that their epochs are not known before.
        self.waits = by_metric or verdicts
        self.every = _check_every(every, self.waits)
        self.history: list[dict[str, Any]] = []
        self.stage: int | None = None
        self.starts: list[int] | None = None
        self._monitor = monitor
        self._trigger: MetricTrigger | None = None
        if monitor is not None and by_metric:
            self._trigger = MetricTrigger(monitor, mode, min_delta, patience)
        elif patience is not None:
            raise ValueError(
                "Argument `patience` needs a `monitor`. "
                f"Received: monitor=None, patience={patience!r}"
            )
        self._metric: Metric | None = None
        if restore_best:
            if monitor is None:
                raise ValueError(
                    "Argument `restore_best=True` needs a `monitor`, which tells the "
                    "best epoch. Received: restore_best=True, monitor=None"
                )
            trigger = self._trigger
            self._metric = trigger.metric if trigger else Metric(monitor, mode)
        # The best epoch of the stage that trains, and its value.
        self.best_epoch: int | None = None
        self._best: float | None = None
        self._due = False
        self._seen_epoch: int | None = None

    # --- before training -------------------------------------------------------------

    def starts_of(self, last: int, epochs: int | None) -> list[int] | None:
        """Return the epochs at which the stages 0 to `last` start, as far as known."""
        if self.waits:
            return None
        if self.every is not None:
            return _epochs.starts(self.every, last)
        if self.starts is not None and len(self.starts) == last + 1:
            return self.starts
        return None if epochs is None else _epochs.spread(last, epochs, SHARE)

    def when(self, last: int, epochs: int | None) -> list[str]:
        """Return the epochs of the stages 0 to `last`, in words."""
        starts = self.starts_of(last, epochs)
        return self._waiting(last) if starts is None else _epochs.spans(starts, epochs)

    def when_from(self, stage: int, last: int, epochs: int | None) -> str:
        """Return the epochs from the start of a stage on, in words."""
        starts = self.starts_of(last, epochs)
        if starts is None:
            return self._waiting(last)[stage]
        return _epochs.spans([starts[stage]], epochs)[0]

    def _waiting(self, last: int) -> list[str]:
        if not self.waits:
            return ["from 0", *["in the first half of the epochs"] * last]
        late = "" if self.every is None else f", at the latest {self.every} later"
        what = "EarlyStopping stops"
        if self._trigger is not None:
            what = f"{self._monitor} stalls"
        return ["from 0", *[f"when {what}{late}"] * last]

    # --- while training --------------------------------------------------------------

    def begin_fit(self) -> None:
        """Note that a `fit` begins, in a stage that is not known yet."""
        self.stage = self._seen_epoch = self.best_epoch = self._best = None

    def fix(self, last: int, epochs: int | None) -> None:
        """Fix the boundaries, which later and longer runs keep."""
        if epochs is None:  # a loop that tells nothing: one epoch a stage
            epochs = round((last + 1) / SHARE)
        self.starts = self.starts_of(last, epochs)

    def forget_from(self, epoch: int) -> list[dict[str, Any]]:
        """Drop, and return, what an earlier `fit` recorded of epochs to run again."""
        again = [entry for entry in self.history if entry["epoch"] >= epoch]
        self.history[:] = [entry for entry in self.history if entry["epoch"] < epoch]
        if not self.history:
            self._due = False
            if self._trigger is not None:
                self._trigger.restart()
        return again

    def stages_at(
        self, epoch: int, saved_epoch: int | None, last: int
    ) -> tuple[int | None, int]:
        """Return the stage that trained last, if any did, and that of an epoch.

        Args:
            epoch: The epoch that begins.
            saved_epoch: The epoch in which the checkpoint to go on from was written.
            last: The last stage.
        """
        before = self.stage
        if before is None and self.history:
            before = int(self.history[-1]["stage"])
        if not self.waits:
            starts: Sequence[int] = self.starts or [0]
            if before is None and saved_epoch is not None:
                before = _epochs.stage_at(saved_epoch, starts[1:], last)
            return before, _epochs.stage_at(epoch, starts[1:], last)
        if before is None:
            return None, 0
        since = self.history[-1]["epoch"] if self.history else epoch
        late = self.every is not None and epoch - since >= self.every
        return before, min(before + 1, last) if self._due or late else before

    def enter(self, stage: int) -> None:
        """Note that a stage begins."""
        self.stage, self._due = stage, False

    def add(self, entry: dict[str, Any]) -> None:
        """Remember that a stage began, and wait for the next."""
        self.history.append(entry)
        self.forget_best()
        if self._trigger is not None:
            self._trigger.restart(keep_best=True)

    def observe(
        self, epoch: int, logs: Mapping[str, Any], agreed: Callable[[bool], bool]
    ) -> None:
        """Look at the logs of an epoch, once.

        Args:
            epoch: The epoch.
            logs: Its logs.
            agreed: Makes the decision that the next stage is due one of all processes.
        """
        if epoch == self._seen_epoch:
            return
        self._seen_epoch = epoch
        if self._trigger is not None:
            self._due = agreed(self._trigger.update(epoch, logs)) or self._due
        if self._metric is not None:
            value = self._metric.value(epoch, logs)
            better = value is not None and self._metric.better(value, self._best)
            if agreed(better):
                self.best_epoch, self._best = epoch, value

    def end_stage(self) -> None:
        """Let the next stage begin with the next epoch."""
        self._due = True

    def forget_best(self) -> None:
        """Look for the best epoch of the stage among those to come."""
        self.best_epoch = self._best = None

    def observes(self, logs: Mapping[str, Any]) -> bool:
        """Return whether the logs have what is monitored."""
        return self._monitor is not None and self._monitor in logs

    # --- what a backup records -------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Return all that must go on after a kill, made of what JSON knows."""
        plateau = None if self._trigger is None else self._trigger.plateau
        return {
            "stage": self.stage,
            "starts": self.starts,
            "history": self.history,
            "due": self._due,
            "best": None if plateau is None else plateau.best,
            "wait": None if plateau is None else plateau.wait,
            "best_epoch": self.best_epoch,
            "best_of_stage": self._best,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave."""
        self.stage, self._due = state["stage"], state["due"]
        self.starts = state["starts"]
        self.history[:] = state["history"]
        self.best_epoch = state.get("best_epoch")
        self._best = state.get("best_of_stage")
        if self._trigger is not None:
            self._trigger.plateau.best = state["best"]
            self._trigger.plateau.wait = state["wait"]


def _check_every(every: Any, waits: bool) -> Any:
    if every is None:
        return None
    if not isinstance(every, (list, tuple)):
        return _checks.integer("every", every, 1)
    starts = [_checks.integer(f"every[{i}]", epoch, 1) for i, epoch in enumerate(every)]
    if not starts or sorted(set(starts)) != starts:
        raise ValueError(
            "Argument `every` must be a number of epochs, or a rising list of epochs "
            f"from 1 on. Received: every={every!r}"
        )
    if waits:
        raise ValueError(
            "Where stages wait, for a `monitor` or for `EarlyStopping`, `every` is the "
            "number of epochs that one may take at most; a list of epochs contradicts "
            f"it. Received: every={every!r}"
        )
    return starts
