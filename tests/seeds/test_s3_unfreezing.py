"""S3: a pre-trained VGG learns only when frozen, unless it is unfrozen in stages.

Digits 0 to 4 pre-train a stack of convolutions without normalisation; then the digits
5 to 9 are learned. On a network as small as this the collapse of the write-up (VGG19,
Adam at 1e-3) needs a rate of 5e-2.
"""

import numpy as np
import pytest
import reference

from keras_finetune import DiscriminativeLR, GradualUnfreeze
from keras_finetune._engine import keras

pytestmark = pytest.mark.slow

CLASSES = 5
CHANCE = np.log(CLASSES)  # the loss of a model that has given up
RATE = 5e-2


@pytest.fixture(scope="module")
def halves(digits):
    """The digits 0 to 4 and 5 to 9, the second in examples for training and testing."""
    images, labels = digits
    if images.shape[1] == 28:
        images = images.reshape(-1, 7, 4, 7, 4, 1).mean((2, 4))
    low = labels < CLASSES
    first = images[low][:1000], labels[low][:1000]
    x, y = images[~low], labels[~low] - CLASSES
    return first, (x[:400], y[:400]), (x[400:800], y[400:800])


def vgg(shape, seed):
    """Blocks of convolutions as in VGG, and a head of two layers.

    The weights are drawn by NumPy: from the same start on every backend.
    """
    layers = keras.layers
    inputs = x = keras.Input(shape)
    for block, (depth, filters) in enumerate(((2, 8), (2, 16), (3, 16)), start=1):
        for i in range(1, depth + 1):
            x = layers.Conv2D(
                filters,
                3,
                padding="same",
                activation="relu",
                name=f"block{block}_conv{i}",
            )(x)
        x = layers.MaxPooling2D(padding="same", name=f"block{block}_pool")(x)
    x = layers.Flatten(name="flatten")(x)
    x = layers.Dense(64, activation="relu", name="fc")(x)
    model = keras.Model(inputs, layers.Dense(CLASSES, name="classes")(x))
    rng = np.random.default_rng(seed)
    shapes = [tuple(weight.shape) for weight in model.weights]
    scales = [np.sqrt(2 / np.prod(s[:-1])) if len(s) > 1 else 0.0 for s in shapes]
    model.set_weights([rng.normal(0, c, s) for c, s in zip(scales, shapes)])
    return model


@pytest.fixture(scope="module")
def body_weights(halves):
    """What the convolutions learned from the first half."""
    x, y = halves[0]
    model = reference.compile_model(vgg(x.shape[1:], 0), keras.optimizers.Adam(2e-3))
    reference.fit(model, (x, y), batch_size=32, epochs=3)
    return model.get_weights()[:-4]


def fine_tune(halves, body_weights, callbacks=(), seed=1):
    _, train, test = halves
    model = vgg(train[0].shape[1:], seed)
    model.set_weights([*body_weights, *model.get_weights()[-4:]])
    reference.compile_model(model, keras.optimizers.Adam(RATE), metrics=["accuracy"])
    reference.fit(model, train, batch_size=20, epochs=6, callbacks=list(callbacks))
    for layer in model.layers:
        layer.trainable = True
    grads = reference.gradients(model, *(part[:100] for part in train))
    norms = [np.linalg.norm(reference.to_numpy(g)) for g in grads[:-4]]
    loss, accuracy = model.evaluate(*test, verbose=0)
    return loss, accuracy, float(np.linalg.norm(norms))


def test_everything_from_the_start_collapses(halves, body_weights):
    loss, accuracy, norm = fine_tune(halves, body_weights)
    assert loss == pytest.approx(CHANCE, abs=0.05)
    assert accuracy < 0.3
    assert norm < 1e-3


def test_stages_and_rates_do_not_collapse(halves, body_weights):
    unfreeze = GradualUnfreeze(
        groups=["block1", "block2", "block3", ["fc", "classes"]], every=2
    )
    callbacks = [unfreeze, DiscriminativeLR(decay=10.0, groups=unfreeze.groups)]
    loss, accuracy, norm = fine_tune(halves, body_weights, callbacks)
    assert [entry["stage"] for entry in unfreeze.history] == [0, 1, 2]
    assert loss < 0.75 * CHANCE
    assert accuracy > 0.55
    assert norm > 0.1
