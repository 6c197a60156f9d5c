"""Importing the package costs nothing and loads nothing that Keras does not load."""

import json
import subprocess
import sys

import pytest

MEASURE = """
import json, os, sys, time
if os.environ.get("TF_USE_LEGACY_KERAS") in ("1", "true"):
    import tf_keras
else:
    import keras
before = set(sys.modules)
start = time.perf_counter()
import keras_finetune
seconds = time.perf_counter() - start
new = sorted(set(sys.modules) - before)
print(json.dumps({"seconds": seconds, "new": new}))
"""


def measure(source=MEASURE):
    output = subprocess.run(
        [sys.executable, "-c", source],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        timeout=300,
    ).stdout
    return json.loads(output.splitlines()[-1])


@pytest.fixture(scope="module")
def first_import():
    return measure()


def foreign(modules):
    """The top-level packages among `modules` that are neither ours nor Python's."""
    found = {name.partition(".")[0] for name in modules}
    return found - {"keras_finetune"} - set(sys.stdlib_module_names)


def test_import_loads_nothing_that_keras_does_not_load(first_import):
    assert "keras_finetune" in first_import["new"]
    assert foreign(first_import["new"]) == set()


def test_the_guard_sees_a_foreign_package():
    loads_more = MEASURE.replace(
        "import keras_finetune\n", "import keras_finetune, hypothesis\n"
    )
    assert "hypothesis" in foreign(measure(loads_more)["new"])


def test_import_takes_under_300_milliseconds(first_import):
    # The best of five: the first may compile bytecode or wait for a busy disk.
    seconds = first_import["seconds"]
    for _ in range(4):
        if seconds < 0.3:
            break
        seconds = min(seconds, measure()["seconds"])
    assert seconds < 0.3
