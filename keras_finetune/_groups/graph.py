"""How units depend on one another."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

from keras_finetune._engine import structure
from keras_finetune._groups.units import Unit, children, inside

# A tensor that skips more of the model than this share (the skips of a U-Net)
# ties nothing together; one that skips only a few layers always does.
_LONG_SKIP = 1 / 3
_SHORT_SKIP = 4

# What the results of a call are made by, for each result; one entry stands for all.
_Made = list[set[Unit]]


def connect(model: Any, units: list[Unit], guess: bool = True) -> None:
    """Fill in what each unit reads from, its depth, and whether it is used.

    Args:
        model: The model.
        units: Its units.
        guess: Whether what has no graph is taken for a chain, in the order of its
            children. Otherwise only what Keras knows is filled in.
    """
    place = {unit: i for i, unit in enumerate(units)}
    members = inside(units)
    own = {id(unit.layer): unit for unit in units if unit.is_own}
    owners = {id(owner) for unit in units for owner in unit.owners}

    def visit(part: Any, before: set[Unit]) -> _Made:
        if id(part) not in owners:
            if id(part) not in members:
                return [before]
            (unit,) = members[id(part)]
            # A layer is where its first use is: a later use does not move it.
            above = {other for other in before if place[other] > place[unit]}
            unit.parents |= before - above - {unit}
            return [{unit} | above]
        made: list[_Made] = []
        for call in graph(part):
            read = [
                _result(made[i], k)
                for i, k in zip(call.inputs, call.taken, strict=True)
            ]
            known = guess or structure.has_graph(part)
            sources = set().union(*read) if read and known else before
            made.append(visit(call.layer, sources))
        if structure.is_sequential(part):
            return made[-1] if made else [before]
        if structure.has_graph(part):
            return [_result(made[i], k) for i, k in structure.results(part)]
        return [set(members[id(part)])]

    used = with_parents(set().union(*visit(model, set())))
    for unit in units:
        unit.is_used = unit in used or unit.is_own
        if guess:
            held = {own[id(owner)] for owner in unit.owners if id(owner) in own}
            unit.parents |= held - {unit}
        below = max((parent.depth for parent in unit.parents), default=0)
        unit.depth = below + unit.is_main


def _result(made: _Made, index: int) -> set[Unit]:
    return made[0] if len(made) == 1 else made[index]


def with_parents(units: Iterable[Unit]) -> set[Unit]:
    """Return the units and everything they depend on."""
    found: set[Unit] = set()
    todo = list(units)
    while todo:
        unit = todo.pop()
        if unit not in found:
            found.add(unit)
            todo += unit.parents
    return found


def tie(model: Any, units: list[Unit], start: int) -> None:
    """Mark the units between which the model runs in parallel branches.

    Args:
        model: The model.
        units: Its units, in the order in which they are cut.
        start: Where the first may be tied; tensors from below tie nothing.
    """
    count = list(itertools.accumulate((u.is_main for u in units), initial=0))
    limit = max(_SHORT_SKIP, _LONG_SKIP * count[-1])
    change = [0] * (len(units) + 1)
    for made, read in _tensors(model, units):
        if made >= start and made < read and count[read] - count[made + 1] <= limit:
            change[made] += 1
            change[read] -= 1
    for unit, tensors in zip(units, itertools.accumulate(change), strict=False):
        unit.tied = tensors > 1 or unit.is_own


def _tensors(model: Any, units: list[Unit]) -> list[tuple[int, int]]:
    """Return where each tensor is made, and where the last unit reads it.

    Tokens and masks are left out: a cut through them parts nothing that is learned.
    """
    place = {unit: i for i, unit in enumerate(units)}
    places = {
        part: sorted(place[unit] for unit in members)
        for part, members in inside(units).items()
    }
    weighted = set(inside(unit for unit in units if unit.variables))
    parts = {id(owner): owner for unit in units for owner in unit.owners}
    found: list[tuple[int, int]] = []
    for part in parts.values():
        made: list[int] = []
        read: list[int] = []
        carries: list[bool] = []
        calls = graph(part)
        for layer, inputs, _, floating in calls:
            # An operation that is no layer, and a layer that is called again, happen
            # where their latest input is made.
            latest = max((made[i] for i in inputs), default=0)
            own = places.get(id(layer), [latest])
            made.append(max(own[-1], latest))
            read.append(made[-1])
            learned = id(layer) in weighted or any(carries[i] for i in inputs)
            carries.append(floating and (learned or not inputs))
            for i in inputs:
                read[i] = max(read[i], own[0], latest)
        used = {i for call in calls for i in call.inputs}
        for i in range(len(calls)):
            # Results live on to the end, so that heads side by side are tied.
            result = i not in used and part is model
            if carries[i]:
                found.append((made[i], len(units) - 1 if result else read[i]))
    return found


def graph(part: Any) -> tuple[structure.Call, ...]:
    """Return the calls in a model; what has no graph forms a chain."""
    known = structure.calls(part)
    if known is not None:
        return known
    return tuple(
        structure.Call(layer, (i - 1,) if i else (), (0,) if i else ())
        for i, layer in enumerate(children(part))
    )
