"""The flags that say what trains, set layer by layer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from keras_finetune._engine import KERAS_3, keras
from keras_finetune._engine.structure import all_layers, is_model


def set_trainable(
    model: Any,
    on: Iterable[Any],
    off: Iterable[Any],
    *,
    batch_norm_on: Iterable[Any] = (),
    batch_norm_off: Iterable[Any] = (),
    stay_frozen: Iterable[Any] = (),
) -> list[Any]:
    """Sets the flags of layers, and of the models around them.

    Args:
        model: The model they are in.
        on: Layers that train.
        off: Layers that do not.
        batch_norm_on: Normalisation layers that train wherever they are.
        batch_norm_off: Normalisation layers that do not, wherever they are.
        stay_frozen: Single variables that do not train although their layer does.

    Returns:
        Variables that must not train but have no flag to say so (Keras 2).
    """
    exposed: list[Any] = []

    def set_one(layer: Any, value: bool) -> None:
        if is_model(layer):
            # Stands for the weights of its own: its layers have flags of theirs.
            if KERAS_3:
                for variable in layer._trainable_variables:
                    variable.trainable = value
            elif not value:
                exposed.extend(layer._trainable_weights)
        else:
            layer.trainable = value

    off = list(off)
    for layer in off:
        set_one(layer, False)
    for layer in on:
        set_one(layer, True)
    for layer in batch_norm_on:
        layer.trainable = True
    for layer in batch_norm_off:
        layer.trainable = False
    # On Keras 2 a frozen container hides what trains in it. Only its own flag is set:
    # the property would pass it on.
    lit = {id(layer) for layer in batch_norm_on}
    for layer in off:
        if not is_model(layer):
            inside = [x for x in all_layers(layer) if x is not layer]
            if any(id(x) in lit for x in inside):
                for outer in (layer, *inside):
                    if outer.trainable or id(outer) in lit:
                        continue
                    if any(id(x) in lit for x in all_layers(outer)):
                        outer._trainable = True
                        if not KERAS_3:
                            exposed.extend(outer._trainable_weights)
    for layer in all_layers(model):
        if is_model(layer):
            layer._trainable = True
    for variable in stay_frozen:
        variable.trainable = False
    return exposed


@contextmanager
def preserved(model: Any) -> Iterator[None]:
    """Puts all flags back as they were before the block."""
    layers = [(layer, layer.trainable) for layer in all_layers(model)]
    variables = [(v, v.trainable) for v in model.weights] if KERAS_3 else []
    try:
        yield
    finally:
        for layer, value in layers:
            layer._trainable = value
        for variable, value in variables:
            variable.trainable = value


def batch_norms(layers: Iterable[Any]) -> list[Any]:
    """The batch normalisation layers among these, at any depth."""
    kind = keras.layers.BatchNormalization
    unique = {
        id(x): x for layer in layers for x in _inner(layer) if isinstance(x, kind)
    }
    return list(unique.values())


def with_inner(layers: Iterable[Any]) -> list[Any]:
    """The layers and all layers in them.

    A model among them stands for its own weights, and so only for itself.
    """
    unique = {id(x): x for layer in layers for x in _inner(layer)}
    return list(unique.values())


def _inner(layer: Any) -> tuple[Any, ...]:
    return (layer,) if is_model(layer) else all_layers(layer)


def count(variables: Iterable[Any]) -> int:
    """The number of scalars in some variables."""
    total = 0
    for variable in variables:
        size = 1
        for dimension in variable.shape:
            size *= int(dimension)
        total += size
    return total
