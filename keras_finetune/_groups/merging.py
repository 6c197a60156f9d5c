"""Runs merged into fewer, of about equal weight."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Sequence

from keras_finetune._groups.names import first_to_last
from keras_finetune._groups.runs import Run


def merged(runs: list[Run], count: int) -> list[Run]:
    """Merge consecutive runs into `count`, the last one staying alone.

    What a run costs is its share of the parameters plus its share of the depth, of
    which each run has the same: parameters alone would put most of a network into the
    lowest group, as they grow with the width, and depth alone its largest blocks into
    one.
    """
    if not 1 <= count <= len(runs):
        raise ValueError(
            f"Argument `groups` must be between 1 and {len(runs)}, the number of "
            f"groups that the model has. Received: groups={count!r}"
        )
    if count == 1:
        parts = [(0, len(runs))]
    else:
        parts = balance(costs([run.size for run in runs[:-1]]), count - 1)
        parts.append((len(runs) - 1, len(runs)))
    found = []
    for start, stop in parts:
        name = first_to_last([run.name for run in runs[start:stop]])
        units = [unit for run in runs[start:stop] for unit in run.units]
        found.append(Run(units, None, name))
    return found


def costs(sizes: Sequence[int]) -> list[int]:
    """Return the share of each size plus an equal share of the depth, as integers.

    Example:

    >>> costs([10, 10, 40])
    [90, 90, 180]
    """
    # size / total + 1 / len(sizes), times both denominators.
    total = sum(sizes) or 1
    return [size * len(sizes) + total for size in sizes]


def balance(sizes: Sequence[int], count: int) -> list[tuple[int, int]]:
    """Cut a sequence into `count` parts, the largest as small as possible.

    Of the cuts that allow this, each is taken as near as possible to an equal share of
    what is left.

    Args:
        sizes: The sizes, in order, none negative.
        count: How many parts, from 1 to `len(sizes)`. No part is empty.

    Returns:
        Start and stop of each part.

    Example:

    >>> balance([4, 1, 1, 4], 3)
    [(0, 1), (1, 3), (3, 4)]
    """
    total = list(itertools.accumulate(sizes, initial=0))
    low, high = max(sizes), total[-1]
    while low < high:
        middle = (low + high) // 2
        if len(_filled(total, middle, count)) <= count:
            high = middle
        else:
            low = middle + 1
    latest = _latest(total, low, count)
    cuts = [0]
    for left in range(count, 1, -1):
        # As far as one part reaches, and not so early that too much is left.
        start = cuts[-1]
        last = min(_reach(total, start, low), len(sizes) - left + 1)
        first = max(start + 1, latest[left - 1])
        ideal = total[start] + (total[-1] - total[start]) / left
        cut = bisect.bisect_left(total, ideal, first, last)
        if cut > first and ideal - total[cut - 1] <= total[cut] - ideal:
            cut -= 1
        cuts.append(cut)
    return list(itertools.pairwise([*cuts, len(sizes)]))


def _reach(total: list[int], start: int, limit: int) -> int:
    """Return the last stop of a part from `start` that is not larger than the limit."""
    return bisect.bisect_right(total, total[start] + limit) - 1


def _filled(total: list[int], limit: int, count: int) -> list[int]:
    """Return the stops of parts filled from the left, at most one too many."""
    stops: list[int] = []
    while (not stops or stops[-1] < len(total) - 1) and len(stops) <= count:
        stops.append(_reach(total, stops[-1] if stops else 0, limit))
    return stops


def _latest(total: list[int], limit: int, count: int) -> list[int]:
    """Return the first start from which the rest fits into 0, 1, ... `count` parts."""
    starts = [len(total) - 1]
    for _ in range(count):
        starts.append(bisect.bisect_left(total, total[starts[-1]] - limit))
    return starts
