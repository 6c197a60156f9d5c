"""The scripts and the commands of `docs/several_devices.md`, as they stand there."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from distribution.run import free_ports

from keras_finetune._engine import KERAS_3, backend, keras

pytestmark = pytest.mark.slow

PAGE = Path(__file__).resolve().parents[2] / "docs" / "several_devices.md"
TEXT = PAGE.read_text(encoding="utf-8")
SCRIPTS = dict(re.findall(r'^```py title="(.+?)"\n(.*?)^```$', TEXT, re.M | re.S))
CONSOLES = re.findall(r"^```console\n(.*?)^```$", TEXT, re.M | re.S)
RUNS_ON = {
    "mirrored.py": backend() == "tensorflow",
    "workers.py": not KERAS_3,
    "devices.py": backend() == "jax",
    "split.py": backend() == "jax",
    "ddp.py": backend() == "torch",
}


def test_each_script_is_run():
    shown = [re.search(r"(\w+\.py)", console).group(1) for console in CONSOLES]
    assert shown == list(RUNS_ON)
    assert set(SCRIPTS) == {"task.py", *RUNS_ON}


@pytest.mark.parametrize("script", [name for name in RUNS_ON if RUNS_ON[name]])
def test_commands_print_what_the_page_shows(script, tmp_path):
    for name, code in SCRIPTS.items():
        if keras.__name__ == "tf_keras":
            code = code.replace("import keras\n", "import tf_keras as keras\n")
        (tmp_path / name).write_text(code, encoding="utf-8")
    [console] = [text for text in CONSOLES if script in text]
    for port, free in zip(("23456", "23457"), free_ports(2)):
        console = console.replace(port, str(free))
    lines = console.splitlines()
    commands = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
    shown = [line for line in lines if not line.startswith("$ ")]
    path = os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])
    done = subprocess.run(
        ["bash", "-ec", "\n".join(commands)],
        cwd=tmp_path,
        env={**os.environ, "PATH": path, "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    said = [line.rstrip() for line in done.stdout.splitlines() if line.strip()]
    assert said == shown
