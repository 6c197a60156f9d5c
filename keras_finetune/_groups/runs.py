"""Consecutive units that stay together: blocks, and layers that stand alone."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from keras_finetune._engine import flags
from keras_finetune._groups.units import Block, Unit, is_composite, weights_of


@dataclass(eq=False)
class Run:
    """Consecutive units on their way to become a group."""

    units: list[Unit]
    block: Block | None = None
    name: str = ""

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
        return len(self.main) > 1 or any(is_composite(u.layer) for u in self.main)

    def absorb(self, other: Run) -> None:
        """Takes in what stands above it."""
        self.units += other.units
        self.block = self.block or other.block


def cut(units: list[Unit]) -> list[Run]:
    """The blocks among the units, and each other layer that makes a group."""
    runs: list[Run] = []
    segment: list[Unit] = []
    for i, unit in enumerate(units):
        segment.append(unit)
        if not unit.tied or i == len(units) - 1:
            runs += _split(segment)
            segment = []
    return _around(_with_companions(_around(runs)))


def _split(segment: list[Unit]) -> list[Run]:
    """Splits what a segment of parallel branches holds, where names tell blocks."""
    named = [unit for unit in segment if unit.block and unit.variables]
    if len({unit.block for unit in named}) < 2:
        last = named or [unit for unit in segment if unit.block]
        return [Run(segment, last[-1].block if last else None)]
    # A block reaches from its first to its last layer; blocks that overlap are one.
    ends = {unit.block: i for i, unit in enumerate(segment) if unit in named}
    runs: list[Run] = []
    stop = -1
    for i, unit in enumerate(segment):
        if not runs or (unit in named and i > stop and runs[-1].block):
            runs.append(Run([]))
        if unit in named:
            runs[-1].block = runs[-1].block or unit.block
            stop = max(stop, ends[unit.block])
        runs[-1].units.append(unit)
    for below, above in itertools.pairwise(runs):
        # Paddings and activations may open a block.
        while not below.units[-1].variables and below.units[-1].block == above.block:
            above.units.insert(0, below.units.pop())
    return runs


def _around(runs: list[Run]) -> list[Run]:
    """Joins what is the same block, with the nameless layers in its midst."""
    joined: list[Run] = []
    for run in runs:
        named = [i for i, other in enumerate(joined) if other.block is not None]
        if run.block is not None and named and joined[named[-1]].block == run.block:
            for other in (*joined[named[-1] + 1 :], run):
                joined[named[-1]].absorb(other)
            del joined[named[-1] + 1 :]
        else:
            joined.append(run)
    return joined


def _with_companions(runs: list[Run]) -> list[Run]:
    """Joins what makes no group to the layer below it, or above if it is the first."""
    joined: list[Run] = []
    for run in runs:
        if joined and (not run.main or not joined[-1].main):
            block = joined[-1].block if joined[-1].main else run.block
            joined[-1].absorb(run)
            joined[-1].block = block
        else:
            joined.append(run)
    return joined
