"""The groups that the user lists."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from keras_finetune._engine import structure
from keras_finetune._groups.entries import select, show
from keras_finetune._groups.graph import connect
from keras_finetune._groups.names import first_to_last, unique
from keras_finetune._groups.runs import Run
from keras_finetune._groups.units import Unit, flatten

# The place of units that are in no group.
_REST = -1


def listed(model: Any, entries: Sequence[Any]) -> tuple[list[Run], list[Unit]]:
    """Return the groups that a list asks for, and the frozen units that it leaves out.

    All composite layers are taken apart to find what an entry selects; those of which
    all parts go to one group are put together again.
    """
    if not entries:
        raise ValueError(
            "Argument `groups` must be a list of at least one entry. Received: "
            f"groups={entries!r}"
        )
    units = flatten(model, lambda layer: bool(structure.sublayers(layer)))
    selections = [select(model, units, entry, entries) for entry in entries]
    selected = [selection.units for selection in selections]
    _refuse_doubles(units, selected, entries)
    group_of = {unit: i for i, chosen in enumerate(selected) for unit in chosen}
    _refuse_left_out(model, [u for u in units if u not in group_of], entries)
    connect(model, units, guess=False)
    _refuse_wrong_order(units, group_of, entries)
    place = _places(units, group_of)
    names = unique([_entry_name(entry) for entry in entries])
    runs = [
        Run([], None, name, selection.named)
        for name, selection in zip(names, selections, strict=True)
    ]
    rest: list[Unit] = []
    for unit in _whole(units, place):
        (rest if place[unit] == _REST else runs[place[unit]].units).append(unit)
    return runs, rest


def _places(units: list[Unit], group_of: dict[Unit, int]) -> dict[Unit, int]:
    """Return the group that each unit goes to."""
    # A layer without weights goes where the layer below it goes, or the one above.
    current = next(group_of.get(unit, _REST) for unit in units if unit.variables)
    place: dict[Unit, int] = {}
    for unit in units:
        if unit.variables:
            current = group_of.get(unit, _REST)
        place[unit] = group_of.get(unit, current)
    return place


def _whole(units: list[Unit], place: dict[Unit, int]) -> list[Unit]:
    """Return the units, with composite layers of one place put together.

    `place` is filled in for them.
    """
    places: dict[int, set[int]] = {}
    for unit in units:
        for owner in unit.owners:
            places.setdefault(id(owner), set()).add(place[unit])
    found: list[Unit] = []
    whole: dict[int, Unit] = {}
    for unit in units:
        outer = [
            owner
            for owner in unit.owners
            if not structure.is_model(owner) and len(places[id(owner)]) == 1
        ]
        if not outer:
            found.append(unit)
        elif id(outer[0]) in whole:
            joined = whole[id(outer[0])]
            joined.variables += unit.variables
        else:
            owners = unit.owners[: unit.owners.index(outer[0])]
            joined = Unit(outer[0], unit.variables, owners)
            whole[id(outer[0])] = joined
            place[joined] = place[unit]
            found.append(joined)
    return found


def _refuse_doubles(
    units: list[Unit], selected: list[dict[Unit, None]], entries: Sequence[Any]
) -> None:
    """Raise if entries share units."""
    matches: dict[Unit, list[int]] = {}
    for i, chosen in enumerate(selected):
        for unit in chosen:
            matches.setdefault(unit, []).append(i)
    doubles = {
        f"{_name(unit)} ({' and '.join(show(entries[i]) for i in matches[unit])})": None
        for unit in units
        if len(matches.get(unit, ())) > 1
    }
    if doubles:
        raise ValueError(
            "Argument `groups` must put each layer in one group. In two: "
            f"{_some(doubles, '; ')}. Received: groups={show(entries)}"
        )


def _refuse_left_out(model: Any, units: list[Unit], entries: Sequence[Any]) -> None:
    """Raise if any of the units that are in no group train."""
    trainable = {structure.variable_key(v) for v in model.trainable_variables}
    left = [
        unit
        for unit in units
        if any(structure.variable_key(v) in trainable for v in unit.variables)
    ]
    if left:
        raise ValueError(
            "Argument `groups` must put every layer with trainable weights in a group: "
            "add the layers that are left to one, or freeze them "
            f"(`layer.trainable = False`). Left: {_some(map(_name, left))}. "
            f"Received: groups={show(entries)}"
        )


def _refuse_wrong_order(
    units: list[Unit], group_of: dict[Unit, int], entries: Sequence[Any]
) -> None:
    """Raise if a group reads from one that is listed after it, and not the reverse."""
    # Bit i of `reads` says whether a unit depends on group i.
    reads: dict[Unit, int] = {}
    below = [0] * len(entries)
    first: dict[int, int] = {}
    for i, unit in enumerate(units):
        reads[unit] = 0
        for parent in unit.parents:
            group = group_of.get(parent, _REST)
            reads[unit] |= reads[parent] | (0 if group == _REST else 1 << group)
        if unit in group_of:
            below[group_of[unit]] |= reads[unit]
            first.setdefault(group_of[unit], i)
    for low in range(len(entries)):
        for high in range(low + 1, len(entries)):
            if below[low] >> high & 1 and not below[high] >> low & 1:
                order = [entries[i] for i in sorted(first, key=first.__getitem__)]
                raise ValueError(
                    "Argument `groups` must list groups from bottom (input) to top: "
                    f"{show(entries[low])} reads from {show(entries[high])}, which is "
                    f"listed after it. Bottom to top: {show(order)}. "
                    f"Received: groups={show(entries)}"
                )


def _entry_name(entry: Any) -> str:
    parts = list(entry) if isinstance(entry, (list, tuple)) else [entry]
    return first_to_last([p if isinstance(p, str) else p.name for p in parts])


def _name(unit: Unit) -> str:
    """Return the name of a unit's layer, with the composite layers around it."""
    around = [x.name for x in unit.owners if not structure.is_model(x)]
    if unit.is_own and not structure.is_model(unit.layer):
        around.pop()
    suffix = ""
    if unit.is_own:
        kind = "model" if structure.is_model(unit.layer) else "layer"
        suffix = f" (weights of the {kind} itself)"
    return "/".join([*around, unit.layer.name]) + suffix


def _some(names: Iterable[str], separator: str = ", ", limit: int = 12) -> str:
    """Return the first of many names."""
    shown = list(names)
    more = len(shown) - limit
    return separator.join(shown[:limit]) + (f" and {more} more" if more > 0 else "")
