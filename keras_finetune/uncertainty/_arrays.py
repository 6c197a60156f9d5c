"""Arrays that users pass to the measures, checked."""

from __future__ import annotations

from typing import Any

import numpy as np


def numbers(name: str, value: Any) -> np.ndarray:
    """`value` as a float64 array, or raise naming the argument."""
    try:
        array = np.asarray(value)
    except Exception:
        array = np.asarray(None)
    if array.dtype.kind not in "biuf":
        # `bfloat16` and its kin are no numbers to NumPy, but can be made some.
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


def probabilities(name: str, value: Any) -> np.ndarray:
    """`value` as probabilities, classes on the last axis, at least two axes.

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
    """`value` as integer labels of `shape`, from one-hot rows where it is those."""
    array = numbers(name, value)
    if array.shape == (*shape, classes) and classes > 1:
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
    """`value` as numbers of `shape`, where a last axis of one may be left out."""
    array = numbers(name, value)
    if array.shape != shape and array.shape in (shape[:-1], (*shape, 1)):
        array = array.reshape(shape)
    if array.shape != shape:
        raise ValueError(
            f"Argument `{name}` must have the shape {shape} of the predictions. "
            f"Received: {name} of shape {array.shape}"
        )
    return array
