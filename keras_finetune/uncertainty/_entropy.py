"""Arithmetic on probabilities that holds at 0 and 1. All in float64, all in nats."""

from __future__ import annotations

import numpy as np


def xlogx(p: np.ndarray) -> np.ndarray:
    """`p log p`, with the limit 0 at 0 (and not `p log(p + eps)`)."""
    return p * np.log(np.where(p > 0, p, 1.0))


def entropy(p: np.ndarray) -> np.ndarray:
    """`-sum_c p_c log p_c` over the last axis."""
    return -xlogx(p).sum(axis=-1)


def binary_entropy(p: np.ndarray) -> np.ndarray:
    """Entropy of a coin that shows heads with probability `p`."""
    return -(xlogx(p) + xlogx(1.0 - p))


def log_softmax(z: np.ndarray) -> np.ndarray:
    """`z - log sum exp z` over the last axis."""
    shifted = z - z.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def softplus(z: np.ndarray) -> np.ndarray:
    """`log(1 + exp z)`, which is `-log sigmoid(-z)`."""
    return np.logaddexp(0.0, z)


def sigmoid(z: np.ndarray) -> np.ndarray:
    """`1 / (1 + exp(-z))`."""
    return np.exp(-softplus(-z))


def logsumexp(x: np.ndarray, axis: int = 0) -> np.ndarray:
    """`log sum exp x` over an axis; minus infinity where all of it is."""
    top = x.max(axis=axis, keepdims=True)
    top = np.where(np.isfinite(top), top, 0.0)
    with np.errstate(divide="ignore"):
        return np.log(np.exp(x - top).sum(axis=axis)) + np.squeeze(top, axis=axis)
