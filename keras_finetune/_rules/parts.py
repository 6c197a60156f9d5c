"""The weights of a model in parts with names: its groups, layers or variables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from typing import Any

from keras_finetune._engine import structure
from keras_finetune._engine.structure import variable_key, variable_path
from keras_finetune._groups.layer_groups import LayerGroups


def parts(
    model: Any, weights: Sequence[Any], by: str, groups: LayerGroups | None
) -> dict[str, list[Hashable]]:
    """The parts that have some of `weights`, each by its name and their keys.

    Args:
        model: A built model.
        weights: The weights to divide; one that is shared is of the first part.
        by: `"group"`, `"layer"`, `"variable"`, or `"model"`, which has no parts.
        groups: The groups of the model, for `"group"`.
    """
    rest = {variable_key(v) for v in weights}
    found: list[tuple[list[str], list[Hashable]]] = []
    for path, variables in _split(model, weights, by, groups):
        own = [key for key in map(variable_key, variables) if key in rest]
        rest.difference_update(own)
        if own:
            found.append((path, own))
    names = _distinct([path for path, _ in found])
    return {name: own for name, (_, own) in zip(names, found, strict=True)}


def _split(
    model: Any, weights: Sequence[Any], by: str, groups: LayerGroups | None
) -> Iterator[tuple[list[str], Sequence[Any]]]:
    """The parts, each by its path and its weights."""
    if by == "variable":
        own = f"{model.name}/"  # Keras 3 puts it before some paths
        yield from (([variable_path(v).removeprefix(own)], [v]) for v in weights)
    elif by == "group":
        for group in groups or ():
            yield [group.name], group.variables
    elif by == "layer":
        yield from _layers(model, [])


def _layers(model: Any, outer: list[str]) -> Iterator[tuple[list[str], Any]]:
    """The layers of a model, nested models expanded, and its own weights last."""
    for layer in structure.sublayers(model):
        path = [*outer, str(layer.name)]
        if structure.is_model(layer):
            yield from _layers(layer, path)
        else:
            yield path, structure.weights(layer)
    yield outer or [str(model.name)], structure.weights(model)


def _distinct(paths: list[list[str]]) -> list[str]:
    """The last word of each path where it is unique, else the path, else a number."""
    short = Counter(path[-1] for path in paths)
    return structure.numbered(
        p[-1] if short[p[-1]] == 1 else "/".join(p) for p in paths
    )
