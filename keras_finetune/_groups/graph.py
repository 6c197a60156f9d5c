"""How units depend on one another."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from keras_finetune._engine import structure
from keras_finetune._groups.units import Unit

# A tensor that skips more of the model than this share (the skips of a U-Net, a mask)
# ties nothing together; one that skips only a few layers always does.
_LONG_SKIP = 1 / 3
_SHORT_SKIP = 4


def connect(model: Any, units: list[Unit]) -> None:
    """Fills in what each unit reads from, across the borders of nested models."""
    place = {unit: i for i, unit in enumerate(units)}
    inside = _inside(units)

    def visit(part: Any, before: set[Unit]) -> None:
        for unit in inside.get(id(part), ()):
            # A layer is where its first use is: a later use does not move it.
            unit.parents |= {other for other in before if place[other] < place[unit]}
        if not structure.is_model(part):
            return
        outputs: list[set[Unit]] = []
        for layer, inputs in _graph(part):
            sources = set().union(*(outputs[i] for i in inputs))
            visit(layer, sources)
            outputs.append(set(inside.get(id(layer), ())) or sources)

    visit(model, set())
    for own in units:
        if own.is_own:
            for unit in inside[id(own.layer)]:
                unit.parents.add(own)


def with_parents(units: Iterable[Unit]) -> set[Unit]:
    """The units and everything they depend on."""
    found: set[Unit] = set()
    todo = list(units)
    while todo:
        unit = todo.pop()
        if unit not in found:
            found.add(unit)
            todo += unit.parents
    return found


def tie(model: Any, units: list[Unit]) -> None:
    """Marks the units between which the model runs in parallel branches."""
    count = [0]
    for unit in units:
        count.append(count[-1] + unit.is_main)
    limit = max(_SHORT_SKIP, _LONG_SKIP * count[-1])
    alive = [0] * len(units)
    for start, stop in _tensors(model, units):
        if count[stop] - count[start + 1] <= limit:
            for i in range(start, stop):
                alive[i] += 1
    for unit, tensors in zip(units, alive, strict=True):
        unit.tied = tensors > 1 or unit.is_own


def _tensors(model: Any, units: list[Unit]) -> list[tuple[int, int]]:
    """The place of the unit that makes each tensor, and of the last one to read it."""
    place = {unit: i for i, unit in enumerate(units)}
    places = {
        part: sorted(place[unit] for unit in members)
        for part, members in _inside(units).items()
    }
    models = {id(owner): owner for unit in units for owner in unit.owners}
    found: list[tuple[int, int]] = []
    for part in models.values():
        made: list[int] = []
        read: list[int] = []
        graph = _graph(part)
        for layer, inputs in graph:
            # An operation that is no layer, and a layer that is called again, happen
            # where their latest input is made.
            latest = max((made[i] for i in inputs), default=0)
            own = places.get(id(layer), [latest])
            made.append(max(own[-1], latest))
            read.append(made[-1])
            for i in inputs:
                read[i] = max(read[i], own[0], latest)
        used = {i for call in graph for i in call.inputs}
        for i in range(len(graph)):
            # Results live on to the end, so that heads side by side are tied.
            result = i not in used and part is model
            found.append((made[i], len(units) - 1 if result else read[i]))
    return found


def _inside(units: list[Unit]) -> dict[int, list[Unit]]:
    """The units of each layer and model, by its id."""
    inside: dict[int, list[Unit]] = {}
    for unit in units:
        for part in unit.owners if unit.is_own else (*unit.owners, unit.layer):
            inside.setdefault(id(part), []).append(unit)
    return inside


def _graph(model: Any) -> tuple[structure.Call, ...]:
    """The calls in a model; layers of which Keras knows no graph form a chain."""
    graph = structure.calls(model)
    if graph is None:
        graph = tuple(
            structure.Call(layer, (i - 1,) if i else ())
            for i, layer in enumerate(structure.sublayers(model))
        )
    return graph
