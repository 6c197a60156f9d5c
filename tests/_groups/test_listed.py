"""Lists reach inner layers, and say what is wrong with them."""

import numpy as np
import pytest
from _groups.models import (
    Block,
    Chain,
    Embed,
    WithToken,
    blocks,
    members,
    text_classifier,
)

from keras_finetune._engine import keras, structure
from keras_finetune._groups.layer_groups import layer_groups

layers = keras.layers


def model():
    return text_classifier(WithToken(*blocks(3), name="encoder"))


def check(groups, built):
    keys = [structure.variable_key(v) for group in groups for v in group.variables]
    assert len(set(keys)) == len(keys)
    assert set(keys) == {structure.variable_key(v) for v in built.weights}


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        (["tokens", "encoder", "new"], [["tokens"], ["encoder"], ["new"]]),
        (
            [["tokens", "encoder/cls", "block_0"], ["block_1", "block_2"], "new"],
            [["tokens", "block_0"], ["block_1", "block_2"], ["new"]],
        ),
        (
            ["tokens|cls|block_0/", "block_[12]/", "new/"],
            [["tokens", "block_0"], ["block_1", "block_2"], ["new"]],
        ),
    ],
)
def test_entries_name_inner_layers_or_paths(entries, expected):
    built = model()
    groups = layer_groups(built, entries)
    check(groups, built)
    assert list(members(groups).values()) == expected


def test_an_expression_selects_the_whole_of_an_inner_layer():
    built = model()
    groups = layer_groups(
        built, ["tokens|cls|attention/.*kernel|norm|up/", "down.*bias", "new"]
    )
    check(groups, built)
    assert members(groups)["down.*bias"] == ["down"] * 3
    assert "attention" in members(groups)[groups.names[0]]


def test_layers_of_any_depth_are_entries():
    built = model()
    first, second, third = built.get_layer("encoder").parts()
    inner = [first.attention, first.norm, *first.mlp]
    groups = layer_groups(
        built, [["tokens", "cls", *inner[:2]], inner[2:], second, [third, "new"]]
    )
    check(groups, built)
    # What is in one group as a whole is listed as a whole.
    assert members(groups)[groups.names[0]] == ["tokens", "attention", "norm"]
    assert groups[2].layers == (second,)


def test_a_name_at_an_outer_level_hides_those_inside():
    built = keras.Sequential(
        [
            keras.Input((4,)),
            Chain(layers.Dense(4, name="a"), name="c"),
            layers.Dense(4, name="a"),
            layers.Dense(2, name="b"),
        ]
    )
    groups = layer_groups(built, ["c", "a", "b"])
    assert groups[1].layers == (built.layers[1],)


@pytest.mark.parametrize(
    ("entries", "says"),
    [
        (["tokens", "encdoer", "new"], r"Did you mean 'encoder'\?"),
        (["tokens", "block_9", "new"], "Did you mean 'block_"),
        (["zzz"], "'zzz' matches nothing. There are 'tokens', 'encoder', 'block_0'"),
        (["tokens", "attention", "new"], "3 layers are called 'attention'"),
        (["tokens", "encoder", "block_1", "new"], "In two: encoder/block_1/attention"),
        (["tokens", "block_0", "block_1", "new"], r"Left: encoder \(weights of the la"),
        (
            ["new", "encoder", "tokens"],
            r"Bottom to top: \['tokens', 'encoder', 'new'\]",
        ),
        (["encoder", ["tokens", "new"]], None),
    ],
)
def test_what_is_wrong_is_said(entries, says):
    if says is None:
        assert len(layer_groups(model(), entries)) == 2
        return
    with pytest.raises(ValueError, match=says):
        layer_groups(model(), entries)


def test_a_layer_that_is_not_in_the_model_is_said():
    with pytest.raises(ValueError, match="It is no layer of this model"):
        layer_groups(model(), [Block(name="other"), "new"])


def test_an_order_that_only_a_guess_contradicts_is_taken():
    class Subclassed(keras.Model):
        def __init__(self):
            super().__init__()
            self.second = layers.Dense(2, name="second")
            self.first = layers.Dense(2, name="first")

        def call(self, x):
            return self.second(self.first(x))

    built = Subclassed()
    built(np.zeros((1, 2), "float32"))
    for order in (["first", "second"], ["second", "first"]):
        assert layer_groups(built, order).names == tuple(order)


def test_the_order_within_a_composite_layer_is_not_known():
    built = text_classifier(Chain(*blocks(2), name="encoder"))
    order = ["tokens", "block_1", "block_0", "new"]
    assert layer_groups(built, order).names == tuple(order)


def test_frozen_parts_inside_may_be_left_out():
    inputs = keras.Input((3,), dtype="int32")
    embed = Embed(name="embed")
    x = layers.Flatten()(embed(inputs))
    built = keras.Model(inputs, layers.Dense(2, name="out")(x))
    embed.word.trainable = False
    groups = layer_groups(built, ["positions", "out"])
    assert "word" in [layer.name for layer in groups.rest]
    assert groups[0].parameters == 12
    assert layer_groups(built, groups) is groups


@pytest.mark.parametrize("number", [0, -3, 6, 1_000])
def test_a_number_of_groups_that_the_model_has_not(number):
    with pytest.raises(ValueError, match=f"between 1 and 5.*groups={number}"):
        layer_groups(model(), number)
