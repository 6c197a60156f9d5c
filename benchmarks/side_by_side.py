"""The field side by side: everything that runs here, in one table and one figure.

    python benchmarks/side_by_side.py
    python benchmarks/side_by_side.py --python tensorflow=PYTHON --python torch=PYTHON
    python benchmarks/side_by_side.py --parts render

`--python` names an interpreter, with `KERAS_BACKEND` before it where it matters; each
one runs what it can import, and an error takes the place of a figure. Every measurement
of cost has a process of its own; in a repetition all ways run one after the other, in
turn from the first and from the last, so that a busy machine slows all of them. MNIST
comes from the folder in `KERAS_FINETUNE_DATA` (see `_data.py`); without it, the digits
of scikit-learn are what is left.

Results are kept in results/side_by_side.json, part by part; the tables of
docs/side_by_side.md and its figure are written from there.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "side_by_side.json"
STEPS = HERE / "results" / "callbacks.txt"
PAGE = HERE.parent / "docs" / "side_by_side.md"
FIGURE = HERE.parent / "docs" / "images" / "side_by_side.png"
PREDICTION = (
    "mc_predict",
    "a loop of `model(x, training=True)`",
    "uncertainty-wizard",
)
WAYS = ("ours", "by hand", "masking", "multi")
TITLES = {
    "ours": "keras-finetune",
    "by hand": "Keras by hand: a compile and a fit a stage",
    "masking": "Keras by hand: gradients masked in `train_step`",
    "multi": "MultiOptimizer",
    "fastai": "fastai: `freeze_to`, a fit a stage",
}
MARKS = {
    "ours": ["ours"],
    "by hand": ["by hand"],
    "masking": ["masking"],
    "multi": ["multi", "multi, Keras {keras}"],
    "fastai": ["fastai"],
}


# --- one process ----------------------------------------------------------------------


def ask():
    """What this interpreter has."""
    found = {name: bool(importlib.util.find_spec(name)) for name in NAMES}
    versions = []
    if found["fastai"]:
        import fastai
        import torch

        versions = [f"fastai {fastai.__version__}", f"PyTorch {torch.__version__}"]
    elif found["keras"]:
        from keras_finetune._engine import KERAS_3, backend, keras

        found["major"] = 3 if KERAS_3 else 2
        found["backend"] = backend()
        versions = [f"Keras {keras.__version__} on {backend()}"]
        if found["tensorflow_addons"]:
            versions.append("TensorFlow Addons")
    return {**found, "versions": ", ".join(versions)}


NAMES = ("keras", "fastai", "tensorflow_addons", "uncertainty_wizard", "torch")


def cost(way):
    if way == "fastai":
        import _fastai_ways as ways

        found = ways.cost()
    else:
        import _ways as ways

        found = ways.cost(way)
    return {**found, "peak": peak()}


def peak():
    """The largest resident memory of this process so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def breaks(way):
    with tempfile.TemporaryDirectory() as folder:
        if way == "fastai":
            import _fastai_ways

            return _fastai_ways.breaks(Path(folder))
        import _ways

        return _ways.breaks(way, folder)


def quality(folder, seeds, out):
    import torch

    torch.set_num_threads(1)  # tiny networks; several processes may share the cores
    if importlib.util.find_spec("fastai"):
        from _fastai_ways import study
    else:
        from _transfer import study
    with open(out, "w", encoding="utf-8") as file:
        for row in study(seeds, Path(folder)):
            file.write(json.dumps(row) + "\n")
            file.flush()


def prediction(way):
    import _ways

    return {**_ways.prediction(way), "peak": peak()}


def norms():
    import weight_norms

    return weight_norms.measure("MobileNetV2", 7)


WORK = (ask, cost, breaks, quality, prediction, norms)


