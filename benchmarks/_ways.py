"""Ways to fine-tune in stages, or with a rate for each group: ours and by hand.

Each function is what a user writes; the lines between `begin` and `end` are counted.
`level` tells the stage in which a layer starts to train, and is given to all.
"""

from __future__ import annotations

import functools
import time

import numpy as np
from callbacks import make_data, make_model, multi_optimizer

from keras_finetune import DiscriminativeLR, GradualUnfreeze, layer_groups
from keras_finetune._engine import keras

STAGES = 3
BATCH = 8


def loss():
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def level(model):
    groups = reversed(layer_groups(model, STAGES))
    return {layer.name: i for i, group in enumerate(groups) for layer in group.layers}


def ours(model, data, every, callbacks):
    # begin: ours
    model.compile(keras.optimizers.Adam(1e-3), loss())
    unfreeze = GradualUnfreeze(groups=STAGES, every=every, batch_norm="follow")
    rates = DiscriminativeLR(decay=2.6, groups=STAGES)
    callbacks = [unfreeze, rates, *callbacks]
    model.fit(*data, epochs=STAGES * every, callbacks=callbacks, **FIT)
    # end


def by_hand(model, data, every, callbacks):
    levels = level(model)
    # begin: by hand
    for stage in range(STAGES):
        for layer in model.layers:
            layer.trainable = levels.get(layer.name, 0) <= stage
        model.compile(keras.optimizers.Adam(1e-3), loss())
        epochs = {"initial_epoch": stage * every, "epochs": (stage + 1) * every}
        model.fit(*data, callbacks=callbacks, **epochs, **FIT)
    # end


