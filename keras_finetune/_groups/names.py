"""What names tell of blocks, and how groups get theirs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

HEAD = "head"


class Prefix(NamedTuple):
    """The beginning of a name, up to a number: `"stages_0_blocks_1"`.

    Args:
        text: The beginning itself.
        series: The same with `#` for each number: `"stages_#_blocks_#"`.
    """

    text: str
    series: str


_WORD = re.compile(r"[A-Za-z0-9]+")
_NUMBERED = re.compile(r"([A-Za-z]*?)\d+[a-z]?$")
# "conv2d" counts dimensions.
_DIMENSIONS = re.compile(r"[123]d$", re.IGNORECASE)
# New heads are numbered too: "fc1", "head_2".
_NO_BLOCK = re.compile(
    r"(heads?|fc|out|outputs?|classifier|classes|logits?|pred|predictions?)\d*$",
    re.IGNORECASE,
)

# Ways of naming that are no numbered beginning: a pattern, and the block's name.
_SPECIAL = tuple(
    (re.compile(pattern), template)
    for pattern, template in (
        # NASNet: the cell is a suffix, "separable_conv_1_bn_normal_left1_12".
        (
            r"^(?:.*_)?(?:normal|reduction|adjust)_(?:.*?_)?((?:stem_|reduce_)?\d+)$",
            r"cell_\1",
        ),
        # MobileNet: depthwise and pointwise halves, "conv_dw_3_bn" and "conv_pw_3".
        (r"^conv_(?:dw|pw|pad)_(\d+)(?=_|$)", r"block_\1"),
        # InceptionResNetV2: "block35_7_conv" is the only name in the seventh block.
        (r"^(block(?:35|17|8)_\d+)_(?:mixed|conv|ac)$", r"\1"),
        # MobileNetV2 and V3: the first of the "expanded_conv_3" has no number.
        (r"^(expanded_conv)(?=_[a-z]|/)", r"\1"),
        # The first convolution of many, and EfficientNet's last: "stem_bn", "top_conv".
        (r"^((?:.*?_)??stem)(?=_|\d|$)", r"\1"),
        (r"^(top)_(?:conv|bn|activation)$", r"\1"),
    )
)

# A layer that is a block by itself has a number after one of these words: the longest
# beginning that ends so, else the shortest.
_SINGLE = (
    re.compile(r"(?:stage|block|unit|cell|group|layer)s?_?\d+[a-z]?$", re.IGNORECASE),
    re.compile(r"^(?:conv|pool|mixed)_?\d+[a-z]?$", re.IGNORECASE),
)

_BLOCK_WORD = re.compile(
    r"(?:[a-z]*(?:stage|block|unit|cell|group|layer)|conv|pool|mixed|stem|expanded)"
    r"s?\d*[a-z]?$",
    re.IGNORECASE,
)


def special_block(name: str) -> str | None:
    """Return the block that a name tells in a way of its own."""
    for pattern, template in _SPECIAL:
        if match := pattern.search(name.replace("/", "_")):
            return match.expand(template)
    return None


def prefixes(name: str) -> list[Prefix]:
    """Return the beginnings of a name that end in a number, shortest first.

    Example:

    >>> [prefix.text for prefix in prefixes("stages_0_blocks_1_conv2d")]
    ['stages_0', 'stages_0_blocks_1']
    """
    found = []
    series = ""
    for word in _WORD.finditer(name):
        number = _NUMBERED.match(word[0])
        if number and _DIMENSIONS.search(word[0]):
            number = None
        if _NO_BLOCK.match(word[0]):
            break
        series += f"_{number[1]}#" if number else f"_{word[0]}"
        if number:
            found.append(Prefix(name[: word.end()], series.lower()))
    return found


def single_block(name: str) -> str | None:
    """Return the block that a layer is by itself, by a word and a number."""
    texts = [prefix.text for prefix in prefixes(name.replace("/", "_"))]
    longest = [text for text in reversed(texts) if _SINGLE[0].search(text)]
    shortest = [text for text in texts if _SINGLE[1].search(text)]
    return next(iter(longest + shortest), None)


def is_named_by_keras(layer: Any) -> bool:
    """Return whether a layer has the name that Keras gives: its class and a number."""
    base = re.sub(r"_\d+$", "", layer.name)
    return base.replace("_", "") == type(layer).__name__.replace("_", "").lower()


def common_prefix(names: list[str]) -> str:
    """Return what all names begin with that says nothing: `"convnext_tiny_"`."""
    prefix = ""
    while len(names) > 1:
        words = {name[len(prefix) :].partition("_")[:2] for name in names}
        word, bar = words.pop()
        if words or not bar or _BLOCK_WORD.match(word):
            break
        if any(not name[len(prefix + word + bar) :][:1].isalpha() for name in names):
            # What is left must be more than a number.
            break
        prefix += word + bar
    return prefix


def unique(names: Sequence[str]) -> list[str]:
    """Return number the names that come again: `"block1"`, `"block1_2"`."""
    all_names, taken = set(names), set[str]()
    last: dict[str, int] = {}
    found = []
    for name in names:
        candidate, number = name, last.get(name, 1)
        while candidate in taken or (number > 1 and candidate in all_names):
            number += 1
            candidate = f"{name}_{number}"
        last[name] = number
        taken.add(candidate)
        found.append(candidate)
    return found


def first_to_last(names: Sequence[str]) -> str:
    """Return one name for several: `"block1..block3"`."""
    return names[0] if len(names) == 1 else f"{names[0]}..{names[-1]}"