class Lane:
    """An interpreter, and the backend that Keras is to take in it."""

    def __init__(self, spec):
        backend, _, python = spec.rpartition("=")
        self.python = os.path.abspath(python) if os.sep in python else python
        path = [str(HERE.parent), os.environ.get("PYTHONPATH", "")]
        self.environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, path)),
            "TF_CPP_MIN_LOG_LEVEL": "3",
            "CUDA_VISIBLE_DEVICES": "-1",
        }
        if backend:
            self.environment["KERAS_BACKEND"] = backend
        self.has = self.run("ask")
        if self.has["torch"]:
            # Threads of PyTorch spin and stop each other where the cores are busy.
            self.environment["OMP_NUM_THREADS"] = "1"
        self.name = self.has["versions"] or "nothing"

    def run(self, work, *arguments):
        """What a process of its own returns; its last words are in the error."""
        command = [self.python, str(HERE / "side_by_side.py"), "--work", work]
        # uncertainty-wizard leaves files where it runs.
        with (
            tempfile.TemporaryDirectory() as folder,
            tempfile.NamedTemporaryFile("r", suffix=".json") as file,
        ):
            done = subprocess.run(
                [*command, json.dumps([file.name, *arguments])],
                cwd=folder,
                env=self.environment,
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode:
                raise RuntimeError(f"{work} {arguments}:\n{done.stderr[-2000:]}")
            return json.load(file)

    def ways(self):
        if self.has["fastai"]:
            return ["fastai"]
        if not self.has["keras"]:
            return []
        if self.has["backend"] != "tensorflow":
            return ["ours", "by hand"]
        multi = self.has["major"] == 3 or self.has["tensorflow_addons"]
        return [way for way in WAYS if multi or way != "multi"]


# --- the parts ------------------------------------------------------------------------


def in_turns(work, turns, repetitions):
    """A row for each way in each lane, again and again, to and fro."""
    rows = []
    for repetition in range(repetitions):
        for lane, way in turns if repetition % 2 else reversed(turns):
            print(f"{work} {repetition}: {lane.name}, {way}", flush=True)
            row = {"lane": lane.name, "way": way, "repetition": repetition}
            rows.append(row | lane.run(work, way))
    return rows


def on_tensorflow(lanes):
    return [lane for lane in lanes if lane.has.get("backend") == "tensorflow"]


def measure_cost(lanes, options):
    turns = [(lane, way) for lane in lanes for way in lane.ways()]
    return in_turns("cost", turns, options.repetitions)


def measure_breaks(lanes, options):
    found = {}
    for lane in lanes:
        for way in lane.ways():
            print(f"breaks: {lane.name}, {way}", flush=True)
            found.setdefault(lane.name, {})[way] = lane.run("breaks", way)
    return found


def measure_quality(lanes, options):
    """Keras on PyTorch if there is one: nothing to trace, and fastai's own backend."""
    chosen = [lane for lane in lanes if lane.has.get("backend") == "torch"]
    chosen += [lane for lane in lanes if lane.has["fastai"]]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for lane in chosen:
            print(f"quality: {lane.name}", flush=True)
            out = f"{folder}/rows"
            lane.run("quality", folder, list(range(1, options.seeds + 1)), out)
            with open(out, encoding="utf-8") as file:
                rows += map(json.loads, file)
    return rows


def measure_prediction(lanes, options):
    turns = [(lane, way) for lane in on_tensorflow(lanes) for way in PREDICTION]
    return in_turns("prediction", turns, options.repetitions)


def measure_norms(lanes, options):
    return {lane.name: lane.run("norms") for lane in on_tensorflow(lanes)}


PARTS = {
    "cost": measure_cost,
    "breaks": measure_breaks,
    "quality": measure_quality,
    "prediction": measure_prediction,
    "norms": measure_norms,
}


# --- the page -------------------------------------------------------------------------


def lines(mark):
    """Lines between the marks `begin` and `end`, without empty ones and comments."""
    count, inside = 0, False
    for name in ("_ways.py", "_fastai_ways.py", "callbacks.py"):
        for line in (HERE / name).read_text(encoding="utf-8").splitlines():
            text = line.strip()
            if text == f"# begin: {mark}":
                inside = True
            elif text == "# end":
                inside = False
            elif inside and text and not text.startswith("#"):
                count += 1
    return count


def table(head, rows):
    body = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in body)


def lines_of(way, lane):
    keras = 2 if "Keras 2" in lane else 3
    return sum(lines(mark.format(keras=keras)) for mark in MARKS[way])


def cost_table(results):
    rows = []
    grouped = defaultdict(list)
    for row in results["cost"]:
        grouped[row["lane"], row["way"]].append(row)
    for (lane, way), found in sorted(grouped.items(), key=lambda item: item[0][0]):
        base = grouped.get((lane, "ours")) or grouped.get(_torch(grouped), [])

        def of(pick, found=found, base=base):
            middle = statistics.median(map(pick, found))
            if not base or found is base:
                return f"{middle:.3g}"
            beside = {row["repetition"]: pick(row) for row in base}
            ratio = statistics.median(
                pick(row) / beside[row["repetition"]]
                for row in found
                if row["repetition"] in beside
            )
            return f"{middle:.3g} (x{ratio:.2f})"

        steps = [of(lambda row, s=s: row["steps"][s]) for s in range(3)]
        if way == "multi":
            steps = ["no stages", "no stages", steps[-1]]
        rest = [of(lambda row: row["first"]), of(lambda row: row["peak"])]
        rows.append([lane, TITLES[way], *steps, *rest, lines_of(way, lane)])
    order = list(TITLES.values())
    rows.sort(key=lambda row: (row[0], order.index(row[1])))
    head = ["lane", "way", "step, head", "step, 2 groups", "step, all", "first step, s"]
    return table([*head, "peak, MiB", "lines"], rows)


