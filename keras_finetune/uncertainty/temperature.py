"""Temperature scaling, for single predictions and for Monte Carlo samples."""

from __future__ import annotations

from typing import Any

import numpy as np

from keras_finetune import _checks
from keras_finetune.uncertainty import _search
from keras_finetune.uncertainty._arrays import labels, numbers
from keras_finetune.uncertainty._entropy import log_softmax, logsumexp

# The search runs over the logarithm of the temperature, from e^-5 to e^5.
_RANGE = 5.0


def fit_temperature(y: Any, logits: Any) -> float:
    """Find the temperature that makes held-out labels most likely.

    It minimises the negative log-likelihood of `(1/T) sum_t softmax(z_t / theta)`:
    every sample is divided by `theta`, then they are averaged. Without samples this
    is the method of Guo et al. Of several minima, which only samples may have, it is
    the one downhill from 1.

    Args:
        y: Labels of held-out inputs, shape `(rows,)`, or one-hot rows.
        logits: Scores before the softmax, shape `(rows, classes)`, or
            `(samples, rows, classes)` such as the `samples` of an `MCPrediction`. Of
            probabilities, their logarithms do as well.

    Returns:
        The temperature, between 0.0067 and 148. Above 1 it makes less certain.

    Raises:
        TypeError: If an argument is not made of numbers.
        ValueError: If shapes or ranges do not fit.

    Example:

    >>> round(fit_temperature([0, 0, 0, 1], [[3.0, 0.0]] * 4), 3)
    2.731

    References:

    - [On Calibration of Modern Neural Networks](https://arxiv.org/abs/1706.04599)
      (Guo et al., 2017)
    - [Well-calibrated Model Uncertainty with Temperature Scaling for Dropout
      Variational Inference](https://arxiv.org/abs/1909.13550) (Laves et al., 2019)
    """
    z = _scores(logits)
    y = labels("y", y, z.shape[1:-1], z.shape[-1])

    def loss(log_temperature: float) -> float:
        logs = _log_mean(z, float(np.exp(log_temperature)))
        return -float(np.take_along_axis(logs, y[:, np.newaxis], axis=-1).mean())

    return float(np.exp(_search.minimum(loss, 0.0, -_RANGE, _RANGE)))


def apply_temperature(logits: Any, temperature: float) -> np.ndarray:
    """Return the mean probabilities at a temperature.

    `(1/T) sum_t softmax(z_t / temperature)`.

    Args:
        logits: Scores before the softmax, shape `(rows, classes)` or
            `(samples, rows, classes)`.
        temperature: A positive number, such as `fit_temperature` gives.

    Returns:
        Probabilities, shape `(rows, classes)`.

    Raises:
        TypeError: If an argument is not made of numbers.
        ValueError: If shapes do not fit, or `temperature` is not positive.

    Example:

    >>> apply_temperature([[2.0, 0.0]], temperature=2.0).round(3)
    array([[0.731, 0.269]])

    References:

    - [On Calibration of Modern Neural Networks](https://arxiv.org/abs/1706.04599)
      (Guo et al., 2017)
    """
    z = _scores(logits)
    theta = _checks.number("temperature", temperature, minimum=0, exclusive=True)
    return np.exp(_log_mean(z, theta))


def _log_mean(z: np.ndarray, temperature: float) -> np.ndarray:
    return logsumexp(log_softmax(z / temperature)) - np.log(len(z))


def _scores(value: Any) -> np.ndarray:
    z = numbers("logits", value)
    if z.ndim == 2:
        z = z[np.newaxis]
    if z.ndim != 3 or z.size == 0:
        raise ValueError(
            "Argument `logits` must have the shape (rows, classes) or "
            f"(samples, rows, classes). Received: logits of shape {z.shape}"
        )
    return z
