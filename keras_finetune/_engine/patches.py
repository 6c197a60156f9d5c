"""Attributes that instances carry only while a block runs."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

_ABSENT = object()


class Patch(NamedTuple):
    """`owner.name` is `value` for the time of a block."""

    owner: Any
    name: str
    value: Any


@contextmanager
def patched(patches: Iterable[Patch]) -> Iterator[None]:
    """Put patches on their owners, and take them off again, come what may.

    They go straight to `__dict__`: the trackers of Keras, TensorFlow and PyTorch must
    not see them, or they would be saved with the model.
    """
    before: list[tuple[dict[str, Any], str, Any]] = []
    try:
        for owner, name, value in patches:
            attributes = owner.__dict__
            before.append((attributes, name, attributes.get(name, _ABSENT)))
            attributes[name] = value
        yield
    finally:
        for attributes, name, value in reversed(before):
            if value is _ABSENT:
                attributes.pop(name, None)
            else:
                attributes[name] = value


class Snapshot:
    """What optimizers are made of, to be put back.

    Args:
        optimizers: An optimizer and those inside it.
        set_variables: Gives an optimizer its list of variables, which Keras tracks.
        others: Dictionaries that are put back with them.
    """

    def __init__(
        self,
        optimizers: Sequence[Any],
        set_variables: Callable[[Any, list[Any]], None],
        *others: dict[Any, Any],
    ) -> None:
        self._set_variables = set_variables
        dictionaries: list[dict[Any, Any]] = [vars(one) for one in optimizers]
        self._before = [(d, _copy(d)) for d in (*dictionaries, *others)]
        # A tracker's own dictionaries stay what they are.
        self._tracked = [
            (value, dict(value))
            for d in dictionaries
            for value in d.values()
            if isinstance(value, dict) and type(value) is not dict
        ]
        self._variables = [
            (optimizer, list(optimizer._variables))
            for optimizer in optimizers
            if "_variables" in vars(optimizer)
        ]

    def put_back(self) -> None:
        """Let all of them have what they had."""
        for dictionary, values in self._before:
            dictionary.clear()
            dictionary.update(values)
        for tracked, values in self._tracked:
            if tracked.keys() != values.keys():
                tracked.clear()
                tracked.update(values)
        for optimizer, variables in self._variables:
            self._set_variables(optimizer, variables)


@contextmanager
def unchanged_if_it_fails(snapshot: Snapshot) -> Iterator[None]:
    """Leave optimizers as they were if a block fails, also by Ctrl-C."""
    try:
        yield
    except BaseException:
        snapshot.put_back()
        raise


def _copy(dictionary: dict[Any, Any]) -> dict[Any, Any]:
    return {
        key: copy.copy(value) if type(value) in (list, dict) else value
        for key, value in dictionary.items()
    }
