"""How long Monte Carlo prediction takes, as ratios within one run.

    python benchmarks/mc_prediction.py

512 images of 96x96, MobileNetV2(weights=None) + Dense(128) + Dropout(0.5) + Dense(10),
T = 50: `mc_predict` against

- the lower bound: one pass of the backbone plus 50 passes of the head, by `predict`;
- `[model.predict(x) for _ in range(50)]` with a Monte Carlo dropout layer;
- the batch repeated 50 times in one compiled call, which is what sampling the model as
  a whole does.

A second part has dropout in the first layer, where nothing can be cut off: there
`mc_predict` must not be slower than the better of the loop and the repeated batch.

Every way is called once before it is timed, so that nobody pays for tracing; of
several runs the fastest counts. Peak memory is that of a process of its own for each
way. Only ratios are worth keeping: the machine decides about seconds.
"""

import argparse
import json
import multiprocessing
import resource
import time

import numpy as np

WAYS = ("lower bound", "mc_predict", "loop", "repeated batch")


def build(first):
    import keras

    from keras_finetune.layers import MCDropout

    keras.utils.set_random_seed(0)
    inputs = keras.Input((96, 96, 3))
    backbone = keras.applications.MobileNetV2(
        weights=None, include_top=False, pooling="avg", input_shape=(96, 96, 3)
    )
    x = MCDropout(0.1)(inputs) if first else inputs
    features = backbone(x)
    head_inputs = keras.Input((1280,))
    x = keras.layers.Dense(128, activation="relu")(head_inputs)
    x = MCDropout(0.5)(x)
    head = keras.Model(head_inputs, keras.layers.Dense(10, activation="softmax")(x))
    return keras.Model(inputs, head(features)), backbone, head


def prepare(way, first, images, samples, batch_size):
    """The function to time, and one that traces what it needs."""
    from keras_finetune._engine import sampling
    from keras_finetune.uncertainty import mc_predict

    model, backbone, head = build(first)
    x = np.random.default_rng(0).normal(size=(images, 96, 96, 3)).astype("float32")

    def lower_bound():
        features = backbone.predict(x, batch_size=batch_size, verbose=0)
        for _ in range(samples):
            head.predict(features, batch_size=batch_size, verbose=0)

    def loop():
        for _ in range(samples):
            model.predict(x, batch_size=batch_size, verbose=0)

    def mc():
        mc_predict(model, x, samples, batch_size=batch_size, verbose=0)

    if way == "repeated batch":
        # The user's `call` in place of the graph is what keeps it whole, and no bound
        # on memory what folds all samples at once.
        import keras

        class Whole(keras.Model):
            def __init__(self):
                super().__init__()
                self.inside = model

            def call(self, inputs, training=None):
                return self.inside(inputs, training=training)

        sampling.CHUNK_BYTES = 2**40
        whole = Whole()
        rows = max(1, batch_size // 2)


        def repeated():
            mc_predict(whole, x, samples, batch_size=rows, verbose=0)

        return repeated, repeated
    function = {"lower bound": lower_bound, "loop": loop, "mc_predict": mc}[way]
    if way == "loop":
        return loop, lambda: model.predict(x, batch_size=batch_size, verbose=0)
    return function, function


def measure(way, options, queue):
    function, warm_up = prepare(
        way, options["first"], options["images"], options["samples"], options["batch"]
    )
    repeats = 3 if way in ("lower bound", "mc_predict") and not options["first"] else 1
    warm_up()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    queue.put((min(seconds), peak))


def in_process(way, options):
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=measure, args=(way, options, queue))
    process.start()
    found = queue.get()
    process.join()
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--samples", type=int, default=50)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--first-images", type=int, default=64)
    parser.add_argument("--first-samples", type=int, default=10)
    options = parser.parse_args()
    sizes = {"images": options.images, "samples": options.samples}
    first_sizes = {"images": options.first_images, "samples": options.first_samples}
    results = {}
    for first, size in ((False, sizes), (True, first_sizes)):
        title = "dropout in the first layer" if first else "dropout in the head"
        print(f"{title}: {size['images']} images, T = {size['samples']}")
        found = {}
        for way in WAYS[1:] if first else WAYS:
            settings = {"first": first, "batch": options.batch, **size}
            found[way] = in_process(way, settings)
        unit = found["mc_predict"][0]
        for way, (seconds, peak) in found.items():
            print(
                f"  {way:15s} {seconds / unit:6.2f} x mc_predict, "
                f"peak {peak:.1f} GiB ({seconds:.1f} s)"
            )
        results[title] = {way: round(s / unit, 3) for way, (s, _) in found.items()}
    print(json.dumps(results))


if __name__ == "__main__":
    main()
