"""GradualUnfreeze: what trains when, what stays as it was, what is refused."""

import collections
import gc
import sys

import numpy as np
import pytest
import reference

from keras_finetune import (
    DiscriminativeLR,
    GradualUnfreeze,
    TrainOnly,
    layer_groups,
)
from keras_finetune._engine import KERAS_3, keras
from keras_finetune._engine.active import lane

GROUPS = ["low", "middle", "head"]
DATA = reference.make_data()
layers = keras.layers


def compiled(model=None, optimizer="adam", **kwargs):
    return reference.compile_model(model or reference.make_model(), optimizer, **kwargs)


def trains(model):
    return {layer.name for layer in model.layers if layer.trainable_variables}


class Watch(keras.callbacks.Callback):
    """Keeps what trains, and the weights, at the end of each epoch."""

    def __init__(self):
        super().__init__()
        self.trained, self.weights, self.rates = [], [], []

    def on_epoch_end(self, epoch, logs=None):
        self.trained.append(trains(self.model))
        self.weights.append(reference.weights(self.model))
        rate = self.model.optimizer.learning_rate
        self.rates.append(float(reference.to_numpy(rate)))


def watch(callback, epochs, model=None, others=(), **kwargs):
    model = model or compiled()
    seen = Watch()
    reference.fit(
        model, DATA, epochs=epochs, callbacks=[callback, *others, seen], **kwargs
    )
    return seen


# --- when -----------------------------------------------------------------------------


@pytest.mark.slow
def test_each_stage_trains_one_group_more():
    seen = watch(GradualUnfreeze(groups=GROUPS, every=2), 6)
    stages = [{"head"}, {"head", "middle"}, {"head", "middle", "low"}]
    assert seen.trained == [stage for stage in stages for _ in range(2)]


@pytest.mark.slow
def test_frozen_weights_stay_and_unfrozen_ones_move():
    model = compiled()
    start = reference.weights(model)
    seen = watch(GradualUnfreeze(groups=GROUPS, every=1), 3, model)
    for trained, now in zip(seen.trained, seen.weights):
        for key, value in now.items():
            same = np.array_equal(value, start[key])
            assert same != (key.split("/")[-2] in trained), key


def test_initial_epoch_starts_in_the_stage_of_that_epoch():
    callback = GradualUnfreeze(groups=GROUPS, every=2)
    assert watch(callback, 4, initial_epoch=3).trained == [{"head", "middle"}]
    assert callback.history[0]["epoch"] == 3


