"""Calibration: whether predicted probabilities come true as often as they say.

Considered: scikit-learn has the Brier score, `log_loss` (which clips probabilities, so
that a certain error costs a finite amount that depends on the dtype) and a
calibration curve for two classes; netcal and torchmetrics have the expected
calibration error, the former of this and much more on top of PyTorch. None is a
dependency that a Keras project has, and each measure is a few lines; the tests compare
with scikit-learn where it has one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from keras_finetune import _checks
from keras_finetune.uncertainty._arrays import labels, numbers, probabilities

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class ReliabilityCurve(NamedTuple):
    """A reliability diagram as numbers, one entry a bin of confidence.

    `confidence` and `accuracy` are means over the inputs of a bin, NaN where `counts`
    is 0; `edges` has one entry more.
    """

    edges: np.ndarray
    counts: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray


def reliability_curve(y: Any, mean: Any, bins: int = 15) -> ReliabilityCurve:
    """Compute accuracy by confidence, the numbers of a reliability diagram.

    The confidence of a prediction is its largest probability. Bins are of equal
    width, closed on the right; a confidence of 1 lies in the last.

    Args:
        y: Labels, shape `(rows, ...)`, or one-hot rows.
        mean: Probabilities, shape `(rows, ..., classes)`, such as the `mean` of an
            `MCPrediction`. One a row stands for the second of two classes.
        bins: Number of bins over [0, 1].

    Returns:
        A named tuple of `edges`, `counts`, `confidence` and `accuracy`.

    Raises:
        TypeError: If an argument is not made of numbers.
        ValueError: If shapes or ranges do not fit.

    Example:

    >>> curve = reliability_curve([0, 1], [[0.9, 0.1], [0.9, 0.1]], bins=2)
    >>> curve.counts, curve.accuracy
    (array([0, 2]), array([nan, 0.5]))

    References:

    - [On Calibration of Modern Neural Networks](https://arxiv.org/abs/1706.04599)
      (Guo et al., 2017)
    """
    bins = _checks.integer("bins", bins, minimum=1)
    p = probabilities("mean", mean)
    y = labels("y", y, p.shape[:-1], p.shape[-1])
    confidence = p.max(axis=-1).ravel()
    correct = (p.argmax(axis=-1) == y).ravel()
    edges = np.linspace(0.0, 1.0, bins + 1)
    index = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, bins - 1)
    count = np.bincount(index, minlength=bins)
    with np.errstate(invalid="ignore"):
        return ReliabilityCurve(
            edges,
            count,
            np.bincount(index, confidence, bins) / count,
            np.bincount(index, correct, bins) / count,
        )


def plot_reliability(y: Any, mean: Any, bins: int = 15, ax: Axes | None = None) -> Axes:
    """Draw a reliability diagram with matplotlib.

    Args:
        y: Labels, shape `(rows, ...)`, or one-hot rows.
        mean: Probabilities, shape `(rows, ..., classes)`.
        bins: Number of bins over [0, 1].
        ax: Matplotlib axes to draw on, `None` for new ones.

    Returns:
        The axes.

    Raises:
        TypeError: If an argument has a wrong type.
        ValueError: If shapes or ranges do not fit.

    References:

    - [On Calibration of Modern Neural Networks](https://arxiv.org/abs/1706.04599)
      (Guo et al., 2017)
    """
    if ax is not None and not hasattr(ax, "bar"):
        raise TypeError(f"Argument `ax` must be matplotlib axes. Received: ax={ax!r}")
    curve = reliability_curve(y, mean, bins)
    error = expected_calibration_error(y, mean, bins)
    if ax is None:
        from matplotlib import pyplot

        _, ax = pyplot.subplots()
    width = curve.edges[1]
    filled = curve.counts > 0
    ax.bar(
        curve.edges[:-1][filled],
        curve.accuracy[filled],
        width=width,
        align="edge",
        edgecolor="white",
        alpha=0.8,
    )
    ax.plot(curve.confidence[filled], curve.accuracy[filled], "o", color="black")
    ax.plot([0, 1], [0, 1], "--", color="grey")
    ax.set(
        xlim=(0, 1),
        ylim=(0, 1),
        xlabel="confidence",
        ylabel="accuracy",
        title=f"expected calibration error {error:.3f}",
    )
    return ax


def expected_calibration_error(y: Any, mean: Any, bins: int = 15) -> float:
    """Return the mean gap between confidence and accuracy, weighted by bins.

    `sum_b count_b / n |accuracy_b - confidence_b|` over the bins of
    `reliability_curve`.

    Args:
        y: Labels, shape `(rows, ...)`, or one-hot rows.
        mean: Probabilities, shape `(rows, ..., classes)`, such as the `mean` of an
            `MCPrediction`. One a row stands for the second of two classes.
        bins: Number of bins over [0, 1].

    Returns:
        A number from 0 (calibrated) to 1.

    Raises:
        TypeError: If an argument is not made of numbers.
        ValueError: If shapes or ranges do not fit.

    Example:

    >>> round(expected_calibration_error([0, 1], [[0.9, 0.1], [0.9, 0.1]]), 3)
    0.4

    References:

    - [On Calibration of Modern Neural Networks](https://arxiv.org/abs/1706.04599)
      (Guo et al., 2017)
    """
    curve = reliability_curve(y, mean, bins)
    gaps = np.abs(curve.accuracy - curve.confidence)
    return float(np.nansum(curve.counts * gaps) / curve.counts.sum())


def brier_score(y: Any, mean: Any) -> float:
    """Return the mean squared distance between probabilities and truth.

    `(1/n) sum_i sum_c (p_ic - [y_i = c])^2`, over all classes.

    Args:
        y: Labels, shape `(rows, ...)`, or one-hot rows.
        mean: Probabilities, shape `(rows, ..., classes)`, such as the `mean` of an
            `MCPrediction`. One a row stands for the second of two classes.

    Returns:
        A number from 0 (certain and right) to 2 (certain and wrong).

    Raises:
        TypeError: If an argument is not made of numbers.
        ValueError: If shapes or ranges do not fit.

    Example:

    >>> round(brier_score([0, 1], [[0.9, 0.1], [0.9, 0.1]]), 3)
    0.82

    References:

    - Verification of Forecasts Expressed in Terms of Probability (Brier, 1950)
    """
    p = probabilities("mean", mean)
    y = labels("y", y, p.shape[:-1], p.shape[-1])
    truth = y[..., np.newaxis] == np.arange(p.shape[-1])
    return float(((p - truth) ** 2).sum(axis=-1).mean())


def negative_log_likelihood(y: Any, mean: Any, log: bool = False) -> float:
    """Return the mean of `-log p` of the true class, in nats.

    Nothing is added to a probability or cut off it: where one of 0 comes true, the
    result is infinite. The `log_mean` of an `MCPrediction` of scores is exact far
    below the smallest float.

    Args:
        y: Labels, shape `(rows, ...)`, or one-hot rows.
        mean: Probabilities, shape `(rows, ..., classes)`, such as the `mean` of an
            `MCPrediction`. One a row stands for the second of two classes.
        log: Whether `mean` holds logarithms of probabilities, such as `log_mean`.

    Returns:
        A number from 0 (certain and right).

    Raises:
        TypeError: If an argument is not made of numbers.
        ValueError: If shapes or ranges do not fit.

    Example:

    >>> round(negative_log_likelihood([0, 1], [[0.9, 0.1], [0.9, 0.1]]), 3)
    1.204
    """
    _checks.choice("log", log, (True, False))
    if log:
        logs = numbers("mean", mean)
        if logs.ndim < 2:
            raise ValueError(
                "Argument `mean` must have the classes on its last axis. "
                f"Received: mean of shape {logs.shape}"
            )
    else:
        p = probabilities("mean", mean)
        with np.errstate(divide="ignore"):
            logs = np.log(p)
    y = labels("y", y, logs.shape[:-1], logs.shape[-1])
    chosen = np.take_along_axis(logs, y[..., np.newaxis], axis=-1)
    # `0 - x`: minus the logarithm of 1 is 0 and not -0.
    return float(0.0 - chosen.mean())
