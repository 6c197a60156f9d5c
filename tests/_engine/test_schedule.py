"""A schedule inside the step: the rate and the momentum of each single update.

The input of step t is a one-hot row and the gradient of the loss is 1, so that entry t
of a kernel ends at minus the rate of that step: all rates of a run, to the last bit.
"""

import importlib.util

import numpy as np
import pytest
import reference

from keras_finetune import DiscriminativeLR
from keras_finetune._engine import backend, keras, session
from keras_finetune._engine.active import lane
from keras_finetune._engine.demands import Schedule

N = 12
# No float is one of these: what is rounded, and how often, shows.
FACTORS = np.random.default_rng(0).uniform(0.1, 1.0, N).tolist()
MULTIPLIERS = {"low": 0.3, "head": 1.0}


class Follows(keras.callbacks.Callback):
    """Lets updates follow a schedule from a batch of the first epoch on."""

    def __init__(self, schedule):
        super().__init__()
        self.schedule = schedule

    def on_epoch_begin(self, epoch, logs=None):
        session.join(self.model).follow(self, self.schedule)

    def on_epoch_end(self, epoch, logs=None):
        self.last = session.join(self.model).factor()

    def on_train_end(self, logs=None):
        session.join(self.model).leave(self)


def make_model(optimizer, **kwargs):
    inputs = keras.Input((N,))
    kernels = [
        keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros", name=name)
        for name in MULTIPLIERS
    ]
    outputs = keras.layers.Add()([kernel(inputs) for kernel in kernels])
    model = keras.Model(inputs, outputs)
    model.compile(optimizer, lambda y, out: out + 0.0 * y, **kwargs)
    return model


def fit(model, callbacks, epochs=1, **kwargs):
    x = np.tile(np.eye(N, dtype="float32"), (epochs, 1)).reshape(epochs * N, N)
    settings = {"batch_size": 1, "shuffle": False, "verbose": 0, **kwargs}
    model.fit(x, np.zeros((len(x), 1), "float32"), callbacks=callbacks, **settings)
    return {
        name: -reference.to_numpy(model.get_layer(name).kernel)[:, 0]
        for name in MULTIPLIERS
    }


def float32(values):
    return np.asarray(values, "float32")


HOW = {
    "compiled": {},
    "eager": {"run_eagerly": True},
    "jit": {"jit_compile": True},
    "several steps at once": {"steps_per_execution": 4},
}
if backend() == "torch":
    HOW = {"eager": {}}


@pytest.mark.slow
@pytest.mark.parametrize("how", HOW)
def test_each_step_has_the_rate_of_its_update(how):
    model = make_model(keras.optimizers.SGD(0.7), **HOW[how])
    follows = Follows(Schedule(FACTORS))
    multipliers = list(MULTIPLIERS.values())
    groups = DiscriminativeLR(multipliers=multipliers, groups=list(MULTIPLIERS))
    callbacks = [groups, follows]
    rates = fit(model, callbacks)
    base = np.float32(0.7) * float32(FACTORS)
    # Compiled, a product of three may be rounded in another order.
    exact = 0.0 if how == "eager" else 1.2e-7
    np.testing.assert_allclose(rates["head"], base, rtol=exact)
    np.testing.assert_allclose(rates["low"], base * np.float32(0.3), rtol=exact)
    assert follows.last == FACTORS[-1]
    assert model.history.history["learning_rate/head"] == [
        pytest.approx(0.7 * FACTORS[-1], rel=1e-7)
    ]


@pytest.mark.slow
def test_it_counts_from_its_start_and_stays_at_its_last_factor():
    model = make_model(keras.optimizers.SGD(1.0))
    fit(model, [])
    start = lane.updates(model.optimizer)
    before = fit(model, [], batch_size=N)["head"]
    rates = fit(model, [Follows(Schedule(FACTORS[:5], start + 1))])["head"] - before
    expected = [*FACTORS[:5], *[FACTORS[4]] * (N - 5)]
    np.testing.assert_allclose(rates, expected, rtol=1e-6)
    assert lane.updates(model.optimizer) == start + 1 + N


