"""Every page of the documentation is a program that runs from top to bottom.

The Python blocks of a page run in order, in one namespace. A block of the language
`text` is what the block above it prints, `...` standing for anything. A page whose
second line is `<!-- runs on: NAME -->` is for some lanes only; see `LANES`.

Sybil finds the blocks: it knows Markdown, gives a page its namespace and an error the
line in the page, and needs no other package. (mktestdocs does less of that;
pytest-examples needs a linter and rewrites one block at a time.)
"""

import contextlib
import doctest
import importlib.util
import inspect
import io
import json
import os
import re
import sys
from pathlib import Path

import pytest
from sybil import Sybil
from sybil.evaluators.python import PythonEvaluator
from sybil.parsers.markdown import CodeBlockParser

from keras_finetune import _engine
from keras_finetune._engine import keras

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
ON_TENSORFLOW = _engine.backend() == "tensorflow"
LANES = {
    "Keras 3": _engine.KERAS_3,
    "Keras 3 with TensorFlow": _engine.KERAS_3 and ON_TENSORFLOW,
    "Keras 3 with KerasHub": (
        _engine.KERAS_3 and importlib.util.find_spec("keras_hub")
    ),
    "Keras 2 with TensorFlow Addons": (
        not _engine.KERAS_3 and importlib.util.find_spec("tensorflow_addons")
    ),
    "TensorFlow with TensorBoard": (
        ON_TENSORFLOW and importlib.util.find_spec("tensorboard")
    ),
    "any Keras": True,
}
# Lanes whose Keras another lane has too run what a newcomer reads first, and a page
# with code for Keras 2. On JAX pages take longest, as every small model is compiled.
WHOLE = os.environ.get("TOX_ENV_NAME") not in (
    "keras3-jax",
    "keras3-oldest",
    "tf-keras",
)
EVERYWHERE = (
    "README.md",
    "cheat_sheet.md",
    "feature_cache.md",
    "getting_started.md",
    "resume.md",
)
SLOW = ("regression.md", "tabular.md", "transformer.md", "vision.md")


class Runner:
    """Runs the blocks of one page and keeps what they print."""

    def __init__(self):
        self.printed = ""
        self.blocks = 0

    def run(self, example):
        stream = io.StringIO()
        with contextlib.redirect_stdout(stream):
            PythonEvaluator()(example)
        self.printed = stream.getvalue()
        self.blocks += 1

    def compare(self, example):
        lines = [line.rstrip() for line in self.printed.strip().splitlines()]
        wanted, found = f"{example.parsed.strip()}\n", "\n".join([*lines, ""])
        if not doctest.OutputChecker().check_output(wanted, found, doctest.ELLIPSIS):
            pytest.fail(
                f"{Path(example.path).name}, line {example.line} prints:\n{found}"
            )


def lane(path):
    found = re.search(r"<!-- runs on: (.+) -->", path.read_text(encoding="utf-8"))
    return found.group(1) if found else "any Keras"


def small_backbone(real):
    """A few layers in place of a network whose weights would be downloaded."""

    def load(*args, **kwargs):
        asked = inspect.signature(real).bind(*args, **kwargs)
        asked.apply_defaults()
        x = inputs = keras.Input(asked.arguments["input_shape"] or (None, None, 3))
        for i in (1, 2, 3):
            conv = keras.layers.Conv2D(4, 3, strides=2, name=f"block_{i}_expand")
            x = keras.layers.ReLU(name=f"block_{i}_relu")(conv(x))
            x = keras.layers.BatchNormalization(name=f"block_{i}_BN")(x)
        if asked.arguments["pooling"] == "avg":
            x = keras.layers.GlobalAveragePooling2D()(x)
        return keras.Model(inputs, x, name=real.__name__.lower())

    return load


@pytest.fixture
def reader(tmp_path, monkeypatch):
    """The place of somebody who follows a page: an empty folder, the Keras in use."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "keras", keras)
    real = keras.applications.MobileNetV2
    monkeypatch.setattr(keras.applications, "MobileNetV2", small_backbone(real))
    mixed_precision = keras.mixed_precision
    policy = getattr(mixed_precision, "dtype_policy", mixed_precision.global_policy)()
    yield
    mixed_precision.set_global_policy(policy)
    if not _engine.KERAS_3:
        keras.backend.experimental.disable_tf_random_generator()
    keras.backend.clear_session()


@pytest.mark.slow
@pytest.mark.parametrize(
    "path", [pytest.param(p, id=p.relative_to(ROOT).as_posix()) for p in PAGES]
)
def test_page_runs(path, reader):
    here = lane(path)
    if not LANES[here]:
        pytest.skip(f"for {here}")
    if path.name in SLOW and _engine.backend() == "jax":
        pytest.skip("takes long to compile; the other backends run it")
    if not (WHOLE or path.name in EVERYWHERE or here.startswith("Keras 2")):
        pytest.skip("run in another lane of this Keras")
    runner = Runner()
    parsers = [
        CodeBlockParser("python", runner.run),
        CodeBlockParser("text", runner.compare),
    ]
    for example in Sybil(parsers).parse(path).examples():
        example.evaluate()
    if not runner.blocks:
        pytest.skip("no code")


def test_each_page_names_a_lane_that_there_is():
    assert {lane(path) for path in PAGES} <= set(LANES)


@pytest.mark.parametrize("path", sorted(ROOT.glob("*.md")), ids=lambda path: path.name)
def test_links_to_files_lead_somewhere(path):
    # `make docs` checks those of the pages in docs/.
    text = path.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not re.match(r"https?://|#", target):
            assert (ROOT / target.partition("#")[0]).exists(), target


def test_tables_are_those_of_the_results():
    def script(path):
        spec = importlib.util.spec_from_file_location(path.stem, path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    def between(page, name):
        text = (ROOT / "docs" / page).read_text(encoding="utf-8")
        return text.split(f"<!-- begin: {name} -->")[1].split("<!-- end: ")[0].strip()

    benchmarks = ROOT / "benchmarks"
    results = benchmarks / "results"
    exact = script(ROOT / "tests" / "exactness.py").table(results / "exactness")
    assert between("exactness.md", "table") == exact
    soak = script(benchmarks / "soak.py").table(results / "soak")
    assert between("exactness.md", "soak") == soak
    compare = script(benchmarks / "side_by_side.py")
    found = json.loads(compare.RESULTS.read_text(encoding="utf-8"))
    for name, make in compare.TABLES.items():
        assert between("side_by_side.md", name) == make(found)


def test_every_page_is_found_from_the_first():
    # On the site all of them are in the navigation too: `make docs` asks for it.
    found, new = set(), {ROOT / "docs" / "index.md"}
    while new:
        found |= new
        links = {
            (page.parent / link).resolve()
            for page in new
            for link in re.findall(r"\]\(([\w./]+\.md)", page.read_text("utf-8"))
        }
        new = links - found
    assert found - {ROOT / "CHANGELOG.md"} == set(PAGES[1:])
