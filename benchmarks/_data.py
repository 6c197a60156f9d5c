"""Where the benchmarks find data that is too large for this repository."""

import os
from pathlib import Path

import numpy as np

DEFAULT = Path(__file__).resolve().parents[2] / "shared" / "data"


def load(name):
    """The arrays of a file in the data folder.

    The folder is named by the environment variable `KERAS_FINETUNE_DATA`, or lies at
    `shared/data` beside the repository.
    """
    path = Path(os.environ.get("KERAS_FINETUNE_DATA", DEFAULT)) / name
    if not path.is_file():
        raise SystemExit(
            f"{path} was not found: set KERAS_FINETUNE_DATA to a folder that has it"
        )
    with np.load(path) as arrays:
        return dict(arrays)
