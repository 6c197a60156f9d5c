"""Cycles as lists of numbers, without any Keras."""

import pytest

from keras_finetune._schedule import cycles


def test_two_cosines_meet_in_the_middle():
    found = cycles.two_cosines(8, 0.25, 0.0, 1.0, 0.5)
    assert found[:4] == pytest.approx([0.0, 0.5, 1.0, 0.966506351])
    assert found[-1] == pytest.approx(0.533493649)
    assert len(found) == 8


@pytest.mark.parametrize(("share", "ends"), [(0.0, (1.0, 0.0)), (1.0, (0.0, 1.0))])
def test_one_of_two_cosines_can_be_missing(share, ends):
    found = cycles.two_cosines(4, share, 0.0, 1.0, 0.0)
    first, last = ends
    assert found == [cycles.cosine(first, last, t / 4) for t in range(4)]


def test_cycles_follow_each_other_and_the_last_value_holds():
    def cycle(n, number):
        return [float(i) for i in range(n)]

    assert cycles.in_cycles(cycle, [2, 3], None) == [0, 1, 0, 1, 2, 2]
    assert cycles.in_cycles(cycle, [2, 4], 3) == [0, 1, 0, 1, 2, 2, 2]
    numbered = cycles.in_cycles(lambda n, number: [number] * n, [1, 2], None, first=3)
    assert numbered == [3, 4, 4, 4]
    assert cycles.in_cycles(cycle, [], None) == []
    assert cycles.in_cycles(lambda n, number: [], [2, 3], None) == []


def test_pieces_that_are_empty_are_left_out():
    assert cycles.in_pieces([2, 2, 5]) == [2, 3]
    assert cycles.in_pieces([]) == []
