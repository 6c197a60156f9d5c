"""Docstrings as Keras writes them, made readable for mkdocstrings.

Keras has `Example:` and `References:` above text that is not indented; the Google style
that griffe reads knows neither. The first becomes its `Examples:` section, all other
headings of that kind become bold lines of Markdown.
"""

from __future__ import annotations

import re
import textwrap
from typing import Any

import griffe

_HEADINGS = ("Call arguments", "Input shape", "Output shape", "References")


class KerasDocstrings(griffe.Extension):
    """Rewrites each docstring before it is parsed."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = translate(obj.docstring.value)


def translate(text: str) -> str:
    """The same docstring in the Google style: sections indented, the rest Markdown."""
    headings = "|".join(("Example", *_HEADINGS))
    parts = re.split(rf"^({headings}):\n", text, flags=re.M)
    translated = [parts[0]]
    for heading, body in zip(parts[1::2], parts[2::2], strict=True):
        # Another section may follow, at the margin.
        own, *rest = re.split(r"^(?=[A-Z][a-z]+:\n)", body, maxsplit=1, flags=re.M)
        own = textwrap.dedent(own).strip("\n")
        if heading == "Example":
            translated += ["Examples:\n", textwrap.indent(own, "    ")]
        else:
            translated += [f"**{heading}**\n\n", own]
        translated += ["\n\n", *rest]
    return "".join(translated).rstrip()
