"""Every notebook runs from beginning to end, in a small size."""

import importlib.util
import os
import re
from pathlib import Path

import pytest

from keras_finetune import _engine

FOLDER = Path(__file__).resolve().parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
# Three of them show gradients by hand with TensorFlow; one lane of Keras 3 is enough.
ON_KERAS_2 = "05_weight_norms"


def over_notebooks(function):
    paths = [pytest.param(path, id=path.stem) for path in NOTEBOOKS]
    return pytest.mark.parametrize("path", paths)(function)


def build():
    spec = importlib.util.spec_from_file_location("build", FOLDER / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def runs_here(path):
    lane = os.environ.get("TOX_ENV_NAME")
    if _engine.KERAS_3:
        return _engine.backend() == "tensorflow" and lane != "keras3-oldest"
    addons = importlib.util.find_spec("tensorflow_addons")
    return path.stem == ON_KERAS_2 and addons is not None


def test_the_seeds_are_there():
    numbers = [path.stem[:2] for path in NOTEBOOKS]
    assert numbers[:5] == ["01", "02", "03", "04", "05"]


@over_notebooks
def test_runs(path, monkeypatch):
    if not runs_here(path):
        pytest.skip("runs on the newest Keras 3 with TensorFlow, one also on Keras 2")
    monkeypatch.setenv("KERAS_FINETUNE_SMOKE", "1")
    notebook = build().execute(path, timeout=300)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))


@over_notebooks
def test_committed_outputs_are_whole_small_and_of_no_machine(path):
    import nbformat

    notebook = nbformat.read(str(path), as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    assert {output.output_type for output in outputs} <= {
        "stream",
        "display_data",
        "execute_result",
    }
    assert any("image/png" in output.get("data", {}) for output in outputs)
    text = path.read_text(encoding="utf-8")
    assert len(text) < 300_000
    assert not re.search(r"/(home|root|tmp|work|Users|var|usr|opt)/|[A-Z]:\\\\", text)