def _torch(grouped):
    return next((k for k in grouped if k[1] == "ours" and "torch" in k[0]), None)


def breaks_table(results):
    rows = []
    for lane, ways in results["breaks"].items():
        for way, wishes in ways.items():
            said = [
                f"`{text.replace('`', '')}`" if text.startswith("raises") else text
                for text in wishes.values()
            ]
            said = [text.replace("|", "\\|") for text in said]
            rows.append([lane, TITLES[way], *said, *["-"] * (5 - len(said))])
    wishes = ["stages", "a rate callback", "optimizer state", "save, load", "mixed"]
    return table(["lane", "way", *wishes], rows)


def chosen(rows):
    """For each task and arm: the rate, and its test accuracies, by the other images."""
    scores = defaultdict(lambda: defaultdict(list))
    for task, arm, rate, _, validation, test in rows:
        scores[task, arm][rate].append((validation, test))
    found = {}
    for key, by_rate in scores.items():
        rate = max(by_rate, key=lambda r: statistics.mean(v for v, _ in by_rate[r]))
        found[key] = rate, [test for _, test in by_rate[rate]]
    return found


def mean_and_error(values):
    error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0
    return 100 * statistics.mean(values), 100 * error


def quality_table(results):
    def cell(found, task, arm):
        rate, tests = found[task, arm]
        mean, error = mean_and_error(tests)
        return f"{mean:.1f} ± {error:.1f} ({rate:g})"

    seeds = ", ".join(map(str, sorted({row[3] for row in results["quality"]})))
    return f"Seeds {seeds}.\n\n" + arms_table(results, "arm", cell)


def difference_table(results):
    """Each arm less the full one, paired by seed: what the technique adds."""

    def cell(found, task, arm):
        pairs = zip(found[task, arm][1], found[task, "full"][1])
        mean, error = mean_and_error([a - b for a, b in pairs])
        return f"{mean:+.1f} ± {error:.1f}"

    return arms_table(results, "arm, less full", cell, leave_out="full")


def arms_table(results, title, cell, leave_out=None):
    """A row for each arm, a column for each task."""
    found = chosen(results["quality"])
    tasks = list(dict.fromkeys(task for task, _ in found))
    arms = [arm for arm in dict.fromkeys(arm for _, arm in found) if arm != leave_out]
    rows = [
        [
            arm,
            *(
                cell(found, task, arm) if (task, arm) in found else "-"
                for task in tasks
            ),
        ]
        for arm in arms
    ]
    return table([title, *tasks], rows)


def by_rate_table(results):
    """What the search for a rate saw: the test accuracy at every rate."""
    found = defaultdict(list)
    for task, arm, rate, _, _, test in results["quality"]:
        found[arm, rate, task].append(test)
    tasks = list(dict.fromkeys(task for _, _, task in found))
    rows = []
    for arm in ("full", "+ both"):
        for rate in dict.fromkeys(rate for a, rate, _ in found if a == arm):
            means = [mean_and_error(found[arm, rate, task])[0] for task in tasks]
            rows.append([arm, f"{rate:g}", *(f"{mean:.1f}" for mean in means)])
    return table(["arm", "base rate", *tasks], rows)


def steps_text(results):
    """What `callbacks.py` printed."""
    del results
    return f"```console\n{STEPS.read_text(encoding='utf-8').strip()}\n```"


