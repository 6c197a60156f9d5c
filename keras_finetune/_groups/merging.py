"""Runs merged into fewer, of about equal size."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from keras_finetune._groups.names import first_to_last
from keras_finetune._groups.runs import Run


def merged(runs: list[Run], count: int) -> list[Run]:
    """Merges consecutive runs into `count`, the last one staying alone."""
    if not 1 <= count <= len(runs):
        raise ValueError(
            f"Argument `groups` must be between 1 and {len(runs)}, the number of "
            f"groups that the model has. Received: groups={count!r}"
        )
    if count == 1:
        parts = [(0, len(runs))]
    else:
        parts = balance([run.size for run in runs[:-1]], count - 1)
        parts.append((len(runs) - 1, len(runs)))
    found = []
    for start, stop in parts:
        name = first_to_last([run.name for run in runs[start:stop]])
        units = [unit for run in runs[start:stop] for unit in run.units]
        found.append(Run(units, None, name))
    return found


def balance(sizes: Sequence[int], count: int) -> list[tuple[int, int]]:
    """Cuts a sequence into `count` parts, the largest as small as possible.

    Args:
        sizes: The sizes, in order.
        count: How many parts, from 1 to `len(sizes)`. No part is empty.

    Returns:
        Start and stop of each part. Among equals, the sum of squares decides.

    Example:

    >>> balance([4, 1, 1, 4], 3)
    [(0, 1), (1, 3), (3, 4)]
    """
    total = [0]
    for size in sizes:
        total.append(total[-1] + size)
    # best[i]: the best way to cut the first i sizes, as (largest, squares, cuts).
    # Comparing squares before all parts are known may miss a smaller sum, never a
    # smaller maximum.
    best: list[tuple[int, int, tuple[int, ...]] | None]
    best = [(0, 0, (0,)), *[None] * len(sizes)]
    for _ in range(count):
        following: list[tuple[int, int, tuple[int, ...]] | None] = [None]
        for stop in range(1, len(sizes) + 1):
            options = [
                (
                    max(before[0], total[stop] - total[start]),
                    before[1] + (total[stop] - total[start]) ** 2,
                    (*before[2], stop),
                )
                for start, before in enumerate(best[:stop])
                if before is not None
            ]
            following.append(min(options, default=None))
        best = following
    chosen = best[-1]
    if chosen is None:
        raise ValueError(f"{len(sizes)} sizes cannot make {count} parts.")
    return list(itertools.pairwise(chosen[2]))
