"""A real task: photographs of clothes in ten classes, and SqueezeNet from ImageNet.

Both files come from the data folder (see _data.py). The images are those of
clothing-dataset-small (CC0), 128 by 128; the weights are DeepScale's, converted for
Keras by Jesper Wohlert (MIT).
"""

from __future__ import annotations

import functools
import io
import itertools

import _grid
import numpy as np
from _data import load
from PIL import Image

from keras_finetune._engine import keras

CLASSES = 10
BATCH = 32
EPOCHS = 18
SIDE = 128
# The widths of squeeze and expand in each fire module, and those before a pooling.
FIRE = {2: 16, 3: 16, 4: 32, 5: 32, 6: 48, 7: 48, 8: 64, 9: 64}
POOLED = (3, 5)
MEANS = (103.939, 116.779, 123.68)  # of ImageNet, blue first


@functools.cache
def images():
    """Return images `(n, 128, 128, 3)` as the network wants them, labels, and parts.

    A part is 0 for training, 1 for validation, 2 for testing.
    """
    arrays = load("clothing128.npz")
    offset, files = arrays["offset"], arrays["jpeg"].tobytes()
    found = np.empty((len(offset) - 1, SIDE, SIDE, 3), "float32")
    for i, (start, end) in enumerate(itertools.pairwise(offset)):
        image = Image.open(io.BytesIO(files[start:end])).convert("RGB")
        found[i] = np.asarray(image)[..., ::-1]
    found -= np.array(MEANS, "float32")
    return found, arrays["label"].astype("int64"), arrays["split"]


def task(per_class, seed):
    """Return the images and labels to train on, to choose by, and to test on.

    Args:
        per_class: How many images of each class to train on; `None` for all.
        seed: Which of them.
    """
    x, y, part = images()
    rows = np.random.default_rng(seed).permutation(np.flatnonzero(part == 0))
    if per_class is not None:
        chosen = [rows[y[rows] == label][:per_class] for label in range(CLASSES)]
        rows = np.concatenate(chosen)
    return [(x[r], y[r]) for r in (rows, *(np.flatnonzero(part == k) for k in (1, 2)))]


def network(dropout=0.5):
    """SqueezeNet 1.1 from ImageNet with dropout and a new head."""
    layers = keras.layers

    def conv(x, filters, size, name, padding="same", strides=1):
        layer = layers.Conv2D(
            filters, size, strides, padding, activation="relu", name=name
        )
        return layer(x)

    inputs = keras.Input((SIDE, SIDE, 3))
    x = conv(inputs, 64, 3, "conv1", "valid", 2)
    x = layers.MaxPooling2D(3, 2, name="pool1")(x)
    for i, width in FIRE.items():
        x = conv(x, width, 1, f"fire{i}_squeeze1x1")
        sides = [conv(x, 4 * width, n, f"fire{i}_expand{n}x{n}") for n in (1, 3)]
        x = layers.Concatenate(name=f"fire{i}_concat")(sides)
        if i in POOLED:
            x = layers.MaxPooling2D(3, 2, name=f"pool{i}")(x)
    x = layers.GlobalAveragePooling2D(name="average")(x)
    x = layers.Dropout(dropout, name="dropout")(x)
    model = keras.Model(inputs, layers.Dense(CLASSES, name="classifier")(x))
    weights = load("squeezenet11_imagenet.npz")
    for layer in model.layers:
        if f"{layer.name}_kernel" in weights:
            layer.set_weights(
                [weights[f"{layer.name}_{k}"] for k in ("kernel", "bias")]
            )
    return model


def compiled(model, rate):
    model.compile(
        keras.optimizers.Adam(rate),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


def run(arm, per_class, rate, seed):
    """Train one network by one arm; see `_grid.trained`."""
    keras.backend.clear_session()
    keras.utils.set_random_seed(seed)
    return _grid.trained(arm, network(), task(per_class, seed), rate, BATCH)
