"""The automatic groups of the families that people fine-tune, read by a person.

Run `pytest tests/zoo` where KerasHub and kimm, or transformers on Keras 2, are there.
To write the snapshot again: `KERAS_FINETUNE_WRITE_SNAPSHOTS=1 pytest tests/zoo`, and
the tables of the documentation from it: `python tests/zoo/families_page.py`.
"""

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from families import FAMILIES
from families_page import PAGE, SNAPSHOT, filled, snapshot

from keras_finetune._engine import keras, structure
from keras_finetune._groups.layer_groups import layer_groups


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
    known = snapshot()
    if os.environ.get("KERAS_FINETUNE_WRITE_SNAPSHOTS"):
        known[name] = str(groups)
        text = "\n\n".join(f"# {n}\n{known[n]}" for n in sorted(known))
        SNAPSHOT.write_text(text + "\n", encoding="utf-8")
    assert known[name] == str(groups)


def test_the_page_has_the_groups_of_the_snapshot():
    page = PAGE.read_text(encoding="utf-8")
    assert filled(page) == page
