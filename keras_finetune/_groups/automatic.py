"""The automatic groups: the runs of the pre-trained body, and the head."""

from __future__ import annotations

import itertools
from typing import Any

from keras_finetune._groups.graph import connect, tie, with_parents
from keras_finetune._groups.names import (
    HEAD,
    common_prefix,
    is_named_by_keras,
    unique,
)
from keras_finetune._groups.runs import Run, cut
from keras_finetune._groups.units import Unit, is_activation, is_normalization


def automatic(model: Any, units: list[Unit]) -> list[Run]:
    """The automatic groups, by the four rules that `layer_groups` documents."""
    connect(model, units)
    body = _body(units)
    units = [u for u in units if u in body] + [u for u in units if u not in body]
    tie(model, units)
    if body:
        runs = cut(units[: len(body)])
        head = units[len(body) :]
    else:
        runs = cut(units)
        # Names tell no body: what comes last is the head, and what follows the last
        # block that parallel branches or a composite layer tell.
        blocks = [i for i, run in enumerate(runs[:-1]) if run.is_block]
        last = blocks[-1] + 1 if blocks else len(runs) - 1
        head = [unit for run in runs[last:] for unit in run.units]
        runs = runs[:last]
        if blocks:
            runs[-1], after = _trimmed(runs[-1])
            head = after + head
    if runs and not any(unit.is_main for unit in head):
        runs[-1].units += head
    else:
        runs.append(Run(head, None, HEAD))
    return _named(runs)


def _trimmed(run: Run) -> tuple[Run, list[Unit]]:
    """A block without the dropout and pooling that follow it, and those."""
    stop = 1
    for i, (before, unit) in enumerate(itertools.pairwise(run.units), start=2):
        joined = stop == i - 1 and (
            is_normalization(unit.layer) or is_activation(unit.layer)
        )
        if before.tied or unit.is_main or joined:
            stop = i
    return Run(run.units[:stop], run.block), run.units[stop:]


def _body(units: list[Unit]) -> set[Unit]:
    """The units of the pre-trained body, or none where nothing tells one.

    It ends with the last nested model, else with the last block by name, if that is
    most of the model; layers beside it (a branch for metadata) are not in it.
    """
    main = {unit for unit in units if unit.is_main}
    nested = _nested(units)
    if 2 * len(main.intersection(nested)) >= len(main):
        return with_parents(nested)
    blocks = with_parents(unit for unit in units if unit.block)
    if 2 * len(main & blocks) < len(main):
        return set()
    for unit in units:
        # The backbone's last normalization ("post_bn"), but none that is new.
        old = not is_named_by_keras(unit.layer) and is_normalization(unit.layer)
        follows = unit.parents and unit.parents <= blocks
        if follows and (old or is_activation(unit.layer)):
            blocks.add(unit)
    return blocks


def _nested(units: list[Unit]) -> list[Unit]:
    """The units in nested models, but for nested models that are themselves heads."""
    weighted = [unit for unit in units if unit.variables]
    level = 1
    while len({id(_owner(unit, level)) for unit in weighted}) == 1:
        if _owner(weighted[0], level) is None:
            return []
        # Nothing but one nested model has weights: look for the body in there.
        level += 1
    models = {id(_owner(u, level)): _owner(u, level) for u in weighted}
    models.pop(id(None), None)
    body = []
    for model in models.values():
        others = [u for u in weighted if _owner(u, level) is not model]
        if any(_owner(u, level) is model for u in with_parents(others)):
            body.append(model)
    return [u for u in units if any(_owner(u, level) is model for model in body)]


def _owner(unit: Unit, level: int) -> Any:
    """The nested model that a unit is in, at a level of nesting."""
    return unit.owners[level] if level < len(unit.owners) else None


def _named(runs: list[Run]) -> list[Run]:
    """Gives each run its name: its block's, else that of its first layer."""
    blocks = [run.block[1] for run in runs if run.block is not None]
    prefix = common_prefix(blocks)
    for run in runs:
        if run.block is not None:
            run.name = run.block[1][len(prefix) :]
        elif not run.name:
            run.name = [*run.main, *run.units][0].layer.name
    for name, run in zip(unique([run.name for run in runs]), runs, strict=True):
        run.name = name
    return runs
