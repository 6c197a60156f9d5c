"""Which layers draw random numbers while a model trains."""

from __future__ import annotations

from typing import Any

from keras_finetune._engine import keras
from keras_finetune._engine.graphs.active import lane

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


def is_random(layer: Any) -> bool:
    """Return whether Keras itself makes `layer` draw random numbers in training."""
    if isinstance(layer, _NOISE):
        return _positive(layer, "rate", "stddev")
    if isinstance(layer, _RECURRENT):
        return _positive(layer, "dropout", "recurrent_dropout")
    if isinstance(layer, _ATTENTION):
        return _positive(layer, "dropout")
    return False


def is_active(layer: Any) -> bool:
    """Return whether a layer draws in a training step, by whatever means."""
    if isinstance(layer, _NOISE + _RECURRENT + _ATTENTION):
        return is_random(layer)
    return draws_always(layer) or lane.owns_generator(layer)


def may_rest(layer: Any) -> bool:
    """Return whether a layer that is active draws nothing at inference."""
    return not draws_always(layer) and accepts_training(layer)


def augments(layer: Any) -> bool:
    """Return whether an active layer is one of Keras's own that augment data."""
    return made_by_keras(layer) and ".preprocessing." in type(layer).__module__


def accepts_training(layer: Any) -> bool:
    """Return whether a layer is told whether the model trains."""
    return "training" in lane.call_parameters(layer)


def made_by_keras(layer: Any) -> bool:
    """Whether `is_random` knows all about a layer, a cell or an augmentation say."""
    ours = type(layer).__module__.partition(".")[0] == keras.__name__
    return ours or isinstance(layer, _NOISE + _RECURRENT + _ATTENTION)


def _positive(layer: Any, *names: str) -> bool:
    # A recurrent layer around a user's cell has no such attribute, or raises when
    # it asks the cell for it.
    return any(float(getattr(layer, name, None) or 0.0) > 0.0 for name in names)


def draws_always(layer: Any) -> bool:
    """Whether a function layer mentions a random function by name."""
    if isinstance(layer, keras.layers.Lambda):
        return _mentions_randomness(layer.function)
    return any(word in lane.symbol(layer) for word in ("dropout", "random"))


def _mentions_randomness(function: Any) -> bool:
    code = getattr(function, "__code__", None)
    names = (*getattr(code, "co_names", ()), getattr(function, "__name__", ""))
    return any("dropout" in name or "random" in name for name in names)
