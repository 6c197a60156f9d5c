"""The rules of fine-tuning, as arithmetic."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_finetune._schedule import epochs

lists = st.lists(st.integers(1, 50), min_size=1, max_size=6, unique=True).map(sorted)
small = st.integers(0, 60)


@given(small, st.integers(1, 9), st.integers(0, 6))
def test_stage_by_number(epoch, every, last):
    stage = epochs.stage_at(epoch, every, last)
    expected = sum(1 for k in range(1, last + 1) if k * every <= epoch)
    assert stage == expected


@given(small, lists)
def test_stage_by_list(epoch, every):
    stage = epochs.stage_at(epoch, every, len(every))
    assert stage == sum(1 for start in every if start <= epoch)


@given(st.one_of(st.integers(1, 9), lists), st.integers(0, 6))
def test_starts_are_where_stages_change(every, last):
    if isinstance(every, list):
        last = len(every)
    starts = epochs.starts(every, last)
    assert len(starts) == last + 1
    assert starts[0] == 0
    for stage, start in enumerate(starts):
        assert epochs.stage_at(start, every, last) == stage
        if stage:
            assert epochs.stage_at(start - 1, every, last) == stage - 1


def test_stages_of_a_table():
    assert [epochs.stage_at(e, 2, 2) for e in range(8)] == [0, 0, 1, 1, 2, 2, 2, 2]
    assert [epochs.stage_at(e, [1, 4], 2) for e in range(6)] == [0, 1, 1, 1, 2, 2]
    assert epochs.starts(3, 2) == [0, 3, 6]
    assert epochs.starts([1, 4], 2) == [0, 1, 4]


def test_powers():
    assert epochs.powers(2.0, 4) == [0.125, 0.25, 0.5, 1.0]
    assert epochs.powers(0.5, 3) == [4.0, 2.0, 1.0]
    assert epochs.powers(2.6, 1) == [1.0]


@given(st.floats(0.1, 10.0), st.integers(1, 12))
def test_powers_fall_by_one_factor(decay, n):
    found = epochs.powers(decay, n)
    assert len(found) == n
    assert found[-1] == 1.0
    for low, high in itertools.pairwise(found):
        assert low * decay == pytest.approx(high, rel=1e-12)


@given(st.floats(1e-8, 1.0), st.floats(1.0, 1e4), st.integers(2, 12))
def test_geometric_goes_from_low_to_high(low, ratio, n):
    high = low * ratio
    found = epochs.geometric(low, high, n)
    assert len(found) == n
    assert found[-1] == 1.0
    assert found[0] * high == pytest.approx(low, rel=1e-9)
    assert found == sorted(found)
    steps = [b / a for a, b in itertools.pairwise(found)]
    assert steps == pytest.approx([steps[0]] * (n - 1), rel=1e-9)


def test_geometric_of_one_group_is_the_base_rate():
    assert epochs.geometric(1e-5, 1e-2, 1) == [1.0]


# --- plateaus -------------------------------------------------------------------------


def plateaus(values, mode="min", min_delta=0.0, patience=2):
    plateau = epochs.Plateau(mode, min_delta, patience)
    return [plateau.update(value) for value in values]


def test_plateau():
    assert plateaus([3, 2, 2, 2]) == [False, False, False, True]
    assert plateaus([3, 2, 2, 1, 1, 1]) == [False] * 5 + [True]
    assert plateaus([1, 2, 2, 2], mode="max") == [False, False, False, True]
    # An improvement by exactly `min_delta` is none.
    assert plateaus([1.0, 0.5], min_delta=0.5, patience=1) == [False, True]
    assert plateaus([1.0, 0.25], min_delta=0.5, patience=1) == [False, False]


def test_infinity_can_be_a_best_value():
    inf = float("inf")
    assert plateaus([inf, 1.0, 0.5], patience=1) == [False, False, False]
    assert plateaus([-inf, 1.0], patience=1) == [False, True]


def test_nan_neither_improves_nor_waits():
    nan = float("nan")
    assert plateaus([nan, 2, nan, 2, nan, 2]) == [False] * 5 + [True]
    assert plateaus([nan] * 9, patience=1) == [False] * 9


@given(st.lists(st.floats(-1e6, 1e6), max_size=30), st.integers(1, 4))
def test_a_mirrored_metric_has_the_same_plateaus(values, patience):
    down = plateaus(values, patience=patience)
    assert down == plateaus([-v for v in values], mode="max", patience=patience)


@given(st.lists(st.floats(-1e6, 1e6), max_size=30), st.integers(1, 4))
def test_a_plateau_is_patience_epochs_above_the_best(values, patience):
    best_at = 0
    for i, told in enumerate(plateaus(values, patience=patience)):
        if values[i] < values[best_at]:
            best_at = i
        assert told == (i - best_at >= patience)
