"""The field side by side: everything that runs here, in one table and one figure.

    python benchmarks/side_by_side.py
    python benchmarks/side_by_side.py --python tensorflow=PYTHON --python torch=PYTHON
    python benchmarks/side_by_side.py --parts render

`--python` names an interpreter, and before it what it is to run: a backend of Keras, or
`fastai`. With nothing before it, or without the option, an interpreter runs what it
has: Keras on its own backend, and fastai. Such a pair is a lane. Every measurement of
cost has a process of its own; in a repetition all ways run one after the other, in turn
from the first and from the last, so that a busy machine slows all of them. MNIST comes
from the folder in `KERAS_FINETUNE_DATA` (see `_data.py`); without it, the study of
quality has the digits of scikit-learn only.

Results are kept in results/side_by_side.json, part by part; the tables of
docs/side_by_side.md and its figure are written from there. What is measured takes the
place of what the same lane measured before, and the rows of other lanes stay; in the
study of quality it takes the place of the same arm on the same task. A part in which a
process fails, or which no lane can run, stays as it was, and a line says so. `--out`
names a folder to begin afresh in, without a touch to what is published.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import io
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "side_by_side.json"
PAGE = HERE.parent / "docs" / "side_by_side.md"
FIGURE = HERE.parent / "docs" / "images" / "side_by_side.png"
BACKENDS = ("tensorflow", "torch", "jax")
PREDICTION = (
    "mc_predict",
    "a loop of `model(x, training=True)`",
    "uncertainty-wizard",
)
WAYS = ("ours", "by hand", "masking", "multi")
TITLES = {
    "ours": "keras-finetune",
    "by hand": "by hand, compile and fit per stage",
    "masking": "by hand, masked gradients",
    "multi": "MultiOptimizer",
    "fastai": "freeze_to and a fit per stage",
}
MARKS = {
    "ours": ["ours"],
    "by hand": ["by hand"],
    "masking": ["masking"],
    "multi": ["multi", "multi, Keras {keras}"],
    "fastai": ["fastai"],
}


# --- one process ----------------------------------------------------------------------


def ask(kind):
    """What this interpreter runs as a lane of this kind; nothing where it has none."""
    has = {name: bool(importlib.util.find_spec(name)) for name in NAMES}
    if kind == "fastai":
        if not has["fastai"]:
            return {}
        import fastai
        import torch

        name = f"fastai {fastai.__version__}, PyTorch {torch.__version__}"
        return {"lane": name, "tool": "fastai"}
    if not has["keras"]:
        return {}
    if kind in BACKENDS:
        os.environ["KERAS_BACKEND"] = kind
    elif not has["tensorflow"]:  # Keras's default, whether it is there or not
        found = [name for name in BACKENDS if has[name]]
        os.environ.setdefault("KERAS_BACKEND", *found[:1] or ["tensorflow"])
    from keras_finetune._engine import KERAS_3, backend, keras

    name = f"Keras {keras.__version__} on {backend()}"
    multi = hasattr(keras.optimizers, "MultiOptimizer")
    if not KERAS_3:
        multi = has["tensorflow_addons"]
        name += ", TensorFlow Addons" if multi else ""
    return {"lane": name, "tool": "keras", "backend": backend(), "multi": multi}


NAMES = (*BACKENDS, "keras", "fastai", "tensorflow_addons")


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


def quality(tool, seeds, folder, arms, out):
    if importlib.util.find_spec("torch"):
        import torch

        torch.set_num_threads(1)  # tiny networks; several processes may share the cores
    if tool == "fastai":
        from _fastai_ways import study
    else:
        from _transfer import study
    with open(out, "w", encoding="utf-8") as file:
        for row in study(seeds, Path(folder), arms):
            file.write(json.dumps(row) + "\n")
            file.flush()


def steps(pairs):
    """What `callbacks.py` prints, below its command."""
    import callbacks

    arguments = ["--parts", "multi", "rates", "--repetitions", str(pairs)]
    with contextlib.redirect_stdout(io.StringIO()) as text:
        callbacks.main(arguments)
    command = " ".join(["$ python benchmarks/callbacks.py", *arguments])
    return [command, *text.getvalue().splitlines()]


def prediction(way):
    import _ways

    return {**_ways.prediction(way), "peak": peak()}


def norms():
    import weight_norms

    return weight_norms.measure("MobileNetV2", 7)


WORK = (ask, cost, breaks, quality, steps, prediction, norms)


class Lane:
    """An interpreter, and what runs in it: Keras on one backend, or fastai."""

    def __init__(self, python, kind):
        self.python = os.path.abspath(python) if os.sep in python else python
        path = [str(HERE.parent), os.environ.get("PYTHONPATH", "")]
        self.environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, path)),
            "TF_CPP_MIN_LOG_LEVEL": "3",
            "CUDA_VISIBLE_DEVICES": "-1",
        }
        has = self.run("ask", kind)
        self.name, self.tool = has.get("lane"), has.get("tool")
        self.backend, self.multi = has.get("backend"), has.get("multi")
        if self.backend:
            self.environment["KERAS_BACKEND"] = self.backend
        if self.tool == "fastai" or self.backend == "torch":
            # Threads of PyTorch spin and stop each other where the cores are busy.
            self.environment["OMP_NUM_THREADS"] = "1"

    def run(self, work, *arguments):
        """What a process of its own returns; its last words are in the error."""
        command = [self.python, str(HERE / "side_by_side.py"), "--work", work]
        # uncertainty-wizard leaves files where it runs.
        with (
            tempfile.TemporaryDirectory() as folder,
            tempfile.NamedTemporaryFile("r", suffix=".json") as file,
        ):
            try:
                done = subprocess.run(
                    [*command, json.dumps([file.name, *arguments])],
                    cwd=folder,
                    env=self.environment,
                    # The study of quality is long, and says where it is.
                    stdout=None if work == "quality" else subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    text=True,
                    check=False,
                )
            except OSError as error:
                raise RuntimeError(f"{self.python}: {error}") from error
            if done.returncode:
                raise RuntimeError(f"{work} {arguments}:\n{done.stderr[-2000:]}")
            return json.load(file)

    def ways(self):
        if self.tool == "fastai":
            return ["fastai"]
        if self.backend != "tensorflow":
            return ["ours", "by hand"]
        return [way for way in WAYS if self.multi or way != "multi"]


def lanes_of(specs):
    """The lanes that the interpreters have, in the order given."""
    lanes = []
    for spec in specs:
        kind, _, python = spec.rpartition("=")
        found = []
        for each in [kind] if kind else ["keras", "fastai"]:
            try:
                lane = Lane(python, each)
            except RuntimeError as error:
                said = str(error).strip().splitlines()[-1]
                print(f"{spec}: left out, as {each} fails. {said}", flush=True)
                continue
            if lane.name:
                found.append(lane)
        if not found:
            print(f"{spec}: nothing to run", flush=True)
        lanes += found
    return lanes


# --- the parts ------------------------------------------------------------------------


def in_turns(work, lanes, ways, repetitions):
    """A row for each way in each lane, again and again, to and fro."""
    turns = [(lane, way) for lane in lanes for way in ways(lane)]
    run = int(time.time())
    rows = []
    for repetition in range(repetitions):
        for lane, way in turns if repetition % 2 else reversed(turns):
            print(f"{work} {repetition}: {lane.name}, {way}", flush=True)
            row = {"lane": lane.name, "way": way, "run": run, "repetition": repetition}
            rows.append(row | lane.run(work, way))
    return rows


def on_tensorflow(lanes, part):
    found = [lane for lane in lanes if lane.backend == "tensorflow"]
    if not found:
        print(f"{part}: needs an interpreter with TensorFlow", flush=True)
    return found


def measure_cost(lanes, options):
    return in_turns("cost", lanes, Lane.ways, options.repetitions)


def measure_breaks(lanes, options):
    found = {}
    for lane in lanes:
        for way in lane.ways():
            print(f"breaks: {lane.name}, {way}", flush=True)
            found.setdefault(lane.name, {})[way] = lane.run("breaks", way)
    return found


def measure_quality(lanes, options):
    """The first Keras, which makes the tasks and runs its arms; then the first fastai.

    A row is the lane, the task, the arm, the rate, the seed, and the accuracy on the
    images to choose by and on those to test on.
    """
    keras = [lane for lane in lanes if lane.tool == "keras"]
    if not keras:
        print("quality: needs an interpreter with Keras, which makes the tasks")
        return []
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        out = f"{folder}/rows"
        fastai = [lane for lane in lanes if lane.tool == "fastai"]
        for lane in keras[:1] + fastai[:1]:
            print(f"quality: {lane.name}", flush=True)
            seeds = list(range(1, options.seeds + 1))
            lane.run("quality", lane.tool, seeds, folder, options.arms, out)
            with open(out, encoding="utf-8") as file:
                rows += [[lane.name, *json.loads(line)] for line in file]
    return rows


def measure_steps(lanes, options):
    found = {}
    for lane in on_tensorflow(lanes, "steps"):
        print(f"steps: {lane.name}", flush=True)
        found[lane.name] = lane.run("steps", options.pairs)
    return found


def measure_prediction(lanes, options):
    lanes = on_tensorflow(lanes, "prediction")
    return in_turns("prediction", lanes, lambda lane: PREDICTION, options.repetitions)


def measure_norms(lanes, options):
    return {lane.name: lane.run("norms") for lane in on_tensorflow(lanes, "norms")}


PARTS = {
    "cost": measure_cost,
    "steps": measure_steps,
    "breaks": measure_breaks,
    "quality": measure_quality,
    "prediction": measure_prediction,
    "norms": measure_norms,
}


def merged(old, new):
    """New rows in the place of old ones of the same lane, or of the same arm and task.

    An arm has one lane at a time: its rows are compared seed by seed with another's.
    """
    if isinstance(new, dict):
        return {**(old or {}), **new}

    def key(row):
        return row["lane"] if isinstance(row, dict) else tuple(row[1:3])

    fresh = defaultdict(list)
    for row in new:
        fresh[key(row)].append(row)
    replaced, rows = set(fresh), []
    for row in old or []:  # each where the first of the old ones was
        rows += fresh.pop(key(row), []) if key(row) in replaced else [row]
    return rows + [row for found in fresh.values() for row in found]


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


def sections(head, rows):
    """A table for each lane, below its name; rows begin with their lane."""
    by_lane = defaultdict(list)
    for lane, *cells in rows:
        by_lane[lane].append(cells)
    return "\n\n".join(
        f"**{shown(lane)}**\n\n{table(head, found)}" for lane, found in by_lane.items()
    )


def shown(lane):
    """The lane as its backend writes itself."""
    for name, written in BACKENDS_WRITTEN.items():
        lane = lane.replace(f" on {name}", f" on {written}")
    return lane


BACKENDS_WRITTEN = {"tensorflow": "TensorFlow", "torch": "PyTorch", "jax": "JAX"}


class Notes:
    """What is too long for a cell: a number there, and a list under the table."""

    def __init__(self):
        self.said = []

    def short(self, text):
        """The text, or how it begins with the number of its note."""
        word, _, rest = text.partition("; ")
        if text.startswith("raises "):
            said = text.removeprefix("raises ").replace("`", "").partition(". ")[0]
            word, rest = "fails", f"`{said.removesuffix('.')}`"
        if not rest:
            return text.replace("|", "\\|")
        if rest not in self.said:
            self.said.append(rest)
        return f"{word} <sup>{self.said.index(rest) + 1}</sup>"

    def under(self, found):
        """The table with the list."""
        said = [f"{text[0].upper()}{text[1:]}" for text in self.said]
        notes = "\n".join(f"{i}. {text}" for i, text in enumerate(said, 1))
        return f"{found}\n\n{notes}" if notes else found


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
            beside = {turn(row): pick(row) for row in base}
            ratios = [
                pick(row) / beside[turn(row)] for row in found if turn(row) in beside
            ]
            # Times of two runs on a machine that is now busy, now idle say nothing.
            ratio = f" (x{statistics.median(ratios):.2f})" if ratios else ""
            return f"{middle:.3g}{ratio}"

        steps = [of(lambda row, s=s: row["steps"][s]) for s in range(3)]
        if way == "multi":
            steps = ["no stages", "no stages", steps[-1]]
        rest = [of(lambda row: row["first"]), of(lambda row: row["peak"])]
        rows.append([lane, TITLES[way], *steps, *rest, lines_of(way, lane)])
    order = list(TITLES.values())
    rows.sort(key=lambda row: (row[0], order.index(row[1])))
    head = ["way", "step, head", "step, 2 groups", "step, all", "first step, s"]
    return sections([*head, "peak, MiB", "lines"], rows)


def turn(row):
    return row.get("run"), row["repetition"]


def _torch(grouped):
    return next((k for k in grouped if k[1] == "ours" and "torch" in k[0]), None)


def breaks_table(results):
    rows, notes = [], Notes()
    for lane, ways in results["breaks"].items():
        for way, wishes in ways.items():
            said = [notes.short(text) for text in wishes.values()]
            rows.append([lane, TITLES[way], *said, *["-"] * (5 - len(said))])
    wishes = ["stages", "a rate callback", "optimizer state", "save, load", "mixed"]
    return notes.under(sections(["way", *wishes], rows))


def chosen(rows):
    """For each task and arm: the rate, and its test accuracies, by the other images."""
    scores = defaultdict(lambda: defaultdict(dict))
    for _, task, arm, rate, seed, validation, test in rows:
        scores[task, arm][rate][seed] = validation, test
    found = {}
    for key, by_rate in scores.items():
        rate = max(
            by_rate, key=lambda r: statistics.mean(v for v, _ in by_rate[r].values())
        )
        tests = {seed: test for seed, (_, test) in by_rate[rate].items()}
        found[key] = rate, tests
    return found


def mean_and_error(values):
    values = list(values)
    error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0
    return 100 * statistics.mean(values), 100 * error


NBSP = "\N{NO-BREAK SPACE}"


def quality_table(results):
    def cell(found, task, arm):
        rate, tests = found[task, arm]
        mean, error = mean_and_error(tests.values())
        # In a narrow column the rate goes below, and the error stays beside the mean.
        return f"{mean:.1f}{NBSP}±{NBSP}{error:.1f} ({rate:g})"

    seeds = defaultdict(set)
    for row in results["quality"]:
        seeds[row[0]].add(row[4])
    said = [
        f"{shown(lane)}: seeds {', '.join(map(str, sorted(found)))}."
        for lane, found in seeds.items()
    ]
    return f"{' '.join(said)}\n\n" + arms_table(results, "arm", cell)


def difference_table(results):
    """Each arm less the full one, paired by seed: what the technique adds."""

    def cell(found, task, arm):
        full = found.get((task, "full"), (None, {}))[1]
        tests = found[task, arm][1]
        differences = [tests[seed] - full[seed] for seed in tests if seed in full]
        if not differences:
            return "-"
        mean, error = mean_and_error(differences)
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
    for _, task, arm, rate, _, _, test in results["quality"]:
        found[arm, rate, task].append(test)
    tasks = list(dict.fromkeys(task for _, _, task in found))
    rows = []
    for arm in ("full", "+ both"):
        for rate in dict.fromkeys(rate for a, rate, _ in found if a == arm):
            tests = [found.get((arm, rate, task)) for task in tasks]
            means = [f"{mean_and_error(t)[0]:.1f}" if t else "-" for t in tests]
            rows.append([arm, f"{rate:g}", *means])
    return table(["arm", "base rate", *tasks], rows)


def steps_table(results):
    """What `callbacks.py` printed: its lines of pairs, without its header."""
    rows = [
        [lane, *found.group("step", "other", "a", "b", "ratio"), found["quartiles"]]
        for lane, lines in sorted(results["steps"].items())
        for found in map(PAIR.match, lines)
        if found
    ]
    head = ["step", "against", "ours, ms", "other, ms", "ratio", "quartiles"]
    return sections(head, rows)


PAIR = re.compile(
    r"(?P<step>\S.*?) {2,}(?P<a>\S+) ms +(?P<b>\S+) ms +"
    r"(?P<ratio>x\S+) +\[(?P<quartiles>.+?)\] +against (?P<other>.+)"
)


def prediction_table(results):
    grouped, notes = defaultdict(dict), Notes()
    for row in results["prediction"]:
        grouped[row["lane"], row["way"]][row["repetition"]] = row
    rows = []
    order = PREDICTION.index
    for lane, way in sorted(grouped, key=lambda key: (key[0], order(key[1]))):
        found = grouped[lane, way]
        said = {row["raises"] for row in found.values() if "raises" in row}
        if said:
            text = notes.short(f"raises {said.pop()}")
            rows.append([lane, way, text, "-", "-", "-"])
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
    head = ["way", "s", "first time, s", "peak, MiB", "lines"]
    return notes.under(sections(head, rows))


def norms_table(results):
    rows = []
    for lane, found in results["norms"].items():
        rows.append([lane, "`WeightNormLogger`", f"{1e3 * found['pass']:.1f}"])
        said = f"{1e3 * found['eager loop']:.1f} (x{found['eager loop / pass']:.1f})"
        rows.append([lane, "an eager loop over the weights", said])
    return sections(["way", "ms"], rows)


def draw(results, path):
    try:
        import matplotlib
    except ImportError:
        print(f"{path.name}: not drawn, as Matplotlib is not installed")
        return
    matplotlib.use("agg")
    from matplotlib import pyplot

    found = chosen(results["quality"])
    tasks = list(dict.fromkeys(task for task, _ in found))
    arms = list(dict.fromkeys(arm for _, arm in found))
    figure, axes = pyplot.subplots(figsize=(8, 3.6), layout="constrained")
    for i, arm in enumerate(arms):
        here = [
            (x, *mean_and_error(found[task, arm][1].values()))
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
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


TABLES = {
    "quality": quality_table,
    "difference": difference_table,
    "by rate": by_rate_table,
    "steps": steps_table,
    "cost": cost_table,
    "breaks": breaks_table,
    "prediction": prediction_table,
    "norms": norms_table,
}


NEEDS = {"difference": "quality", "by rate": "quality"}


def render(results, out=None):
    """Write the tables into the page; into a folder of one's own, the tables only."""
    made = {
        name: make(results)
        for name, make in TABLES.items()
        if NEEDS.get(name, name) in results
    }
    if out:
        text = "\n".join(f"## {name}\n\n{found}\n" for name, found in made.items())
        (out / PAGE.name).write_text(text, encoding="utf-8")
    else:
        text = PAGE.read_text(encoding="utf-8")
        for name, found in made.items():  # between its marks
            begin, end = f"<!-- begin: {name} -->", f"<!-- end: {name} -->"
            before, _, rest = text.partition(begin)
            _, _, after = rest.partition(end)
            text = f"{before}{begin}\n\n{found}\n\n{end}{after}"
        PAGE.write_text(text, encoding="utf-8")
    if "quality" in results:
        draw(results, out / FIGURE.name if out else FIGURE)


