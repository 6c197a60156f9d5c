"""The way back from standardised targets to their own unit."""

from __future__ import annotations

from typing import Any

import numpy as np

from keras_finetune.uncertainty import _arrays


def affine(
    scale: Any, offset: Any, shape: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Return scale and offset for predictions of `shape`, a number or one a unit.

    Args:
        scale: Numbers, or a fitted scaler with `inverse_transform`.
        offset: Numbers, ignored beside a scaler.
        shape: Shape of the predictions, units on the last axis.
    """
    units = shape[-1] if len(shape) > 1 else 1
    if hasattr(scale, "inverse_transform"):
        scale, offset = _undone(scale, units)
    scale = _per_unit("scale", scale, units)
    if not scale.all():
        raise ValueError(f"Argument `scale` must not be 0. Received: scale={scale}")
    return scale, _per_unit("offset", offset, units)


def _per_unit(name: str, value: Any, units: int) -> np.ndarray:
    # Any other shape would broadcast, one number a row to all rows by all rows.
    array = _arrays.numbers(name, value)
    fits = array.size == 1 or array.shape in ((units,), (1, units))
    if not fits or np.isinf(array).any():
        raise ValueError(
            f"Argument `{name}` must be a finite number, or one for each of {units} "
            f"output unit(s). Received: {name} of shape {array.shape}"
        )
    return array.reshape(() if array.size == 1 else (units,))


def _undone(scaler: Any, units: int) -> tuple[np.ndarray, np.ndarray]:
    """Return scale and offset of what a fitted scaler undoes."""
    points = np.repeat([[0.0], [1.0], [2.0]], units, axis=1)
    try:
        restored = scaler.inverse_transform(points)
        zero, one, two = _arrays.targets("scale", restored, points.shape)
    except Exception as error:
        raise ValueError(
            f"Argument `scale` must be a fitted scaler of {units} target column(s). "
            f"Received: scale={scaler!r} ({error})"
        ) from error
    if not np.allclose(two - one, one - zero, rtol=1e-6):
        raise ValueError(
            "Argument `scale` must undo its transform by `scale * output + offset`. "
            f"Received: scale={scaler!r}, which is not affine"
        )
    return one - zero, zero
