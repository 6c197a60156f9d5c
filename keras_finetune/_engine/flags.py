"""Layers as flags see them, and the size of what they hold."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from keras_finetune._engine import keras
from keras_finetune._engine.structure import all_layers


def batch_norms(layers: Iterable[Any]) -> list[Any]:
    """Return the batch normalization layers among these, at any depth."""
    kind = keras.layers.BatchNormalization
    return [layer for layer in with_inner(layers) if isinstance(layer, kind)]


def with_inner(layers: Iterable[Any]) -> list[Any]:
    """Return the layers and all layers in them, each once."""
    unique = {id(x): x for layer in layers for x in all_layers(layer)}
    return list(unique.values())


def count(variables: Iterable[Any]) -> int:
    """Return the number of scalars in some variables."""
    total = 0
    for variable in variables:
        size = 1
        for dimension in variable.shape:
            size *= int(dimension)
        total += size
    return total
