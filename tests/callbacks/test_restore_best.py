"""Whoever keeps the weights of an earlier stage can put them back.

`get_weights` lists trainable weights first: a list from one stage must not be read in
the order of another.
"""

import numpy as np
import pytest

from keras_finetune import DiscriminativeLR, GradualUnfreeze, TrainOnly
from keras_finetune._engine import KERAS_3, keras

layers = keras.layers
FIT = {"epochs": 4, "batch_size": 8, "verbose": 0}


class Block(layers.Layer):
    """A layer made of layers: their weights are in one list."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.first = layers.BatchNormalization()
        self.dense = layers.Dense(4)
        self.last = layers.BatchNormalization()

    def build(self, input_shape):
        for inner in (self.first, self.dense, self.last):
            inner.build(input_shape)
        super().build(input_shape)

    def call(self, inputs, training=None):
        hidden = self.dense(self.first(inputs, training=training))
        return self.last(hidden, training=training)


def inner_model(depth=0):
    inner = [layers.BatchNormalization(), layers.Dense(4), layers.BatchNormalization()]
    if depth:
        inner.insert(1, inner_model(depth - 1))
    return keras.Sequential([keras.Input((4,)), *inner])


def over_time():
    return layers.TimeDistributed(inner_model(), name="body")


BODIES = {
    "composite layer": lambda: Block(name="body"),
    "nested model": lambda: keras.Sequential(
        [keras.Input((4,)), inner_model(1)], name="body"
    ),
    "time distributed": over_time,
    "composite layer in a model": lambda: keras.Sequential(
        [keras.Input((4,)), Block(), layers.Dense(4)], name="body"
    ),
}
OURS = {
    "unfreeze": lambda: GradualUnfreeze(groups=["body", "middle", "top"], every=1),
    "unfreeze in one go": lambda: GradualUnfreeze(
        groups=["body", ["middle", "top"]], every=2, batch_norm="frozen"
    ),
    "normalisation trains": lambda: GradualUnfreeze(
        groups=["body", "middle", "top"], every=1, batch_norm="trainable"
    ),
    "biases": lambda: TrainOnly("bias|beta"),
    "rate 0": lambda: DiscriminativeLR(
        multipliers=[0.0, 0.0, 1.0], groups=["body", "middle", "top"]
    ),
}
CASES = [
    *((body, "unfreeze") for body in BODIES),
    *(("composite layer", ours) for ours in OURS if ours != "unfreeze"),
]


def make_model(body):
    keras.utils.set_random_seed(1)
    shape = (2, 4) if body == "time distributed" else (4,)
    inputs = keras.Input(shape)
    hidden = BODIES[body]()(inputs)
    if len(shape) == 2:
        hidden = layers.Flatten()(hidden)
    hidden = layers.Dense(4, name="middle")(hidden)
    model = keras.Model(inputs, layers.Dense(1, name="top")(hidden))
    model.compile(keras.optimizers.SGD(0.1), "mse", run_eagerly=eager())
    x = np.random.default_rng(0).normal(size=(16, *shape)).astype("float32")
    return model, (x, x.reshape(16, -1)[:, :1] + 3)


def eager():
    # Without tracing; PyTorch has none, and JAX is slow without.
    return keras.backend.backend() == "tensorflow"


def by_variable(model):
    """Copies of all weights, by the variable: in no order."""
    to_numpy = keras.ops.convert_to_numpy if KERAS_3 else keras.backend.get_value
    return {id(v): np.array(to_numpy(v)) for v in model.weights}


class BestIs(keras.callbacks.Callback):
    """Logs a quantity that is lowest in one epoch, whose weights are noted."""

    def __init__(self, epoch):
        super().__init__()
        self.best = epoch

    def on_epoch_end(self, epoch, logs=None):
        logs["quantity"] = float(abs(epoch - self.best))
        if epoch == self.best:
            self.weights = by_variable(self.model)


def assert_equal(model, expected):
    came = by_variable(model)
    assert came.keys() == expected.keys()
    for key in expected:
        np.testing.assert_array_equal(came[key], expected[key])


@pytest.mark.slow
@pytest.mark.parametrize(("body", "ours"), CASES)
@pytest.mark.parametrize("patience", [1, 9], ids=["stops", "runs to its end"])
def test_early_stopping_restores_the_weights_of_the_best_epoch(body, ours, patience):
    model, data = make_model(body)
    best = BestIs(0)
    stopping = keras.callbacks.EarlyStopping(
        "quantity", mode="min", patience=patience, restore_best_weights=True
    )
    if not KERAS_3 and patience == 9:
        # Keras 2 restores only where it stops before the last epoch.
        stopping.patience = 3
    model.fit(*data, callbacks=[OURS[ours](), best, stopping], **FIT)
    assert_equal(model, best.weights)


@pytest.mark.slow
@pytest.mark.parametrize(("body", "ours"), CASES)
def test_a_checkpoint_of_the_best_epoch_loads_after_fit(body, ours, tmp_path):
    model, data = make_model(body)
    path, best = str(tmp_path / "best.weights.h5"), BestIs(1)
    saves = keras.callbacks.ModelCheckpoint(
        path, "quantity", mode="min", save_best_only=True, save_weights_only=True
    )
    model.fit(*data, callbacks=[OURS[ours](), best, saves], **FIT)
    model.load_weights(path)
    assert_equal(model, best.weights)


class KeepsWeights(keras.callbacks.Callback):
    """Keeps lists of weights by one means, and puts one back two stages later."""

    def __init__(self, read, write):
        super().__init__()
        self.read, self.write = read, write

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 0:
            self.kept, self.noted = self.read(self.model), by_variable(self.model)

    def on_epoch_end(self, epoch, logs=None):
        if epoch == 2:
            self.write(self.model, self.kept)
            assert_equal(self.model, self.noted)


def layer_by_layer(model, kept):
    for layer, values in zip(model.layers, kept, strict=True):
        layer.set_weights(values)


MEANS = {
    "of the model": (
        lambda model: model.get_weights(),
        lambda model, kept: model.set_weights(kept),
    ),
    "of its layers": (
        lambda model: [layer.get_weights() for layer in model.layers],
        layer_by_layer,
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize(("body", "ours"), CASES)
@pytest.mark.parametrize("means", MEANS)
@pytest.mark.parametrize("side", ["before", "after"])
def test_a_users_callback_puts_back_the_weights_of_an_earlier_stage(
    body, ours, means, side
):
    model, data = make_model(body)
    callbacks = [OURS[ours](), KeepsWeights(*MEANS[means])]
    # Before ours, at the start of the first epoch, no stage has begun.
    model.fit(*data, callbacks=callbacks[:: 1 if side == "after" else -1], **FIT)


@pytest.mark.slow
@pytest.mark.parametrize("body", BODIES)
def test_weights_from_before_fit_can_be_set_after_it(body):
    # After a fit that ends with other flags Keras 2 lists the weights of composite
    # layers in another order, as it does when they are set by hand.
    model, data = make_model(body)
    kept, noted = model.get_weights(), by_variable(model)
    unfreeze = GradualUnfreeze(["body", "middle", "top"], every=1, batch_norm="follow")
    model.fit(*data, callbacks=[unfreeze], **{**FIT, "epochs": 3})
    model.set_weights(kept)
    assert_equal(model, noted)
