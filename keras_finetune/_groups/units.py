"""A model as units, the parts that are never split."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from keras_finetune._engine import structure
from keras_finetune._groups import kinds


class Block(NamedTuple):
    """The block that names tell: the model or layer it is directly in, and its name."""

    owner: int
    name: str
    owner_name: str = ""


@dataclass(eq=False)
class Unit:
    """What is never split: a layer, or the own weights of what is taken apart.

    Args:
        layer: The layer; or the model or composite layer that holds the weights itself.
        variables: Its weights, less those that an earlier unit has too.
        owners: The models and composite layers it is in, from the outside in.
        is_own: Whether it stands for the weights that its `layer` holds itself.
        block: The block that names tell.
        tied: Whether parallel branches run between it and the next unit.
        parents: The units that it reads from.
        depth: How many main units are on the longest way to it.
        is_used: Whether an output of the model depends on it.
    """

    layer: Any
    variables: tuple[Any, ...]
    owners: tuple[Any, ...]
    is_own: bool = False
    block: Block | None = None
    tied: bool = False
    parents: set[Unit] = field(default_factory=set)
    depth: int = 0
    is_used: bool = True

    @property
    def is_main(self) -> bool:
        """Whether it may make a group, and is no companion of another layer."""
        return (
            bool(self.variables)
            and self.is_used
            and not self.is_own
            and not kinds.is_normalization(self.layer)
            and not kinds.is_pooler(self.layer)
        )


def children(part: Any) -> tuple[Any, ...]:
    """Return the direct children of a model or layer, bottom to top.

    Where Keras knows no graph they come as they were created, embeddings first.
    """
    found = structure.sublayers(part)
    if structure.has_graph(part):
        return found
    return tuple(sorted(found, key=lambda child: not kinds.is_embedding(child)))


def flatten(model: Any, opens: Callable[[Any], bool]) -> list[Unit]:
    """Return the units of a model, bottom to top.

    Args:
        model: The model.
        opens: Whether a composite layer is taken apart. Models always are.
    """
    units: list[Unit] = []
    seen: set[int] = set()
    taken: set[Hashable] = set()

    def fresh(layer: Any) -> tuple[Any, ...]:
        new = {structure.variable_key(v): v for v in structure.weights(layer)}
        new = {key: v for key, v in new.items() if key not in taken}
        taken.update(new)
        return tuple(new.values())

    def expand(layer: Any, owners: tuple[Any, ...]) -> None:
        if id(layer) in seen:
            return
        seen.add(id(layer))
        if not structure.is_model(layer) and not opens(layer):
            units.append(Unit(layer, fresh(layer), owners))
            # A layer that is listed beside the one that it is in is no unit beside it.
            seen.update(map(id, structure.all_layers(layer)))
            return
        start = len(units)
        for child in children(layer):
            expand(child, (*owners, layer))
        if own := fresh(layer):
            # Class tokens, position embeddings: they enter at the bottom.
            units.insert(start, Unit(layer, own, (*owners, layer), is_own=True))

    expand(model, ())
    return units


def inside(units: Iterable[Unit]) -> dict[int, list[Unit]]:
    """Return the units of each layer and model, by its id."""
    found: dict[int, list[Unit]] = {}
    for unit in units:
        for part in unit.owners if unit.is_own else (*unit.owners, unit.layer):
            found.setdefault(id(part), []).append(unit)
    return found


def layers_of(units: Iterable[Unit]) -> tuple[Any, ...]:
    """Return their layers, less those that stand for weights of their own."""
    return tuple(unit.layer for unit in units if not unit.is_own)


def weights_of(units: Iterable[Unit]) -> tuple[Any, ...]:
    """Return all their weights."""
    return tuple(variable for unit in units for variable in unit.variables)
