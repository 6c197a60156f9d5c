"""Dropout layers of a model exchanged for those that stay active, and back."""

from __future__ import annotations

import warnings
from typing import Any, Literal, TypeVar

from keras_finetune import _checks
from keras_finetune._engine import keras
from keras_finetune._engine.sampling import conversion
from keras_finetune.layers.mc_alpha_dropout import MCAlphaDropout
from keras_finetune.layers.mc_dropout import MCDropout
from keras_finetune.layers.mc_gaussian_dropout import MCGaussianDropout
from keras_finetune.layers.mc_gaussian_noise import MCGaussianNoise
from keras_finetune.layers.mc_spatial_dropout import (
    MCSpatialDropout1D,
    MCSpatialDropout2D,
    MCSpatialDropout3D,
)

_PAIRS = (
    (keras.layers.Dropout, MCDropout),
    (keras.layers.SpatialDropout1D, MCSpatialDropout1D),
    (keras.layers.SpatialDropout2D, MCSpatialDropout2D),
    (keras.layers.SpatialDropout3D, MCSpatialDropout3D),
    (keras.layers.AlphaDropout, MCAlphaDropout),
    (keras.layers.GaussianDropout, MCGaussianDropout),
    (keras.layers.GaussianNoise, MCGaussianNoise),
)


_Model = TypeVar("_Model")


def convert_dropout(
    model: _Model,
    *,
    to: Literal["mc", "standard"] = "mc",
    weights: Literal["copy", "share"] = "copy",
    inplace: bool = False,
) -> _Model:
    """Return a model with Monte Carlo dropout in place of Keras's, or back.

    Names, rates, seeds and all other layers stay as they are: converting there and
    back gives the same model. Nested models and wrappers are converted at any depth.
    A subclass of `keras.layers.Dropout` is left alone, it may decide for itself.

    A functional or Sequential model is cloned. A model of your own class is rebuilt
    from its configuration, which works if it has one. Layers inside a layer of your
    own, or inside `MultiHeadAttention`, are converted too, but a file does not keep
    that: their owner makes standard ones again when it is loaded. Dropout inside
    recurrent and `Attention` layers has no Monte Carlo counterpart; both cases are
    named in a warning. `keras_finetune.mc_predict` samples all of them without any
    conversion.

    Args:
        model: A built Keras model.
        to: `"mc"` for layers that stay active in inference, `"standard"` for Keras's.
        weights: `"copy"` for a model of its own. `"share"` for one that has the same
            layers, dropout aside: training one trains the other.
        inplace: Whether to convert the layers of `model` itself. Works for every
            model; `weights` is of no importance then.

    Returns:
        The converted model, not compiled for training; `model` itself with `inplace`.

    Raises:
        TypeError: If `model` is not a model of the Keras in use.
        ValueError: If there is nothing to convert, if a rate is 1, or if the model
            cannot be rebuilt or its layers not shared.

    Example:

    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dropout(0.5)])
    >>> [type(layer).__name__ for layer in convert_dropout(model).layers]
    ['MCDropout']

    References:

    - [Dropout as a Bayesian Approximation](https://arxiv.org/abs/1506.02142)
      (Gal & Ghahramani, 2016)
    """
    if not isinstance(model, keras.Model):
        raise TypeError(
            "Argument `model` must be a model of the Keras in use. "
            f"Received: model={model!r}"
        )
    _checks.choice("to", to, ("mc", "standard"))
    _checks.choice("weights", weights, ("copy", "share"))
    _checks.choice("inplace", inplace, (True, False))
    table: dict[type, type] = dict(_PAIRS)
    if to == "standard":
        table = {new: old for old, new in _PAIRS}
    _check_layers(model, table)
    converted: Any = model
    if inplace:
        conversion.exchange(model, table)
        conversion.forget_compiled_functions(model)
    elif weights == "copy":
        converted = conversion.copy(model)
        conversion.exchange(converted, table)
    else:
        converted = conversion.share(model, table)
    if to == "mc":
        _warn(converted, set(table.values()))
    return converted


def _check_layers(model: Any, table: dict[type, type]) -> None:
    layers = conversion.flatten_layers(model)
    known = set(table) | set(table.values())
    if not any(type(layer) in known for layer in layers):
        raise ValueError(
            "Argument `model` must have a dropout or noise layer of Keras to convert. "
            f"Received: model={model.name!r}"
        )
    full = [x.name for x in layers if type(x) in table and _rate(x) >= 1]
    if full:
        raise ValueError(
            "Argument `model` must have rates below 1, a layer that drops everything "
            f"has no samples. Received: {', '.join(map(repr, full))}"
        )


def _rate(layer: Any) -> float:
    return float(getattr(layer, "rate", 0.0))


def _warn(model: Any, converted: set[type]) -> None:
    lost = [x.name for x in conversion.not_saved(model) if type(x) in converted]
    if lost:
        warnings.warn(
            f"Converted, but inside layers that make their dropout themselves: {lost}. "
            "A saved file does not keep this; convert again after loading.",
            stacklevel=3,
        )
    left = [x.name for x in conversion.random_layers(model) if type(x) not in converted]
    left = [name for name in left if name not in lost]
    if left:
        warnings.warn(
            f"Left unchanged, as they have no Monte Carlo counterpart: {left}. "
            "`keras_finetune.mc_predict` samples them as well.",
            stacklevel=3,
        )
