"""The automatic groups of the families that people fine-tune, read by a person.

Run `pytest tests/zoo` where KerasHub and kimm, or transformers on Keras 2, are there.
To write the snapshot again: `KERAS_FINETUNE_WRITE_SNAPSHOTS=1 pytest tests/zoo`.
"""

import os
import re
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from families import FAMILIES

from keras_finetune._engine import keras, structure
from keras_finetune._groups.layer_groups import layer_groups

SNAPSHOT = Path(__file__).parents[1] / "snapshots" / "zoo_groups.txt"


def tables():
    """The tables that were read, by family."""
    if not SNAPSHOT.exists():
        return {}
    parts = re.split(r"^# (\w+)\n", SNAPSHOT.read_text(encoding="utf-8"), flags=re.M)
    return dict(zip(parts[1::2], map(str.strip, parts[2::2]), strict=True))


def test_families_are_there():
    assert FAMILIES, "Neither KerasHub nor kimm nor transformers can be imported."


@pytest.mark.parametrize("name", FAMILIES)
def test_groups_are_as_a_fine_tuner_would_draw_them(name):
    keras.backend.clear_session()
    model = FAMILIES[name]()
    groups = layer_groups(model)
    keys = [structure.variable_key(v) for group in groups for v in group.variables]
    assert len(set(keys)) == len(keys)
    assert set(keys) == {structure.variable_key(v) for v in structure.weights(model)}
    for number in range(1, len(groups) + 1):
        assert len(layer_groups(model, number)) == number
    known = tables()
    if os.environ.get("KERAS_FINETUNE_WRITE_SNAPSHOTS"):
        known[name] = str(groups)
        text = "\n\n".join(f"# {n}\n{known[n]}" for n in sorted(known))
        SNAPSHOT.write_text(text + "\n", encoding="utf-8")
    assert known[name] == str(groups)
