"""A short rise of the learning rate and a long fall."""

from __future__ import annotations

from typing import Literal

from keras_finetune._engine import keras
from keras_finetune._schedule.cycles import slanted_triangle
from keras_finetune.callbacks._scheduled import Scheduled, check_divisor, check_share


@keras.saving.register_keras_serializable(package="keras_finetune")
class SlantedTriangular(Scheduled):
    """Let the learning rate rise in a short line, and fall in a long one.

    The rate of the optimizer is the peak. With `cut` = floor(n `cut_frac`) of n updates
    the rate of update t is

        peak (1 + p (ratio - 1)) / ratio,   p = t / cut                 for t < cut,
                                            p = 1 - (t - cut) / (n - cut)   after,

    which is equation 3 of ULMFiT where n `cut_frac` is whole. Where it is not, the
    equation of the paper falls too fast and ends below peak / `ratio`, even below 0;
    this one never does. It is worked out inside the step; `OneCycle` says what it goes
    with.

    Args:
        cut_frac: The share of the updates in which the rate rises, from 0 to 1.
        ratio: The peak over the lowest rate, at least 1.
        per: What one cycle spans: `"run"`, all epochs of this `fit`, or `"stage"`,
            those of each stage of a `GradualUnfreeze` beside it.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If an argument has a wrong value; before the first step if the
            number of steps is not known, if another schedule of the learning rate is
            there, or if the optimizer was compiled with a `LearningRateSchedule`.

    Example:

    >>> schedule = SlantedTriangular(cut_frac=0.2, ratio=9)
    >>> [round(factor, 3) for factor in schedule.factors(10)]
    [0.111, 0.556, 1.0, 0.889, 0.778, 0.667, 0.556, 0.444, 0.333, 0.222]

    References:
        - [Howard and Ruder, 2018](https://arxiv.org/abs/1801.06146), section 3.2
    """

    def __init__(
        self,
        cut_frac: float = 0.1,
        *,
        ratio: float = 32.0,
        per: Literal["run", "stage"] = "run",
    ) -> None:
        super().__init__(per)
        self.cut_frac = check_share("cut_frac", cut_frac)
        self.ratio = check_divisor("ratio", ratio)

    def factors(self, updates: int, cycle: int = 0) -> list[float]:
        return slanted_triangle(updates, self.cut_frac, self.ratio)
