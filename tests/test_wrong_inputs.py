"""What a stranger may type by mistake, and what the answer must say."""

import numpy as np
import pytest
import reference

from keras_finetune import (
    DiscriminativeLR,
    FeatureCache,
    GradualUnfreeze,
    OneCycle,
    RateSearch,
    TrainOnly,
    WeightNormLogger,
    convert_dropout,
    find_learning_rate,
    fine_tune,
    layer_groups,
    mc_predict,
)
from keras_finetune._engine import keras

DATA = reference.make_data()
GROUPS = ["low", "middle", "head"]
X = np.zeros((4, 8), "float32")


def compiled(optimizer=None):
    model = reference.make_model()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer or keras.optimizers.SGD(0.5), loss)
    return model


def scheduled():
    schedule = keras.optimizers.schedules.CosineDecay(0.1, 100)
    return compiled(keras.optimizers.SGD(schedule))


def with_dropout(units=3, activation="softmax"):
    dense = keras.layers.Dense(units, activation=activation)
    return keras.Sequential([keras.Input((8,)), keras.layers.Dropout(0.5), dense])


def fit(callback, model=None):
    model = model or compiled()
    before, flags = reference.weights(model), [v.trainable for v in model.weights]
    try:
        callbacks = callback if isinstance(callback, list) else [callback]
        reference.fit(model, DATA, epochs=1, callbacks=callbacks)
    except BaseException:
        assert reference.difference(before, reference.weights(model)) == 0
        assert [v.trainable for v in model.weights] == flags
        assert "make_train_function" not in vars(model)
        raise


def predicted(**arguments):
    return mc_predict(with_dropout(**arguments), X, samples=2, verbose=0)


# Refused where it is written: what is typed, the error, and words of its message.
AT_ONCE = {
    "every=0": (lambda: GradualUnfreeze(every=0), ">= 1"),
    "every='2'": (lambda: GradualUnfreeze(every="2"), "an integer"),
    "every=1.5": (lambda: GradualUnfreeze(every=1.5), "an integer"),
    "every=[4, 1]": (lambda: GradualUnfreeze(every=[4, 1]), "a rising list"),
    "groups='4'": (lambda: GradualUnfreeze("4"), "of type str"),
    "groups='low'": (lambda: DiscriminativeLR(groups="low"), "of type str"),
    "groups=0": (lambda: WeightNormLogger(by="group", groups=0), ">= 1"),
    "groups=3.5": (lambda: GradualUnfreeze(3.5), "of type float"),
    "groups=True": (lambda: GradualUnfreeze(True), "of type bool"),
    "decay=0.75": (lambda: DiscriminativeLR(0.75), "decay=1 / 0.75"),
    "decay=-1": (lambda: DiscriminativeLR(-1), ">= 1"),
    "decay='2.6'": (lambda: DiscriminativeLR("2.6"), "finite number"),
    "decay and bounds": (
        lambda: DiscriminativeLR(2.6, bounds=(1e-5, 1e-3)),
        "Only one of",
    ),
    "multipliers=[-1, 1]": (
        lambda: DiscriminativeLR(multipliers=[-1, 1]),
        r"multipliers\[0\]=-1",
    ),
    "multipliers={'low': '1'}": (
        lambda: DiscriminativeLR(multipliers={"low": "1"}),
        r"multipliers\['low'\]='1'",
    ),
    "bounds=(0, 1)": (lambda: DiscriminativeLR(bounds=(0, 1)), r"bounds\[0\]=0"),
    "bounds=slice(1e-3)": (lambda: DiscriminativeLR(bounds=slice(1e-3)), "a pair"),
    "learning_rates=[1e-2, 0]": (
        lambda: GradualUnfreeze(learning_rates=[1e-2, 0]),
        r"learning_rates\[1\]=0",
    ),
    "every=[0, 1]": (lambda: GradualUnfreeze(every=[0, 1]), r"every\[0\]=0"),
    "rates=[1e-2, -1]": (lambda: fine_tune(3, rates=[1e-2, -1]), r"rates\[1\]=-1"),
    "searches as rates": (
        lambda: fine_tune(3, rates=[RateSearch.of(range(1, 99), [1.0] * 98)] * 2),
        "the `suggestion` of each",
    ),
    "div=[25, 0]": (lambda: OneCycle(div=[25, 0], per="stage"), r"div\[1\]=0"),
    "a file as folder": (lambda: FeatureCache(folder=__file__), "a folder"),
    "stage='all'": (
        lambda: find_learning_rate(compiled(), X, X[:, :1], stage="all"),
        "'each'",
    ),
    "multipliers=3.5": (lambda: DiscriminativeLR(multipliers=3.5), "a list"),
    "bounds reversed": (lambda: DiscriminativeLR(bounds=(1e-3, 1e-5)), "low <= high"),
    "bounds=1e-3": (lambda: DiscriminativeLR(bounds=1e-3), "a pair"),
    "monitor alone": (lambda: GradualUnfreeze(monitor="loss"), "needs `patience`"),
    "mode='up'": (
        lambda: GradualUnfreeze(monitor="loss", patience=1, mode="up"),
        "'auto', 'min', 'max'",
    ),
    "batch_norm='freeze'": (lambda: GradualUnfreeze(batch_norm="freeze"), "'frozen'"),
    "batch_norm=False": (lambda: GradualUnfreeze(batch_norm=False), "'frozen'"),
    "a layer": (lambda: TrainOnly(compiled().layers[-1]), "'head/'"),
    "select=''": (lambda: TrainOnly(""), "matches everything"),
    "no expression": (lambda: TrainOnly("block["), "unterminated"),
    "by='layers'": (lambda: WeightNormLogger(by="layers"), "'layer'"),
    "order=3": (lambda: WeightNormLogger(order=3), "'spectral'"),
    "order=True": (lambda: WeightNormLogger(order=True), "'spectral'"),
    "log=1": (lambda: DiscriminativeLR(log=1), "True or False"),
    "verbose=True": (lambda: GradualUnfreeze(verbose=True), "0, 1"),
    "a list of layers": (lambda: layer_groups(compiled().layers), "a Keras model"),
    "to='MC'": (lambda: convert_dropout(with_dropout(), to="MC"), "'mc'"),
    "columns missing": (
        lambda: mc_predict(with_dropout(), X[:, :5], samples=2),
        r"shape \(rows, 8\)",
    ),
    "one row": (lambda: mc_predict(with_dropout(), X[0], samples=2), r"x\[None\]"),
    "inputs and targets": (
        lambda: mc_predict(with_dropout(), (X, X[:, 0]), samples=2),
        "takes no targets",
    ),
    "batch_size=0": (
        lambda: mc_predict(with_dropout(), X, samples=2, batch_size=0),
        ">= 1",
    ),
    "samples='10'": (lambda: mc_predict(with_dropout(), X, samples="10"), "integer"),
    "no data": (
        lambda: mc_predict(with_dropout(), X[:0], samples=2),
        "one batch|non-empty",
    ),
    "no dropout": (lambda: mc_predict(compiled(), DATA[0], samples=2), "random_layers"),
    "interval(95)": (lambda: predicted().credible_interval(95), r"in \(0, 1\)"),
    "samples not kept": (
        lambda: predicted().credible_interval(0.9),
        "keep_samples=True",
    ),
    "entropy of a regression": (
        lambda: predicted(units=1, activation=None).predictive_entropy,
        "probabilities",
    ),
}

