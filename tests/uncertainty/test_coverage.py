"""The share of what comes true inside intervals and sets."""

import numpy as np
import pytest

from keras_finetune.uncertainty import interval_coverage, set_coverage

RNG = np.random.default_rng(0)


def test_interval_coverage_counts_row_by_row():
    y, low = RNG.normal(size=(2, 50))
    high = low + 1
    expected = np.mean([a <= b <= c for a, b, c in zip(low, y, high, strict=True)])
    assert interval_coverage(y, low, high) == expected
    # By hand, (50,) against (50, 1) would count 2,500 pairs.
    for targets in (y, y[:, None]):
        assert interval_coverage(targets, low[:, None], high[:, None]) == expected
        assert interval_coverage(targets, low, high) == expected


def test_ends_belong_to_an_interval():
    assert interval_coverage([0.0, 1.0], [0.0, 0.0], [0.0, 1.0]) == 1


def test_set_coverage_is_the_share_of_labels_in_their_sets():
    sets = RNG.uniform(size=(40, 3)) < 0.5
    y = RNG.integers(0, 3, 40)
    expected = np.mean([row[label] for row, label in zip(sets, y, strict=True)])
    assert set_coverage(y, sets) == expected
    assert set_coverage(np.eye(3)[y], sets) == expected


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: interval_coverage(np.zeros(3), np.zeros(4), np.ones(4)), r"`y`.*\(4,"),
        (lambda: interval_coverage(np.zeros(3), np.zeros(3), np.ones(4)), "`high`"),
        (lambda: interval_coverage(np.zeros(3), np.ones(3), np.zeros(3)), "3 below"),
        (lambda: interval_coverage([], [], []), "`high`.*at least one"),
        (
            lambda: interval_coverage(np.zeros((3, 2)), np.zeros(3), np.ones(3)),
            r"`y`.*\(3,\)",
        ),
        (lambda: interval_coverage([np.nan], [0], [1]), "`y`.*NaN"),
        (lambda: set_coverage([0], [[0.5, 1.0]]), "`sets`.*True or False"),
        (lambda: set_coverage([2], [[True, False]]), "`y`.*from 0 to 1"),
        (lambda: set_coverage([0, 1], [[True, False]]), "`y`"),
    ],
)
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
