"""Unfreezing a model group by group, within one `fit`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from keras_finetune import _checks
from keras_finetune._engine import fit, keras, optimizer, processes
from keras_finetune._groups.layer_groups import Groups, check_groups
from keras_finetune._rules.stages import Stages
from keras_finetune._schedule.progress import Progress
from keras_finetune._tables import Report
from keras_finetune.callbacks._callback import FineTuningCallback
from keras_finetune.callbacks._unfreezing import Unfreezing, stages_of

_BATCH_NORM = ("follow", "frozen", "trainable")
_FROZEN_MODES = ("training", "inference")
_EARLY_STOPPING = ("run", "stage")


@keras.saving.register_keras_serializable(package="keras_finetune")
class GradualUnfreeze(FineTuningCallback):
    """Train the top of a model first, and more of it stage by stage.

    Stage 0 trains the top `initial_groups` groups of layers, each later stage one
    group more, from the top down, as ULMFiT does. A change takes effect at the next
    batch of the same `fit`. The optimizer keeps its iterations and the state of all
    variables that were training; only newly unfrozen variables start with fresh state.
    The learning rate or its schedule, history and callbacks carry on. The result
    equals, bit for bit, fitting the frozen model, building a new optimizer over the
    larger set with the old state copied into it, and fitting on.

    A frozen stage costs what a model frozen by hand costs: no backward pass and no
    update for frozen layers. What you froze yourself stays frozen, at any depth,
    unless it is the whole body, the head, or a layer that a list names: those are there
    to be unfrozen. The flags of the model end in the last stage reached; a second `fit`
    with `initial_epoch` starts in the stage of that epoch. The stage is in the logs of
    each epoch, as `stage`, for the callbacks after this one, but not in the progress
    bar.

    Args:
        groups: The groups of layers: `"auto"`, an integer, a list, or a
            `LayerGroups`; see `layer_groups`. Defaults to those of another callback in
            the same `fit`, else to the head and the body in up to four.
        every: Epochs a stage takes, or the list of the epochs (counted from 0) at which
            one more group starts, one for each group that is left to unfreeze. With a
            `monitor`: the epochs after which the next stage starts at the latest.
            Defaults to stages spread over the first half of the epochs of `fit`
            without a `monitor`, to no limit with one. Later and longer runs keep the
            boundaries of the first.
        initial_groups: Groups that train from the start, counted from the top.
        monitor: Key of the logs; the next stage starts when it stops improving.
        mode: Whether the metric is to fall, `"min"`, or to rise, `"max"`. `"auto"`: as
            the words of its name say, such as `loss`, `mae`, `accuracy`, `auc` or
            `score`; `"min"`, with a warning, where none of them is known.
        min_delta: Change of the metric that counts as an improvement.
        patience: Epochs without improvement after which the next stage starts. With
            `restore_best` it can be left out: stages then start by `every`, and the
            `monitor` only tells which epoch was best.
        restore_best: Whether each stage ends with the best epoch that it has had, by
            the `monitor`: before the next stage starts, and at the end of `fit`, the
            weights, moving statistics and optimizer state of the end of that epoch
            come back. Iterations, schedules and random generators go on. One copy is
            kept in memory, and with each backup of `BackupAndRestore`.
        early_stopping: What it means that a `keras.callbacks.EarlyStopping` beside this
            callback stops: the end of the `"run"`, as in Keras, or the end of the
            `"stage"`, and of the run only in the last stage. It can start stages
            alone, without a `monitor` of this callback.
        learning_rate_factor: Factor on the base learning rate at each unfreeze. Under
            a `LearningRateSchedule` it multiplies what the schedule gives. After `fit`
            the optimizer keeps the rate of the stage that was reached.
        learning_rates: In place of that factor, the base learning rate of each stage,
            which the optimizer is given when the stage begins, whatever rate it had.
        bias_correction: What Adam, AdamW and Adamax count the updates of a group by,
            which decide how far its averages are corrected. `"optimizer"` (default):
            all that the optimizer has made, as in Keras, so that a group that begins
            late takes steps up to 6.5 times as large as its learning rate says, for
            some hundred updates. `"group"`: those since the group began to train, as
            with a new optimizer, and as in PyTorch. Others, such as SGD, correct
            nothing, or (Nadam, LAMB) keep the optimizer's count, which is said.
        batch_norm: `"frozen"` (default): `BatchNormalization` in groups that start
            frozen stays in inference mode throughout, as Keras's transfer-learning
            guide recommends. `"follow"`: a frozen layer uses its statistics, an
            unfrozen one those of the batch. `"trainable"`: it trains always, as in
            fastai.
        frozen_mode: `"training"` (default): dropout and other noise in frozen groups
            stays active while the model trains, as in plain Keras. `"inference"`: a
            frozen group behaves as at inference.
        verbose: 0 is silent, 1 announces each stage.

    Attributes:
        history: One dictionary for each stage that was entered: `epoch` (counted from
            0), `stage`, `groups` (the names of those that train),
            `trainable_parameters`, `learning_rate`, `updates` (how many the optimizer
            had made before); with `restore_best`, once the stage is over, `best_epoch`:
            the epoch that training went on from.

    Raises:
        TypeError: If an argument has the wrong type, or the state of the optimizer
            cannot be carried over.
        ValueError: If an argument has a wrong value; before the first epoch if it does
            not fit the model.

    Example:

    >>> callback = GradualUnfreeze(every=2)
    >>> callback
    GradualUnfreeze(every=2)

    References:
        - [Howard and Ruder, 2018](https://arxiv.org/abs/1801.06146), section 3.3
    """

    adds = ("stage",)

    def __init__(
        self,
        groups: Groups | None = None,
        *,
        every: int | Sequence[int] | None = None,
        initial_groups: int = 1,
        monitor: str | None = None,
        mode: Literal["auto", "min", "max"] = "auto",
        min_delta: float = 0.0,
        patience: int | None = None,
        restore_best: bool = False,
        early_stopping: Literal["run", "stage"] = "run",
        learning_rate_factor: float = 1.0,
        learning_rates: Sequence[float] | None = None,
        bias_correction: Literal["optimizer", "group"] = "optimizer",
        batch_norm: Literal["follow", "frozen", "trainable"] = "frozen",
        frozen_mode: Literal["training", "inference"] = "training",
        verbose: int = 0,
    ) -> None:
        super().__init__()
        self.groups = None if groups is None else check_groups(groups)
        self.initial_groups = _checks.integer("initial_groups", initial_groups, 1)
        self.monitor = monitor
        self.mode = _checks.choice("mode", mode, ("auto", "min", "max"))
        self.min_delta = _checks.number("min_delta", min_delta, 0.0)
        self.patience = patience
        self.restore_best = _checks.boolean("restore_best", restore_best)
        self.early_stopping = _checks.choice(
            "early_stopping", early_stopping, _EARLY_STOPPING
        )
        self._progress = Progress(
            every,
            monitor,
            mode,
            self.min_delta,
            patience,
            restore_best=restore_best,
            verdicts=early_stopping == "stage",
        )
        self.learning_rate_factor = _checks.number(
            "learning_rate_factor", learning_rate_factor, 0.0, exclusive=True
        )
        self.learning_rates = _check_rates(learning_rates)
        if self.learning_rates is not None and learning_rate_factor != 1.0:
            raise ValueError(
                "Only one of `learning_rate_factor` and `learning_rates` can be given. "
                f"Received: learning_rate_factor={learning_rate_factor!r}, "
                f"learning_rates={learning_rates!r}"
            )
        self.bias_correction = _checks.choice(
            "bias_correction", bias_correction, ("optimizer", "group")
        )
        self.batch_norm = _checks.choice("batch_norm", batch_norm, _BATCH_NORM)
        self.frozen_mode = _checks.choice("frozen_mode", frozen_mode, _FROZEN_MODES)
        if (batch_norm, frozen_mode) == ("trainable", "inference"):
            raise ValueError(
                "Normalization that always trains and frozen groups that behave as at "
                "inference contradict each other. Received: "
                f"batch_norm={batch_norm!r}, frozen_mode={frozen_mode!r}"
            )
        self.verbose = _checks.choice("verbose", verbose, (0, 1))

    @property
    def every(self) -> Any:
        """The epochs a stage takes, or those at which stages start."""
        return self._progress.every

    @property
    def history(self) -> list[dict[str, Any]]:
        """The stages that were entered, a dictionary each."""
        return self._progress.history

    @property
    def waits(self) -> bool:
        """Whether stages wait for a metric, so that their epochs are not known."""
        return self._progress.waits

    @property
    def starts(self) -> list[int] | None:
        """The epochs at which stages start, once a `fit` began and unless they wait."""
        return self._progress.starts

    def plan(self, model: keras.Model, epochs: int | None = None) -> Report:
        """Print what will happen: stages, groups, parameters and rates.

        Args:
            model: The model; its flags and its optimizer are left as they are.
            epochs: The epochs that `fit` will run, if known.

        Returns:
            What was printed; `keras_finetune.summary` says more.
        """
        if epochs is not None:
            epochs = _checks.integer("epochs", epochs, 1)
        stages = self.stages(model)
        rate = None
        if getattr(model, "optimizer", None) is not None:
            rate = optimizer.learning_rate(model)
        when = self.when(stages, epochs)
        table = stages.table(when, self.base_rates(rate, stages))
        said = stages.never_trained()
        if self.groups is None:
            said.append(
                "These are this callback's own groups; in `fit` it uses those of "
                "another callback that was given some."
            )
        report = Report(table, *said)
        return report.show() if processes.is_chief(model) else report

    def stages(self, model: Any, neighbours: Sequence[Any] = ()) -> Stages:
        """Return the stages of a model, beside the other callbacks of a `fit`."""
        return stages_of(self, model, neighbours)

    def when(self, stages: Stages, epochs: int | None) -> list[str]:
        """Return the epochs of each stage, in words."""
        return self._progress.when(stages.last, epochs)

    def when_from(self, stage: int, stages: Stages, epochs: int | None) -> str:
        """Return the epochs from the start of a stage on, in words."""
        return self._progress.when_from(stage, stages.last, epochs)

    def base_rates(self, rate: float | None, stages: Stages) -> list[float] | None:
        """Return the base rate of each stage; `None` if it depends on an unknown one.

        Args:
            rate: That of the optimizer, if it is known.
            stages: The stages.
        """
        n = stages.last + 1
        if self.learning_rates is None:
            if rate is None:
                return None
            return [rate * self.learning_rate_factor**stage for stage in range(n)]
        if len(self.learning_rates) != n:
            raise ValueError(
                "Argument `learning_rates` must have one rate for each stage, of which "
                f"there are {n}. Received: learning_rates={self.learning_rates!r}"
            )
        return self.learning_rates

    # --- the hooks -------------------------------------------------------------------

    def _prepare(self, model: Any) -> None:
        self.refuse_another(fit.callbacks_of_fit(model))
        self._progress.begin_fit()
        earlier = None if self._run is None else self._run.model
        self._run = Unfreezing(self, model, self._progress, again=earlier is model)
        self._run.await_backup()

    def on_train_begin(self, logs: Any = None) -> None:
        self._run.begin(self._epochs())

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._run.begin_epoch(epoch, self._epochs())

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if logs is not None:
            logs["stage"] = self._progress.stage
        self._progress.observe(epoch, logs or {}, processes.agreed)
        if self.restore_best:
            self._run.best.keep(epoch)

    def on_train_end(self, logs: Any = None) -> None:
        self._run.end()

    def _epochs(self) -> int | None:
        # Keras 2 has no `params` before it sets them.
        return (getattr(self, "params", None) or {}).get("epochs")


def _check_rates(rates: Any) -> list[float] | None:
    """Return `learning_rates` as floats, or raise naming the argument."""
    if rates is None:
        return None
    if isinstance(rates, str) or not hasattr(rates, "__iter__"):
        raise TypeError(
            "Argument `learning_rates` must be a list of numbers, one for each stage. "
            f"Received: learning_rates={rates!r}"
        )
    return _checks.numbers("learning_rates", rates, 0.0, exclusive=True)
