"""Towers, as CLIP's for images and for texts: blocks side by side train together."""

from __future__ import annotations

import itertools
import operator

from keras_finetune._groups.runs import Run
from keras_finetune._groups.units import Unit

# Shorter branches are parts of what they are in.
_SHORTEST = 2


def side_by_side(runs: list[Run], units: list[Unit]) -> list[Run]:
    """Join the runs of parallel towers, level by level from the top.

    How far a block is from the output decides when and how fast it trains. One tower
    after the other would put the top of one below the bottom of the other.

    Args:
        runs: Runs of the body with their names, bottom to top.
        units: All units of the model, each after those that it reads from.
    """
    below = _below(runs, units)
    # What all runs from here on depend on.
    common = [*itertools.accumulate(reversed(below), operator.and_)][::-1]
    found: list[Run] = []
    start = 0
    for stop in range(1, len(runs) + 1):
        before = (1 << stop) - 1
        if stop == len(runs) or common[stop] & before == before:
            found += _joined(runs[start:stop], [m >> start for m in below[start:stop]])
            start = stop
    return found


def _below(runs: list[Run], units: list[Unit]) -> list[int]:
    """Return for each run the runs it depends on, as bits of an integer."""
    # What makes no group may join two towers, so that only main units tell.
    run_of = {unit: i for i, run in enumerate(runs) for unit in run.main}
    reads: dict[Unit, int] = {}
    below = [0] * len(runs)
    for unit in units:
        mask = 0
        for parent in unit.parents:
            mask |= reads.get(parent, 0)
        if unit in run_of:
            i = run_of[unit]
            below[i] |= mask & ~(1 << i)
            mask |= 1 << i
        reads[unit] = mask
    return below


def _joined(runs: list[Run], below: list[int]) -> list[Run]:
    """Join runs of which some stand side by side, if these are towers."""
    towers: list[list[int]] = []
    for i in range(len(runs)):
        mine = [tower for tower in towers if any(below[i] >> k & 1 for k in tower)]
        towers = [tower for tower in towers if tower not in mine]
        towers.append([*itertools.chain(*mine), i])
    if len(towers) < 2 or not all(_is_tower(tower, below) for tower in towers):
        return runs
    towers.sort()
    height = max(map(len, towers))
    levels = [
        [runs[tower[level]] for tower in towers if len(tower) >= -level]
        for level in range(-height, 0)
    ]
    return [_level(parts) for parts in levels]


def _is_tower(tower: list[int], below: list[int]) -> bool:
    """Whether each of these runs depends on all before it."""
    chain = all(below[b] >> a & 1 for a, b in itertools.pairwise(tower))
    return chain and len(tower) >= _SHORTEST


def _level(parts: list[Run]) -> Run:
    if len(parts) == 1:
        return parts[0]
    blocks = {part.block.name if part.block else part.name for part in parts}
    names = blocks if len(blocks) == 1 else [part.name for part in parts]
    return Run([unit for part in parts for unit in part.units], None, "+".join(names))
