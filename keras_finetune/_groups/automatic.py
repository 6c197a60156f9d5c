"""The automatic groups: embeddings, the blocks of the pre-trained body, the head."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterable
from typing import Any

from keras_finetune._engine import keras, structure
from keras_finetune._groups import kinds
from keras_finetune._groups.blocks import find_blocks
from keras_finetune._groups.containers import Containers
from keras_finetune._groups.graph import connect, tie, with_parents
from keras_finetune._groups.names import HEAD, common_prefix, is_named_by_keras, unique
from keras_finetune._groups.runs import Run, cut
from keras_finetune._groups.towers import side_by_side
from keras_finetune._groups.units import Block, Unit, flatten


def automatic(model: Any) -> tuple[list[Run], list[Unit]]:
    """Return the automatic groups, and the units of a teacher, which are in none."""
    units = flatten(model, Containers(model))
    taught = _of_teacher(model, units)
    units = [unit for unit in units if unit not in taught]
    connect(model, units)
    find_blocks(units)
    body = _body(units)
    bottom = _bottom([unit for unit in units if not body or unit in body])
    middle = [unit for unit in units if unit not in bottom and unit in body]
    above = [unit for unit in units if unit not in bottom and unit not in body]
    placed = [*bottom, *middle, *above]
    tie(model, placed, len(bottom))
    runs, head = _cut(middle, above)
    start, stop = bool(bottom), bool(bottom) + len(runs)
    if bottom:
        runs.insert(0, Run(list(bottom)))
    if runs and not any(unit.is_main for unit in head):
        runs[-1].units += head
    else:
        runs.append(Run(head, None, HEAD))
    runs = _named(runs)
    runs[start:stop] = side_by_side(runs[start:stop], units)
    return runs, list(taught)


def _cut(body: list[Unit], above: list[Unit]) -> tuple[list[Run], list[Unit]]:
    """Return the runs of the body, and the head, where a body is known or not."""
    if body or not above:
        return cut(body), above
    runs = cut(above)
    # Names tell no body: what comes last is the head, and what follows the last
    # block that parallel branches or a composite layer tell.
    blocks = [i for i, run in enumerate(runs[:-1]) if run.is_block]
    last = blocks[-1] + 1 if blocks else len(runs) - 1
    head = [unit for run in runs[last:] for unit in run.units]
    runs = runs[:last]
    if blocks:
        runs[-1], after = _trimmed(runs[-1])
        head = after + head
    return runs, head


def _of_teacher(model: Any, units: list[Unit]) -> dict[Unit, None]:
    """Return the units of a frozen model that only teaches the one that is trained."""
    teacher, student = (getattr(model, name, None) for name in ("teacher", "student"))
    if structure.has_graph(model) or not (_is_layer(teacher) and _is_layer(student)):
        return {}
    if teacher is None or teacher.trainable_variables:
        return {}
    return {u: None for u in units if any(x is teacher for x in (*u.owners, u.layer))}


def _is_layer(value: Any) -> bool:
    return isinstance(value, keras.layers.Layer)


def _bottom(units: list[Unit]) -> dict[Unit, None]:
    """Return the embeddings of the input, with what joins and normalizes them."""
    low: dict[Unit, None] = {}
    for unit in units:
        companion = not unit.is_main and (unit.is_own or unit.block is None)
        fits = companion or kinds.is_embedding(unit.layer)
        if fits and unit.is_used and all(x in low for x in unit.parents):
            low[unit] = None
    if not any(unit.is_main for unit in low):
        return {}
    # Weights of a layer's own are here only if an embedding in it is.
    around = {id(owner) for unit in low if unit.is_main for owner in unit.owners}
    return {u: None for u in low if not u.is_own or id(u.layer) in around}


def _trimmed(run: Run) -> tuple[Run, list[Unit]]:
    """Return a block without the dropout and pooling that follow it, and those."""
    stop = 1
    for i, (before, unit) in enumerate(itertools.pairwise(run.units), start=2):
        joined = stop == i - 1 and (
            kinds.is_normalization(unit.layer) or kinds.is_activation(unit.layer)
        )
        if before.tied or unit.is_main or joined:
            stop = i
    return Run(run.units[:stop], run.block), run.units[stop:]


def _body(units: list[Unit]) -> set[Unit]:
    """Return the units of the pre-trained body, or none where nothing tells one.

    It ends with the last nested model, else with the last block by name, if that is
    most of the model; layers beside it (a branch for metadata) are not in it.
    """
    main = {unit for unit in units if unit.is_main}
    nested = _nested(units)
    if 2 * len(main.intersection(nested)) >= len(main):
        body = with_parents(nested)
        is_open = any(structure.is_model(owner) for owner in _outermost(nested))
        return body if is_open else _with_end(body, units)
    blocks = with_parents(unit for unit in units if unit.block and unit.is_used)
    if 2 * len(main & blocks) < len(main):
        return set()
    return _with_end(blocks, units)


def _outermost(units: Iterable[Unit]) -> list[Any]:
    return [unit.owners[1] for unit in units if len(unit.owners) > 1]


def _with_end(body: set[Unit], units: list[Unit]) -> set[Unit]:
    """Return the body with what was trained with it: a last normalization, a pooler.

    A last convolution is known by the normalization that follows it at once
    ("conv_head", "conv_head_bn"). What has the name that Keras gives is new.
    """
    for unit in units:
        if not unit.is_used:
            body.add(unit)
        if unit in body or not unit.parents:
            continue
        old = unit.variables and not is_named_by_keras(unit.layer)
        last = {x for x in unit.parents - body if not is_named_by_keras(x.layer)}
        if unit.parents <= body:
            pooler = old and kinds.is_pooler(unit.layer)
            normalization = old and kinds.is_normalization(unit.layer)
            passes = kinds.is_activation(unit.layer) or kinds.is_operation(unit.layer)
            if pooler or normalization or passes:
                body.add(unit)
        elif old and kinds.is_normalization(unit.layer) and unit.parents == last:
            follow = all(x.is_main and x.parents <= body for x in last)
            body |= {unit, *last} if follow else set()
    return body


def _nested(units: list[Unit]) -> list[Unit]:
    """Return the units in nested models, but for those that are themselves heads.

    A composite layer that is taken apart is as good as a nested model.
    """
    weighted = [unit for unit in units if unit.variables]
    level = 1
    while len({id(_owner(unit, level)) for unit in weighted}) == 1:
        if _owner(weighted[0], level) is None:
            return []
        # Nothing but one nested model has weights: look for the body in there.
        level += 1
    feeding = {
        id(_owner(parent, level))
        for unit in with_parents(weighted)
        for parent in unit.parents
        if _owner(parent, level) is not _owner(unit, level)
    }
    feeding.discard(id(None))
    return [unit for unit in units if id(_owner(unit, level)) in feeding]


def _owner(unit: Unit, level: int) -> Any:
    """Return the nested model that a unit is in, at a level of nesting."""
    return unit.owners[level] if level < len(unit.owners) else None


def _named(runs: list[Run]) -> list[Run]:
    """Give each run its name: its block's, else that of its first layer."""
    blocks = [run.block for run in runs if run.block is not None]
    owners = Counter(name for _, name in {(b.owner, b.name) for b in blocks})
    texts = {run: _text(run.block, owners) for run in runs if run.block is not None}
    stages = {
        text[: match.start()]
        for text in texts.values()
        for match in re.finditer("_", text)
    }
    for run, text in texts.items():
        main = run.main
        if text in stages and len(main) == 1:
            # What stands beside the blocks of its stage: a downsampling.
            name = main[0].layer.name
            texts[run] = name if name.startswith(text) else f"{text}_{name}"
    prefix = common_prefix(list(texts.values()))
    for run in runs:
        if run in texts:
            run.name = texts[run][len(prefix) :]
        elif not run.name:
            run.name = [*run.main, *run.units][0].layer.name
    for name, run in zip(unique([run.name for run in runs]), runs, strict=True):
        run.name = name
    return runs


def _text(block: Block, owners: Counter[str]) -> str:
    """Return the name of a block, with its owner's where several share it."""
    return f"{block.owner_name}_{block.name}" if owners[block.name] > 1 else block.name
