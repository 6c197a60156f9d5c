"""A flat learning rate that falls at the end."""

from __future__ import annotations

from typing import Literal

from keras_finetune._engine import keras
from keras_finetune._schedule.cycles import two_cosines
from keras_finetune.callbacks._scheduled import Scheduled, check_divisor, check_share


@keras.saving.register_keras_serializable(package="keras_finetune")
class FlatCosine(Scheduled):
    """Keep the learning rate of the optimizer, and let it fall along a cosine at last.

    The rate stays for the first part of the updates, and falls over the others along
    half a cosine to the rate over `div_final`: the shape and the defaults of fastai's
    `fit_flat_cos`. It is worked out inside the step; `OneCycle` says what it goes with.

    Args:
        pct_start: The share of the updates in which the rate stays, from 0 to 1.
        div_final: The rate over that at the end, at least 1.
        per: What one cycle spans: `"run"`, all epochs of this `fit`, or `"stage"`,
            those of each stage of a `GradualUnfreeze` beside it.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If an argument has a wrong value; before the first step if the
            number of steps is not known, if another schedule of the learning rate is
            there, or if the optimizer was compiled with a `LearningRateSchedule`.

    Example:

    >>> schedule = FlatCosine(pct_start=0.5, div_final=100.0)
    >>> [round(factor, 3) for factor in schedule.factors(8)]
    [1.0, 1.0, 1.0, 1.0, 1.0, 0.855, 0.505, 0.155]
    """

    def __init__(
        self,
        pct_start: float = 0.75,
        *,
        div_final: float = 1e5,
        per: Literal["run", "stage"] = "run",
    ) -> None:
        super().__init__(per)
        self.pct_start = check_share("pct_start", pct_start)
        self.div_final = check_divisor("div_final", div_final)

    def factors(self, updates: int, cycle: int = 0) -> list[float]:
        return two_cosines(updates, self.pct_start, 1.0, 1.0, 1 / self.div_final)
