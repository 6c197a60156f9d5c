"""What the search measures: each batch's own loss at its rate, as NumPy computes it."""

import numpy as np
import pytest

from keras_finetune import (
    DiscriminativeLR,
    GradualUnfreeze,
    RateSearch,
    TrainOnly,
    find_learning_rate,
)
from keras_finetune._engine import backend, keras

LAYERS = ["low", "head"]
# Tracing takes most of the time where a step is a graph.
EAGER = {"run_eagerly": True} if backend() == "tensorflow" else {}


def make_data(rows=22):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(rows, 4)).astype("float32")
    return x, (x[:, :2] - x[:, 2:]).astype("float32")


def make_model(rate=0.1, **arguments):
    keras.utils.set_random_seed(3)
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(3, use_bias=False, name="low"),
            layers.Dense(2, use_bias=False, name="head"),
        ]
    )
    model.compile(keras.optimizers.SGD(rate), "mse", **(arguments or EAGER))
    return model


def by_hand(model, x, y, rates, multipliers, batch_size=8, sample_weight=None):
    """The losses of a linear network under SGD, batch by batch, in double precision."""
    low, head = (np.asarray(w, "f8") for w in model.get_weights())
    weight = np.ones(len(x)) if sample_weight is None else sample_weight
    losses = []
    starts = list(range(0, len(x), batch_size))
    for i, rate in enumerate(rates):
        rows = slice(starts[i % len(starts)], starts[i % len(starts)] + batch_size)
        a, b, w = x[rows].astype("f8"), y[rows].astype("f8"), weight[rows]
        hidden = a @ low
        error = hidden @ head - b
        losses.append(np.mean(np.mean(error**2, -1) * w))
        slope = 2 * error * w[:, None] / error.size
        to_head, to_low = hidden.T @ slope, a.T @ (slope @ head.T)
        head = head - rate * multipliers[1] * to_head
        low = low - rate * multipliers[0] * to_low
    return losses


CALLBACKS = {
    "none": (list, 0, [1.0, 1.0]),
    "rates": (lambda: [DiscriminativeLR(2.0, groups=LAYERS)], 0, [0.5, 1.0]),
    "stage 0": (lambda: [GradualUnfreeze(LAYERS)], 0, [0.0, 1.0]),
    "stage 1": (
        lambda: [
            GradualUnfreeze(
                LAYERS, monitor="loss", patience=1, learning_rate_factor=0.5
            )
        ],
        1,
        [1.0, 1.0],
    ),
    "both": (
        lambda: [GradualUnfreeze(LAYERS, every=3), DiscriminativeLR(4.0)],
        1,
        [0.25, 1.0],
    ),
    "selection": (lambda: [TrainOnly("low/kernel")], 0, [1.0, 0.0]),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CALLBACKS)
def test_losses_are_those_of_single_batches_at_rising_rates(name):
    make, stage, multipliers = CALLBACKS[name]
    arguments = {"run_eagerly": False} if name == "both" else {}
    model, (x, y) = make_model(**arguments), make_data()
    found = find_learning_rate(
        model, x, y, callbacks=make(), stage=stage, start=1e-3, end=1.0, steps=20,
        batch_size=8, shuffle=False,
    )  # fmt: skip
    rates = [1e-3 * 1000 ** (i / 20) for i in range(20)]
    expected = by_hand(model, x, y, rates, multipliers)
    np.testing.assert_allclose(found.rates, rates, rtol=1e-12)
    np.testing.assert_allclose(found.losses, expected, rtol=3e-5)
    first = [0.0, 1.0] if stage else multipliers  # the baseline is that of stage 0
    still = by_hand(model, x, y, rates[:1] * 20, first)
    np.testing.assert_allclose(found.baseline, still, rtol=3e-5)
    assert found.stage == stage


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments", [{"jit_compile": True}, {"run_eagerly": False}, {"weights": True}]
)
def test_losses_do_not_depend_on_how_the_step_runs(arguments):
    (x, y), weights = make_data(), None
    if arguments.pop("weights", False):
        weights = np.linspace(0, 2, len(x))
    if backend() == "torch":
        arguments.pop("jit_compile", None)
    model = make_model(**arguments)
    found = find_learning_rate(
        model, x, y, start=1e-3, end=1.0, steps=12, batch_size=8, shuffle=False,
        sample_weight=weights,
    )  # fmt: skip
    rates = [1e-3 * 1000 ** (i / 12) for i in range(12)]
    expected = by_hand(model, x, y, rates, [1.0, 1.0], sample_weight=weights)
    np.testing.assert_allclose(found.losses, expected, rtol=3e-5)


