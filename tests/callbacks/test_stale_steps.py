"""No compiled step is that of an older set of trainable weights.

Keras 3 counts the penalties of trainable weights only: the loss says which set a step
was compiled for.
"""

import numpy as np
import pytest

from keras_finetune import (
    DiscriminativeLR,
    GradualUnfreeze,
    TrainOnly,
    WeightNormLogger,
)
from keras_finetune._engine import keras

LAYERS = ["low", "middle", "head"]
ONE_BATCH = {"batch_size": 8, "verbose": 0}


def make_model(layer=keras.layers.Dense, penalty=1.0, traces=None):
    keras.utils.set_random_seed(1)
    regularizer = {"kernel_regularizer": keras.regularizers.L2(penalty)}
    body = [
        layer(4, name=name, **(regularizer if penalty else {})) for name in LAYERS[:2]
    ]
    for one in body:
        one.traces = traces
    head = keras.layers.Dense(1, name="head")
    return compiled(keras.Sequential([keras.Input((4,)), *body, head]))


def compiled(model):
    # A rate of 0: the losses differ by the penalties alone.
    model.compile(keras.optimizers.SGD(0.0), "mse")
    return model


def make_data():
    x = np.random.default_rng(0).normal(size=(8, 4)).astype("float32")
    return x, x[:, :1]


def gradual():
    return GradualUnfreeze(groups=LAYERS, every=1)


def by_hand(trainable):
    """The loss of a model that was frozen by hand before it was compiled."""
    model = make_model()
    for layer in model.layers:
        layer.trainable = layer.name in trainable
    compiled(model)
    x, y = make_data()
    loss = model.fit(x, y, **ONE_BATCH).history["loss"][0]
    return loss, model.evaluate(x, y, **ONE_BATCH)


class Evaluates(keras.callbacks.Callback):
    """Evaluates within `fit`, as a user's own callback may."""

    def __init__(self):
        super().__init__()
        self.losses = []

    def on_epoch_begin(self, epoch, logs=None):
        if epoch:
            self.losses.append(self.model.evaluate(*make_data(), **ONE_BATCH))


@pytest.mark.slow
@pytest.mark.parametrize("evaluated_before", [False, True])
def test_every_loss_of_a_stage_is_that_of_a_model_frozen_by_hand(evaluated_before):
    model, data = make_model(), make_data()
    if evaluated_before:
        model.evaluate(*data, **ONE_BATCH)
    evaluates = Evaluates()
    history = model.fit(
        *data,
        epochs=3,
        validation_data=data,
        callbacks=[gradual(), evaluates],
        **ONE_BATCH,
    ).history
    stages = [by_hand(LAYERS[2 - stage :]) for stage in range(3)]
    np.testing.assert_allclose(history["loss"], [a for a, _ in stages], rtol=1e-6)
    np.testing.assert_allclose(history["val_loss"], [b for _, b in stages], rtol=1e-6)
    # A callback after ours sees the stage that has begun.
    np.testing.assert_allclose(evaluates.losses, [b for _, b in stages[1:]], rtol=1e-6)
    after = model.evaluate(*data, **ONE_BATCH)
    np.testing.assert_allclose(after, stages[-1][1], rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    "ours",
    [
        lambda: TrainOnly("bias"),
        lambda: TrainOnly("low/"),
        lambda: DiscriminativeLR(multipliers=[0.0, 0.5, 1.0], groups=LAYERS),
        lambda: DiscriminativeLR(multipliers=[0.1, 0.5, 1.0], groups=LAYERS),
        lambda: WeightNormLogger(updates=True),
        gradual,
    ],
    ids=["biases", "one layer", "rate 0", "rates", "norms", "unfreeze"],
)
def test_after_fit_evaluate_is_what_it_is_after_compiling(ours):
    model, data = make_model(), make_data()
    model.evaluate(*data, **ONE_BATCH)
    model.predict(data[0], **ONE_BATCH)
    fit = model.fit(
        *data, epochs=2, validation_data=data, callbacks=[ours()], **ONE_BATCH
    )
    after = model.evaluate(*data, **ONE_BATCH)
    trained_on = model.fit(*data, **ONE_BATCH).history["loss"]
    # The two losses of one epoch count the same penalties.
    np.testing.assert_allclose(fit.history["loss"], fit.history["val_loss"], rtol=1e-6)
    compiled(model)
    expected = model.evaluate(*data, **ONE_BATCH)
    np.testing.assert_allclose(after, expected, rtol=1e-6)
    np.testing.assert_allclose(trained_on, [expected], rtol=1e-6)


