"""What a curve of losses over rising learning rates suggests.

The rules of fastai 2 (`fastai/callback/schedule.py`), exactly, and one of ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[np.float64]

BETA = 0.98
# A loss this many times the best one has exploded.
EXPLODED = 4.0
FEWEST = 6  # points that a curve must have
# Of the standard error of the smoothed loss: what a fall must exceed.
_CERTAIN = 5.0
# Shares of the fall of a loss: what is a fall, what ends it if it is lost again, and at
# what the rate is high enough.
_REAL = 0.1
_TURNED = 0.5
_FALLEN = 0.9


def rising(start: float, end: float, steps: int) -> list[float]:
    """Return rates that rise geometrically: `start (end / start)^(i / steps)`."""
    return [start * (end / start) ** (i / steps) for i in range(steps)]


class Smooth:
    """An exponential average of losses, debiased: `sum / (1 - beta^count)`."""

    def __init__(self, beta: float = BETA) -> None:
        self._beta = beta
        self._sum = 0.0
        self._count = 0

    def update(self, loss: float) -> float:
        """Take one more loss, and return the average."""
        self._count += 1
        self._sum = self._beta * self._sum + (1.0 - self._beta) * loss
        return self._sum / (1.0 - self._beta**self._count)


def smoothed(losses: Sequence[float] | Array, beta: float = BETA) -> Array:
    """Return the debiased exponential average after each loss."""
    smooth = Smooth(beta)
    return np.array([smooth.update(float(loss)) for loss in losses])


def usable(rates: Array, losses: Array, steps: int) -> tuple[Array, Array]:
    """Return the points that suggestions look at.

    The first tenth of the steps and the last five points are left out, as is all from
    the first loss on that is not finite.

    Args:
        rates: The rates.
        losses: The smoothed losses.
        steps: The steps that were asked for.
    """
    rates, losses = rates[steps // 10 : -5], losses[steps // 10 : -5]
    wrong = np.flatnonzero(~np.isfinite(losses))
    end = int(wrong[0]) if len(wrong) else len(losses)
    return rates[:end], losses[:end]


def valley(rates: Array, losses: Array) -> float:
    """Return a rate some way down the longest valley of the losses.

    The valley is the longest falling subsequence, which need not be in one piece; the
    rate is that at half of its points, less rounding.
    """
    n = len(losses)
    lengths = [1] * n
    start = end = 0
    for i in range(1, n):
        for j in range(i):
            if losses[i] < losses[j] and lengths[i] < lengths[j] + 1:
                lengths[i] = lengths[j] + 1
            if lengths[end] < lengths[i]:
                end = i
                start = end - lengths[end]
    third = (end - start) / 3
    return float(rates[start + int(third) + int(third / 2)])


def steepest(rates: Array, losses: Array) -> float:
    """Return the rate at which the loss falls fastest, by the logarithm of the rate."""
    slopes = np.diff(losses) / np.diff(np.log(rates))
    return float(rates[np.argmin(slopes)])


def minimum(rates: Array, losses: Array) -> float:
    """Return a tenth of the rate at which the loss is lowest."""
    return float(rates[np.argmin(losses)]) / 10


def centred(losses: Array) -> Array:
    """Return losses smoothed from both sides, so that nothing is late.

    An exponential average says with a rate what was true many rates before. One that
    runs forwards and one that runs backwards are late and early by as much.
    """
    return _both_ways(_bounded(losses))


def _both_ways(values: Array, beta: float = 0.8) -> Array:
    back = smoothed(values[::-1], beta)[::-1]
    return np.asarray((smoothed(values, beta) + back) / 2)


def _bounded(losses: Array, without_learning: float = -np.inf) -> Array:
    """Return losses cut off as far above the start as the lowest is below.

    The average that runs backwards would carry an explosion far.

    Args:
        losses: The losses.
        without_learning: The highest loss of a batch at the start, which is none.
    """
    start = float(np.mean(losses[: _early(losses)]))
    return np.minimum(losses, max(start + (start - np.min(losses)), without_learning))


def _early(losses: Array) -> int:
    """Return how many losses belong to rates that are too low to matter."""
    return max(3, len(losses) // 3)


def corrected(losses: Array, baseline: Array | None) -> Array:
    """Return finite losses without what makes a batch hard, as far as that shows.

    The loss of the same batch without learning, the baseline, tells how hard it is. As
    much of it is taken away as shows in the losses nearby, a control variate: all at
    rates that change little, nothing where a network has broken down and predicts the
    same for any input. Where the baseline is not of the same batches (data that cannot
    be read twice in one order), which the first rates show, it is not used.
    """
    n, early = len(losses), _early(losses)
    if baseline is None or n == 0 or len(baseline) < n:
        return losses
    baseline = baseline[:n]
    apart = np.std((losses - baseline)[:early])
    if not (np.all(np.isfinite(baseline)) and apart <= 0.5 * np.std(losses[:early])):
        return losses
    bounded = _bounded(losses, float(np.max(baseline)))
    hardness = baseline - _both_ways(baseline)
    common = _both_ways(hardness * (bounded - _both_ways(bounded)))
    spread = _both_ways(hardness**2)
    shown = np.clip(common / np.maximum(spread, np.finfo("float64").tiny), 0.0, 1.0)
    return np.asarray(losses - shown * (baseline - np.mean(baseline)))


def ours(rates: Array, losses: Array) -> float:
    """Return the rate at which the loss has made nine tenths of its fall.

    In the losses smoothed from both sides, and before the place where half of the fall
    is lost again. What comes later is not looked at: a network that has broken down
    may predict the same for all inputs, at a loss below that of a new head.
    """
    curve = centred(losses)
    fallen = np.mean(curve[: _early(curve)]) - np.minimum.accumulate(curve)
    lost = curve - np.minimum.accumulate(curve)
    is_real = fallen > _REAL * np.max(fallen)
    turns = np.flatnonzero(is_real & (lost > _TURNED * fallen))
    most = fallen[turns[0] if len(turns) else -1]
    return float(rates[np.argmax(fallen >= _FALLEN * most)])


def why_none(
    losses: Array, kept: int, is_whole: bool, is_finite: bool = True
) -> str | None:
    """Return why a curve suggests nothing, `None` if it does.

    Args:
        losses: The losses of single batches after the first tenth, as far as finite.
        kept: The number of points that suggestions look at.
        is_whole: Whether the highest rate was reached.
        is_finite: Whether the first loss is a finite number.
    """
    if not is_finite:
        return "the loss of the first batch is not finite: look at the data and targets"
    kept = min(kept, len(losses))
    if kept < FEWEST:
        return (
            f"{kept} points of the curve are left without its first tenth and the last "
            f"five, of at least {FEWEST}: use more `steps`, or a lower `start`"
        )
    curve, early = centred(losses), _early(losses)
    lowest = early + int(np.argmin(curve[early:]))
    fall = float(np.mean(curve[:early]) - curve[lowest])
    # At the first rates a loss without its baseline has no noise left.
    parts = losses[:early], losses[max(lowest - early, 0) : lowest + 1]
    noise = max(float(np.std(np.diff(part))) for part in parts) / np.sqrt(2.0)
    # Of an average whose weights fall by 0.8 a batch on either side.
    error = noise * np.sqrt(0.2 / 1.8 / 2)
    if fall <= max(_CERTAIN * error, 1e-6 * abs(float(curve[0]))):
        return (
            f"the loss does not fall at any rate: by {max(fall, 0.0):.3g} at most, "
            f"and its standard error is {error:.2g}"
        )
    if is_whole and lowest >= len(curve) - 3:
        return "the loss still falls at the highest rate: use a higher `end`"
    return None
