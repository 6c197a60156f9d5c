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


@contextmanager
def all_or_nothing(*dictionaries: dict[Any, Any]) -> Iterator[None]:
    """Should a block fail, let dictionaries have what they had, and those in them."""
    before = [
        {
            key: copy.copy(value) if type(value) in (list, dict) else value
            for key, value in dictionary.items()
        }
        for dictionary in dictionaries
    ]
    try:
        yield
    except BaseException:
        for dictionary, values in zip(dictionaries, before, strict=True):
            dictionary.clear()
            dictionary.update(values)
        raise


@contextmanager
def unchanged_if_it_fails(
    optimizers: Sequence[Any],
    aside: dict[Any, Any],
    set_variables: Callable[[Any, list[Any]], None],
) -> Iterator[None]:
    """Leave optimizers as they were if a block fails, also by Ctrl-C.

    Args:
        optimizers: An optimizer and those inside it.
        aside: Slots that were set aside, left as they were too.
        set_variables: Gives an optimizer its list of variables, which Keras tracks.
    """
    attributes = [vars(optimizer) for optimizer in optimizers]
    before = [
        (optimizer, list(optimizer._variables))
        for optimizer in optimizers
        if "_variables" in vars(optimizer)
    ]
    try:
        with all_or_nothing(aside, *attributes):
            yield
    except BaseException:
        for optimizer, variables in before:
            set_variables(optimizer, variables)
        raise
