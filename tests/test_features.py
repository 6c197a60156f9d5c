"""`cache_features`: what `predict` of the frozen part gives, and nothing is left."""

import numpy as np
import pytest

from keras_finetune import cache_features
from keras_finetune._engine import keras

layers = keras.layers


def images(rows=11):
    return np.random.default_rng(0).normal(size=(rows, 6, 6, 2)).astype("float32")


def body():
    return keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            layers.Dense(4),
            layers.BatchNormalization(),
            layers.Dropout(0.5),
            layers.Dense(6, activation="relu", name="last"),
        ],
        name="body",
    )


def pooled(backbone):
    inputs = keras.Input((6, 6, 2))
    x = layers.GlobalAveragePooling2D(name="pool")(backbone(inputs))
    return keras.Model(inputs, layers.Dense(3, name="head")(layers.Dropout(0.3)(x)))


@pytest.mark.slow
def test_they_are_those_of_predict_and_a_head_on_them_predicts_alike():
    backbone = body()
    backbone.trainable = False
    model = pooled(backbone)
    x = images()
    expected = keras.Model(model.inputs, model.get_layer("pool").output)
    expected = expected.predict(x, batch_size=4, verbose=0)
    before = model.predict(x, batch_size=4, verbose=0)
    attributes = {name: id(value) for name, value in vars(model).items()}

    features = cache_features(model, x, batch_size=4, verbose=0)
    np.testing.assert_array_equal(features.x, expected)
    assert features.y is None
    assert repr(features).endswith("11 rows: what comes out of 'pool', 24 bytes a row>")
    assert {name: id(value) for name, value in vars(model).items()} == attributes
    np.testing.assert_array_equal(model.predict(x, batch_size=4, verbose=0), before)

    kernel = np.random.default_rng(2).normal(size=(6, 3)).astype("float32")
    model.get_layer("head").set_weights([kernel, np.zeros(3)])
    predicted = model.predict(x, verbose=0)
    np.testing.assert_allclose(predicted, features.x @ kernel, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_inside_a_nested_model_and_with_the_targets_of_the_data():
    backbone = body()
    for layer in backbone.layers[:2]:
        layer.trainable = False
    x, y = images(), np.arange(11)
    pairs = ((x[i : i + 4], y[i : i + 4]) for i in range(0, 11, 4))
    features = cache_features(pooled(backbone), pairs, steps=3, verbose=0)
    assert features.layer == backbone.layers[1].name
    below = keras.Sequential([keras.Input((6, 6, 2)), *backbone.layers[:2]])
    np.testing.assert_array_equal(features.x, below.predict(x, batch_size=4, verbose=0))
    np.testing.assert_array_equal(features.y, y)


@pytest.mark.slow
def test_several_tensors_and_inputs_by_name():
    a, b = keras.Input((3,), name="a"), keras.Input((2,), name="b")
    low = [layers.Dense(4, trainable=False)(x) for x in (a, b)]
    joined = layers.Dense(2, name="head")(layers.Concatenate(name="both")(low))
    outputs = [joined, layers.Dense(1, name="other")(low[0])]
    model = keras.Model({"a": a, "b": b}, outputs)
    x = {"a": np.ones((5, 3), "float32"), "b": np.ones((5, 2), "float32")}
    features = cache_features(model, x, verbose=0)
    below = keras.Model({"a": a, "b": b}, low).predict(x, verbose=0)
    assert isinstance(features.x, tuple)
    found = sorted(features.x, key=lambda array: array.sum())
    expected = sorted(below, key=lambda array: array.sum())
    assert all(map(np.array_equal, found, expected))


@pytest.mark.once
def test_a_model_without_frozen_features_is_refused():
    model = pooled(body())
    with pytest.raises(ValueError, match="frozen layers .* which trains"):
        cache_features(model, images())
    model.get_layer("body").layers[0].trainable = False
    model.get_layer("body").layers[0].activity_regularizer = "l2"
    with pytest.raises(ValueError, match="which has an activity regularizer"):
        cache_features(model, images())
    with pytest.raises(ValueError, match="`model` must have weights"):
        cache_features(keras.Sequential([layers.Dense(2)]), images())

    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.head = layers.Dense(3)

        def call(self, inputs):
            return self.head(inputs)

    own = Own()
    own(images())
    with pytest.raises(ValueError, match="`cache_features` needs a functional"):
        cache_features(own, images())
