"""Whether the compiled steps of `evaluate` and `predict` still say what they read.

They cost a trace, so they are made again only where something that they have read has
changed: penalties of weights that train or are frozen now (Keras 3), or flags that a
layer of the user's own looks at.
"""

from __future__ import annotations

import dis
import functools
from collections.abc import Hashable, Iterator
from types import CodeType
from typing import Any

from keras_finetune._engine.active import lane
from keras_finetune._engine.structure import all_layers

_FLAGS = frozenset(
    f"{prefix}{word}"
    for prefix in ("", "_", "non_", "_non_")
    for word in ("trainable", "trainable_variables", "trainable_weights")
)
# What runs when a layer is made, not when it is called.
_MAKING = ("__init__", "build", "get_config", "from_config")


class Evaluation:
    """The compiled steps of `evaluate` and `predict` of one model."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self._read = self._reads()

    def renew_if_stale(self) -> None:
        """Let Keras make them again if what they have read has changed."""
        reads = self._reads()
        if reads != self._read:
            lane.renew_evaluation(self.model)
            self._read = reads

    def _reads(self) -> tuple[list[int], list[bool]]:
        layers = all_layers(self.model)
        looks = any(looks_at_flags(layer.__class__) for layer in layers)
        variables = lane.trained(self.model) if looks else []
        variables += lane.read_by_evaluation(self.model)
        flags = [bool(layer.trainable) for layer in layers] if looks else []
        return [id(v) for v in variables], flags


def looks_at_flags(kind: Hashable) -> bool:
    """Return whether the code of a layer's class, less Keras's own, reads flags."""
    return not _FLAGS.isdisjoint(names_loaded(kind, ("keras", "tf_keras"), _MAKING))


@functools.cache
def names_loaded(
    kind: Hashable, known: tuple[str, ...], without: tuple[str, ...]
) -> frozenset[str]:
    """Return the names that the code of a class reads.

    Args:
        kind: The class.
        known: Packages whose classes are left out.
        without: Methods that are left out.
    """
    bases: tuple[type[Any], ...] = getattr(kind, "__mro__", ())
    return frozenset(
        str(instruction.argval)
        for base in bases
        if base.__module__.partition(".")[0] not in ("builtins", *known)
        for name, function in vars(base).items()
        if name not in without
        for code in _codes(function)
        for instruction in dis.get_instructions(code)
        if instruction.opname.startswith("LOAD_")
    )


def _codes(function: Any) -> Iterator[CodeType]:
    """Return the code of a function, and of the functions in it."""
    for attribute in ("fget", "__func__", "__wrapped__"):
        function = getattr(function, attribute, None) or function
    todo = [getattr(function, "__code__", None)]
    while todo:
        code = todo.pop()
        if isinstance(code, CodeType):
            yield code
            todo += [part for part in code.co_consts if isinstance(part, CodeType)]
