"""One battery that every Monte Carlo layer passes."""

import json

import numpy as np
import pytest

from keras_finetune import layers as ours
from keras_finetune._engine import KERAS_3, keras

RATE = {"rate": 0.5}
LAYERS = {
    "MCDropout": (RATE, (40,)),
    "MCAlphaDropout": (RATE, (40,)),
    "MCGaussianDropout": (RATE, (40,)),
    "MCGaussianNoise": ({"stddev": 0.5}, (40,)),
    "MCSpatialDropout1D": (RATE, (3, 40)),
    "MCSpatialDropout2D": (RATE, (2, 3, 40)),
    "MCSpatialDropout3D": (RATE, (2, 2, 2, 40)),
}


@pytest.fixture(params=LAYERS)
def case(request):
    """The class, arguments, and inputs of ones."""
    arguments, shape = LAYERS[request.param]
    return getattr(ours, request.param), arguments, np.ones((5, *shape), "float32")


def numpy(x):
    return keras.ops.convert_to_numpy(x) if KERAS_3 else x.numpy()


def make(cls, arguments, x, **more):
    layer = cls(**arguments, seed=3, **more)
    model = keras.Sequential([keras.Input(x.shape[1:]), layer])
    model.compile("sgd", "mse")
    return model, layer


def standard(cls):
    return getattr(keras.layers, cls.__name__.removeprefix("MC"))


def test_every_layer_is_tested():
    assert {name for name in ours.__all__ if name.startswith("MC")} == set(LAYERS)


@pytest.mark.slow
def test_active_in_predict_evaluate_and_fit(case):
    cls, arguments, x = case
    model, _ = make(cls, arguments, x)
    first, second = (model.predict(x, verbose=0) for _ in range(2))
    assert first.std() > 0
    assert not np.array_equal(first, second)
    y = np.random.default_rng(0).normal(size=x.shape).astype("float32")
    losses = [model.evaluate(x, y, verbose=0) for _ in range(2)]
    losses += model.fit(x, y, epochs=2, verbose=0).history["loss"]
    assert len(set(losses)) == 4


def test_training_false_has_no_say(case):
    cls, arguments, x = case
    layer = cls(**arguments)
    for training in (None, False, True):
        assert numpy(layer(x, training=training)).std() > 0


def test_the_distribution_is_that_of_the_standard_layer(case):
    cls, arguments, _ = case
    x = np.ones((2000, *LAYERS[cls.__name__][1]), "float32")
    mine = numpy(cls(**arguments, seed=1)(x))
    theirs = numpy(standard(cls)(**arguments, seed=2)(x, training=True))
    # Independent draws: rows, and features of each.
    tolerance = 6 / np.sqrt(2000 * 40)
    assert mine.shape == theirs.shape
    assert abs(mine.mean() - theirs.mean()) < tolerance
    assert abs(mine.std() - theirs.std()) < tolerance
    assert abs((mine == 0).mean() - (theirs == 0).mean()) < tolerance


def test_maps_are_dropped_as_a_whole():
    for name in ("MCSpatialDropout1D", "MCSpatialDropout2D", "MCSpatialDropout3D"):
        arguments, shape = LAYERS[name]
        outputs = numpy(getattr(ours, name)(**arguments)(np.ones((5, *shape))))
        maps = outputs.reshape(5, -1, shape[-1])
        np.testing.assert_array_equal(maps, maps[:, :1] + 0 * maps)
        assert set(np.unique(maps)) == {0, 2}


def test_channels_first():
    layer = ours.MCSpatialDropout2D(0.5, data_format="channels_first")
    outputs = numpy(layer(np.ones((2, 30, 2, 2), "float32")))
    assert (outputs.std(axis=(2, 3)) == 0).all()
    assert layer.get_config()["data_format"] == "channels_first"


def test_config_round_trip(case):
    cls, arguments, x = case
    layer = cls(**arguments, seed=7, name="noise")
    config = json.loads(json.dumps(layer.get_config()))
    again = cls.from_config(config)
    assert again.get_config() == layer.get_config()
    assert again.name == "noise"
    assert again.seed == 7
    serialized = keras.saving.serialize_keras_object(layer)
    assert serialized["registered_name"] == f"keras_finetune>{cls.__name__}"
    assert type(keras.saving.deserialize_keras_object(serialized)) is cls
    assert layer.compute_output_shape(x.shape) == x.shape


def test_save_and_load(case, tmp_path):
    cls, arguments, x = case
    model, _ = make(cls, arguments, x, name="noise")
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert type(loaded.get_layer("noise")) is cls
    assert loaded.get_layer("noise").get_config() == model.layers[-1].get_config()
    assert loaded.predict(x, verbose=0).std() > 0


def test_the_seed_decides(case):
    cls, arguments, x = case
    if not KERAS_3:
        # What a seed means for the stateful operations of Keras 2 hangs on how many
        # were made before.
        keras.utils.set_random_seed(1)
        first = numpy(cls(**arguments, seed=3)(x))
        keras.utils.set_random_seed(1)
    else:
        first = numpy(cls(**arguments, seed=3)(x))
    np.testing.assert_array_equal(numpy(cls(**arguments, seed=3)(x)), first)
    assert not np.array_equal(numpy(cls(**arguments, seed=4)(x)), first)


def test_half_precision(case):
    cls, arguments, x = case
    policy = (
        "mixed_float16" if KERAS_3 else keras.mixed_precision.Policy("mixed_float16")
    )
    layer = cls(**arguments, dtype=policy)
    outputs = numpy(layer(x))
    assert outputs.dtype == np.float16
    assert outputs.std() > 0


def test_masks_pass_through(case):
    cls, arguments, _ = case
    assert cls(**arguments).supports_masking


def test_noise_shape_is_obeyed():
    x = np.ones((6, 3, 40), "float32")
    for cls in (ours.MCDropout, ours.MCAlphaDropout):
        if KERAS_3 or cls is ours.MCDropout:
            outputs = numpy(cls(0.5, noise_shape=(None, 1, None))(x))
            assert (outputs.std(axis=1) == 0).all()
        assert cls(0.5, noise_shape=(6, 1, 40)).get_config()["noise_shape"]


def test_gradients_pass():
    model = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(8),
            ours.MCDropout(0.5),
            keras.layers.Dense(1),
        ]
    )
    model.compile("sgd", "mse")
    before = model.get_weights()
    model.fit(np.ones((8, 4)), np.ones((8, 1)), verbose=0)
    changed = [not np.array_equal(a, b) for a, b in zip(before, model.get_weights())]
    assert all(changed)


@pytest.mark.parametrize("rate", [1, 1.5, -0.1, float("nan")])
def test_rates_outside_are_refused(rate):
    for name, (arguments, _) in LAYERS.items():
        if "rate" in arguments:
            with pytest.raises(ValueError, match="`rate`.*Received: rate="):
                getattr(ours, name)(rate)


def test_what_is_no_rate_is_refused():
    for rate in ("half", None, True):
        with pytest.raises(TypeError, match="`rate`.*Received: rate="):
            ours.MCDropout(rate)
    with pytest.raises(ValueError, match="`stddev`.*Received: stddev=-1"):
        ours.MCGaussianNoise(-1)


def test_a_rate_of_zero_does_nothing():
    x = np.ones((2, 3), "float32")
    np.testing.assert_array_equal(numpy(ours.MCDropout(0)(x)), x)
