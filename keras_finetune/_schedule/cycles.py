"""Cycles of the learning rate and of momentum: one value for each update of a run.

Positions are shares of the run: update t of n is at t / n, so that the end of a cycle
lies behind the last update, as in fastai.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence


def cosine(start: float, end: float, position: float) -> float:
    """Return the value at a position, from 0 to 1, of half a cosine."""
    return start + (1 + math.cos(math.pi * (1 - position))) * (end - start) / 2


def two_cosines(
    n: int, first_share: float, start: float, middle: float, end: float
) -> list[float]:
    """Return `n` values along half a cosine to `middle`, and another one to `end`.

    Args:
        n: The updates.
        first_share: The share of them before `middle`, from 0 to 1.
        start: The first value, unless `first_share` is 0.
        middle: The value between the two.
        end: What the values come to.

    Example:

    >>> two_cosines(4, 0.5, 0.0, 1.0, 0.0)
    [0.0, 0.5, 1.0, 0.5]
    """
    values = []
    for t in range(n):
        position = t / n
        if position < first_share:
            values.append(cosine(start, middle, position / first_share))
        else:
            rest = (position - first_share) / (1 - first_share)
            values.append(cosine(middle, end, rest))
    return values


def slanted_triangle(n: int, first_share: float, ratio: float) -> list[float]:
    """Return `n` values that rise in a line from `1 / ratio` to 1 and fall back.

    Equation 3 of ULMFiT, whose fall takes `cut (1 / first_share - 1)` updates where
    `cut` of them rise. That is all that are left if `n first_share` is whole; if it is
    not, the equation goes below `1 / ratio`, or below 0, before the end. So the fall
    takes all that are left.

    Args:
        n: The updates.
        first_share: The share of them that rise.
        ratio: How much smaller the lowest value is than the highest.

    Example:

    >>> slanted_triangle(10, 0.2, 9)
    [0.111..., 0.555..., 1.0, 0.888..., ..., 0.222...]
    """
    # The smallest part of an update is a rounding error: 0.29 * 100 is 28.999...
    cut = math.floor(n * first_share + 1e-9)
    cut = min(max(cut, 1), n - 1)
    values = []
    for t in range(n):
        share = t / cut if t < cut else 1 - (t - cut) / (n - cut)
        values.append((1 + share * (ratio - 1)) / ratio)
    return values


def line(n: int, start: float) -> list[float]:
    """Return `n` values that rise in a line from `start` towards 1, and 1."""
    return [*(start + (1 - start) * t / n for t in range(n)), 1.0]


def in_cycles(
    cycle: Callable[[int, int], list[float]],
    lengths: Sequence[int],
    span: int | None,
    first: int = 0,
) -> list[float]:
    """Return the values of several cycles, and the one that holds after them.

    Args:
        cycle: Gives the values of a cycle of so many updates with this number, or
            none.
        lengths: The updates from the beginning of a cycle to the next.
        span: The updates that a cycle takes at most; its last value holds until the
            next one begins.
        first: The number of the first of these cycles.

    Example:

    >>> in_cycles(lambda n, number: line(n, 0.5), [3, 4], 2)
    [0.5, 0.75, 1.0, 0.5, 0.75, 1.0, 1.0, 1.0]
    """
    values: list[float] = []
    after: list[float] = []
    for number, n in enumerate(lengths, first):
        some = cycle(n if span is None else min(n, span), number)
        after = some[-1:]
        values += (some + after * n)[:n]
    return values + after


def in_pieces(ends: Sequence[int]) -> list[int]:
    """Return the lengths of pieces that end there, empty ones left out.

    Example:

    >>> in_pieces([3, 3, 5])
    [3, 2]
    """
    starts = [0, *ends]
    lengths = [end - start for start, end in zip(starts, ends, strict=False)]
    return [length for length in lengths if length > 0]
