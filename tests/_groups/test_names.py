"""What names tell of blocks."""

import pytest

from keras_finetune._groups.names import (
    common_prefix,
    first_to_last,
    prefixes,
    single_block,
    special_block,
    unique,
)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("block5_conv1", ["block5", "block5_conv1"]),
        ("conv4_block6_2_bn", ["conv4", "conv4_block6", "conv4_block6_2"]),
        ("fire2_squeeze1x1", ["fire2"]),
        ("blocks_2_1_conv_pw_conv2d", ["blocks_2", "blocks_2_1"]),
        ("stages_0_blocks_1_norm", ["stages_0", "stages_0_blocks_1"]),
        ("layer_._11", ["layer_._11"]),
        ("encoder_layers_3", ["encoder_layers_3"]),
        ("inception_3a_5x5_reduce", ["inception_3a"]),
        ("Mixed_5b_Branch_0", ["Mixed_5b", "Mixed_5b_Branch_0"]),
        ("predictions", []),
        ("fc1", []),
        ("head_2_dense", []),
        ("conv2d", []),
    ],
)
def test_beginnings_of_a_name_that_end_in_a_number(name, expected):
    assert [prefix.text for prefix in prefixes(name)] == expected


def test_a_series_is_the_same_whatever_the_numbers_are():
    series = {prefixes(f"stage{i}_unit{i + 1}_conv")[1].series for i in range(12)}
    assert len(series) == 1


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("separable_conv_1_bn_normal_left1_12", "cell_12"),
        ("adjust_conv_projection_reduce_8", "cell_reduce_8"),
        ("conv_pw_3_relu", "block_3"),
        ("expanded_conv_depthwise", "expanded_conv"),
        ("block35_7_mixed", "block35_7"),
        ("stem_bn", "stem"),
        ("convnext_tiny_stem", "convnext_tiny_stem"),
        ("top_conv", "top"),
        ("block5_conv1", None),
        ("dense", None),
    ],
)
def test_ways_of_naming_that_are_no_numbered_beginning(name, expected):
    assert special_block(name) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("transformer_layer_3", "transformer_layer_3"),
        ("stage2_unit1_bn1", "stage2_unit1"),
        ("conv1_bn", "conv1"),
        ("pool3_conv", "pool3"),
        ("conv_7b_ac", "conv_7b"),
        ("mixed10", "mixed10"),
        ("dense_3", None),
        ("fc2", None),
    ],
)
def test_a_single_layer_is_a_block_by_a_known_word(name, expected):
    assert single_block(name) == expected


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["convnext_tiny_stage_0", "convnext_tiny_stem"], "convnext_tiny_"),
        (["transformer_layer_0", "transformer_layer_1"], "transformer_"),
        (["hierarchical_encoder_0_0", "hierarchical_encoder_0_1"], "hierarchical_"),
        (["block1", "block2"], ""),
        (["fire2", "conv1"], ""),
        (["h_._0", "h_._1"], ""),
        (["only_one"], ""),
    ],
)
def test_what_all_blocks_begin_with_is_left_out(names, expected):
    assert common_prefix(names) == expected


def test_names_that_come_again_are_numbered():
    assert unique(["a", "a", "a_2", "b", "a"]) == ["a", "a_3", "a_2", "b", "a_4"]


def test_one_name_for_several():
    assert first_to_last(["block1"]) == "block1"
    assert first_to_last(["block1", "block2", "block3"]) == "block1..block3"
