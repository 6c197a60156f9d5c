"""How long Monte Carlo prediction takes, as ratios within one run.

    python benchmarks/mc_prediction.py

512 images of 96x96, MobileNetV2(weights=None) + Dense(128) + Dropout(0.5) + Dense(10),
T = 50: `mc_predict` against

- the lower bound: one pass of the backbone plus 50 passes of the head, by `predict`;
- `[model.predict(x) for _ in range(50)]` with a Monte Carlo dropout layer;
- the batch repeated 50 times in one compiled call: sampling the model as a whole, with
  no bound on the memory.

A second part has dropout in the first layer, where nothing can be cut off: there
`mc_predict` must not be slower than the better of the loop and the repeated batch.

`--small` compares, on networks whose call takes milliseconds, with a loop written by
hand that folds 25 samples into one compiled call with `training=True` and sums up
with NumPy: in pairs within one process, the medians of the ratios.

Every way runs in a process of its own, whose peak memory is told, and is called once
before it is timed, so that tracing is not counted. Passes of a loop are timed one by
one, and the fastest is multiplied; the repeated batch is timed on one batch. Both the
clock and the processor time of all threads are told: on a busy machine only the latter
means much. Only ratios are worth keeping.
"""

import argparse
import json
import multiprocessing
import resource
import time
from functools import partial

import numpy as np

WAYS = ("mc_predict", "lower bound", "loop", "repeated batch")


def build(first):
    import keras

    from keras_finetune.layers import MCDropout

    keras.utils.set_random_seed(0)
    inputs = keras.Input((96, 96, 3))
    backbone = keras.applications.MobileNetV2(
        weights=None, include_top=False, pooling="avg", input_shape=(96, 96, 3)
    )
    features = backbone(MCDropout(0.1)(inputs) if first else inputs)
    head_inputs = keras.Input((1280,))
    x = keras.layers.Dense(128, activation="relu")(head_inputs)
    x = MCDropout(0.5)(x)
    head = keras.Model(head_inputs, keras.layers.Dense(10, activation="softmax")(x))
    return keras.Model(inputs, head(features)), backbone, head


def fastest(function, repeats):
    """Clock and processor seconds of the fastest of several calls, after one more."""
    function()
    times = []
    for _ in range(repeats):
        clock, processor = time.perf_counter(), time.process_time()
        function()
        times.append((time.perf_counter() - clock, time.process_time() - processor))
    return np.min(times, axis=0)


def measure(way, first, images, samples, batch, queue):
    from keras_finetune._engine.sampling import _sampler
    from keras_finetune.uncertainty import mc_predict

    model, backbone, head = build(first)
    x = np.random.default_rng(0).normal(size=(images, 96, 96, 3)).astype("float32")

    def predict(model, x):
        return model.predict(x, batch_size=batch, verbose=0)

    if way == "mc_predict":
        seconds = fastest(
            lambda: mc_predict(model, x, samples=samples, batch_size=batch, verbose=0),
            3,
        )
    elif way == "loop":
        seconds = samples * fastest(lambda: predict(model, x), 3)
    elif way == "lower bound":
        features = predict(backbone, x)
        seconds = fastest(lambda: predict(backbone, x), 3)
        seconds = seconds + samples * fastest(lambda: predict(head, features), 10)
    else:
        import keras

        # A `call` of the user's own is what keeps the model whole.
        class Whole(keras.Model):
            def __init__(self):
                super().__init__()
                self.inside = model

            def call(self, inputs, training=None):
                return self.inside(inputs, training=training)

        _sampler.CHUNK_BYTES = 2**40
        whole, rows = Whole(), min(16, images)
        seconds = (images / rows) * fastest(
            lambda: mc_predict(
                whole, x[:rows], samples=samples, batch_size=rows, verbose=0
            ),
            1,
        )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    queue.put((*map(float, seconds), peak))


def in_process(*arguments):
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=measure, args=(*arguments, queue))
    process.start()
    found = queue.get()
    process.join()
    return found


