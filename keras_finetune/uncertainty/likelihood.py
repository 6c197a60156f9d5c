"""How likely targets are under the samples of a regression, and the best precision."""

from __future__ import annotations

from typing import Any

import numpy as np

from keras_finetune import _checks
from keras_finetune.uncertainty import _arrays, _search
from keras_finetune.uncertainty._arrays import targets
from keras_finetune.uncertainty._entropy import logsumexp

# The search for a precision runs over its logarithm, this far from where it starts.
_RANGE = 20.0


def gaussian_log_likelihood(y: Any, samples: Any, tau: float) -> np.ndarray:
    """Return the log-likelihood of targets under a mixture of equally wide Gaussians.

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
    distance, dimension = _distances(y, samples)
    return _mixture(distance, dimension, tau)


def fit_precision(y: Any, samples: Any) -> float:
    """Find the precision of the noise that makes held-out targets most likely.

    It is the `tau` of the highest mean of `gaussian_log_likelihood`, what
    `fit_temperature` is for classes: one number, fitted on data that the model was not
    trained on. `1 / tau` is the aleatoric variance, what is left of the error when the
    samples have explained their part. Of several maxima, which few held-out rows may
    have, it is the one next to the precision of the mean's errors.

    Args:
        y: Targets of held-out inputs, shape `(rows, ...)`.
        samples: Predictions for them, shape `(samples, rows, ...)`, such as the
            `samples` of an `MCPrediction`, in the unit of `y`.

    Returns:
        One over the variance of the noise, in the unit of `y`, squared.

    Raises:
        TypeError: If an argument is not made of numbers.
        ValueError: If shapes do not match, if a number is not finite, or if the
            samples hit every target: no noise is left, and `tau` would be infinite.

    Example:

    >>> round(fit_precision([1.0, -1.0, 2.0, -2.0], np.zeros((1, 4))), 3)
    0.4

    References:

    - [Dropout as a Bayesian Approximation](https://arxiv.org/abs/1506.02142)
      (Gal & Ghahramani, 2016)
    """
    y = _arrays.finite("y", y)
    f = _arrays.finite("samples", _arrays.samples("samples", samples))
    distance, dimension = _distances(y, f)
    if not distance.min(axis=0).any():
        raise ValueError(
            "Argument `y` must differ from the samples, or there is no noise to fit. "
            f"Received: {len(y)} target(s), each equal to a sample"
        )

    def loss(log_tau: float) -> float:
        return -float(_mixture(distance, dimension, float(np.exp(log_tau))).mean())

    of_mean = ((targets("y", y, f.shape[1:]) - f.mean(axis=0)) ** 2).mean()
    start = -float(np.log(of_mean if of_mean else distance.mean() / dimension))
    return float(np.exp(_search.minimum(loss, start, start - _RANGE, start + _RANGE)))


def heteroscedastic_log_likelihood(
    y: Any, samples: Any, log_variance: Any
) -> np.ndarray:
    """Return the log-likelihood under Gaussians whose width the model predicts too.

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
    m = _arrays.samples("samples", samples)
    s = targets("log_variance", log_variance, m.shape)
    y = targets("y", y, m.shape[1:])
    with np.errstate(over="ignore", invalid="ignore"):
        terms = -np.exp(-s) * (y - m) ** 2 / 2 - s / 2
    # A point exactly on the mean of an infinitely narrow Gaussian.
    terms = np.where(y == m, -s / 2, terms)
    return logsumexp(terms) - np.log(len(m)) - np.log(2 * np.pi) / 2


def _distances(y: Any, samples: Any) -> tuple[np.ndarray, int]:
    """Return `|y - f_t|^2`, shape (samples, rows), and the dimension of `y`."""
    f = _arrays.samples("samples", samples)
    y = targets("y", y, f.shape[1:])
    distance = ((y - f) ** 2).reshape(len(f), len(y), -1).sum(axis=-1)
    return distance, y[0].size


def _mixture(distance: np.ndarray, dimension: int, tau: float) -> np.ndarray:
    mixture = logsumexp(-tau / 2 * distance) - np.log(len(distance))
    return mixture - dimension / 2 * (np.log(2 * np.pi) - np.log(tau))
