"""Which layers of a model are random by design."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from .. import keras
from ._lane import lane

_NOISE = (
    keras.layers.Dropout,
    keras.layers.AlphaDropout,
    keras.layers.GaussianDropout,
    keras.layers.GaussianNoise,
)
_RECURRENT = (
    keras.layers.RNN,
    keras.layers.LSTMCell,
    keras.layers.GRUCell,
    keras.layers.SimpleRNNCell,
)
_ATTENTION = (keras.layers.Attention, keras.layers.AdditiveAttention)


class RandomLayers:
    """The random layers of a model.

    Args:
        layers: All layers of the model, containers included.
        extra: Layers, or their names, that count as random in addition.

    Attributes:
        forced: Layers that are called as in training while samples are drawn.
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
        known = {layer.name for layer in layers}
        present = {id(layer) for layer in layers}
        missing = [x for x in names if x not in known] + [
            x.name for x in extra if not isinstance(x, str) and id(x) not in present
        ]
        if missing:
            raise ValueError(
                "Argument `random_layers` must hold layers of the model, or their "
                f"names. Received: {', '.join(map(repr, missing))}"
            )
        self.forced: list[Any] = []
        self.always: list[Any] = []
        self.suspects: list[Any] = []
        for layer in layers:
            if id(layer) in ids or layer.name in names or is_random(layer):
                self.forced.append(layer)
            elif _draws_always(layer):
                self.always.append(layer)
            elif lane.owns_generator(layer) and not _made_by_keras(layer):
                if len(lane.flatten_layers(layer)) > 1 or not accepts_training(layer):
                    self.suspects.append(layer)
                else:
                    self.forced.append(layer)
        # A recurrent layer hands `training` to its cell, so it is forced wherever
        # something in the cell is random.
        chosen = {id(layer) for layer in self.forced}
        for layer in layers:
            if isinstance(layer, keras.layers.RNN) and id(layer) not in chosen:
                inside = lane.flatten_layers(layer)
                if any(id(part) in chosen for part in inside):
                    self.forced.append(layer)
        self.unfollowed = [
            layer
            for layer in [*self.forced, *self.always]
            if not lane.can_follow(layer)
        ]
        self._ids = {
            id(layer) for layer in [*self.forced, *self.always, *self.suspects]
        }

    def __bool__(self) -> bool:
        return bool(self.forced or self.always)

    def within(self, operation: Any) -> bool:
        """Whether `operation` is, or holds, a random layer."""
        if id(operation) in self._ids:
            return True
        return any(id(layer) in self._ids for layer in lane.flatten_layers(operation))


def is_random(layer: Any) -> bool:
    """Whether Keras itself makes `layer` draw random numbers in training."""
    if isinstance(layer, _NOISE):
        return _positive(layer, "rate", "stddev")
    if isinstance(layer, _RECURRENT):
        return _positive(layer, "dropout", "recurrent_dropout")
    if isinstance(layer, _ATTENTION):
        return _positive(layer, "dropout")
    return False


def settings(layer: Any) -> tuple[Any, ...]:
    """What a trace of `layer` has built in, to see when it no longer holds."""
    names = ("rate", "stddev", "dropout", "recurrent_dropout", "noise_shape")
    return tuple(repr(getattr(layer, name, None)) for name in names)


def accepts_training(layer: Any) -> bool:
    return "training" in lane.call_parameters(layer)


def _made_by_keras(layer: Any) -> bool:
    """Whether `is_random` knows all about a layer, a cell or an augmentation say."""
    ours = type(layer).__module__.partition(".")[0] == keras.__name__
    return ours or isinstance(layer, _NOISE + _RECURRENT + _ATTENTION)


def _positive(layer: Any, *names: str) -> bool:
    # A recurrent layer around a user's cell has no such attribute, or raises when
    # it asks the cell for it.
    return any(float(getattr(layer, name, None) or 0.0) > 0.0 for name in names)


def _draws_always(layer: Any) -> bool:
    """Whether a function layer mentions a random function by name."""
    if isinstance(layer, keras.layers.Lambda):
        return _mentions_randomness(layer.function)
    return any(word in lane.symbol(layer) for word in ("dropout", "random"))


def _mentions_randomness(function: Any) -> bool:
    code = getattr(function, "__code__", None)
    names = (*getattr(code, "co_names", ()), getattr(function, "__name__", ""))
    return any("dropout" in name or "random" in name for name in names)
