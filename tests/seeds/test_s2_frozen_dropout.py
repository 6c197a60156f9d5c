"""S2: is dropout active in a frozen model? Yes, and it is a choice here.

All weights are ones and the learning rate is 0, so that the training loss tells what
came out of the dropout: 2.0 or 0.0 in a training phase, ones at inference.
"""

import numpy as np
import pytest
import reference

from keras_finetune import GradualUnfreeze
from keras_finetune._engine import keras

pytestmark = pytest.mark.slow

N = 2048
ONES = np.ones((N, 1), "float32")


def dropout_net():
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((1,)),
            layers.Dense(1, use_bias=False, kernel_initializer="ones", name="body"),
            layers.Dropout(0.5, seed=1, name="noise"),
            layers.Dense(1, use_bias=False, kernel_initializer="ones", name="head"),
        ]
    )
    # The mean of the squares: 1 for ones, about 2 for half twos and half zeros.
    model.compile(keras.optimizers.SGD(0.0), "mse")
    return model


def loss_of_ones(model, **kwargs):
    history = model.fit(
        ONES, 0 * ONES, batch_size=N, shuffle=False, verbose=0, **kwargs
    )
    return history.history["loss"]


def test_dropout_of_a_frozen_layer_is_active():
    layer = keras.layers.Dropout(0.5)
    layer.trainable = False
    x = np.ones((40, 50), "float32")
    assert set(np.unique(reference.to_numpy(layer(x, training=True)))) == {0.0, 2.0}
    np.testing.assert_array_equal(reference.to_numpy(layer(x, training=False)), x)


def test_keras_leaves_dropout_active_in_a_frozen_model():
    model = dropout_net()
    model.get_layer("body").trainable = model.get_layer("noise").trainable = False
    model.compile(keras.optimizers.SGD(0.0), "mse")
    assert loss_of_ones(model) == [pytest.approx(2.0, abs=0.2)]
    assert model.evaluate(ONES, 0 * ONES, verbose=0) == 1.0


@pytest.mark.parametrize(
    ("frozen_mode", "frozen"),
    [("training", pytest.approx(2.0, abs=0.2)), ("inference", 1)],
)
def test_frozen_mode(frozen_mode, frozen):
    model = dropout_net()
    callback = GradualUnfreeze(
        [["body", "noise"], "head"], every=2, frozen_mode=frozen_mode
    )
    losses = loss_of_ones(model, epochs=4, callbacks=[callback])
    active = pytest.approx(2.0, abs=0.2)
    # Two epochs frozen, two unfrozen: there the dropout is active in both modes.
    assert losses == [frozen, frozen, active, active]
    assert model.evaluate(ONES, 0 * ONES, verbose=0) == 1.0
    assert loss_of_ones(model) == [active]
