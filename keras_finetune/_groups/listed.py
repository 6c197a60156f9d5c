"""The groups that the user lists."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from keras_finetune._engine import keras, structure
from keras_finetune._groups.names import first_to_last, unique
from keras_finetune._groups.runs import Run
from keras_finetune._groups.units import Unit


def listed(
    model: Any, units: list[Unit], entries: Sequence[Any]
) -> tuple[list[Run], list[Unit]]:
    """The groups that a list asks for, and the frozen units that it leaves out."""
    if not entries:
        raise ValueError(
            "Argument `groups` must be a list of at least one entry. Received: "
            f"groups={entries!r}"
        )
    selected = [_select(units, entry, entries) for entry in entries]
    _refuse_doubles(units, selected, entries)
    group_of = {unit: i for i, chosen in enumerate(selected) for unit in chosen}
    _refuse_left_out(model, [u for u in units if u not in group_of], entries)
    place = _places(units, group_of)
    names = unique([_entry_name(entry) for entry in entries])
    runs = [
        Run([unit for unit in units if place[unit] == i], None, name)
        for i, name in enumerate(names)
    ]
    return runs, [unit for unit in units if place[unit] is None]


def _places(units: list[Unit], group_of: dict[Unit, int]) -> dict[Unit, int | None]:
    """The group that each unit goes to, or `None` where it goes to none."""
    # A layer without weights goes where the layer below it goes, or the one above.
    current = next(group_of.get(unit) for unit in units if unit.variables)
    place: dict[Unit, int | None] = {}
    for unit in units:
        if unit.variables:
            current = group_of.get(unit)
        place[unit] = group_of.get(unit, current)
    return place


def _select(units: list[Unit], entry: Any, entries: Sequence[Any]) -> dict[Unit, None]:
    """The units that an entry selects."""
    parts = entry if isinstance(entry, (list, tuple)) else [entry]
    if not parts:
        raise ValueError(
            "Argument `groups` must have no empty list in it. Received: "
            f"groups={_show(entries)}"
        )
    chosen: dict[Unit, None] = {}
    for part in parts:
        if isinstance(part, str):
            found = _by_string(units, part, entries)
        elif isinstance(part, keras.layers.Layer):
            found = _by_layer(units, part)
        else:
            raise TypeError(
                "Argument `groups` must be a list of layers, strings, or lists of "
                f"those. Received: {part!r} (of type {type(part).__name__}) in "
                f"groups={_show(entries)}"
            )
        if not found:
            raise ValueError(
                "Argument `groups` must name layers of the model: "
                f"{_show(part)} matches nothing. Received: groups={_show(entries)}"
            )
        chosen.update(dict.fromkeys(found))
    if not any(unit.variables for unit in chosen):
        raise ValueError(
            f"Argument `groups` must make groups with weights: {_show(entry)} has "
            f"none. Received: groups={_show(entries)}"
        )
    return chosen


def _by_layer(units: list[Unit], layer: Any) -> list[Unit]:
    """The units in a layer, or the unit that the layer is in."""
    found = [u for u in units if any(part is layer for part in (u.layer, *u.owners))]
    return found or [
        unit
        for unit in units
        if not unit.is_own
        and any(part is layer for part in structure.all_layers(unit.layer))
    ]


def _by_string(units: list[Unit], text: str, entries: Sequence[Any]) -> list[Unit]:
    """The units of the layer with that name, else with a variable path that matches."""
    layers = {
        id(part): part
        for unit in units
        for layer in (*unit.owners, unit.layer)
        for part in (
            [layer] if structure.is_model(layer) else structure.all_layers(layer)
        )
        if part.name == text
    }
    if len(layers) > 1:
        raise ValueError(
            f"Argument `groups` must be clear: {len(layers)} layers are called "
            f"{text!r}. Pass the layers themselves, or a regular expression on the "
            f"paths of their variables. Received: groups={_show(entries)}"
        )
    if layers:
        return _by_layer(units, *layers.values())
    try:
        pattern = re.compile(text)
    except re.error as error:
        raise ValueError(
            f"Argument `groups` must hold layer names or regular expressions: {text!r} "
            f"is neither ({error}). Received: groups={_show(entries)}"
        ) from None
    return [
        unit
        for unit in units
        if any(pattern.search(structure.variable_path(v)) for v in unit.variables)
    ]


def _refuse_doubles(
    units: list[Unit], selected: list[dict[Unit, None]], entries: Sequence[Any]
) -> None:
    """Raises if entries share units."""
    doubles = []
    for unit in units:
        matches = [entries[i] for i, chosen in enumerate(selected) if unit in chosen]
        if len(matches) > 1:
            doubles.append(f"{unit.layer.name} ({' and '.join(map(_show, matches))})")
    if doubles:
        raise ValueError(
            "Argument `groups` must put each layer in one group. In two: "
            f"{'; '.join(doubles)}. Received: groups={_show(entries)}"
        )


def _refuse_left_out(model: Any, units: list[Unit], entries: Sequence[Any]) -> None:
    """Raises if any of the units that are in no group train."""
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
            f"(`layer.trainable = False`). Left: {_names(left)}. "
            f"Received: groups={_show(entries)}"
        )


def _entry_name(entry: Any) -> str:
    parts = list(entry) if isinstance(entry, (list, tuple)) else [entry]
    return first_to_last([p if isinstance(p, str) else p.name for p in parts])


def _show(entry: Any) -> str:
    """An entry as the user would write it, layers by their names."""
    if isinstance(entry, (list, tuple)):
        return f"[{', '.join(map(_show, entry))}]"
    if isinstance(entry, keras.layers.Layer):
        return f"<{type(entry).__name__} {entry.name}>"
    return repr(entry)


def _names(units: Iterable[Unit]) -> str:
    return ", ".join(
        f"{unit.layer.name} (weights of the model itself)"
        if unit.is_own
        else str(unit.layer.name)
        for unit in units
    )