@pytest.mark.slow
@pytest.mark.backend("tensorflow", "jax")
def test_a_step_is_one_batch_whatever_steps_per_execution_says():
    x, y = make_data(24)
    found = [
        find_learning_rate(
            make_model(steps_per_execution=n), x, y, steps=9, batch_size=8
        ).losses
        for n in (1, 3)
    ]
    np.testing.assert_array_equal(*found)


@pytest.mark.slow
def test_each_stage_has_a_search_of_its_own():
    x, y = make_data()
    arguments = {"callbacks": [GradualUnfreeze(LAYERS)], "steps": 10, "batch_size": 8}
    model = make_model()
    each = find_learning_rate(model, x, y, stage="each", **arguments)
    assert [one.stage for one in each] == [0, 1]
    assert all(isinstance(one, RateSearch) for one in each)
    alone = find_learning_rate(model, x, y, stage=1, **arguments)
    np.testing.assert_array_equal(alone.losses, each[1].losses)


@pytest.mark.slow
def test_it_stops_when_the_loss_explodes():
    x, y = make_data()
    found = find_learning_rate(make_model(), x, y, end=1e4, steps=60, batch_size=8)
    assert len(found.losses) < 60
    assert not found.smoothed[-1] <= 4 * np.nanmin(found.smoothed)
    assert 1e-3 < found.suggestion < 3


@pytest.mark.slow
def test_the_rate_of_the_optimizer_does_not_matter():
    schedules = keras.optimizers.schedules
    x, y = make_data()
    found = [
        find_learning_rate(make_model(rate), x, y, steps=6, batch_size=8).losses
        for rate in (0.1, 0.0, schedules.ExponentialDecay(0.3, 1, 0.5))
    ]
    for one in found:
        np.testing.assert_array_equal(one, found[0])


# --- arguments ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ({"start": 0.0}, ValueError, "start"),
        ({"start": 1.0, "end": 0.5}, ValueError, "higher than `start`"),
        ({"end": "high"}, TypeError, "end"),
        ({"steps": 1}, ValueError, "steps"),
        ({"batch_size": 0}, ValueError, "batch_size"),
        ({"shuffle": 1}, TypeError, "shuffle"),
        ({"stage": "all"}, ValueError, "stage"),
        ({"stage": 1}, ValueError, "at most 0"),
        ({"stage": 2, "callbacks": [GradualUnfreeze(LAYERS)]}, ValueError, "at most 1"),
        ({"callbacks": "DiscriminativeLR"}, TypeError, "callbacks"),
        ({"callbacks": [DiscriminativeLR(bounds=(0.1, 1))]}, ValueError, "bounds"),
    ],
)
def test_bad_arguments_are_refused(arguments, error, said):
    with pytest.raises(error, match=said):
        find_learning_rate(make_model(), *make_data(), **arguments)


def test_a_model_must_be_compiled_and_have_weights():
    x, y = make_data()
    with pytest.raises(TypeError, match="model"):
        find_learning_rate("model", x, y)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    with pytest.raises(ValueError, match="compiled"):
        find_learning_rate(model, x, y)
    model = keras.Sequential([keras.layers.Dense(2)])
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match="weights"):
        find_learning_rate(model, x, y)


@pytest.mark.slow
def test_callbacks_that_do_not_decide_what_trains_are_left_out():
    class Shouts(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            raise AssertionError

    found = find_learning_rate(
        make_model(), *make_data(), callbacks=[Shouts()], steps=3, batch_size=8
    )
    assert len(found.losses) == 3
