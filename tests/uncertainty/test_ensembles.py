"""Several trained models as samples of one prediction."""

import numpy as np
import pytest

from keras_finetune._engine import keras
from keras_finetune.uncertainty import MCPrediction, ensemble_predict

layers = keras.layers

X = np.random.default_rng(0).normal(size=(10, 4)).astype("float32")


def model(seed, activation="softmax", units=3):
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [keras.Input((4,)), layers.Dense(units, activation=activation)]
    )


@pytest.fixture(scope="module")
def models():
    return [model(seed) for seed in range(3)]


@pytest.mark.slow
def test_each_model_is_a_sample(models):
    prediction = ensemble_predict(models, X, keep_samples=True, verbose=0)
    known = MCPrediction.from_samples([m.predict(X, verbose=0) for m in models])
    assert repr(prediction) == (
        "<MCPrediction: 3 samples (kept) of probabilities (10, 3), ensemble>"
    )
    np.testing.assert_allclose(prediction.samples, known.samples, rtol=1e-6)
    for measure in ("mean", "variance", "mutual_information", "variation_ratio"):
        np.testing.assert_allclose(
            getattr(prediction, measure), getattr(known, measure), rtol=1e-6, atol=1e-9
        )


def test_samples_are_kept_on_request_only(models):
    with pytest.raises(ValueError, match="keep_samples=True"):
        _ = ensemble_predict(models, X, verbose=0).samples


@pytest.mark.slow
def test_weights_of_one_model_follow_one_another(models):
    one = model(9)

    def ends_of_stages():
        for other in models:
            one.set_weights(other.get_weights())
            yield one

    found = ensemble_predict(ends_of_stages(), X, batch_size=4, verbose=0)
    known = ensemble_predict(models, X, verbose=0)
    np.testing.assert_allclose(found.mean, known.mean, rtol=1e-6)
    np.testing.assert_allclose(found.std, known.std, rtol=1e-5, atol=1e-8)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("activation", "loss", "kind"),
    [
        ("softmax", None, "probabilities"),
        ("sigmoid", None, "binary"),
        (None, None, "values"),
        (None, "mse", "values"),
        (
            None,
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            "logits",
        ),
    ],
)
def test_what_the_outputs_are_is_told_by_the_model(activation, loss, kind):
    several = [model(seed, activation) for seed in (1, 2)]
    if loss is not None:
        for member in several:
            member.compile("sgd", loss)
    assert ensemble_predict(several, X, verbose=0).kind == kind
    assert ensemble_predict(several, X, output="values", verbose=0).kind == "values"


def test_the_last_layer_of_a_nested_model_tells_as_well():
    def nested(seed):
        inputs = keras.Input((4,))
        return keras.Model(inputs, model(seed, "sigmoid")(inputs))

    prediction = ensemble_predict([nested(1), nested(2)], X, verbose=0)
    assert prediction.kind == "binary"


def test_models_of_several_outputs_give_a_prediction_for_each():
    def two_heads(seed):
        keras.utils.set_random_seed(seed)
        inputs = keras.Input((4,))
        classes = layers.Dense(3, activation="softmax")(inputs)
        return keras.Model(inputs, {"b": layers.Dense(1)(inputs), "a": classes})

    found = ensemble_predict([two_heads(1), two_heads(2)], X, verbose=0)
    assert {name: part.kind for name, part in found.items()} == {
        "a": "probabilities",
        "b": "values",
    }
    assert found["b"].std.min() > 0


def test_models_that_are_alike_are_no_ensemble(models):
    with pytest.warns(UserWarning, match="Model 1 of the ensemble predicts exactly"):
        ensemble_predict([models[0], models[0]], X, verbose=0)


def test_a_dataset_that_shuffles_in_each_pass_is_refused(models):
    tf = pytest.importorskip("tensorflow")
    dataset = tf.data.Dataset.from_tensor_slices(X)
    with pytest.raises(ValueError, match="same order each time"):
        ensemble_predict(models, dataset.shuffle(10).batch(4), verbose=0)
    fixed = dataset.shuffle(10, seed=1, reshuffle_each_iteration=False).batch(4)
    assert ensemble_predict(models, fixed, verbose=0).mean.shape == (10, 3)


@pytest.mark.slow
def test_bad_input_is_refused(models):
    for bad, error, message in (
        (models[0], TypeError, "`models` must be a list"),
        ("models", TypeError, "`models` must be a list"),
        ([], ValueError, "two models.*Received: 0"),
        (models[:1], ValueError, "two models.*Received: 1"),
        (iter(models[:1]), ValueError, "two models.*Received: 1"),
        ([models[0], "other"], TypeError, "'other'.*position 1"),
        ([models[0], model(1, units=2)], ValueError, r"\(10, 2\).*position 1"),
    ):
        with pytest.raises(error, match=message):
            ensemble_predict(bad, X, verbose=0)
    with pytest.raises(ValueError, match="`x`.*not an iterator"):
        ensemble_predict(models, iter([X]), verbose=0)
    with pytest.raises(ValueError, match="`output`.*1 kind"):
        ensemble_predict(models, X, output=["values", "values"], verbose=0)
    with pytest.raises(ValueError, match="`output`.*what the models give"):
        ensemble_predict(
            [model(1, None), model(2, None)], 9 * X, output="binary", verbose=0
        )


@pytest.mark.slow
def test_a_member_that_predicts_nan_is_named(models):
    broken = model(4)
    broken.set_weights([np.full(w.shape, np.nan) for w in broken.get_weights()])
    with pytest.raises(ValueError, match="NaN of the model at position 3"):
        ensemble_predict([*models, broken], X, verbose=0)
