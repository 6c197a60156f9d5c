"""The precision that makes held-out targets most likely."""

import numpy as np
import pytest
import scipy.optimize

from keras_finetune.uncertainty import (
    MCPrediction,
    fit_precision,
    gaussian_log_likelihood,
)

RNG = np.random.default_rng(0)


def test_it_is_the_maximum_of_the_likelihood():
    samples = RNG.normal(size=(20, 60, 2))
    y = RNG.normal(0, 2, size=(60, 2))

    def loss(log_tau):
        return -gaussian_log_likelihood(y, samples, float(np.exp(log_tau))).mean()

    best = scipy.optimize.minimize_scalar(loss, bounds=(-9, 9), method="bounded")
    assert fit_precision(y, samples) == pytest.approx(np.exp(best.x), rel=1e-4)


def test_the_noise_of_the_data_is_found():
    # The function is known up to a spread of 1, observations scatter by 3 around it.
    function = RNG.normal(0, 10, size=(2000, 1))
    samples = function + RNG.normal(size=(100, 2000, 1))
    y = function + RNG.normal(size=(2000, 1)) + RNG.normal(0, 3, size=(2000, 1))
    tau = fit_precision(y, samples)
    assert 1 / np.sqrt(tau) == pytest.approx(3, rel=0.05)
    low, high = MCPrediction.from_samples(samples).predictive_interval(0.9, tau)
    assert np.mean((low < y) & (y < high)) == pytest.approx(0.9, abs=0.02)


def test_of_one_sample_it_is_one_over_the_mean_square():
    y, mean = RNG.normal(size=(2, 30))
    expected = 1 / np.mean((y - mean) ** 2)
    assert fit_precision(y, [mean]) == pytest.approx(expected)


@pytest.mark.parametrize("unit", [1e-9, 1.0, 1e12])
def test_it_follows_the_unit_of_the_targets(unit):
    y, samples = RNG.normal(size=(30, 1)), RNG.normal(size=(5, 30, 1))
    expected = fit_precision(y, samples) / unit**2
    assert fit_precision(unit * y, unit * samples) == pytest.approx(expected, rel=1e-5)


def test_targets_may_lack_the_last_axis():
    y, samples = RNG.normal(size=30), RNG.normal(size=(5, 30, 1))
    assert fit_precision(y, samples) == fit_precision(y[:, None], samples)
    assert fit_precision(y[:, None], samples[..., 0]) == fit_precision(y, samples)


def test_a_sample_that_hits_every_target_is_refused():
    y = RNG.normal(size=(6, 1))
    with pytest.raises(ValueError, match=r"`y` must differ.*6 target\(s\)"):
        fit_precision(y, [y, y + 1])
    # One miss is enough for a finite precision.
    near = y.copy()
    near[0] += 1e-3
    assert np.isfinite(fit_precision(y, [near]))


@pytest.mark.parametrize(
    ("y", "samples", "message"),
    [
        (np.zeros(3), np.ones((5, 4, 1)), r"`y`.*\(4, 1\).*\(3,\)"),
        (np.zeros(4), np.ones((5, 4, 2)), r"`y`.*\(4, 2\).*\(4,\)"),
        ([], np.ones((5, 0)), "`y`.*at least one row"),
        ([np.nan], [[1.0]], "`y`.*NaN"),
        ([np.inf], [[1.0]], "`y`.*finite"),
        ([0.0], [[np.inf]], "`samples`.*finite"),
        ([0.0], [1.0], r"`samples`.*\(samples, rows, ...\)"),
    ],
)
def test_what_does_not_fit_is_refused(y, samples, message):
    with pytest.raises(ValueError, match=f"{message}"):
        fit_precision(y, samples)
