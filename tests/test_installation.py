"""Installing the wheel changes no package of the project it is installed into."""

import configparser
import email
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]

# lane: distribution and version that make it what it is, backend, absent distributions
LANES = {
    "keras3-tensorflow": ("keras", "3.", "tensorflow", ("tf_keras",)),
    "keras3-oldest": ("keras", "3.8.0", "tensorflow", ("tf_keras",)),
    "keras2-addons": ("keras", "2.15.", "tensorflow", ("tf_keras", "jax", "torch")),
    "tf-keras": ("tf_keras", "2.", "tensorflow", ("tensorflow_addons",)),
    "keras3-jax": ("keras", "3.", "jax", ("tensorflow", "tf_keras", "torch")),
    "keras3-torch": ("keras", "3.", "torch", ("tensorflow", "tf_keras", "jax")),
}

EXTRAS = {
    "addons": "tensorflow-addons",
    "jax": "jax",
    "plot": "matplotlib",
    "tensorboard": "tensorboard",
    "tensorflow": "tensorflow",
    "torch": "torch",
}


def version(name):
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel that tox installed in this lane; outside tox, one built here."""
    for path in os.environ.get("TOX_PACKAGE", "").split(os.pathsep):
        if path.endswith(".whl"):
            return Path(path)
    assert "TOX_ENV_NAME" not in os.environ, "tox names no wheel in TOX_PACKAGE"
    source = tmp_path_factory.mktemp("source")
    for name in ("setup.py", "setup.cfg", "pyproject.toml", "LICENSE", "README.md"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "keras_finetune", source / "keras_finetune")
    built = tmp_path_factory.mktemp("wheel")
    result = pip("wheel", "--no-deps", "--wheel-dir", built, source, check=False)
    if result.returncode:
        pytest.skip(f"no wheel can be built here: {result.stderr[-300:]}")
    return next(built.glob("keras_finetune-*.whl"))


def pip(*arguments, check=True):
    command = [sys.executable, "-m", "pip", *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert not check or result.returncode == 0, result.stderr
    return result


def would_install(requirement, directory, *options):
    """The names of the packages that pip would install, from its own report."""
    report = directory / "report.json"
    pip(
        *("install", "--dry-run", "--quiet", "--no-index", "--report", report),
        *(*options, requirement),
    )
    items = json.loads(report.read_text())["install"]
    return {item["metadata"]["name"].lower().replace("_", "-") for item in items}


def test_install_changes_no_package(wheel, tmp_path):
    assert would_install(wheel, tmp_path) <= {"keras-finetune"}


@pytest.mark.parametrize("extra", sorted(EXTRAS))
def test_an_extra_that_the_project_has_changes_no_package(extra, wheel, tmp_path):
    if version(EXTRAS[extra]) is None:
        pytest.skip(f"{EXTRAS[extra]} is not installed")
    requirement = f"keras-finetune[{extra}] @ {wheel.as_uri()}"
    assert would_install(requirement, tmp_path) <= {"keras-finetune"}


def fake_wheel(directory, name, version, requires=()):
    """Write the smallest wheel that pip accepts."""
    info = f"{name}-{version}.dist-info"
    metadata = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    metadata += [f"Requires-Dist: {requirement}" for requirement in requires]
    tags = ["Wheel-Version: 1.0", "Root-Is-Purelib: true", "Tag: py3-none-any"]
    path = directory / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{info}/METADATA", "\n".join(metadata) + "\n")
        archive.writestr(f"{info}/WHEEL", "\n".join(tags) + "\n")
        archive.writestr(f"{info}/RECORD", "")
    return path


def test_the_guard_sees_a_package_that_would_change(tmp_path):
    fake_wheel(tmp_path, "numpy", "999.0")
    pinning = fake_wheel(tmp_path, "pinning", "1.0", requires=["numpy==999.0"])
    found = would_install(pinning, tmp_path, "--find-links", tmp_path)
    assert found == {"pinning", "numpy"}


def test_wheel_holds_the_package_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    folders = {name.partition("/")[0] for name in names}
    assert {folder.partition("-")[0] for folder in folders} == {"keras_finetune"}
    assert "keras_finetune/py.typed" in names


def test_version_is_in_one_place(wheel):
    import keras_finetune

    assert wheel.name.split("-")[1] == keras_finetune.__version__


def test_an_index_shows_links_that_lead_to_the_repository(wheel):
    config = configparser.ConfigParser(interpolation=None)
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    url, version = config["metadata"]["url"], wheel.name.split("-")[1]
    with zipfile.ZipFile(wheel) as archive:
        path = next(n for n in archive.namelist() if n.endswith("/METADATA"))
        metadata = email.message_from_bytes(archive.read(path))
    links = dict(text.split(", ") for text in metadata.get_all("Project-URL"))
    assert {"Source", "Documentation", "Changelog", "Issues"} <= set(links)
    assert metadata["Author"] == config["metadata"]["author"]

    readme = metadata.get_payload(decode=True).decode()
    found = re.findall(r"""\]\(([^)\s]+)|(?:src|srcset|href)="([^"]+)""", readme)
    found = [one or other for one, other in found]
    ours = [link for link in (*found, *links.values()) if link.startswith(url)]
    others = [link for link in found if not link.startswith(url)]
    assert [link for link in others if not link.startswith(("https://", "#"))] == []
    assert any(link.endswith(".png") and "/raw/" in link for link in ours)
    for link in ours:
        path = re.sub(rf"/(blob|raw)/v{re.escape(version)}/", "", link[len(url) :])
        path = path.partition("#")[0]
        assert path in ("", "/issues") or (ROOT / path).exists(), link


def test_lane_runs_what_it_is_named_after():
    lane = os.environ.get("TOX_ENV_NAME")
    if lane not in LANES:
        pytest.skip("not in a lane")
    from keras_finetune import _engine

    name, prefix, backend, absent = LANES[lane]
    assert version(name).startswith(prefix)
    assert _engine.keras.__name__.split(".")[0] == name
    assert _engine.keras.__version__ == version(name)
    assert _engine.backend() == backend
    assert [other for other in absent if version(other)] == []
