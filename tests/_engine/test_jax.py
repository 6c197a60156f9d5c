"""Pitfalls of Keras on JAX: each fault is there without its cure, and not with it."""

import numpy as np
import pytest
import reference

from keras_finetune import (
    DiscriminativeLR,
    GradualUnfreeze,
    TrainOnly,
    WeightNormLogger,
)
from keras_finetune._engine import backend, keras, session

if backend() != "jax":
    pytest.skip("for the backend jax", allow_module_level=True)

import jax

from keras_finetune._engine.active import lane
from keras_finetune._engine.norms._jax import JaxPass

DATA = reference.make_data(12)
GROUPS = ["low", "middle", "head"]

# Without a cure, what closes the session may fail as well.
pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)
with_and_without = pytest.mark.parametrize("cured", [True, False])


def compiled(optimizer=None):
    """A model in which `low` and `middle` have the same shapes."""
    keras.utils.set_random_seed(1)
    body = [keras.layers.Dense(4, name=name) for name in GROUPS[:2]]
    model = reference.make_model(body=body)
    return reference.compile_model(model, optimizer or keras.optimizers.SGD(0.1))


class Hold(keras.callbacks.Callback):
    """Keeps the step of an epoch, and so its traces, alive."""

    def __init__(self, kind):
        super().__init__()
        self.kind, self.held = kind, []

    def on_epoch_end(self, epoch, logs=None):
        self.held.append(getattr(self.model, f"{self.kind}_function"))


def as_keras_does(model, kind):
    getattr(type(model), f"make_{kind}_function")(model, force=True)


# --- traces are found by the function that is jitted ----------------------------------


def end_equally(model, twin):
    """Fits the twin once, and says whether it ends with the weights of the model."""
    reference.fit(twin, DATA)
    one, other = reference.weights(model), reference.weights(twin)
    return reference.difference(one, other) == 0


@with_and_without
def test_a_step_does_not_reuse_the_trace_of_another_frozen_set(cured, monkeypatch):
    if not cured:
        monkeypatch.setattr(lane, "_make_again", as_keras_does)
    model, twin, hold = compiled(), compiled(), Hold("train")
    reference.fit(model, DATA, callbacks=[TrainOnly("low/"), hold])
    twin.set_weights(model.get_weights())
    reference.fit(model, DATA, callbacks=[TrainOnly("middle/"), hold])
    for layer in twin.layers:
        layer.trainable = layer.name == "middle"
    reference.compile_model(twin, keras.optimizers.SGD(0.1))
    assert end_equally(model, twin) == cured


@with_and_without
def test_a_step_does_not_reuse_the_trace_of_other_rates(cured, monkeypatch):
    if not cured:
        monkeypatch.setattr(lane, "_make_again", as_keras_does)
    model, twin, hold = compiled(), compiled(), Hold("train")
    start = twin.get_weights()
    for factor in (0.5, 0.25):
        model.set_weights(start)
        rates = DiscriminativeLR(multipliers=[factor] * 3, groups=GROUPS)
        reference.fit(model, DATA, callbacks=[rates, hold])
    twin.optimizer.learning_rate = 0.1 * 0.25
    assert end_equally(model, twin) == cured


@with_and_without
def test_validation_does_not_reuse_the_trace_of_another_frozen_set(cured, monkeypatch):
    if not cured:
        monkeypatch.setattr(lane, "_make_again", as_keras_does)
    model, twin, hold = compiled(), compiled(), Hold("test")
    for select in ("low/", "middle/"):
        history = reference.fit(
            model,
            DATA,
            callbacks=[TrainOnly(select), hold],
            validation_data=DATA,
        )
    twin.set_weights(model.get_weights())
    expected = twin.evaluate(*DATA, batch_size=6, verbose=0)
    assert (history.history["val_loss"] == [expected]) == cured


def lowered(model):
    """The program of one training step, as JAX hands it to its compiler."""
    kinds = ("trainable", "non_trainable", "optimizer", "metrics")
    state = model._get_jax_state(**{f"{kind}_variables": True for kind in kinds})
    step = jax.jit(model.train_step, donate_argnums=0)
    return step.lower(state, tuple(part[:6] for part in DATA)).as_text()


def test_the_program_of_a_stage_is_that_of_a_model_frozen_by_hand():
    found = []
    look = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: found.append(lowered(model))
    )
    model = compiled()
    callbacks = [GradualUnfreeze(groups=GROUPS, every=1), look]
    reference.fit(model, DATA, epochs=3, callbacks=callbacks)
    for stage, program in enumerate(found):
        other = compiled()
        for layer in other.layers:
            layer.trainable = layer.name in GROUPS[2 - stage :]
        other.optimizer.build(other.trainable_variables)
        assert program == lowered(other)
    products = [program.count("dot_general") for program in found]
    assert products[0] < products[1] < products[2]


# --- each step takes its arguments' buffers -------------------------------------------