def keep(results, path):
    """One line for each row, or for each lane: changes can be read."""
    parts = []
    for name, part in results.items():
        brackets, rows = "[]", map(json.dumps, part)
        if isinstance(part, dict):
            brackets = "{}"
            rows = (f"{json.dumps(k)}: {json.dumps(v)}" for k, v in part.items())
        body = ",\n  ".join(rows)
        parts.append(f" {json.dumps(name)}: {brackets[0]}\n  {body}\n {brackets[1]}")
    path.write_text("{\n" + ",\n".join(parts) + "\n}\n", encoding="utf-8")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--python", action="append", metavar="[KIND=]PATH")
    parser.add_argument(
        "--parts", nargs="+", choices=[*PARTS, "render"], default=[*PARTS, "render"]
    )
    parser.add_argument("--seeds", type=int, default=5, help="how many, for quality")
    parser.add_argument("--arms", nargs="+", help="of quality; all if not given")
    parser.add_argument("--repetitions", type=int, default=3, help="cost, prediction")
    parser.add_argument("--pairs", type=int, default=20, help="of steps")
    parser.add_argument("--data", help="the folder that holds mnist10k.npz")
    parser.add_argument("--out", type=Path, help="a folder for results and tables")
    parser.add_argument("--work", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.data:
        os.environ["KERAS_FINETUNE_DATA"] = os.path.abspath(options.data)
    if options.work:
        name, arguments = options.work
        out, *arguments = json.loads(arguments)
        work = {function.__name__: function for function in WORK}[name]
        Path(out).write_text(json.dumps(work(*arguments), default=float))
        return 0
    path = RESULTS
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        path = options.out / RESULTS.name
    results = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    failed, lanes = [], None
    for part in options.parts:
        if part == "render":
            render(results, options.out)
            continue
        if lanes is None:
            lanes = lanes_of(options.python or [sys.executable])
        try:
            found = PARTS[part](lanes, options)
        except RuntimeError as error:
            failed.append(part)
            print(f"{part}: failed, and stays as it was. {error}", flush=True)
            continue
        if not found:
            print(f"{part}: nothing measured, stays as it was", flush=True)
            continue
        results[part] = merged(results.get(part), found)
        keep(results, path)
    return f"failed: {', '.join(failed)}" if failed else 0


if __name__ == "__main__":
    sys.exit(main())