def prediction_table(results):
    grouped = defaultdict(dict)
    for row in results["prediction"]:
        grouped[row["lane"], row["way"]][row["repetition"]] = row
    rows = []
    order = PREDICTION.index
    for lane, way in sorted(grouped, key=lambda key: (key[0], order(key[1]))):
        found = grouped[lane, way]
        said = {row["raises"] for row in found.values() if "raises" in row}
        if said:
            text = said.pop().replace("`", "")
            rows.append([lane, way, f"`raises {text}`", "-", "-", "-"])
            continue
        base = grouped[lane, PREDICTION[0]]
        cells = []
        for pick in (
            lambda row: statistics.median(row["seconds"]),
            lambda row: row["first"],
            lambda row: row["peak"],
        ):
            middle = statistics.median(map(pick, found.values()))
            ratio = statistics.median(pick(found[i]) / pick(base[i]) for i in found)
            cells.append(
                f"{middle:.3g}" + ("" if found is base else f" (x{ratio:.2f})")
            )
        rows.append([lane, way, *cells, lines(way)])
    return table(["lane", "way", "s", "first time, s", "peak, MiB", "lines"], rows)


def norms_table(results):
    rows = []
    for lane, found in results["norms"].items():
        rows.append([lane, "`WeightNormLogger`", f"{1e3 * found['pass']:.1f}"])
        said = f"{1e3 * found['eager loop']:.1f} (x{found['eager loop / pass']:.1f})"
        rows.append([lane, "an eager loop over the weights", said])
    return table(["lane", "way", "ms"], rows)


def draw(results):
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    found = chosen(results["quality"])
    tasks = list(dict.fromkeys(task for task, _ in found))
    arms = list(dict.fromkeys(arm for _, arm in found))
    figure, axes = pyplot.subplots(figsize=(8, 3.6), layout="constrained")
    for i, arm in enumerate(arms):
        here = [
            (x, *mean_and_error(found[task, arm][1]))
            for x, task in enumerate(tasks)
            if (task, arm) in found
        ]
        x, means, errors = zip(*here)
        x = [a + 0.08 * (i - (len(arms) - 1) / 2) for a in x]
        marker = "s" if arm.startswith("fastai") else "o"
        axes.errorbar(x, means, errors, fmt=marker, markersize=4, label=arm)
    axes.set_xticks(range(len(tasks)), [t.replace(", ", "\n") for t in tasks])
    axes.set_ylabel("test accuracy, %")
    axes.grid(axis="y", alpha=0.3)
    axes.legend(fontsize=7, loc="lower right")
    figure.savefig(FIGURE, dpi=110)


TABLES = {
    "quality": quality_table,
    "difference": difference_table,
    "by rate": by_rate_table,
    "steps": steps_text,
    "cost": cost_table,
    "breaks": breaks_table,
    "prediction": prediction_table,
    "norms": norms_table,
}


NEEDS = {"difference": "quality", "by rate": "quality", "steps": "cost"}


def render(results):
    text = PAGE.read_text(encoding="utf-8")
    for name, make in TABLES.items():  # between its marks
        if NEEDS.get(name, name) not in results:
            continue
        begin, end = f"<!-- begin: {name} -->", f"<!-- end: {name} -->"
        before, _, rest = text.partition(begin)
        _, _, after = rest.partition(end)
        text = f"{before}{begin}\n\n{make(results)}\n\n{end}{after}"
    PAGE.write_text(text, encoding="utf-8")
    if "quality" in results:
        draw(results)


def keep(results):
    """One line for each row: changes can be read."""
    parts = []
    for name, part in results.items():
        if isinstance(part, list):
            rows = ",\n  ".join(map(json.dumps, part))
            parts.append(f" {json.dumps(name)}: [\n  {rows}\n ]")
        else:
            parts.append(f" {json.dumps(name)}: {json.dumps(part)}")
    text = "{\n" + ",\n".join(parts) + "\n}\n"
    RESULTS.write_text(text, encoding="utf-8")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--python", action="append", metavar="[BACKEND=]PATH")
    parser.add_argument(
        "--parts", nargs="+", choices=[*PARTS, "render"], default=[*PARTS, "render"]
    )
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--data", help="the folder that holds mnist10k.npz")
    parser.add_argument("--work", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.data:
        os.environ["KERAS_FINETUNE_DATA"] = os.path.abspath(options.data)
    if options.work:
        name, arguments = options.work
        out, *arguments = json.loads(arguments)
        work = {function.__name__: function for function in WORK}[name]
        Path(out).write_text(json.dumps(work(*arguments), default=float))
        return
    results = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    lanes = None
    for part in options.parts:
        if part == "render":
            render(results)
            continue
        if lanes is None:
            lanes = [Lane(spec) for spec in options.python or [sys.executable]]
        results["lanes"] = sorted({*results.get("lanes", []), *(x.name for x in lanes)})
        results[part] = PARTS[part](lanes, options)
        keep(results)


if __name__ == "__main__":
    main()
