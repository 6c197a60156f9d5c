"""Copies of models, and layers of a model that become layers of another class."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from keras_finetune._engine import keras
from keras_finetune._engine.graphs.noise import is_random
from keras_finetune._engine.sampling._lane import lane


def flatten_layers(model: Any) -> list[Any]:
    """Return a model and all layers inside it."""
    return lane.flatten_layers(model)


def random_layers(model: Any) -> list[Any]:
    """Return the layers that Keras makes random in training."""
    return [layer for layer in flatten_layers(model) if is_random(layer)]


def exchange(model: Any, table: dict[type, type]) -> None:
    """Give the layers of `model` the classes that `table` has for theirs.

    The instances stay: whatever refers to them, a node of a graph or an attribute of
    a subclassed model, sees the new class, and seeds go on where they were.
    """
    for layer in flatten_layers(model):
        if type(layer) in table:
            # Past the trackers of Keras, which take every assignment for a layer's
            # or a variable's.
            object.__setattr__(layer, "__class__", table[type(layer)])


def forget_compiled_functions(model: Any) -> None:
    """Make `fit`, `evaluate` and `predict` trace again."""
    for name in ("train_function", "test_function", "predict_function"):
        setattr(model, name, None)


def copy(model: Any) -> Any:
    """Return a model of its own with the same configuration, weights and assets."""
    try:
        made = _rebuild(model)
    except ValueError:
        if not _is_plain(model):
            raise
        # `tf_keras` cannot read back the configuration of a `TimeDistributed` layer
        # that it has built, but can call it again.
        made = _clone(model, _clone_inside)
    made.set_weights(model.get_weights())
    lane.carry_assets(model, made)
    return made


def share(model: Any, table: dict[type, type]) -> Any:
    """Return a model of the same layers, but for those that `table` converts."""
    if not _is_plain(model):
        raise _not_rebuilt(model, "only a functional or Sequential model can be shared")

    def same(layer: Any) -> Any:
        inside = lane.flatten_layers(layer)
        if not any(type(part) in table for part in inside):
            return layer
        if lane.opened(layer) is not None and _is_plain(layer):
            return _clone(layer, again)
        if layer.weights:
            raise ValueError(
                "Argument `weights` must be 'copy' for this model: its layer "
                f"{layer.name!r} holds both weights and dropout. "
                "Received: weights='share'"
            )
        made = _from_config(layer)
        exchange(made, table)
        return made

    again = _remember(same)
    return _clone(model, again)


def not_saved(model: Any) -> list[Any]:
    """Return layers that their owner makes itself when the model is loaded."""
    kept: set[int] = set()

    def keep(layer: Any) -> None:
        kept.add(id(layer))
        if lane.opened(layer) is not None or isinstance(layer, keras.Sequential):
            for part in layer.layers:
                keep(part)
        elif isinstance(layer, keras.layers.Wrapper):
            keep(layer.layer)

    keep(model)
    return [layer for layer in flatten_layers(model) if id(layer) not in kept]


def _is_plain(model: Any) -> bool:
    """Whether a clone has all there is to a model: it has no class of its own."""
    plain = type(model).__module__.partition(".")[0] == keras.__name__
    return plain and (
        lane.opened(model) is not None or isinstance(model, keras.Sequential)
    )


def _clone(model: Any, function: Callable[[Any], Any]) -> Any:
    made = lane.clone(model, function)
    if not made.built and model.built:
        # A Sequential model that was built by its first inputs.
        made.build(model.input_shape)
    return made


def _clone_inside(layer: Any) -> Any:
    if isinstance(layer, keras.Model) and _is_plain(layer):
        return _clone(layer, _clone_inside)
    return _from_config(layer)


def _remember(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Clone a layer once, however often, and inside how many models, it is used."""
    made: dict[int, Any] = {}

    def clone(layer: Any) -> Any:
        if id(layer) not in made:
            made[id(layer)] = function(layer)
        return made[id(layer)]

    return clone


def _from_config(layer: Any) -> Any:
    # Keras 2 looks for a wrapped layer by its bare name, registered or not.
    classes = {type(part).__name__: type(part) for part in lane.flatten_layers(layer)}
    with keras.saving.custom_object_scope(classes), lane.trusting():
        return type(layer).from_config(layer.get_config())


def _rebuild(model: Any) -> Any:
    try:
        made = _from_config(model)
        if not made.built:
            made.build_from_config(model.get_build_config())
        # A layer may make helpers without weights when it first sees data, as the
        # preprocessors of KerasHub do.
        pairs = zip(_with_weights(model), _with_weights(made), strict=True)
        for old, new in pairs:
            new.trainable = old.trainable
        shapes = [tuple(weight.shape) for weight in made.weights]
    except Exception as error:
        raise _not_rebuilt(model, f"{type(error).__name__}: {error}") from error
    if shapes != [tuple(weight.shape) for weight in model.weights]:
        raise _not_rebuilt(model, "its configuration does not give the same weights")
    return made


def _with_weights(model: Any) -> list[Any]:
    return [layer for layer in flatten_layers(model) if layer.weights]


def _not_rebuilt(model: Any, reason: str) -> ValueError:
    return ValueError(
        "Argument `model` must be functional, Sequential, or of a class that can be "
        "rebuilt from its configuration (`get_config` and a built state). Convert the "
        f"layers of the model itself with `inplace=True`. Received: "
        f"model={model.name!r} of class {type(model).__name__}; {reason}"
    )
