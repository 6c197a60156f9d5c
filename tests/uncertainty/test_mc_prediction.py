"""Every measure against an independent computation in float64, extremes included."""

import numpy as np
import pytest
import scipy.special
import scipy.stats
from sklearn.preprocessing import FunctionTransformer, MinMaxScaler, StandardScaler

from keras_finetune.uncertainty import (
    MCPrediction,
    _streams,
    gaussian_log_likelihood,
    heteroscedastic_log_likelihood,
)

RNG = np.random.default_rng(0)


def softmax(z):
    return scipy.special.softmax(z, axis=-1)


def in_parts(samples, kind, parts):
    """The prediction of samples that arrive a few at a time."""
    stream = _streams.Stream(kind, keep=False)
    for part in np.array_split(samples, parts):
        stream.update(part)
    stream.end_batch()
    return MCPrediction(stream.result(), kind, len(samples), "samples", None)


CERTAIN = np.eye(4)[[0, 1, 0, 2, 0]][:, None].repeat(3, axis=1)
PROBABILITIES = {
    "ordinary": softmax(RNG.normal(size=(20, 7, 4))),
    "sharp": softmax(60 * RNG.normal(size=(20, 7, 4))),
    "certain": CERTAIN,
    "uniform": np.full((6, 2, 5), 0.2),
    "one sample": softmax(RNG.normal(size=(1, 7, 4))),
    "one class": np.ones((6, 3, 1)),
    "maps": softmax(RNG.normal(size=(5, 2, 3, 3, 4))),
    "single": softmax(RNG.normal(size=(20, 7, 4))).astype("float32"),
}


@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("name", PROBABILITIES)
def test_measures_of_probabilities(name, parts):
    p = PROBABILITIES[name]
    prediction = in_parts(p, "probabilities", min(parts, len(p)))
    p = p.astype("float64")
    mean = p.sum(axis=0) / len(p)
    total = scipy.stats.entropy(mean, axis=-1) if p.shape[-1] > 1 else 0 * mean[..., 0]
    within = scipy.special.entr(p).sum(axis=-1).mean(axis=0)
    votes = np.stack([(p.argmax(-1) == c).sum(0) for c in range(p.shape[-1])], -1)
    near = {"rtol": 1e-9, "atol": 1e-12}
    np.testing.assert_allclose(prediction.mean, mean, **near)
    np.testing.assert_allclose(prediction.variance, p.var(axis=0), **near)
    np.testing.assert_allclose(prediction.std, p.std(axis=0), rtol=1e-6, atol=1e-8)
    # SciPy normalises, which float32 probabilities feel in the eighth digit.
    loose = {"rtol": 1e-6, "atol": 1e-6 if name == "single" else 1e-12}
    np.testing.assert_allclose(prediction.predictive_entropy, total, **loose)
    np.testing.assert_allclose(prediction.expected_entropy, within, **near)
    np.testing.assert_allclose(
        prediction.mutual_information, np.maximum(total - within, 0), **loose
    )
    np.testing.assert_allclose(
        prediction.variation_ratio, 1 - votes.max(-1) / len(p), **near
    )
    np.testing.assert_allclose(prediction.max_probability, mean.max(-1), **near)
    top = np.take_along_axis(p, mean.argmax(-1)[None, ..., None], axis=-1)[..., 0]
    np.testing.assert_allclose(
        prediction.top_class_std, top.std(axis=0), rtol=1e-6, atol=1e-8
    )
    np.testing.assert_array_equal(prediction.predicted_class, mean.argmax(-1))
    assert (prediction.mutual_information >= 0).all()
    with np.errstate(divide="ignore"):
        np.testing.assert_allclose(prediction.log_mean, np.log(mean), rtol=1e-9)


LOGITS = {
    "ordinary": RNG.normal(size=(20, 7, 4)),
    "far apart": 1000 * RNG.normal(size=(20, 7, 4)),
    "one class": RNG.normal(size=(6, 3, 1)),
}


@pytest.mark.parametrize("parts", [1, 4])
@pytest.mark.parametrize("name", LOGITS)
def test_measures_of_logits(name, parts):
    z = LOGITS[name]
    prediction = in_parts(z, "logits", parts)
    logs = scipy.special.log_softmax(z, axis=-1)
    p = np.exp(logs)
    log_mean = scipy.special.logsumexp(logs, axis=0) - np.log(len(z))
    within = -np.where(p > 0, p * logs, 0).sum(-1).mean(0)
    total = scipy.special.entr(p.mean(0)).sum(-1)
    near = {"rtol": 1e-9, "atol": 1e-12}
    np.testing.assert_allclose(prediction.log_mean, log_mean, **near)
    np.testing.assert_allclose(prediction.mean, p.mean(0), **near)
    np.testing.assert_allclose(prediction.expected_entropy, within, **near)
    np.testing.assert_allclose(prediction.predictive_entropy, total, **near)
    assert np.isfinite(prediction.log_mean).all()


