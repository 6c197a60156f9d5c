"""Which keys the logs of a `fit` will have, as far as it can be known before."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from keras_finetune._engine import KERAS_3, fit, keras
from keras_finetune._engine.structure import sublayers

_STEPS = ("train_step", "test_step", "compute_metrics", "get_metrics_result", "metrics")
_KERAS = ("keras", "tf_keras")
_SCHEDULES = (
    keras.callbacks.LearningRateScheduler,
    keras.callbacks.ReduceLROnPlateau,
)
# What Keras's own schedules add, by the version of Keras.
_RATE = ("learning_rate", "lr")


class Expected(NamedTuple):
    """What a `fit` is expected to log.

    Args:
        keys: The keys, those of validation among them if there is any.
        validates: Whether `fit` was given validation data.
        certain: Whether no step and no callback of the user's own can add others.
    """

    keys: frozenset[str]
    validates: bool
    certain: bool


def expected(model: Any) -> Expected:
    """Return what the `fit` of a model that we are called from will log."""
    variables = fit.variables_of_fit(model)
    validates = variables.get("validation_data") is not None or bool(
        variables.get("validation_split")
    )
    asked = _asked_of_compile(model)
    names = {"loss", *_names(asked)}
    # Where both lists name a metric, Keras tells the weighted one apart.
    names.update(f"weighted_{name}" for name in list(_names(asked[1::2])))
    names.update(str(metric.name) for metric in model.metrics)
    names.discard("compile_metrics")  # the one that holds those of `compile`
    outputs = {str(name) for name in getattr(model, "output_names", None) or ()}
    if KERAS_3:  # names an output by its layer, or by the key that the user gave it
        made_of = getattr(model, "_outputs_struct", None)  # of a functional model
        outputs.update(_keys([asked, getattr(model, "loss", None), made_of]))
    names.update(f"{output}_{name}" for output in outputs for name in list(names))
    keys = {*names}
    if validates:
        keys.update(f"val_{name}" for name in names)
    callbacks = fit.callbacks_of_fit(model)
    if any(isinstance(c, _SCHEDULES) for c in callbacks):
        keys.update(_RATE)
    foreign = (type(c).__module__ for c in callbacks)
    certain = (
        all(_is_keras(module) for module in foreign)
        and all(_is_keras(_module_of(model, name)) for name in _STEPS)
        and not any(getattr(part, "_metrics", ()) for part in sublayers(model))
    )
    return Expected(frozenset(keys), validates, certain)


def _asked_of_compile(model: Any) -> list[Any]:
    held = (
        getattr(model, name, None) for name in ("_compile_metrics", "compiled_metrics")
    )
    return [
        getattr(one, name, None)
        for one in held
        for name in ("_user_metrics", "_user_weighted_metrics")
    ]


def _keys(structure: Any) -> Iterator[str]:
    """Return the keys of all dictionaries in a structure."""
    if isinstance(structure, Mapping):
        yield from map(str, structure)
        yield from _keys(list(structure.values()))
    elif isinstance(structure, (list, tuple)):
        for one in structure:
            yield from _keys(one)


def _names(asked: Any) -> Iterator[str]:
    """Return the names of metrics, in whatever structure `compile` was given."""
    if isinstance(asked, str):
        yield asked
    elif isinstance(asked, Mapping):
        yield from _names(list(asked.values()))
    elif isinstance(asked, (list, tuple)):
        for one in asked:
            yield from _names(one)
    elif isinstance(asked, type):
        # As Keras names an object that it makes of a class.
        snake = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", asked.__name__)
        yield re.sub(r"([a-z])([A-Z])", r"\1_\2", snake).lower()
    elif asked is not None:
        name = getattr(asked, "name", None) or getattr(asked, "__name__", None)
        yield str(name or type(asked).__name__)


def _module_of(model: Any, name: str) -> str:
    member: Any = getattr(type(model), name, None)
    member = getattr(member, "fget", None) or member
    return str(getattr(member, "__module__", None) or "keras")


def _is_keras(module: str) -> bool:
    root = module.partition(".")[0]
    return root in _KERAS or root == __name__.partition(".")[0]
