"""Which recipe of `fine_tune` is best without any tuning.

    python benchmarks/recipes.py --seeds 4
    python benchmarks/recipes.py --render

The tasks are those of find_rate.py. Every recipe gets ten epochs and the rate that
`find_learning_rate` suggests for it, searched with its own callbacks on the images to
train on (1e-3 where it suggests none). Three candidates are no named recipes, all under
a slanted triangle: "full" trains everything from the first step, "rates" does so with
the default rates of `DiscriminativeLR`, "stages, rates" with the default stages of
`GradualUnfreeze` too. The default was chosen by the accuracy on validation images with
the seeds 1 and 2; reported is the accuracy on test images with all others. Results are
kept in results/recipes.json, fit by fit: a run that was interrupted goes on.
"""

import argparse
import json
import statistics
from pathlib import Path

import _clothing
from find_rate import EPOCHS, cases

from keras_finetune import (
    DiscriminativeLR,
    GradualUnfreeze,
    SlantedTriangular,
    find_learning_rate,
    fine_tune,
)
from keras_finetune._engine import backend, keras

RESULTS = Path(__file__).resolve().parent / "results" / "recipes.json"
CANDIDATES = {
    "full": lambda: [SlantedTriangular()],
    "rates": lambda: [DiscriminativeLR(), SlantedTriangular()],
    "stages, rates": lambda: [
        GradualUnfreeze(),
        DiscriminativeLR(),
        SlantedTriangular(),
    ],
}
RECIPES = ("lp-ft", "ulmfit", "layer-decay", "fastai", *CANDIDATES)
CHOOSING = (1, 2)
FALLBACK = 1e-3


def callbacks_of(recipe):
    if recipe in CANDIDATES:
        return CANDIDATES[recipe]()
    return fine_tune(EPOCHS, recipe=recipe)


def score(on, recipe):
    """The suggested rate, and what training at it reaches."""
    keras.backend.clear_session()
    keras.utils.set_random_seed(on.seed)
    (x, y), *others = on.parts
    model, callbacks = on.model(), callbacks_of(recipe)
    found = find_learning_rate(
        model, x, y, callbacks=callbacks, batch_size=on.batch_size, steps=50
    )
    rate = found.suggestion or FALLBACK
    model.optimizer.learning_rate = rate
    model.fit(
        x,
        y,
        batch_size=on.batch_size,
        epochs=EPOCHS,
        callbacks=callbacks,
        verbose=0,
    )
    reached = [_clothing.accuracy(model, *part) for part in others]
    return {
        "rate": rate,
        "suggested": found.suggestion is not None,
        "validation": reached[0],
        "test": reached[1],
    }


def table(rows):
    """A row for each recipe, a column for each task, and what they were chosen by."""
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    lines = [
        "| recipe | " + " | ".join(tasks) + " | chosen by |",
        "|---" * (len(tasks) + 2) + "|",
    ]
    for recipe in RECIPES:
        of = [row for row in rows if row["recipe"] == recipe]
        cells = []
        for task in tasks:
            found = [
                row["test"]
                for row in of
                if row["task"] == task and row["seed"] not in CHOOSING
            ]
            error = ""
            if len(found) > 1:
                error = f" ± {statistics.stdev(found) / len(found) ** 0.5:.3f}"
            cells.append(f"{statistics.mean(found):.3f}{error}" if found else "")
        chosen = [row["validation"] for row in of if row["seed"] in CHOOSING]
        by = f"{statistics.mean(chosen):.3f}" if chosen else ""
        lines.append(f"| {recipe} | " + " | ".join(cells) + f" | {by} |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--task", action="append", help="only this task")
    parser.add_argument("--render", action="store_true", help="only print the table")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    rows = json.loads(options.out.read_text())["rows"] if options.out.is_file() else []
    if options.render:
        print(table(rows))
        return
    done = {(row["task"], row["seed"], row["recipe"]) for row in rows}

    def wanted(task, seed):
        missing = any((task, seed, recipe) not in done for recipe in RECIPES)
        return missing and (not options.task or task in options.task)

    lane = f"{keras.__name__} {keras.__version__}, {backend()}"
    for task, on in cases(range(1, 1 + options.seeds), wanted):
        for recipe in RECIPES:
            if (task, on.seed, recipe) in done:
                continue
            row = {"task": task, "seed": on.seed, "recipe": recipe, **score(on, recipe)}
            print(
                task,
                on.seed,
                recipe,
                *(f"{row[k]:.3g}" for k in ("rate", "validation", "test")),
                flush=True,
            )
            rows.append(row)
            options.out.write_text(json.dumps({"lane": lane, "rows": rows}) + "\n")
    print(table(rows))


if __name__ == "__main__":
    main()
