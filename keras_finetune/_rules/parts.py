"""The weights of a model in parts with names: its groups, layers or variables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any

from keras_finetune._engine import structure
from keras_finetune._engine.norms import Vector, combine
from keras_finetune._engine.structure import variable_key, variable_path
from keras_finetune._groups.layer_groups import LayerGroups


def parts(
    model: Any, weights: Sequence[Any], by: str, groups: LayerGroups | None
) -> dict[str, list[Hashable]]:
    """Return the parts that have some of `weights`, by the suffix they have in logs.

    The whole has none; a part has a slash and its name. Each has the keys of its
    weights.

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
    return {
        "": [variable_key(v) for v in weights],
        **{f"/{name}": own for name, (_, own) in zip(names, found, strict=True)},
    }


def norms_of_parts(
    norms: Mapping[str, Vector],
    keys: Sequence[Hashable],
    parts: Mapping[str, Sequence[Hashable]],
    order: float | str,
) -> dict[str, float]:
    """Return the norms of each part, by kind and part; NaN where no weight has one.

    Args:
        norms: By kind, one norm for each weight.
        keys: The keys of these weights.
        parts: What `parts` returns.
        order: The norm.
    """
    place = {key: i for i, key in enumerate(keys)}
    places = {
        part: [place[key] for key in own if key in place] for part, own in parts.items()
    }
    return {
        f"{kind}{part}": combine(row[here], order)
        for part, here in places.items()
        for kind, row in norms.items()
    }


def _split(
    model: Any, weights: Sequence[Any], by: str, groups: LayerGroups | None
) -> Iterator[tuple[list[str], Sequence[Any]]]:
    """Yield the parts, each by its path and its weights."""
    if by == "variable":
        own = f"{model.name}/"  # Keras 3 puts it before some paths
        yield from (([variable_path(v).removeprefix(own)], [v]) for v in weights)
    elif by == "group":
        for group in groups or ():
            yield [group.key], group.variables
    elif by == "layer":
        yield from _layers(model, [])


def _layers(model: Any, outer: list[str]) -> Iterator[tuple[list[str], Any]]:
    """Yield the layers of a model, nested models expanded, its own weights last."""
    for layer in structure.sublayers(model):
        path = [*outer, str(layer.name)]
        if structure.is_model(layer):
            yield from _layers(layer, path)
        else:
            yield path, structure.weights(layer)
    yield outer or [str(model.name)], structure.weights(model)


def _distinct(paths: list[list[str]]) -> list[str]:
    """Return the last word of a path if it is unique, else the path, else a number."""
    short = Counter(path[-1] for path in paths)
    return structure.numbered(
        p[-1] if short[p[-1]] == 1 else "/".join(p) for p in paths
    )
