"""Composite layers that hold the blocks of a body are taken apart."""

import pytest
from _groups.models import (
    CONTAINERS,
    Attend,
    Block,
    Chain,
    InAttributes,
    InTuple,
    WithToken,
    blocks,
    members,
    text_classifier,
)

from keras_finetune._engine import keras, structure
from keras_finetune._groups.containers import Containers
from keras_finetune._groups.layer_groups import layer_groups

layers = keras.layers
BLOCKS = {f"block_{i}": [f"block_{i}"] for i in range(4)}


@pytest.mark.parametrize("kind", CONTAINERS)
def test_blocks_are_found_wherever_a_layer_holds_them(kind):
    model = text_classifier(kind(*blocks(4), name="encoder"))
    expected = {"tokens": ["tokens"], **BLOCKS, "head": ["new"]}
    assert members(layer_groups(model)) == expected


@pytest.mark.parametrize("outer", [Chain, InTuple])
def test_blocks_are_found_two_levels_down(outer):
    stages = [Chain(*blocks(2), name=f"stage_{i}") for i in range(2)]
    model = text_classifier(outer(*stages, name="encoder"))
    assert list(members(layer_groups(model))) == [
        "tokens",
        "stage_0_block_0",
        "stage_0_block_1",
        "stage_1_block_0",
        "stage_1_block_1",
        "head",
    ]


@pytest.mark.slow
def test_a_small_stage_is_taken_apart_as_a_large_one_beside_it_is():
    stages = [Chain(*blocks(n), name=f"stage_{n}") for n in (2, 9)]
    model = text_classifier(Chain(*stages, name="encoder"))
    assert len(layer_groups(model)) == 2 + 11


def test_weights_of_the_container_itself_are_at_its_bottom():
    encoder = WithToken(*blocks(4), name="encoder")
    groups = layer_groups(text_classifier(encoder))
    assert groups.group_of(encoder.own).name == "block_0"
    assert members(groups)["block_0"] == ["block_0"]


@pytest.mark.parametrize(
    "inner",
    [
        lambda name: Block(name=name),
        lambda name: InAttributes(Block(name="a"), Block(name="b"), name=name),
        lambda name: Chain(Attend(name="a"), Attend(name="b"), name=name),
        lambda name: Chain(layers.Dense(4), layers.Dense(4), name=name),
    ],
    ids=["block", "two attributes", "two attentions", "two dense layers"],
)
def test_blocks_themselves_are_not_taken_apart(inner):
    model = text_classifier(Chain(*(inner(f"block_{i}") for i in range(3)), name="e"))
    assert list(members(layer_groups(model))) == [
        "tokens",
        "block_0",
        "block_1",
        "block_2",
        "head",
    ]


def test_experts_and_branches_are_parts_of_one_block():
    class Experts(Chain):
        def hold(self, parts):
            self.experts = list(parts)

        def parts(self):
            return self.experts

    model = text_classifier(Experts(*blocks(4), name="mixture"))
    assert members(layer_groups(model)) == {
        "tokens": ["tokens"],
        "mixture": ["mixture"],
        "head": ["new"],
    }


def test_a_container_in_a_small_part_of_the_model_stays_whole():
    inputs = keras.Input((4,))
    x = Chain(*blocks(2), name="small")(inputs)
    for i in range(3):
        x = layers.Dense(40, name=f"large{i}")(x)
    model = keras.Model(inputs, layers.Dense(2, name="out")(x))
    containers = Containers(model)
    assert not any(map(containers, structure.all_layers(model)))


def test_a_wrapped_backbone_is_taken_apart():
    backbone = keras.Sequential(
        [
            keras.Input((4,)),
            *(layers.Dense(4, name=f"block{i}_{j}") for i in (1, 2) for j in "ab"),
        ],
        name="backbone",
    )
    inputs = keras.Input((3, 4))
    x = layers.TimeDistributed(backbone, name="frames")(inputs)
    x = layers.GlobalAveragePooling1D()(x)
    model = keras.Model(inputs, layers.Dense(2, name="new")(x))
    assert members(layer_groups(model)) == {
        "block1": ["block1_a", "block1_b"],
        "block2": ["block2_a", "block2_b"],
        "head": ["new"],
    }


def test_a_feed_forward_network_in_a_block_stays_with_it():
    class Forward(Chain):
        def hold(self, parts):
            self.network = keras.Sequential(list(parts), name="network")

        def parts(self):
            return [self.network]

    inputs = keras.Input((4,))
    x = inputs
    for i in range(2):
        x = Forward(layers.Dense(8), layers.Dense(4), name=f"block_{i}")(x)
    model = keras.Model(inputs, layers.Dense(2, name="out")(x))
    assert members(layer_groups(model)) == {
        "block_0": ["block_0"],
        "block_1": ["block_1"],
        "head": ["out"],
    }
