"""A learning rate that rises at first."""

from __future__ import annotations

from typing import Literal

from keras_finetune import _checks
from keras_finetune._engine import keras
from keras_finetune._schedule.cycles import line
from keras_finetune.callbacks._scheduled import Scheduled, check_share


@keras.saving.register_keras_serializable(package="keras_finetune")
class Warmup(Scheduled):
    """Let the learning rate rise in a line to that of the optimizer, and stay there.

    Update t of w has `start + (1 - start) t / w` times the rate, as the warm-up of
    Keras's `CosineDecay`; all later ones have the rate itself. It goes with a
    `LearningRateSchedule` of the optimizer too, whose rate it multiplies. It is worked
    out inside the step; `OneCycle` says what else it goes with.

    Args:
        epochs: The epochs in which the rate rises; a fraction for a part of one.
        steps: The steps (batches) in which the rate rises, in place of `epochs`; the
            number of steps in an epoch need not be known then.
        start: The share of the rate at which the first update is made, from 0 to 1.
        per: How often the rate rises: `"run"`, once in this `fit`, or `"stage"`, at the
            beginning of each stage of a `GradualUnfreeze` beside it.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If an argument has a wrong value, or both `epochs` and `steps` are
            given; before the first step if the number of steps in an epoch must be
            known and is not, or if another schedule of the learning rate is there.

    Example:

    >>> schedule = Warmup(steps=4, start=0.2)
    >>> [round(factor, 3) for factor in schedule.factors(4)]
    [0.2, 0.4, 0.6, 0.8, 1.0]

    References:
        - [Goyal et al., 2017](https://arxiv.org/abs/1706.02677), section 2.2
    """

    multiplies_schedules = True

    def __init__(
        self,
        epochs: float | None = None,
        *,
        steps: int | None = None,
        start: float = 0.0,
        per: Literal["run", "stage"] = "run",
    ) -> None:
        super().__init__(per)
        if epochs is not None:
            epochs = _checks.number("epochs", epochs, 0.0, exclusive=True)
        if steps is not None:
            steps = _checks.integer("steps", steps, 1)
        if epochs is not None and steps is not None:
            raise ValueError(
                "Only one of `epochs` and `steps` can be given. "
                f"Received: epochs={epochs!r}, steps={steps!r}"
            )
        self.epochs = epochs
        self.steps = steps
        self.start = check_share("start", start)

    def factors(self, updates: int, cycle: int = 0) -> list[float]:
        return line(updates, self.start)

    def spans(self, steps: int | None) -> int | None:
        if self.steps is not None:
            return self.steps
        return None if steps is None else round((self.epochs or 1.0) * steps)
