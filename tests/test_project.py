"""What the project says of itself in several places agrees."""

import configparser
import importlib.util
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "keras_finetune"


def read(name):
    return (ROOT / name).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def config():
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    return parser


def lines(text):
    return [line for line in text.split("\n") if line]


# The map of CONTRIBUTING.md


def rooms():
    """Each room of the map with the tests that it names."""
    text = read("CONTRIBUTING.md").split("\n| room of ")[1].split("\n\n")[0]
    rows = [line.strip("| ").split(" | ") for line in text.splitlines()[2:]]
    return {row[0].strip("`"): re.findall(r"`(tests/.*?)`", row[2]) for row in rows}


def test_the_map_has_every_room():
    there = {
        path.name + "/" * path.is_dir()
        for path in PACKAGE.iterdir()
        if path.name != "__pycache__"
    }
    assert set(rooms()) == there


def test_every_room_of_the_map_has_tests():
    for room, tests in rooms().items():
        assert tests, room
        for path in tests:
            assert (ROOT / path).exists(), path


# Environments


def test_environments_have_the_tools_of_the_extras(config):
    extras = config["options.extras_require"]
    lanes = lines(config["testenv"]["deps"])
    lint = lines(config["testenv:lint"]["deps"])
    tox = f"tox>={config['tox:tox']['min_version']}"
    assert {*lines(extras["dev"])} == {*lanes, *lint, tox, "pre-commit>=4"}
    assert lines(extras["docs"]) == lines(config["testenv:docs"]["deps"])


def test_lint_is_the_same_everywhere(config):
    commands = lines(config["testenv:lint"]["commands"])
    hooks = re.findall(r"entry: \.venv-dev/bin/(.+)", read(".pre-commit-config.yaml"))
    assert hooks == commands
    assert " && ".join(commands) in read("Makefile")


@pytest.mark.parametrize("workflow", ["test", "weekly"])
def test_workflows_run_every_lane(config, workflow):
    text = read(f".github/workflows/{workflow}.yml").split("        lane:\n")[1]
    found = re.match(r"(?: {10}- \S+\n)+", text).group()
    assert found.split()[1::2] == lines(config["tox:tox"]["env_list"])


def test_pythons_are_the_same_everywhere(config):
    prefix = "Programming Language :: Python :: 3."
    classifiers = lines(config["metadata"]["classifiers"])
    found = [c.removeprefix(prefix) for c in classifiers if c.startswith(prefix)]
    assert found == ["10", "11", "12", "13"]
    assert config["options"]["python_requires"] == f">=3.{found[0]}"
    makefile = read("Makefile")
    assert " ".join(f"python3.{minor}" for minor in reversed(found)) in makefile
    assert (
        f"(3, {found[0]}) <= sys.version_info < (3, {int(found[-1]) + 1})" in makefile
    )
    listed = ", ".join(f'"3.{minor}"' for minor in found)
    assert f"python: [{listed}]" in read(".github/workflows/test.yml")


@pytest.mark.slow
def test_the_zoo_is_collected_only_when_it_is_named(config, tmp_path):
    for folder in ("tests/callbacks", "tests/zoo"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "test_it.py").write_text("def test_it(): pass\n")

    def collected(path):
        command = [
            *(sys.executable, "-m", "pytest", "-c", ROOT / "setup.cfg"),
            *("--rootdir", tmp_path, "-p", "no:cacheprovider", "--collect-only", "-q"),
            tmp_path / path,
        ]
        result = subprocess.run(command, check=True, capture_output=True, text=True)
        return re.findall(r"tests/(\w+)/test_it.py", result.stdout)

    assert collected("tests") == ["callbacks"]
    assert collected("tests/zoo") == ["zoo"]
    lanes = lines(config["tox:tox"]["env_list"])
    assert {"zoo", "zoo-keras2"} & set(lanes) == set()


# Releases


@pytest.fixture(scope="module")
def check_release():
    path = ROOT / "tools" / "check_release.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


RELEASED = {
    "keras_finetune/__init__.py": '__version__ = "1.2.3"\n',
    "CITATION.cff": "cff-version: 1.2.0\nversion: 1.2.3\ndate-released: 2030-01-31\n",
    "CHANGELOG.md": (
        "## [Unreleased]\n\n## [1.2.3] - 2030-01-31\n\n- It.\n\n"
        "## [1.2.2] - 2029-01-31\n"
    ),
    "setup.cfg": "[metadata]\nurl = https://example.com/us/keras-finetune\n",
}


def project(folder, **changes):
    """A project ready for its release v1.2.3, but for `changes`: (file, old, new)."""
    files = dict(RELEASED)
    for path, old, new in changes.values():
        assert old in files[path]
        files[path] = files[path].replace(old, new)
    for path, text in files.items():
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_text(text, encoding="utf-8")
    return folder


def test_this_project_agrees_with_itself(check_release):
    assert check_release.disagreements(ROOT) == []


def test_a_release_that_is_ready_passes(check_release, tmp_path, capsys):
    assert check_release.main(["--tag", "v1.2.3"], project(tmp_path)) == 0
    assert capsys.readouterr().out == "The release agrees in all places.\n"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("keras_finetune/__init__.py", "1.2.3", "1.2.4"), "tag is v1.2.3"),
        (("keras_finetune/__init__.py", "1.2.3", "1.2"), "must be like 1.2.3"),
        (("CITATION.cff", "1.2.3", "1.2.2"), "CITATION.cff has version 1.2.2"),
        (("CITATION.cff", "01-31", "02-01"), "CITATION.cff 2030-02-01"),
        (("CITATION.cff", "date-released", "released"), "CITATION.cff None"),
        (("CHANGELOG.md", "[1.2.3]", "[1.10.0]"), "CHANGELOG.md has 1.10.0"),
        (("CHANGELOG.md", "## [1.2.3] - 2030-01-31\n", ""), "is 1.2.2, not 1.2.3"),
        (("CHANGELOG.md", " - 2030-01-31", ""), "CHANGELOG.md has the date None"),
        (("CHANGELOG.md", "[Unreleased]\n", "[Unreleased]\n\n- New\n"), "Unreleased"),
        (("setup.cfg", "/us/", "/OWNER/"), "placeholder OWNER"),
    ],
)
def test_what_a_release_lacks_is_said(change, said, check_release, tmp_path, capsys):
    root = project(tmp_path, change=change)
    assert check_release.main(["--tag", "v1.2.3"], root) == 1
    assert said in capsys.readouterr().out


def test_between_releases_the_changelog_may_have_more(check_release, tmp_path):
    more = ("CHANGELOG.md", "[Unreleased]\n", "[Unreleased]\n\n- New\n")
    assert check_release.main([], project(tmp_path, change=more)) == 0


def test_the_files_to_upload_are_looked_at(check_release, tmp_path):
    root, dist = project(tmp_path), tmp_path / "dist"
    dist.mkdir()
    (dist / "keras_finetune-1.2.3-py3-none-any.whl").touch()
    assert "must hold" in check_release.misbuilt(root, dist)[0]

    def sdist(*paths):
        with tarfile.open(dist / "keras_finetune-1.2.3.tar.gz", "w:gz") as archive:
            for path in paths:
                archive.add(root / "setup.cfg", f"keras_finetune-1.2.3/{path}")

    sdist("setup.cfg", "tests/test_it.py")
    assert "has tests" in check_release.misbuilt(root, dist)[0]
    sdist("setup.cfg")
    assert check_release.misbuilt(root, dist) == []
