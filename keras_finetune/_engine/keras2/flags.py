"""Keras 2: flags of layers, and what they cannot say.

A weight has no flag here: it trains if its layer and all layers around it do. And the
flags decide the order in which a layer made of layers lists its weights, so that
whoever keeps `get_weights()` over a stage would put them back in the wrong places.
Both are for the step alone to see: flags that would change an order stay as they are
until `fit` ends, and variables that no flag can freeze are hidden while a step runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from keras_finetune._engine.lane import Flags, Unsaid
from keras_finetune._engine.patches import Patch
from keras_finetune._engine.structure import (
    all_layers,
    is_model,
    sublayers,
    variable_key,
    weights,
)


def set_flags(model: Any, flags: Flags, *, ends: bool) -> Unsaid:
    """Set a model's flags; return what they cannot say."""
    layers = all_layers(model)
    wanted = {id(layer): layer.trainable for layer in layers}
    wanted.update(flags.layers)
    _light_containers(model, wanted, flags)
    patches: list[Patch] = []
    for composite in [] if ends else list(_composites(model)):
        inside = all_layers(composite)
        before = {id(layer): layer.trainable for layer in inside}
        order = _order(composite)
        _set(inside, wanted)
        if _order(composite) != order:
            _set(inside, before)
            patches += [
                Patch(layer, "_trainable", wanted[id(layer)])
                for layer in inside
                if wanted[id(layer)] != before[id(layer)]
            ]
            wanted.update(before)
    _set(layers, wanted)
    frozen = [
        v
        for v in {id(v): v for v in model.trainable_variables}.values()
        if not flags.variables.get(variable_key(v), True)
    ]
    return Unsaid(frozen, patches)


def freeze(layers: Sequence[Any], variables: Sequence[Any]) -> list[Patch]:
    """Return patches under which a step does not train variables.

    Keras 2 sorts the weights of a layer when they are made and saves them in that
    order, so the layer says otherwise only while a step runs.
    """
    hidden = {id(v) for v in variables}
    patches = []
    for layer in layers:
        own = list(layer.__dict__.get("_trainable_weights", ()))
        away = [v for v in own if id(v) in hidden]
        if away:
            rest = [v for v in own if id(v) not in hidden]
            frozen = [*layer._non_trainable_weights, *away]
            patches.append(Patch(layer, "_trainable_weights", rest))
            patches.append(Patch(layer, "_non_trainable_weights", frozen))
    return patches


def _light_containers(model: Any, wanted: dict[int, bool], flags: Flags) -> None:
    """Let layers train that hold something that does: frozen, they would hide it."""
    seen: dict[int, bool] = {}

    def trains(layer: Any) -> bool:
        if id(layer) not in seen:
            own = getattr(layer, "_trainable_weights", ())
            seen[id(layer)] = any(
                flags.variables.get(variable_key(v), False) for v in own
            )
            inside = [trains(part) for part in sublayers(layer)]
            seen[id(layer)] = seen[id(layer)] or any(inside)
        return seen[id(layer)]

    for layer in all_layers(model):
        if trains(layer):
            wanted[id(layer)] = True


def _set(layers: Sequence[Any], wanted: dict[int, bool]) -> None:
    for layer in layers:
        # Not the property, which passes the value on to what is inside.
        layer._trainable = wanted[id(layer)]


def _order(layer: Any) -> list[int]:
    return [id(v) for v in layer.weights]


def _composites(model: Any) -> Iterator[Any]:
    """Return the layers made of layers that are no models, but for those inside."""
    for part in sublayers(model):
        if is_model(part):
            yield from _composites(part)
        elif sublayers(part) and weights(part):
            yield part
