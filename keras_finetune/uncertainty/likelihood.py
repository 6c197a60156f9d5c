"""Log-likelihoods of targets under Monte Carlo samples of a regression."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import _checks
from ._arrays import numbers, targets
from ._entropy import logsumexp


def gaussian_log_likelihood(y: Any, samples: Any, tau: float) -> np.ndarray:
    """Log-likelihood of targets under a mixture of equally wide Gaussians.

    For each row, with samples `f_t`, `t = 1..T`, of dimension `D`,

        logsumexp_t(-tau/2 |y - f_t|^2) - log T - D/2 log(2 pi) + D/2 log(tau),

    which is equation 8 of the paper in a form that neither overflows nor underflows.

    Args:
        y: Targets, shape `(rows, ...)`.
        samples: Predictions, shape `(samples, rows, ...)`, in the unit of `y`.
        tau: Precision of the observation noise: one over its variance, in the unit of
            `y`.

    Returns:
        One log-likelihood a row, in nats, shape `(rows,)`.

    Raises:
        TypeError: If an argument is not made of numbers.
        ValueError: If shapes do not match, or `tau` is not positive.

    Example:

    >>> float(gaussian_log_likelihood([0.0], [[0.0]], tau=2 * np.pi)[0])
    0.0

    References:

    - [Dropout as a Bayesian Approximation](https://arxiv.org/abs/1506.02142)
      (Gal & Ghahramani, 2016)
    """
    tau = _checks.number("tau", tau, minimum=0, exclusive=True)
    f = _samples("samples", samples)
    y = targets("y", y, f.shape[1:])
    dimension = y[0].size
    distance = ((y - f) ** 2).reshape(len(f), len(y), -1).sum(axis=-1)
    mixture = logsumexp(-tau / 2 * distance) - np.log(len(f))
    return mixture - dimension / 2 * (np.log(2 * np.pi) - np.log(tau))


def heteroscedastic_log_likelihood(y: Any, samples: Any, log_variance: Any) -> Any:
    """Log-likelihood under Gaussians whose width the model predicts as well.

    For each number `y`, with means `m_t` and logarithms of variances `s_t`,

        logsumexp_t(-exp(-s_t) (y - m_t)^2 / 2 - s_t / 2) - log T - log(2 pi) / 2.

    Args:
        y: Targets, shape `(rows, ...)`.
        samples: Predicted means, shape `(samples, rows, ...)`.
        log_variance: Predicted logarithms of variances, of the same shape.

    Returns:
        One log-likelihood for each number in `y`, in nats, of the shape of `y`.

    Raises:
        TypeError: If an argument is not made of numbers.
        ValueError: If shapes do not match.

    Example:

    >>> log_variance = [[-np.log(2 * np.pi)]]
    >>> float(heteroscedastic_log_likelihood([0.0], [[0.0]], log_variance)[0])
    0.0

    References:

    - [What Uncertainties Do We Need in Bayesian Deep Learning for Computer Vision?](
      https://arxiv.org/abs/1703.04977) (Kendall & Gal, 2017)
    """
    m = _samples("samples", samples)
    s = targets("log_variance", log_variance, m.shape)
    y = targets("y", y, m.shape[1:])
    with np.errstate(over="ignore", invalid="ignore"):
        terms = -np.exp(-s) * (y - m) ** 2 / 2 - s / 2
    # A point exactly on the mean of an infinitely narrow Gaussian.
    terms = np.where(y == m, -s / 2, terms)
    return logsumexp(terms) - np.log(len(m)) - np.log(2 * np.pi) / 2


def _samples(name: str, value: Any) -> np.ndarray:
    array = numbers(name, value)
    if array.ndim < 2 or array.size == 0:
        raise ValueError(
            f"Argument `{name}` must have the shape (samples, rows, ...). "
            f"Received: {name} of shape {array.shape}"
        )
    return array