@pytest.mark.parametrize("units", [1, 3])
@pytest.mark.parametrize("scale", [1, 1000])
def test_measures_of_binary_outputs(units, scale):
    z = scale * RNG.normal(size=(15, 6, units))
    p = scipy.special.expit(z)
    two = np.stack([scipy.special.expit(-z), p], axis=-1)
    known = in_parts(two, "probabilities", 2)
    for prediction in (in_parts(z, "binary_logits", 2), in_parts(p, "binary", 2)):
        for measure in (
            "predictive_entropy",
            "expected_entropy",
            "variation_ratio",
            "max_probability",
            "top_class_std",
            "predicted_class",
        ):
            expected = getattr(known, measure)
            expected = expected[..., 0] if units == 1 else expected
            found = getattr(prediction, measure)
            np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-9)
        assert prediction.predictive_entropy.shape == ((6,) if units == 1 else (6, 3))
    logs = np.stack([scipy.special.log_expit(-z), scipy.special.log_expit(z)], axis=-1)
    log_mean = scipy.special.logsumexp(logs, axis=0) - np.log(len(z))
    found = in_parts(z, "binary_logits", 2).log_mean
    log_mean = log_mean[:, 0] if units == 1 else log_mean
    np.testing.assert_allclose(found, log_mean, rtol=1e-9, atol=1e-12)


def test_certain_binary_outputs():
    prediction = in_parts(np.array([[[0.0], [1.0]], [[0.0], [0.0]]]), "binary", 1)
    np.testing.assert_allclose(prediction.predictive_entropy, [0, np.log(2)])
    np.testing.assert_array_equal(prediction.expected_entropy, [0, 0])
    np.testing.assert_array_equal(prediction.variation_ratio, [0, 0.5])


def test_the_variance_does_not_cancel():
    # E[x^2] - E[x]^2 would be off by 100 % here.
    values = 1e8 + RNG.normal(size=(1000, 3, 1))
    prediction = in_parts(values, "values", 17)
    np.testing.assert_allclose(prediction.variance, values.var(axis=0), rtol=1e-6)


# Regression


@pytest.fixture(scope="module")
def regression():
    return MCPrediction.from_samples(RNG.normal(size=(30, 5, 2)))


def test_quantiles_and_intervals_of_the_function(regression):
    lower, upper = regression.credible_interval(0.9)
    np.testing.assert_allclose(lower, np.quantile(regression.samples, 0.05, axis=0))
    np.testing.assert_allclose(upper, np.quantile(regression.samples, 0.95, axis=0))
    medians = np.median(regression.samples, axis=0)
    np.testing.assert_allclose(regression.quantile(0.5), medians)
    assert regression.quantile([0.1, 0.2, 0.3]).shape == (3, 5, 2)


def test_predictive_intervals_are_those_of_a_gaussian_of_the_total_variance(regression):
    low, high = regression.predictive_interval(0.9, tau=4.0)
    total = np.sqrt(0.25 + regression.samples.var(axis=0))
    known = scipy.stats.norm(regression.samples.mean(axis=0), total)
    np.testing.assert_allclose(low, known.ppf(0.05))
    np.testing.assert_allclose(high, known.ppf(0.95))
    assert low.shape == high.shape == regression.mean.shape
    # Without kept samples too.
    streamed = in_parts(regression.samples, "values", 3)
    np.testing.assert_allclose(streamed.predictive_interval(0.9, 4.0), (low, high))


@pytest.mark.parametrize("units", [1, 2])
@pytest.mark.parametrize("scaler", [StandardScaler(), MinMaxScaler((-1, 3))])
def test_a_scaler_of_the_targets_is_undone_in_one_argument(scaler, units):
    y = RNG.normal([3, -5], [10, 0.1], size=(50, 2))[:, :units]
    scaled = scaler.fit_transform(y)
    samples = scaled + RNG.normal(size=(7, 50, units))
    prediction = MCPrediction.from_samples(samples).rescale(scaler)
    expected = np.stack([scaler.inverse_transform(sample) for sample in samples])
    np.testing.assert_allclose(prediction.samples, expected)
    np.testing.assert_allclose(prediction.mean, expected.mean(axis=0))
    np.testing.assert_allclose(prediction.std, expected.std(axis=0))


def test_rescaling_that_does_not_fit_is_refused(regression):
    crooked = FunctionTransformer(np.log, np.exp)
    for arguments, message in (
        (([1.0, 2.0, 3.0],), r"`scale`.*2 output unit\(s\).*\(3,\)"),
        # One number a row would broadcast (5, 1) to (5, 5).
        ((np.ones(5),), "`scale`"),
        ((np.ones((5, 2)),), "`scale`"),
        ((1.0, np.ones(5)), "`offset`"),
        ((0.0,), "`scale` must not be 0"),
        ((np.inf,), "`scale`.*finite"),
        ((crooked,), "`scale`.*not affine"),
        ((StandardScaler(),), "`scale`.*fitted scaler"),
        ((StandardScaler().fit(np.ones((4, 3))),), "`scale`.*fitted scaler"),
    ):
        with pytest.raises(ValueError, match=f"{message}"):
            regression.rescale(*arguments)
    one_row_each = MCPrediction.from_samples(np.zeros((3, 5, 1)))
    with pytest.raises(ValueError, match=r"`scale`.*\(5,\)"):
        one_row_each.rescale(np.ones(5))


