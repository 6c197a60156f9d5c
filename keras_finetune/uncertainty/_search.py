"""The search for one positive number, on the scale of its logarithm.

SciPy's `minimize_scalar` was considered; this is two dozen lines, and SciPy is no
dependency of Keras.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

_GOLDEN = (np.sqrt(5.0) - 1.0) / 2.0


def minimum(
    loss: Callable[[float], float], start: float, low: float, high: float
) -> float:
    """Return the argument of the minimum of `loss` that lies downhill from `start`.

    Steps of an eighth lead to the valley, a golden-section search to its bottom. Where
    there are several valleys, the one next to `start` is meant: mixtures may have
    another one at the edge, where each sample casts a vote, which fits a small held-out
    set by chance and is far off on the next.
    """
    here, step = start, 0.125
    best = loss(here)
    for direction in (-step, step):
        while low <= here + direction <= high and loss(here + direction) < best:
            here += direction
            best = loss(here)
    low, high = max(here - step, low), min(here + step, high)
    while high - low > 1e-7:
        first = high - _GOLDEN * (high - low)
        second = low + _GOLDEN * (high - low)
        if loss(first) <= loss(second):
            high = second
        else:
            low = first
    return float((low + high) / 2)
