"""The two tasks of fine_tune.py: their images, their networks, their settings."""

from __future__ import annotations

import functools
import io
import itertools
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

if os.environ.get("TF_USE_LEGACY_KERAS") == "1":
    import tf_keras as keras
else:
    import keras

layers = keras.layers

Images = tuple[np.ndarray, np.ndarray]


@dataclass
class Task:
    """Something to fine-tune a pre-trained network on.

    Args:
        name: What it is, for the first line of the output.
        network: Makes the network: a pre-trained body, and a new head as its last
            layer.
        split: Returns the images and labels to train on, and those to test on, for a
            seed.
        rates: A careful base rate for Adam, and one ten times as high.
        batch_size: Of the fits.
        epochs: Of each fit.
        seeds: How many times everything is done.
    """

    name: str
    network: Callable[[], keras.Model]
    split: Callable[[int], tuple[Images, Images]]
    rates: tuple[float, float]
    batch_size: int
    epochs: int
    seeds: int


def few_of_each_class(y: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Return the indices of `count` examples of each class, as the seed draws them."""
    order = np.random.default_rng(seed).permutation(len(y))
    return np.concatenate([order[y[order] == label][:count] for label in np.unique(y)])


# --- photographs of clothes, and SqueezeNet from ImageNet ----------------------------

SIDE = 96  # the file has 128: a convolution takes half the time
MEAN_COLOR = (103.939, 116.779, 123.68)  # of ImageNet: blue, green, red


def photographs(folder: Path) -> Task:
    """Twenty photographs of clothes from each of ten classes, and SqueezeNet.

    Args:
        folder: Has `clothing128.npz` and `squeezenet11_imagenet.npz`; docs/demo.md
            says where they come from, and convert_clothing.py makes them.
    """
    for name in ("clothing128.npz", "squeezenet11_imagenet.npz"):
        if not (folder / name).is_file():
            raise SystemExit(f"{folder / name} is missing: see docs/demo.md")
    x, y, part = read_clothing(folder / "clothing128.npz")
    with np.load(folder / "squeezenet11_imagenet.npz") as arrays:
        weights = dict(arrays)
    train, test = np.flatnonzero(part == 0), np.flatnonzero(part == 2)

    def split(seed: int) -> tuple[Images, Images]:
        few = train[few_of_each_class(y[train], 20, seed)]
        return (x[few], y[few]), (x[test], y[test])

    return Task(
        name="SqueezeNet from ImageNet, photographs of clothes in ten classes",
        network=functools.partial(squeezenet, weights, classes=10),
        split=split,
        rates=(3e-4, 3e-3),
        batch_size=16,
        epochs=10,
        seeds=1,
    )


def read_clothing(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the images as SqueezeNet wants them, their labels and their parts.

    Images are blue, green and red less the mean of ImageNet; a part is 0 for training,
    1 for validation and 2 for testing.
    """
    from PIL import Image

    with np.load(path) as arrays:
        files, offset = arrays["jpeg"].tobytes(), arrays["offset"]
        labels, part = arrays["label"].astype("int64"), arrays["split"]
    x = np.empty((len(labels), SIDE, SIDE, 3), "float32")
    for image, (start, end) in zip(x, itertools.pairwise(offset)):
        small = Image.open(io.BytesIO(files[start:end])).resize((SIDE, SIDE))
        image[:] = np.asarray(small)[..., ::-1]
    return x - np.array(MEAN_COLOR, "float32"), labels, part


def squeezenet(weights: dict[str, np.ndarray], classes: int) -> keras.Model:
    """SqueezeNet 1.1 with dropout and a new head.

    Args:
        weights: The kernel and bias of each convolution of the body, by name.
        classes: The units of the head.
    """

    def conv(x, filters: int, size: int, name: str, **arguments):
        layer = layers.Conv2D(filters, size, activation="relu", name=name, **arguments)
        return layer(x)

    inputs = keras.Input((SIDE, SIDE, 3))
    x = conv(inputs, 64, 3, "conv1", strides=2)
    x = layers.MaxPooling2D(3, 2, name="pool1")(x)
    for i, width in enumerate((16, 16, 32, 32, 48, 48, 64, 64), start=2):
        x = conv(x, width, 1, f"fire{i}_squeeze1x1")
        sides = [
            conv(x, 4 * width, size, f"fire{i}_expand{size}x{size}", padding="same")
            for size in (1, 3)
        ]
        x = layers.Concatenate(name=f"fire{i}_concat")(sides)
        if i in (3, 5):
            x = layers.MaxPooling2D(3, 2, name=f"pool{i}")(x)
    x = layers.GlobalAveragePooling2D(name="average")(x)
    x = layers.Dropout(0.5, name="dropout")(x)
    model = keras.Model(inputs, layers.Dense(classes, name="head")(x))
    for layer in model.layers:
        if f"{layer.name}_kernel" in weights:
            layer.set_weights(
                [weights[f"{layer.name}_{kind}"] for kind in ("kernel", "bias")]
            )
    return model


# --- handwritten digits, and a small network that has seen half of them --------------


def digits(epochs: int = 10, seeds: int = 3, pretraining: int = 20) -> Task:
    """Twenty images each of 5 to 9, and a small network that has learned 0 to 4.

    The images are the 1,797 of 8 by 8 pixels that come with scikit-learn: nothing is
    downloaded.
    """
    images, labels = load_digits(return_X_y=True)
    x = (images / 16).astype("float32").reshape(-1, 8, 8, 1)
    low = labels < 5
    body = pretrained_body(x[low], labels[low], pretraining)
    x, y = x[~low], labels[~low] - 5

    def split(seed: int) -> tuple[Images, Images]:
        few = few_of_each_class(y, 20, seed)
        rest = np.setdiff1d(np.arange(len(y)), few)
        return (x[few], y[few]), (x[rest], y[rest])

    def network() -> keras.Model:
        model = small_network()
        for layer, weights in zip(model.layers[:-1], body):
            layer.set_weights(weights)
        return model

    return Task(
        name="A small network that knows the digits 0 to 4, images of 5 to 9",
        network=network,
        split=split,
        rates=(1e-2, 1e-1),
        batch_size=10,
        epochs=epochs,
        seeds=seeds,
    )


def small_network() -> keras.Model:
    """Three convolutional blocks with normalization and dropout, and a head."""
    x = inputs = keras.Input((8, 8, 1))
    for block, filters in enumerate((16, 32, 64), start=1):
        x = layers.Conv2D(filters, 3, padding="same", name=f"block{block}_conv")(x)
        x = layers.BatchNormalization(name=f"block{block}_bn")(x)
        x = layers.ReLU(name=f"block{block}_relu")(x)
        x = layers.Dropout(0.1, name=f"block{block}_dropout")(x)
        if block < 3:
            x = layers.MaxPooling2D(name=f"block{block}_pool")(x)
    x = layers.GlobalAveragePooling2D(name="average")(x)
    return keras.Model(inputs, layers.Dense(5, name="head")(x))


def pretrained_body(
    x: np.ndarray, y: np.ndarray, epochs: int
) -> list[list[np.ndarray]]:
    """Train the small network, and return the weights of each layer but the head."""
    keras.utils.set_random_seed(0)
    model = small_network()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(3e-3), loss)
    model.fit(x, y, batch_size=32, epochs=epochs, verbose=0)
    return [layer.get_weights() for layer in model.layers[:-1]]
