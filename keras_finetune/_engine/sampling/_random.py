"""Which layers of a model are random by design."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from keras_finetune._engine import keras
from keras_finetune._engine.graphs.interface import Node
from keras_finetune._engine.graphs.noise import (
    accepts_training,
    draws_always,
    is_random,
    made_by_keras,
)
from keras_finetune._engine.sampling._lane import lane


class RandomLayers:
    """The random layers of a model.

    Args:
        layers: All layers of the model, containers included.
        extra: Layers, or their names, that count as random in addition.

    Attributes:
        forced: Layers that are called as in training while samples are drawn.
        named: Those of them that the caller named: they are forced even inside a call
            that was made with `training=False`.
        always: Layers that draw in inference too, such as a `Lambda` around a
            dropout function.
        suspects: Layers that own a random generator but hold other layers as well.
            What comes after them is sampled, they are not forced: a
            `BatchNormalization` inside would move.
        unfollowed: Forced and always random layers that draw by means of their own:
            where the samples in a batch begin and end, they do not know.
    """

    def __init__(self, layers: list[Any], extra: Iterable[Any] = ()) -> None:
        names = {x for x in extra if isinstance(x, str)}
        ids = {id(x) for x in extra if not isinstance(x, str)}
        _check_present(layers, extra)
        self.forced: list[Any] = []
        self.named: list[Any] = []
        self.always: list[Any] = []
        self.suspects: list[Any] = []
        for layer in layers:
            if id(layer) in ids or layer.name in names:
                self.named.append(layer)
                self.forced.append(layer)
            elif is_random(layer):
                self.forced.append(layer)
            elif draws_always(layer):
                self.always.append(layer)
            elif lane.owns_generator(layer) and not made_by_keras(layer):
                if len(lane.flatten_layers(layer)) > 1 or not accepts_training(layer):
                    self.suspects.append(layer)
                else:
                    self.forced.append(layer)
        self._force_recurrent(layers)
        drawing = [*self.forced, *self.always]
        self.unfollowed = [x for x in drawing if not lane.can_follow(x)]
        self._ids = {id(layer) for layer in [*drawing, *self.suspects]}
        self._named_ids = {id(layer) for layer in self.named}

    def __bool__(self) -> bool:
        return bool(self.forced or self.always)

    def within(self, node: Node) -> bool:
        """Return whether a call runs a layer that is random there."""
        # Keras 2 keeps `training=False` where a backbone was called with it, and
        # `fit` obeys: nothing under that call was ever random, unless it is named.
        ids = self._named_ids if node.silenced else self._ids
        if id(node.operation) in ids:
            return True
        return any(id(layer) in ids for layer in lane.flatten_layers(node.operation))

    def _force_recurrent(self, layers: list[Any]) -> None:
        """Force a recurrent layer, which hands `training` on to its random cell."""
        for layer in layers:
            if isinstance(layer, keras.layers.RNN):
                chosen = {id(x) for x in self.forced}
                inside = {id(x) for x in lane.flatten_layers(layer)}
                if id(layer) not in chosen and chosen & inside:
                    self.forced.append(layer)


def _check_present(layers: list[Any], extra: Iterable[Any]) -> None:
    known = {layer.name for layer in layers}
    present = {id(layer) for layer in layers}
    missing = [x for x in extra if isinstance(x, str) and x not in known] + [
        x.name for x in extra if not isinstance(x, str) and id(x) not in present
    ]
    if missing:
        raise ValueError(
            "Argument `random_layers` must hold layers of the model, or their "
            f"names. Received: {', '.join(map(repr, missing))}"
        )


def settings(layer: Any) -> tuple[Any, ...]:
    """Return what a trace of `layer` has built in."""
    names = ("rate", "stddev", "dropout", "recurrent_dropout", "noise_shape")
    return tuple(repr(getattr(layer, name, None)) for name in names)