def test_rescale(regression):
    other = regression.rescale([2.0, 3.0], 1.0)
    np.testing.assert_allclose(other.mean, regression.mean * [2, 3] + 1)
    np.testing.assert_allclose(other.variance, regression.variance * [4, 9])
    np.testing.assert_allclose(other.samples, regression.samples * [2, 3] + 1)
    y = RNG.normal(size=(5, 2))
    expected = np.sqrt(np.mean((y - other.mean) ** 2))
    assert other.rmse(y) == pytest.approx(expected)
    np.testing.assert_allclose(
        other.predictive_variance(4.0), 0.25 + other.samples.var(axis=0)
    )


@pytest.mark.parametrize("dimension", [1, 3])
def test_log_likelihood_is_that_of_a_mixture_of_gaussians(dimension):
    samples = RNG.normal(size=(11, 6, dimension))
    y, tau = RNG.normal(size=(6, dimension)), 2.5
    densities = [
        [
            scipy.stats.multivariate_normal(f, np.eye(dimension) / tau).pdf(target)
            for f, target in zip(sample, y)
        ]
        for sample in samples
    ]
    found = MCPrediction.from_samples(samples, "values").log_likelihood(y, tau)
    np.testing.assert_allclose(found, np.log(np.mean(densities, axis=0)), rtol=1e-9)


def test_log_likelihood_far_away_is_finite():
    found = gaussian_log_likelihood([[1e6]], [[[0.0]], [[1.0]]], tau=1e3)
    expected = -500 * (1e6 - 1) ** 2 - np.log(2) + 0.5 * np.log(1e3 / (2 * np.pi))
    np.testing.assert_allclose(found, [expected], rtol=1e-12)


def test_targets_may_lack_the_last_axis(regression):
    samples = regression.samples[..., :1]
    y = RNG.normal(size=5)
    one = gaussian_log_likelihood(y, samples, tau=1.0)
    two = gaussian_log_likelihood(y[:, None], samples, tau=1.0)
    np.testing.assert_array_equal(one, two)


def test_heteroscedastic_log_likelihood_is_that_of_a_mixture():
    means, logs = RNG.normal(size=(2, 9, 6, 1))
    y = RNG.normal(size=(6, 1))
    densities = scipy.stats.norm(means, np.exp(logs / 2)).pdf(y)
    found = heteroscedastic_log_likelihood(y, means, logs)
    np.testing.assert_allclose(found, np.log(densities.mean(axis=0)), rtol=1e-9)
    narrow = heteroscedastic_log_likelihood([0.0], [[0.0]], [[-2000.0]])
    np.testing.assert_allclose(narrow, [1000 - np.log(2 * np.pi) / 2])


# What is refused


def test_measures_say_what_they_need(regression):
    with pytest.raises(ValueError, match="predictive_entropy.*output='logits'"):
        _ = regression.predictive_entropy
    classes = in_parts(PROBABILITIES["ordinary"], "probabilities", 2)
    with pytest.raises(ValueError, match="rmse.*probabilities"):
        classes.rmse(np.zeros((7, 4)))
    with pytest.raises(ValueError, match="keep_samples=True"):
        classes.quantile(0.5)
    with pytest.raises(ValueError, match=r"shape \(5, 2\).*Received"):
        regression.rmse(np.zeros((5, 3)))
    for level in (0, 1, 1.5, -0.1, 95):
        for interval in (
            regression.credible_interval,
            lambda level: regression.predictive_interval(level, tau=1.0),
        ):
            with pytest.raises(ValueError, match=rf"`level`.*Received: level={level}"):
                interval(level)
    with pytest.raises(TypeError, match="`level`.*Received: level='95 %'"):
        regression.credible_interval("95 %")
    with pytest.raises(ValueError, match="`tau`.*Received: tau=-1"):
        regression.predictive_interval(0.9, -1)
    with pytest.raises(ValueError, match="predictive_variance.*probabilities"):
        classes.predictive_interval(0.9, 1.0)
    with pytest.raises(ValueError, match=r"`y`.*\(5, 2\).*\(5,\)"):
        regression.rmse(np.zeros(5))
    with pytest.raises(ValueError, match="`q`.*Received: q=1.5"):
        regression.quantile(1.5)
    with pytest.raises(ValueError, match="`tau`.*Received: tau=0"):
        regression.log_likelihood(np.zeros((5, 2)), 0)
    with pytest.raises(ValueError, match="`samples` must have the shape"):
        MCPrediction.from_samples(np.zeros(3))
    with pytest.raises(ValueError, match="`kind`.*Received: kind='binary'"):
        MCPrediction.from_samples(np.full((2, 2, 1), 2.0), "binary")
    with pytest.raises(ValueError, match="must hold no NaN"):
        MCPrediction.from_samples(np.full((2, 2, 1), np.nan))


def test_it_says_what_it_is(regression):
    assert len(regression) == 5
    expected = "<MCPrediction: 30 samples (kept) of values (5, 2), samples>"
    assert repr(regression) == expected
