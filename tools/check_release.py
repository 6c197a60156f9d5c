"""Check that all places that name the version of a release agree.

Usage: `python tools/check_release.py [--tag v1.2.3] [--dist FOLDER]`. Without a tag it
checks what holds between releases too: `__version__` and `CITATION.cff` agree, and
`CHANGELOG.md` has nothing newer. With a tag it also asks for what a release needs, with
a folder for the two files to upload. Each problem is printed on a line of its own; the
exit status is 0 only where there is none.
"""

from __future__ import annotations

import argparse
import configparser
import re
import sys
import tarfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PLACEHOLDER = "OWNER"


def find(pattern: str, path: Path) -> str | None:
    """Return the group of a pattern in a file, or `None` where it does not occur."""
    match = re.search(pattern, path.read_text(encoding="utf-8"), re.M)
    return match and match.group(1)


def numbers(version: str) -> tuple[int, ...]:
    """Return the numbers of a version, which order versions."""
    return tuple(map(int, re.findall(r"\d+", version)))


def read_version(root: Path) -> str:
    """Return `__version__` without importing the package."""
    return str(find(r'^__version__ = "(.+)"', root / "keras_finetune" / "__init__.py"))


def disagreements(root: Path) -> list[str]:
    """Return what is wrong at any time."""
    version = read_version(root)
    cited = find(r"^version: (\S+)", root / "CITATION.cff")
    newest = find(r"^## \[(\d.*?)\]", root / "CHANGELOG.md")
    problems = []
    if not re.fullmatch(r"\d+\.\d+\.\d+", version):
        problems.append(f"`__version__` must be like 1.2.3, it is {version}")
    if cited != version:
        problems.append(f"CITATION.cff has version {cited}, `__version__` is {version}")
    if newest is not None and numbers(newest) > numbers(version):
        problems.append(f"CHANGELOG.md has {newest}, `__version__` is {version}")
    return problems


def missing(root: Path, tag: str) -> list[str]:
    """Return what a release with this tag still needs."""
    version, changelog = read_version(root), root / "CHANGELOG.md"
    problems = []
    if tag != f"v{version}":
        problems.append(f"the tag is {tag}, `__version__` is {version}")
    newest = find(r"^## \[(\d.*?)\]", changelog)
    if newest != version:
        problems.append(f"the newest in CHANGELOG.md is {newest}, not {version}")
    date = find(rf"^## \[{re.escape(version)}\] - (\d{{4}}-\d\d-\d\d)$", changelog)
    cited = find(r'^date-released: "?(\d{4}-\d\d-\d\d)"?$', root / "CITATION.cff")
    if date is None or cited != date:
        problems.append(f"CHANGELOG.md has the date {date}, CITATION.cff {cited}")
    if find(r"^## \[Unreleased\]\s+(?!## \[)(\S)", changelog):
        problems.append("CHANGELOG.md has changes under Unreleased")
    config = configparser.ConfigParser(interpolation=None)
    config.read(root / "setup.cfg", encoding="utf-8")
    if PLACEHOLDER in config["metadata"]["url"]:
        problems.append(f"`url` in setup.cfg still has the placeholder {PLACEHOLDER}")
    return problems


def misbuilt(root: Path, dist: Path) -> list[str]:
    """Return what is wrong with the files to upload."""
    name = f"keras_finetune-{read_version(root)}"
    sdist, wheel = f"{name}.tar.gz", f"{name}-py3-none-any.whl"
    found = sorted(path.name for path in dist.iterdir())
    if found != sorted([sdist, wheel]):
        return [f"{dist} must hold {sdist} and {wheel}, it holds {found}"]
    with tarfile.open(dist / sdist) as archive:
        names = archive.getnames()
    if any(path.startswith(f"{name}/tests") for path in names):
        return ["the sdist has tests, without what they run"]
    return []


def main(arguments: list[str], root: Path = ROOT) -> int:
    """Print the problems, return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tag")
    parser.add_argument("--dist", type=Path)
    options = parser.parse_args(arguments)
    problems = disagreements(root)
    if options.tag:
        problems += missing(root, options.tag)
    if options.dist:
        problems += misbuilt(root, options.dist)
    print("\n".join(problems) or "The release agrees in all places.")
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
