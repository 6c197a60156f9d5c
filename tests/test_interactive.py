"""Sessions that keep the last traceback: after Ctrl-C the next cell is plain."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
TESTS = Path(__file__).parent

START = f"""
import sys; sys.path.insert(0, {str(TESTS)!r})
import gc; gc.disable()
import plain
model, (x, y), callbacks = plain.interrupted({{name!r}})
"""
# In the first epoch: `GradualUnfreeze` is in its first stage.
INTERRUPTED = """
model.fit(x, y, verbose=0, batch_size=4, callbacks=callbacks)
"""
NEXT = """
plain.report(model, callbacks[-1:], {stage!r}, {path!r})
"""
EXPECTED = ["ours: []", "flags: True", "optimizer: []", "goes on: []"]
NAMES = {"TrainOnly": None, "together": 0}


def cells(name, tmp_path):
    path = str(tmp_path / "model.keras")
    following = NEXT.format(stage=NAMES[name], path=path)
    return START.format(name=name), INTERRUPTED, following


def answers(text):
    starts = tuple(line.partition(":")[0] + ":" for line in EXPECTED)
    lines = [line.removeprefix(">>> ") for line in text.splitlines()]
    return [line for line in lines if line.startswith(starts)]


@pytest.mark.parametrize("name", NAMES)
def test_the_next_cell_of_ipython(name, tmp_path, capsys):
    shells = pytest.importorskip("IPython.core.interactiveshell")
    shell = shells.InteractiveShell()
    start, interrupted, following = cells(name, tmp_path)
    assert shell.run_cell(start).success
    result = shell.run_cell(interrupted)
    assert isinstance(result.error_in_exec, KeyboardInterrupt)
    capsys.readouterr()
    assert shell.run_cell(following).success
    assert answers(capsys.readouterr().out) == EXPECTED


@pytest.mark.parametrize("name", NAMES)
def test_the_next_line_of_python(name, tmp_path):
    lines = "".join(cell.strip() + "\n" for cell in cells(name, tmp_path))
    done = subprocess.run(
        [sys.executable, "-i", "-q"],
        input=lines,
        capture_output=True,
        text=True,
        timeout=500,
        cwd=tmp_path,
        env={**os.environ, "PYTHON_BASIC_REPL": "1"},
    )
    assert "KeyboardInterrupt" in done.stderr
    assert answers(done.stdout) == EXPECTED, done.stderr[-2000:]


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_that_goes_on_after_an_interrupted_cell(name, tmp_path):
    nbformat, nbclient = (pytest.importorskip(m) for m in ("nbformat", "nbclient"))
    code = [nbformat.v4.new_code_cell(cell) for cell in cells(name, tmp_path)]
    notebook = nbformat.v4.new_notebook(cells=code)
    nbclient.NotebookClient(
        notebook, timeout=500, allow_errors=True, kernel_name="python3"
    ).execute()
    _, interrupted, following = notebook.cells
    errors = [o.ename for o in interrupted.outputs if o.output_type == "error"]
    assert errors == ["KeyboardInterrupt"]
    printed = "".join(o.get("text", "") for o in following.outputs)
    assert answers(printed) == EXPECTED, following.outputs
