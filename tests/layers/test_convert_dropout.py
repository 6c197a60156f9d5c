"""Converted models: the same but for their dropout, and back again the same."""

import json
from pathlib import Path

import numpy as np
import pytest

from keras_finetune import layers as ours
from keras_finetune._engine import keras
from keras_finetune.layers import MCDropout, convert_dropout

layers = keras.layers
X = np.random.default_rng(0).normal(size=(6, 8)).astype("float32")


def functional():
    inputs = keras.Input((8,), name="features")
    x = layers.Dense(6, name="body")(inputs)
    x = layers.BatchNormalization()(x)
    x = layers.Dropout(0.5, seed=1, name="noise")(x)
    return keras.Model({"features": inputs}, layers.Dense(2)(x), name="classifier")


def sequential():
    return keras.Sequential(
        [keras.Input((8,)), layers.Dense(6), layers.GaussianNoise(0.5)], name="stack"
    )


def built_by_its_inputs():
    model = keras.Sequential([layers.Dense(6), layers.AlphaDropout(0.5)])
    model(X)
    return model


def nested():
    inner = keras.Sequential(
        [keras.Input((8,)), layers.Dense(8), layers.Dropout(0.5)], name="inner"
    )
    x = keras.Input((8,))
    middle = keras.Model(x, layers.GaussianDropout(0.5)(inner(x)), name="middle")
    inputs = keras.Input((8,))
    x = layers.Reshape((2, 4))(middle(inputs))
    x = layers.TimeDistributed(layers.Dropout(0.5), name="wrapped")(x)
    return keras.Model(inputs, layers.SpatialDropout1D(0.5)(x))


@keras.saving.register_keras_serializable(package="tests")
class Subclassed(keras.Model):
    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.dense = layers.Dense(units)
        self.noises = [layers.Dropout(0.5), layers.GaussianNoise(0.5)]

    def call(self, inputs, training=None):
        x = self.dense(inputs)
        for noise in self.noises:
            x = noise(x, training=training)
        return x

    def get_config(self):
        return {**super().get_config(), "units": self.units}


def subclassed():
    model = Subclassed(3)
    model(X)
    return model


