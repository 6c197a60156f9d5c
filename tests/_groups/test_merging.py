"""Runs merged into fewer."""

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_finetune._groups import merging
from keras_finetune._groups.merging import balance, costs


@given(st.data())
def test_the_largest_part_is_as_small_as_possible(data):
    sizes = data.draw(st.lists(st.integers(0, 50), min_size=1, max_size=9))
    count = data.draw(st.integers(1, len(sizes)))
    parts = balance(sizes, count)
    assert len(parts) == count
    assert [i for start, stop in parts for i in range(start, stop)] == list(
        range(len(sizes))
    )
    assert all(start < stop for start, stop in parts)
    largest = max(sum(sizes[start:stop]) for start, stop in parts)
    for cuts in itertools.combinations(range(1, len(sizes)), count - 1):
        borders = [0, *cuts, len(sizes)]
        other = [sum(sizes[a:b]) for a, b in itertools.pairwise(borders)]
        assert max(other) >= largest


def test_equal_sizes_make_parts_of_about_one_size():
    lengths = [stop - start for start, stop in balance([1] * 100, 7)]
    assert max(lengths) - min(lengths) <= 1


@pytest.mark.parametrize(("runs", "count"), [(400, 200), (2_000, 10), (8_000, 800)])
def test_few_parts_of_the_sequence_are_looked_at(runs, count, monkeypatch):
    looks = [0]

    class Counted:
        """The functions of `bisect`, which look at log2(n) places a call."""

        def __getattr__(self, name):
            looks[0] += 1
            return getattr(bisect, name)

    bisect = merging.bisect
    monkeypatch.setattr(merging, "bisect", Counted())
    sizes = [random.Random(i).randrange(1, 10**6) for i in range(runs)]
    balance(costs(sizes), count)
    # The bits of the largest part, each tried once with a look for each part.
    bits = sum(costs(sizes)).bit_length()
    assert looks[0] <= (bits + 4) * (count + 1)


def test_depth_counts_as_much_as_parameters():
    # The body of MobileNetV2: most parameters are in the top blocks.
    sizes = [992, 992, 5568, 9456, 10640, 15680, 15680, 21952, 55936, 55936, 55936]
    sizes += [68352, 120768, 120768, 157888, 324160, 324160, 478400, 414720]
    lengths = [stop - start for start, stop in balance(costs(sizes), 3)]
    assert lengths == [11, 5, 3]
    # By parameters alone: 15 blocks in the lowest of three.
    assert balance(sizes, 3)[0] == (0, 15)


def test_weights_of_size_zero_are_balanced_by_depth():
    assert costs([0, 0]) == [1, 1]
