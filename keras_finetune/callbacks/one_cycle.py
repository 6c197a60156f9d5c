"""The learning rate up and down once, momentum the other way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from keras_finetune._engine import keras
from keras_finetune._schedule.cycles import two_cosines
from keras_finetune.callbacks._scheduled import (
    Scheduled,
    check_divisor,
    check_momentum,
    check_per_stage,
    check_share,
    in_cycle,
)


@keras.saving.register_keras_serializable(package="keras_finetune")
class OneCycle(Scheduled):
    """Let the learning rate rise to that of the optimizer, and fall far below it.

    The rate of the optimizer is the peak. Over the first part of the updates the rate
    rises along half a cosine from the peak over `div`, over the others it falls along
    half a cosine to the peak over `div_final`; momentum moves the other way. These are
    the shape and the defaults of fastai's `fit_one_cycle`; update t of n is at the
    position t / n, so that the end lies behind the last update. (PyTorch's `OneCycleLR`
    is another curve: t / (n - 1), and `final_div_factor` divides the initial rate.)

    The rate is worked out inside the training step from the optimizer's count of
    updates: with gradient accumulation a cycle is counted in updates, with
    `steps_per_execution` every step has its own rate. The optimizer keeps its rate,
    which `ReduceLROnPlateau`, `LearningRateScheduler` and `GradualUnfreeze` (by
    `learning_rate_factor` or `learning_rates`) still change: they move the peak.
    `DiscriminativeLR` multiplies the rate of each group. Each `fit` begins a new cycle;
    a run that resumes from a `BackupAndRestore` goes on in the middle of the old one.

    The rate of the last update is in the logs of each epoch, as `learning_rate`.

    Args:
        pct_start: The share of the updates in which the rate rises, from 0 to 1. With
            `per="stage"` this and the next two may be lists with a number for each
            cycle, the last for all later ones; stages that begin together share one.
        div: The peak over the rate at the beginning, at least 1.
        div_final: The peak over the rate at the end, at least 1.
        momentum: The momentum at the beginning, at the peak and at the end, each
            between 0 and 1: `momentum` of SGD and RMSprop, `beta_1` of Adam, AdamW,
            Adamax and LAMB, in place of the one that the optimizer was made with.
            Bias corrections use that of the update, as fastai's and PyTorch's do.
            Optimizers without momentum, or with a momentum of 0, keep that. `None`
            leaves the momentum as it is.
        per: What one cycle spans: `"run"`, all epochs of this `fit`, or `"stage"`,
            those of each stage of a `GradualUnfreeze` beside it.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If an argument has a wrong value; before the first step if the
            number of steps is not known, if another schedule of the learning rate is
            there, if the optimizer was compiled with a `LearningRateSchedule`, or if
            its momentum cannot move exactly (Nadam and others).

    Example:

    >>> schedule = OneCycle(pct_start=0.5, div=10.0, div_final=100.0)
    >>> [round(factor, 3) for factor in schedule.factors(8)]
    [0.1, 0.232, 0.55, 0.868, 1.0, 0.855, 0.505, 0.155]
    >>> [round(momentum, 3) for momentum in schedule.momenta(8)]
    [0.95, 0.935, 0.9, 0.865, 0.85, 0.865, 0.9, 0.935]

    References:
        - [Smith and Topin, 2017](https://arxiv.org/abs/1708.07120)
        - [Smith, 2018](https://arxiv.org/abs/1803.09820)
    """

    def __init__(
        self,
        pct_start: float | Sequence[float] = 0.25,
        *,
        div: float | Sequence[float] = 25.0,
        div_final: float | Sequence[float] = 1e5,
        momentum: tuple[float, float, float] | None = (0.95, 0.85, 0.95),
        per: Literal["run", "stage"] = "run",
    ) -> None:
        super().__init__(per)
        self.pct_start = check_per_stage("pct_start", pct_start, per, check_share)
        self.div = check_per_stage("div", div, per, check_divisor)
        self.div_final = check_per_stage("div_final", div_final, per, check_divisor)
        self.momentum = check_momentum(momentum)

    def factors(self, updates: int, cycle: int = 0) -> list[float]:
        rise = in_cycle(self.pct_start, cycle)
        start, end = 1 / in_cycle(self.div, cycle), 1 / in_cycle(self.div_final, cycle)
        return two_cosines(updates, rise, start, 1.0, end)

    def momenta(self, updates: int, cycle: int = 0) -> list[float]:
        if self.momentum is None:
            return []
        return two_cosines(updates, in_cycle(self.pct_start, cycle), *self.momentum)