class Closed(keras.Model):
    """Without a configuration that makes it again."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer
        self.dropout = layers.Dropout(0.5)

    def call(self, inputs, training=None):
        return self.dropout(self.layer(inputs), training=training)

    def get_config(self):
        raise NotImplementedError


MODELS = (functional, sequential, built_by_its_inputs, nested, subclassed)


@pytest.fixture(params=MODELS, ids=lambda make: make.__name__)
def model(request):
    return request.param()


def predict(model):
    x = {"features": X} if model.name == "classifier" else X
    return model.predict(x, verbose=0)


def config(model):
    """All but the shapes that a layer happened to be built with."""

    def strip(part):
        if isinstance(part, dict):
            return {k: strip(v) for k, v in part.items() if k != "build_config"}
        return [strip(x) for x in part] if isinstance(part, (list, tuple)) else part

    return json.dumps(strip(model.get_config()), default=str)


def kinds(model):
    return [type(layer).__name__ for layer in model._flatten_layers()]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Converted, but inside")
def test_there_and_back_is_the_same(model):
    expected = predict(model)
    converted = convert_dropout(model)
    assert not np.array_equal(predict(converted), predict(converted))
    known = [name.removeprefix("MC") for name in kinds(converted)]
    assert known == [name.removeprefix("MC") for name in kinds(model)]
    assert any(name.startswith("MC") for name in kinds(converted))
    back = convert_dropout(converted, to="standard")
    assert kinds(back) == kinds(model)
    assert config(back) == config(model)
    np.testing.assert_array_equal(predict(back), expected)
    # And nothing happened to the model.
    np.testing.assert_array_equal(predict(model), expected)


@pytest.mark.filterwarnings("ignore:Converted, but inside")
def test_a_copy_has_weights_of_its_own(model):
    converted = convert_dropout(model)
    if not model.weights:
        pytest.skip("no weights")
    shared = {id(weight) for weight in model.weights}
    assert not shared & {id(weight) for weight in converted.weights}
    for mine, theirs in zip(converted.get_weights(), model.get_weights()):
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.slow
def test_weights_can_be_shared():
    for make in (functional, sequential, nested):
        model = make()
        names = kinds(model)
        converted = convert_dropout(model, weights="share")
        assert [id(w) for w in converted.weights] == [id(w) for w in model.weights]
        assert any(name.startswith("MC") for name in kinds(converted))
        assert kinds(model) == names
        np.testing.assert_array_equal(predict(model), predict(model))
        assert not np.array_equal(predict(converted), predict(converted))


@pytest.mark.slow
def test_inplace():
    model = nested()
    before = predict(model)
    names = [layer.name for layer in model._flatten_layers()]
    assert convert_dropout(model, inplace=True) is model
    assert [layer.name for layer in model._flatten_layers()] == names
    assert not np.array_equal(predict(model), predict(model))
    convert_dropout(model, to="standard", inplace=True)
    np.testing.assert_array_equal(predict(model), before)


def test_a_converted_model_is_saved_and_loaded(tmp_path):
    converted = convert_dropout(functional())
    converted.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert type(loaded.get_layer("noise")) is MCDropout
    loaded.get_layer("noise").rate = converted.get_layer("noise").rate = 0.0
    np.testing.assert_allclose(predict(loaded), predict(converted), rtol=1e-6)


def test_flags_and_names_stay():
    model = functional()
    model.get_layer("body").trainable = False
    converted = convert_dropout(model)
    assert not converted.get_layer("body").trainable
    assert converted.name == "classifier"
    assert converted.get_layer("noise").get_config() == {
        **model.get_layer("noise").get_config()
    }
    # Inputs by name are still understood.
    converted.predict({"features": X}, verbose=0)


def test_all_kinds_are_converted():
    model = keras.Sequential([keras.Input((4, 4, 4, 2))])
    model.add(layers.SpatialDropout3D(0.1))
    model.add(layers.Reshape((8, 8, 2)))
    model.add(layers.SpatialDropout2D(0.1))
    model.add(layers.Reshape((64, 2)))
    model.add(layers.SpatialDropout1D(0.1))
    for name in ("Dropout", "AlphaDropout", "GaussianDropout", "GaussianNoise"):
        model.add(getattr(layers, name)(0.1))
    converted = {name for name in kinds(convert_dropout(model)) if name[:2] == "MC"}
    assert converted == {name for name in ours.__all__ if name.startswith("MC")}


class Lazy(layers.Layer):
    """Makes a helper when it first sees data, as a preprocessor of KerasHub does."""

    def build(self, input_shape):
        self.helper = layers.Rescaling(2.0)

    def call(self, inputs):
        return self.helper(inputs)

    words = ()

    def save_assets(self, dir_path):
        (Path(dir_path) / "words").write_text(" ".join(self.words), encoding="utf-8")

    def load_assets(self, dir_path):
        self.words = tuple((Path(dir_path) / "words").read_text("utf-8").split())


@keras.saving.register_keras_serializable(package="tests")
class Task(keras.Model):
    def __init__(self, **kwargs):
        inputs = keras.Input((8,))
        body = layers.Dense(4, name="body")
        x = layers.Dropout(0.5)(body(inputs))
        super().__init__(inputs, layers.Dense(2)(x), **kwargs)
        self.preprocessor = Lazy()

    def get_config(self):
        return {"name": self.name}

    @classmethod
    def from_config(cls, config):
        return cls(**config)


def test_a_layer_that_a_preprocessor_made_late_is_no_hindrance():
    model = Task()
    model.get_layer("body").trainable = False
    model.preprocessor(X)
    assert hasattr(model.preprocessor, "helper")
    model.preprocessor.words = ("no", "weights")
    converted = convert_dropout(model)
    assert "MCDropout" in kinds(converted)
    assert not converted.get_layer("body").trainable
    assert converted.preprocessor.words == ("no", "weights")
    for mine, theirs in zip(converted.get_weights(), model.get_weights()):
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.slow
def test_what_a_file_does_not_keep_is_named():
    inputs = keras.Input((4, 6))
    x = layers.MultiHeadAttention(1, 2, dropout=0.5)(inputs, inputs)
    model = keras.Model(inputs, x)
    with pytest.warns(UserWarning, match="inside layers that make their dropout"):
        converted = convert_dropout(model)
    x = np.random.default_rng(0).normal(size=(3, 4, 6))
    first, second = (converted.predict(x, verbose=0) for _ in range(2))
    assert not np.array_equal(first, second)


def test_what_cannot_be_converted_is_named():
    inputs = keras.Input((4, 6))
    x = layers.LSTM(2, dropout=0.5, name="memory")(layers.Dropout(0.5)(inputs))
    with pytest.warns(UserWarning, match="counterpart: \\['memory'"):
        convert_dropout(keras.Model(inputs, x))


def test_a_subclass_of_dropout_is_left_alone():
    class Mine(layers.Dropout):
        pass

    model = keras.Sequential([keras.Input((8,)), Mine(0.5), layers.Dropout(0.5)])
    with pytest.warns(UserWarning, match="Left unchanged"):
        converted = convert_dropout(model)
    assert kinds(converted)[-2:] == ["Mine", "MCDropout"]


def test_what_cannot_be_rebuilt_is_converted_in_place():
    model = Closed(layers.Dense(3))
    model(X)
    with pytest.raises(ValueError, match="`inplace=True`.*NotImplementedError"):
        convert_dropout(model)
    with pytest.raises(ValueError, match=r"`inplace=True`.*be shared"):
        convert_dropout(model, weights="share")
    assert not any(name.startswith("MC") for name in kinds(model))
    with pytest.warns(UserWarning, match="A saved file"):
        convert_dropout(model, inplace=True)
    assert not np.array_equal(predict(model), predict(model))


def test_bad_arguments_are_refused():
    model = functional()
    for options in ({"to": "always"}, {"weights": "none"}, {"inplace": "yes"}):
        (name,) = options
        with pytest.raises(ValueError, match=f"`{name}`.*Received"):
            convert_dropout(model, **options)
    with pytest.raises(TypeError, match="`model`.*Received: model=3"):
        convert_dropout(3)
    still = keras.Sequential([keras.Input((8,)), layers.Dense(2)], name="still")
    with pytest.raises(ValueError, match="`model`.*Received: model='still'"):
        convert_dropout(still)
    full = keras.Sequential([keras.Input((8,)), layers.Dropout(1.0, name="full")])
    with pytest.raises(ValueError, match="rates below 1.*'full'"):
        convert_dropout(full)
    inputs = keras.Input((4, 6))
    x = layers.MultiHeadAttention(1, 2, dropout=0.5, name="mix")(inputs, inputs)
    with pytest.raises(ValueError, match="`weights`.*'mix'.*Received: weights='share'"):
        convert_dropout(keras.Model(inputs, x), weights="share")