def small_networks():
    """Networks without normalization, so that `training=True` is all dropout."""
    import keras

    def dense(inputs):
        x = inputs
        for _ in range(3):
            x = keras.layers.Dense(256, activation="relu")(x)
            x = keras.layers.Dropout(0.2)(x)
        return x

    def convolutional(inputs):
        x = keras.layers.Dropout(0.1)(inputs)
        for filters in (16, 32):
            x = keras.layers.Conv2D(filters, 3, padding="same", activation="relu")(x)
            x = keras.layers.Dropout(0.2)(keras.layers.MaxPooling2D()(x))
        return keras.layers.Flatten()(x)

    for body, shape in ((dense, (64,)), (convolutional, (16, 16, 3))):
        keras.utils.set_random_seed(0)
        inputs = keras.Input(shape)
        outputs = keras.layers.Dense(10, activation="softmax")(body(inputs))
        x = np.random.default_rng(0).normal(size=(128, *shape)).astype("float32")
        yield body.__name__, keras.Model(inputs, outputs), x


def folded_call(model, fold):
    """One call of `fold` samples, written by hand for the backend that runs."""
    from keras_finetune._engine import backend

    if backend() == "tensorflow":
        import tensorflow as tf

        @tf.function(reduce_retracing=True)
        def call(x):
            return model(tf.tile(x, [fold] + [1] * (len(x.shape) - 1)), training=True)

        return call
    if backend() == "torch":
        import torch

        def call(x):
            with torch.no_grad():
                x = torch.from_numpy(x).repeat(fold, *[1] * (x.ndim - 1))
                return model(x, training=True)

        return call
    import jax
    import jax.numpy as jnp

    @jax.jit
    def step(trained, state, x):
        x = jnp.tile(x, [fold] + [1] * (x.ndim - 1))
        return model.stateless_call(trained, state, x, training=True)

    trained = [variable.value for variable in model.trainable_variables]
    state = [variable.value for variable in model.non_trainable_variables]

    def call(x):
        nonlocal state
        outputs, state = step(trained, state, x)
        return outputs

    return call


def by_hand(call, x, samples, fold, batch):
    means, deviations = [], []
    for start in range(0, len(x), batch):
        part = x[start : start + batch]
        drawn = [np.asarray(call(part)) for _ in range(samples // fold)]
        drawn = np.stack(drawn).reshape(samples, len(part), -1)
        means.append(drawn.mean(axis=0))
        deviations.append(drawn.std(axis=0))
    return np.concatenate(means), np.concatenate(deviations)


def compare_small(pairs, samples=50, fold=25, batch=32):
    from keras_finetune.uncertainty import mc_predict

    for name, model, x in small_networks():
        call = folded_call(model, fold)
        ways = (
            partial(mc_predict, model, x, samples=samples, batch_size=batch, verbose=0),
            partial(by_hand, call, x, samples, fold, batch),
        )
        ratios = []
        for _ in range(pairs + 1):
            ours, theirs = (fastest(way, 1) for way in ways)
            ratios.append(ours / theirs)
        clock, processor = np.median(ratios[1:], axis=0)
        print(f"{name}: clock {clock:.2f}, processor {processor:.2f} of a hand loop")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--samples", type=int, default=50)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--first-images", type=int, default=64)
    parser.add_argument("--first-samples", type=int, default=10)
    parser.add_argument("--json", help="where to write the results")
    parser.add_argument("--small", type=int, help="pairs, of small networks only")
    options = parser.parse_args()
    if options.small:
        compare_small(options.small)
        return
    results = {}
    for title, first, images, samples in (
        ("dropout in the head", False, options.images, options.samples),
        ("dropout in front", True, options.first_images, options.first_samples),
    ):
        print(f"{title}: {images} images, T = {samples}")
        results[title] = {"images": images, "samples": samples}
        unit = None
        for way in WAYS:
            if first and way == "lower bound":
                continue
            clock, processor, peak = in_process(
                way, first, images, samples, options.batch
            )
            unit = unit or (clock, processor)
            ratios = {
                "clock": round(clock / unit[0], 2),
                "processor": round(processor / unit[1], 2),
                "peak GiB": round(peak, 2),
            }
            results[title][way] = ratios
            print(f"  {way:15s} {ratios} ({clock:.1f} s)", flush=True)
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump(results, file, indent=1)
            file.write("\n")


if __name__ == "__main__":
    main()
