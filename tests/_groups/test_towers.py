"""Towers beside each other, as CLIP's or those of a model for texts and images."""

import itertools

import pytest
from _groups.models import members

from keras_finetune._engine import keras
from keras_finetune._groups.layer_groups import layer_groups

layers = keras.layers


def tower(count, word="tower", name=None, reads=1):
    """Blocks of two layers each, in a model of its own."""
    inputs = [keras.Input((4,)) for _ in range(reads)]
    x = inputs[0]
    for i in range(count):
        y = layers.Dense(8, name=f"{word}_{i}_up")(x)
        x = layers.Add()([x, layers.Dense(4, name=f"{word}_{i}_down")(y)])
        if i == 0:
            x = layers.Add()([x, *inputs[1:]]) if reads > 1 else x
    return keras.Model(inputs if reads > 1 else inputs[0], x, name=name or word)


def joined(*towers):
    """Inputs of towers, and their outputs in one tensor."""
    inputs = [keras.Input((4,)) for _ in towers]
    outputs = [part(x) for part, x in zip(towers, inputs, strict=True)]
    return inputs, layers.Concatenate()(outputs)


def classifier(inputs, x):
    return keras.Model(inputs, layers.Dense(2, name="new")(x))


def up(group):
    return [name for name in group if name.endswith("_up")]


def test_blocks_of_one_height_train_together():
    model = classifier(*joined(tower(3, name="left"), tower(3, name="right")))
    groups = layer_groups(model)
    assert groups.names == ("tower_0", "tower_1", "tower_2", "head")
    found = members(groups)
    for i in range(3):
        block = [f"tower_{i}_up", f"tower_{i}_down"]
        assert found[f"tower_{i}"] == [*block, *block]
    assert found["head"] == ["new"]
    assert len({id(x) for group in groups for x in group.layers if x.weights}) == 13


def test_towers_of_other_heights_end_together():
    model = classifier(*joined(tower(4, "image"), tower(2, "text"), tower(3, "sound")))
    assert layer_groups(model).names == (
        "image_0",
        "image_1+sound_0",
        "image_2+text_0+sound_1",
        "image_3+text_1+sound_2",
        "head",
    )
    assert layer_groups(model, 3).names == (
        "image_0..image_1+sound_0",
        "image_2+text_0+sound_1..image_3+text_1+sound_2",
        "head",
    )
    assert layer_groups(model)[1].key == "image_1-sound_0"


def test_blocks_that_read_from_both_follow():
    inputs, x = joined(tower(2, "image"), tower(2, "text"))
    fusion = tower(2, "fusion")
    model = classifier(inputs, fusion(layers.Dense(4, name="project")(x)))
    names = layer_groups(model).names
    assert names[:2] == ("image_0+text_0", "image_1+text_1")
    assert names[-3:] == ("fusion_0", "fusion_1", "head")


def test_a_decoder_is_above_its_encoder():
    inputs = [keras.Input((4,)), keras.Input((4,))]
    encoded = tower(2, "encoder")(inputs[0])
    decoded = tower(3, "decoder", reads=2)([inputs[1], encoded])
    names = layer_groups(classifier(inputs, decoded)).names
    assert names == (
        *("encoder_0", "encoder_1"),
        *("decoder_0", "decoder_1", "decoder_2", "head"),
    )


@pytest.mark.parametrize("first", [True, False])
def test_a_branch_of_one_block_stays_apart(first):
    parts = [tower(1, "data"), tower(3)]
    model = classifier(*joined(*(parts if first else parts[::-1])))
    groups = layer_groups(model)
    assert not any("+" in name for name in groups.names)
    blocks = [up(names) for names in members(groups).values() if up(names)]
    assert sorted(itertools.chain(*blocks)) == [
        *("data_0_up", "tower_0_up", "tower_1_up", "tower_2_up")
    ]
    assert all(len(block) == 1 for block in blocks)
