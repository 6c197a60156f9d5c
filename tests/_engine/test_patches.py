"""A patch lasts for its block; a block that fails has changed nothing."""

import pytest

from keras_finetune._engine import keras
from keras_finetune._engine.patches import (
    Patch,
    Snapshot,
    patched,
    unchanged_if_it_fails,
)


class Owner:
    of_class = "class"

    def __init__(self):
        self.own = "own"


class Failed(Exception):
    pass


def fails(block, error):
    with pytest.raises(error):
        block()


@pytest.mark.parametrize("error", [None, Failed, KeyboardInterrupt])
def test_what_was_there_before_is_there_after(error):
    owner = Owner()
    patches = [
        Patch(owner, "own", 1),
        Patch(owner, "of_class", 2),
        Patch(owner, "b", 3),
    ]
    try:
        with patched(patches):
            assert (owner.own, owner.of_class, owner.b) == (1, 2, 3)
            if error:
                raise error
    except (Failed, KeyboardInterrupt):
        pass
    assert vars(owner) == {"own": "own"}
    assert owner.of_class == "class"


def test_a_name_that_is_patched_twice_ends_with_its_first_value():
    owner = Owner()
    with patched([Patch(owner, "own", 1), Patch(owner, "own", 2)]):
        assert owner.own == 2
        with patched([Patch(owner, "own", 3)]):
            assert owner.own == 3
        assert owner.own == 2
    assert owner.own == "own"


def test_an_attribute_that_the_block_deletes_is_no_error():
    owner = Owner()
    with patched([Patch(owner, "new", 1)]):
        del owner.new
    assert vars(owner) == {"own": "own"}


def test_patches_that_cannot_all_be_made_are_taken_off():
    owner = Owner()
    without_dict = object()

    def block():
        with patched([Patch(owner, "own", 1), Patch(without_dict, "new", 2)]):
            pytest.fail("the block ran")

    fails(block, AttributeError)
    assert vars(owner) == {"own": "own"}


def test_keras_does_not_track_a_patch():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    count = len(model.weights)
    other = keras.layers.Dense(3)
    other.build((None, 2))
    with patched([Patch(model, "other", other)]):
        assert model.other is other
        assert len(model.weights) == count
        assert other not in list(model._flatten_layers())
    assert not hasattr(model, "other")


def tracks_nothing(optimizer, variables):
    raise AssertionError("there is no optimizer")


def nested():
    return {"list": [1], "dict": {"a": 1}, "number": 1}


@pytest.mark.parametrize("error", [Failed, KeyboardInterrupt])
def test_dictionaries_are_as_before_if_the_block_fails(error):
    one, other = nested(), nested()

    def block():
        with unchanged_if_it_fails(Snapshot([], tracks_nothing, one, other)):
            one["list"].append(2)
            one["dict"]["b"] = 2
            del one["number"]
            other["new"] = 1
            raise error

    fails(block, error)
    assert one == other == nested()


def test_dictionaries_keep_what_a_block_does_that_succeeds():
    one = nested()
    held = one["list"]
    with unchanged_if_it_fails(Snapshot([], tracks_nothing, one)):
        one["list"].append(2)
        one["new"] = 1
    assert one == {**nested(), "list": [1, 2], "new": 1}
    assert one["list"] is held


class Optimizer:
    """The attributes of an optimizer that count here."""

    def __init__(self):
        self._variables = ["iterations", "momentum"]
        self.built = False


@pytest.mark.parametrize("error", [Failed, KeyboardInterrupt])
def test_an_optimizer_is_as_before_if_the_block_fails(error):
    optimizer, inner, waiting = Optimizer(), Optimizer(), {"key": ["slot"]}
    tracked = []

    def block():
        snapshot = Snapshot(
            [optimizer, inner], lambda *given: tracked.append(given), waiting
        )
        with unchanged_if_it_fails(snapshot):
            optimizer.built = True
            inner._variables.append("velocity")
            optimizer._variables = []
            waiting.clear()
            raise error

    fails(block, error)
    for one in (optimizer, inner):
        assert vars(one) == vars(Optimizer())
    assert waiting == {"key": ["slot"]}
    # Keras keeps lists of its own beside the attribute.
    assert tracked == [(one, ["iterations", "momentum"]) for one in (optimizer, inner)]


def test_an_optimizer_keeps_what_a_block_does_that_succeeds():
    optimizer = Optimizer()
    with unchanged_if_it_fails(Snapshot([optimizer], tracks_nothing)):
        optimizer.built = True
    assert optimizer.built
