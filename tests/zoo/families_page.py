"""The tables of `docs/families.md`, made from the snapshot of the groups.

    python tests/zoo/families_page.py

writes them into the page.
"""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
SNAPSHOT = ROOT / "tests" / "snapshots" / "zoo_groups.txt"
PAGE = ROOT / "docs" / "families.md"

LIBRARIES = {"hf": "hugging_face", "kimm": "kimm"}
WORDS = {
    "albert": "ALBERT",
    "bart": "BART",
    "bert": "BERT",
    "clip": "CLIP",
    "convnext": "ConvNeXt",
    "cspnet": "CSPNet",
    "deberta": "DeBERTa",
    "deit": "DeiT",
    "densenet": "DenseNet",
    "dinov2": "DINOv2",
    "distil bert": "DistilBERT",
    "efficientnet": "EfficientNet",
    "f net": "FNet",
    "gemma": "Gemma",
    "ghostnet": "GhostNet",
    "gpt2": "GPT-2",
    "lite": "Lite",
    "llama": "Llama",
    "lm": "LM",
    "mit": "MiT",
    "mobilenet": "MobileNet",
    "opt": "OPT",
    "resnet": "ResNet",
    "roberta": "RoBERTa",
    "sam": "SAM",
    "swin": "Swin",
    "t5": "T5",
    "v3": "V3",
    "vit": "ViT",
    "whisper": "Whisper",
}


def snapshot() -> dict[str, str]:
    """Return the tables that were read, by family."""
    if not SNAPSHOT.exists():
        return {}
    parts = re.split(r"^# (\w+)\n", SNAPSHOT.read_text(encoding="utf-8"), flags=re.M)
    return dict(zip(parts[1::2], map(str.strip, parts[2::2]), strict=True))


def label(family: str) -> str:
    """Return the name of a family as people write it."""
    words = family.replace("_", " ")
    for word, written in sorted(WORDS.items(), key=lambda item: -len(item[0])):
        words = re.sub(rf"\b{word}\b", written, words)
    return words


def groups(table: str) -> list[str]:
    """Return the names of the groups in a printed table, bottom to top."""
    return [line.split()[0] for line in table.splitlines()[1:]]


def row(family: str, table: str) -> str:
    """Return the line of a family, with the middle of a long list left out."""
    names = groups(table)
    shown = names if len(names) <= 6 else [*names[:3], "", *names[-2:]]
    cells = ", ".join(f"`{name}`" if name else "..." for name in shown)
    return f"| {label(family)} | {len(names)} | {cells} |"


def tables() -> dict[str, str]:
    """Return the table of each library."""
    rows: dict[str, list[str]] = {}
    for family, table in snapshot().items():
        first, _, rest = family.partition("_")
        library = LIBRARIES.get(first, "keras_hub")
        name = rest if first in LIBRARIES else family
        rows.setdefault(library, []).append(row(name, table))
    header = ["| model | groups | bottom to top |", "|---|---|---|"]
    return {library: "\n".join([*header, *lines]) for library, lines in rows.items()}


def filled(page: str) -> str:
    """Return the page with its tables made from the snapshot."""
    for library, table in tables().items():
        begin, end = f"<!-- begin: {library} -->", f"<!-- end: {library} -->"
        before, _, rest = page.partition(begin)
        after = rest.partition(end)[2]
        page = f"{before}{begin}\n{table}\n{end}{after}"
    return page


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
