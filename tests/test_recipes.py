"""Recipes are lists of callbacks, and what is printed makes the same list."""

import numpy as np
import pytest

import keras_finetune
from keras_finetune import fine_tune, recipes
from keras_finetune._engine import backend, keras

NAMES = ("lp-ft", "ulmfit", "layer-decay", "fastai", "bias", "lora")
EXPECTED = {
    "lp-ft": (
        "[GradualUnfreeze(groups=2, every=[4], learning_rate_factor=0.1, "
        "bias_correction='group'), "
        "OneCycle(pct_start=[0.1, 0.5], momentum=None, per='stage')]"
    ),
    "ulmfit": (
        "[GradualUnfreeze(every=1), DiscriminativeLR(decay=2.6), SlantedTriangular()]"
    ),
    "bias": "[TrainOnly(select='bias'), SlantedTriangular()]",
    "lora": "[TrainOnly(select='lora'), SlantedTriangular()]",
}


def test_all_recipes_are_here():
    assert tuple(recipes._RECIPES) == NAMES


@pytest.mark.parametrize("name", EXPECTED)
def test_a_recipe_is_a_list_of_these_callbacks(name):
    assert repr(fine_tune(12, recipe=name)) == EXPECTED[name]


@pytest.mark.parametrize("name", NAMES)
def test_what_is_printed_makes_the_same_callbacks(name):
    recipe = fine_tune(12, recipe=name)
    made = eval(str(recipe), vars(keras_finetune))  # the words that a user would type
    assert type(recipe) is type(made) is list
    assert repr(made) == repr(recipe)


def test_each_call_makes_new_callbacks():
    one, other = fine_tune(12), fine_tune(12)  # alive together, or ids are used again
    assert not {*map(id, one)} & {*map(id, other)}


def test_the_default_is_one_of_them():
    assert repr(fine_tune(12)) in [repr(fine_tune(12, recipe=name)) for name in NAMES]


@pytest.mark.slow
def test_each_stage_of_a_probe_can_have_its_own_rate():
    model = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(3), keras.layers.Dense(1)]
    )
    model.compile(keras.optimizers.Adam(0.7), "mse")  # whatever the rate is
    callbacks = fine_tune(3, recipe="lp-ft", rates=[0.04, 0.001])
    x = np.ones((8, 4), "float32")
    model.fit(x, x[:, :1], epochs=3, verbose=0, callbacks=callbacks)
    rates = [stage["learning_rate"] for stage in callbacks[0].history]
    np.testing.assert_allclose(rates, [0.04, 0.001], rtol=1e-5)
    assert "learning_rates=[0.04, 0.001]" in repr(callbacks)


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ({"epochs": 0}, ValueError, "epochs"),
        ({"epochs": 2.0}, TypeError, "epochs"),
        ({"epochs": 1}, ValueError, "at least 2"),
        ({"epochs": 1, "recipe": "fastai"}, ValueError, "at least 2"),
        ({"epochs": 4, "recipe": "best"}, ValueError, "recipe"),
        ({"epochs": 4, "cache": 1}, TypeError, "cache"),
        ({"epochs": 4, "rates": 0.1}, TypeError, "list of two"),
        ({"epochs": 4, "rates": [0.1, 0.01, 0.001]}, TypeError, "list of two"),
        ({"epochs": 4, "rates": [0.1, None]}, TypeError, "`reason`"),
        ({"epochs": 4, "rates": [0.1, 0.0]}, ValueError, "rates"),
        ({"epochs": 4, "rates": [0.1, 1], "recipe": "bias"}, ValueError, "lp-ft"),
        (
            {"epochs": 4, "recipe": "fastai", "cache": True},
            ValueError,
            "nothing to cache",
        ),
    ],
)
def test_bad_arguments_are_refused(arguments, error, said):
    with pytest.raises(error, match=said):
        fine_tune(**arguments)


CASES = [(name, False) for name in NAMES if name != "lora"]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "cache"), [*CASES, ("lp-ft", True)])
@pytest.mark.filterwarnings("ignore:.*fit. ended in stage")
@pytest.mark.filterwarnings("ignore:.*end before these groups train")
def test_a_recipe_runs(name, cache):
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(3, name="low"),
            layers.Dense(3, name="middle"),
            layers.Dense(1, name="head"),
        ]
    )
    eager = {"run_eagerly": True} if backend() == "tensorflow" else {}
    model.compile(keras.optimizers.Adam(0.01), "mse", **eager)
    x = np.random.default_rng(0).normal(size=(16, 4)).astype("float32")
    before = model.get_weights()
    history = model.fit(
        x, x[:, :1], batch_size=8, epochs=3, verbose=0,
        callbacks=fine_tune(3, recipe=name, cache=cache),
    )  # fmt: skip
    assert np.isfinite(history.history["loss"]).all()
    assert not np.array_equal(before[-1], model.get_weights()[-1])
    assert keras_finetune.fine_tune is fine_tune