def logs_of(**metrics):
    """A callback that writes metrics into the logs, epoch by epoch."""

    class Write(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            logs.update({key: values[epoch] for key, values in metrics.items()})

    return Write()


def stages_by_metric(values, **kwargs):
    write = logs_of(score=values)
    arguments = {"mode": "min", **kwargs}
    callback = GradualUnfreeze(groups=GROUPS, monitor="score", **arguments)
    model = compiled()
    reference.fit(model, DATA, epochs=len(values), callbacks=[write, callback])
    return {entry["epoch"]: entry["stage"] for entry in callback.history}


@pytest.mark.slow
def test_a_metric_that_stalls_starts_the_next_stage():
    values = [3.0, 2.0, 2.0, 2.0, 1.0, 1.0, 1.0, 1.0]
    assert stages_by_metric(values, patience=2) == {0: 0, 4: 1, 7: 2}
    assert stages_by_metric(values, patience=2, mode="max") == {0: 0, 3: 1, 5: 2}
    assert stages_by_metric(values, patience=1, min_delta=1.5) == {0: 0, 2: 1, 3: 2}


@pytest.mark.slow
def test_a_stage_by_metric_ends_after_every_epochs_at_the_latest():
    values = [9.0, 8.0, 7.0, 6.0, 5.0, 4.0]
    assert stages_by_metric(values, patience=1, every=2) == {0: 0, 2: 1, 4: 2}
    assert stages_by_metric(values, patience=1) == {0: 0}


def test_nan_starts_no_stage_and_is_said_once():
    values = [2.0, np.nan, np.nan, np.nan, 2.0]
    with pytest.warns(UserWarning, match="`score` is NaN in epoch 2") as caught:
        assert stages_by_metric(values, patience=2) == {0: 0}
    assert len([w for w in caught if "NaN" in str(w.message)]) == 1


@pytest.mark.slow
def test_a_metric_goes_on_over_two_fits():
    values = [2.0, 2.0, 2.0, 2.0, 2.0, 2.0]
    whole = stages_by_metric(values, patience=2)
    callback = GradualUnfreeze(groups=GROUPS, monitor="score", mode="min", patience=2)
    callbacks = [logs_of(score=values), callback]
    model = compiled()
    reference.fit(model, DATA, epochs=2, callbacks=callbacks)
    reference.fit(model, DATA, initial_epoch=2, epochs=6, callbacks=callbacks)
    assert {entry["epoch"]: entry["stage"] for entry in callback.history} == whole


# --- rates ----------------------------------------------------------------------------


@pytest.mark.slow
def test_the_rate_is_multiplied_at_each_unfreeze():
    model = compiled(optimizer=keras.optimizers.SGD(0.5))
    callback = GradualUnfreeze(groups=GROUPS, every=2, learning_rate_factor=0.5)
    seen = watch(callback, 6, model)
    assert seen.rates == [0.5, 0.5, 0.25, 0.25, 0.125, 0.125]
    assert [entry["learning_rate"] for entry in callback.history] == [0.5, 0.25, 0.125]


def test_the_rate_is_multiplied_once_over_two_fits():
    model = compiled(optimizer=keras.optimizers.SGD(0.5))
    callback = GradualUnfreeze(groups=GROUPS, learning_rate_factor=0.5, every=1)
    watch(callback, 2, model)
    assert watch(callback, 3, model, initial_epoch=2).rates == [0.125]


def test_each_stage_has_the_rate_that_it_was_given():
    model = compiled(optimizer=keras.optimizers.SGD(7.0))
    rates = [0.5, 0.125, 0.25]
    callback = GradualUnfreeze(groups=GROUPS, every=1, learning_rates=rates)
    assert watch(callback, 4, model).rates == [0.5, 0.125, 0.25, 0.25]
    assert [entry["learning_rate"] for entry in callback.history] == rates
    # Another run from the start, one that goes on, and one that begins in the middle.
    again = GradualUnfreeze(groups=GROUPS, every=1, learning_rates=rates)
    with pytest.warns(UserWarning, match="ended in stage 1"):
        assert watch(again, 2, model).rates == [0.5, 0.125]
    assert watch(again, 3, model, initial_epoch=2).rates == [0.25]
    other = compiled(optimizer=keras.optimizers.SGD(7.0))
    assert watch(again.with_arguments(), 3, other, initial_epoch=1).rates == [
        0.125,
        0.25,
    ]


def test_rates_of_stages_that_cannot_be_given():
    schedule = keras.optimizers.schedules.ExponentialDecay(0.5, 10, 0.5)
    three = GradualUnfreeze(groups=GROUPS, every=1, learning_rates=[0.5, 0.1, 0.1])
    two = GradualUnfreeze(groups=GROUPS, every=1, learning_rates=[0.5, 0.1])
    for callbacks, optimizer, said in (
        ([two], keras.optimizers.SGD(0.5), "one rate for each stage, of which"),
        ([three], keras.optimizers.SGD(schedule), "Compile with a number"),
        ([three, DiscriminativeLR(bounds=(0.1, 0.2))], "sgd", "bounds"),
    ):
        model = compiled(optimizer=optimizer)
        before = reference.weights(model)
        with pytest.raises(ValueError, match=said):
            reference.fit(model, DATA, epochs=3, callbacks=callbacks)
        assert reference.difference(before, reference.weights(model)) == 0


@pytest.mark.slow
def test_under_a_schedule_the_factor_multiplies_what_it_gives():
    # Four steps an epoch; the second schedule has the factors in it already. Powers
    # of two, so that no rounding comes in.
    def run(rates, factor):
        schedule = keras.optimizers.schedules.PiecewiseConstantDecay([3, 7], rates)
        model = compiled(optimizer=keras.optimizers.SGD(schedule, momentum=0.5))
        callback = GradualUnfreeze(groups=GROUPS, learning_rate_factor=factor, every=1)
        return watch(callback, 3, model).weights[-1]

    one, other = run([0.5, 0.25, 0.25], 0.5), run([0.5, 0.125, 0.0625], 1.0)
    assert reference.difference(one, other) == 0


# --- batch normalisation, dropout ----------------------------------------------------


def model_with_batch_norm():
    body = [
        layers.Dense(6, name="low"),
        layers.BatchNormalization(name="low_bn"),
        layers.Dense(5, name="middle"),
        layers.BatchNormalization(name="middle_bn"),
    ]
    return compiled(reference.make_model(body=body))


BN_GROUPS = [["low", "low_bn"], ["middle", "middle_bn"], "head"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mode", "moves"),
    [
        ("follow", [set(), {"middle_bn"}, {"low_bn", "middle_bn"}]),
        ("frozen", [set(), set(), set()]),
        ("trainable", [{"low_bn", "middle_bn"}] * 3),
    ],
)
def test_batch_norm_modes(mode, moves):
    model = model_with_batch_norm()
    before = reference.weights(model)
    callback = GradualUnfreeze(groups=BN_GROUPS, batch_norm=mode, every=1)
    seen = watch(callback, 3, model)
    for expected, now in zip(moves, seen.weights):
        for part in ("moving_mean", "moving_variance", "gamma", "beta"):
            moved = {
                key.split("/")[-2]
                for key in now
                if part in key and not np.array_equal(now[key], before[key])
            }
            assert moved == expected, part
        before = now


class Record(layers.Layer):
    """Keeps what flows through it, step by step."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.seen = []

    def call(self, inputs):
        try:
            self.seen.append(reference.to_numpy(inputs))
        except Exception:
            pass  # symbolic: while the model is made
        return inputs


@pytest.mark.slow
@pytest.mark.parametrize(("mode", "noisy"), [("training", True), ("inference", False)])
def test_frozen_modes(mode, noisy):
    record = Record()
    body = [
        layers.Dense(40, name="low"),
        layers.Dropout(0.5, name="drop"),
        record,
        layers.Dense(5, name="middle"),
    ]
    model = compiled(reference.make_model(body=body), run_eagerly=True)
    record.seen.clear()
    groups = [["low", "drop", record.name], "middle", "head"]
    reference.fit(
        model,
        DATA,
        epochs=3,
        callbacks=[GradualUnfreeze(groups=groups, frozen_mode=mode, every=1)],
    )
    zeros = [bool((values == 0).any()) for values in record.seen]
    # JAX differentiates what trains with values that cannot be read: two stages tell.
    assert zeros[:8] == [noisy] * 8
    assert all(zeros[8:])
    assert "call" not in vars(model.get_layer("drop"))


@pytest.mark.slow
def test_inference_mode_in_the_compiled_step():
    """Without noise in the frozen groups two runs with other seeds are the same."""

    def run(seed, mode):
        keras.utils.set_random_seed(1)
        body = [layers.Dense(40, name="low"), layers.Dropout(0.5, seed=seed)]
        model = compiled(reference.make_model(body=body))
        callback = GradualUnfreeze(groups=["low", "head"], every=9, frozen_mode=mode)
        return watch(callback, 2, model).weights[-1]

    assert reference.difference(run(1, "inference"), run(2, "inference")) == 0
    assert reference.difference(run(1, "training"), run(2, "training")) > 0


# --- models of every kind ------------------------------------------------------------


@pytest.mark.slow
def test_layers_given_to_no_group_stay_frozen():
    model = reference.make_model()
    model.get_layer("low").trainable = False
    compiled(model)
    start = reference.weights(model)
    seen = watch(GradualUnfreeze(groups=["middle", "head"], every=1), 2, model)
    assert seen.trained == [{"head"}, {"middle", "head"}]
    end = seen.weights[-1]
    assert all(np.array_equal(end[key], start[key]) for key in end if "low" in key)


@pytest.mark.slow
def test_a_frozen_backbone_inside_a_model_is_unfrozen_group_by_group():
    keras.utils.set_random_seed(1)
    backbone = keras.Sequential(
        [keras.Input((4,)), layers.Dense(6, name="one"), layers.Dense(5, name="two")],
        name="backbone",
    )
    backbone.trainable = False
    inputs = keras.Input((4,))
    outputs = layers.Dense(3, name="head")(backbone(inputs, training=False))
    model = compiled(keras.Model(inputs, outputs))
    groups = layer_groups(model)
    assert [len(group.variables) for group in groups][-1] == 2
    start = reference.weights(model)
    callback = GradualUnfreeze(groups=["one", "two", "head"], every=1)
    seen = watch(callback, 3, model)
    moved = [
        {k.split("/")[-2] for k in now if not np.array_equal(now[k], start[k])}
        for now in seen.weights
    ]
    assert moved == [{"head"}, {"two", "head"}, {"one", "two", "head"}]


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.one = layers.Dense(6, name="one")
        self.two = layers.Dense(5, name="two")
        self.three = layers.Dense(3, name="three")

    def call(self, inputs):
        return self.three(self.two(self.one(inputs)))


@pytest.mark.slow
def test_a_subclassed_model():
    keras.utils.set_random_seed(1)
    model = Subclassed()
    model(DATA[0][:1])
    compiled(model)
    seen = watch(GradualUnfreeze(every=1), 3, model)
    assert seen.trained == [{"three"}, {"two", "three"}, {"one", "two", "three"}]


class WithWeightsOfItsOwn(Subclassed):
    def build(self, input_shape):
        self.scale = self.add_weight(shape=(4,), initializer="ones", name="scale")
        super().build(input_shape)

    def call(self, inputs):
        return super().call(inputs * self.scale)


@pytest.mark.slow
def test_weights_of_the_model_itself_train_with_their_group():
    keras.utils.set_random_seed(1)
    model = WithWeightsOfItsOwn()
    model(DATA[0][:1])
    compiled(model)
    start = reference.weights(model)
    seen = watch(GradualUnfreeze(every=1), 3, model)
    (key,) = [key for key in start if "scale" in key]
    moved = [not np.array_equal(now[key], start[key]) for now in seen.weights]
    assert moved == [False, False, True]
    assert len(model.trainable_variables) == 7


class WithNormalizationInside(layers.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.inner = layers.Dense(6, name="inner")
        self.norm = layers.BatchNormalization(name="norm")

    def build(self, input_shape):
        self.gain = self.add_weight(shape=(6,), initializer="ones", name="gain")
        self.inner.build(input_shape)
        self.norm.build((None, 6))
        self.built = True

    def call(self, inputs, training=None):
        return self.norm(self.inner(inputs), training=training) * self.gain


@pytest.mark.slow
@pytest.mark.parametrize(("mode", "moves"), [("trainable", True), ("follow", False)])
def test_normalization_inside_a_block(mode, moves):
    body = [WithNormalizationInside(name="low"), layers.Dense(5, name="middle")]
    model = compiled(reference.make_model(body=body))
    start = reference.weights(model)
    callback = GradualUnfreeze(
        groups=["low", "middle", "head"], batch_norm=mode, every=1
    )
    now = watch(callback, 2, model).weights[-1]
    moved = {
        part: any(not np.array_equal(now[k], start[k]) for k in now if part in k)
        for part in ("inner/kernel", "gain", "gamma", "moving_mean")
    }
    assert moved == {
        "inner/kernel": False,
        "gain": False,
        "gamma": moves,
        "moving_mean": moves,
    }


@pytest.mark.slow
def test_an_unbuilt_model_is_built_from_the_data_of_fit():
    def on_a_trained_body():
        body = reference.make_model().layers[:-1]
        return keras.Sequential([*body, keras.layers.Dense(3, name="head")])

    ends = []
    for build in (False, True):
        model = on_a_trained_body()
        if build:
            model.build((None, 4))
        reference.compile_model(model, "adam")
        reference.fit(model, DATA, epochs=3, callbacks=[GradualUnfreeze(every=1)])
        ends.append([reference.to_numpy(v) for v in model.weights])
    for one, other in zip(*ends, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.slow
def test_an_unbuilt_subclassed_model_is_built_from_the_data_of_fit():
    model = compiled(Subclassed())
    callback = GradualUnfreeze(every=1)
    reference.fit(model, DATA, epochs=2, callbacks=[callback])
    assert [entry["stage"] for entry in callback.history] == [0, 1]


# --- beside others -------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("first", [True, False])
def test_beside_keras_callbacks_in_any_order(first, tmp_path):
    others = [
        keras.callbacks.EarlyStopping("loss", patience=9),
        keras.callbacks.ReduceLROnPlateau("loss", patience=1),
        keras.callbacks.CSVLogger(str(tmp_path / "log.csv")),
        keras.callbacks.ModelCheckpoint(
            str(tmp_path / "last.weights.h5"), save_weights_only=True
        ),
        keras.callbacks.TerminateOnNaN(),
        DiscriminativeLR(groups=GROUPS),
    ]
    gradual = GradualUnfreeze(groups=GROUPS, every=1)
    callbacks = [gradual, *others] if first else [*others, gradual]
    model = compiled()
    history = reference.fit(model, DATA, epochs=3, callbacks=callbacks)
    assert trains(model) == set(GROUPS)
    assert history.history["learning_rate/low"][:2] == [0.0, 0.0]
    assert history.history["learning_rate/low"][2] > 0


# --- nothing left behind -------------------------------------------------------------


class Stop(Exception):
    pass


def _raise(error):
    raise error


def _data_that_fails(error):
    x, y = DATA

    def batches():
        yield x[:6], y[:6]
        yield x[6:12], y[6:12]
        raise error

    return batches()


def _breaker(where, error):
    if where == "batch":
        return keras.callbacks.LambdaCallback(
            on_train_batch_end=lambda batch, logs: batch == 1 and _raise(error)
        )
    return keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: epoch == 1 and _raise(error)
    )


def _interrupt(model, callbacks, where, error):
    if where == "data":
        with pytest.raises(Exception):  # noqa: B017, PT011  TensorFlow wraps it
            model.fit(
                _data_that_fails(error),
                steps_per_epoch=4,
                epochs=3,
                verbose=0,
                callbacks=callbacks,
            )
        return
    with pytest.raises(type(error)):
        reference.fit(
            model, DATA, epochs=3, callbacks=[*callbacks, _breaker(where, error)]
        )


def goes_on_as_plain(model):
    """A plain `fit` from here is that of a model that never saw us."""
    twin = reference.make_model()
    twin.set_weights(model.get_weights())
    for layer, of in zip(twin.layers, model.layers):
        layer.trainable = of.trainable
    compiled(twin, optimizer=keras.optimizers.Adam(0.01))
    reference.build(twin.optimizer, twin.trainable_variables)
    reference.copy_state(
        model.optimizer,
        model.trainable_variables,
        twin.optimizer,
        twin.trainable_variables,
    )
    for one in (model, twin):
        reference.fit(one, DATA, epochs=1)
    one, other = reference.weights(model), reference.weights(twin)
    assert reference.difference(one, other) == 0


@pytest.mark.slow
@pytest.mark.parametrize("where", ["data", "batch", "epoch"])
@pytest.mark.parametrize("error", [Stop(), KeyboardInterrupt()])
def test_an_interrupted_fit_leaves_plain_objects(where, error):
    if where == "data" and isinstance(error, KeyboardInterrupt):
        error = Stop()
    optimizer = keras.optimizers.Adam(0.01)
    model = compiled(optimizer=optimizer)
    names = set(vars(optimizer))
    reference.fit(model, DATA, epochs=1)
    names |= set(vars(optimizer))
    callbacks = [
        GradualUnfreeze(groups=GROUPS, frozen_mode="inference", every=1),
        DiscriminativeLR(decay=4.0, groups=GROUPS),
    ]
    _interrupt(model, callbacks, where, error)
    # Who keeps the traceback, as this test does, keeps what writes files on Keras 2.
    assert set(vars(optimizer)) <= {*names, "save_own_variables"}
    assert not any("call" in vars(layer) for layer in model.layers)

    goes_on_as_plain(model)
    assert "make_train_function" not in vars(model)
    assert set(vars(optimizer)) <= names


def test_train_on_batch_after_an_interrupted_fit_is_plain():
    model = compiled(optimizer=keras.optimizers.SGD(0.5))
    rates = DiscriminativeLR(multipliers=[0.25, 0.25, 0.25], groups=GROUPS)
    _interrupt(model, [rates], "batch", Stop())
    twin = compiled(optimizer=keras.optimizers.SGD(0.5))
    twin.set_weights(model.get_weights())
    for one in (model, twin):
        one.train_on_batch(*DATA)
    one, other = reference.weights(model), reference.weights(twin)
    assert reference.difference(one, other) == 0


def test_what_could_not_be_put_back_is_put_back_by_the_next_fit(monkeypatch):
    """As when Ctrl-C comes once more, while the first is being dealt with."""
    model = compiled(optimizer=keras.optimizers.SGD(0.5))
    rebuild = lane.rebuild

    def fails(*args):
        monkeypatch.setattr(lane, "rebuild", rebuild)
        raise KeyboardInterrupt

    def break_off(batch, logs):
        monkeypatch.setattr(lane, "rebuild", fails)
        raise Stop

    breaker = keras.callbacks.LambdaCallback(on_train_batch_end=break_off)
    with pytest.raises(KeyboardInterrupt):
        reference.fit(model, DATA, callbacks=[TrainOnly("head"), breaker])
    before = reference.weights(model)
    reference.fit(model, DATA)
    after = reference.weights(model)
    assert all((before[path] != after[path]).any() for path in before)
    assert "make_train_function" not in vars(model)


@pytest.mark.slow
@pytest.mark.parametrize("call", [1, 2, 3])
def test_ctrl_c_while_slots_are_made_loses_none(call, monkeypatch):
    optimizer = keras.optimizers.Adam(0.01)
    model = compiled(optimizer=optimizer)
    reference.fit(model, DATA)
    before = reference.optimizer_state(model)
    make, calls = type(optimizer).add_variable_from_reference, []

    def fails(*args, **kwargs):
        calls.append(args)
        if len(calls) == call:
            raise KeyboardInterrupt
        return make(*args, **kwargs)

    monkeypatch.setattr(type(optimizer), "add_variable_from_reference", fails)
    with pytest.raises(KeyboardInterrupt):
        reference.fit(
            model, DATA, epochs=2, callbacks=[GradualUnfreeze(groups=GROUPS, every=1)]
        )
    monkeypatch.undo()
    after = reference.optimizer_state(model)
    # On Keras 3 the slots of the second stage are made when it begins.
    assert trains(model) == ({"middle", "head"} if KERAS_3 else {"head"})
    assert {name for name in after if "head/kernel" in name}
    if not KERAS_3:
        for name, value in after.items():
            assert np.array_equal(value, before[name]), name

    goes_on_as_plain(model)


# On JAX and PyTorch Keras makes them itself, before it asks callbacks.
@pytest.mark.slow
@pytest.mark.backend("tensorflow")
def test_ctrl_c_while_the_first_slots_are_made_leaves_no_half(monkeypatch):
    optimizer = keras.optimizers.Adam(0.01)
    model, calls = compiled(optimizer=optimizer), []
    others = len(optimizer.variables)
    make = type(optimizer).add_variable_from_reference

    def fails(*args, **kwargs):
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return make(*args, **kwargs)

    monkeypatch.setattr(type(optimizer), "add_variable_from_reference", fails)
    with pytest.raises(KeyboardInterrupt):
        reference.fit(model, DATA, callbacks=[GradualUnfreeze(groups=GROUPS, every=1)])
    monkeypatch.undo()
    assert trains(model) == {"head"}
    # As Keras has made it: built by the first step of the next `fit`.
    assert len(optimizer.variables) == others
    goes_on_as_plain(model)


def test_no_file_is_awaited_for_a_model_that_a_callback_has_left():
    class Early(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            raise Stop

    callback = TrainOnly("head")
    model, other = compiled(), compiled()
    with pytest.raises(Stop):
        reference.fit(model, DATA, callbacks=[Early(), callback])
    reference.fit(other, DATA, callbacks=[callback])
    assert "load_own_variables" not in vars(model.optimizer)


def test_a_list_of_callbacks_of_the_users_own_is_as_it_was():
    model = compiled()
    listed = keras.callbacks.CallbackList([DiscriminativeLR()], add_history=True)
    listed.set_model(model)
    listed.set_params({"epochs": 1, "steps": 1, "verbose": 0})
    names = set(vars(listed))
    reference.fit(model, DATA, callbacks=listed)
    assert set(vars(listed)) == names


@pytest.mark.slow
def test_after_fit_nothing_of_ours_is_left():
    optimizer = keras.optimizers.Adam(0.01)
    model = compiled(optimizer=optimizer)
    reference.fit(model, DATA, epochs=1)
    of_optimizer, of_model = set(vars(optimizer)), set(vars(model))
    of_collector = list(gc.callbacks)
    callbacks = [
        GradualUnfreeze(groups=GROUPS, every=1),
        DiscriminativeLR(groups=GROUPS),
    ]
    reference.fit(model, DATA, epochs=3, callbacks=callbacks)
    assert set(vars(optimizer)) == of_optimizer
    assert set(vars(model)) == of_model
    assert not [call for call in gc.callbacks if call not in of_collector]


# --- cost ----------------------------------------------------------------------------


class Counting(keras.Model):
    """Counts how often its step is traced (on graphs) or called (elsewhere)."""

    traces = 0

    def train_step(self, *args, **kwargs):
        type(self).traces += 1
        return super().train_step(*args, **kwargs)


@pytest.mark.slow
@pytest.mark.backend("tensorflow", "jax")
def test_a_stage_is_traced_once():
    plain = reference.make_model()
    model = compiled(Counting(plain.inputs, plain.outputs), "adam")
    Counting.traces = 0
    callbacks = [
        GradualUnfreeze(groups=GROUPS, every=2),
        DiscriminativeLR(groups=GROUPS),
    ]
    reference.fit(model, DATA, epochs=6, callbacks=callbacks)
    assert Counting.traces == 3


def operations(model):
    """The histogram of types of operations that run in one step (TensorFlow)."""
    import tensorflow as tf

    x, y = (tf.constant(part[:6]) for part in DATA)
    step = tf.function(lambda: model.train_step((x, y))).get_concrete_function()
    # What nothing needs does not run: TensorFlow prunes it.
    todo = [t.op for t in step.graph.outputs] + list(step.graph.control_outputs)
    live = {}
    while todo:
        op = todo.pop()
        if op.name not in live:
            live[op.name] = op.type
            todo += [t.op for t in op.inputs] + list(op.control_inputs)
    return collections.Counter(live.values())


@pytest.mark.slow
@pytest.mark.backend("tensorflow")
def test_the_graph_of_a_stage_is_that_of_a_model_frozen_by_hand():
    found = []
    count = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: found.append(operations(model))
    )
    model = model_with_batch_norm()
    gradual = GradualUnfreeze(groups=BN_GROUPS, every=1, batch_norm="follow")
    reference.fit(model, DATA, epochs=3, callbacks=[gradual, count])
    for epoch, names in enumerate((["head"], ["middle", "middle_bn", "head"], None)):
        other = model_with_batch_norm()
        for layer in other.layers:
            layer.trainable = names is None or layer.name in names
        compiled(other)
        reference.fit(other, DATA, epochs=1)
        assert found[epoch] == operations(other)
    assert found[0]["MatMul"] < found[1]["MatMul"] < found[2]["MatMul"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["adam"] if KERAS_3 else ["adam", "legacy"])
def test_slots_are_made_once_however_many_stages_there_are(kind, monkeypatch):
    legacy = kind == "legacy"
    adam = (keras.optimizers.legacy if legacy else keras.optimizers).Adam
    names = [f"dense_{i}_of_ten" for i in range(10)]
    body = [keras.layers.Dense(2, name=name) for name in names]
    model = compiled(reference.make_model(body=body), adam(0.01))
    method = "add_slot" if legacy else "add_variable_from_reference"
    make, made = getattr(adam, method), {}

    def counted(self, *args, **kwargs):
        slot = make(self, *args, **kwargs)
        made[id(slot)] = slot
        return slot

    # On JAX and PyTorch Keras has made those of all variables before.
    count = keras.callbacks.LambdaCallback(
        on_train_begin=lambda logs: monkeypatch.setattr(adam, method, counted)
    )
    unfreeze = GradualUnfreeze([*names, "head"], every=1)
    reference.fit(model, DATA, epochs=11, callbacks=[count, unfreeze])
    assert unfreeze.history[-1]["stage"] == 10
    assert 0 < len(made) <= 2 * len(model.trainable_variables)


# --- bad input -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"every": 0}, ValueError, "every=0"),
        ({"every": 1.5}, TypeError, "every=1.5"),
        ({"every": []}, ValueError, r"every=\[\]"),
        ({"every": [3, 2]}, ValueError, r"every=\[3, 2\]"),
        ({"every": [0, 2]}, ValueError, "every"),
        ({"every": "often"}, TypeError, "every='often'"),
        ({"initial_groups": 0}, ValueError, "initial_groups=0"),
        ({"initial_groups": True}, TypeError, "initial_groups=True"),
        ({"monitor": 3, "patience": 1}, TypeError, "monitor=3"),
        ({"monitor": "loss"}, ValueError, "patience"),
        ({"patience": 2}, ValueError, "monitor"),
        ({"monitor": "loss", "patience": 0}, ValueError, "patience=0"),
        ({"monitor": "loss", "patience": 1, "every": [1, 2]}, ValueError, "every"),
        ({"mode": "up"}, ValueError, "mode='up'"),
        ({"min_delta": -1.0}, ValueError, "min_delta=-1.0"),
        ({"learning_rate_factor": 0.0}, ValueError, "learning_rate_factor=0.0"),
        ({"learning_rate_factor": "x"}, TypeError, "learning_rate_factor='x'"),
        ({"learning_rate_factor": np.nan}, ValueError, "learning_rate_factor=nan"),
        ({"learning_rates": 0.1}, TypeError, "learning_rates=0.1"),
        ({"learning_rates": [0.1, 0.0]}, ValueError, r"learning_rates\[1\]=0.0"),
        (
            {"learning_rates": [0.1], "learning_rate_factor": 0.1},
            ValueError,
            "Only one of",
        ),
        ({"batch_norm": "off"}, ValueError, "batch_norm='off'"),
        ({"frozen_mode": "eval"}, ValueError, "frozen_mode='eval'"),
        (
            {"batch_norm": "trainable", "frozen_mode": "inference"},
            ValueError,
            "contradict",
        ),
        ({"verbose": 3}, ValueError, "verbose=3"),
    ],
)
def test_bad_arguments_are_refused_at_once(arguments, error, message):
    with pytest.raises(error, match=message):
        GradualUnfreeze(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"groups": GROUPS, "every": [1, 2, 3]}, r"every=\[1, 2, 3\]"),
        ({"groups": GROUPS, "every": [1]}, r"every=\[1\]"),
        ({"groups": GROUPS, "initial_groups": 3}, "initial_groups=3"),
        ({"groups": ["lwo", "middle", "head"]}, "lwo"),
        ({"groups": ["low", "low", "middle", "head"]}, "low"),
        ({"groups": 9}, "groups=9"),
    ],
)
def test_what_does_not_go_with_the_model_is_refused_before_training(arguments, message):
    model = compiled()
    start, flags = reference.weights(model), trains(model)
    with pytest.raises(ValueError, match=message):
        reference.fit(model, DATA, callbacks=[GradualUnfreeze(**arguments)])
    assert reference.difference(reference.weights(model), start) == 0
    assert trains(model) == flags
    assert "make_train_function" not in vars(model)


@pytest.mark.slow
def test_a_monitor_that_is_not_in_the_logs_is_refused():
    callback = GradualUnfreeze(groups=GROUPS, monitor="val_los", patience=1)
    with pytest.raises(ValueError, match=r"val_los.*val_loss"):
        watch(callback, 2, validation_data=DATA)
    callback = GradualUnfreeze(groups=GROUPS, monitor="los", patience=1)
    with pytest.raises(ValueError, match="monitor='los'"):
        watch(callback, 2)


@pytest.mark.slow
def test_a_missing_validation_is_said_once():
    callback = GradualUnfreeze(groups=GROUPS, monitor="val_loss", patience=1)
    with pytest.warns(UserWarning, match="not validated") as caught:
        assert watch(callback, 3).trained == [{"head"}] * 3
    assert len([w for w in caught if "not validated" in str(w.message)]) == 1


# --- for people ----------------------------------------------------------------------


def test_the_plan_changes_nothing(capsys):
    model = compiled(optimizer=keras.optimizers.SGD(0.5))
    start = trains(model)
    callback = GradualUnfreeze(groups=GROUPS, every=2, learning_rate_factor=0.1)
    callback.plan(model, epochs=5)
    lines = [line.split() for line in capsys.readouterr().out.strip().splitlines()]
    assert lines[2:] == [
        ["0", "0-1", "head", "18", "0.5"],
        ["1", "2-3", "middle", "53", "0.05"],
        ["2", "4", "low", "83", "0.005"],
    ]
    assert trains(model) == start
    assert model.optimizer.iterations == 0
    callback.plan(model, epochs=2)
    assert "not reached" in capsys.readouterr().out


def test_the_plan_by_metric(capsys):
    callback = GradualUnfreeze(groups=GROUPS, monitor="val_loss", patience=2)
    callback.plan(reference.make_model(), epochs=5)
    out = capsys.readouterr().out
    assert "when val_loss stalls" in out
    assert max(map(len, out.splitlines())) <= 80
    callback = GradualUnfreeze(groups=GROUPS, monitor="loss", patience=2, every=5)
    callback.plan(reference.make_model(), epochs=5)
    assert "when loss stalls, at the latest 5 later" in capsys.readouterr().out


@pytest.mark.slow
def test_transitions_are_announced(capsys):
    watch(GradualUnfreeze(groups=GROUPS, verbose=1, every=1), 3)
    said = [line for line in capsys.readouterr().out.splitlines() if "stage" in line]
    assert [line.split(":")[0] for line in said] == [
        f"Epoch {epoch} ({epoch + 1} in the progress bar)" for epoch in range(3)
    ]
    assert "53 parameters" in said[1]
    assert "middle" in said[1]
    watch(GradualUnfreeze(groups=GROUPS, every=1), 3)
    assert capsys.readouterr().out == ""


@pytest.mark.slow
@pytest.mark.parametrize("colour", [False, True])
def test_transitions_of_long_names_fit_80_columns(colour, capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: colour, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    names = [f"{x}_of_a_network_with_long_names" for x in ("low", "middle", "top")]
    body = [keras.layers.Dense(2, name=name) for name in names]
    model = reference.compile_model(reference.make_model(body=body), "sgd")
    callback = GradualUnfreeze(
        groups=[*names, "head"], initial_groups=3, verbose=1, every=1
    )
    reference.fit(model, DATA, epochs=2, callbacks=[callback])
    out = capsys.readouterr().out
    assert all(name in out for name in names)
    assert ("\x1b[1m" in out) == colour
    plain = out.replace("\x1b[1m", "").replace("\x1b[0m", "")
    assert max(map(len, plain.splitlines())) <= 80
