"""Conformal sets and intervals: against the definitions, and whether they hold."""

import math

import numpy as np
import pytest
import scipy.special

from keras_finetune.uncertainty import (
    MCPrediction,
    conformal_interval,
    conformal_quantile,
    conformal_set,
    interval_coverage,
    set_coverage,
)

RNG = np.random.default_rng(0)


def classes_of(rows, classes=5, rng=RNG):
    """Probabilities of a model that knows something, and labels."""
    scores = 2 * rng.normal(size=(rows, classes))
    truth = scipy.special.softmax(scores + rng.normal(size=scores.shape), axis=-1)
    y = np.array([rng.choice(classes, p=p) for p in truth])
    return scipy.special.softmax(scores, axis=-1), y


def regression_of(rows, rng=RNG):
    """Predictions, how wide their errors are, and targets with heavy tails."""
    mean = rng.normal(size=rows)
    scale = rng.uniform(0.2, 3, size=rows)
    return mean, scale, mean + scale * rng.standard_t(2, size=rows)


# The threshold


@pytest.mark.parametrize("rows", [1, 9, 99, 100])
def test_the_threshold_is_an_order_statistic(rows):
    scores = RNG.normal(size=rows)
    ordered = np.sort(scores)
    for rank in range(1, rows + 1):
        # Shares that floats cannot hold: 100 * 0.55 is above 55.
        assert conformal_quantile(scores, rank / (rows + 1)) == ordered[rank - 1]


def test_each_unit_has_its_own_threshold():
    scores = RNG.normal(size=(40, 2, 3))
    found = conformal_quantile(scores, 0.9)
    np.testing.assert_array_equal(found, np.sort(scores, axis=0)[36])


# Intervals


def test_intervals_are_those_of_the_definition():
    mean, scale, y = regression_of(50)
    new, new_scale, _ = regression_of(7)
    rank = math.ceil(51 * 0.9)
    q = sorted(abs(y - mean))[rank - 1]
    low, high = conformal_interval(y, mean, new, 0.9)
    np.testing.assert_allclose([low, high], [new - q, new + q])
    q = sorted(abs(y - mean) / scale)[rank - 1]
    low, high = conformal_interval(y, mean, new, 0.9, "scaled", (scale, new_scale))
    np.testing.assert_allclose([low, high], [new - q * new_scale, new + q * new_scale])


def test_the_scale_of_monte_carlo_predictions_is_their_spread():
    held = MCPrediction.from_samples(RNG.normal(size=(9, 30, 1)))
    new = MCPrediction.from_samples(RNG.normal(size=(9, 4, 1)))
    y = RNG.normal(size=30)
    found = conformal_interval(y, held, new, 0.8, score="scaled")
    arrays = conformal_interval(
        y, held.mean, new.mean, 0.8, score="scaled", scale=(held.std, new.std)
    )
    np.testing.assert_array_equal(found, arrays)
    assert found[0].shape == new.mean.shape


def test_targets_without_their_last_axis_are_not_compared_with_all_rows():
    mean, _, y = regression_of(30)
    flat = conformal_interval(y, mean, mean[:3], 0.9)
    for held, targets in (
        (mean[:, None], y),
        (mean[:, None], y[:, None]),
        (mean, y[:, None]),
    ):
        new = mean[:3].reshape(-1, *held.shape[1:])
        found = conformal_interval(targets, held, new, 0.9)
        assert found[0].shape == new.shape
        np.testing.assert_array_equal(np.ravel(found[0]), flat[0])


def test_scaled_intervals_are_narrower_where_the_scale_is_known():
    scale = RNG.choice([0.1, 1.0], size=4000)
    mean = RNG.normal(size=4000)
    y = mean + scale * RNG.normal(size=4000)
    held, new = slice(0, 2000), slice(2000, None)
    constant = conformal_interval(y[held], mean[held], mean[new], 0.9)
    scaled = conformal_interval(
        y[held], mean[held], mean[new], 0.9, "scaled", (scale[held], scale[new])
    )
    assert np.ptp(constant[1] - constant[0]) < 1e-9
    narrower = np.mean(scaled[1] - scaled[0]) / np.mean(constant[1] - constant[0])
    assert narrower < 0.9


# Sets


def naive_aps(probabilities, u, threshold):
    """The generalised inverse quantile sets of Romano et al., one row at a time."""
    sets = np.zeros(probabilities.shape, bool)
    for row, p, draw in zip(sets, probabilities, u, strict=True):
        order = np.argsort(-p, kind="stable")
        total = np.cumsum(p[order])
        last = int(np.argmax(total >= threshold)) if (total >= threshold).any() else -1
        if last < 0:
            row[:] = True
            continue
        surplus = (total[last] - threshold) / p[order[last]]
        size = last if 1 - draw <= surplus else last + 1
        row[order[:size]] = True
    return sets


