"""S4: the conditional gradient optimizer and the norm of the weights, on digits."""

import importlib.util

import numpy as np
import pytest
import reference

from keras_finetune import WeightNormLogger
from keras_finetune._engine import KERAS_3, keras

pytestmark = pytest.mark.slow

HAS_ADDONS = importlib.util.find_spec("tensorflow_addons") is not None
LAMBDA = 203
EPOCHS = 4
TRAIN, TEST = 1200, 500


@pytest.fixture(scope="module")
def task(digits):
    images, labels = digits
    order = np.random.default_rng(0).permutation(len(images))[: TRAIN + TEST]
    x, y = images[order].reshape(len(order), -1), labels[order]
    return (x[:TRAIN], y[:TRAIN]), (x[TRAIN:], y[TRAIN:])


def frobenius_norm(weights):
    """The write-up's number, in float64."""
    return np.sqrt(sum(np.sum(np.square(w.astype("float64"))) for w in weights))


def train(optimizer, task):
    keras.utils.set_random_seed(0)
    layers = keras.layers
    train_data, test_data = task
    model = keras.Sequential(
        [
            keras.Input(train_data[0].shape[1:]),
            layers.Dense(64, activation="relu"),
            layers.Dense(64, activation="relu"),
            layers.Dense(10),
        ]
    )
    reference.compile_model(model, optimizer, metrics=["accuracy"])
    by_hand = []
    watch = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: by_hand.append(
            frobenius_norm([reference.to_numpy(v) for v in model.trainable_variables])
        )
    )
    history = model.fit(
        *train_data,
        batch_size=64,
        epochs=EPOCHS,
        validation_data=test_data,
        verbose=0,
        callbacks=[watch, WeightNormLogger()],
    ).history
    np.testing.assert_allclose(history["weight_norm"], by_hand, rtol=1e-6)
    return model, history


def test_sgd(task):
    _, history = train(keras.optimizers.SGD(0.1), task)
    norms = history["weight_norm"]
    assert norms == sorted(norms)  # it grows, slowly
    assert history["val_accuracy"][-1] > 0.7


@pytest.mark.skipif(not (KERAS_3 or HAS_ADDONS), reason="needs TensorFlow Addons")
def test_conditional_gradient(task):
    from keras_finetune.optimizers import ConditionalGradient

    optimizer = ConditionalGradient(learning_rate=0.99949, lambda_=LAMBDA)
    model, history = train(optimizer, task)
    assert history["val_accuracy"][-1] > 0.7
    for weight in model.get_weights():
        assert np.linalg.norm(weight) <= LAMBDA * (1 + 1e-6)
    # Each of the six variables has a ball of its own.
    assert max(history["weight_norm"]) <= LAMBDA * np.sqrt(6)
