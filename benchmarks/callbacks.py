"""What the callbacks cost, as ratios from one run on TensorFlow.

    python benchmarks/callbacks.py [--quick] [--repetitions 40] [--parts rates multi]

Every ratio is the median over pairs that were timed one after the other, in turn one
and the other first, so that a busy machine slows both. Below 1, ours is faster.
Between brackets: the quartiles of the ratios.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np

import keras_finetune
from keras_finetune import DiscriminativeLR, GradualUnfreeze, layer_groups
from keras_finetune._engine import KERAS_3, backend, keras

CLASSES = 10
GROUPS = 3


def make_model(quick):
    """A backbone without weights to download, and a head."""
    keras.utils.set_random_seed(0)
    layers = keras.layers
    if quick:
        inputs = x = keras.Input((32, 32, 3))
        for i, filters in enumerate((16, 32, 64, 64), 1):
            strides = 1 if i == 1 else 2
            name = f"block{i}"
            x = layers.Conv2D(
                filters, 3, strides, "same", use_bias=False, name=f"{name}_conv"
            )(x)
            x = layers.BatchNormalization(name=f"{name}_bn")(x)
            x = layers.ReLU(name=f"{name}_relu")(x)
    else:
        body = keras.applications.MobileNetV2(
            (96, 96, 3), weights=None, include_top=False
        )
        inputs, x = body.input, body.output
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(inputs, layers.Dense(CLASSES, name="head")(x))


def make_data(model, batches, batch_size):
    rng = np.random.default_rng(0)
    n = batches * batch_size
    x = rng.random((n, *model.input_shape[1:]), dtype="float32")
    return x, rng.integers(0, CLASSES, n)


def compiled(model, optimizer=None):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer or keras.optimizers.Adam(1e-3), loss)
    return model


class Bench:
    """The model, the data, and how often things are repeated."""

    def __init__(self, quick, repetitions, runs, batch_size):
        self.quick, self.repetitions, self.runs = quick, repetitions, runs
        self.batch_size = batch_size
        self.data = make_data(self.model(), 4, batch_size)

    def model(self):
        return make_model(self.quick)

    def fit(self, model, epochs=1, callbacks=(), **kwargs):
        arguments = {"batch_size": self.batch_size, "shuffle": False, "verbose": 0}
        arguments.update(kwargs)
        return model.fit(
            *self.data, epochs=epochs, callbacks=list(callbacks), **arguments
        )

    def iterator(self):
        import tensorflow as tf

        data = tf.data.Dataset.from_tensor_slices(self.data)
        return iter(data.batch(self.batch_size, drop_remainder=True).cache().repeat())

    def plain_step(self, model):
        """The compiled step of a model that knows nothing of us."""
        self.fit(compiled(model))
        return model.train_function

    def compare_steps(self, ours, other):
        batches = self.iterator()

        def timed(step):
            start = time.perf_counter()
            result = step(batches)
            np.asarray(next(iter(result.values())))
            return time.perf_counter() - start

        for step in (ours, other) * 2:
            timed(step)
        return pairs(lambda: timed(ours), lambda: timed(other), self.repetitions)


def pairs(ours, other, n):
    times = []
    for i in range(n):
        if i % 2:
            times.append((ours(), other()))
        else:
            b = other()
            times.append((ours(), b))
    return times


def report(what, times, against):
    ratios = [a / b for a, b in times]
    low, middle, high = (
        statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
    )
    a, b = (1000 * statistics.median(column) for column in zip(*times))
    print(
        f"{what:<34} {a:>9.1f} ms {b:>9.1f} ms  x{middle:5.3f}  "
        f"[{low:.3f}, {high:.3f}]  against {against}",
        flush=True,
    )


class InFit(keras.callbacks.Callback):
    """Runs a function at each epoch's begin, when all others are ready."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def on_epoch_begin(self, epoch, logs=None):
        self.function(epoch, self.model.train_function)


def stages(bench):
    """Each stage against the model frozen by hand, and against full training."""
    full_step = bench.plain_step(bench.model())

    def at_epoch(stage, step):
        by_hand = bench.model()
        groups = layer_groups(by_hand, GROUPS)
        for group in groups[: GROUPS - 1 - stage]:
            for layer in group.layers:
                layer.trainable = False
        times = bench.compare_steps(step, bench.plain_step(by_hand))
        report(f"step of stage {stage}", times, "the model frozen by hand")
        times = bench.compare_steps(step, full_step)
        report(f"step of stage {stage}", times, "full training")

    model = compiled(bench.model())
    unfreeze = GradualUnfreeze(groups=GROUPS, every=1, batch_norm="follow")
    callbacks = [unfreeze, InFit(at_epoch)]
    bench.fit(model, GROUPS, callbacks)


def group_rates():
    """A rate for each of the finest groups, as `multi_optimizer` has them."""
    return DiscriminativeLR(decay=2.6, groups="auto")