def test_aps_is_that_of_the_paper():
    (held, y), (new, _) = classes_of(60), classes_of(40)
    found = conformal_set(y, held, new, 0.8, score="aps", seed=3)
    rng = np.random.default_rng(3)
    u, new_u = rng.random(60), rng.random(40)
    # The score of a label is the smallest threshold whose set holds it.
    scores = []
    for p, label, draw in zip(held, y, u, strict=True):
        more = p[p > p[label]].sum()
        scores.append(more + draw * p[label])
    threshold = sorted(scores)[math.ceil(61 * 0.8) - 1]
    np.testing.assert_array_equal(found, naive_aps(new, new_u, threshold))
    assert found.dtype == bool


def test_lac_is_that_of_the_paper():
    (held, y), (new, _) = classes_of(60), classes_of(40)
    threshold = sorted(1 - p[label] for p, label in zip(held, y, strict=True))
    threshold = threshold[math.ceil(61 * 0.8) - 1]
    found = conformal_set(y, held, new, 0.8)
    np.testing.assert_array_equal(found, 1 - new <= threshold)


def test_lac_sets_are_the_smaller_ones():
    (held, y), (new, _) = classes_of(2000), classes_of(2000)
    lac, aps = (conformal_set(y, held, new, 0.9, score=s) for s in ("lac", "aps"))
    assert lac.sum() < aps.sum()


