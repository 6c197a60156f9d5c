"""Four of the families on JAX and PyTorch, each in a process of its own."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

TRAINING = Path(__file__).with_name("test_training.py")


@pytest.mark.backend("tensorflow")
@pytest.mark.keras3
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_four_families_train_on_another_backend(backend, pytestconfig):
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    command = [
        *(sys.executable, "-m", "pytest", "-c", pytestconfig.inipath),
        *("--rootdir", pytestconfig.rootpath, "-p", "no:cacheprovider", TRAINING),
    ]
    environment = {**os.environ, "KERAS_BACKEND": backend}
    result = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout[-10_000:] + result.stderr[-2_000:]
    print(result.stdout)
