"""What a layer is, as far as a division into groups asks."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from keras_finetune._engine import keras, structure

_EMBEDDING = re.compile(r"embed|patch_?(?:enc|proj|if)", re.IGNORECASE)
_POOLER = re.compile(r"(?:^|_)pool(?:er|ed|ing)?(?:_|$)", re.IGNORECASE)
# What a block is made of, though it may come in lists: "self.experts", "self.mlp1".
_PART_OF_A_BLOCK = re.compile(
    r"attention|attn|expert|branch|head|mlp|ffn|feed_?forward", re.IGNORECASE
)


def is_normalization(layer: Any) -> bool:
    """Whether a layer with weights only rescales, so that it makes no group."""
    name = type(layer).__name__.lower()
    # A wrapper (SpectralNormalization) has a layer inside.
    scales = "norm" in name or "layerscale" in name or name == "prelu"
    return scales and not structure.sublayers(layer)


def is_activation(layer: Any) -> bool:
    """Whether a layer is an activation, with weights or without."""
    name = type(layer).__name__.lower()
    return name.endswith("lu") or name in ("activation", "softmax")


def is_operation(layer: Any) -> bool:
    """Whether a layer is an operation that Keras 2 makes a layer of, or joins tensors.

    `x + y` and `x[:, 0]` are layers on Keras 2 only.
    """
    name = type(layer).__name__
    return name.endswith("OpLambda") or name in ("Add", "Concatenate", "Multiply")


def is_embedding(layer: Any) -> bool:
    """Whether a layer turns tokens, patches or positions into vectors."""
    return any(map(_EMBEDDING.search, (type(layer).__name__, layer.name)))


def is_pooler(layer: Any) -> bool:
    """Whether a layer pools with weights of its own, as BERT's `pooled_dense`."""
    kind = type(layer).__name__.lower()
    return bool(_POOLER.search(layer.name)) or kind.endswith(("pooler", "pooling"))


def is_composite(layer: Any) -> bool:
    """Whether a layer that is no model is made of layers: a transformer block.

    A wrapper is what it wraps.
    """
    if isinstance(layer, keras.layers.Wrapper):
        return any(map(is_composite, structure.sublayers(layer)))
    return any(
        structure.is_built(part) and structure.weights(part)
        for part in structure.sublayers(layer)
    )


def is_block(layer: Any) -> bool:
    """Whether a layer that is no model is a block: several layers with weights."""
    if structure.is_model(layer) or _PART_OF_A_BLOCK.search(type(layer).__name__):
        return False
    return len(list(main_leaves(layer))) > 1


def is_part_of_a_block(name: str) -> bool:
    """Whether an attribute's name says that its layers make up one block together."""
    return bool(_PART_OF_A_BLOCK.search(name))


def main_leaves(layer: Any) -> Iterator[Any]:
    """Yield the layers inside that have weights of their own and do more than scale."""
    for part in structure.all_layers(layer)[1:]:
        if structure.sublayers(part) or is_normalization(part):
            continue
        if structure.is_built(part) and structure.weights(part):
            yield part
