"""Coverage: how often intervals and sets hold what comes true."""

from __future__ import annotations

from typing import Any

import numpy as np

from keras_finetune.uncertainty._arrays import labels, numbers, targets


def interval_coverage(y: Any, low: Any, high: Any) -> float:
    """Return the share of targets that lie in their intervals, ends included.

    To be compared with the level of the intervals, on targets that neither trained the
    model nor calibrated it. Shapes must agree: `(low <= y) & (y <= high)` by hand
    compares all rows with all rows where `y` has the shape `(rows,)` and the ends
    `(rows, 1)`.

    Args:
        y: Targets, shape `(rows, ...)`; a last axis of one may be left out.
        low: Lower ends, such as `MCPrediction.predictive_interval` gives.
        high: Upper ends, of the same shape, none below its lower end.

    Returns:
        A number from 0 to 1, over all rows and units.

    Raises:
        TypeError: If an argument is not made of numbers.
        ValueError: If shapes do not match, or an interval has its ends exchanged.

    Example:

    >>> low, high = [[0.0], [0.0], [0.0], [0.0]], [[1.0], [1.0], [1.0], [1.0]]
    >>> interval_coverage([0.5, 1.0, 1.5, -0.5], low, high)
    0.5
    """
    low = numbers("low", low)
    high = targets("high", high, low.shape)
    y = targets("y", y, low.shape)
    if low.size == 0 or (high < low).any():
        raise ValueError(
            "Argument `high` must hold at least one upper end, none below its lower "
            f"end. Received: high of shape {high.shape} with {(high < low).sum()} below"
        )
    return float(((low <= y) & (y <= high)).mean())


def set_coverage(y: Any, sets: Any) -> float:
    """Return the share of labels that lie in their sets.

    Args:
        y: Labels, shape `(rows,)`, or one-hot rows.
        sets: Whether the set of a row holds a class, shape `(rows, classes)`, such as
            `conformal_set` gives.

    Returns:
        A number from 0 to 1.

    Raises:
        TypeError: If an argument is not made of numbers.
        ValueError: If shapes do not match.

    Example:

    >>> set_coverage([0, 1], [[True, True], [True, False]])
    0.5
    """
    held = numbers("sets", sets)
    if held.ndim != 2 or held.size == 0 or not np.isin(held, (0, 1)).all():
        raise ValueError(
            "Argument `sets` must hold True or False for each row and class. "
            f"Received: sets of shape {held.shape}"
        )
    y = labels("y", y, held.shape[:1], held.shape[1])
    return float(held[np.arange(len(y)), y].mean())