@with_and_without
def test_an_average_that_starts_at_a_weight_has_a_buffer_of_its_own(cured, monkeypatch):
    if not cured:
        monkeypatch.setattr(keras.ops, "copy", lambda x: x)
    model = compiled(keras.optimizers.SGD(0.1, use_ema=True))
    callbacks = [GradualUnfreeze(groups=GROUPS, every=1)]
    if cured:
        reference.fit(model, DATA, epochs=2, callbacks=callbacks)
        return
    with pytest.raises(Exception, match="donate the same buffer twice"):
        reference.fit(model, DATA, epochs=2, callbacks=callbacks)


@with_and_without
def test_copies_of_weights_outlive_the_steps(cured, monkeypatch):
    if not cured:
        monkeypatch.setattr(JaxPass, "copy", JaxPass.value)
    callbacks = [WeightNormLogger(distance=True)]
    if cured:
        reference.fit(compiled(), DATA, callbacks=callbacks)
        return
    with pytest.raises(RuntimeError, match="deleted"):
        reference.fit(compiled(), DATA, callbacks=callbacks)


def test_steps_take_the_buffers_of_frozen_weights_too():
    buffers = []
    keep = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: buffers.extend(
            v.value for v in model.weights
        )
    )
    model = compiled()
    reference.fit(model, DATA, callbacks=[TrainOnly("low/"), keep])
    assert all(buffer.is_deleted() for buffer in buffers)
    assert all(isinstance(v.value, jax.Array) for v in model.weights)


# --- weights live inside `fit` --------------------------------------------------------


@with_and_without
def test_a_change_in_mid_epoch_starts_from_the_weights_of_the_moment(
    cured, monkeypatch
):
    """No callback of ours changes what trains in mid-epoch; the engine can."""
    if not cured:
        monkeypatch.setattr(lane, "pull_state", lambda model: None)

    class Change(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            self.running = session.join(self.model)
            self.running.demand(self, frozen=self.model.get_layer("low").weights)

        def on_epoch_begin(self, epoch, logs=None):
            self.running.begin()

        def on_train_batch_end(self, batch, logs=None):
            if batch == 1:
                self.running.demand(self, frozen=[])
                self.running.apply()

        def on_train_end(self, logs=None):
            self.running.leave(self)

    data = reference.make_data(24)
    model, twin = (compiled(keras.optimizers.Adam(0.01)) for _ in range(2))
    if not cured:
        with pytest.raises((TypeError, ValueError)):  # there are no values to take
            reference.fit(model, data, callbacks=[Change()])
        return
    reference.fit(model, data, callbacks=[Change()])
    first, second = (tuple(part[i:][:12] for part in data) for i in (0, 12))
    reference.fit(twin, first, callbacks=[TrainOnly("middle/|head/")])
    reference.fit(twin, second)
    one, other = reference.weights(model), reference.weights(twin)
    assert reference.difference(one, other) == 0


def test_a_new_step_in_mid_epoch_goes_on_from_the_weights_of_the_moment():
    def fitted(callbacks):
        model = compiled()
        rates = DiscriminativeLR(multipliers=[0.5] * 3, groups=GROUPS)
        reference.fit(model, DATA, callbacks=[rates, *callbacks])
        return reference.weights(model)

    renew = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: renew.model.make_train_function(
            force=True
        )
    )
    assert reference.difference(fitted([renew]), fitted([])) == 0


@pytest.mark.parametrize("validation", [None, DATA])
@with_and_without
def test_a_stage_whose_first_step_fails_loses_no_weights(
    cured, validation, monkeypatch
):
    """As it may when Ctrl-C is pressed while the step of a stage is compiled."""
    if not cured:
        monkeypatch.setattr(lane, "hold_state", lambda model: None)

    def batches():
        for start in (0, 6):
            yield tuple(part[start:][:6] for part in DATA)
        raise KeyboardInterrupt

    model, seen = compiled(), []
    look = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: seen.append(reference.weights(model))
    )
    # Keras's own way out of `fit` fails over the old state, or finds none.
    with pytest.raises(KeyboardInterrupt if cured or validation else ValueError):
        model.fit(
            batches(),
            steps_per_epoch=2,
            epochs=2,
            callbacks=[GradualUnfreeze(groups=GROUPS, every=1), look],
            validation_data=validation,
            verbose=0,
        )
    assert all(v._value is not None for v in model.weights) == cured
    if cured:
        assert reference.difference(reference.weights(model), seen[-1]) == 0


def test_norms_in_mid_epoch_are_those_of_the_moment():
    """The values of variables are away between two batches, unless they are pulled."""
    logger = WeightNormLogger(frequency=1)
    model = compiled()
    seen = []

    class Look(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append([v._value is None for v in model.trainable_variables])

    # `Look` comes first and sees what Keras leaves.
    reference.fit(model, DATA, callbacks=[Look(), logger])
    assert all(map(all, seen))
    norms = [row["weight_norm"] for row in logger.history]
    squares = [np.sum(np.square(v)) for v in model.get_weights()]
    assert norms[-1] == pytest.approx(np.sqrt(np.sum(squares)), rel=1e-6)
    assert norms[0] != norms[-1]
