"""Adam's bias correction for variables that begin to train late.

Adam's averages start at zero, so in the first updates only a share of them is there.
Adam divides by that share, which it works out from the number of all its updates. The
averages of a variable that begins after `n` of them are as incomplete, but the share
that the optimizer works out is near 1: the average of squares stays too small, and
updates are up to 6.5 times as large as the rate says, for some hundred updates. The
ratio of the two corrections, as a factor on the rate of that variable, makes its
updates those of an Adam that is new when it begins.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from keras_finetune._engine.active import lane
from keras_finetune._engine.demands import Schedule

# What an optimizer calls the decays of its averages: of gradients, of their squares.
_DECAYS = {
    **dict.fromkeys(("Adam", "AdamW"), ("beta_1", "beta_2")),
    "Adamax": ("beta_1",),
}
# Those that count updates as well, but do not correct by a factor on the rate, and the
# one whose optimizers count for themselves.
_OTHERS = (
    *("Nadam", "Lamb", "Adafactor", "Muon", "ScheduleFreeAdamW", "MultiOptimizer"),
    *("LAMB", "RectifiedAdam", "AdaBelief", "Yogi"),
)
# A correction ends where it is 1 to single precision, or after so many updates.
_PRECISION, _MOST = 2.0**-26, 1_000_000


def is_exact(inner: Any) -> bool:
    """Return whether an optimizer's correction can count from another update."""
    return not _named(inner, _OTHERS)


def from_starts(
    inner: Any, starts: Mapping[Hashable, int], schedule: Schedule | None
) -> dict[Hashable, Callable[[], Any]]:
    """Return what gives, in a step, the factor on the rate of each variable's update.

    Args:
        inner: An optimizer that updates variables.
        starts: The updates that it had made when a variable began to train.
        schedule: What its updates follow, if anything.
    """
    if not _named(inner, _DECAYS):
        return {}
    given = {
        start: lane.at_update(inner, factors(inner, start, schedule), start)
        for start in set(starts.values())
    }
    return {key: given[start] for key, start in starts.items()}


def factors(inner: Any, start: int, schedule: Schedule | None) -> list[float]:
    """Return the factor of each update from a start on, until they are 1.

    Args:
        inner: An optimizer that corrects its averages by a factor on the rate.
        start: The updates that it has made before.
        schedule: What its updates follow, if anything.
    """
    names = _DECAYS[_named(inner, _DECAYS)[0]]
    decays = [lane.hyperparameter(inner, name) for name in names]
    slowest = max(decays)
    count = _MOST
    if slowest < 1.0:
        count = min(int(np.log(_PRECISION) / np.log(max(slowest, 0.5))) + 1, _MOST)
    own: npt.NDArray[np.float64] = np.arange(1, count + 1, dtype=float)
    first: Any = decays[0]
    if schedule is not None and schedule.momenta:
        moved = [schedule.momentum_of(start + i) for i in range(count)]
        first = np.array(moved, dtype=float)
    found = _corrected(first, start + own) / _corrected(first, own)
    if decays[1:]:
        second = decays[1]
        squares = _corrected(second, own) / _corrected(second, start + own)
        found = found * np.sqrt(squares)
    return [*found.tolist(), 1.0]


def _corrected(decay: Any, updates: npt.NDArray[np.float64]) -> Any:
    """Return the share of an average that is there after so many updates."""
    return 1.0 - decay**updates


def _named(inner: Any, names: Any) -> list[str]:
    return [kind.__name__ for kind in type(inner).__mro__ if kind.__name__ in names]
