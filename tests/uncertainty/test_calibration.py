"""Calibration, selective prediction and temperature, against scikit-learn and loops."""

import numpy as np
import pytest
import scipy.optimize
import scipy.special
from sklearn import metrics
from sklearn.calibration import calibration_curve

from keras_finetune.uncertainty import (
    apply_temperature,
    brier_score,
    expected_calibration_error,
    fit_temperature,
    negative_log_likelihood,
    plot_reliability,
    reliability_curve,
    risk_coverage,
)

RNG = np.random.default_rng(0)
P = scipy.special.softmax(2 * RNG.normal(size=(200, 4)), axis=-1)
Y = np.array([RNG.choice(4, p=p) for p in scipy.special.softmax(np.log(P) / 2, -1)])


def calibration_error_by_hand(y, p, bins):
    error = 0.0
    for low in np.arange(bins) / bins:
        inside = [
            (max(row), int(np.argmax(row) == label))
            for row, label in zip(p, y)
            if low < max(row) <= low + 1 / bins
        ]
        if inside:
            confidence, right = np.mean(inside, axis=0)
            error += len(inside) / len(y) * abs(confidence - right)
    return error


@pytest.mark.parametrize("bins", [1, 4, 10, 15])
def test_expected_calibration_error(bins):
    found = expected_calibration_error(Y, P, bins)
    assert found == pytest.approx(calibration_error_by_hand(Y, P, bins), abs=1e-12)


def test_a_confidence_of_one_lies_in_the_last_bin():
    curve = reliability_curve([0, 1], np.eye(3)[[0, 0]], bins=15)
    assert curve.counts[-1] == 2
    assert curve.accuracy[-1] == 0.5
    assert np.isnan(curve.accuracy[:-1]).all()


def test_reliability_curve_of_two_classes_is_that_of_scikit_learn():
    p = RNG.uniform(0.5, 1, size=300)
    y = RNG.uniform(size=300) < p
    accuracy, confidence = calibration_curve(y, p, n_bins=10)
    curve = reliability_curve(y, p, bins=10)
    filled = curve.counts > 0
    np.testing.assert_allclose(curve.accuracy[filled], accuracy)
    np.testing.assert_allclose(curve.confidence[filled], confidence)


def test_brier_score():
    truth = np.eye(4)[Y]
    assert brier_score(Y, P) == pytest.approx(((P - truth) ** 2).sum(-1).mean())
    assert brier_score(truth, P) == brier_score(Y, P)
    p, y = P[:, 0] / 2, Y == 0
    # For two classes scikit-learn counts one of them.
    assert brier_score(y, p) == pytest.approx(2 * metrics.brier_score_loss(y, p))
    assert brier_score([0, 1], np.eye(2)) == 0
    assert brier_score([1, 0], np.eye(2)) == 2


def test_negative_log_likelihood():
    found = negative_log_likelihood(Y, P)
    assert found == pytest.approx(metrics.log_loss(Y, P, labels=range(4)))
    assert negative_log_likelihood(Y, np.log(P), log=True) == pytest.approx(found)
    assert negative_log_likelihood([0, 1], np.eye(2)) == 0
    assert negative_log_likelihood([0, 0], np.eye(2)) == np.inf
    far = np.array([[0.0, -5000.0]])
    assert negative_log_likelihood([1], far, log=True) == 5000


def test_risk_coverage():
    errors, uncertainty = RNG.uniform(size=(2, 50))
    curve = risk_coverage(errors, uncertainty)
    order = np.argsort(uncertainty)
    expected = [errors[order[:k]].mean() for k in range(1, 51)]
    np.testing.assert_allclose(curve.risk, expected)
    np.testing.assert_allclose(curve.coverage, np.arange(1, 51) / 50)
    assert curve.area == pytest.approx(np.mean(expected))
    # Nothing is known about the inputs: any order is as good, and gives the same.
    flat = risk_coverage(errors, np.zeros(50))
    np.testing.assert_allclose(flat.risk, errors.mean())


def test_temperature_of_single_predictions():
    logits = np.log(P)

    def loss(log_theta):
        return negative_log_likelihood(
            Y, scipy.special.softmax(logits / np.exp(log_theta), axis=-1)
        )

    best = scipy.optimize.minimize_scalar(loss, bounds=(-3, 3), method="bounded")
    found = fit_temperature(Y, logits)
    assert found == pytest.approx(np.exp(best.x), rel=1e-4)
    # The labels were drawn at the temperature 2.
    assert 1.5 < found < 2.6


def test_temperature_of_samples_is_applied_before_the_mean():
    logits = RNG.normal(size=(5, 200, 4)) + np.log(P)
    found = fit_temperature(Y, logits)
    mean = scipy.special.softmax(logits / found, axis=-1).mean(axis=0)
    np.testing.assert_allclose(apply_temperature(logits, found), mean)
    here = negative_log_likelihood(Y, mean)
    for other in (0.97, 1.03):
        there = apply_temperature(logits, found * other)
        assert negative_log_likelihood(Y, there) > here


def test_temperature_does_not_fall_for_a_vote():
    # Every sample is right or wrong at random; unanimous errors are rare, so that a
    # small set may have none, and votes look perfect on it.
    rng = np.random.default_rng(3)
    truth = np.eye(3)[rng.integers(0, 3, size=60)]
    scores = 4 * truth + rng.normal(0, 2, size=(30, 60, 3))
    assert 0.1 < fit_temperature(truth, scores) < 10


def test_temperature_of_certain_and_right_predictions_is_finite():
    assert fit_temperature([0, 1], [[900.0, 0.0], [0.0, 900.0]]) > 0


def test_plot_reliability():
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    ax = plot_reliability(Y, P, bins=5)
    assert len(ax.patches) == (reliability_curve(Y, P, 5).counts > 0).sum()
    assert plot_reliability(Y, P, ax=ax) is ax
    matplotlib.pyplot.close(ax.figure)


def test_bad_input_is_refused():
    for call in (
        lambda: brier_score(Y, 2 * P),
        lambda: brier_score(Y, P / 2),
        lambda: brier_score(Y[:-1], P),
        lambda: brier_score(Y + 1, P),
        lambda: brier_score(Y + 0.5, P),
        # Soft labels are not one-hot rows.
        lambda: brier_score(P, P),
        lambda: expected_calibration_error(Y, P, bins=0),
        lambda: negative_log_likelihood(Y, P[0]),
        lambda: fit_temperature(Y, P[0]),
        lambda: apply_temperature(P, 0.0),
        lambda: risk_coverage(P, Y),
        lambda: risk_coverage(Y, P),
        lambda: brier_score(Y, np.where(P > 0.9, np.nan, P)),
    ):
        with pytest.raises(ValueError, match=r"Argument `\w+` must.*Received"):
            call()
    for call in (lambda: brier_score("labels", P), lambda: risk_coverage(Y, None)):
        with pytest.raises(TypeError, match=r"Argument `\w+` must.*Received"):
            call()
