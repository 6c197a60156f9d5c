"""Every notebook runs from beginning to end, in a small size."""

import importlib.util
import os
import re
from pathlib import Path

import numpy as np
import pytest

from keras_finetune import _engine

FOLDER = Path(__file__).resolve().parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
ON_KERAS_2 = "05_weight_norms"
# A minute of compiling for what tests/seeds/test_s1_transfer_learning.py has there too.
NOT_ON_JAX = "02_transfer_learning"

# Of dropout: the committed outputs have TensorFlow's.
NOISE = 0.05

# What a small run says as well as the whole one: the numbers in the lines that start
# so, and how far they may be from those of the committed outputs.
KEY_NUMBERS = {
    "01_bias_only": {
        "115 of": 0,
        "Largest change of a kernel:": 0,
        "Largest difference between callback and loop:": 0,
    },
    "02_transfer_learning": {"B built on a clone of A  changes A by at most": 0},
    "03_frozen_dropout": {
        "frozen by hand, fit:": NOISE,
        "frozen by hand, evaluate:": 1e-6,
        "keras        2.": NOISE,
        "inference    1.": NOISE,
    },
    "04_unfreezing_without_collapse": {"A model that knows nothing": 1e-4},
    "05_weight_norms": {"largest relative difference to the norm by hand:": 1e-6},
    "06_uncertainty": {"<MCPrediction: 500 samples": 0},
}

# Numbers of the committed outputs that a page quotes: its words, the notebook, and
# where they stand in it.
QUOTED = (
    (
        "docs/features/gradual_unfreeze.md",
        r"accuracy of (\S+) with `\"inference\"` against (\S+) with `\"keras\"`",
        "03_frozen_dropout",
        (r"^inference +\S+ +(\S+) +\S+$", r"^keras +\S+ +(\S+) +\S+$"),
    ),
)

NUMBER = r"[-+]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?"
# The source of the images, and what only the log of TensorFlow says.
OF_THE_MACHINE = ("Data:", "keras.datasets", "Keras ")


def over_notebooks(function):
    paths = [pytest.param(path, id=path.stem) for path in NOTEBOOKS]
    return pytest.mark.parametrize("path", paths)(function)


def build():
    spec = importlib.util.spec_from_file_location("build", FOLDER / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def needs_tensorflow(path):
    """Whether a notebook shows gradients by hand, with TensorFlow's tape."""
    return "import tensorflow" in path.read_text(encoding="utf-8")


def runs_here(path):
    lane = os.environ.get("TOX_ENV_NAME")
    if _engine.KERAS_3:
        fits = {
            "tensorflow": lane != "keras3-oldest",
            "jax": not needs_tensorflow(path) and path.stem != NOT_ON_JAX,
            "torch": not needs_tensorflow(path),
        }
        return fits[_engine.backend()]
    addons = importlib.util.find_spec("tensorflow_addons")
    return path.stem == ON_KERAS_2 and addons is not None


def test_the_seeds_are_there():
    numbers = [path.stem[:2] for path in NOTEBOOKS]
    assert numbers[:5] == ["01", "02", "03", "04", "05"]


def test_most_run_on_every_backend():
    assert [p.stem[:2] for p in NOTEBOOKS if needs_tensorflow(p)] == ["01", "04"]


@over_notebooks
def test_runs(path, monkeypatch):
    if not runs_here(path):
        pytest.skip("runs in another lane")
    monkeypatch.setenv("KERAS_FINETUNE_SMOKE", "1")
    notebook = build().execute(path, timeout=300)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    committed, said = lines(read(path)), lines(notebook)
    for start, tolerance in KEY_NUMBERS[path.stem].items():
        wanted, found = (numbers(those, start) for those in (committed, said))
        assert wanted, start
        if tolerance == NOISE and _engine.backend() != "tensorflow":
            continue
        np.testing.assert_allclose(found, wanted, rtol=0, atol=tolerance, err_msg=start)
    if not _engine.KERAS_3:
        return  # the outputs were made on Keras 3, which writes names otherwise
    # It says nothing that the committed outputs do not say, numbers aside.
    known = {without_numbers(line) for line in committed}
    assert [line for line in said if without_numbers(line) not in known] == []


def read(path):
    import nbformat

    return nbformat.read(str(path), as_version=4)


def lines(notebook):
    """What the cells of a notebook print or show as text."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    texts = [
        output.get("text") or output.get("data", {}).get("text/plain", "")
        for output in outputs
        if output.get("name") != "stderr"
    ]
    found = [line.strip() for text in texts for line in text.splitlines()]
    return [line for line in found if line and not line.startswith(OF_THE_MACHINE)]


def numbers(those, start):
    """The numbers in the lines that start so."""
    texts = [line for line in those if line.startswith(start)]
    found = [number for text in texts for number in re.findall(NUMBER, text)]
    return [float(number.replace(",", "")) for number in found]


def without_numbers(line):
    # A span of epochs, "2-3", is as good as an epoch; so is a verdict on a number.
    masked = re.sub(rf"{NUMBER}(-\d+)?", "#", line)
    return re.sub(r"\s+", " ", masked).removesuffix(" collapsed")


@pytest.mark.parametrize(("page", "words", "stem", "places"), QUOTED)
def test_pages_quote_the_committed_numbers(page, words, stem, places):
    text = " ".join((FOLDER.parent / page).read_text(encoding="utf-8").split())
    quoted = re.search(words, text).groups()
    said = "\n".join(lines(read(FOLDER / f"{stem}.ipynb")))
    for number, place in zip(quoted, places, strict=True):
        (whole,) = re.findall(place, said, re.MULTILINE)
        digits = len(number.partition(".")[2])
        assert f"{float(whole):.{digits}f}" == number


@over_notebooks
def test_committed_outputs_are_whole_small_and_of_no_machine(path):
    import nbformat

    notebook = read(path)
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
