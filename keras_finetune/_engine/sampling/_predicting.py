"""What a model's own `predict` does before Keras's: the same must reach the samples.

A class may override `predict` to prepare its inputs, as the tasks of KerasHub do with
their preprocessor, `predict_step`, or `__call__`. Nothing of it is guessed. The
override is run with Keras's method behind it replaced by one that takes down its
arguments and returns a marker: an override that returns the marker has only prepared
inputs, and what it handed on is what is sampled.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from keras_finetune._engine import keras

# While a class of Keras carries a replacement; others who call it are passed on.
_lock = threading.RLock()


class Inputs(NamedTuple):
    """What Keras's own `predict` is to read."""

    x: Any
    batch_size: int | None
    steps: int | None


class _CallsItself(Exception):
    """An override of `predict` has called the model instead of Keras's `predict`."""


def overrides(model: Any, name: str) -> bool:
    """Return whether a method of a model is not Keras's own."""
    return name in vars(model) or not _is_keras(_owner(type(model), name))


def prepared(model: Any, x: Any, batch_size: int | None, steps: int | None) -> Inputs:
    """Return what Keras's `predict` gets when `model.predict` is given `x`.

    Raises:
        ValueError: If `predict` does more than prepare its inputs.
    """
    if overrides(model, "make_predict_function"):
        raise _not_followed(model, "`make_predict_function`", "is overridden")
    if not overrides(model, "predict"):
        return Inputs(x, batch_size, steps)
    given = {"batch_size": batch_size, "steps": steps}
    options: dict[str, Any] = {k: v for k, v in given.items() if v is not None}
    if "verbose" in _parameters(model.predict):
        options["verbose"] = 0
    received: list[inspect.BoundArguments] = []
    marker = object()

    def take_down(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        received.append(inspect.signature(original).bind(model, *args, **kwargs))
        return marker

    def stop(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        raise _CallsItself

    try:
        with _replaced(model, "predict", take_down), _replaced(model, "__call__", stop):
            returned = model.predict(x, **options)
    except _CallsItself:
        raise _not_followed(model, "`predict`", "calls the model itself") from None
    except Exception as error:
        if not received:
            raise
        # The marker is nothing that outputs are computed of.
        reason = f"does more than prepare its inputs ({error})"
        raise _not_followed(model, "`predict`", reason) from error
    if returned is not marker or len(received) != 1:
        raise _not_followed(model, "`predict`", "does more than prepare its inputs")
    arguments = received[0].arguments
    return Inputs(
        arguments.get("x"), arguments.get("batch_size"), arguments.get("steps")
    )


def hands_on(model: Any, x: Any) -> bool:
    """Return whether a `__call__` of the model's own leaves `x` to Keras as it is."""
    if not overrides(model, "__call__"):
        return True
    marker = object()
    received: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def take_down(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        received.append((args, kwargs))
        return marker

    with _replaced(model, "__call__", take_down):
        returned = model(x, training=False)
    if returned is not marker or len(received) != 1:
        return False
    args, kwargs = received[0]
    same = len(args) == 1 and args[0] is x
    return same and kwargs in ({}, {"training": False})


@contextmanager
def _replaced(model: Any, name: str, replacement: Callable[..., Any]) -> Iterator[None]:
    """Replace the method of Keras that `super()` finds, for this model and thread."""
    owner = next(
        base for base in type(model).__mro__ if name in vars(base) and _is_keras(base)
    )
    original = vars(owner)[name]
    thread = threading.get_ident()

    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self is model and threading.get_ident() == thread:
            return replacement(original, *args, **kwargs)
        return original(self, *args, **kwargs)

    with _lock:
        setattr(owner, name, method)
        try:
            yield
        finally:
            setattr(owner, name, original)


def _owner(kind: type, name: str) -> type:
    return next(base for base in kind.__mro__ if name in vars(base))


def _is_keras(kind: type) -> bool:
    return kind.__module__.partition(".")[0] == keras.__name__


def _parameters(function: Callable[..., Any]) -> set[str]:
    parameters = inspect.signature(function).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return {*parameters, "verbose"}
    return set(parameters)


def _not_followed(model: Any, method: str, reason: str) -> ValueError:
    return ValueError(
        "Argument `model` must have a `predict` that prepares its inputs and leaves "
        "the rest to Keras. Sample a model that has Keras's own, such as "
        "`keras.Model(model.inputs, model.outputs)`, on inputs that are prepared. "
        f"Received: model={model.name!r} of class {type(model).__name__}, whose "
        f"{method} {reason}"
    )
