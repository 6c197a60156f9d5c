"""What names tell of blocks, and how groups get theirs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

HEAD = "head"

# What a layer's name says about the block it is in: a pattern, and the block's name.
# The first row that matches decides. A row exists for a way of naming, not for a model.
_BLOCK_NAMES = tuple(
    (re.compile(pattern, re.IGNORECASE), template)
    for pattern, template in (
        # NASNet: the cell is a suffix, "separable_conv_1_bn_normal_left1_12".
        (
            r"^(?:.*_)?(?:normal|reduction|adjust)_(?:.*?_)?((?:stem_|reduce_)?\d+)$",
            r"cell_\1",
        ),
        # MobileNet: depthwise and pointwise halves, "conv_dw_3_bn" and "conv_pw_3".
        (r"^conv_(?:dw|pw|pad)_(\d+)(?=_|$)", r"block_\1"),
        # MobileNetV2 and V3: "expanded_conv_3_squeeze_excite_conv_1".
        (r"^(expanded_conv(?:_\d+)?)(?=_|$)", r"\1"),
        # InceptionResNetV2: "block35_7_conv" is the seventh block of its kind.
        (r"^(block(?:35|17|8)_\d+)_(?:mixed|conv|ac)$", r"\1"),
        # "block5_conv1", "conv4_block6_2_bn", "stage2_unit1_bn1",
        # "convnext_tiny_stage_2_block_5_layernorm", "BlockGroup2__block_0__conv_1".
        (
            r"^((?:.*?_)??(?:conv\d+_+)?{numbered}(?:_+{numbered})*)(?=_|$)".format(
                numbered=r"[a-z]*(?:stage|block|unit|cell|group|layer)_?\d+[a-z]?"
            ),
            r"\1",
        ),
        # The first convolution of many, and EfficientNet's last: "stem_bn", "top_conv".
        (r"^((?:.*?_)??stem)(?=_|\d|$)", r"\1"),
        (r"^(top)_(?:conv|bn|activation)$", r"\1"),
        # "conv1_bn", "Conv_1", "conv_7b_ac", "pool3_conv", "mixed10", "mixed_5b".
        (r"^((?:conv|pool|mixed)_?\d+[a-z]?)(?=_|$)", r"\1"),
    )
)

_BLOCK_WORD = re.compile(
    r"(?:[a-z]*(?:stage|block|unit|cell|group|layer)|conv|pool|mixed|stem|expanded)"
    r"\d*[a-z]?$",
    re.IGNORECASE,
)


def block_name(layer: Any) -> str | None:
    """The block that a layer's name speaks of."""
    if not is_named_by_keras(layer):
        name = layer.name.replace("/", "_")
        for pattern, template in _BLOCK_NAMES:
            if match := pattern.search(name):
                return match.expand(template)
    return None


def is_named_by_keras(layer: Any) -> bool:
    """Whether a layer bears the name that Keras gives: its class and a number."""
    base = re.sub(r"_\d+$", "", layer.name)
    return base.replace("_", "") == type(layer).__name__.replace("_", "").lower()


def common_prefix(names: list[str]) -> str:
    """What all names begin with that says nothing of the block: `"convnext_tiny_"`."""
    prefix = ""
    while len(names) > 1:
        words = {name[len(prefix) :].partition("_")[:2] for name in names}
        word, bar = words.pop()
        if words or not bar or _BLOCK_WORD.match(word):
            break
        prefix += word + bar
    return prefix


def unique(names: Sequence[str]) -> list[str]:
    """Numbers the names that come again: `"block1"`, `"block1_2"`."""
    taken: set[str] = set()
    found = []
    for name in names:
        candidate, number = name, 1
        while candidate in taken or (number > 1 and candidate in names):
            number += 1
            candidate = f"{name}_{number}"
        taken.add(candidate)
        found.append(candidate)
    return found


def first_to_last(names: Sequence[str]) -> str:
    """One name for several: `"block1..block3"`."""
    return names[0] if len(names) == 1 else f"{names[0]}..{names[-1]}"
