"""Sane without arguments, and loud about what is legal but surely not meant."""

import copy
import json
import pickle
import re
import warnings

import numpy as np
import pytest
import reference

from keras_finetune import (
    DiscriminativeLR,
    GradualUnfreeze,
    TrainOnly,
    Warmup,
    WeightNormLogger,
    layer_groups,
)
from keras_finetune._engine import keras, optimizer
from keras_finetune._rules.sharing import few_groups
from keras_finetune._schedule.trigger import direction

GROUPS = ["low", "middle", "head"]
DATA = reference.make_data()


def compiled(depth=None, rate=0.5, metrics=None):
    body = None
    if depth is not None:
        names = [f"block{i}_dense" for i in range(depth)]
        body = [keras.layers.Dense(2, name=name) for name in names]
    model = reference.make_model(body=body)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(rate), loss, metrics=metrics)
    return model


def fit(model, callbacks, epochs=1, **arguments):
    return reference.fit(model, DATA, epochs=epochs, callbacks=callbacks, **arguments)


def said(callbacks, epochs=1, model=None, **arguments):
    """The warnings of a `fit`, one after the other."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(model or compiled(), callbacks, epochs, **arguments)
    return " ".join(str(w.message) for w in caught if w.category is UserWarning)


# --- without arguments ---------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("depth", [2, 4, 12, 60])
def test_a_callback_that_is_given_no_groups_takes_a_few(depth):
    model = compiled(depth)
    unfreeze, rates = GradualUnfreeze(), DiscriminativeLR()
    history = fit(model, [unfreeze, rates], epochs=10).history
    count = min(len(layer_groups(model)), 5)
    assert len(few_groups(model)) == count
    assert unfreeze.history[-1]["stage"] == count - 1
    logged = [name for name in history if name.startswith("learning_rate/")]
    assert len(logged) == count
    # All of them train well before the end, none at less than 0.03.
    assert unfreeze.history[-1]["epoch"] <= 5
    assert min(history[name][-1] for name in logged) == pytest.approx(0.015)


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("giver", ["unfreeze", "rates", "multipliers"])
def test_callbacks_of_one_fit_share_their_groups(giver, order):
    groups = {giver: ["low", ["middle", "head"]]}
    rates = DiscriminativeLR(groups=groups.get("rates"))
    if giver == "multipliers":
        rates = DiscriminativeLR(multipliers=[0.5, 1.0])
    unfreeze = GradualUnfreeze(groups.get("unfreeze"), every=1)
    fit(compiled(), [unfreeze, rates][::order], epochs=2)
    assert [len(entry["groups"]) for entry in unfreeze.history] == [1, 2]


@pytest.mark.slow
def test_stages_end_in_time_and_later_runs_keep_their_boundaries():
    unfreeze = GradualUnfreeze(GROUPS)
    model = compiled()
    fit(model, [unfreeze], epochs=8)
    epochs = [entry["epoch"] for entry in unfreeze.history]
    assert epochs == [0, 2, 4]
    fit(model, [unfreeze], epochs=40, initial_epoch=8)
    assert [entry["epoch"] for entry in unfreeze.history] == epochs
    assert len(model.trainable_variables) == 6


def test_the_plan_says_whose_groups_it_shows(capsys):
    model = compiled()
    GradualUnfreeze().plan(model, 8)
    assert "own" in capsys.readouterr().out
    GradualUnfreeze(GROUPS).plan(model)
    assert "own" not in capsys.readouterr().out


# --- legal, but surely not meant -----------------------------------------------------


@pytest.mark.slow
def test_epochs_that_end_before_a_stage():
    text = said([GradualUnfreeze(GROUPS, every=5)], epochs=3)
    assert "3 epochs end before these groups train: middle, low" in text
    assert "stage 0 of 2: low, middle never trained" in text
    assert not said([GradualUnfreeze(GROUPS)], epochs=3)


@pytest.mark.slow
def test_one_epoch_for_all_stages():
    assert "of one epoch" in said([GradualUnfreeze(GROUPS)])
    assert "of one epoch" not in said([GradualUnfreeze(GROUPS)], epochs=2)
    assert "of one epoch" not in said([GradualUnfreeze(GROUPS, every=1)])


@pytest.mark.slow
@pytest.mark.parametrize("argument", ["learning_rates", "learning_rate_factor"])
def test_a_scheduler_beside_the_rates_of_stages(argument):
    given = {"learning_rates": [0.5, 0.1, 0.1], "learning_rate_factor": 0.5}
    unfreeze = GradualUnfreeze(GROUPS, **{argument: given[argument]})
    scheduler = keras.callbacks.LearningRateScheduler(lambda epoch: 0.1)
    assert f"overrides what `{argument}`" in said([unfreeze, scheduler], epochs=3)
    assert "overrides" not in said([GradualUnfreeze(GROUPS), scheduler], epochs=3)


@pytest.mark.slow
def test_rates_that_are_next_to_nothing():
    text = said([DiscriminativeLR(decay=1000.0, groups=GROUPS)])
    assert "low (1.0e-06)" in text
    assert not said([DiscriminativeLR(decay=2.6, groups=GROUPS)])
    assert not said([DiscriminativeLR(multipliers=[0.0, 1.0, 1.0], groups=GROUPS)])


def test_multipliers_that_begin_with_the_head():
    text = said([DiscriminativeLR(multipliers=[1.0, 0.1, 0.01], groups=GROUPS)])
    assert "the head trains at 0.01 and the lowest layers at 1" in text


@pytest.mark.slow
def test_other_groups_in_two_callbacks():
    other = DiscriminativeLR(groups=["low", ["middle", "head"]])
    text = said([GradualUnfreeze(GROUPS), other], epochs=3)
    assert (
        "different groups: ['low', 'middle', 'head'] and ['low', 'middle..head']"
        in (text)
    )
    assert not said([GradualUnfreeze(GROUPS), DiscriminativeLR(groups=GROUPS)], 3)


@pytest.mark.parametrize("ours", [GradualUnfreeze, DiscriminativeLR])
def test_two_of_a_kind(ours):
    model = compiled()
    with pytest.raises(ValueError, match=f"one `{ours.__name__}`"):
        fit(model, [TrainOnly("kernel"), ours(), ours()])
    assert "load_own_variables" not in vars(model.optimizer)
    assert "make_train_function" not in vars(model)


@pytest.mark.slow
def test_early_stopping_that_is_sooner_than_a_stage():
    def callbacks(patience):
        stop = keras.callbacks.EarlyStopping("loss", patience=patience)
        return [GradualUnfreeze(GROUPS, monitor="loss", patience=3), stop]

    assert "patience of more than 3" in said(callbacks(3))
    assert "patience of more than 3" not in said(callbacks(4))


@pytest.mark.parametrize(
    ("monitor", "message"),
    [
        ("lss", "Did you mean 'loss'"),
        ("val_loss", "no validation data"),
        ("accuracy", "the logs will have"),
    ],
)
def test_a_monitor_that_is_never_logged(monitor, message):
    unfreeze = GradualUnfreeze(GROUPS, monitor=monitor, patience=1)
    model = compiled()
    with pytest.raises(ValueError, match=message):
        fit(model, [unfreeze])
    assert (
        reference.difference(reference.weights(model), reference.weights(compiled()))
        == 0
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("monitor", "metrics", "validates"),
    [
        ("loss", None, False),
        ("val_loss", None, True),
        ("acc", ["acc"], False),
        ("val_error", [keras.metrics.SparseCategoricalAccuracy(name="error")], True),
        ("learning_rate/low", None, False),
        pytest.param(
            "sparse_categorical_accuracy",
            [keras.metrics.SparseCategoricalAccuracy],
            False,
            marks=pytest.mark.keras3,  # Keras 2 takes no class
        ),
    ],
)
def test_a_monitor_that_is_logged(monitor, metrics, validates):
    unfreeze = GradualUnfreeze(GROUPS, monitor=monitor, patience=1)
    arguments = {"validation_data": DATA} if validates else {}
    model = compiled(metrics=metrics)
    rates = DiscriminativeLR()
    assert "Argument" not in said([rates, unfreeze], model=model, **arguments)


def test_a_monitor_that_another_callback_may_add_is_only_warned_of():
    class Adds(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            logs["mine"] = 1.0

    unfreeze = GradualUnfreeze(GROUPS, monitor="mine", patience=1)
    assert "monitor='mine'" in said([Adds(), unfreeze])


@pytest.mark.slow
@pytest.mark.keras3  # Keras 2 names outputs by their layers
@pytest.mark.parametrize("monitor", ["val_sex_mae", "val_age_loss"])
def test_a_monitor_of_an_output_by_its_key(monitor):
    inputs = keras.Input((3,))
    body = keras.layers.Dense(2, name="body")(inputs)
    outputs = {k: keras.layers.Dense(1, name=f"{k}_head")(body) for k in ("age", "sex")}
    model = keras.Model(inputs, outputs)
    model.compile("sgd", dict.fromkeys(outputs, "mse"), metrics={"sex": ["mae"]})
    x = np.ones((4, 3), "float32")
    data = x, dict.fromkeys(outputs, x[:, :1])
    unfreeze = GradualUnfreeze(monitor=monitor, patience=1)
    history = model.fit(*data, validation_data=data, verbose=0, callbacks=[unfreeze])
    assert monitor in history.history


@pytest.mark.slow
@pytest.mark.keras3
def test_a_monitor_that_both_lists_of_metrics_name():
    model = compiled()
    both = {"metrics": ["accuracy"], "weighted_metrics": ["accuracy"]}
    model.compile("sgd", model.loss, **both)
    unfreeze = GradualUnfreeze(GROUPS, monitor="weighted_accuracy", patience=1)
    assert "weighted_accuracy" in fit(model, [unfreeze]).history


@pytest.mark.parametrize(
    ("monitor", "mode"),
    [
        ("val_account_loss", "min"),
        ("val_accuracy", "max"),
        ("top_5_categorical_accuracy", "max"),
        ("val_acc", "max"),
        ("auc_1", "max"),
        ("recall@10", "max"),
        ("val_f1", "max"),
        ("f1_score", "max"),
        ("val_r2_score", "max"),
        ("brier_score", "min"),
        ("val_mean_io_u", "max"),
        ("cosine_similarity", "max"),
        ("root_mean_squared_error", "min"),
        ("val_mae", "min"),
        ("vaccine", None),
        ("mine", None),
    ],
)
def test_the_name_of_a_metric_says_where_it_is_to_go(monitor, mode):
    assert direction(monitor) == mode


def test_a_metric_whose_name_does_not_say_where_it_is_to_go():
    metrics = [keras.metrics.SparseCategoricalAccuracy(name="mine")]

    def callbacks(**arguments):
        return [GradualUnfreeze(GROUPS, monitor="mine", patience=1, **arguments)]

    assert "does not tell" in said(callbacks(), model=compiled(metrics=metrics))
    known = said(callbacks(mode="max"), model=compiled(metrics=metrics))
    assert "does not tell" not in known


def test_a_direction_that_the_name_of_the_metric_contradicts():
    def callbacks(mode):
        return [GradualUnfreeze(GROUPS, monitor="loss", mode=mode, patience=1)]

    assert "the other way round. Give `mode='min'`" in said(callbacks("max"))
    assert "other way round" not in said(callbacks("min"))


def test_a_warmup_that_is_longer_than_the_fit():
    steps = -(-len(DATA[0]) // 8)
    text = said([Warmup(2)], batch_size=8)
    assert f"`Warmup` takes {2 * steps} steps, and this `fit` has {steps}" in text
    assert "`Warmup`" not in said([Warmup(1)], batch_size=8)


@pytest.mark.slow
@pytest.mark.keras3
def test_a_loss_that_rises_at_a_stage_by_its_penalties():
    def model(penalty):
        dense = keras.layers.Dense(2, kernel_regularizer=penalty, name="low")
        made = reference.make_model(body=[dense])
        made.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
        return made

    def unfreeze(monitor):
        return GradualUnfreeze(["low", "head"], monitor=monitor, patience=1)

    assert "penalties" in said([unfreeze("loss")], model=model("l2"))
    assert "penalties" not in said([unfreeze("loss")], model=model(None))
    assert "penalties" not in said([unfreeze("accuracy")], model=model("l2"))


@pytest.mark.slow
def test_a_second_fit_from_the_start():
    model, unfreeze = compiled(), GradualUnfreeze(GROUPS, every=1)
    fit(model, [unfreeze], epochs=3)
    assert "begins again in epoch 0" in said([unfreeze], 3, model)
    again = GradualUnfreeze(GROUPS, every=1)
    fit(model, [again], epochs=2)
    assert "begins again" not in said([again], 3, model, initial_epoch=2)
    assert "begins again" not in said([again], 3, compiled())
    assert [entry["stage"] for entry in again.history] == [0, 1, 2]


@pytest.mark.slow
@pytest.mark.parametrize(
    "rates", [{"learning_rate_factor": 0.1}, {"learning_rates": [0.5, 0.05, 0.005]}]
)
@pytest.mark.parametrize("epoch", [2, 3])
def test_a_fit_that_goes_back_into_a_stage_has_its_rate_again(rates, epoch):
    model, unfreeze = compiled(), GradualUnfreeze(GROUPS, every=2, **rates)
    fit(model, [unfreeze], epochs=6)
    fit(model, [unfreeze], epochs=4, initial_epoch=epoch)
    assert unfreeze.history[-1]["stage"] == 1
    assert optimizer.learning_rate(model) == pytest.approx(0.05)


@pytest.mark.slow
def test_a_new_callback_in_mid_run_says_that_the_rate_stays():
    def new(**rates):
        return [GradualUnfreeze(GROUPS, every=2, **rates)]

    heard = said(new(learning_rate_factor=0.1), 3, compiled(), initial_epoch=2)
    assert "compile with 0.05" in heard
    rates = new(learning_rates=[0.5, 0.05, 0.005])
    assert "compile with" not in said(rates, 3, compiled(), initial_epoch=2)


def test_rates_that_no_step_asks_for():
    class Own(keras.Model):
        def train_step(self, *args, **kwargs):
            state = args[0] if len(args) > 1 else None
            logs = {"loss": 0.0}
            return logs if state is None else (logs, state)

    plain = reference.make_model()
    model = Own(plain.inputs, plain.outputs)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.5), loss, run_eagerly=True)
    callbacks = [DiscriminativeLR(groups=GROUPS)]
    with pytest.warns(UserWarning, match="No step of this epoch"):
        history = fit(model, callbacks, epochs=2).history
    assert not [name for name in history if name.startswith("learning_rate/")]


def test_a_layer_in_the_place_of_a_selection():
    with pytest.raises(TypeError, match="'low/'"):
        TrainOnly(compiled().get_layer("low"))


# --- at home in Keras ----------------------------------------------------------------


@pytest.mark.slow
def test_the_progress_bar_is_that_of_keras(capsys):
    def shown(callbacks):
        compiled_model = compiled()
        capsys.readouterr()
        compiled_model.fit(*DATA, epochs=2, verbose=2, callbacks=callbacks)
        return re.findall(r"([a-z_/]+): ", capsys.readouterr().out)

    seen = []
    spy = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: seen.append(set(logs))
    )
    ours = [GradualUnfreeze(GROUPS), DiscriminativeLR(), spy]
    assert shown(ours) == shown([])
    assert {"stage", "learning_rate/low"} <= seen[-1]


def whether(variable):
    return variable is not None


CALLBACKS = [
    GradualUnfreeze(GROUPS, every=[1, 2], batch_norm="follow", verbose=1),
    GradualUnfreeze(monitor="val_loss", patience=2, min_delta=0.1),
    DiscriminativeLR(2.6),
    DiscriminativeLR(bounds=(1e-5, 1e-3), log=False),
    DiscriminativeLR(multipliers={"low": 0.5}),
    TrainOnly("bias"),
    TrainOnly(whether),
    WeightNormLogger(by="layer", order=1, frequency=3, updates=True),
]


@pytest.mark.parametrize("callback", CALLBACKS, ids=repr)
def test_configuration_goes_through_keras_and_json(callback):
    again = type(callback).from_config(callback.get_config())
    assert again.get_config() == callback.get_config()
    if getattr(callback, "select", None) is whether:
        return  # a function of this file, which Keras cannot import by name
    saved = json.dumps(keras.saving.serialize_keras_object(callback))
    again = keras.saving.deserialize_keras_object(json.loads(saved))
    assert type(again) is type(callback)
    assert again.get_config() == callback.get_config()


def test_layers_are_configured_by_their_names():
    model = compiled()
    groups = [model.get_layer("low"), [model.get_layer("middle"), "head"]]
    config = GradualUnfreeze(groups).get_config()
    assert config["groups"] == ["low", ["middle", "head"]]
    config = DiscriminativeLR(groups=layer_groups(model)).get_config()
    assert layer_groups(model, config["groups"]).names


@pytest.mark.parametrize("callback", CALLBACKS, ids=repr)
def test_repr_shows_what_differs_from_the_defaults(callback):
    text = repr(callback)
    assert text.startswith(type(callback).__name__)
    assert text.count("=") >= 1
    assert "=None" not in text


@pytest.mark.slow
def test_copies_made_in_the_midst_of_fit_train_on_their_own():
    ours = [GradualUnfreeze(GROUPS, every=1), DiscriminativeLR(), TrainOnly("kernel")]
    copies = []

    def take(epoch, logs):
        for act in (copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))):
            copies.append([act(callback) for callback in ours])

    spy = keras.callbacks.LambdaCallback(on_epoch_end=take)
    model = compiled()
    fit(model, [*ours, spy], epochs=2)
    for taken in copies:
        other = compiled()
        fit(other, [type(c).from_config(c.get_config()) for c in taken], epochs=2)
        one, two = reference.weights(other), reference.weights(model)
        assert reference.difference(one, two) == 0


def test_arguments_after_the_first_are_named():
    for kind in (GradualUnfreeze, DiscriminativeLR):
        with pytest.raises(TypeError, match="positional"):
            kind(None, 2.0)


@pytest.mark.parametrize("value", [1, "yes", np.True_, None])
def test_a_flag_is_a_bool(value):
    with pytest.raises(TypeError, match="log="):
        DiscriminativeLR(log=value)


def test_a_choice_is_no_array_and_no_bool():
    for value in (np.array([0, 1]), True):
        with pytest.raises(ValueError, match="verbose"):
            GradualUnfreeze(verbose=value)
