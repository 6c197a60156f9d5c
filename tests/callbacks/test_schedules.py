"""Schedules of the learning rate: each step's rate, what they go with, what is refused.

The input of step t is a one-hot row and the gradient of the loss is 1, so that under
plain SGD entry t of a kernel ends at minus the rate of that step.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import reference

from keras_finetune import (
    DiscriminativeLR,
    FlatCosine,
    GradualUnfreeze,
    OneCycle,
    SlantedTriangular,
    Warmup,
)
from keras_finetune._engine import KERAS_3, keras
from keras_finetune.plotting import plot_history

FIXTURE = Path(__file__).parents[1] / "fixtures" / "fastai_schedules.npz"
GROUPS = ["first", "second", "third", "fourth"]
PEAK = 1e-2


def recorded():
    """The cases that fastai was recorded in."""
    with np.load(FIXTURE) as arrays:
        names = sorted({key.split("/")[0] for key in arrays if "/" in key})
        keys = ("arguments", "epochs", "batches", "rates", "momenta")
        return {name: {k: arrays[f"{name}/{k}"] for k in keys} for name in names}


CASES = recorded()


def schedule_of(name, **more):
    arguments = json.loads(str(CASES[name]["arguments"]))
    if "moms" in arguments:
        arguments["momentum"] = tuple(arguments.pop("moms"))
    kind = OneCycle if name.startswith("one_cycle") else FlatCosine
    return kind(**arguments, **more)


@pytest.mark.parametrize("name", CASES)
def test_factors_and_momenta_are_those_of_fastai(name):
    case, schedule = CASES[name], schedule_of(name)
    lengths = [int(epochs * case["batches"]) for epochs in case["epochs"]]
    factors = [factor for n in lengths for factor in schedule.factors(n)]
    # fastai rounds positions to single precision.
    np.testing.assert_allclose(factors, case["rates"][:, -1] / PEAK, atol=1e-7)
    momenta = [momentum for n in lengths for momentum in schedule.momenta(n)]
    if momenta:
        np.testing.assert_allclose(momenta, case["momenta"], atol=1e-7)


def one_hot(steps):
    """An endless stream of batches: one-hot rows, and targets of no meaning."""
    for row in np.eye(steps, dtype="float32"):
        yield row[None], np.zeros((1, 1), "float32")
    while True:
        yield np.zeros((1, steps), "float32"), np.zeros((1, 1), "float32")


def make_model(steps, optimizer=None, **kwargs):
    inputs = keras.Input((steps,))
    kernels = [
        keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros", name=name)
        for name in GROUPS
    ]
    outputs = keras.layers.Add()([kernel(inputs) for kernel in kernels])
    model = keras.Model(inputs, outputs)
    optimizer = optimizer or keras.optimizers.SGD(PEAK)
    model.compile(optimizer, lambda y, out: out + 0.0 * y, **kwargs)
    return model


def rates(model, steps, epochs, callbacks, *, more=0, **kwargs):
    """The rate of each group in each step of a `fit`."""
    before = {name: kernel(model, name) for name in GROUPS}
    settings = {"epochs": epochs, "verbose": 0, **kwargs}
    model.fit(
        one_hot(steps),
        steps_per_epoch=steps // epochs,
        callbacks=callbacks,
        **settings,
    )
    return {name: before[name] - kernel(model, name) for name in GROUPS}


def kernel(model, name):
    return reference.to_numpy(model.get_layer(name).kernel)[:, 0]


@pytest.mark.slow
def test_three_stages_of_four_groups_have_the_rates_of_fastai():
    case = CASES["one_cycle_in_stages"]
    epochs, batches = case["epochs"], int(case["batches"])
    starts = np.cumsum(epochs)
    steps = int(starts[-1]) * batches
    model = make_model(steps)
    callbacks = [
        OneCycle(per="stage"),
        GradualUnfreeze(
            GROUPS, every=starts[:-1].tolist(), initial_groups=2, batch_norm="follow"
        ),
        DiscriminativeLR(bounds=(PEAK / 100, PEAK)),
    ]
    found = rates(model, steps, int(starts[-1]), callbacks)
    expected = dict(zip(GROUPS, case["rates"].T))
    trained = {"fourth": 0, "third": 0, "second": 1, "first": 2}
    for name, stage in trained.items():
        first = int(starts[stage] - epochs[stage]) * batches
        assert not found[name][:first].any()
        # Half a unit each in base, factor, multiplier, and in their products.
        np.testing.assert_allclose(
            found[name][first:], expected[name][first:], rtol=3e-7, atol=1e-7 * PEAK
        )
    ends = [int(end) * batches - 1 for end in starts]
    logged = model.history.history["learning_rate"]
    for end, stage in zip(ends, np.cumsum(epochs)):
        np.testing.assert_allclose(logged[stage - 1], found["fourth"][end], rtol=2e-7)


def lines_of(axes):
    """The drawn series by label, without the marks of stages."""
    named = ((line.get_label(), line) for line in axes.get_lines())
    return {name: line for name, line in named if not name.startswith("_")}


@pytest.mark.slow
def test_stages_can_have_shapes_of_their_own():
    model = make_model(10, keras.optimizers.SGD(1.0))
    schedule = OneCycle([0.99, 0.3], div=[25.0, 5.0], per="stage")
    unfreeze = GradualUnfreeze([GROUPS[:3], GROUPS[3:]], every=1, batch_norm="follow")
    rates_by_group = DiscriminativeLR(multipliers=[0.1, 1.0])
    found = rates(model, 10, 2, [schedule, unfreeze, rates_by_group])
    first, second = OneCycle(0.99, div=25.0), OneCycle(0.3, div=5.0)
    expected = first.factors(5) + second.factors(5)
    np.testing.assert_allclose(found["fourth"], expected, rtol=1e-6, atol=2e-7)
    assert schedule.momenta(5, 1) == schedule.momenta(5, 7) == second.momenta(5)

    figure = plot_history(model.history, [schedule])
    (panel,) = (a for a in figure.axes if a.get_ylabel() == "learning rate")
    drawn = {name: line.get_ydata()[1:] for name, line in lines_of(panel).items()}
    np.testing.assert_allclose(drawn["base"], expected)
    (below,) = (drawn[name] for name in drawn if name not in ("base", "fourth"))
    assert np.isnan(below[:5]).all()
    np.testing.assert_allclose(below[5:], np.multiply(expected[5:], 0.1))


def several():
    """An optimizer for the fourth group, and one for the others."""
    fourth, others = keras.optimizers.SGD(1.0), keras.optimizers.SGD(1.0)
    return keras.optimizers.MultiOptimizer(
        lambda v: fourth if "fourth" in v.path else others
    )


# A `MultiOptimizer` counts for all: an optimizer whose groups are frozen stands still.
COUNTING = {"one": lambda: keras.optimizers.SGD(1.0)}
if hasattr(keras.optimizers, "MultiOptimizer"):
    COUNTING["several"] = several


@pytest.mark.slow
@pytest.mark.parametrize("name", COUNTING)
def test_a_group_that_trains_later_joins_the_cycle_of_the_run(name):
    model, schedule = make_model(12, COUNTING[name]()), FlatCosine(0.25)
    unfreeze = GradualUnfreeze([GROUPS[:3], GROUPS[3:]], every=1)
    found = rates(model, 12, 2, [unfreeze, schedule])
    factors = schedule.factors(12)
    np.testing.assert_allclose(found["fourth"], factors, rtol=1e-6)
    np.testing.assert_allclose(found["first"], [0.0] * 6 + factors[6:], rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("at_once", [1, 3])
def test_each_fit_begins_a_new_cycle(at_once):
    if not KERAS_3 or keras.backend.backend() == "torch":
        at_once = 1
    more = {"steps_per_execution": at_once} if at_once > 1 else {}
    model = make_model(12, keras.optimizers.SGD(1.0), **more)
    schedule = OneCycle(pct_start=0.5, div=10.0)
    expected = schedule.factors(12)
    for _ in range(2):
        found = rates(model, 12, 2, [schedule])["fourth"]
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7)
    shorter = rates(model, 12, 2, [schedule], initial_epoch=1)["fourth"]
    np.testing.assert_allclose(shorter[:6], schedule.factors(6), rtol=1e-6, atol=2e-7)


@pytest.mark.slow
def test_a_schedule_of_ones_changes_no_bit():
    def fitted(callbacks):
        model = reference.make_model()
        reference.compile_model(model, keras.optimizers.Adam(0.01))
        data = reference.make_data(12)
        reference.fit(model, data, epochs=2, callbacks=callbacks)
        return reference.weights(model)

    one, other = fitted([FlatCosine(pct_start=1.0)]), fitted([])
    assert reference.difference(one, other) == 0


# --- the slanted triangle and the warm-up ---------------------------------------------


def equation_3(n, cut_frac, ratio):
    """The slanted triangle as it is printed."""
    cut = int(n * cut_frac)
    for t in range(n):
        p = t / cut if t < cut else 1 - (t - cut) / (cut * (1 / cut_frac - 1))
        yield (1 + p * (ratio - 1)) / ratio


@pytest.mark.parametrize("n", [10, 40, 1000])
def test_slanted_triangle_is_that_of_the_paper(n):
    expected = list(equation_3(n, 0.1, 32))
    np.testing.assert_allclose(SlantedTriangular().factors(n), expected, rtol=1e-12)


@pytest.mark.parametrize("n", [1, 2, 5, 9, 11, 19, 99, 1003])
def test_slanted_triangle_stays_above_its_lowest_rate(n):
    for cut_frac in (0.0, 0.1, 0.29, 0.5, 1.0):
        factors = SlantedTriangular(cut_frac).factors(n)
        assert len(factors) == n
        assert min(factors) >= 1 / 32
        assert max(factors) <= 1.0


@pytest.mark.slow
def test_warmup_rises_once_or_in_each_stage():
    warm = Warmup(0.5, start=0.25)
    found = rates(make_model(12, keras.optimizers.SGD(1.0)), 12, 2, [warm])["fourth"]
    rises = [0.25, 0.5, 0.75]
    np.testing.assert_allclose(found, [*rises, *[1.0] * 9], rtol=1e-6)
    warm = Warmup(steps=3, start=0.25, per="stage")
    unfreeze = GradualUnfreeze([GROUPS[:2], GROUPS[2:]], every=1)
    model = make_model(12, keras.optimizers.SGD(1.0))
    found = rates(model, 12, 2, [unfreeze, warm])["fourth"]
    np.testing.assert_allclose(found, [*rises, 1, 1, 1] * 2, rtol=1e-6)


# --- what else sets the rate ----------------------------------------------------------


@pytest.mark.slow
def test_other_callbacks_move_the_peak():
    def halves(epoch, rate):
        return rate / 2 if epoch else rate

    factors = np.array(FlatCosine(0.25).factors(12))
    peaks = np.repeat([1.0, 0.5, 0.25], 4)
    plateau = keras.callbacks.ReduceLROnPlateau(
        "loss", factor=0.5, patience=1, min_delta=1e9, mode="max"
    )
    groups = [GROUPS[:3], GROUPS[3:]]
    unfreeze = GradualUnfreeze(groups, every=1, learning_rate_factor=0.5)
    # It compares with the epoch before from the second epoch on.
    for other, moved in (
        (keras.callbacks.LearningRateScheduler(halves), peaks),
        (unfreeze, [1, 0.5, 0.5]),
        (plateau, [1, 1, 0.5]),
    ):
        moved = np.repeat(moved, 12 // len(moved))
        model = make_model(12, keras.optimizers.SGD(1.0))
        found = rates(model, 12, 3, [other, FlatCosine(0.25)])["fourth"]
        np.testing.assert_allclose(found, factors * moved, rtol=1e-5, atol=1e-6)


def test_warmup_multiplies_a_schedule_of_the_optimizer():
    decay = keras.optimizers.schedules.ExponentialDecay(1.0, 1, 0.9)
    model = make_model(8, keras.optimizers.SGD(decay))
    found = rates(model, 8, 1, [Warmup(steps=4)])["fourth"]
    expected = 0.9 ** np.arange(8) * np.minimum(np.arange(8) / 4, 1)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


# --- what is refused ------------------------------------------------------------------


def refused(match, callbacks, optimizer=None, **kwargs):
    model = make_model(4, optimizer)
    with pytest.raises(ValueError, match=match):
        model.fit(one_hot(4), verbose=0, callbacks=callbacks, **{"epochs": 2, **kwargs})
    assert not kernel(model, "fourth").any()


@pytest.mark.slow
def test_what_cannot_be_meant_is_refused():
    known = {"steps_per_epoch": 2}
    refused("steps_per_epoch", [OneCycle()])
    refused("steps_per_epoch", [Warmup()])
    refused("There can be one", [OneCycle(), Warmup(steps=2)], **known)
    refused("per='stage'", [OneCycle(per="stage")], **known)
    with pytest.raises(ValueError, match="`pct_start` must be a number or"):
        OneCycle([0.99, 0.3])
    monitored = GradualUnfreeze(GROUPS, monitor="loss", patience=1)
    refused("monitor", [OneCycle(per="stage"), monitored], **known)
    decay = keras.optimizers.schedules.ExponentialDecay(1.0, 1, 0.9)
    refused("peak", [FlatCosine()], keras.optimizers.SGD(decay), **known)
    refused("momentum=None", [OneCycle()], keras.optimizers.Nadam(), **known)


def test_a_warmup_in_steps_needs_no_length():
    model = make_model(8, keras.optimizers.SGD(1.0))

    def stream():
        for row in np.eye(8, dtype="float32"):
            yield row[None], np.zeros((1, 1), "float32")

    model.fit(stream(), verbose=0, callbacks=[Warmup(steps=4)])
    expected = np.minimum(np.arange(8) / 4, 1)
    np.testing.assert_allclose(-kernel(model, "fourth"), expected)


# --- killed and resumed ---------------------------------------------------------------


class Killed(Exception):
    """Ends a run where it stands."""


def trained(directory, callbacks, kill_in=None, epochs=4):
    model = reference.make_model()
    reference.compile_model(model, keras.optimizers.Adam(0.02))

    def stop(epoch, logs):
        if epoch == kill_in:
            raise Killed

    backup = keras.callbacks.BackupAndRestore(str(directory))
    killer = keras.callbacks.LambdaCallback(on_epoch_begin=stop)
    callbacks = [*callbacks[:1], backup, *callbacks[1:], killer]
    reference.fit(model, reference.make_data(18), epochs=epochs, callbacks=callbacks)
    return {**reference.weights(model), **reference.optimizer_state(model)}


# The callbacks, and the epoch in which the run is killed.
RESUMED = {
    "run": (1, lambda: [OneCycle()]),
    "stages": (
        3,
        lambda: [
            GradualUnfreeze(["low", ["middle", "head"]], every=2),
            OneCycle(per="stage"),
            DiscriminativeLR(2.0),
        ],
    ),
    "schedule first": (
        1,
        lambda: [
            SlantedTriangular(per="stage"),
            GradualUnfreeze(["low", ["middle", "head"]], every=2),
        ],
    ),
    "warm-up": (2, lambda: [Warmup(steps=4)]),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", RESUMED)
def test_a_killed_run_goes_on_in_the_middle_of_its_cycle(name, tmp_path):
    kill_in, callbacks = RESUMED[name]
    whole = trained(tmp_path / "whole", callbacks())
    with pytest.raises(Killed):
        trained(tmp_path / "killed", callbacks(), kill_in)
    resumed = trained(tmp_path / "killed", callbacks())
    assert reference.difference(resumed, whole) == 0


@pytest.mark.slow
def test_a_cycle_of_another_length_is_not_resumed(tmp_path):
    with pytest.raises(Killed):
        trained(tmp_path, [OneCycle()], kill_in=2)
    with pytest.raises(ValueError, match="same epochs"):
        trained(tmp_path, [OneCycle()], epochs=6)