@pytest.mark.slow
def test_factors_of_one_change_no_bit():
    def weights(callbacks):
        keras.utils.set_random_seed(1)
        model = reference.make_model()
        optimizer = keras.optimizers.Adam(0.01)
        reference.compile_model(model, optimizer, run_eagerly=True)
        reference.fit(model, reference.make_data(12), callbacks=callbacks)
        return reference.weights(model)

    assert reference.difference(weights([Follows(Schedule([1.0]))]), weights([])) == 0


@pytest.mark.keras3
def test_accumulation_counts_updates():
    make = keras.optimizers.SGD
    model = make_model(make(1.0, gradient_accumulation_steps=3))
    rates = fit(model, [Follows(Schedule(FACTORS))])["head"]
    expected = np.repeat(float32(FACTORS[: N // 3]), 3) * (1 / 3)
    np.testing.assert_allclose(rates, expected, rtol=1e-6)


# --- against a loop that assigns rate and momentum by hand ----------------------------

NAMES = ("momentum", "nesterov", "adam", "adamw", "rmsprop", "adamax", "lamb")
NAMES += ("sgd", "adagrad", "loss_scale")
NAMES += ("legacy_sgd", "legacy_adam", "legacy_adamax", "legacy_rmsprop")
EVERY = {k: v for k, v in reference.optimizers().items() if k in NAMES}
if importlib.util.find_spec("tensorflow_addons"):
    EVERY |= {
        name: make
        for name, make in reference.addons_optimizers().items()
        if name in ("tfa_adamw", "tfa_lamb")
    }
# One of each way in which an optimizer reads its momentum.
COMPILED = {"momentum", "rmsprop", "adam", "loss_scale", "legacy_adam", "tfa_lamb"}
DATA = reference.make_data(18)
RISING = [0.5, 0.25, 1.0, 0.75, 0.125, 0.5]
MOMENTA = float32([0.95, 0.9, 0.85, 0.875, 0.9, 0.95]).tolist()


def assign(optimizer, base, t):
    """Give an optimizer the rate and the momentum of step `t`."""
    rate = np.float32(base) * np.float32(RISING[t])
    optimizer.learning_rate = rate
    name = lane.momentum_name(optimizer)
    if name is not None:
        setattr(optimizer, name, MOMENTA[t])
    if hasattr(optimizer, "_decay_weights_op"):
        optimizer.weight_decay = np.float32(0.01) * np.float32(RISING[t])


def by_hand(optimizer):
    model = reference.make_model()
    reference.compile_model(model, optimizer)
    x, y = DATA
    inner = lane.inner_optimizers(optimizer)[0]
    base, t = lane.learning_rate(inner), 0
    variables = model.trainable_variables
    for _ in range(2):
        for start in range(0, len(x), 6):
            grads = reference.gradients(model, x[start:][:6], y[start:][:6])
            assign(inner, base, t)
            reference.apply(inner, grads, variables)
            t += 1
    return model, inner


@pytest.mark.slow
@pytest.mark.parametrize("name", EVERY)
def test_rate_and_momentum_are_those_assigned_by_hand(name):
    expected, optimizer = by_hand(EVERY[name]())
    slots = reference.state_variables(optimizer, expected.trainable_variables)
    slots = {k: reference.to_numpy(v) for k, v in slots.items() if " of " in k}
    for eager in (True, False) if name in COMPILED else (True,):
        model = reference.make_model()
        reference.compile_model(model, EVERY[name](), run_eagerly=eager)
        schedule = Schedule(RISING, momenta=MOMENTA)
        before = lane.inner_optimizers(model.optimizer)[0]
        momentum = lane.momentum_name(before)
        held = momentum and lane.hyperparameter(before, momentum)
        reference.fit(model, DATA, epochs=2, callbacks=[Follows(schedule)])
        tolerance = 0.0 if eager and name != "loss_scale" else 1e-6
        one, other = reference.weights(model), reference.weights(expected)
        assert reference.difference(one, other) <= tolerance
        inner = lane.inner_optimizers(model.optimizer)[0]
        state = reference.state_variables(inner, model.trainable_variables)
        state = {k: reference.to_numpy(v) for k, v in state.items() if " of " in k}
        assert reference.difference(state, slots) <= tolerance
        if momentum:
            assert lane.hyperparameter(inner, momentum) == pytest.approx(held)


def test_a_momentum_that_would_not_be_exact_is_refused():
    nadam = keras.optimizers.Nadam()
    with pytest.raises(ValueError, match="momentum=None"):
        lane.momentum_name(nadam)
