"""Blocks by the names of layers, whatever their words are."""

import pytest
from _groups.models import members

from keras_finetune._engine import keras
from keras_finetune._groups.layer_groups import layer_groups

layers = keras.layers


def chain(*names):
    """Dense layers one after the other, with the names."""
    return keras.Sequential(
        [keras.Input((2,)), *(layers.Dense(2, name=name) for name in names)]
    )


def squeezenet(top):
    """Fire modules as SqueezeNet has them, with a head or with its own classifier."""
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(2, 3, padding="same", name="conv1")(inputs)
    for i in range(2, 6):
        squeezed = layers.Conv2D(2, 1, name=f"fire{i}_squeeze1x1")(x)
        left = layers.Conv2D(2, 1, name=f"fire{i}_expand1x1")(squeezed)
        right = layers.Conv2D(2, 3, padding="same", name=f"fire{i}_expand3x3")(squeezed)
        x = layers.Concatenate(name=f"fire{i}_join")([left, right])
    x = layers.GlobalAveragePooling2D()(layers.Dropout(0.1)(x))
    return keras.Model(inputs, layers.Dense(2, name=top)(x))


@pytest.mark.parametrize("top", ["new", None, "predictions"])
def test_fire_modules_are_whole_and_none_is_in_the_head(top):
    groups = members(layer_groups(squeezenet(top)))
    assert list(groups) == ["conv1", "fire2", "fire3", "fire4", "fire5", "head"]
    assert all(len(groups[f"fire{i}"]) == 3 for i in range(2, 6))
    assert len(groups["head"]) == 1


@pytest.mark.parametrize(
    "pattern",
    ["blocks_{i}_{j}_{part}", "stages_{i}_blocks_{j}_{part}", "layer{i}_{j}_{part}"],
)
def test_the_names_of_timm_tell_their_innermost_blocks(pattern):
    names = [
        pattern.format(i=i, j=j, part=part)
        for i in (1, 2)
        for j in (0, 1)
        for part in ("conv_pw", "conv_dw", "conv_pwl")
    ]
    groups = members(layer_groups(chain("conv_stem", *names, "classifier")))
    assert [len(members) for members in groups.values()] == [1, 3, 3, 3, 3, 1]
    assert [*groups][1] == pattern.format(i=1, j=0, part="").rstrip("_")


def test_what_stands_before_the_blocks_of_its_stage_is_a_group_of_its_own():
    names = ["stem"]
    for i in range(3):
        names += [f"stages_{i}_down"] if i else []
        names += [f"stages_{i}_blocks_{j}_{k}" for j in range(2) for k in "ab"]
    groups = members(layer_groups(chain(*names, "out")))
    assert groups["stages_1_down"] == ["stages_1_down"]
    assert groups["stages_1_blocks_0"] == ["stages_1_blocks_0_a", "stages_1_blocks_0_b"]
    assert len(groups) == 1 + 6 + 2 + 1


def test_numbered_parts_with_layers_between_them_are_no_blocks():
    # GhostNet: two ghost modules in a block, a convolution between them.
    parts = ["ghost1_first", "ghost1_second", "dw", "ghost2_first", "ghost2_second"]
    names = [f"blocks_{i}_{part}" for i in range(3) for part in parts]
    groups = members(layer_groups(chain("stem", *names, "out")))
    assert list(groups) == ["stem", "blocks_0", "blocks_1", "blocks_2", "head"]


def test_numbered_branches_that_run_in_parallel_are_no_blocks():
    inputs = keras.Input((2,))
    x = inputs
    for i in range(3):
        ends = []
        for j in range(2):
            y = layers.Dense(2, name=f"stage{i}_branch{j}_a")(x)
            ends.append(layers.Dense(2, name=f"stage{i}_branch{j}_b")(y))
        x = layers.Concatenate()(ends)
    model = keras.Model(inputs, layers.Dense(2, name="out")(x))
    groups = members(layer_groups(model))
    assert list(groups) == ["stage0", "stage1", "stage2", "head"]


def test_a_number_that_all_names_share_tells_no_block():
    names = [f"net50_stage{i}_{part}" for i in range(3) for part in "ab"]
    groups = layer_groups(chain("net50_first", *names, "net50_last"))
    assert groups.names == ("net50_first", "stage0", "stage1", "stage2", "head")


def test_numbered_layers_of_a_head_are_no_blocks():
    names = [f"block{i}_{part}" for i in range(3) for part in "ab"]
    groups = members(layer_groups(chain(*names, "fc1", "fc2", "predictions")))
    assert groups["head"] == ["fc1", "fc2", "predictions"]


def test_a_convolution_with_its_normalization_after_the_blocks_is_in_the_body():
    inputs = keras.Input((4, 4, 2))
    x = inputs
    for i in range(3):
        x = layers.Conv2D(2, 1, name=f"blocks_{i}_a")(x)
        x = layers.Conv2D(2, 1, name=f"blocks_{i}_b")(x)
    x = layers.Conv2D(2, 1, name="conv_head_conv2d")(x)
    x = layers.BatchNormalization(name="conv_head_bn")(x)
    x = layers.GlobalAveragePooling2D(name="average")(x)
    model = keras.Model(inputs, layers.Dense(2, name="classifier")(x))
    groups = members(layer_groups(model))
    assert groups["conv_head_conv2d"] == ["conv_head_conv2d", "conv_head_bn"]
    assert groups["head"] == ["classifier"]
