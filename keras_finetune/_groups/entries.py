"""What an entry of a list of groups selects."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from keras_finetune import _checks
from keras_finetune._engine import keras, structure
from keras_finetune._groups.units import Unit, inside


class Selection(NamedTuple):
    """What an entry selects.

    Args:
        units: The units, in order.
        named: The layers that the entry names; for an expression those that have a
            variable that matches.
    """

    units: dict[Unit, None]
    named: tuple[Any, ...]


def select(
    model: Any, units: list[Unit], entry: Any, entries: Sequence[Any]
) -> Selection:
    """Return what an entry selects, or raise saying what is wrong with it.

    Args:
        model: The model.
        units: Its units, all composite layers taken apart.
        entry: The entry.
        entries: The list that it is in.
    """
    parts = entry if isinstance(entry, (list, tuple)) else [entry]
    if not parts:
        raise ValueError(
            "Argument `groups` must have no empty list in it. Received: "
            f"groups={show(entries)}"
        )
    chosen: dict[Unit, None] = {}
    named: list[Any] = []
    for part in parts:
        layer = _layer(model, part, entries)
        if layer is not None:
            found = inside(units).get(id(layer), [])
            named.append(layer)
        elif isinstance(part, str):
            found = _by_expression(units, part, entries)
            named += [unit.layer for unit in found]
        else:
            raise TypeError(
                "Argument `groups` must be a list of layers, strings, or lists of "
                f"those. Received: {part!r} (of type {type(part).__name__}) in "
                f"groups={show(entries)}"
            )
        if not found:
            raise ValueError(
                "Argument `groups` must name layers of the model: "
                f"{show(part)} matches nothing.{_hint(model, part)} "
                f"Received: groups={show(entries)}"
            )
        chosen.update(dict.fromkeys(found))
    if not any(unit.variables for unit in chosen):
        raise ValueError(
            f"Argument `groups` must make groups with weights: {show(entry)} has "
            f"none. Received: groups={show(entries)}"
        )
    return Selection(chosen, tuple(named))


def _layer(model: Any, part: Any, entries: Sequence[Any]) -> Any | None:
    """Return the layer that a part is, or that has it for a name."""
    if not isinstance(part, str):
        return part if isinstance(part, keras.layers.Layer) else None
    layers = _layers_called(model, part)
    if len(layers) > 1:
        raise ValueError(
            f"Argument `groups` must be clear: {len(layers)} layers are called "
            f"{part!r}. Pass the layers themselves, or a regular expression on the "
            f"paths of their variables. Received: groups={show(entries)}"
        )
    return layers[0] if layers else None


def _by_expression(units: list[Unit], text: str, entries: Sequence[Any]) -> list[Unit]:
    """Return the units with a variable path that matches."""
    try:
        pattern = re.compile(text)
    except re.error as error:
        raise ValueError(
            f"Argument `groups` must hold layer names or regular expressions: {text!r} "
            f"is neither ({error}). Received: groups={show(entries)}"
        ) from None
    return [
        unit
        for unit in units
        if any(pattern.search(structure.variable_path(v)) for v in unit.variables)
    ]


def _layers_called(model: Any, name: str) -> list[Any]:
    """Return the layers with a name, of the outermost level at which there are any."""
    level, seen = [model], {id(model)}
    while level:
        found = [layer for layer in level if layer.name == name]
        if found:
            return found
        inner = [child for layer in level for child in structure.sublayers(layer)]
        level = list({id(x): x for x in inner if id(x) not in seen}.values())
        seen.update(map(id, level))
    return []


def _hint(model: Any, part: Any, limit: int = 12) -> str:
    """Return the nearest names, or all there are."""
    layers = structure.all_layers(model)[1:]
    if not isinstance(part, str):
        return " It is no layer of this model."
    names = [layer.name for layer in layers if structure.weights(layer)]
    names = list(dict.fromkeys(names))
    if hint := _checks.did_you_mean(part, names):
        return hint
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    path = structure.variable_path(structure.weights(model)[0])
    return (
        f" There are {', '.join(map(repr, names[:limit]))}{more}, and paths of "
        f"variables as {path!r}."
    )


def show(entry: Any) -> str:
    """Return an entry as the user would write it, layers by their names."""
    if isinstance(entry, (list, tuple)):
        return f"[{', '.join(map(show, entry))}]"
    if isinstance(entry, keras.layers.Layer):
        return f"<{type(entry).__name__} {entry.name}>"
    return repr(entry)
