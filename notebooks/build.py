"""Executes the notebooks in place and writes them clean, ready to be committed.

    python notebooks/build.py             # all of them
    python notebooks/build.py notebooks/03_frozen_dropout.ipynb

Some of their figures are pictures of pages in `docs/`; it writes these too.
Needs nbclient, nbformat and ipykernel. The kernel is the running Python, whatever
kernels are registered; what goes to stderr (the log of TensorFlow) and what differs
from machine to machine is left out.
"""

import argparse
import base64
import json
import os
import sys
import tempfile
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).resolve().parent
IMAGES = FOLDER.parent / "docs" / "images"
# A picture in `IMAGES`, the notebook whose figure it is, and which one, from 1.
PICTURES = (
    ("plot_history.png", "04_unfreezing_without_collapse", 3),
    ("weight_norms.png", "05_weight_norms", 2),
    ("monte_carlo_dropout.png", "06_uncertainty", 1),
    ("reliability.png", "06_uncertainty", 4),
)


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


def pictures(notebook, stem):
    """The pictures of pages that are figures of this notebook, by their file names."""
    figures = [
        output["data"]["image/png"]
        for cell in notebook.cells
        for output in cell.get("outputs", ())
        if "image/png" in output.get("data", {})
    ]
    return {
        name: base64.b64decode(figures[number - 1])
        for name, of, number in PICTURES
        if of == stem
    }


def main():
    """Executes and writes the notebooks that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("paths", nargs="*", type=Path)
    for path in parser.parse_args().paths or sorted(FOLDER.glob("*.ipynb")):
        start = time.perf_counter()
        notebook = clean(execute(path))
        nbformat.write(notebook, path)
        for name, content in pictures(notebook, path.stem).items():
            (IMAGES / name).write_bytes(content)
        seconds = time.perf_counter() - start
        print(f"{path.name}: {seconds:.0f} s, {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
