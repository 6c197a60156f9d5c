"""The stages of one `fit`, entered one after the other."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Hashable, Mapping
from typing import Any

from keras_finetune._engine import (
    backups,
    fit,
    keras,
    loading,
    optimizer,
    processes,
    session,
)
from keras_finetune._engine.active import lane
from keras_finetune._engine.structure import variable_key, weights
from keras_finetune._rules import advice
from keras_finetune._rules.monitored import check_monitor
from keras_finetune._rules.sharing import shared_groups, warn_of_other_groups
from keras_finetune._rules.stages import Stages
from keras_finetune._schedule.progress import Progress
from keras_finetune._schedule.trigger import direction
from keras_finetune._tables import bold
from keras_finetune.callbacks._best_of_stage import BestOfStage
from keras_finetune.callbacks._early_stopping import judge_stages
from keras_finetune.callbacks._rates_of_stages import RatesOfStages

# What the state is called in a backup's record.
_NAME = "GradualUnfreeze"
_SETTINGS = (
    "every",
    "initial_groups",
    "monitor",
    "mode",
    "min_delta",
    "patience",
    "restore_best",
    "early_stopping",
    "learning_rate_factor",
    "learning_rates",
    "bias_correction",
    "batch_norm",
    "frozen_mode",
)
# What a backup of a release without these settings was written with.
_ADDED = {
    "restore_best": False,
    "early_stopping": "run",
    "learning_rates": None,
    "bias_correction": "optimizer",
}


class Unfreezing:
    """What a `GradualUnfreeze` does in one `fit`.

    Args:
        asks: The callback, whose arguments say what to do.
        model: The model.
        progress: How far the unfreezing has come.
        again: Whether the callback has trained this model before.
    """

    def __init__(
        self, asks: Any, model: Any, progress: Progress, *, again: bool
    ) -> None:
        self._asks = asks
        self.model = model
        self._again = again
        self._progress = progress
        self._stages: Stages | None = None
        self._entered = False
        self._inexact: str | None = None
        self._saved_epoch: int | None = None
        self.best = BestOfStage(model, progress)
        self._rates = RatesOfStages(asks, model)
        self._backups = backups.of_fit(model)

    @property
    def stages(self) -> Stages:
        """The stages of the model, which must have weights."""
        if self._stages is None:
            optimizer.check(self.model)
            neighbours = fit.callbacks_of_fit(self.model)
            self._stages = stages_of(self._asks, self.model, neighbours)
        return self._stages

    # --- the hooks -------------------------------------------------------------------

    def await_backup(self) -> None:
        """Get ready for a backup, which Keras may load before our turn comes."""
        model, state = self.model, self._backups.latest(_NAME)
        if state is not None:
            self._check_settings(state["settings"])
        if backups.resumes(model):
            if state is None:
                processes.announce(
                    model,
                    "The backup to resume from was written by a run without "
                    "`GradualUnfreeze`: groups that may have been training are frozen "
                    "until their stage.",
                )
            ever = self.stages.variables(self.stages.last)
            session.join(model).make_room(ever)
        self._keep()
        loading.await_file(model, self._asks, self._enter_stage_of_file, last=True)

    def begin(self, epochs: int | None) -> None:
        """Take part in the `fit`, and say what cannot be meant before it trains."""
        model, stages = self.model, self.stages
        if self._asks.monitor is not None:
            check_monitor(model, self._asks.monitor)
        self._rates.check(stages)
        self._progress.fix(stages.last, epochs)
        optimizer.warn_inexact(model)
        if self._asks.bias_correction == "group":
            self._inexact = optimizer.without_exact_correction(model)
            if self._inexact is not None:
                warnings.warn(advice.of_bias_correction(self._inexact), stacklevel=4)
        running = session.join(model)
        running.demand(self._asks, later=stages.variables(stages.last))
        running.log_quietly("stage")
        running.at_close(self._remember)
        self._keep()
        running.at_close(self._backups.unhook)
        if self._asks.early_stopping == "stage":
            running.at_close(judge_stages(model, self._progress, stages.last))
        self._saved_epoch = lane.epoch_of_checkpoint(model)

    def begin_epoch(self, epoch: int, epochs: int | None) -> None:
        """Enter the stage of an epoch, if it is another one."""
        # The first stage is entered here and not in `on_train_begin`: only now it is
        # known in which epoch a resumed run starts.
        loading.await_no_file(self._asks)
        progress, begins = self._progress, not self._entered
        if begins and not self._restore():
            again = progress.forget_from(epoch)
            if again and progress.history:
                self._rates.go_back(progress.history[-1], left=again[-1])
            if self._again and any(entry["stage"] for entry in again):
                self._warn_of_starting_again(epoch)
        self._backups.begin(epoch)
        if begins:
            self._advise(epochs)
            # `BackupAndRestore` may begin after this callback.
            self._saved_epoch = self._saved_epoch or lane.epoch_of_checkpoint(
                self.model
            )
        last = self.stages.last
        before, stage = progress.stages_at(epoch, self._saved_epoch, last)
        if before is None and stage:
            self._rates.advise_in_mid_run(stage)
        if before is not None and stage != before:
            if begins and self.best.waits:
                # Resumed between two stages. Optimizer state comes back too, which
                # Keras 2 makes from a checkpoint when the optimizer is built.
                self._enter(before)
            self._end_stage()
        if begins or stage != before:
            self._enter(stage)
        if not progress.history or stage != before:
            self._record(epoch, stage, before)

    def end(self) -> None:
        """Leave the `fit`, and say which groups it has not come to."""
        stage, last = self._progress.stage, self.stages.last
        self._end_stage()
        session.join(self.model).leave(self._asks)
        if stage is not None and stage < last:
            frozen = [group.name for group in self.stages.frozen(stage)]
            warnings.warn(advice.of_ending_early(stage, last, frozen), stacklevel=3)

    # --- what cannot be meant --------------------------------------------------------

    def _advise(self, epochs: int | None) -> None:
        asks, starts = self._asks, self._progress.starts
        said = []
        if starts is not None and epochs is not None:
            stages = self.stages
            added = [stages.trained(stage)[0].name for stage in range(len(starts))]
            default = asks.every is None
            said.append(advice.of_stages_not_reached(starts, epochs, added, default))
            if default and epochs == 1:
                said.append(advice.of_one_epoch())
        giving = self._rates.given_by
        if giving is not None and self._beside(keras.callbacks.LearningRateScheduler):
            said.append(advice.of_scheduler(giving))
        if asks.patience is not None and asks.early_stopping == "run":
            said += [
                advice.of_early_stopping(int(other.patience), asks.patience)
                for other in self._beside(keras.callbacks.EarlyStopping)
            ]
        if asks.monitor:
            said.append(
                advice.of_direction(asks.monitor, asks.mode, direction(asks.monitor))
            )
        if asks.patience is not None:
            said.append(advice.of_penalties(asks.monitor, self._penalized()))
        for sentence in said:
            if sentence is not None:
                warnings.warn(sentence, stacklevel=4)

    def _beside(self, kind: type[Any]) -> list[Any]:
        """Return the other callbacks of a kind in this `fit`."""
        return [c for c in fit.callbacks_of_fit(self.model) if isinstance(c, kind)]

    def _penalized(self) -> list[str]:
        groups = self.stages.frozen(0)
        return [g.name for g in groups if lane.penalized_while_training(g.variables)]

    def _warn_of_starting_again(self, epoch: int) -> None:
        warnings.warn(
            f"`GradualUnfreeze` begins again in epoch {epoch}: groups that an earlier "
            "`fit` has unfrozen are frozen until their stage. To go on instead, give "
            "`fit` the `initial_epoch` at which the earlier one ended.",
            stacklevel=4,
        )

    # --- backups ---------------------------------------------------------------------

    def _keep(self) -> None:
        self._backups.keep(_NAME, self._state, self._observe, self.best.files)

    def _settings(self) -> dict[str, Any]:
        settings = {name: getattr(self._asks, name) for name in _SETTINGS}
        return {"groups": [g.name for g in self.stages.groups], **settings}

    def _state(self) -> dict[str, Any]:
        return {"settings": self._settings(), **self._progress.state()}

    def _observe(self, epoch: int, logs: Mapping[str, Any]) -> None:
        """Look at the logs of an epoch before a backup records what came of it."""
        if self._progress.observes(logs):
            self._asks.on_epoch_end(epoch, logs)

    def _check_settings(self, theirs: Mapping[str, Any]) -> None:
        ours, theirs = self._settings(), {**_ADDED, **theirs}
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
        """Take up what the backup in use has recorded."""
        state = self._backups.restore(_NAME)
        if state is not None:
            self._progress.restore(state)
            self.best.restore(self._backups)
        return state is not None

    def _enter_stage_of_file(self, count: int) -> None:
        """Make the optimizer fit a file that holds `count` of its variables."""
        stages, counts = self.stages, []
        running = session.join(self.model)
        for stage in range(stages.last + 1):
            running.demand(self._asks, flags=stages.flags(stage))
            running.apply()
            counts.append(optimizer.variables_in_file(self.model))
            if counts[-1] == count:
                self._progress.stage = stage
                return
        raise ValueError(
            "The file to resume from was written by another kind of optimizer, or with "
            "other groups: it must hold the state of one of the stages "
            f"{[[g.name for g in stages.trained(s)] for s in range(stages.last + 1)]}, "
            f"that is {counts} variables. Received: {count} variables"
        )

    # --- what happens at a transition ------------------------------------------------

    def _enter(self, stage: int) -> None:
        asks, stages = self._asks, self.stages
        running = session.join(self.model)
        running.demand(asks, flags=stages.flags(stage))
        if asks.frozen_mode == "inference":
            running.demand(asks, at_inference=stages.frozen_layers(stage))
        if asks.learning_rate_factor != 1.0 and optimizer.is_scheduled(self.model):
            factor = asks.learning_rate_factor**stage
            everywhere = {variable_key(v): factor for v in weights(self.model)}
            running.demand(asks, multipliers=everywhere)
        if asks.bias_correction == "group" and self._inexact is None:
            running.demand(asks, begun=self._begun(stage))
        running.apply()
        self._progress.enter(stage)
        self._entered = True

    def _begun(self, stage: int) -> dict[Hashable, int]:
        """Return the updates made when variables began to train, after the start."""
        now = optimizer.updates_made(self.model)
        entered = [*self._progress.history, {"stage": stage, "updates": now}]
        found: dict[Hashable, int] = {}
        for earlier, entry in itertools.pairwise(entered):
            known = {variable_key(v) for v in self.stages.variables(earlier["stage"])}
            for variable in self.stages.variables(entry["stage"]):
                key = variable_key(variable)
                # An optimizer that has made fewer by now is another one.
                if key not in known and entry["updates"] <= now:
                    found[key] = entry["updates"]
        return found

    def _end_stage(self) -> None:
        epoch = self.best.put_back()
        if epoch is not None:
            entry = self._progress.history[-1]
            entry["best_epoch"] = epoch
            if self._asks.verbose:
                processes.announce(
                    self.model,
                    f"Stage {entry['stage']} ends with the weights and the optimizer "
                    f"state of epoch {epoch}, its best by {self._asks.monitor}",
                )

    def _remember(self) -> None:
        if self._entered:
            self.stages.remember(self._progress.stage or 0)

    def _record(self, epoch: int, stage: int, before: int | None) -> None:
        asks, stages = self._asks, self.stages
        self._rates.enter(stage, before)
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
                "updates": optimizer.updates_made(self.model),
            }
        )
        if asks.verbose:
            known = 0 if before is None else len(stages.trained(before))
            new = ", ".join(reversed(names[: len(names) - known]))
            processes.announce(
                self.model,
                f"Epoch {epoch} ({epoch + 1} in the progress bar): "
                f"{bold(f'stage {stage}')} trains {new}{' too' if known else ''}: "
                f"{parameters:,} parameters, base learning rate {rate:.3g}",
            )


def stages_of(asks: Any, model: Any, neighbours: Any) -> Stages:
    """Return the stages that a `GradualUnfreeze` makes of a model."""
    groups = shared_groups(model, asks, neighbours)
    warn_of_other_groups(model, asks, groups, neighbours)
    stages = Stages(model, groups, asks.initial_groups, asks.batch_norm)
    if isinstance(asks.every, list) and len(asks.every) != stages.last:
        count = len(asks.every) + asks.initial_groups
        fits = count <= len(groups)
        way_out = f"merge groups with `groups={count}`" if fits else "list fewer epochs"
        raise ValueError(
            "Argument `every` must list one epoch for each group that is left to "
            f"unfreeze: {stages.last} with groups {groups.names} and "
            f"initial_groups={asks.initial_groups}; {way_out}. "
            f"Received: every={asks.every}"
        )
    return stages
