"""S0: train only the biases of a model, on Iris.

The write-up updates `trainable_variables[1, 3, 5, 7]` in a GradientTape loop; here it
is one callback in `fit`.
"""

import numpy as np
import pytest
import reference
from sklearn.datasets import load_iris

from keras_finetune import TrainOnly
from keras_finetune._engine import keras

pytestmark = pytest.mark.slow

BATCH = 8


def iris():
    x, y = load_iris(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    return x[order].astype("float32"), y[order]


def iris_net():
    """The net of the write-up; NumPy draws its weights, the same on every backend."""
    hidden = [keras.layers.Dense(n, activation="relu") for n in (16, 32, 64)]
    # Logits: the softmax of the write-up is in the loss.
    model = keras.Sequential([keras.Input((4,)), *hidden, keras.layers.Dense(3)])
    rng = np.random.default_rng(0)
    model.set_weights(
        [
            rng.normal(0, np.sqrt(2 / np.sum(w.shape)), w.shape) * (w.ndim > 1)
            for w in model.get_weights()
        ]
    )
    return model


def compiled(rate=1e-3):
    return reference.compile_model(
        iris_net(), keras.optimizers.Adam(rate), metrics=["accuracy"]
    )


def fit(model, epochs, **kwargs):
    return reference.fit(model, iris(), batch_size=BATCH, epochs=epochs, **kwargs)


def hand_written_epoch(model, x, y):
    """The loop of the write-up: the biases are every other variable."""
    variables = model.trainable_variables
    biases = [variables[i] for i in (1, 3, 5, 7)]
    optimizer = keras.optimizers.Adam()
    reference.build(optimizer, biases)
    for i in range(0, len(x), BATCH):
        grads = reference.gradients(model, x[i : i + BATCH], y[i : i + BATCH])
        reference.apply(optimizer, [grads[k] for k in (1, 3, 5, 7)], biases)


def test_follows_the_hand_written_loop():
    model, other = compiled(), iris_net()
    start = model.get_weights()
    x, y = (part[: 8 * BATCH] for part in iris())
    callbacks = [TrainOnly("bias")]
    reference.fit(model, (x, y), batch_size=BATCH, callbacks=callbacks)
    hand_written_epoch(other, x, y)
    for i, (before, one, two) in enumerate(
        zip(start, model.get_weights(), other.get_weights(), strict=True)
    ):
        if i % 2 == 0:
            np.testing.assert_array_equal(one, before)
        else:
            assert np.abs(one - before).max() > 0.002
            # Compiled and eager steps fuse differently.
            np.testing.assert_allclose(one, two, rtol=0, atol=2e-5)


def test_biases_alone_learn_iris():
    history = fit(compiled(), 25, callbacks=[TrainOnly("bias")]).history
    accuracy = history["accuracy"]
    # The write-up: 0.33 after 10 epochs, 0.6267 after 25.
    assert accuracy[24] > max(0.6, accuracy[0])
    assert history["loss"][24] < history["loss"][9] < history["loss"][0]


def low_rank(model, rank):
    """Keeps the largest singular values of each hidden kernel."""
    arrays = model.get_weights()
    for i in range(2, len(arrays) - 2, 2):
        left, values, right = np.linalg.svd(arrays[i], full_matrices=False)
        arrays[i] = (left[:, :rank] * values[:rank]) @ right[:rank]
    model.set_weights(arrays)


def test_biases_repair_a_compressed_network():
    model = compiled(rate=5e-3)
    fit(model, 12)
    _, trained = model.evaluate(*iris(), verbose=0)
    low_rank(model, 1)
    loss, compressed = model.evaluate(*iris(), verbose=0)
    kernels = model.get_weights()[::2]
    fit(model, 12, callbacks=[TrainOnly("bias")])
    repaired_loss, repaired = model.evaluate(*iris(), verbose=0)
    for before, after in zip(kernels, model.get_weights()[::2], strict=True):
        np.testing.assert_array_equal(before, after)
    assert trained > 0.9
    assert repaired_loss < 0.7 * loss
    assert repaired > max(compressed, 0.85)
