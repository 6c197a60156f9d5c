"""`summary` says what `fit` then does, and touches nothing."""

import numpy as np
import pytest
import reference

from keras_finetune import (
    DiscriminativeLR,
    FeatureCache,
    GradualUnfreeze,
    TrainOnly,
    layer_groups,
    summary,
)
from keras_finetune._engine import keras

GROUPS = ["low", "middle", "head"]
DATA = reference.make_data()


def compiled(rate=0.5):
    return reference.compile_model(reference.make_model(), keras.optimizers.SGD(rate))


def rows(report, table=0):
    """The rows of a table, by the first cell."""
    tables = [part for part in report.parts if not isinstance(part, str)]
    return {row[0]: list(row[1:]) for row in tables[table].rows}


def ours(**kwargs):
    return [
        DiscriminativeLR(decay=10.0, groups=GROUPS),
        GradualUnfreeze(groups=GROUPS, every=2, **kwargs),
    ]


@pytest.mark.slow
def test_it_says_what_fit_then_does():
    model, callbacks = compiled(), ours()
    report = summary(model, callbacks, epochs=6)
    said = rows(report)
    assert said == {
        "low": ["1", "30", "30", "4-5", "0.005"],
        "middle": ["1", "35", "35", "2-5", "0.05"],
        "head": ["1", "18", "18", "0-5", "0.5"],
    }
    assert [row[3] for row in rows(report, 1).values()] == ["0.5", "0.5", "0.5"]

    history = reference.fit(model, DATA, epochs=6, callbacks=callbacks).history
    for name, (*_, epochs, rate) in said.items():
        first = int(epochs.split("-")[0])
        rates = history[f"learning_rate/{name}"]
        assert rates[:first] == [0.0] * first
        np.testing.assert_allclose(rates[first:], float(rate), rtol=1e-6)
    for stage, entry in zip(rows(report, 1).values(), callbacks[1].history):
        assert stage[2] == str(entry["trainable_parameters"])


def test_it_touches_nothing():
    model, plain = compiled(), compiled()
    model.get_layer("low").trainable = False
    flags = [layer.trainable for layer in model.layers]
    before = reference.weights(model)
    attributes = set(model.__dict__), set(model.optimizer.__dict__)
    summary(model, [*ours(), TrainOnly("kernel")])
    assert [layer.trainable for layer in model.layers] == flags
    assert reference.difference(reference.weights(model), before) == 0
    assert (set(model.__dict__), set(model.optimizer.__dict__)) == attributes
    assert len(model.optimizer.variables) == len(plain.optimizer.variables)


def test_it_fits_80_columns(capsys):
    long = [f"a_layer_with_a_rather_long_name_{i}" for i in range(4)]
    layers = [keras.layers.Dense(900, name=name) for name in long]
    model = keras.Sequential([keras.Input((900,)), *layers])
    model.compile("adam", "mse")
    callbacks = [
        GradualUnfreeze(monitor="val_a_rather_long_metric", patience=1),
        DiscriminativeLR(multipliers={"bias": 0.1}),
    ]
    report = summary(model, callbacks)
    out = capsys.readouterr().out
    assert out == f"{report}\n"
    assert max(map(len, out.splitlines())) <= 80
    assert "when" in out
    assert "0.0001 - 0.001" in " ".join(out.split())


def test_a_selection_is_counted():
    model = compiled()
    report = summary(model, [*ours(), TrainOnly("bias")], epochs=4)
    assert [row[2] for row in rows(report).values()] == ["6", "5", "3"]
    assert [row[2] for row in rows(report, 1).values()] == ["3", "8", "14"]
    assert rows(report)["low"][3] == "not reached"
    still = summary(model, DiscriminativeLR(multipliers=[0.0, 1.0, 1.0], groups=GROUPS))
    assert rows(still)["low"][2:] == ["0", "never", "-"]
    assert rows(still)["head"][2:] == ["18", "from 0", "0.5"]


def test_bounds_schedules_and_models_that_are_not_compiled():
    bounds = DiscriminativeLR(bounds=(1e-4, 1e-2), groups=GROUPS)
    report = summary(compiled(), [bounds])
    assert [row[-1] for row in rows(report).values()] == ["0.0001", "0.001", "0.01"]
    schedule = keras.optimizers.schedules.ExponentialDecay(0.5, 10, 0.5)
    report = summary(compiled(schedule), ours(learning_rate_factor=0.1))
    assert "SGD with a schedule, now at 0.5" in report.parts[0]
    assert [row[-1] for row in rows(report).values()] == [
        "5e-05",
        "0.005 to 0.0005",
        "0.5 to 0.005",
    ]
    report = summary(compiled(), ours(learning_rates=[0.4, 0.2, 0.1]))
    assert [row[-1] for row in rows(report, 1).values()] == ["0.4", "0.2", "0.1"]
    assert rows(report)["head"][-1] == "0.4 to 0.1"
    report = summary(reference.make_model(), ours())
    assert "Not compiled" in report.parts[0]
    assert [row[-1] for row in rows(report).values()] == ["0.01", "0.1", "1"]