# Refused before the first batch, and nothing has changed.
IN_FIT = {
    "a typo in a list": (GradualUnfreeze(["lwo", "middle", "head"]), "Did you mean"),
    "a typo in a key": (DiscriminativeLR(multipliers={"midle": 0.5}), "Did you mean"),
    "no variable": (TrainOnly("gamma"), "low/kernel"),
    "every too long": (GradualUnfreeze(GROUPS, every=[1, 2, 3, 4]), "fewer epochs"),
    "every too short": (GradualUnfreeze(GROUPS, every=[1]), "groups=2"),
    "head first": (GradualUnfreeze(GROUPS[::-1]), "Bottom to top"),
    "groups=1": (GradualUnfreeze(1), "is left to unfreeze"),
    "groups=50": (GradualUnfreeze(50), "between 1 and 3"),
    "a layer left out": (GradualUnfreeze(["low", "head"]), "Left: middle"),
    "multipliers too few": (
        DiscriminativeLR(multipliers=[0.1, 1.0], groups=GROUPS),
        "each of the 3 groups",
    ),
    "multipliers for more groups": (
        DiscriminativeLR(multipliers=[0.1, 0.2, 0.5, 1]),
        "`multipliers` must have .* at most 3 groups",
    ),
    "a multiplier of None": (
        DiscriminativeLR(multipliers=lambda v: None),
        r"low/kernel\)=None",
    ),
    "a rate that nothing logs": (GradualUnfreeze(monitor="lr", patience=1), "'loss'"),
    "no multipliers": (DiscriminativeLR(multipliers=[]), r"multipliers=\[\]"),
    "LoRA that is not enabled": (TrainOnly("lora"), "enable_lora"),
    "a monitor with a typo": (GradualUnfreeze(monitor="lss", patience=1), "'loss'"),
    "nothing to monitor": (
        GradualUnfreeze(monitor="val_loss", patience=1),
        "validation_data",
    ),
}


@pytest.mark.parametrize("typed", AT_ONCE)
def test_refused_at_once(typed):
    act, message = AT_ONCE[typed]
    with pytest.raises((TypeError, ValueError), match=message):
        act()


@pytest.mark.parametrize("typed", IN_FIT)
def test_refused_before_the_first_batch(typed):
    callback, message = IN_FIT[typed]
    with pytest.raises((TypeError, ValueError), match=message):
        fit(callback)


def test_two_of_a_kind():
    for kind in (GradualUnfreeze, DiscriminativeLR, lambda: TrainOnly("bias")):
        with pytest.raises(ValueError, match="There can be one"):
            fit([kind(), kind()])


def test_bounds_on_a_schedule():
    with pytest.raises(ValueError, match="schedule"):
        fit(DiscriminativeLR(bounds=(1e-5, 1e-3)), scheduled())


def test_a_model_that_is_not_compiled():
    with pytest.raises((ValueError, RuntimeError), match="compile"):
        fit(GradualUnfreeze(), reference.make_model())


def test_groups_may_be_given_in_many_ways():
    model = compiled()
    named = layer_groups(model, GROUPS).names
    for groups in (tuple(GROUPS), model.layers, [model.get_layer("low"), *GROUPS[1:]]):
        assert layer_groups(model, groups).names == named
