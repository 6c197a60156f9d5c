"""A user's project under strict mypy sees our types, and its own mistakes."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

import keras_finetune

# Each `type: ignore` is a mistake that must be found: an unused one is an error too.
SNIPPET = """
from typing import Any

import numpy as np
from typing_extensions import assert_type

from keras_finetune import (
    DiscriminativeLR,
    GradualUnfreeze,
    LayerGroup,
    LayerGroups,
    MCPrediction,
    TrainOnly,
    WeightNormLogger,
    layer_groups,
    mc_predict,
    summary,
)
from keras_finetune.uncertainty import expected_calibration_error, fit_temperature


def make_callbacks(model: Any) -> list[Any]:
    groups = layer_groups(model, 4)
    assert_type(groups, LayerGroups)
    assert_type(groups.names, tuple[str, ...])
    assert_type(groups[-1], LayerGroup)
    assert_type(groups[-1].parameters, int)
    unfreeze = GradualUnfreeze(groups, every=[1, 2, 3], batch_norm="frozen")
    assert_type(unfreeze.history, list[dict[str, Any]])
    rates = DiscriminativeLR(bounds=(1e-5, 1e-3))
    assert_type(rates.factors(model), dict[str, float])
    print(summary(model, [unfreeze, rates], epochs=8))
    return [unfreeze, rates, TrainOnly("bias"), WeightNormLogger(by="group")]


def ask(model: Any, x: np.ndarray[Any, Any], y: list[int]) -> float:
    prediction: MCPrediction = mc_predict(model, x, samples=10)
    return fit_temperature(y, prediction.log_mean)


GradualUnfreeze(every="two")  # type: ignore[arg-type]
GradualUnfreeze(evry=2)  # type: ignore[call-arg]
DiscriminativeLR(bounds=1e-3)  # type: ignore[arg-type]
WeightNormLogger(updates="yes")  # type: ignore[arg-type]
expected_calibration_error([0])  # type: ignore[call-arg]
layer_groups()  # type: ignore[call-arg]
"""


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("mypy"), reason="needs mypy")
@pytest.mark.once  # types are the same on every lane
@pytest.mark.keras3
def test_a_strict_project_type_checks(tmp_path):
    (tmp_path / "project.py").write_text(SNIPPET, encoding="utf-8")
    # Ours is checked by rules of its own, in a checkout too, where mypy reports it.
    (tmp_path / "mypy.ini").write_text(
        "[mypy]\n[mypy-keras_finetune.*]\nfollow_imports = silent\n", encoding="utf-8"
    )
    environment = dict(os.environ)
    folder = Path(keras_finetune.__file__).parents[1]
    if folder.name != "site-packages":
        # Installed, `py.typed` says that there are types; a checkout has to be named.
        environment["MYPYPATH"] = str(folder)
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--cache-dir=cache", "project.py"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
