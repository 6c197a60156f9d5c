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
    own_on: Iterable[Any] = (),
    own_off: Iterable[Any] = (),
    stay_frozen: Iterable[Any] = (),
) -> list[Any]:
    """Sets the flags of layers, and of the models around them.

    Args:
        model: The model they are in.
        on: Layers that train.
        off: Layers that do not.
        batch_norm_on: Normalisation layers that train wherever they are.
        batch_norm_off: Normalisation layers that do not, wherever they are.
        own_on: Variables of models' own, see `own_variables`, that train.
        own_off: Those that do not.
        stay_frozen: Single variables that do not train although their layer does.

    Returns:
        Variables that must not train but have no flag to say so (Keras 2).
    """
    off, own_off = list(off), list(own_off)
    exposed = [] if KERAS_3 else own_off
    for layer in off:
        layer.trainable = False
    for layer in on:
        layer.trainable = True
    for layer in batch_norm_on:
        layer.trainable = True
    for layer in batch_norm_off:
        layer.trainable = False
    # On Keras 2 a frozen container hides what trains in it. Only its own flag is set:
    # the property would pass it on.
    lit = {id(layer) for layer in batch_norm_on}
    for layer in off:
        for outer in all_layers(layer):
            if not outer.trainable and any(id(x) in lit for x in all_layers(outer)):
                outer._trainable = True
                exposed += [] if KERAS_3 else list(outer._trainable_weights)
    for layer in all_layers(model):
        if is_model(layer):
            layer._trainable = True
    if KERAS_3:
        for variable in own_on:
            variable.trainable = True
        for variable in (*own_off, *stay_frozen):
            variable.trainable = False
    return exposed


def own_variables(model: Any) -> list[Any]:
    """Trainable variables that models in it hold themselves, not through a layer."""
    name = "_trainable_variables" if KERAS_3 else "_trainable_weights"
    models = [layer for layer in all_layers(model) if is_model(layer)]
    return [v for one in models for v in getattr(one, name)]


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
    return [layer for layer in with_inner(layers) if isinstance(layer, kind)]


def with_inner(layers: Iterable[Any]) -> list[Any]:
    """The layers and all layers in them, each once."""
    unique = {id(x): x for layer in layers for x in all_layers(layer)}
    return list(unique.values())


def count(variables: Iterable[Any]) -> int:
    """The number of scalars in some variables."""
    total = 0
    for variable in variables:
        size = 1
        for dimension in variable.shape:
            size *= int(dimension)
        total += size
    return total
