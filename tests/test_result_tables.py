"""Tables in the documentation are those of the kept results."""

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PATH = ROOT / "benchmarks" / "_tables.py"
SPEC = importlib.util.spec_from_file_location(PATH.stem, PATH)
SCRIPT = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(SCRIPT)


@pytest.mark.parametrize("name", SCRIPT.TABLES)
def test_tables_are_those_of_the_results(name):
    page, _, _ = SCRIPT.TABLES[name]
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    shown = text.split(f"<!-- begin: {name} -->")[1].split("<!-- end: ")[0].strip()
    assert shown == SCRIPT.table(name)
