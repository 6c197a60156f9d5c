"""The study of quality: pre-train on the digits 0 to 4, fine-tune on few of 5 to 9.

Each task has images to train on, others to choose the rate by, and others to test on.
Every arm sees the same images for the same number of epochs, starts from the same
weights and tries the same rates.
"""

from __future__ import annotations

import math

import numpy as np
from _data import load
from sklearn.datasets import load_digits

from keras_finetune import DiscriminativeLR, GradualUnfreeze
from keras_finetune._engine import keras

EPOCHS = 10
STAGE = 2  # epochs
STEPS = 10  # an epoch
RATES = (0.003, 0.01, 0.03, 0.1, 0.3)
FILTERS = (16, 32, 64)
PER_CLASS = (10, 20, 50, 200)
BLOCKS = tuple(f"block{i}" for i in range(1, len(FILTERS) + 1))


def mnist():
    """Images of 14 by 14: the mean of each 2 by 2."""
    arrays = load("mnist10k.npz")
    x = arrays["x"].reshape(-1, 14, 2, 14, 2).mean((2, 4)) / 255
    return x[..., None].astype("float32"), arrays["y"].astype(int)


def digits():
    """The 1,797 images of 8 by 8 that come with scikit-learn."""
    x, y = load_digits(return_X_y=True)
    return (x / 16).reshape(-1, 8, 8, 1).astype("float32"), y.astype(int)


def sources(seed):
    """Name, images to pre-train on, and the tasks, for each set of images there is."""
    try:
        yield "MNIST", *split(*mnist(), seed, PER_CLASS, test=2000, validation=500)
    except SystemExit as missing:
        print(f"MNIST left out: {missing}", flush=True)
    yield "scikit-learn", *split(*digits(), seed, (20,), test=400, validation=200)


def split(x, y, seed, per_class, test, validation):
    old = y < 5
    new_x, new_y = x[~old], y[~old] - 5
    order = np.random.default_rng(seed).permutation(len(new_x))
    parts = np.split(order, [test, test + validation])
    found = {}
    for n in per_class:
        of = [parts[2][new_y[parts[2]] == label][:n] for label in range(5)]
        if min(map(len, of)) == n:
            chosen = [np.concatenate(of), parts[1], parts[0]]
            found[n] = [(new_x[rows], new_y[rows]) for rows in chosen]
    return (x[old], y[old]), found


def network(shape):
    """Three convolutions and a head, with no normalisation and no dropout."""
    layers = keras.layers
    inputs = x = keras.Input(shape)
    for block, filters in zip(BLOCKS, FILTERS):
        x = layers.Conv2D(
            filters, 3, padding="same", activation="relu", name=f"{block}_conv"
        )(x)
        if block != BLOCKS[-1]:
            x = layers.MaxPooling2D(name=f"{block}_pool")(x)
    x = layers.GlobalAveragePooling2D(name="average")(x)
    return keras.Model(inputs, layers.Dense(5, name="head")(x))


def compiled(model, rate):
    model.compile(
        keras.optimizers.Adam(rate),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


def pretrained(x, y, seed):
    """The weights after training on 0 to 4, with a head that is new."""
    keras.utils.set_random_seed(seed)
    model = compiled(network(x.shape[1:]), 3e-3)
    model.fit(x, y, batch_size=32, epochs=math.ceil(400 / (len(x) / 32)), verbose=0)
    fresh = network(x.shape[1:])
    fresh.set_weights(model.get_weights()[:-2] + fresh.get_weights()[-2:])
    return fresh.get_weights()


@keras.saving.register_keras_serializable(package="benchmarks")
class SlantedTriangular(keras.optimizers.schedules.LearningRateSchedule):
    """Section 3.2 of ULMFiT, for every arm that names it."""

    def __init__(self, top, steps, cut_frac=0.1, ratio=32):
        self.top, self.steps, self.cut_frac, self.ratio = top, steps, cut_frac, ratio

    def __call__(self, step):
        cast = keras.ops.cast if hasattr(keras, "ops") else keras.backend.cast
        step = cast(step, "float32")
        cut = math.floor(self.steps * self.cut_frac)
        up = step / cut
        down = 1 - (step - cut) / (self.steps - cut)
        least = keras.ops.minimum if hasattr(keras, "ops") else _minimum
        return self.top * (1 + least(up, down) * (self.ratio - 1)) / self.ratio

    def get_config(self):
        return {
            "top": self.top,
            "steps": self.steps,
            "cut_frac": self.cut_frac,
            "ratio": self.ratio,
        }


def _minimum(a, b):
    import tensorflow as tf

    return tf.minimum(a, b)


def slanted(rate):
    return SlantedTriangular(rate, EPOCHS * STEPS)


def rates_of_groups():
    return DiscriminativeLR(decay=2.6, groups=len(BLOCKS) + 1, log=False)


def stages():
    return GradualUnfreeze(groups=len(BLOCKS) + 1, every=STAGE, batch_norm="follow")


def two_fits(model, fit, rate):
    """Keras by hand: the head, then all at a tenth of the rate."""
    for layer in model.layers[:-1]:
        layer.trainable = False
    fit(compiled(model, rate), STAGE, [])
    for layer in model.layers:
        layer.trainable = True
    fit(compiled(model, rate / 10), EPOCHS - STAGE, [])


def arm(schedule, *callbacks):
    def run(model, fit, rate):
        made = [callback() for callback in callbacks]
        fit(compiled(model, schedule(rate)), EPOCHS, made)

    return run


ARMS = {
    "full, constant rate": arm(float),
    "full": arm(slanted),
    "+ discriminative": arm(slanted, rates_of_groups),
    "+ gradual": arm(slanted, stages),
    "+ both": arm(slanted, stages, rates_of_groups),
    "Keras by hand, two fits": two_fits,
}


def tune(name, weights, train, validation, test, rate, seed):
    """One arm at one rate; returns its accuracy for choosing, and on test images."""
    keras.backend.clear_session()  # TensorFlow keeps the graph of each fit
    keras.utils.set_random_seed(seed)
    x, y = train
    model = network(x.shape[1:])
    model.set_weights(weights)

    def fit(model, epochs, callbacks):
        model.fit(
            x,
            y,
            batch_size=len(x) // STEPS,
            epochs=epochs,
            verbose=0,
            callbacks=callbacks,
        )

    ARMS[name](model, fit, rate)

    def accuracy(x, y):
        found = model.predict(x, batch_size=1000, verbose=0)
        return float(np.mean(np.argmax(found, -1) == y))

    return accuracy(*validation), accuracy(*test)


def study(seeds, folder, arms=None, rates=RATES):
    """Every arm on every task; also leaves each task in `folder`, for other tools."""
    for seed in seeds:
        for source, old, found in sources(seed):
            weights = pretrained(*old, seed)
            for n, parts in found.items():
                task = f"{source}, {n} a class"
                print(f"{task}, seed {seed}", flush=True)
                arrays = {f"weight{i}": w for i, w in enumerate(weights)}
                for part, (x, y) in zip(("train", "validation", "test"), parts):
                    arrays |= {f"{part}_x": x, f"{part}_y": y}
                np.savez(
                    folder / f"{source}-{n}-{seed}.npz", task=task, seed=seed, **arrays
                )
                for name in ARMS:
                    if arms is not None and name not in arms:
                        continue
                    for rate in rates:
                        scores = tune(name, weights, *parts, rate, seed)
                        yield task, name, rate, seed, *scores
