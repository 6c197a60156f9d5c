"""Norms of the weights in the logs of `fit`."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, Literal

from keras_finetune import _checks
from keras_finetune._engine import (
    backups,
    fit,
    keras,
    optimizer,
    processes,
    session,
    structure,
)
from keras_finetune._engine.active import lane
from keras_finetune._engine.batches import batches_done
from keras_finetune._engine.norms import WeightNorms
from keras_finetune._engine.structure import variable_key, variable_path
from keras_finetune._engine.tensorboard import ScalarWriter
from keras_finetune._groups.layer_groups import Groups, check_groups
from keras_finetune._rules.parts import norms_of_parts, parts
from keras_finetune._rules.selection import selector
from keras_finetune._rules.sharing import shared_groups
from keras_finetune.callbacks._callback import FineTuningCallback


@dataclass
class _Run:
    """What belongs to one `fit`: the pass, and the keys of the weights of each part."""

    norms: WeightNorms
    parts: dict[str, list[Hashable]] = field(default_factory=dict)


@keras.saving.register_keras_serializable(package="keras_finetune")
class WeightNormLogger(FineTuningCallback):
    """Logs the norm of the trainable weights while a model trains.

    At the end of each epoch `logs` gets `"weight_norm"`, the norm of all trainable
    weights together as if they were one long vector, so that `History`, `CSVLogger`,
    `TensorBoard`, `EarlyStopping` and every other callback after this one sees it. It
    is computed in one compiled pass over the weights: float32 sums for half types,
    each shared weight once, one replica of a distributed weight.

    With `by="group"`, `"layer"` or `"variable"` there is also `"weight_norm/<name>"`
    for each of them. The keys are the same in every epoch: a part none of whose weights
    trains yet has the value NaN. A layer is what `model.layers` lists, nested models
    expanded; where two have the same name, the models around them are named too.

    With `updates=True` there are also `"update_ratio"` and its parts, the norm of the
    change since the last measurement over the norm now, and with `distance=True`
    `"weight_distance"`, the norm of the change since the start of training. A weight
    that is unfrozen later starts where it was. Each of the two keeps one copy of the
    weights that have trained.

    `keras_finetune.plotting.plot_history` draws what was measured. Place this callback
    before those that read its numbers.

    Args:
        by: `"model"` (default), `"group"`, `"layer"` or `"variable"`: what gets a norm
            of its own beside the model.
        order: The norm: 1 (the sum of absolute values), 2 (default: Euclidean, for a
            matrix Frobenius), `float("inf")` (the largest absolute value), or
            `"spectral"`: the largest singular value of the matrices, kernels with more
            dimensions as matrices with one column for each output; weights with fewer
            dimensions than two are left out, and several matrices together have the
            largest of their norms.
        frequency: `"epoch"` (default), or an integer n: every n batches instead. These
            measurements are kept in `callback.history` and stay out of `logs`.
        select: Which weights count: a regular expression that is searched for in the
            variable's path (`"kernel$"`), or a callable that takes a variable and
            returns a bool. Defaults to all.
        updates: Whether to log the relative size of the updates.
        distance: Whether to log the distance from the start of training.
        groups: The groups for `by="group"`, in the words of `layer_groups`. Defaults to
            those of another callback in the same `fit`, else to a few.
        log_dir: A directory for TensorBoard: every measurement is also written there,
            by epoch or by step. Needs the package `tensorboard`.

    Attributes:
        history: One dictionary for each measurement: `epoch` (counted from 0), `step`
            with a frequency in batches (counted from 1), and the values.

    Raises:
        ValueError: If an argument is out of range; at the start of training if `select`
            selects nothing, or if the model has no weights yet but their start is
            asked for.
        TypeError: If an argument has the wrong type.
        ImportError: If `log_dir` is given and `tensorboard` is not installed.

    Example:
    >>> import keras, numpy
    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, name="a")])
    >>> model.set_weights([numpy.array([[2.0], [1.0]]), numpy.array([2.0])])
    >>> model.compile(keras.optimizers.SGD(0.0), "mse")
    >>> norms = WeightNormLogger(by="variable", select="kernel|bias", distance=True)
    >>> history = model.fit(
    ...     numpy.ones((4, 2)), numpy.ones((4, 1)), verbose=0, callbacks=[norms]
    ... )
    >>> [round(norm, 4) for norm in history.history["weight_norm"]]
    [3.0]
    >>> history.history["weight_distance"]
    [0.0]

    References:
    - [TensorFlow Addons' tutorial on conditional gradients](
      https://www.tensorflow.org/addons/tutorials/optimizers_conditionalgradient), whose
      `frobenius_norm` over `model.trainable_weights` is `"weight_norm"`.
    - [Miyato et al., 2018](https://arxiv.org/abs/1802.05957) for the spectral norm of a
      convolution kernel as a matrix.
    """

    gives_groups = False  # it only watches
    adds = ("weight_norm", "update_ratio", "weight_distance")

    def __init__(
        self,
        by: Literal["model", "group", "layer", "variable"] = "model",
        *,
        order: float | Literal["spectral"] = 2,
        frequency: Literal["epoch"] | int = "epoch",
        select: str | Callable[[Any], bool] | None = None,
        updates: bool = False,
        distance: bool = False,
        groups: Groups | None = None,
        log_dir: str | os.PathLike[str] | None = None,
    ) -> None:
        super().__init__()
        self.by = _checks.choice("by", by, ("model", "group", "layer", "variable"))
        self.order = _checks.choice("order", order, (1, 2, math.inf, "spectral"))
        if frequency != "epoch" and isinstance(frequency, str):
            raise ValueError(
                'Argument `frequency` must be "epoch" or an integer >= 1. '
                f"Received: frequency={frequency!r}"
            )
        if frequency != "epoch":
            frequency = _checks.integer("frequency", frequency, 1)
        self.frequency: Any = frequency
        self.select = select
        self._selects = selector(
            "" if select is None else select, "a regular expression, a callable or None"
        )
        self.updates = _checks.boolean("updates", updates)
        self.distance = _checks.boolean("distance", distance)
        self.groups = None if groups is None else check_groups(groups)
        self.log_dir = log_dir
        self._writer = ScalarWriter(log_dir)
        self.history: list[dict[str, float]] = []
        # Only where they are needed: Keras waits for the device before a batch hook.
        if frequency != "epoch":
            self.on_train_batch_end = self._after_batch
        if updates or distance:
            self.on_train_batch_begin = self._before_batch

    def set_model(self, model: Any) -> None:
        """Look at the weights before a backup moves them."""
        super().set_model(model)
        changes = ["update_ratio"] * self.updates + ["weight_distance"] * self.distance
        self._run = _Run(WeightNorms(self.order, "weight_norm", changes))
        if self.distance and structure.is_built(model) and backups.resumes(model):
            # What has trained before the kill started where it is now.
            self._run.norms.remember(
                self._counted(structure.trainable_if_unfrozen(model))
            )

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Find the weights."""
        self._epoch = self._step = self._steps_before = 0
        self._begins = True
        if self.updates or self.distance:
            optimizer.build(self.model)
        if structure.is_built(self.model):
            self._find_parts()
        elif self.updates or self.distance:
            raise ValueError(
                "`updates` and `distance` need the weights before training. Build the "
                "model before `fit`: call it once on data, or call "
                f"`model.build(input_shape)`. Received: model={self.model!r}"
            )
        if processes.is_chief(self.model):
            self._writer.open()

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Go on where a resumed training stopped."""
        # What an earlier `fit` recorded of epochs that now run again.
        self.history = [row for row in self.history if row["epoch"] < epoch]
        steps = (self.params or {}).get("steps")
        self._epoch = epoch
        self._step = self._steps_before = epoch * steps if steps else self._step
        if self._begins and self._run.parts:
            # Not in `on_train_begin`: only now a backup is loaded for certain.
            self._run.norms.remember(self._training())
            if self.updates:
                self._run.norms.renew("update_ratio", self._training())
        self._begins = False

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Measure, and write into the logs."""
        if self.frequency == "epoch":
            values = self._record({"epoch": epoch}, epoch)
            if logs is not None:
                logs.update(values)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Let go of the copies of the weights."""
        self._run.norms.forget()
        self._writer.close()

    def _before_batch(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        # Callbacks after this one may have unfrozen weights since the epoch began.
        if self._run.norms.remembered < len(self._run.parts[""]):
            self._run.norms.remember(self._training())

    def _after_batch(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        steps = (self.params or {}).get("steps")
        done = batches_done(self.model, batch, steps)
        before, self._step = self._step, self._steps_before + done
        if self._step // self.frequency > before // self.frequency:
            self._record({"epoch": self._epoch, "step": self._step}, self._step)

    def _record(self, when: dict[str, Any], step: int) -> dict[str, float]:
        values = self._measure()
        self.history.append({**when, **values})
        self._writer.write(values, step)
        return values

    def _measure(self) -> dict[str, float]:
        lane.pull_state(self.model)
        if not self._run.parts:
            self._find_parts()
        variables = self._training()
        self._run.norms.remember(variables)
        later = self._counted(session.later_variables(self.model))
        rows = self._run.norms.measure(variables, later)
        if self.updates:
            self._run.norms.renew("update_ratio", variables)
        keys = [variable_key(v) for v in variables]
        values = norms_of_parts(rows, keys, self._run.parts, self.order)
        for part in self._run.parts if self.updates else ():
            change, norm = values[f"update_ratio{part}"], values[f"weight_norm{part}"]
            values[f"update_ratio{part}"] = (
                change / norm if norm else change and math.inf
            )
        return values

    def _training(self) -> list[Any]:
        return self._counted(session.training_variables(self.model))

    def _counted(self, variables: list[Any]) -> list[Any]:
        """Return those that the arguments select."""
        if self.order == "spectral":
            variables = [v for v in variables if len(v.shape) > 1]
        return [v for v in variables if self._selects(v)]

    def _find_parts(self) -> None:
        """Find the weights that may ever train, and the parts they make."""
        groups = None
        if self.by == "group" or self.groups is not None:
            neighbours = fit.callbacks_of_fit(self.model)
            groups = shared_groups(self.model, self, neighbours)
        candidates = structure.trainable_if_unfrozen(self.model)
        weights = self._counted(candidates)
        if candidates and not weights:
            paths = ", ".join(repr(variable_path(v)) for v in candidates[:8])
            raise ValueError(
                "Argument `select` must select a weight (a matrix for the spectral "
                f"norm) of the model, whose first weights are {paths}. "
                f"Received: select={self.select!r}"
            )
        self._run.parts = parts(self.model, weights, self.by, groups)
