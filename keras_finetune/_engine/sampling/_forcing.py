"""Layers that run as in training, whoever calls them and with whatever argument.

It is done on the instance and not through `model(x, training=True)`, which would also
run every `BatchNormalization` in training mode and move its statistics.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any

from keras_finetune._engine.graphs.silence import is_silent
from keras_finetune._engine.patches import Patch


def forced(layers: Iterable[Any], named: Iterable[Any] = ()) -> list[Patch]:
    """Return the patches under which `layers` run as in training.

    Those in `named` do so inside a silenced block too.
    """
    always = {id(layer) for layer in named}
    return [
        Patch(layer, "call", _as_in_training(layer.call, id(layer) in always))
        for layer in layers
    ]


def _as_in_training(call: Callable[..., Any], always: bool) -> Callable[..., Any]:
    signature = inspect.signature(call)
    names = list(signature.parameters)
    position = names.index("training") if "training" in names else None

    def call_in_training(*args: Any, **kwargs: Any) -> Any:
        if position is None or (is_silent() and not always):
            return call(*args, **kwargs)
        if len(args) > position:
            args = (*args[:position], True, *args[position + 1 :])
        else:
            kwargs = {**kwargs, "training": True}
        return call(*args, **kwargs)

    # Keras 2 looks at the signature to see whether a cell takes `training`.
    call_in_training.__signature__ = signature  # type: ignore[attr-defined]
    return call_in_training