def test_the_seed_decides_the_draws():
    (held, y), (new, _) = classes_of(60), classes_of(40)
    first, again, other = (
        conformal_set(y, held, new, 0.8, score="aps", seed=seed) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_predictions_of_every_kind_of_class_output_are_taken():
    logits = RNG.normal(size=(5, 80, 3))
    y = RNG.integers(0, 3, 80)
    several = MCPrediction.from_samples(logits, "logits")
    found = conformal_set(y, several, several, 0.9)
    np.testing.assert_array_equal(
        found, conformal_set(np.eye(3)[y], several.mean, several.mean, 0.9)
    )
    binary = MCPrediction.from_samples(logits[..., :1], "binary_logits")
    found = conformal_set(y > 0, binary, binary, 0.9)
    p = binary.mean[:, 0]
    two = np.stack([1 - p, p], axis=-1)
    np.testing.assert_array_equal(found, conformal_set(y > 0, two, two, 0.9))


# The promise


def share_held(way, level, rows, splits=400):
    """Coverage in each of many splits of new data, and the share that is promised."""
    rng = np.random.default_rng(7)
    shares = []
    for split in range(splits):
        if way in ("lac", "aps"):
            p, y = classes_of(2 * rows, rng=rng)
            sets = conformal_set(
                y[:rows], p[:rows], p[rows:], level, score=way, seed=split
            )
            shares.append(set_coverage(y[rows:], sets))
        else:
            mean, scale, y = regression_of(2 * rows, rng=rng)
            scales = (scale[:rows], scale[rows:]) if way == "scaled" else None
            low, high = conformal_interval(
                y[:rows], mean[:rows], mean[rows:], level, way, scales
            )
            shares.append(interval_coverage(y[rows:], low, high))
    return np.array(shares), math.ceil(round((rows + 1) * level, 9)) / (rows + 1)


@pytest.mark.parametrize("level", [0.8, 0.95])
@pytest.mark.parametrize("way", ["lac", "aps", "absolute", "scaled"])
def test_the_level_is_held_whatever_the_distribution(way, level):
    shares, expected = share_held(way, level, rows=30)
    error = shares.std(ddof=1) / np.sqrt(len(shares))
    assert abs(shares.mean() - expected) < 3 * error


def test_ties_make_sets_larger_and_never_smaller():
    # A model that knows nothing: every class has the same probability.
    y = RNG.integers(0, 4, 200)
    flat = np.full((200, 4), 0.25)
    assert conformal_set(y, flat, flat, 0.8).all()
    shares = [
        set_coverage(y, conformal_set(y, flat, flat, 0.8, score="aps", seed=seed))
        for seed in range(50)
    ]
    # Randomised, the sets are no larger than they have to be.
    assert np.mean(shares) == pytest.approx(0.8, abs=0.02)
    errors = np.array([0.0, 1.0] * 20)
    low, high = conformal_interval(errors, np.zeros(40), [0.0], 0.4)
    assert (low, high) == (0, 0)
    assert interval_coverage(errors, 0 * errors, 0 * errors) == 0.5 >= 0.4


# What is refused

HELD, LABELS = classes_of(30)
MEAN, SCALE, TARGETS = regression_of(30)
VALUES = MCPrediction.from_samples(RNG.normal(size=(4, 30, 1)))
AGREED = MCPrediction.from_samples(np.zeros((4, 30, 1)))
CLASSES = MCPrediction.from_samples([HELD, HELD])
MANY = MCPrediction.from_samples(np.full((2, 30, 3), 0.5), "binary")
ONE = MCPrediction.from_samples(np.ones((2, 30, 1)), "probabilities")
NAN, INFINITE = np.where(MEAN > 1, np.nan, MEAN), np.where(MEAN > 1, np.inf, MEAN)

REFUSED = {
    "a level of 0": (lambda: conformal_quantile(MEAN, 0), "`level`.*=0"),
    "a level of 1": (lambda: conformal_quantile(MEAN, 1.0), "`level`.*=1.0"),
    "a level in per cent": (
        lambda: conformal_interval(TARGETS, MEAN, MEAN, 95),
        "`level`.*=95",
    ),
    "no scores": (lambda: conformal_quantile([], 0.5), "`scores`.*one row"),
    "one score": (lambda: conformal_quantile(0.5, 0.5), "`scores`.*one row"),
    "NaN scores": (lambda: conformal_quantile(NAN, 0.5), "`scores`.*NaN"),
    "infinite scores": (lambda: conformal_quantile(INFINITE, 0.5), "`scores`.*finite"),
    "few scores": (lambda: conformal_quantile(MEAN, 0.99), "`scores`.* 99 rows"),
    "few rows": (
        lambda: conformal_interval(TARGETS[:18], MEAN[:18], MEAN),
        "`calibration`.*at least 19 rows.*18 row",
    ),
    "few rows of classes": (
        lambda: conformal_set(LABELS, HELD, HELD, 0.97),
        "`calibration`.*at least 33 rows.*30 row",
    ),
    "no rows": (lambda: conformal_interval([], [], MEAN), "`calibration`.*one row"),
    "other targets": (
        lambda: conformal_interval(TARGETS[1:], MEAN, MEAN),
        r"`y`.*shape \(30,\).*\(29,\)",
    ),
    "two columns for one": (
        lambda: conformal_interval(TARGETS, MEAN[:, None] + [0, 1], MEAN),
        r"`prediction`.*\(30,\)",
    ),
    "NaN targets": (lambda: conformal_interval(NAN, MEAN, MEAN), "`y`.*NaN"),
    "infinite predictions": (
        lambda: conformal_interval(TARGETS, MEAN, INFINITE),
        "`prediction`.*finite",
    ),
    "an unknown score": (
        lambda: conformal_interval(TARGETS, MEAN, MEAN, score="lac"),
        "`score`.*'absolute'",
    ),
    "an unused scale": (
        lambda: conformal_interval(TARGETS, MEAN, MEAN, scale=(SCALE, SCALE)),
        "`scale`.*None",
    ),
    "no scale": (
        lambda: conformal_interval(TARGETS, MEAN, MEAN, score="scaled"),
        "`scale`.*given",
    ),
    "scales of other rows": (
        lambda: conformal_interval(
            TARGETS, MEAN, MEAN[:4], score="scaled", scale=(SCALE, SCALE)
        ),
        r"`scale`.*\(4,\)",
    ),
    "a scale of 0": (
        lambda: conformal_interval(TARGETS, VALUES, AGREED, score="scaled"),
        "`scale`.*positive.*prediction from 0",
    ),
    "classes for an interval": (
        lambda: conformal_interval(LABELS, CLASSES, CLASSES),
        "`calibration`.*conformal_set",
    ),
    "values for a set": (
        lambda: conformal_set(LABELS, VALUES, VALUES),
        "`calibration`.*conformal_interval",
    ),
    "one label": (
        lambda: conformal_set(0 * LABELS, HELD, HELD),
        "`y`.*two classes.*30 label",
    ),
    "one class": (
        lambda: conformal_set(LABELS, ONE, ONE),
        "`calibration`.*two classes",
    ),
    "several questions": (
        lambda: conformal_set(LABELS, MANY, MANY),
        r"`calibration`.*one question a row",
    ),
    "other classes": (
        lambda: conformal_set(LABELS, HELD, np.full((2, 4), 0.25)),
        "`prediction`.*5 classes",
    ),
    "soft labels": (lambda: conformal_set(HELD, HELD, HELD), "`y`.*one-hot"),
    "no probabilities": (
        lambda: conformal_set(LABELS, 2 * HELD, HELD),
        "`calibration`.*probabilities",
    ),
    "an unknown set score": (
        lambda: conformal_set(LABELS, HELD, HELD, score="raps"),
        "`score`.*'lac'.*'aps'",
    ),
    "a negative seed": (lambda: conformal_set(LABELS, HELD, HELD, seed=-1), "`seed`"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_refused(case):
    call, message = REFUSED[case]
    with pytest.raises(ValueError, match=f"(?s)(?=.*Received).*{message}"):
        call()


def test_a_scale_that_is_no_pair_is_refused():
    with pytest.raises(TypeError, match="`scale` must be a pair.*Received"):
        conformal_interval(TARGETS, MEAN, MEAN, score="scaled", scale=SCALE)
