"""Adam counts the updates of a group that begins late as a new Adam would."""

import warnings

import numpy as np
import pytest
import reference

from keras_finetune import DiscriminativeLR, GradualUnfreeze, OneCycle
from keras_finetune._engine import KERAS_3, bias_correction, keras
from keras_finetune._engine.demands import Schedule

pytestmark = pytest.mark.slow

RNG = np.random.default_rng(0)
DATA = RNG.normal(size=(12, 4)).astype("float32"), RNG.normal(size=(12, 1))
STEPS = 3  # in an epoch
OPTIMIZERS = {
    "Adam": lambda: keras.optimizers.Adam(0.01),
    "AdamW": lambda: keras.optimizers.AdamW(0.01, weight_decay=0.5),
    "Adamax": lambda: keras.optimizers.Adamax(0.01),
    "amsgrad": lambda: keras.optimizers.Adam(0.01, beta_2=0.99, amsgrad=True),
}
if not KERAS_3:
    OPTIMIZERS["legacy"] = lambda: keras.optimizers.legacy.Adam(0.01)


def compiled(optimizer, **arguments):
    """A model whose gradients do not depend on its weights, so that groups are apart.

    The loss is linear in two branches, `low` and `head`, beside each other.
    """
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4,))
    branches = [keras.layers.Dense(1, name=name)(inputs) for name in ("low", "head")]
    model = keras.Model(inputs, keras.layers.Add()(branches))
    model.compile(optimizer, lambda true, predicted: true * predicted, **arguments)
    return model


def fit(model, epochs, callbacks=(), **arguments):
    arguments = {"batch_size": 4, "shuffle": False, "verbose": 0, **arguments}
    return model.fit(*DATA, epochs=epochs, callbacks=list(callbacks), **arguments)


def staged(start, bias="group"):
    return GradualUnfreeze(["low", "head"], every=[start], bias_correction=bias)


def weights(model, name):
    return np.concatenate([w.ravel() for w in model.get_layer(name).get_weights()])


def moved(model, name, optimizer):
    return weights(model, name) - weights(compiled(optimizer), name)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_late_group_trains_as_with_a_new_optimizer(name):
    make = OPTIMIZERS[name]
    ours, new, plain = compiled(make()), compiled(make()), compiled(make())
    fit(ours, 9, [staged(4)])
    fit(new, 5)
    fit(plain, 9)
    expected = moved(new, "low", make())
    assert np.allclose(moved(ours, "low", make()), expected, rtol=1e-5, atol=1e-7)
    # The head has counted all the time.
    assert np.array_equal(weights(ours, "head"), weights(plain, "head"))
    keras_own = compiled(make())
    fit(keras_own, 9, [staged(4, "optimizer")])
    assert not np.allclose(moved(keras_own, "low", make()), expected, rtol=0.1)


@pytest.mark.parametrize(
    "arguments",
    [{"run_eagerly": True}, {"steps_per_execution": 3}, {"jit_compile": True}],
)
def test_it_holds_however_the_step_is_compiled(arguments):
    on_torch = keras.backend.backend() == "torch"
    if on_torch and "steps_per_execution" in arguments:
        pytest.skip("Keras refuses several steps per execution on PyTorch")
    if on_torch and "jit_compile" in arguments and not reference.can_compile():
        pytest.skip("there is no C++ compiler")
    make = OPTIMIZERS["Adam"]
    ours, plain = compiled(make(), **arguments), compiled(make())
    fit(ours, 9, [staged(4)])
    fit(plain, 9, [staged(4)])
    assert np.allclose(weights(ours, "low"), weights(plain, "low"), rtol=1e-5)


def test_a_run_in_two_parts_is_the_same():
    make = OPTIMIZERS["Adam"]
    whole, parts, callback = compiled(make()), compiled(make()), staged(2)
    fit(whole, 6, [staged(2)])
    fit(parts, 4, [callback])
    fit(parts, 6, [callback], initial_epoch=4)
    assert np.array_equal(weights(parts, "low"), weights(whole, "low"))
    assert callback.history[1]["updates"] == 2 * STEPS


def test_groups_keep_their_counts_under_multipliers_and_a_schedule():
    make = OPTIMIZERS["Adam"]
    ours, new = compiled(make()), compiled(make())
    rates = {"groups": ["low", "head"], "multipliers": [0.5, 1.0]}
    cycle = OneCycle(momentum=None, per="stage")
    fit(ours, 8, [staged(4), DiscriminativeLR(**rates), cycle])
    fit(new, 4, [DiscriminativeLR(**rates), OneCycle(momentum=None)])
    assert np.allclose(
        moved(ours, "low", make()), moved(new, "low", make()), rtol=1e-5, atol=1e-7
    )


def test_a_momentum_that_moves_is_that_of_the_update():
    beta_1, beta_2 = np.array([0.95, 0.9, 0.85]), 0.99
    inner, start = keras.optimizers.Adam(beta_2=beta_2), 7
    schedule = Schedule([1.0], start=start, momenta=list(beta_1))
    factors = bias_correction.factors(inner, start, schedule)
    for i, first in enumerate([*beta_1, beta_1[-1]]):
        ours, theirs = (
            np.sqrt(1 - beta_2**t) / (1 - first**t) for t in (i + 1, start + i + 1)
        )
        assert factors[i] == pytest.approx(ours / theirs, rel=1e-12)
    assert factors[-1] == 1.0
    assert abs(factors[-2] - 1.0) < 1e-7


def test_an_optimizer_without_corrections_is_left_alone():
    models = []
    for bias in ("group", "optimizer"):
        models.append(compiled(keras.optimizers.SGD(0.01, momentum=0.9)))
        fit(models[-1], 4, [staged(2, bias)])
    assert reference.difference(*map(reference.weights, models)) == 0


def test_an_optimizer_that_cannot_is_named():
    with pytest.warns(UserWarning, match="Nadam goes on correcting"):
        fit(compiled(keras.optimizers.Nadam(0.01)), 3, [staged(1)])
    if hasattr(keras.optimizers, "MultiOptimizer"):
        one, other = keras.optimizers.Adam(0.01), keras.optimizers.Adam(0.01)
        several = keras.optimizers.MultiOptimizer(
            lambda variable: one if "low" in variable.path else other
        )
        with pytest.warns(UserWarning, match="MultiOptimizer goes on correcting"):
            fit(compiled(several), 3, [staged(1)])
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*goes on correcting")
        fit(compiled(keras.optimizers.Nadam(0.01)), 3, [staged(1, "optimizer")])
        fit(compiled(keras.optimizers.Adam(0.01)), 3, [staged(1)])


def test_a_wrong_word_is_refused():
    with pytest.raises(ValueError, match="bias_correction"):
        GradualUnfreeze(bias_correction="new")
