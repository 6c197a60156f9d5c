"""The tables of the documentation, made of the kept results without any framework."""

import json
from pathlib import Path

import numpy as np

RESULTS = Path(__file__).parent / "results"
WAYS = ("deterministic", "Monte Carlo", "ensemble")
DETECTION = (
    "AUROC 1 - max probability",
    "AUROC predictive entropy",
    "AUROC mutual information",
    "AUROC variation ratio",
)
CALIBRATION = (
    "accuracy",
    "accuracy of the most certain 90 %",
    "calibration error",
    "negative log-likelihood",
)


def out_of_distribution(results, rows):
    """Some rows of `out_of_distribution.py`, a column for each way to predict."""
    lines = ["| | " + " | ".join(WAYS) + " |", "|---" * 4 + "|"]
    for row in rows:
        cells = []
        for way in WAYS:
            mean, error = results.get(f"{row}, {way}", (None, None))
            cells.append("" if mean is None else f"{mean:.4f} ± {error:.4f}")
        lines.append(f"| {row} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def conformal(results):
    """The shares of `conformal.py`, and the sizes of each library."""
    libraries = ("keras-finetune", "MAPIE", "crepes", "keras-proba")
    lines = [
        "| data | score | coverage | promised | size | "
        + " | ".join(libraries[1:])
        + " |",
        "|---" * (5 + len(libraries) - 1) + "|",
    ]
    for name, found in results["data"].items():
        scores = {}
        for way, numbers in found["ways"].items():
            score, library = way.split(", ")
            scores.setdefault(score, {})[library] = numbers
        for score, known in scores.items():
            share, error = known[libraries[0]]["coverage"]
            sizes = [
                f"{known[library]['size'][0]:.3f}" if library in known else ""
                for library in libraries
            ]
            lines.append(
                f"| {name} | {score} | {share:.4f} ± {error:.4f} "
                f"| {found['expected']:.4f} | " + " | ".join(sizes) + " |"
            )
    return "\n".join(lines)


def coverage(results):
    """Coverage and width of `coverage.py`, a column for each data set."""
    sets = results["sets"]
    names = sorted(sets)
    header = [f"{name} | width" for name in names]
    lines = ["| interval | " + " | ".join(header) + " |"]
    lines.append("|---" * (1 + 2 * len(names)) + "|")
    for way in sets[names[0]]["ways"]:
        cells = []
        for name in names:
            values = np.array(sets[name]["ways"][way])
            mean = values.mean(axis=0)
            error = values.std(axis=0, ddof=1) / np.sqrt(len(values))
            cells.append(f"{mean[0]:.3f} ± {error[0]:.3f} | {mean[1]:.1f}")
        lines.append(f"| {way} | " + " | ".join(cells) + " |")
    promised = " | ".join(f"{sets[name]['expected']:.3f} |" for name in names)
    lines.append(f"| promised by conformal prediction | {promised} |")
    return "\n".join(lines)


DEFAULTS = "body at 0.03 to 0.3, 5 groups, all train after 50%"


def defaults(records, task):
    """The grid of `defaults.py`: mean validation accuracy at each base rate."""
    of_task = [r for r in records if r["task"] == task]
    rates = sorted({r["rate"] for r in of_task})
    lines = [
        "| " + " | ".join([task, *(f"{rate:g}" for rate in rates)]) + " |",
        "|---" * (1 + len(rates)) + "|",
    ]
    for choice in dict.fromkeys(r["choice"] for r in of_task):
        scores = [
            [r["validation"] for r in of_task if (r["choice"], r["rate"]) == key]
            for key in ((choice, rate) for rate in rates)
        ]
        cells = [f"{np.mean(some):.3f}" if some else "" for some in scores]
        name = f"**{choice}**" if choice == DEFAULTS else choice
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def feature_cache(results):
    """The ratios of `feature_cache.py`, a row for each network and lane."""
    columns = (
        "frozen / cached",
        "cached / head",
        "first epoch, cached / frozen",
        "hashing / prefix",
    )
    lines = ["| network | lane | " + " | ".join(columns) + " |", "|---" * 6 + "|"]
    for lane, networks in results.items():
        for name, found in networks.items():
            network = f"{name} {found['size']}"
            cells = [f"{found[column]:.3g}" for column in columns]
            lines.append(f"| {network} | {lane} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def cached_run(results):
    """Seconds and accuracy of the whole runs of `cached_run.py`."""
    (runs,) = results.values()
    seeds = [f"seed {run['seed']}" for run in runs]
    lines = [
        "| | " + " | ".join(f"{s}: seconds | accuracy" for s in seeds) + " |",
        "|---" * (1 + 2 * len(runs)) + "|",
    ]
    for arm in runs[0]["arms"]:
        found = [run["arms"][arm] for run in runs]
        cells = [
            f"{one['seconds'][-1]:.0f} | {one['val_accuracy'][-1]:.3f}" for one in found
        ]
        lines.append(f"| {arm} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


FACTOR = 3.0
RULES = ("ours", "valley", "steepest", "minimum")


def best(grid):
    """The rates with the highest accuracy to choose by, and what one would take."""
    top = max(score for _, score, _ in grid)
    rates = [rate for rate, score, _ in grid if score == top]
    chosen = rates[len(rates) // 2]
    return rates, next(test for rate, _, test in grid if rate == chosen)


def is_near(rate, rates):
    return any(1 / FACTOR <= rate / one <= FACTOR for one in rates)


def find_rate(results):
    """The rules of `find_rate.py`: hits, and the loss of accuracy on test images."""
    rows = results["cases"]
    lines = [
        f"| rule | within a factor {FACTOR:g} | no answer | accuracy less the grid's |",
        "|---|---|---|---|",
    ]
    for rule in RULES:
        given = [row for row in rows if rule in row["suggested"]]
        near = sum(
            is_near(row["suggested"][rule][0], best(row["grid"])[0]) for row in given
        )
        gaps = [row["suggested"][rule][2] - best(row["grid"])[1] for row in given]
        mean, error = np.mean(gaps), np.std(gaps, ddof=1) / len(gaps) ** 0.5
        lines.append(
            f"| {rule} | {near} of {len(rows)} | {len(rows) - len(given)} "
            f"| {100 * mean:+.1f} ± {100 * error:.1f} points |"
        )
    return "\n".join(lines)


RECIPES = ("lp-ft", "lp-ft, one rate", "ulmfit", "layer-decay", "fastai", "full")
CHOOSING = (1,)  # the seeds whose validation images chose the default


def recipes(results):
    """The recipes of `recipes.py`: test accuracies in percent, and what chose one."""
    rows = results["rows"]

    def cell(values, of_seeds):
        if not values:
            return ""
        mean = f"{100 * np.mean(values):.1f}"
        if len(values) == 1 or not of_seeds:
            return mean
        return f"{mean} ± {100 * np.std(values, ddof=1) / len(values) ** 0.5:.1f}"

    def line(name, of, key):
        cells = (
            cell([row[key] for row in of if row["recipe"] == recipe], key == "test")
            for recipe in RECIPES
        )
        return f"| {name} | " + " | ".join(cells) + " |"

    reported = [row for row in rows if row["seed"] not in CHOOSING]
    chosen_by = [row for row in rows if row["seed"] in CHOOSING]
    lines = ["| | " + " | ".join(RECIPES) + " |", "|---" * (len(RECIPES) + 1) + "|"]
    for task in dict.fromkeys(row["task"] for row in reported):
        of = [row for row in reported if row["task"] == task]
        seeds = len({row["seed"] for row in of})
        count = f"{seeds} seed" + "s" * (seeds != 1)
        lines.append(line(f"{task} ({count})", of, "test"))
    lines.append(line("validation images, other seed", chosen_by, "validation"))
    return "\n".join(lines)


def mean(records, key):
    """The mean and its standard error."""
    values = [record[key] for record in records]
    error = np.std(values, ddof=1) / len(values) ** 0.5 if values[1:] else np.nan
    return float(np.mean(values)), float(error)


def chosen(records):
    """Of a grid (`_grid.py`), by way: its rate that is best on validation, and fits."""
    for way in dict.fromkeys(r["arm"] for r in records):
        rates = {}
        for record in records:
            if record["arm"] == way:
                rates.setdefault(record["rate"], []).append(record)
        most = max(map(len, rates.values()))
        rates = {rate: some for rate, some in rates.items() if len(some) == most}
        best = max(rates, key=lambda rate: mean(rates[rate], "validation")[0])
        yield way, best, rates[best]


def ways(records):
    """Each way at the rate that is best on validation images."""
    lines = [
        "| way | rate | validation | test | seconds of processor | seeds |",
        "|---|---|---|---|---|---|",
    ]
    for way, rate, some in chosen(records):
        cells = ["found" if rate is None else f"{rate:g}"]
        cells += [_accuracy(some, key) for key in ("validation", "test")]
        cells += [f"{mean(some, 'processor_seconds')[0]:.0f}", str(len(some))]
        lines.append(f"| {way} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def sizes(records):
    """The test accuracy of each way, and the rate chosen, a column for each size."""
    columns = {}
    for size in sorted({r["per_class"] or np.inf for r in records}):
        some = [r for r in records if (r["per_class"] or np.inf) == size]
        seeds = max(r["seed"] for r in some) + 1
        number = "all" if size == np.inf else f"{size:g} a class"
        title = (
            f"{number} ({seeds} seed{'s' * (seeds > 1)}, {some[0]['epochs']} epochs)"
        )
        columns[title] = {way: rest for way, *rest in chosen(some)}
    lines = [f"| way | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for way in dict.fromkeys(way for column in columns.values() for way in column):
        cells = []
        for column in columns.values():
            rate, some = column.get(way, (None, []))
            cells.append(_accuracy(some, "test") if some else "")
            if rate is not None:
                cells[-1] += f", at {rate:g}"
        lines.append(f"| {way} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _accuracy(records, key):
    value, error = mean(records, key)
    return f"{value:.3f}" + f" ± {error:.3f}" * bool(records[1:])


def of_size(records, size):
    """The fits on so many images a class."""
    return [record for record in records if record["per_class"] == size]


def by_rate(records):
    """The test accuracy of each way at every rate, of the first seed."""
    of_first = [r for r in records if r["seed"] == 0 and r["rate"] is not None]
    rates = sorted({r["rate"] for r in of_first})
    lines = [
        "| way | " + " | ".join(f"{rate:g}" for rate in rates) + " |",
        "|---" * (len(rates) + 1) + "|",
    ]
    for way in dict.fromkeys(r["arm"] for r in of_first):
        found = {r["rate"]: r["test"] for r in of_first if r["arm"] == way}
        cells = (f"{found[rate]:.3f}" if rate in found else "" for rate in rates)
        lines.append(f"| {way} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def late_groups(records):
    """Validation accuracy, seed by seed, after so many epochs of the head alone."""
    lengths = sorted({r["head_epochs"] for r in records})
    titles = [f"{n} epochs of the head" for n in lengths]
    lines = ["| | " + " | ".join(titles) + " |", "|---" * (len(titles) + 1) + "|"]
    for arm in dict.fromkeys(r["arm"] for r in records):
        cells = [
            ", ".join(
                f"{r['validation']:.3f}"
                for r in records
                if (r["arm"], r["head_epochs"]) == (arm, length)
            )
            for length in lengths
        ]
        lines.append(f"| {arm} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


# By the name of a table: the page that shows it, the results, and what makes it.
TABLES = {
    "detection": (
        "features/monte_carlo_dropout.md",
        "out_of_distribution.json",
        lambda results: out_of_distribution(results, DETECTION),
    ),
    "calibration": (
        "features/monte_carlo_dropout.md",
        "out_of_distribution.json",
        lambda results: out_of_distribution(results, CALIBRATION),
    ),
    "conformal": ("features/conformal.md", "conformal.json", conformal),
    "defaults on clothes": (
        "defaults.md",
        "defaults.json",
        lambda records: defaults(records, "clothes"),
    ),
    "defaults on digits": (
        "defaults.md",
        "defaults.json",
        lambda records: defaults(records, "digits"),
    ),
    "feature cache": (
        "features/feature_cache.md",
        "feature_cache.json",
        feature_cache,
    ),
    "cached run": ("features/feature_cache.md", "cached_run.json", cached_run),
    "find_learning_rate": (
        "features/find_learning_rate.md",
        "find_rate.json",
        find_rate,
    ),
    "recipes": ("features/fine_tune.md", "recipes.json", recipes),
    "photographs": (
        "real_networks.md",
        "clothing.json",
        lambda records: ways(of_size(records, 20)),
    ),
    "photographs by rate": (
        "real_networks.md",
        "clothing.json",
        lambda records: by_rate(of_size(records, 20)),
    ),
    "photographs by size": ("real_networks.md", "clothing.json", sizes),
    "normalization": ("real_networks.md", "batch_norm.json", ways),
    "normalization by rate": ("real_networks.md", "batch_norm.json", by_rate),
    "late groups": (
        "features/gradual_unfreeze.md",
        "late_groups.json",
        late_groups,
    ),
    "coverage": ("recipes/regression.md", "coverage.json", coverage),
}


def table(name):
    """A table of the documentation, from the kept results."""
    _, file, make = TABLES[name]
    return make(json.loads((RESULTS / file).read_text(encoding="utf-8")))
