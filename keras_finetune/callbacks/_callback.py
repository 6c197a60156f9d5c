"""What our callbacks share: arguments as configuration, a `repr`, and safe copies."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from keras_finetune._engine import fit, keras, session
from keras_finetune._groups.layer_groups import LayerGroups

Kind = TypeVar("Kind", bound="FineTuningCallback")


class FineTuningCallback(keras.callbacks.Callback):
    """A callback whose arguments are attributes, and that can be copied at any time.

    What belongs to a running `fit` is in `_run`; copies and pickles leave it out, as
    they do the model.
    """

    # Whether other callbacks take their groups from this one.
    gives_groups = True
    # How the keys begin that it adds to the logs.
    adds: tuple[str, ...] = ()

    _run: Any = None

    def set_model(self, model: Any) -> None:
        super().set_model(model)
        try:
            self._prepare(model)
        except BaseException:
            session.abandon(model)  # what callbacks before this one have opened
            raise

    def _prepare(self, model: Any) -> None:
        """Get ready for a `fit`, before any callback begins."""

    def get_config(self) -> dict[str, Any]:
        """Return the arguments, made of what Keras can serialize.

        Layers in `groups` are given by their names.

        Returns:
            A dictionary for `from_config`.
        """
        return {name: _plain(getattr(self, name)) for name in _arguments(type(self))}

    @classmethod
    def from_config(cls: type[Kind], config: Mapping[str, Any]) -> Kind:
        """Make a callback from what `get_config` has returned.

        Args:
            config: The arguments, functions as Keras serializes them.
        """
        return cls(**{name: _restored(value) for name, value in config.items()})

    def with_arguments(self: Kind, **changes: Any) -> Kind:
        """Return a new callback with the same arguments, but for some.

        Args:
            changes: The arguments that differ.
        """
        arguments = {name: getattr(self, name) for name in _arguments(type(self))}
        return type(self)(**{**arguments, **changes})

    def refuse_another(self, neighbours: Sequence[Any]) -> None:
        """Raise if there is another callback of this kind in the same `fit`."""
        others = [c for c in neighbours if isinstance(c, type(self)) and c is not self]
        if others:
            raise ValueError(
                f"There can be one `{type(self).__name__}` in a `fit`. "
                f"Received: callbacks={[*others, self]}"
            )

    def __repr__(self) -> str:
        given = {
            name: getattr(self, name)
            for name, default in _arguments(type(self)).items()
            if not _same(getattr(self, name), default)
        }
        arguments = ", ".join(f"{name}={value!r}" for name, value in given.items())
        return f"{type(self).__name__}({arguments})"

    def __getstate__(self) -> dict[str, Any]:
        state = dict(vars(self))
        state.pop("_run", None)
        for name in ("model", "_model", "_params", "params"):
            if name in state:
                state[name] = None
        return state


def check_callbacks(callbacks: Any) -> list[Any]:
    """Return callbacks, given as `fit` takes them, in one list, or raise."""
    known = fit.flat(callbacks)
    if not all(isinstance(c, keras.callbacks.Callback) for c in known):
        raise TypeError(
            "Argument `callbacks` must be a list of callbacks. "
            f"Received: callbacks={callbacks!r} (of type {type(callbacks).__name__})"
        )
    return known


def _arguments(kind: type[Any]) -> dict[str, Any]:
    parameters = list(inspect.signature(kind.__init__).parameters.values())[1:]
    return {p.name: p.default for p in parameters}


def _same(value: Any, default: Any) -> bool:
    return type(value) is type(default) and value == default


def _plain(value: Any) -> Any:
    if isinstance(value, LayerGroups):
        return [[layer.name for layer in group.layers] for group in value]
    if isinstance(value, keras.layers.Layer):
        return value.name
    if isinstance(value, Mapping):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    return value


def _restored(value: Any) -> Any:
    if isinstance(value, Mapping) and {"class_name", "config"} <= value.keys():
        return keras.saving.deserialize_keras_object(value)
    return value
