"""Inputs: read batch by batch as `predict` reads them, and checked by name."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import numpy as np

from keras_finetune._engine import keras
from keras_finetune._engine.sampling import _predicting
from keras_finetune._engine.sampling._lane import lane

# As in Keras.
_BATCH_SIZE = 32


def batches(
    model: Any, x: Any, batch_size: int | None, steps: int | None
) -> tuple[Generator[Any, None, None], int | None]:
    """Return the inputs, batch by batch, as `Model.predict` reads them, and how many.

    Raises:
        ValueError: If `predict` does not take `x`, or cannot be followed.
    """
    _check_not_pairs(model, x)
    try:
        read = _predicting.prepared(model, x, batch_size, steps)
        size = read.batch_size or _BATCH_SIZE
        if _is_arrays(read.x):
            return _slices(read.x, size, read.steps)
        return lane.batches(model, read.x, size, read.steps)
    except (TypeError, ValueError) as error:
        if str(error).startswith("Argument `"):
            raise
        shape = getattr(x, "shape", None)
        received = f"x={x!r}" if shape is None else f"x of shape {tuple(shape)}"
        raise ValueError(
            "Argument `x` must be data that `Model.predict` takes. "
            f"Received: {received} ({error})"
        ) from error


def check(graph: Any | None, x: Any) -> list[Any]:
    """Return a batch of inputs as a flat list, or raise where it does not fit.

    Args:
        graph: The graph of the model, or `None` where its `call` is the user's own.
        x: The batch.
    """
    flat = lane.flatten(x)
    for part in flat:
        if not tuple(getattr(part, "shape", ())):
            raise ValueError(
                "Argument `x` must yield batches of arrays, the batch axis first; give "
                "a dataset this axis with `.batch()`. Received: a single "
                f"{type(part).__name__}"
            )
    if graph is None:
        return flat
    expected = list(graph.inputs)
    names = lane.input_names(graph)
    # A dict may hold more than the model reads.
    surplus = len(flat) > len(expected) and not isinstance(x, dict)
    if len(flat) < len(expected) or surplus:
        raise ValueError(
            "Argument `x` must hold one array for each input of the model: "
            f"{', '.join(names)}. Received: {len(flat)} array(s) of shape "
            f"{', '.join(str(tuple(part.shape)) for part in flat)}"
        )
    given = _in_order(x, names, flat)
    # Where the order is not known Keras itself checks.
    for name, symbolic, part in zip(names, expected, given, strict=False):
        if not _fits(tuple(part.shape), tuple(symbolic.shape)):
            raise ValueError(_message(name, symbolic.shape, part.shape))
    return flat


def _message(name: str, expected: Any, received: Any) -> str:
    wanted = ", ".join("any" if n is None else str(n) for n in expected[1:])
    return (
        f"Argument `x` must yield batches of shape (rows, {wanted}) for the input "
        f"{name!r} of the model; give a single input a batch axis with `x[None]`, "
        "and a dataset with `.batch()`. Received: a batch of shape "
        f"{tuple(received)}"
    )


def _in_order(x: Any, names: list[str], flat: list[Any]) -> list[Any]:
    """Return the arrays of a batch in the order of the inputs, or nothing.

    The order of a dict, or of dicts inside a list, is a matter of names.
    """
    if isinstance(x, dict):
        known = all(hasattr(x.get(name), "shape") for name in names)
        return [x[name] for name in names] if known else []
    inside = x if isinstance(x, (list, tuple)) else [x]
    return [] if any(isinstance(part, dict) for part in inside) else flat


def _fits(shape: tuple[Any, ...], expected: tuple[Any, ...]) -> bool:
    """Return whether Keras takes an array of `shape` where it expects another."""
    if len(shape) == len(expected) + 1 and shape[-1] == 1:
        shape = shape[:-1]
    elif len(shape) == len(expected) - 1 and expected[-1] == 1:
        shape = (*shape, 1)
    if len(shape) != len(expected):
        return False
    # The batch itself is the business of a model whose batch size is fixed.
    pairs = zip(shape[1:], expected[1:], strict=True)
    return all(n is None or m is None or n == m for n, m in pairs)


def _check_not_pairs(model: Any, x: Any) -> None:
    graph = lane.opened(model, own_call=True)
    if graph is None or not isinstance(x, tuple) or len(x) not in (2, 3):
        return
    if len(graph.inputs) == 1 and not _predicting.overrides(model, "predict"):
        shapes = ", ".join(str(tuple(getattr(part, "shape", ()))) for part in x)
        raise ValueError(
            "Argument `x` must be inputs alone, as for `Model.predict`, which takes "
            f"no targets: the model has one input. Received: a tuple of {len(x)} "
            f"arrays of shape {shapes}"
        )


def _is_arrays(x: Any) -> bool:
    """Return whether `x` is NumPy arrays of numbers, as many rows in each."""
    if not isinstance(x, (np.ndarray, list, tuple, dict)):
        return False
    flat = lane.flatten(x)
    plain = all(
        isinstance(part, np.ndarray) and part.ndim > 0 and part.dtype.kind in "biuf"
        for part in flat
    )
    return plain and len({len(part) for part in flat}) == 1 and len(flat[0]) > 0


def _slices(
    x: Any, batch_size: int, steps: int | None
) -> tuple[Generator[Any, None, None], int]:
    """Return what Keras's adapter for arrays gives, without the pipeline around it."""
    flat = lane.flatten(x)
    total = -(-len(flat[0]) // batch_size)
    if steps is not None:
        total = min(steps, total)
    floatx = keras.backend.floatx()

    def read() -> Generator[Any, None, None]:
        for start in range(0, total * batch_size, batch_size):
            parts = [part[start : start + batch_size] for part in flat]
            yield lane.pack(
                x,
                [p.astype(floatx) if p.dtype.kind == "f" else p for p in parts],
            )

    return read(), total
