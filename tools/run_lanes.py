"""Run the test suite in tox lanes and close with one summary.

Usage: `python tools/run_lanes.py [--tox TOX] [--jobs N] [LANE ...] [-- PYTEST ARGS]`.
Without lanes it runs those of `env_list` in `setup.cfg`. The exit status is 0 only
when every lane ran and passed. The last line is `total: N passed, N failed,
N skipped`; an error in a fixture or an import counts as failed, and so does a lane
that left no result.
"""

from __future__ import annotations

import argparse
import configparser
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / ".tox" / "results"
# A lane with TensorFlow takes 2.1 to 2.7 GB, one with PyTorch 1.4, one with JAX 1.2.
LANE_BYTES = 2_000_000_000


@dataclass
class Counts:
    """What became of the tests of a lane."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0
    seconds: float = 0.0

    def __str__(self) -> str:
        return f"{self.passed} passed, {self.failed} failed, {self.skipped} skipped"


def read_counts(path: Path) -> Counts | None:
    """Sum the suites of a JUnit file; `None` where there is no whole file."""
    try:
        suites = ElementTree.parse(path).getroot().iter("testsuite")
    except (OSError, ElementTree.ParseError):
        return None
    counts = Counts()
    for suite in suites:
        failed = int(suite.get("failures", 0)) + int(suite.get("errors", 0))
        skipped = int(suite.get("skipped", 0))
        counts.failed += failed
        counts.skipped += skipped
        # A test that passes and then fails in its teardown is counted once as failed.
        counts.passed += max(int(suite.get("tests", 0)) - failed - skipped, 0)
        counts.seconds += float(suite.get("time", 0))
    return counts


def summarize(results: dict[str, Counts | None], notes: dict[str, str]) -> list[str]:
    """One line a lane, then the total."""
    total = Counts()
    lines = []
    width = max(map(len, results))
    for lane, counts in results.items():
        if counts is None:
            counts = Counts(failed=1)
            found = f"no result; the lane needs: {notes[lane]}"
        else:
            found = f"{counts} in {counts.seconds:.0f} s"
        lines.append(f"  {lane:<{width}}  {found}")
        total.passed += counts.passed
        total.failed += counts.failed
        total.skipped += counts.skipped
    return [*lines, f"total: {total}"]


def main(arguments: list[str]) -> int:
    """Run the lanes, print the summary, return the exit status."""
    pytest_arguments: list[str] = []
    if "--" in arguments:
        split = arguments.index("--")
        arguments, pytest_arguments = arguments[:split], arguments[split + 1 :]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tox", default="tox")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("lanes", nargs="*")
    options = parser.parse_args(arguments)

    config = configparser.ConfigParser(interpolation=None)
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    prefix = "testenv:"
    known = [name.removeprefix(prefix) for name in config if name.startswith(prefix)]
    lanes = options.lanes or config["tox:tox"]["env_list"].split()
    for lane in lanes:
        if lane not in known:
            parser.error(f"there is no lane {lane!r} in setup.cfg, only {known}")
    notes = {lane: config[prefix + lane].get("description", lane) for lane in lanes}

    absent = [lane for lane in lanes if not (ROOT / ".tox" / lane).is_dir()]
    expected, free = len(absent) * LANE_BYTES, shutil.disk_usage(ROOT).free
    if free < expected:
        parser.error(
            f"{len(absent)} lanes have to be installed. "
            f"Expected: {expected / 1e9:.0f} GB of free disk. "
            f"Received: {free / 1e9:.1f} GB"
        )

    # A file of an earlier run must not pass for one of this run, and setuptools would
    # pack what an earlier build left behind.
    shutil.rmtree(ROOT / "build", ignore_errors=True)
    RESULTS.mkdir(parents=True, exist_ok=True)
    for lane in lanes:
        (RESULTS / f"{lane}.xml").unlink(missing_ok=True)

    if len(lanes) > 1:
        # The output of a lane is shown, whole, when it fails.
        mode = ["run-parallel", "--parallel-no-spinner", "-p", str(options.jobs)]
    else:
        mode = ["run"]
    command = [options.tox, *mode, "-e", ",".join(lanes), "--", *pytest_arguments]
    status = subprocess.run(command, cwd=ROOT, check=False).returncode

    results = {lane: read_counts(RESULTS / f"{lane}.xml") for lane in lanes}
    lines = summarize(results, notes)
    print("\n" + "\n".join(lines), flush=True)
    failed = any(counts is None or counts.failed for counts in results.values())
    return status or int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
