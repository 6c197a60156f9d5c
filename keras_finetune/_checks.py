"""Checks of arguments: the right type, the right range, and a message that helps."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Hashable, Iterable
from numbers import Integral, Real
from typing import Any


def integer(name: str, value: Any, minimum: int | None = None) -> int:
    """Return `value` as an `int`, or raise naming the argument."""
    expected = "an integer" if minimum is None else f"an integer >= {minimum}"
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(_message(name, expected, value))
    if minimum is not None and value < minimum:
        raise ValueError(_message(name, expected, value))
    return int(value)


def number(
    name: str,
    value: Any,
    minimum: float | None = None,
    *,
    exclusive: bool = False,
) -> float:
    """Return `value` as a finite `float`, or raise naming the argument."""
    expected = "a finite number"
    if minimum is not None:
        expected += f" {'>' if exclusive else '>='} {minimum:g}"
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(_message(name, expected, value))
    result = float(value)
    finite = result - result == 0.0
    in_range = minimum is None or (result > minimum if exclusive else result >= minimum)
    if not (finite and in_range):
        raise ValueError(_message(name, expected, value))
    return result


def numbers(
    name: str,
    values: Iterable[Any],
    minimum: float | None = None,
    *,
    exclusive: bool = False,
) -> list[float]:
    """Return `values` as finite floats, or raise naming the one that is none."""
    return [
        number(f"{name}[{i}]", value, minimum, exclusive=exclusive)
        for i, value in enumerate(values)
    ]


def boolean(name: str, value: Any) -> bool:
    """Return `value` if it is a bool, or raise naming the argument."""
    if not isinstance(value, bool):
        raise TypeError(_message(name, "True or False", value))
    return value


def choice(name: str, value: Any, options: Iterable[Any]) -> Any:
    """Return `value` if it is one of `options`, or raise naming the argument."""
    options = tuple(options)
    # By type too: 1 equals True, and an array answers an array.
    alike = (o for o in options if isinstance(value, bool) is isinstance(o, bool))
    if not any(isinstance(value, Hashable) and value == option for option in alike):
        expected = "one of " + ", ".join(repr(option) for option in options)
        raise ValueError(_message(name, expected, value))
    return value


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """Return a sentence with the names that are nearest to one, empty if none is."""
    near = difflib.get_close_matches(name, list(names), n=3)
    return f" Did you mean {' or '.join(map(repr, near))}?" if near else ""


def size(name: str, value: Any) -> int:
    """Return a number of bytes, given as such or in words (`"4GB"`), or raise."""
    expected = "a positive number of bytes, or words such as '4GB' or '500 MB'"
    if isinstance(value, str):
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)i?b\s*", value.lower())
        if match is None:
            raise ValueError(_message(name, expected, value))
        found = int(float(match[1]) * 1024 ** " kmgt".index(match[2] or " "))
    elif isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(_message(name, expected, value))
    else:
        found = int(value)
    if found <= 0:
        raise ValueError(_message(name, expected, value))
    return found


def path(name: str, value: Any) -> str:
    """Return a path as a string, or raise naming the argument."""
    try:
        found = os.fspath(value)
    except TypeError:
        found = None
    if not isinstance(found, str):
        raise TypeError(_message(name, "a path", value))
    if not found:
        raise ValueError(_message(name, "a path", value))
    return found


def folder(name: str, value: Any) -> str:
    """Return the path of a folder, which may be made, or raise naming the argument."""
    found = path(name, value)
    if os.path.exists(found) and not os.path.isdir(found):
        raise ValueError(_message(name, "a folder", value) + ", which is a file")
    return found


def _message(name: str, expected: str, value: Any) -> str:
    return f"Argument `{name}` must be {expected}. Received: {name}={value!r}"
