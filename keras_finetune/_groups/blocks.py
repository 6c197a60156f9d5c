"""The blocks that the names of layers tell."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from keras_finetune._engine import structure
from keras_finetune._groups import kinds, names
from keras_finetune._groups.units import Block, Unit


class _Level:
    """The blocks of one series, `"stages_#_blocks_#"`, in one model."""

    def __init__(self) -> None:
        self.units: dict[str, list[Unit]] = {}
        self.layers: dict[str, int] = {}
        # For each block the one around it, by the next shorter beginning.
        self.around: dict[str, tuple[_Level, str]] = {}

    def add(self, text: str, unit: Unit, layers: int) -> None:
        """Count a unit to the block with a name."""
        self.units.setdefault(text, []).append(unit)
        self.layers[text] = self.layers.get(text, 0) + layers

    def tells_blocks(self) -> bool:
        """Whether these are blocks: most of several layers, one after the other."""
        large = sum(layers > 1 for layers in self.layers.values())
        if len(self.layers) < 2 or 2 * large < len(self.layers):
            return False
        spans = [
            (min(unit.depth for unit in units), max(unit.depth for unit in units))
            for units in self.units.values()
        ]
        if any(a[1] >= b[0] for a, b in itertools.pairwise(spans)):
            return False
        # Where a block around them has layers between them, they are parts of it.
        mine = {unit for units in self.units.values() for unit in units}
        return not any(
            _is_broken([unit in mine for unit in level.units[text]])
            for level, text in dict.fromkeys(self.around.values())
        )


def _is_broken(flags: list[bool]) -> bool:
    """Whether something false stands between the first and the last that is true."""
    inner = flags[flags.index(True) :]
    return sum(inner) < len(inner) - inner[::-1].index(True)


def find_blocks(units: list[Unit]) -> None:
    """Fill in the block of each unit: the innermost that its names tell.

    A numbered beginning that several layers share, and that comes again with other
    numbers further up, is a block, whatever its words are (`"fire2_"`, `"fire3_"`).
    Beginnings of single layers need a word that is known.
    """
    levels: dict[tuple[int, str], _Level] = {}
    for unit in units:
        if unit.is_main and not kinds.is_embedding(unit.layer):
            for owner, part in _named_parts(unit):
                _count(levels, owner, part, unit)
    found = {key for key, level in levels.items() if level.tells_blocks()}
    for unit in units:
        if not kinds.is_embedding(unit.layer):
            unit.block = _block(unit, found)


def _count(
    levels: dict[tuple[int, str], _Level], owner: Any, part: Any, unit: Unit
) -> None:
    """Count a unit to all blocks that the name of a part of the model tells."""
    around = None
    for text, series in names.prefixes(part.name):
        whole = part.name.rstrip("_") == text
        alone = whole and (part is not unit.layer or kinds.is_block(part))
        level = levels.setdefault((id(owner), series), _Level())
        level.add(text, unit, 2 if alone else 1)
        if around is not None:
            level.around[text] = around
        around = level, text


def _block(unit: Unit, levels: set[tuple[int, str]]) -> Block | None:
    for owner, part in _named_parts(unit):
        name = names.special_block(part.name)
        if name is None:
            known = [
                prefix.text
                for prefix in names.prefixes(part.name)
                if (id(owner), prefix.series) in levels
            ]
            name = known[-1] if known else names.single_block(part.name)
        if name is not None:
            return Block(id(owner), name, owner.name)
    return None


def _named_parts(unit: Unit) -> Iterator[tuple[Any, Any]]:
    """Yield what a unit is in and itself, each after its owner, from the inside out."""
    parts = unit.owners if unit.is_own else (*unit.owners, unit.layer)
    for owner, part in reversed(list(itertools.pairwise(parts))):
        # A class of blocks numbers them: "transformer_block_1" was given on purpose.
        block = not structure.is_model(part) and (
            part is not unit.layer or kinds.is_block(part)
        )
        if block or not names.is_named_by_keras(part):
            yield owner, part
