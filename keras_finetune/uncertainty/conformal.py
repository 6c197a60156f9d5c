"""Conformal prediction: sets and intervals that hold their level for any distribution.

Considered: MAPIE (1.6) conformalises scikit-learn estimators, with more scores, cross
conformal methods and risk control; crepes (0.9) works on arrays, with categories and
predictive systems, and without APS. Both are well kept, need scikit-learn or pandas,
and SciPy, and are what to go on to. keras-proba (0.1) has the same methods for Keras 3
only, in float32, and reshapes targets to predictions unasked. What is below is an
order statistic and a comparison, without a dependency, on every Keras, and it takes an
`MCPrediction`; `benchmarks/conformal.py` compares all four on the same predictions.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np

from keras_finetune import _checks
from keras_finetune.uncertainty import _arrays
from keras_finetune.uncertainty.mc_prediction import MCPrediction

SetScore = Literal["lac", "aps"]
IntervalScore = Literal["absolute", "scaled"]


def conformal_quantile(scores: Any, level: float) -> np.ndarray:
    """Return the threshold that a new score stays below with a probability `level`.

    The `ceil((n + 1) level)`-th smallest of `n` scores of held-out rows. If these and
    the new row are exchangeable, and scores have no ties, the new score is not above
    it with the probability `ceil((n + 1) level) / (n + 1)`, on average over draws of
    the held-out rows; with ties the probability is higher. For scores of your own:
    what `conformal_interval` and `conformal_set` are made of.

    Args:
        scores: Nonconformity scores, shape `(rows, ...)`; larger is stranger.
        level: Share of new scores, in (0, 1).

    Returns:
        One threshold for each position after the first axis, shape `(...)`.

    Raises:
        TypeError: If an argument is not made of numbers.
        ValueError: If `level` is not in (0, 1), a score is not finite, or `scores` has
            too few rows for the level: at least `level / (1 - level)` are needed.

    Example:

    >>> float(conformal_quantile([0.3, 0.1, 0.2, 0.4], level=0.6))
    0.3

    References:

    - [A Gentle Introduction to Conformal Prediction](
      https://arxiv.org/abs/2107.07511) (Angelopoulos & Bates, 2021)
    """
    level = _arrays.level(level)
    array = _arrays.finite("scores", scores)
    rank = _rank("scores", len(array), level)
    return np.partition(array, rank - 1, axis=0)[rank - 1]


def conformal_interval(
    y: Any,
    calibration: Any,
    prediction: Any,
    level: float = 0.95,
    score: IntervalScore = "absolute",
    scale: tuple[Any, Any] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return intervals that hold a share of new targets, whatever their distribution.

    Split conformal prediction. `q` is the `conformal_quantile` of the held-out scores:

    - `"absolute"`: `|y - mean|`, and the interval is `mean -+ q`, of one width;
    - `"scaled"`: `|y - mean| / scale`, and the interval is `mean -+ q scale`, wide
      where the scale is large.

    The share is a promise on average over inputs and over draws of the held-out rows,
    not for each input; it needs held-out rows that the model was not trained on, and
    new rows that are like them. Each output unit is held at the level by itself.

    Args:
        y: Targets of the held-out rows, shape `(rows, ...)`.
        calibration: Predictions for the held-out rows, an `MCPrediction` of values or
            an array of the shape of `y`.
        prediction: Predictions for new rows, of the same kind.
        level: Share of the new targets, in (0, 1).
        score: `"absolute"` or `"scaled"`.
        scale: For `"scaled"`, positive scales of the held-out and of the new errors,
            each of the shape of its predictions. `None` for the `std` of an
            `MCPrediction`. Other useful ones are `sqrt(predictive_variance(tau))` and
            a standard deviation that the model predicts.

    Returns:
        Lower and upper ends, each of the shape of the new predictions.

    Raises:
        TypeError: If an argument has a wrong type.
        ValueError: If shapes do not match, if a number is not finite or a scale not
            positive, or if there are too few held-out rows for the level.

    Example:

    >>> held_out = [0.0, 0.0, 0.0, 0.0]
    >>> low, high = conformal_interval([1, -2, 3, -4], held_out, [10.0], level=0.6)
    >>> low, high
    (array([7.]), array([13.]))

    References:

    - [Distribution-Free Predictive Inference for Regression](
      https://arxiv.org/abs/1604.04173) (Lei et al., 2018)
    - [A Gentle Introduction to Conformal Prediction](
      https://arxiv.org/abs/2107.07511) (Angelopoulos & Bates, 2021), on scales
    """
    level = _arrays.level(level)
    _checks.choice("score", score, ("absolute", "scaled"))
    held_out = _values("calibration", calibration)
    new = _values("prediction", prediction)
    if held_out.shape[1:] != new.shape[1:]:
        raise ValueError(
            "Argument `prediction` must have rows like those of `calibration`, shape "
            f"(rows, {', '.join(map(str, held_out.shape[1:]))}). "
            f"Received: prediction of shape {new.shape}"
        )
    y = _arrays.targets("y", _arrays.finite("y", y), held_out.shape)
    _rank("calibration", len(held_out), level)
    errors = np.abs(y - held_out)
    if score == "absolute":
        if scale is not None:
            raise ValueError(
                "Argument `scale` must be None where `score` is 'absolute'. "
                f"Received: scale={scale!r}"
            )
        half: Any = conformal_quantile(errors, level)
    else:
        held_out_scale, new_scale = _scales(calibration, prediction, scale)
        half = conformal_quantile(errors / held_out_scale, level) * new_scale
    return new - half, new + half


def conformal_set(
    y: Any,
    calibration: Any,
    prediction: Any,
    level: float = 0.95,
    score: SetScore = "lac",
    seed: int | None = None,
) -> np.ndarray:
    """Return sets of classes that hold the true one with a given probability.

    Split conformal prediction. A class is in the set if its score is not above the
    `conformal_quantile` of the held-out scores of the true classes:

    - `"lac"`: `1 - p_c`. The smallest sets on average; an input that is unlike all
      classes may have none.
    - `"aps"`: the probability of the classes that are more probable than `c`, plus `u
      p_c` with `u` uniform on (0, 1), drawn once for each input. Sets are larger, and
      grow with the difficulty of the input, so that hard inputs are held nearly as
      often as easy ones. Randomised as in the paper: only so the share is exact, and
      at the price that a set may be empty.

    The share is a promise on average over inputs and over draws of the held-out rows.
    It needs held-out rows that the model was not trained on, and that no temperature
    was fitted on, and new rows that are like them. Ties make sets larger, never
    smaller.

    Args:
        y: Labels of the held-out rows, shape `(rows,)`, or one-hot rows. At least two
            classes must occur.
        calibration: Predictions for the held-out rows, an `MCPrediction` of classes or
            probabilities of the shape `(rows, classes)`. One a row stands for the
            second of two classes.
        prediction: Predictions for new rows, of the same kind.
        level: Share of the new labels, in (0, 1).
        score: `"lac"` or `"aps"`.
        seed: Integer that makes the draws of `"aps"` repeatable, `None` for new ones
            each time.

    Returns:
        For each new row and each class whether the set holds it, of the type bool and
        the shape `(rows, classes)`.

    Raises:
        TypeError: If an argument has a wrong type.
        ValueError: If shapes or ranges do not fit, if only one class occurs, or if
            there are too few held-out rows for the level.

    Example:

    >>> held_out = [[0.9, 0.1], [0.8, 0.2], [0.4, 0.6], [0.3, 0.7]]
    >>> conformal_set([0, 0, 1, 0], held_out, [[0.75, 0.25], [0.5, 0.5]], level=0.6)
    array([[ True, False],
           [False, False]])

    References:

    - [Least Ambiguous Set-Valued Classifiers with Bounded Error Levels](
      https://arxiv.org/abs/1609.00451) (Sadinle et al., 2019)
    - [Classification with Valid and Adaptive Coverage](
      https://arxiv.org/abs/2006.02544) (Romano et al., 2020)
    """
    level = _arrays.level(level)
    _checks.choice("score", score, ("lac", "aps"))
    if seed is not None:
        seed = _checks.integer("seed", seed, minimum=0)
    held_out = _class_probabilities("calibration", calibration)
    new = _class_probabilities("prediction", prediction)
    rows, classes = held_out.shape
    if new.shape[1] != classes:
        raise ValueError(
            f"Argument `prediction` must have the {classes} classes of `calibration`. "
            f"Received: prediction of shape {new.shape}"
        )
    y = _arrays.labels("y", y, (rows,), classes)
    if (y == y[0]).all():
        raise ValueError(
            "Argument `y` must hold labels of at least two classes. "
            f"Received: {rows} label(s) of class {y[0]}"
        )
    _rank("calibration", rows, level)
    rng = np.random.default_rng(seed)
    known = _set_scores(held_out, score, rng)[np.arange(rows), y]
    return _set_scores(new, score, rng) <= conformal_quantile(known, level)


def _rank(name: str, rows: int, level: float) -> int:
    """Return `ceil((n + 1) level)`, or raise where there are fewer scores than that."""
    # 100 * 0.55 is 55.00000000000001 in floats, and its ceiling is 56.
    rank = math.ceil(round((rows + 1) * level, 9))
    if rank > rows:
        needed = math.ceil(round(level / (1 - level), 9))
        raise ValueError(
            f"Argument `{name}` must have at least {needed} rows for a level of "
            f"{level:g}. Received: {name} of {rows} row(s)"
        )
    return rank


def _values(name: str, value: Any) -> np.ndarray:
    if isinstance(value, MCPrediction):
        if value.kind != "values":
            raise ValueError(
                f"Argument `{name}` must hold values; for classes there is "
                f"`conformal_set`. Received: {name}={value!r}"
            )
        value = value.mean
    return _arrays.finite(name, value)


def _scales(
    calibration: Any, prediction: Any, scale: tuple[Any, Any] | None
) -> list[np.ndarray]:
    """Return the scales of held-out and of new errors, positive, shaped as these."""
    given = [calibration, prediction]
    if scale is None:
        if not all(isinstance(value, MCPrediction) for value in given):
            raise ValueError(
                "Argument `scale` must be given where `score` is 'scaled' and the "
                "predictions are arrays. Received: scale=None"
            )
        scale = (calibration.std, prediction.std)
    if not isinstance(scale, (tuple, list)) or len(scale) != 2:
        raise TypeError(
            "Argument `scale` must be a pair, of the calibration and of the "
            f"prediction. Received: scale={scale!r}"
        )
    result = []
    for name, values, found in zip(
        ("calibration", "prediction"), given, scale, strict=True
    ):
        shape = _values(name, values).shape
        array = _arrays.targets("scale", _arrays.finite("scale", found), shape)
        if array.min() <= 0:
            raise ValueError(
                "Argument `scale` must be positive. If the samples of a row agree, "
                "pass sqrt(predictive_variance(tau)). Received: scale of the "
                f"{name} from {array.min():.3g} to {array.max():.3g}"
            )
        result.append(array)
    return result


def _class_probabilities(name: str, value: Any) -> np.ndarray:
    if isinstance(value, MCPrediction):
        if value.kind == "values":
            raise ValueError(
                f"Argument `{name}` must hold classes; for values there is "
                f"`conformal_interval`. Received: {name}={value!r}"
            )
        one_class = value.kind in ("probabilities", "logits")
        if one_class and value.mean.shape[-1] == 1:
            raise ValueError(
                f"Argument `{name}` must have at least two classes. "
                f"Received: {name}={value!r}"
            )
        several = value.kind.startswith("binary") and value.mean.shape[1:] not in (
            (),
            (1,),
        )
        value = value.mean[..., np.newaxis] if several else value.mean
    array = _arrays.probabilities(name, value)
    if array.ndim != 2:
        raise ValueError(
            f"Argument `{name}` must have the shape (rows, classes): one question a "
            f"row, as rows are what is exchangeable. Received: {name} of shape "
            f"{array.shape}"
        )
    return array


def _set_scores(p: np.ndarray, score: SetScore, rng: np.random.Generator) -> np.ndarray:
    """Return the score of every class of every row."""
    if score == "lac":
        return 1.0 - p
    order = np.argsort(-p, axis=1, kind="stable")
    ordered = np.take_along_axis(p, order, axis=1)
    before = np.cumsum(ordered, axis=1) - ordered
    scores = np.empty_like(p)
    np.put_along_axis(scores, order, before + rng.random((len(p), 1)) * ordered, axis=1)
    return scores