def rates(bench):
    """The step with scaled rates against the plain one."""
    makers = {"Adam": lambda: keras.optimizers.Adam(1e-3)}
    makers["AdamW"] = lambda: keras.optimizers.AdamW(1e-3)
    if not KERAS_3:
        makers["legacy Adam"] = lambda: keras.optimizers.legacy.Adam(1e-3)
    for name, make in makers.items():
        plain = compiled(bench.model(), make())
        bench.fit(plain)

        def at_epoch(epoch, step, name=name, plain=plain):
            times = bench.compare_steps(step, plain.train_function)
            report(f"step with rates, {name}", times, "the plain optimizer")

        model = compiled(bench.model(), make())
        bench.fit(model, 1, [group_rates(), InFit(at_epoch)])


def control(bench):
    """A plain step against another plain step: how far the machine can be trusted."""
    one, other = (bench.plain_step(bench.model()) for _ in range(2))
    report("step (control)", bench.compare_steps(one, other), "the same, made again")


def multi_optimizer(model):
    """One optimizer for each group, as a user has it without us."""
    groups = layer_groups(model)
    if KERAS_3:
        # begin: multi, Keras 3
        made = [keras.optimizers.Adam(1e-3 * 2.6**-k) for k in range(len(groups))]
        of = {v.path: o for g, o in zip(reversed(groups), made) for v in g.variables}
        return keras.optimizers.MultiOptimizer(lambda variable: of[variable.path])
        # end
    # begin: multi, Keras 2
    import tensorflow_addons as tfa

    adam = keras.optimizers.legacy.Adam
    return tfa.optimizers.MultiOptimizer(
        [
            (adam(1e-3 * 2.6**-k), [layer for layer in g.layers if layer.weights])
            for k, g in enumerate(reversed(groups))
            if g.variables
        ]
    )
    # end


def against_multi_optimizer(bench):
    """Time to the first step, and of a step, with one optimizer for each group."""
    try:
        multi_optimizer(bench.model())
    except (ImportError, AttributeError):
        print("no MultiOptimizer in this lane")
        return
    single = keras.optimizers if KERAS_3 else keras.optimizers.legacy

    def first_step(model, callbacks):
        start, found = time.perf_counter(), []
        first = keras.callbacks.LambdaCallback(
            on_train_batch_end=lambda b, logs: found.append(time.perf_counter() - start)
        )
        bench.fit(model, 1, [*callbacks, first], steps_per_epoch=1)
        return found[0]

    def plain():
        return first_step(compiled(bench.model(), single.Adam(1e-3)), [])

    def ours():
        model = compiled(bench.model(), single.Adam(1e-3))
        return first_step(model, [group_rates()])

    def theirs():
        model = bench.model()
        return first_step(compiled(model, multi_optimizer(model)), [])

    n = len(layer_groups(bench.model()))
    plain()
    times = pairs(ours, theirs, bench.runs)
    report(f"first step, {n} groups", times, "MultiOptimizer")
    report("first step", pairs(ours, plain, bench.runs), "the plain optimizer")

    other = bench.model()
    compiled(other, multi_optimizer(other))
    bench.fit(other)

    def at_epoch(epoch, step):
        times = bench.compare_steps(step, other.train_function)
        report(f"step, {n} groups", times, "MultiOptimizer")

    model = compiled(bench.model(), single.Adam(1e-3))
    bench.fit(model, 1, [group_rates(), InFit(at_epoch)])


def whole_run(bench, epochs=2):
    """One `fit` against freeze, compile, fit, unfreeze, compile, fit."""

    def ours():
        model = compiled(bench.model())
        start = time.perf_counter()
        unfreeze = GradualUnfreeze(groups=2, every=epochs, batch_norm="follow")
        bench.fit(model, 2 * epochs, [unfreeze])
        return time.perf_counter() - start

    def by_hand():
        model = bench.model()
        start = time.perf_counter()
        for layer in layer_groups(model, 2)[0].layers:
            layer.trainable = False
        bench.fit(compiled(model), epochs)
        for layer in model.layers:
            layer.trainable = True
        bench.fit(compiled(model), epochs)
        return time.perf_counter() - start

    times = pairs(ours, by_hand, bench.runs)
    report(f"whole run, 2 x {epochs} epochs", times, "two compiles, two fits")


PARTS = {
    "control": control,
    "stages": stages,
    "rates": rates,
    "multi": against_multi_optimizer,
    "whole": whole_run,
}


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a small network")
    parser.add_argument("--repetitions", type=int, default=40, help="pairs of steps")
    parser.add_argument(
        "--runs", type=int, default=3, help="pairs of whole fits, first steps"
    )
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    arguments = parser.parse_args(arguments)
    if backend() != "tensorflow":
        parser.error("the steps are timed by TensorFlow's train functions only")

    bench = Bench(
        arguments.quick, arguments.repetitions, arguments.runs, arguments.batch_size
    )
    model = bench.model()
    print(
        f"keras-finetune {keras_finetune.__version__}, Keras {keras.__version__}, "
        f"{model.count_params():,} parameters, {len(model.layers)} layers, "
        f"batches of {arguments.batch_size}"
    )
    print(f"{'':<34} {'ours':>12} {'other':>12}  ratio   quartiles")
    for part in arguments.parts:
        PARTS[part](bench)


if __name__ == "__main__":
    main()