@pytest.mark.slow
def test_after_a_failed_fit_evaluate_is_what_it_is_after_compiling():
    model, data = make_model(), make_data()

    class Fails(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            raise KeyboardInterrupt

    kept = None
    for ours in gradual(), TrainOnly("bias"):
        try:
            model.fit(
                *data, validation_data=data, callbacks=[ours, Fails()], **ONE_BATCH
            )
        except KeyboardInterrupt as error:
            kept = error
        after = model.evaluate(*data, **ONE_BATCH)
        compiled(model)
        expected = model.evaluate(*data, **ONE_BATCH)
        np.testing.assert_allclose(after, expected, rtol=1e-6)
    del kept


class Counted(keras.layers.Dense):
    """Notes each time that its call is traced for a test step."""

    def call(self, inputs, training=None):
        if not training and self.traces is not None:
            self.traces.append(self.name)
        return super().call(inputs)


class LooksAtItsFlag(Counted):
    """Is another function when it is frozen, as BatchNormalization is."""

    def call(self, inputs, training=None):
        outputs = super().call(inputs, training=training)
        return outputs if self.trainable else 2.0 * outputs


def traces_of_the_test_step(layer, penalty, callbacks):
    traces = []
    model, data = make_model(layer, penalty, traces), make_data()
    traces.clear()
    model.fit(*data, epochs=3, validation_data=data, callbacks=callbacks, **ONE_BATCH)
    within = traces.count("low")
    traces.clear()
    model.evaluate(*data, **ONE_BATCH)
    return within, traces.count("low")


@pytest.mark.slow
@pytest.mark.backend("tensorflow")
def test_the_test_step_of_a_model_without_penalties_is_traced_once():
    once = traces_of_the_test_step(Counted, 0.0, [])
    assert traces_of_the_test_step(Counted, 0.0, [gradual()]) == once
    assert traces_of_the_test_step(Counted, 0.0, [TrainOnly("bias")]) == once


@pytest.mark.slow
@pytest.mark.keras3
@pytest.mark.backend("tensorflow")
@pytest.mark.parametrize(("layer", "penalty"), [(Counted, 1.0), (LooksAtItsFlag, 0.0)])
def test_the_test_step_is_traced_again_where_it_reads_what_has_changed(layer, penalty):
    once, _ = traces_of_the_test_step(layer, penalty, [])
    within, after = traces_of_the_test_step(layer, penalty, [gradual()])
    assert (within, after) == (3 * once, 0)


@pytest.mark.backend("jax")
def test_on_jax_the_test_step_is_traced_again_whenever_the_split_changes():
    once, _ = traces_of_the_test_step(Counted, 0.0, [])
    within, _ = traces_of_the_test_step(Counted, 0.0, [gradual()])
    assert within == 3 * once


@pytest.mark.slow
def test_a_layer_that_looks_at_its_flag_is_evaluated_in_its_stage():
    model, data = make_model(LooksAtItsFlag, 0.0), make_data()
    history = model.fit(
        *data, epochs=3, validation_data=data, callbacks=[gradual()], **ONE_BATCH
    ).history
    for stage, loss in enumerate(history["val_loss"]):
        other = make_model(LooksAtItsFlag, 0.0)
        for layer in other.layers:
            layer.trainable = layer.name in LAYERS[2 - stage :]
        expected = compiled(other).evaluate(*data, **ONE_BATCH)
        np.testing.assert_allclose(loss, expected, rtol=1e-6)
