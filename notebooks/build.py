"""Executes the notebooks in place and writes them clean, ready to be committed.

    python notebooks/build.py             # all of them
    python notebooks/build.py notebooks/03_frozen_dropout.ipynb

Needs nbclient, nbformat and ipykernel. The kernel is the running Python, whatever
kernels are registered; what goes to stderr (the log of TensorFlow) and what differs
from machine to machine is left out.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).resolve().parent


def execute(path, timeout=1200):
    """Runs a notebook from beginning to end and returns it with its outputs."""
    notebook = nbformat.read(path, as_version=4)
    command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    spec = {"argv": command, "display_name": "Python 3", "language": "python"}
    before = os.environ.get("JUPYTER_PATH")
    with tempfile.TemporaryDirectory() as folder:
        kernel = Path(folder) / "kernels" / "keras-finetune"
        kernel.mkdir(parents=True)
        (kernel / "kernel.json").write_text(json.dumps(spec), encoding="utf-8")
        os.environ["JUPYTER_PATH"] = folder
        try:
            NotebookClient(
                notebook,
                kernel_name="keras-finetune",
                timeout=timeout,
                resources={"metadata": {"path": str(FOLDER)}},
            ).execute()
        finally:
            del os.environ["JUPYTER_PATH"]
            if before is not None:
                os.environ["JUPYTER_PATH"] = before
    return notebook


def clean(notebook):
    """Leaves out what says something about the machine and not about the run."""
    name = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook.metadata = {"kernelspec": name, "language_info": {"name": "python"}}
    for i, cell in enumerate(notebook.cells, start=1):
        cell.id = f"cell-{i}"
        cell.metadata = {}
        if cell.cell_type == "code":
            cell.outputs = [o for o in cell.outputs if o.get("name") != "stderr"]
    return notebook


def main():
    """Executes and writes the notebooks that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("paths", nargs="*", type=Path)
    for path in parser.parse_args().paths or sorted(FOLDER.glob("*.ipynb")):
        start = time.perf_counter()
        nbformat.write(clean(execute(path)), path)
        seconds = time.perf_counter() - start
        print(f"{path.name}: {seconds:.0f} s, {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
