"""Which factor on its learning rate each variable of a model gets."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

from keras_finetune import _checks
from keras_finetune._engine.structure import (
    all_layers,
    variable_key,
    variable_path,
    weights,
)
from keras_finetune._groups.layer_groups import LayerGroups
from keras_finetune._schedule import epochs as _epochs


def by_variable(
    model: Any, groups: LayerGroups, multipliers: Any
) -> dict[Hashable, float]:
    """Return the multiplier of every weight of a model, by `variable_key`.

    Args:
        model: A built model.
        groups: Its groups of layers.
        multipliers: One for each group, or as `check_multipliers` returned them.
    """
    if isinstance(multipliers, Mapping):
        chosen = _by_name(model, groups, multipliers)
    elif callable(multipliers):
        chosen = {variable_key(v): _called(multipliers, v) for v in weights(model)}
    else:
        if len(multipliers) != len(groups):
            raise ValueError(
                f"Argument `multipliers` must have one factor for each of the "
                f"{len(groups)} groups {groups.names}. "
                f"Received: multipliers={multipliers!r}"
            )
        chosen = {
            variable_key(v): multiplier
            for group, multiplier in zip(groups, multipliers, strict=True)
            for v in group.variables
        }
    return {variable_key(v): chosen.get(variable_key(v), 1.0) for v in weights(model)}


def powers(decay: float, n: int) -> list[float]:
    """Return the multipliers of `n` groups that go down by `decay`."""
    try:
        return _epochs.powers(decay, n)
    except OverflowError:
        raise ValueError(
            f"Argument `decay` must have finite powers up to {n - 1}, for {n} "
            f"groups. Received: decay={decay!r}"
        ) from None


def _by_name(
    model: Any, groups: LayerGroups, given: Mapping[str, float]
) -> dict[Hashable, float]:
    names: dict[Hashable, set[str]] = {}
    for group in groups:
        for variable in group.variables:
            names.setdefault(variable_key(variable), set()).add(group.name)
    for layer in all_layers(model):
        for variable in weights(layer):
            names.setdefault(variable_key(variable), set()).add(layer.name)
    chosen: dict[Hashable, float] = {}
    used: set[str] = set()
    for variable in weights(model):
        key, path = variable_key(variable), variable_path(variable)
        matches = [
            name for name in given if name in names[key] or re.search(name, path)
        ]
        used.update(matches)
        if matches:
            chosen[key] = given[max(matches, key=len)]
    unused = [name for name in given if name not in used]
    if unused:
        known = sorted({name for some in names.values() for name in some})
        raise ValueError(
            "Argument `multipliers` must have names of layers or groups, or regular "
            f"expressions on paths of variables, as keys. Received: {unused}, which "
            f"match nothing among the groups {groups.names} and the variables of "
            f"{model.name!r}.{_checks.did_you_mean(unused[0], known)}"
        )
    return chosen


def _called(multipliers: Callable[[Any], Any], variable: Any) -> float:
    name = f"multipliers({variable_path(variable)})"
    return _checks.number(name, multipliers(variable), 0.0)


# --- arguments -----------------------------------------------------------------------


def check_multipliers(
    value: Any,
) -> list[float] | dict[str, float] | Callable[[Any], float] | None:
    """Return `multipliers` with floats in it, or raise naming the argument."""
    if value is None:
        return None
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise TypeError(
                    "Argument `multipliers` must have strings as keys. "
                    f"Received: {key!r}"
                )
            try:
                re.compile(key)
            except re.error as error:
                raise ValueError(
                    "Argument `multipliers` must have names or regular expressions as "
                    f"keys. Received: {key!r} ({error})"
                ) from None
        return {
            key: _checks.number(f"multipliers[{key!r}]", factor, 0.0)
            for key, factor in value.items()
        }
    if isinstance(value, Sequence) and not isinstance(value, str):
        return _checks.numbers("multipliers", value, 0.0)
    if callable(value):
        function: Callable[[Any], float] = value
        return function
    raise TypeError(
        "Argument `multipliers` must be a list, a dictionary, a callable or `None`. "
        f"Received: multipliers={value!r}"
    )


def check_decay(value: Any) -> float:
    """Return `decay` as a float, or raise naming the argument."""
    decay = _checks.number("decay", value)
    if 0.0 < decay < 1.0:
        raise ValueError(
            "Argument `decay` must be >= 1: the learning rate is divided by it from "
            f"group to group, so that {decay:g} would train the bottom fastest. For a "
            f"`layer_decay` of {decay:g}, as timm and BEiT call it, write "
            f"`decay=1 / {decay:g}`. Received: decay={value!r}"
        )
    return _checks.number("decay", value, 1.0)


def check_bounds(value: Any) -> tuple[float, float] | None:
    """Return `bounds` as a pair of floats, or raise naming the argument."""
    if value is None:
        return None
    pair = value
    if isinstance(value, slice) and value.step is None and value.start is not None:
        pair = (value.start, value.stop)  # as fastai writes it
    if not isinstance(pair, (tuple, list)) or len(pair) != 2:
        raise TypeError(
            "Argument `bounds` must be a pair `(low, high)`. "
            f"Received: bounds={value!r}"
        )
    low, high = _checks.numbers("bounds", pair, 0.0, exclusive=True)
    if low > high:
        raise ValueError(
            "Argument `bounds` must be `(low, high)` with low <= high. "
            f"Received: bounds={value!r}"
        )
    return low, high
