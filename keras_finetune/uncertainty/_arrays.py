"""Checks of arrays and levels that users pass to the measures."""

from __future__ import annotations

from typing import Any

import numpy as np

from keras_finetune import _checks


def level(value: Any) -> float:
    """Return the argument `level`, a share strictly between 0 and 1."""
    result = _checks.number("level", value)
    if not 0 < result < 1:
        raise ValueError(
            f"Argument `level` must be a number in (0, 1). Received: level={value!r}"
        )
    return result


def numbers(name: str, value: Any) -> np.ndarray:
    """Return `value` as a float64 array without NaN, or raise naming the argument."""
    try:
        array = np.asarray(value)
    except Exception:
        array = np.asarray(None)
    if array.dtype.kind not in "biuf":
        # NumPy does not count `bfloat16` among the numbers, but can convert it.
        try:
            array = array.astype("float64") if array.ndim else np.asarray(None)
        except (TypeError, ValueError):
            array = np.asarray(None)
    if array.dtype.kind not in "biuf":
        raise TypeError(
            f"Argument `{name}` must be an array of numbers. Received: {name}={value!r}"
        )
    array = array.astype("float64")
    if np.isnan(array).any():
        raise ValueError(
            f"Argument `{name}` must hold no NaN. "
            f"Received: {name} of shape {array.shape} with {np.isnan(array).sum()} NaN"
        )
    return array


def finite(name: str, value: Any) -> np.ndarray:
    """Return `value` as a float64 array of at least one row, all numbers finite."""
    array = numbers(name, value)
    if array.ndim == 0 or array.size == 0 or not np.isfinite(array).all():
        infinite = int(np.isinf(array).sum())
        raise ValueError(
            f"Argument `{name}` must hold finite numbers, at least one row of them. "
            f"Received: {name} of shape {array.shape} with {infinite} infinite"
        )
    return array


def samples(name: str, value: Any) -> np.ndarray:
    """Return `value` as numbers of the shape (samples, rows, ...)."""
    array = numbers(name, value)
    if array.ndim < 2 or array.size == 0:
        raise ValueError(
            f"Argument `{name}` must have the shape (samples, rows, ...). "
            f"Received: {name} of shape {array.shape}"
        )
    return array


def probabilities(name: str, value: Any) -> np.ndarray:
    """Return `value` as probabilities, classes on the last axis, at least two axes.

    One probability a row stands for the second of two classes.
    """
    array = numbers(name, value)
    if array.ndim == 1:
        array = array[:, np.newaxis]
    if array.ndim < 2 or array.size == 0 or array.min() < 0 or array.max() > 1 + 1e-6:
        raise ValueError(
            f"Argument `{name}` must hold probabilities, one row for each input. "
            f"Received: {name} of shape {array.shape}"
        )
    if array.shape[-1] == 1:
        return np.concatenate([1.0 - array, array], axis=-1)
    sums = array.sum(axis=-1)
    if np.abs(sums - 1).max() > 1e-2:
        raise ValueError(
            f"Argument `{name}` must sum to 1 over the last axis. "
            f"Received: sums between {sums.min():.3g} and {sums.max():.3g}"
        )
    return array


def labels(name: str, value: Any, shape: tuple[int, ...], classes: int) -> np.ndarray:
    """Return `value` as integer labels of `shape`, from one-hot rows if given those."""
    array = numbers(name, value)
    if array.shape == (*shape, classes) and classes > 1 and _is_one_hot(array):
        array = array.argmax(axis=-1)
    elif array.shape == (*shape, 1):
        array = array[..., 0]
    wrong = array.shape != shape or bool((array != np.floor(array)).any())
    if wrong or (array.size and (array.min() < 0 or array.max() >= classes)):
        raise ValueError(
            f"Argument `{name}` must hold labels from 0 to {classes - 1} of shape "
            f"{shape}, or one-hot rows. Received: {name} of shape {array.shape}"
        )
    return array.astype("int64")


def targets(name: str, value: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Return `value` as numbers of `shape`, where a last axis of one may be left out.

    Nothing else is reshaped and nothing is broadcast: `(rows,)` against `(rows, 1)`
    would silently give `(rows, rows)`.
    """
    array = numbers(name, value)
    if array.shape == (*shape, 1) or (*array.shape, 1) == shape:
        array = array.reshape(shape)
    if array.shape != shape:
        raise ValueError(
            f"Argument `{name}` must have the shape {shape} of the predictions. "
            f"Received: {name} of shape {array.shape}"
        )
    return array


def _is_one_hot(array: np.ndarray) -> bool:
    is_zero_or_one = (array == 0) | (array == 1)
    return bool(is_zero_or_one.all() and (array.sum(axis=-1) == 1).all())
