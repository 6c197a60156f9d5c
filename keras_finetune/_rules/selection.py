"""Variables that are selected by an expression or a function."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any

from keras_finetune._engine import keras
from keras_finetune._engine.structure import variable_path


def selector(select: Any, expected: str) -> Callable[[Any], bool]:
    """Return the test that an argument `select` stands for, or raise naming it.

    Args:
        select: A regular expression, which is searched for in the path of a variable,
            or a callable that takes a variable.
        expected: What the argument may be, in words.
    """
    if isinstance(select, str):
        try:
            pattern = re.compile(select)
        except re.error as error:
            raise ValueError(
                f"Argument `select` must be {expected}. "
                f"Received: select={select!r} ({error})"
            ) from None
        return functools.partial(_matches, pattern)
    if isinstance(select, keras.layers.Layer):
        raise TypeError(
            f"Argument `select` must be {expected}. For the variables of a layer, "
            f"select their paths: {select.name + '/'!r}. Received: select={select!r}"
        )
    if callable(select):
        function: Callable[[Any], bool] = select
        return function
    raise TypeError(
        f"Argument `select` must be {expected}. Received: select={select!r}"
    )


def _matches(pattern: re.Pattern[str], variable: Any) -> bool:
    return pattern.search(variable_path(variable)) is not None
