"""What `benchmarks/side_by_side.py` does with what it measured; no framework runs."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).resolve().parents[1] / "benchmarks" / "side_by_side.py"
TENSORFLOW, TORCH, FASTAI = "Keras 3.15.1 on tensorflow", "Keras on torch", "fastai 2"
NEW = 0.125  # what a fake lane measures
LANES = {
    "tensorflow": (TENSORFLOW, "keras", "tensorflow"),
    "torch": (TORCH, "keras", "torch"),
    "fastai": (FASTAI, "fastai", None),
}
ARMS = ((TORCH, "full"), (TORCH, "+ both"), (FASTAI, "fastai, full"))


class Fake:
    """A lane whose every process gives the same figures at once."""

    failing = ()

    def __init__(self, python, kind):
        if python == sys.executable:  # has TensorFlow only
            kind = {"keras": "tensorflow"}.get(kind)
        self.name, self.tool, self.backend = LANES.get(kind, (None, None, None))
        self.multi = True

    def run(self, work, *arguments):
        if work in self.failing:
            raise RuntimeError(f"{work} fails")
        if work == "quality":
            tool, seeds, _, arms, out = arguments
            names = ["full", "+ both"] if tool == "keras" else ["fastai, full"]
            rows = [
                ["digits", arm, 0.1, seed, NEW, NEW]
                for seed in seeds
                for arm in names
                if arms is None or arm in arms
            ]
            Path(out).write_text("".join(json.dumps(row) + "\n" for row in rows))
            return None
        return {
            "cost": {"first": NEW, "steps": [NEW] * 3, "peak": NEW},
            "breaks": {"stages": "works anew"},
            "steps": ["measured anew"],
            "prediction": {"first": NEW, "seconds": [NEW], "peak": NEW},
            "norms": {"pass": NEW, "eager loop": NEW, "eager loop / pass": 1.0},
        }[work]


def published():
    """A small file of results, with a part and a row for each of three lanes."""

    def rows(lanes, ways, **figures):
        return [
            {"lane": lane, "way": way, "repetition": 0, "peak": 1.0, **figures}
            for lane in lanes
            for way in ways(lane)
        ]

    keras = [TENSORFLOW, TORCH]
    return {
        "quality": [
            [lane, task, arm, rate, seed, 0.5, 0.5]
            for lane, arm in (
                (TORCH, "full"),
                (TORCH, "+ both"),
                (FASTAI, "fastai, full"),
            )
            for task in ("MNIST", "digits")
            for rate in (0.01, 0.1)
            for seed in (1, 2)
        ],
        "breaks": {lane: {"ours": {"stages": "works"}} for lane in keras},
        "cost": rows(
            [*keras, FASTAI],
            lambda lane: ["fastai"] if lane == FASTAI else ["ours", "by hand"],
            first=1.0,
            steps=[1.0, 2.0, 3.0],
        ),
        "prediction": rows(
            ["Keras 2.15.0 on tensorflow", TENSORFLOW],
            lambda lane: ["mc_predict"],
            first=1.0,
            seconds=[1.0],
        ),
        "norms": {
            lane: {"pass": 0.1, "eager loop": 0.2, "eager loop / pass": 2.0}
            for lane in ("Keras 2.15.0 on tensorflow", TENSORFLOW)
        },
        "steps": {lane: [f"of {lane}"] for lane in ("Keras 2.15.0", TENSORFLOW)},
    }


@pytest.fixture
def compare(tmp_path, monkeypatch):
    """The script, with files of its own and lanes that cost nothing."""
    spec = importlib.util.spec_from_file_location("side_by_side", SCRIPT)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    marks = [f"<!-- begin: {n} -->\nold\n<!-- end: {n} -->" for n in script.TABLES]
    monkeypatch.setattr(script, "PAGE", tmp_path / "page.md")
    script.PAGE.write_text("\n".join(["Prose.", *marks, "More."]), encoding="utf-8")
    monkeypatch.setattr(script, "RESULTS", tmp_path / "results.json")
    script.RESULTS.write_text(json.dumps(published()), encoding="utf-8")
    monkeypatch.setattr(script, "draw", lambda *args: None)
    Fake.ways = script.Lane.ways
    monkeypatch.setattr(script, "Lane", Fake)
    monkeypatch.setattr(Fake, "failing", ())

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["side_by_side.py", *arguments])
        status = script.main()
        script.results = json.loads(script.RESULTS.read_text(encoding="utf-8"))
        return status

    script.run = run
    return script


def of_other_lanes(results):
    """What a run with TensorFlow alone leaves as it is."""
    quality = [
        row for row in results["quality"] if (row[0], row[1]) != (TORCH, "digits")
    ]
    found = {"quality": [row for row in quality if row[0] != TENSORFLOW]}
    for part in ("cost", "prediction"):
        found[part] = [row for row in results[part] if row["lane"] != TENSORFLOW]
    for part in ("breaks", "norms", "steps"):
        found[part] = {k: v for k, v in results[part].items() if k != TENSORFLOW}
    return found


def test_first_command_with_tensorflow_alone_keeps_what_others_measured(compare):
    assert not compare.run("--seeds", "2", "--repetitions", "2")
    found, before = compare.results, published()
    assert of_other_lanes(found) == of_other_lanes(before)
    assert all(of_other_lanes(before).values())
    anew = [row for row in found["quality"] if row[0] == TENSORFLOW]
    assert {tuple(row[1:5]) for row in anew} == {
        ("digits", arm, 0.1, seed) for arm in ("full", "+ both") for seed in (1, 2)
    }
    for part, ways in (("cost", 4), ("prediction", 3)):
        mine = [row for row in found[part] if row["lane"] == TENSORFLOW]
        assert len(mine) == ways * 2
        assert {row["first"] for row in mine} == {NEW}
    assert found["breaks"][TENSORFLOW]["ours"] == {"stages": "works anew"}
    assert found["norms"][TENSORFLOW]["pass"] == NEW
    assert found["steps"][TENSORFLOW] == ["measured anew"]
    page = compare.PAGE.read_text(encoding="utf-8")
    assert page.startswith("Prose.")
    assert page.endswith("More.")
    assert "old" not in page
    for name, make in compare.TABLES.items():
        assert f"<!-- begin: {name} -->\n\n{make(found)}\n\n" in page
    assert "| fastai, full | 50.0" in page
    assert "Seeds ." not in page


@pytest.mark.parametrize(
    ("kind", "part", "says"),
    [
        ("torch", "norms", "norms: needs an interpreter with TensorFlow"),
        ("torch", "steps", "steps: needs an interpreter with TensorFlow"),
        ("torch", "prediction", "prediction: needs an interpreter with TensorFlow"),
        ("fastai", "quality", "quality: needs an interpreter with Keras"),
        ("jax", "cost", "nothing to run"),
    ],
)
def test_part_that_measures_nothing_says_so_and_stays(
    compare, capsys, kind, part, says
):
    before = compare.RESULTS.read_bytes()
    assert not compare.run("--python", f"{kind}=python", "--parts", part)
    assert compare.RESULTS.read_bytes() == before
    said = capsys.readouterr().out
    assert says in said
    assert f"{part}: nothing measured, stays as it was" in said


def test_part_that_fails_stays_and_the_next_one_runs(compare, monkeypatch, capsys):
    monkeypatch.setattr(Fake, "failing", ("norms",))
    assert compare.run("--parts", "norms", "steps") == "failed: norms"
    assert compare.results["norms"] == published()["norms"]
    assert compare.results["steps"][TENSORFLOW] == ["measured anew"]
    assert "norms: failed, and stays as it was. norms fails" in capsys.readouterr().out


@pytest.mark.parametrize("first", ["tensorflow", "torch"])
def test_quality_runs_on_the_first_keras_and_on_fastai(compare, first):
    kinds = [first, *({"tensorflow", "torch"} - {first}), "fastai"]
    given = [word for kind in kinds for word in ("--python", f"{kind}=python")]
    compare.run(*given, "--parts", "quality", "--seeds", "1")
    found = [row for row in compare.results["quality"] if row[5] == NEW]
    assert {row[0] for row in found} == {LANES[first][0], FASTAI}
    # An arm on a task has rows of one lane only.
    assert len({(row[0], row[1], row[2]) for row in compare.results["quality"]}) == 6


def test_arms_that_are_named_are_measured_and_the_others_stay(compare):
    compare.run(
        *("--python", "torch=python", "--python", "fastai=python"),
        *("--parts", "quality", "--arms", "fastai, full", "--seeds", "2"),
    )
    found, before = (
        [row for row in results["quality"] if row[1:3] != ["digits", "fastai, full"]]
        for results in (compare.results, published())
    )
    assert found == before
    assert len(compare.results["quality"]) == len(before) + 2


def test_folder_of_ones_own_leaves_the_published_files(compare, tmp_path):
    before = compare.RESULTS.read_bytes(), compare.PAGE.read_bytes()
    compare.run("--out", str(tmp_path / "mine"), "--repetitions", "1")
    assert (compare.RESULTS.read_bytes(), compare.PAGE.read_bytes()) == before
    mine = tmp_path / "mine"
    found = json.loads((mine / "results.json").read_text(encoding="utf-8"))
    assert {row["lane"] for row in found["cost"]} == {TENSORFLOW}
    assert set(found) == set(compare.PARTS)
    assert "works anew" in (mine / "page.md").read_text(encoding="utf-8")


def test_ratio_pairs_rows_of_one_run_only(compare):
    results = published()
    for row in results["cost"]:
        if row["lane"] == FASTAI:
            row["run"] = 1
    of_fastai = compare.cost_table(results).split(f"**{FASTAI}**\n\n")[1]
    fastai = of_fastai.splitlines()[-1]
    assert fastai.startswith("| freeze_to and a fit per stage |")
    assert "(x" not in fastai
    for row in results["cost"]:
        row["run"] = 1
    assert "(x1.00)" in compare.cost_table(results).splitlines()[-1]


def test_difference_pairs_by_seed(compare):
    rows = [["lane", "task", "full", 0.1, seed, 0.5, seed / 10] for seed in (1, 2, 3)]
    rows += [["lane", "task", "other", 0.1, seed, 0.5, seed / 10] for seed in (3, 2)]
    rows += [["lane", "task", "apart", 0.1, 4, 0.5, 0.5]]
    _, _, other, apart = compare.difference_table({"quality": rows}).splitlines()
    assert other == "| other | +0.0 ± 0.0 |"
    assert apart == "| apart | - |"


def test_what_was_raised_stands_under_the_table(compare):
    table = compare.breaks_table(
        {
            "breaks": {
                TENSORFLOW: {
                    "ours": {"stages": "works", "save": "raises E: No `Adam`. Make"},
                    "multi": {"stages": "none; by hand | first", "save": "works"},
                },
                TORCH: {"ours": {"stages": "raises E: No Adam.", "save": "works"}},
            }
        }
    )
    tensorflow, first, torch, second, notes = table.split("\n\n")
    assert tensorflow == "**Keras 3.15.1 on TensorFlow**"
    assert torch == "**Keras on PyTorch**"
    ours, multi = first.splitlines()[2:]
    assert ours.startswith("| keras-finetune | works | fails <sup>1</sup> |")
    assert multi.startswith("| MultiOptimizer | none <sup>2</sup> | works |")
    assert "| keras-finetune | fails <sup>1</sup> | works |" in second
    assert notes == "1. `E: No Adam`\n2. By hand | first"


def test_pairs_of_steps_are_read_from_what_was_printed(compare):
    printed = [
        "$ python benchmarks/callbacks.py --parts multi rates",
        "                     ours     other  ratio   quartiles",
        "step, 20 groups    84.2 ms   85.5 ms  x0.981  [0.969, 1.013]  against Multi",
    ]
    row = compare.steps_table({"steps": {TENSORFLOW: printed}}).splitlines()[-1]
    assert row == "| step, 20 groups | Multi | 84.2 | 85.5 | x0.981 | 0.969, 1.013 |"


def test_results_are_kept_as_they_are(compare):
    compare.keep(published(), compare.RESULTS)
    assert json.loads(compare.RESULTS.read_text(encoding="utf-8")) == published()