def masking(model, data, every, callbacks):
    import tensorflow as tf

    levels = level(model)
    # begin: masking
    of = {id(v): levels[layer.name] for layer in model.layers for v in layer.weights}
    stage = tf.Variable(0, trainable=False)

    class Masked(keras.Model):
        def train_step(self, batch):
            x, y = batch
            with tf.GradientTape() as tape:
                value = self.compute_loss(x, y, self(x, training=True))
            variables = self.trainable_variables
            gradients = [
                g * tf.cast(of[id(v)] <= stage, g.dtype)
                for g, v in zip(tape.gradient(value, variables), variables)
            ]
            self.optimizer.apply_gradients(zip(gradients, variables))
            return {"loss": value}

    def assign(epoch, logs):
        stage.assign(epoch // every)

    unfreeze = keras.callbacks.LambdaCallback(on_epoch_begin=assign)
    model = Masked(model.input, model.output)
    model.compile(keras.optimizers.Adam(1e-3), loss())
    model.fit(*data, epochs=STAGES * every, callbacks=[unfreeze, *callbacks], **FIT)
    # end
    return model


def multi(model, data, every, callbacks):
    # The lines are those of `multi_optimizer` in callbacks.py, and two more.
    optimizer = multi_optimizer(model)
    # begin: multi
    model.compile(optimizer, loss())
    model.fit(*data, epochs=STAGES * every, callbacks=callbacks, **FIT)
    # end


def multi_in_stages(model, data, every, callbacks):
    """What breaks when the two are wanted together."""
    levels = level(model)
    for layer in model.layers:
        layer.trainable = levels.get(layer.name, 0) <= 0
    multi(model, data, every, callbacks)


FIT = {"batch_size": BATCH, "shuffle": False, "verbose": 0}
WAYS = {"ours": ours, "by hand": by_hand, "masking": masking, "multi": multi}


class Clock(keras.callbacks.Callback):
    """Seconds to the first step, and of the later ones, by epoch."""

    def __init__(self):
        super().__init__()
        self.start, self.first = time.perf_counter(), None
        self.steps = {}

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch, self.last = epoch, None

    def on_train_batch_end(self, batch, logs=None):
        now = time.perf_counter()
        if self.first is None:
            self.first = now - self.start
        if self.last is not None:
            self.steps.setdefault(self.epoch, []).append(now - self.last)
        self.last = now


def cost(way, every=3, batches=24):
    """Time to the first step, and milliseconds of a step in each stage."""
    model = make_model(quick=True)
    data = make_data(model, batches, BATCH)
    clock = Clock()
    WAYS[way](model, data, every, [clock])
    # The first epoch of a stage traces.
    steps = [
        1000 * np.median([step for e in epochs for step in clock.steps[e]])
        for epochs in (range(s * every + 1, (s + 1) * every) for s in range(STAGES))
    ]
    return {"first": clock.first, "steps": steps}


# --- what breaks ----------------------------------------------------------------------


def tried(function):
    """What came of it, or the error."""
    try:
        return str(function())
    except Exception as error:
        said = str(error).strip().splitlines()
        return f"raises {type(error).__name__}: {said[0] if said else ''}"[:160]


def breaks(way, folder):
    """Each wish of somebody who fine-tunes, tried."""
    every = 1

    def fitted(callbacks=(), run=WAYS[way]):
        model = make_model(quick=True)
        data = make_data(model, 2, BATCH)
        return run(model, data, every, list(callbacks)) or model

    def schedule():
        def follow(epoch, rate):
            return 1e-4

        model = fitted([keras.callbacks.LearningRateScheduler(follow)])
        return f"works, ends at {float(model.optimizer.learning_rate):.0e}"

    def state():
        steps = 2 * every * STAGES
        found = int(model_iterations(fitted()))
        return "kept" if found == steps else f"lost: {found} of {steps} steps counted"

    def saved():
        path = f"{folder}/model.keras"
        fitted().save(path)
        model = keras.models.load_model(path)
        model.fit(*make_data(model, 2, BATCH), epochs=1, **FIT)
        return f"works and trains on, {type(model.optimizer).__name__}"

    def mixed():
        keras.mixed_precision.set_global_policy("mixed_float16")
        try:
            fitted()
        finally:
            keras.mixed_precision.set_global_policy("float32")
        return "works"

    def stages():
        if way != "multi":
            fitted()
            return "works"
        fitted(run=multi_in_stages)
        return "none of its own; trains when frozen by hand before `compile`"

    wishes = {
        "stages": stages,
        "a rate callback": schedule,
        "optimizer state over the stages": state,
        "save and load": saved,
        "mixed precision": mixed,
    }
    return {wish: tried(function) for wish, function in wishes.items()}


def model_iterations(model):
    optimizer = model.optimizer
    inner = getattr(optimizer, "optimizers", None)
    if isinstance(inner, (list, tuple)) and inner:
        optimizer = inner[-1]
    return np.asarray(optimizer.iterations)


# --- beside others --------------------------------------------------------------------


def prediction(way, images=512, samples=50, batch=32, repetitions=5):
    """Seconds of Monte Carlo prediction, the first time and later."""
    from keras_finetune import mc_predict

    keras.utils.set_random_seed(0)
    layers = keras.layers
    inputs = x = keras.Input((32, 32, 3))
    for filters in (16, 32, 64):
        x = layers.Conv2D(filters, 3, strides=2, activation="relu")(x)
    x = layers.Dense(128, activation="relu")(layers.Flatten()(x))
    x = layers.Dropout(0.5)(x)
    model = keras.Model(inputs, layers.Dense(10, activation="softmax")(x))
    data = np.random.default_rng(0).normal(size=(images, 32, 32, 3)).astype("float32")

    def ours():
        # begin: mc_predict
        return mc_predict(model, data, samples=samples, batch_size=batch, verbose=0)
        # end

    def loop():
        # begin: a loop of `model(x, training=True)`
        parts = [data[i : i + batch] for i in range(0, len(data), batch)]
        drawn = [
            np.concatenate([np.asarray(model(x, training=True)) for x in parts])
            for _ in range(samples)
        ]
        return np.mean(drawn, 0)
        # end

    @functools.cache
    def stochastic():
        import uncertainty_wizard as uwiz

        # begin: uncertainty-wizard
        return uwiz.models.stochastic_from_keras(model)
        # end

    def wizard():
        # begin: uncertainty-wizard
        return stochastic().predict_quantified(
            data,
            quantifier="pred_entropy",
            sample_size=samples,
            batch_size=batch,
            verbose=0,
        )
        # end

    call = {
        "mc_predict": ours,
        "a loop of `model(x, training=True)`": loop,
        "uncertainty-wizard": wizard,
    }[way]
    times = []
    try:
        for _ in range(1 + repetitions):
            start = time.perf_counter()
            call()
            times.append(time.perf_counter() - start)
    except Exception as error:
        said = f"{type(error).__name__}: {str(error).splitlines()[0]}"[:160]
        return {"raises": said}
    return {"first": times[0], "seconds": times[1:]}
