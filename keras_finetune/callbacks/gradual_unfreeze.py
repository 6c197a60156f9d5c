"""Unfreezing a model group by group, within one `fit`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from keras_finetune import _checks
from keras_finetune._engine import keras, loading, optimizer, processes, session
from keras_finetune._engine.active import lane
from keras_finetune._engine.backups import Backups, resumes
from keras_finetune._engine.structure import variable_key, weights
from keras_finetune._groups.layer_groups import layer_groups
from keras_finetune._rules.stages import Stages
from keras_finetune._schedule.progress import Progress
from keras_finetune._tables import Report, bold

_BATCH_NORM = ("follow", "frozen", "trainable")
_FROZEN_MODES = ("keras", "inference")


class GradualUnfreeze(keras.callbacks.Callback):
    """Trains the top of a model first, and more of it stage by stage.

    Stage 0 trains the top `initial_groups` groups of layers, each later stage one
    group more, from the top down, as ULMFiT does. A change takes effect at the next
    batch of the same `fit`. Kept are the optimizer with its iterations and with all
    slots of the variables that were training, the learning rate or its schedule,
    history and callbacks; the slots of the newly trained variables are as if just
    built. The result equals, bit for bit, fitting the frozen model, building a new
    optimizer over the larger set with the old state copied into it, and fitting on.

    A frozen stage costs what a model frozen by hand costs: no backward pass and no
    update for frozen layers. The flags of the model end in the last stage reached; a
    second `fit` with `initial_epoch` starts in the stage of that epoch. Layers that
    were frozen before and are given to no group stay frozen. The stage is in the logs
    of each epoch, as `stage`, for the callbacks after this one.

    Args:
        groups: The groups of layers: `"auto"`, an integer, a list, or a
            `LayerGroups`; see `layer_groups`.
        every: Epochs a stage takes, or the list of the epochs (counted from 0) at which
            one more group starts, one for each group that is left to unfreeze. With a
            `monitor`: the epochs after which the next stage starts at the latest.
            Defaults to 1 without a `monitor`, to no limit with one.
        initial_groups: Groups that train from the start, counted from the top.
        monitor: Key of the logs; the next stage starts when it stops improving.
        mode: `"min"`, `"max"`, or `"auto"`: `"max"` for metrics whose name contains
            `acc`, `auc`, `precision`, `recall` or `f1`, else `"min"`.
        min_delta: Change of the metric that counts as an improvement.
        patience: Epochs without improvement after which the next stage starts.
        learning_rate_factor: Factor on the base learning rate at each unfreeze. Under
            a `LearningRateSchedule` it multiplies what the schedule gives.
        batch_norm: `"follow"`: as Keras has it, a frozen layer uses and keeps its
            statistics, an unfrozen one those of the batch. `"frozen"`: the
            normalisation of all groups that start frozen stays so for ever.
            `"trainable"`: all normalisation trains always, as in fastai.
        frozen_mode: `"keras"`: dropout and other noise in frozen groups stays active
            while training. `"inference"`: a frozen group behaves as at inference.
        verbose: 0 is silent, 1 announces each stage.

    Attributes:
        history: One dictionary a stage that was entered: `epoch`, `stage`, `groups`
            (the names of those that train), `trainable_parameters`, `learning_rate`.

    Raises:
        TypeError: If an argument has the wrong type, or the optimizer is of a make
            whose state cannot be carried over.
        ValueError: If an argument has a wrong value; before the first epoch if it does
            not go with the model; after it if `monitor` is not in the logs.

    Example:

    >>> callback = GradualUnfreeze(every=2, initial_groups=1)
    >>> callback.every
    2

    References:
        - [Howard and Ruder, 2018](https://arxiv.org/abs/1801.06146), section 3.3
    """

    def __init__(
        self,
        groups: Any = "auto",
        every: int | Sequence[int] | None = None,
        initial_groups: int = 1,
        monitor: str | None = None,
        mode: str = "auto",
        min_delta: float = 0.0,
        patience: int | None = None,
        learning_rate_factor: float = 1.0,
        batch_norm: str = "follow",
        frozen_mode: str = "keras",
        verbose: int = 0,
    ) -> None:
        super().__init__()
        self.groups = groups
        self.initial_groups = _checks.integer("initial_groups", initial_groups, 1)
        self.monitor = monitor
        self.mode = _checks.choice("mode", mode, ("auto", "min", "max"))
        self.min_delta = _checks.number("min_delta", min_delta, 0.0)
        self.patience = patience
        self._progress = Progress(every, monitor, mode, self.min_delta, patience)
        self.learning_rate_factor = _checks.number(
            "learning_rate_factor", learning_rate_factor, 0.0, exclusive=True
        )
        self.batch_norm = _checks.choice("batch_norm", batch_norm, _BATCH_NORM)
        self.frozen_mode = _checks.choice("frozen_mode", frozen_mode, _FROZEN_MODES)
        if (batch_norm, frozen_mode) == ("trainable", "inference"):
            raise ValueError(
                "Normalisation that always trains and frozen groups that behave as at "
                "inference contradict each other. Received: "
                f"batch_norm={batch_norm!r}, frozen_mode={frozen_mode!r}"
            )
        self.verbose = _checks.choice("verbose", verbose, (0, 1))
        self._stages: Stages | None = None
        self._entered = False
        self._saved_epoch: int | None = None
        self._backups: Backups | None = None

    @property
    def every(self) -> Any:
        """The epochs a stage takes, or those at which stages start."""
        return self._progress.every

    @property
    def history(self) -> list[dict[str, Any]]:
        """The stages that were entered, a dictionary each."""
        return self._progress.history

    # --- before training ---------------------------------------------------------

    def plan(self, model: Any, epochs: int) -> Report:
        """Prints what will happen: stages, groups, parameters and rates.

        Args:
            model: The model; its flags and its optimizer are left as they are.
            epochs: The epochs that `fit` will run.

        Returns:
            What was printed; `keras_finetune.summary` says more.
        """
        stages = self._stages_of(model)
        rate = None
        if getattr(model, "optimizer", None) is not None:
            rate = optimizer.learning_rate(model)
        when = self._progress.when(stages.last, epochs)
        report = Report(stages.table(when, rate, self.learning_rate_factor))
        return report.show() if processes.is_chief(model) else report

    # --- the hooks ---------------------------------------------------------------

    def set_model(self, model: Any) -> None:
        super().set_model(model)
        self._progress.begin_fit()
        self._stages, self._entered = None, False
        loading.await_no_file(self)
        self._backups = Backups(model, "GradualUnfreeze", self._state, self._observe)
        state = self._backups.latest()
        self._check_settings(state)
        if resumes(model):
            if state is None:
                processes.announce(
                    model,
                    "The backup to resume from was written by a run without "
                    "`GradualUnfreeze`: groups that may have been training are frozen "
                    "until their stage.",
                )
            stages = self._prepare()
            session.join(model).make_room(stages.variables(stages.last))
        self._backups.hook()
        loading.await_file(model, self, self._enter_stage_of_file, last=True)

    def on_train_begin(self, logs: Any = None) -> None:
        stages = self._prepare()
        optimizer.warn_inexact(self.model)
        running = session.join(self.model)
        running.demand(self, later=stages.variables(stages.last))
        running.at_close(self._remember)
        if self._backups is not None:
            self._backups.hook()
            running.at_close(self._backups.unhook)
        self._saved_epoch = lane.epoch_of_checkpoint(self.model)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        # The first stage is entered here and not in `on_train_begin`: only now it is
        # known in which epoch a resumed run starts.
        loading.await_no_file(self)
        begins, progress = not self._entered, self._progress
        if begins and not self._restore():
            progress.forget_from(epoch)
        if self._backups is not None:
            self._backups.begin(epoch)
        saved = self._saved_epoch
        if saved is None:
            # Read here too: `BackupAndRestore` may begin after this callback.
            saved = lane.epoch_of_checkpoint(self.model)
        last = self._prepare().last
        before = progress.stage_before(saved, last)
        stage = progress.stage_at(epoch, before, last)
        if begins or stage != before:
            self._enter(stage)
        if not self.history or stage != before:
            self._record(epoch, stage, before)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if logs is not None:
            logs["stage"] = self._progress.stage
        self._progress.observe(epoch, logs or {}, processes.agreed)

    def on_train_end(self, logs: Any = None) -> None:
        session.join(self.model).leave(self)

    def _remember(self) -> None:
        if self._entered:
            self._prepare().remember(self._progress.stage or 0)

    # --- stages ------------------------------------------------------------------

    def _stages_of(self, model: Any) -> Stages:
        groups = layer_groups(model, self.groups)
        named = isinstance(self.groups, (list, tuple))
        stages = Stages(model, groups, self.initial_groups, self.batch_norm, named)
        if isinstance(self.every, list) and len(self.every) != stages.last:
            raise ValueError(
                "Argument `every` must list one epoch for each group that is left to "
                f"unfreeze: {stages.last} with groups {groups.names} and "
                f"initial_groups={self.initial_groups}; merge groups with "
                f"`groups={len(self.every) + self.initial_groups}`. "
                f"Received: every={self.every}"
            )
        return stages

    def _prepare(self) -> Stages:
        if self._stages is None:
            optimizer.check(self.model)
            self._stages = self._stages_of(self.model)
        return self._stages

    # --- backups -----------------------------------------------------------------

    def _settings(self) -> dict[str, Any]:
        names = (
            "every initial_groups monitor mode min_delta patience "
            "learning_rate_factor batch_norm frozen_mode"
        )
        settings = {name: getattr(self, name) for name in names.split()}
        return {"groups": [g.name for g in self._prepare().groups], **settings}

    def _state(self) -> dict[str, Any]:
        return {"settings": self._settings(), **self._progress.state()}

    def _observe(self, epoch: int, logs: Mapping[str, Any]) -> None:
        """Looks at the logs of an epoch before a backup records what came of it."""
        if self._progress.observes(logs):
            self.on_epoch_end(epoch, logs)

    def _check_settings(self, state: dict[str, Any] | None) -> None:
        if state is None:
            return
        ours, theirs = self._settings(), state["settings"]
        differ = [name for name in ours if ours[name] != theirs.get(name)]
        if differ:
            raise ValueError(
                "The backup to resume from was written with "
                f"{', '.join(f'{name}={theirs.get(name)!r}' for name in differ)}. "
                "Give `GradualUnfreeze` the same, or delete the backup to start "
                "afresh. Received: "
                f"{', '.join(f'{name}={ours[name]!r}' for name in differ)}"
            )

    def _restore(self) -> bool:
        """Takes up what the backup in use has recorded."""
        state = None if self._backups is None else self._backups.restore()
        if state is not None:
            self._progress.restore(state)
        return state is not None

    # --- what happens at a transition --------------------------------------------

    def _enter(self, stage: int) -> None:
        stages = self._prepare()
        running = session.join(self.model)
        running.demand(self, flags=stages.flags(stage))
        if self.frozen_mode == "inference":
            running.demand(self, at_inference=stages.frozen_layers(stage))
        if self.learning_rate_factor != 1.0 and optimizer.is_scheduled(self.model):
            factor = self.learning_rate_factor**stage
            everywhere = {variable_key(v): factor for v in weights(self.model)}
            running.demand(self, multipliers=everywhere)
        running.apply()
        self._progress.enter(stage)
        self._entered = True

    def _record(self, epoch: int, stage: int, before: int | None) -> None:
        if before is not None and self.learning_rate_factor != 1.0:
            factor = self.learning_rate_factor ** (stage - before)
            optimizer.set_learning_rate(self.model, lambda rate: rate * factor)
        stages = self._prepare()
        names = [group.name for group in stages.trained(stage)]
        parameters = stages.parameters(stage)
        rate = optimizer.learning_rate(self.model)
        self._progress.add(
            {
                "epoch": epoch,
                "stage": stage,
                "groups": names,
                "trainable_parameters": parameters,
                "learning_rate": rate,
            }
        )
        if self.verbose:
            known = 0 if before is None else len(stages.trained(before))
            new = ", ".join(reversed(names[: len(names) - known]))
            processes.announce(
                self.model,
                f"Epoch {epoch + 1}: {bold(f'stage {stage}')} trains {new}"
                f"{' too' if known else ''}: {parameters:,} parameters, base learning "
                f"rate {rate:.3g}",
            )

    def _enter_stage_of_file(self, count: int) -> None:
        """Makes the optimizer fit a file that holds `count` of its variables."""
        stages = self._prepare()
        running = session.join(self.model)
        counts = []
        for stage in range(stages.last + 1):
            running.demand(self, flags=stages.flags(stage))
            running.apply()
            counts.append(optimizer.variables_in_file(self.model))
            if counts[-1] == count:
                self._progress.stage = stage
                return
        raise ValueError(
            "The file to resume from was written by an optimizer of another make, or "
            "with other groups: it must hold the state of one of the stages "
            f"{[[g.name for g in stages.trained(s)] for s in range(stages.last + 1)]}, "
            f"that is {counts} variables. Received: {count} variables"
        )
