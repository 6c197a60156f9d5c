"""A model as units, the layers that are never split."""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from typing import Any

from keras_finetune._engine import keras, structure
from keras_finetune._groups.names import block_name

# The model a layer is directly in, by its id, and the block's name.
Block = tuple[int, str]


@dataclass(eq=False)
class Unit:
    """What is never split: a layer that is no model, or the own weights of a model.

    Args:
        layer: The layer, or the model that holds the weights itself.
        variables: Its weights, less those that an earlier unit has too.
        owners: The models it is in, from the outside to the inside.
        block: The block that its name tells.
        tied: Whether parallel branches run between it and the next unit.
        parents: The units that it reads from.
    """

    layer: Any
    variables: tuple[Any, ...]
    owners: tuple[Any, ...]
    block: Block | None = None
    tied: bool = False
    parents: set[Unit] = field(default_factory=set)

    @property
    def is_own(self) -> bool:
        """Whether it stands for the weights that a model holds itself."""
        return structure.is_model(self.layer)

    @property
    def is_main(self) -> bool:
        """Whether it may make a group, and is no companion of another layer."""
        return (
            bool(self.variables)
            and not self.is_own
            and not is_normalization(self.layer)
        )


def flatten(model: Any) -> list[Unit]:
    """The units of a model, in the order of its layers."""
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
        if not structure.is_model(layer):
            units.append(Unit(layer, fresh(layer), owners, _block(layer, owners)))
            return
        start = len(units)
        owners = (*owners, layer)
        for child in structure.sublayers(layer):
            expand(child, owners)
        if own := fresh(layer):
            # Class tokens, position embeddings: they enter at the model's bottom.
            units.insert(start, Unit(layer, own, owners))

    expand(model, ())
    return units


def _block(layer: Any, owners: tuple[Any, ...]) -> Block | None:
    """The block that a layer's name speaks of, or that of a nested model it is in."""
    for owner, part in itertools.pairwise((*owners, layer)):
        if (name := block_name(part)) is not None:
            return id(owner), name
    return None


def is_normalization(layer: Any) -> bool:
    """Whether a layer with weights only rescales, so that it makes no group."""
    name = type(layer).__name__.lower()
    # A wrapper (SpectralNormalization) has a layer inside.
    return ("norm" in name or name == "prelu") and not structure.sublayers(layer)


def is_activation(layer: Any) -> bool:
    """Whether a layer is an activation, with weights or without."""
    name = type(layer).__name__.lower()
    return name.endswith("lu") or name in ("activation", "softmax")


def is_composite(layer: Any) -> bool:
    """Whether a layer that is no model is made of layers: a transformer block."""
    wrapper = isinstance(layer, keras.layers.Wrapper)
    return not wrapper and any(
        structure.is_built(part) and structure.weights(part)
        for part in structure.sublayers(layer)
    )


def layers_of(units: Iterable[Unit]) -> tuple[Any, ...]:
    """Their layers, less the models that hold weights themselves."""
    return tuple(unit.layer for unit in units if not unit.is_own)


def weights_of(units: Iterable[Unit]) -> tuple[Any, ...]:
    """All their weights."""
    return tuple(variable for unit in units for variable in unit.variables)
