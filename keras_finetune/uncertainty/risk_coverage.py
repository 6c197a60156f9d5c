"""Selective prediction: how wrong a model is if it may refuse the uncertain inputs."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from keras_finetune.uncertainty._arrays import numbers, targets


class RiskCoverage(NamedTuple):
    """A risk-coverage curve.

    `risk[k - 1]` is the mean error of the `k` least uncertain inputs, `coverage` their
    share, and `area` the mean of all risks (AURC).
    """

    coverage: np.ndarray
    risk: np.ndarray
    area: float


def risk_coverage(errors: Any, uncertainty: Any) -> RiskCoverage:
    """Compute the error among the inputs kept, from the most certain one to all.

    Inputs that are equally uncertain share their errors equally, so that the curve
    does not depend on their order.

    Args:
        errors: Error of each input, shape `(rows,)`: `predicted != y` for
            classification, or any loss.
        uncertainty: Uncertainty of each input, such as the `predictive_entropy` of an
            `MCPrediction`, or `-max_probability`.

    Returns:
        A named tuple of `coverage`, `risk` and `area`.

    Raises:
        TypeError: If an argument is not made of numbers.
        ValueError: If shapes do not fit.

    Example:

    >>> curve = risk_coverage([False, True, False], [0.1, 0.9, 0.2])
    >>> curve.risk.round(2)
    array([0.  , 0.  , 0.33])

    References:

    - [Bias-Reduced Uncertainty Estimation for Deep Neural Classifiers](
      https://arxiv.org/abs/1805.08206) (Geifman et al., 2019)
    """
    losses = numbers("errors", errors)
    if losses.ndim != 1 or losses.size == 0:
        raise ValueError(
            "Argument `errors` must hold one number a row. "
            f"Received: errors of shape {losses.shape}"
        )
    values = targets("uncertainty", uncertainty, losses.shape)
    _, group = np.unique(values, return_inverse=True)
    mean = np.bincount(group, losses) / np.bincount(group)
    order = np.sort(group, kind="stable")
    count = np.arange(1, len(losses) + 1)
    risk = np.cumsum(mean[order]) / count
    return RiskCoverage(count / len(losses), risk, float(risk.mean()))