def test_rates_that_stages_bring_need_no_optimizer():
    stages = GradualUnfreeze(2, learning_rates=[0.1, 0.01])
    report = summary(reference.make_model(), [stages], epochs=4)
    assert report.parts[1].header[-1] == "learning rate"
    assert [row[-1] for row in rows(report).values()] == ["0.01", "0.1 to 0.01"]


def test_without_callbacks_it_is_what_trains_now():
    model = compiled()
    model.get_layer("low").trainable = False
    report = summary(model)
    assert list(rows(report)) == list(layer_groups(model).names)
    assert [row[2] for row in rows(report).values()] == ["0", "35", "18"]


def test_a_callback_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="lwo"):
        summary(
            compiled(), [GradualUnfreeze(groups=["lwo", "middle", "head"], every=1)]
        )
    with pytest.raises(ValueError, match="select"):
        summary(compiled(), [TrainOnly("nothing")])
    with pytest.raises(TypeError, match="`callbacks` must be a list of callbacks"):
        summary(compiled(), ["GradualUnfreeze"])


def test_callbacks_come_as_fit_takes_them():
    rates = DiscriminativeLR(decay=2.0)
    texts = {str(summary(compiled(), c)) for c in (rates, [rates], [[rates], []])}
    assert len(texts) == 1


def test_towers_with_equal_paths_are_told_apart():
    def tower(name):
        inputs = keras.Input((4,))
        return keras.Model(inputs, keras.layers.Dense(2, name="low")(inputs), name=name)

    inputs, left, right = keras.Input((4,)), tower("left"), tower("right")
    both = keras.layers.Concatenate()([left(inputs), right(inputs)])
    model = keras.Model(inputs, keras.layers.Dense(3, name="head")(both))
    model.compile(keras.optimizers.SGD(0.5), "mse")
    rates = DiscriminativeLR(multipliers=[0.0, 0.5, 1.0], groups=[left, right, "head"])
    factors = list(rates.factors(model).values())
    assert factors == [0.0, 0.0, 0.5, 0.5, 1.0, 1.0]
    found = rows(summary(model, [rates]))
    assert found["left"][1:] == ["10", "0", "never", "-"]
    assert found["right"][1:] == ["10", "10", "from 0", "0.25"]


def with_backbone():
    """Normalization and dropout in a nested backbone, the statistics in its middle."""
    backbone = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(6, name="low"),
            keras.layers.BatchNormalization(name="norm"),
            keras.layers.Dropout(0.5, name="noise"),
            keras.layers.Dense(5, name="high"),
        ],
        name="backbone",
    )
    inputs = keras.Input((4,))
    model = keras.Model(inputs, keras.layers.Dense(3, name="head")(backbone(inputs)))
    optimizer = keras.optimizers.SGD(0.1)
    return reference.compile_model(model, optimizer, run_eagerly=True)


# What is cached in the two stages before everything trains.
CACHED = {
    "frozen": ({}, {}, ["backbone (20)", "norm (24)"]),
    "trainable": ({"batch_norm": "trainable"}, {}, ["low (24)", "low (24)"]),
    "active": ({}, {"frozen_mode": "training"}, ["norm (24)", "norm (24)"]),
    "at rest": (
        {"frozen_mode": "inference"},
        {"frozen_mode": "training"},
        ["backbone (20)", "noise (24)"],
    ),
}


@pytest.mark.once
@pytest.mark.parametrize("name", CACHED)
def test_what_is_cached_in_each_stage_is_what_fit_then_caches(name):
    options, asks, expected = CACHED[name]
    model, cache = with_backbone(), FeatureCache(**asks, verbose=0)
    groups = [["low", "norm"], "high", "head"]
    unfreeze = GradualUnfreeze(groups=groups, every=1, **options)
    report = summary(model, [unfreeze, cache], epochs=3)
    said = [row[-1] for row in rows(report, 1).values()]
    assert said == [*expected, "-"]
    assert "In stage 2 nothing is cached before 'low', which trains." in report.parts
    assert max(map(len, str(report).splitlines())) <= 80

    reference.fit(model, DATA, epochs=3, batch_size=24, callbacks=[unfreeze, cache])
    kept = [(stage["layer"], stage["row_bytes"]) for stage in cache.history]
    assert [f"{layer} ({size})" if layer else "-" for layer, size in kept] == said


@pytest.mark.once
def test_what_is_cached_without_stages_is_for_what_the_callbacks_select():
    def last(callbacks):
        return summary(with_backbone(), [*callbacks, FeatureCache()]).parts[-1]

    assert last([]) == "Nothing is cached before 'low', which trains."
    head = last([TrainOnly("head")])
    assert head.startswith("What comes out of 'low' is computed once a row and kept: ")
    assert "It ends before 'norm', which uses the statistics of the batch." in head
