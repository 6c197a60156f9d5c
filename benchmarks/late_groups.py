"""What Adam's bias correction does to groups that begin to train late.

    python benchmarks/late_groups.py --json benchmarks/results/late_groups.json

SqueezeNet from ImageNet on 20 photographs of clothes a class (see _clothing.py): the
new head trains at 0.02 for some epochs, then everything at 0.0004 for twelve. In one
`fit` Adam counts the updates of the head when it corrects the averages of the body, or
those of the body alone; by hand, the second `compile` makes a new Adam. Accuracies are
those on validation images; what is kept is kept fit by fit.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import _tables
from _clothing import compiled, run

from keras_finetune import FeatureCache, GradualUnfreeze, OneCycle

HEAD, ALL, REST = 0.02, 0.0004, 12
PER_CLASS = 20


def cosine(**arguments):
    return OneCycle(0.1, momentum=None, **arguments)


def one_fit(bias_correction):
    def arm(model, fit, of_head):
        stages = GradualUnfreeze(
            2,
            every=[of_head],
            learning_rates=[HEAD, ALL],
            bias_correction=bias_correction,
        )
        callbacks = [stages, cosine(per="stage"), FeatureCache(verbose=0)]
        fit(compiled(model, HEAD), of_head + REST, callbacks)

    return arm


def two_fits(model, fit, of_head):
    for layer in model.layers[:-1]:
        layer.trainable = False
    fit(compiled(model, HEAD), of_head, [cosine(), FeatureCache(verbose=0)])
    for layer in model.layers:
        layer.trainable = True
    fit(compiled(model, ALL), REST, [cosine()])


ARMS = {
    'one fit, `"optimizer"`': one_fit("optimizer"),
    'one fit, `"group"`': one_fit("group"),
    "two fits, a new Adam": two_fits,
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--head-epochs", type=int, nargs="+", default=[6, 30, 100])
    options = parser.parse_args()
    path = options.json
    records = json.loads(path.read_text()) if path.is_file() else []
    for seed in range(options.seeds):
        for epochs in options.head_epochs:
            for arm, train in ARMS.items():
                key = {"arm": arm, "head_epochs": epochs, "seed": seed}
                if any(key.items() <= record.items() for record in records):
                    continue
                records.append({**key, **run(train, PER_CLASS, epochs, seed)})
                print(records[-1], flush=True)
                path.write_text(json.dumps(records, indent=1) + "\n")
    print(_tables.late_groups(records))


if __name__ == "__main__":
    main()
