"""The images of the notebooks, and what stands in for them without a network."""

import contextlib
import importlib
import io
import os
import socket
from pathlib import Path

import numpy as np

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


def load_images(keras, name):
    """Images in [0, 1] and labels 0 to 9, from the best source that can be reached.

    Args:
        keras: The Keras that runs.
        name: `"mnist"` or `"fashion_mnist"`.

    Returns:
        Images of shape `(n, side, side)`, labels, and the name of the source: that of
        the argument, or `"digits"`.
    """
    try:
        images, labels = _download(keras, name)
        source = f"keras.datasets.{name}"
    except Exception as error:
        print(f"keras.datasets.{name} cannot be reached ({type(error).__name__}).")
        name = "digits"
        images, labels, source = _local()
    print(f"Data: {source}, {len(images):,} images of {images.shape[1:]} pixels")
    return images.astype("float32"), labels.astype("int64"), name


def _download(keras, name):
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(5)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            module = importlib.import_module(f"{keras.__name__}.datasets.{name}")
            (x, y), (x_test, y_test) = module.load_data()
    finally:
        socket.setdefaulttimeout(before)
    return np.concatenate([x, x_test]) / 255.0, np.concatenate([y, y_test])


def _local():
    path = Path(os.environ.get("KERAS_FINETUNE_DATA", SHARED)) / "mnist10k.npz"
    if path.is_file():
        with np.load(path) as arrays:
            return arrays["x"] / 255.0, arrays["y"], "the test images of MNIST"
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return bunch.images / 16.0, bunch.target, "the digits of scikit-learn"
