"""Consecutive units that stay together: blocks, and layers that stand alone."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

from keras_finetune._engine import flags
from keras_finetune._groups import kinds
from keras_finetune._groups.units import Block, Unit, weights_of


@dataclass(eq=False)
class Run:
    """Consecutive units on their way to become a group."""

    units: list[Unit]
    block: Block | None = None
    name: str = ""
    named: tuple[Any, ...] | None = None

    def __post_init__(self) -> None:
        self.has_main = any(unit.is_main for unit in self.units)

    @property
    def size(self) -> int:
        """How many numbers its weights hold."""
        return flags.count(weights_of(self.units))

    @property
    def main(self) -> list[Unit]:
        """The units for which it may be a group."""
        return [unit for unit in self.units if unit.is_main]

    @property
    def is_block(self) -> bool:
        """Whether several layers, or one made of layers, stand together here."""
        main = self.main
        return len(main) > 1 or any(kinds.is_composite(u.layer) for u in main)

    def absorb(self, other: Run) -> None:
        """Take in what stands above it."""
        self.units += other.units
        self.block = self.block or other.block
        self.has_main = self.has_main or other.has_main


def cut(units: list[Unit]) -> list[Run]:
    """Return the blocks among the units, and each other layer that makes a group."""
    runs: list[Run] = []
    segment: list[Unit] = []
    for i, unit in enumerate(units):
        segment.append(unit)
        if not unit.tied or i == len(units) - 1:
            runs += _split(segment)
            segment = []
    return _around(_with_companions(_around(runs)))


def _split(segment: list[Unit]) -> list[Run]:
    """Split what a segment of parallel branches holds, where names tell blocks."""
    named = {unit for unit in segment if unit.block and unit.variables}
    if len({unit.block for unit in named}) < 2:
        last = [unit for unit in segment if unit.block and (unit in named or not named)]
        return [Run(segment, last[-1].block if last else None)]
    # A block reaches from its first to its last layer; blocks that overlap are one.
    ends = {unit.block: i for i, unit in enumerate(segment) if unit in named}
    parts: list[list[Unit]] = []
    blocks: list[Block | None] = []
    stop = -1
    for i, unit in enumerate(segment):
        if not parts or (unit in named and i > stop and blocks[-1]):
            parts.append([])
            blocks.append(None)
        if unit in named:
            blocks[-1] = blocks[-1] or unit.block
            stop = max(stop, ends[unit.block])
        parts[-1].append(unit)
    for (below, above), block in zip(
        itertools.pairwise(parts), blocks[1:], strict=True
    ):
        # Paddings and activations may open a block.
        opening = []
        while not below[-1].variables and below[-1].block == block:
            opening.append(below.pop())
        above[:0] = reversed(opening)
    return [Run(part, block) for part, block in zip(parts, blocks, strict=True)]


def _around(runs: list[Run]) -> list[Run]:
    """Join what is the same block, with the nameless layers in its midst."""
    joined: list[Run] = []
    last = -1
    for run in runs:
        if run.block is not None and last >= 0 and joined[last].block == run.block:
            for other in (*joined[last + 1 :], run):
                joined[last].absorb(other)
            del joined[last + 1 :]
        else:
            joined.append(run)
            last = len(joined) - 1 if run.block is not None else last
    return joined


def _with_companions(runs: list[Run]) -> list[Run]:
    """Join what makes no group to the layer below it, or above if it is the first."""
    joined: list[Run] = []
    for run in runs:
        if joined and (not run.has_main or not joined[-1].has_main):
            block = joined[-1].block if joined[-1].has_main else run.block
            joined[-1].absorb(run)
            joined[-1].block = block
        else:
            joined.append(run)
    return joined
