"""`mc_predict`: what is random, what is not, and that every kind of input works."""

import copy
import pickle
import random
import warnings

import numpy as np
import pytest

from keras_finetune._engine import KERAS_3, backend, keras
from keras_finetune._engine.sampling import _sampler
from keras_finetune.layers import MCDropout
from keras_finetune.uncertainty import MCPrediction, mc_predict

layers = keras.layers

X = np.random.default_rng(0).normal(size=(10, 8)).astype("float32")


def classifier(dropout=layers.Dropout):
    keras.utils.set_random_seed(1)
    inputs = keras.Input((8,))
    x = layers.Dense(16, activation="relu")(inputs)
    x = layers.BatchNormalization()(x)
    x = dropout(0.5)(x)
    return keras.Model(inputs, layers.Dense(3, activation="softmax")(x))


@pytest.fixture(scope="module")
def model():
    return classifier()


def predict(model, x=X, **options):
    options = {"samples": 6, "batch_size": 4, "seed": 1, "verbose": 0, **options}
    return mc_predict(model, x, **options)


# What is random


@pytest.mark.slow
def test_only_dropout_is_active():
    made = classifier()
    made.compile("sgd", "sparse_categorical_crossentropy")
    made.fit(X, np.arange(10) % 3, verbose=0)
    before = made.predict(X, verbose=0)
    variables = [variable.numpy().copy() for variable in made.variables]
    function = made.predict_function
    prediction = predict(made, keep_samples=True)
    for variable, value in zip(made.variables, variables):
        np.testing.assert_array_equal(variable.numpy(), value)
    assert made.predict_function is function
    np.testing.assert_array_equal(made.predict(X, verbose=0), before)
    assert (prediction.std > 0).all()

    # The last layer on the masked features, by hand.
    head = made.layers[-1]
    features = keras.Model(made.input, made.layers[-3].output)
    known = features.predict(X, verbose=0)
    logits = np.log(prediction.samples) - np.log(prediction.samples)[..., :1]
    kernel, bias = (weight.numpy() for weight in head.weights)
    kernel, bias = kernel - kernel[:, :1], bias - bias[:1]
    # Every feature is either dropped or doubled: solve for which, and it must fit.
    choices = (np.arange(2**16)[:, None] >> np.arange(16)) & 1
    possible = choices * 2.0
    for t, row in ((0, 0), (3, 9)):
        fits = (possible * known[row]) @ kernel + bias
        assert np.abs(fits - logits[t, row]).max(axis=-1).min() < 1e-4


@pytest.mark.slow
def test_with_the_same_masks_a_sample_equals_a_pass_of_its_own():
    inputs = keras.Input((8,))
    masked = layers.Dropout(0.5)(layers.Dense(16, activation="relu")(inputs))
    head = keras.Sequential(
        [keras.Input((16,)), layers.Dense(8, activation="tanh"), layers.Dense(2)]
    )
    made = keras.Model(inputs, [masked, head(masked)])
    masked, outputs = predict(made, keep_samples=True, samples=8)
    for t in range(8):
        alone = head.predict(masked.samples[t], verbose=0)
        # One ulp: a larger batch may be reduced in another order.
        np.testing.assert_allclose(outputs.samples[t], alone, rtol=1e-5, atol=1e-6)


@pytest.fixture(scope="module")
def bare_dropout():
    inputs = keras.Input((50,))
    return keras.Model(inputs, layers.Dropout(0.3)(inputs))


def masks_of(model, **options):
    ones = np.ones((12, 50), "float32")
    options = {"batch_size": 5, "samples": 100, "keep_samples": True, **options}
    prediction = predict(model, ones, output="values", **options)
    return prediction.samples


def test_masks_are_independent_between_samples_and_inputs(bare_dropout):
    values = masks_of(bare_dropout)
    kept = values > 0
    np.testing.assert_allclose(values[kept], 1 / 0.7, rtol=1e-6)
    n = kept.size
    assert abs(kept.mean() - 0.7) < 5 * np.sqrt(0.7 * 0.3 / n)
    # Two independent masks agree with probability p^2 + (1 - p)^2.
    agree = 0.7**2 + 0.3**2
    spread = np.sqrt(agree * (1 - agree) / n)
    assert abs((kept[1:] == kept[:-1]).mean() - agree) < 7 * spread
    assert abs((kept[:, 1:] == kept[:, :-1]).mean() - agree) < 7 * spread
    assert abs((kept[:, :, 1:] == kept[:, :, :-1]).mean() - agree) < 7 * spread


def test_shared_masks_are_one_a_sample_over_all_batches(bare_dropout):
    kept = masks_of(bare_dropout, masks="shared") > 0
    assert (kept == kept[:, :1]).all()
    first = kept[:, 0]
    assert abs(first.mean() - 0.7) < 5 * np.sqrt(0.7 * 0.3 / first.size)
    agree = 0.7**2 + 0.3**2
    spread = np.sqrt(agree * (1 - agree) / first.size)
    assert abs((first[1:] == first[:-1]).mean() - agree) < 7 * spread


def test_a_mask_that_a_layer_shares_over_the_batch_is_not_shared_over_samples():
    inputs = keras.Input((50,))
    made = keras.Model(inputs, layers.Dropout(0.5, noise_shape=(1, None))(inputs))
    kept = masks_of(made, samples=20, batch_size=12) > 0
    assert (kept == kept[:, :1]).all()
    assert len({mask.tobytes() for mask in kept[:, 0]}) == 20


SHARED = {
    "noise": lambda: layers.GaussianNoise(0.5),
    "gaussian": lambda: layers.GaussianDropout(0.5),
    "alpha": lambda: layers.AlphaDropout(0.5),
    "spatial": lambda: layers.SpatialDropout1D(0.5),
    "time": lambda: layers.TimeDistributed(layers.Dropout(0.5)),
    "recurrent": lambda: layers.GRU(4, recurrent_dropout=0.5, dropout=0.5),
    "attention": lambda: layers.MultiHeadAttention(2, 3, dropout=0.5),
}


@pytest.mark.parametrize("name", SHARED)
def test_masks_of_every_layer_can_be_shared(name):
    inputs = keras.Input((4, 6))
    layer = SHARED[name]()
    outputs = layer(inputs, inputs) if name == "attention" else layer(inputs)
    made = keras.Model(inputs, outputs)
    # The same input in every row: with a shared mask the same output, too.
    x = np.repeat(np.random.default_rng(0).normal(size=(1, 4, 6)), 4, axis=0)
    values = predict(
        made, x, masks="shared", keep_samples=True, batch_size=2, output="values"
    ).samples.reshape(6, 4, -1)
    np.testing.assert_allclose(values, values[:, :1] + 0 * values, rtol=1e-5, atol=1e-6)
    assert len({value.tobytes() for value in values[:, 0]}) > 3


def test_the_seed_decides(model):
    first = predict(model).mean
    np.testing.assert_array_equal(predict(model).mean, first)
    assert not np.array_equal(predict(model, seed=2).mean, first)
    assert not np.array_equal(predict(model, masks="shared").mean, first)


def test_without_a_seed_python_decides(model):
    random.seed(3)
    first = predict(model, seed=None)
    again = predict(model, seed=None)
    assert not np.array_equal(again.mean, first.mean)
    random.seed(3)
    np.testing.assert_array_equal(predict(model, seed=None).mean, first.mean)
    np.testing.assert_array_equal(predict(model, seed=first.seed).mean, first.mean)


def test_monte_carlo_layers_and_those_of_users_are_sampled_as_well():
    class AlwaysOn(layers.Dropout):
        def call(self, inputs):
            return super().call(inputs, training=True)

    for dropout in (MCDropout, AlwaysOn):
        prediction = predict(classifier(dropout))
        assert (prediction.std > 0).all()
        assert prediction.method == "prefix once"


def test_augmentation_stays_off_and_in_the_prefix():
    inputs = keras.Input((6, 6, 1))
    x = layers.RandomFlip()(inputs)
    made = keras.Model(inputs, [x, layers.Dropout(0.5)(layers.Flatten()(x))])
    images = np.random.default_rng(0).normal(size=(4, 6, 6, 1)).astype("float32")
    flipped, _ = predict(made, images)
    np.testing.assert_allclose(flipped.mean, images)
    assert flipped.std.max() == 0


class DropPath(layers.Layer):
    """A random layer that Keras does not have."""

    def __init__(self, rate, **kwargs):
        super().__init__(**kwargs)
        self.dropout = layers.Dropout(rate, noise_shape=(None, 1))
        self.norm = layers.BatchNormalization()

    def call(self, inputs, training=None):
        return self.norm(self.dropout(inputs, training=training), training=False)


def test_dropout_inside_a_layer_of_ones_own_is_found():
    inputs = keras.Input((8,))
    made = keras.Model(inputs, DropPath(0.5)(layers.Dense(4)(inputs)))
    prediction = predict(made)
    assert prediction.std.max() > 0
    assert prediction.method == "prefix once"


def test_a_function_layer_that_drops_is_found():
    if KERAS_3:
        generator = keras.random.SeedGenerator(1)

        def drop(x):
            return keras.random.dropout(x, 0.5, seed=generator)
    else:

        def drop(x):
            return keras.backend.dropout(x, 0.5)

    inputs = keras.Input((8,))
    made = keras.Model(inputs, layers.Lambda(drop, output_shape=(8,))(inputs))
    prediction = predict(made, output="values", keep_samples=True)
    assert len({sample.tobytes() for sample in prediction.samples}) == 6
    if KERAS_3:
        again = predict(made, output="values", masks="shared")
        assert again.std.max() > 0
    else:
        with pytest.raises(ValueError, match="`masks`.*'lambda"):
            predict(made, masks="shared")


class Noise(layers.Layer):
    """Random in training, by means that nobody can see from outside."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.inner = layers.Dense(8)
        if KERAS_3:
            self.generator = keras.random.SeedGenerator(1)

    def call(self, inputs, training=None):
        outputs = self.inner(inputs)
        if not training:
            return outputs
        if KERAS_3:
            return outputs + keras.random.normal((1, 8), seed=self.generator)
        return outputs + keras.backend.random_normal((1, 8))


def test_random_layers_can_be_named():
    inputs = keras.Input((8,))
    made = keras.Model(inputs, Noise(name="noise")(inputs))
    with pytest.raises(ValueError, match="`random_layers`"):
        predict(made)
    prediction = predict(made, random_layers=["noise"], keep_samples=True)
    assert len({sample.tobytes() for sample in prediction.samples}) == 6
    assert predict(made, random_layers=made.layers[1:]).std.max() > 0
    with pytest.raises(ValueError, match="Received: 'nose'"):
        predict(made, random_layers=["nose"])


@pytest.mark.keras2
def test_a_backbone_that_was_called_in_inference_mode_stays_in_it():
    backbone = classifier()
    inputs = keras.Input((8,))
    x = backbone(inputs, training=False)
    made = keras.Model(inputs, [x, layers.Dropout(0.5)(x)])
    fixed, sampled = predict(made, output=["values", "values"])
    assert fixed.std.max() == 0
    assert sampled.std.max() > 0


def test_a_call_in_training_mode_uses_and_moves_no_statistics():
    inputs = keras.Input((8,))
    x = layers.BatchNormalization(epsilon=0.0)(inputs, training=True)
    made = keras.Model(inputs, [x, layers.Dropout(0.5)(x, training=True)])
    before = made.layers[1].moving_mean.numpy().copy()
    normalised, dropped = predict(made)
    assert dropped.std.max() > 0
    np.testing.assert_allclose(normalised.mean, X, rtol=1e-6)
    np.testing.assert_array_equal(made.layers[1].moving_mean.numpy(), before)


@pytest.mark.keras2
def test_a_layer_that_keras_converts_still_is():
    class Signed(layers.Layer):
        def call(self, inputs):
            if keras.backend.sum(inputs) > 0:
                return inputs
            return -inputs

    inputs = keras.Input((8,))
    made = keras.Model(inputs, Signed()(layers.Dropout(0.5)(inputs)))
    assert predict(made).std.max() > 0


# Models


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(4)
        self.norm = layers.BatchNormalization()
        self.dropout = layers.Dropout(0.5)
        self.head = layers.Dense(3, activation="softmax")

    def call(self, inputs, training=None):
        x = self.norm(self.dense(inputs["a"]), training=training)
        x = self.dropout(x, training=training)
        return {"classes": self.head(x), "features": x}


def test_a_subclassed_model_is_sampled_as_a_whole():
    made = Subclassed()
    prediction = predict(made, {"a": X}, keep_samples=True)
    assert set(prediction) == {"classes", "features"}
    assert prediction["classes"].method == "whole model"
    assert prediction["classes"].kind == "probabilities"
    assert prediction["features"].kind == "values"
    assert (prediction["classes"].std > 0).all()
    statistics = made.norm.moving_mean.numpy()
    np.testing.assert_array_equal(statistics, 0 * statistics)


def test_half_precision_is_accumulated_in_double():
    policy = keras.mixed_precision.Policy("mixed_float16")
    if KERAS_3:
        policy = keras.dtype_policies.DTypePolicy("mixed_float16")
    inputs = keras.Input((8,))
    x = layers.Dropout(0.5, dtype=policy)(layers.Dense(16, dtype=policy)(inputs))
    made = keras.Model(inputs, layers.Dense(3, activation="softmax", dtype=policy)(x))
    prediction = predict(made, keep_samples=True)
    assert prediction.samples.dtype == np.float32
    assert prediction.mean.dtype == np.float64
    assert prediction.kind == "probabilities"
    np.testing.assert_allclose(
        prediction.mean, prediction.samples.astype("float64").mean(axis=0)
    )


@pytest.mark.slow
def test_inside_a_fit_it_sees_the_weights_of_the_moment_and_disturbs_nothing():
    y = np.arange(10) % 3
    found = []

    def fit(*callbacks):
        made = classifier()
        made.compile("adam", "sparse_categorical_crossentropy")
        made.fit(X, y, 4, 3, verbose=0, callbacks=list(callbacks), shuffle=False)
        return made

    class Watch(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            found.append(predict(self.model).mean)

    watched, alone = fit(Watch()), fit()
    for mine, theirs in zip(watched.get_weights(), alone.get_weights()):
        np.testing.assert_array_equal(mine, theirs)
    assert not np.array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[-1], predict(watched).mean)


# What `predict` does to its inputs


def task(rate=1e-6, **methods):
    """A functional model of a class that prepares its inputs, as KerasHub's tasks do.

    Dropout is so rare that its samples are what `predict` gives.
    """
    keras.utils.set_random_seed(1)
    inputs = keras.Input((8,))
    x = layers.Dropout(rate)(layers.Dense(16, activation="relu")(inputs))
    outputs = layers.Dense(3, activation="softmax")(x)
    return type("Task", (keras.Model,), methods)(inputs, outputs, name="task")


def lengths(x):
    """Strings as numbers: what no layer of the model could do."""
    table = {"short": 0.5, "longer": 2.0}
    return np.array([[table[word]] * 8 for word in x], "float32")


WORDS = ["short", "longer", "short"]


def prepares_in_predict(self, x, batch_size=None, **options):
    return keras.Model.predict(self, x=lengths(x), batch_size=batch_size, **options)


def refuses_strings(self, *args, **kwargs):
    if isinstance(args[0], list):
        raise ValueError("strings")
    return super(type(self), self).__call__(*args, **kwargs)


def test_a_task_predicts_what_its_predict_prepares():
    made = task(predict=prepares_in_predict, __call__=refuses_strings)
    prediction = predict(made, WORDS)
    np.testing.assert_allclose(
        prediction.mean, made.predict(WORDS, verbose=0), rtol=1e-5
    )
    # Neither override stands in the way of the cut.
    assert prediction.method == "prefix once"
    # Keras's own methods are back in place.
    assert "marker" not in repr(vars(keras.Model).get("predict"))
    plain = classifier()
    assert plain.predict(X, verbose=0).shape == (10, 3)


def scales_in_the_step(self, *args):
    *state, data = args
    x = keras.utils.unpack_x_y_sample_weight(data)[0]
    return super(type(self), self).predict_step(*state, (10.0 * x,))


def scales_in_call(self, inputs, training=None, mask=None):
    return super(type(self), self).call(10.0 * inputs, training=training)


def scales_in_dunder_call(self, inputs, **options):
    return super(type(self), self).__call__(10.0 * inputs, **options)


@pytest.mark.parametrize(
    ("name", "method"),
    [
        ("predict_step", scales_in_the_step),
        ("call", scales_in_call),
        ("__call__", scales_in_dunder_call),
    ],
    ids=["predict_step", "call", "dunder_call"],
)
def test_what_a_class_does_inside_a_step_is_sampled_with_it(name, method):
    made = task(**{name: method})
    prediction = predict(made)
    expected = made.predict(X, verbose=0)
    np.testing.assert_allclose(prediction.mean, expected, rtol=1e-4)
    if name == "__call__" and backend() == "jax":
        # There `predict` goes past it, to `call`.
        assert prediction.method == "prefix once"
    else:
        plain = task().predict(X, verbose=0)
        assert np.abs(plain - expected).max() > 0.01
        assert prediction.method == "whole model"
    assert predict(task(0.5, **{name: method})).std.max() > 0


def changes_outputs(self, x, **options):
    return np.round(keras.Model.predict(self, x, **options))


def predicts_twice(self, x, **options):
    keras.Model.predict(self, x, **options)
    return keras.Model.predict(self, x, **options)


def calls_itself(self, x, **options):
    return np.asarray(self(x))


@pytest.mark.parametrize(
    "methods",
    [
        {"predict": changes_outputs},
        {"predict": predicts_twice},
        {"predict": calls_itself},
        {"make_predict_function": lambda self, force=False: None},
    ],
    ids=["outputs", "twice", "itself", "function"],
)
def test_a_predict_that_cannot_be_followed_is_refused(methods):
    made = task(**methods)
    with pytest.raises(ValueError, match=r"`model`.*keras\.Model\(model.*class Task"):
        predict(made)
    # And the way out is one.
    assert predict(keras.Model(made.inputs, made.outputs)).mean.shape == (10, 3)


@pytest.mark.keras2
def test_dropout_that_fit_leaves_off_is_not_sampled_in_silence():
    backbone = classifier()
    inputs = keras.Input((8,))
    made = keras.Model(inputs, layers.Dense(2)(backbone(inputs, training=False)))
    with pytest.raises(ValueError, match="`training=False`.*`random_layers=.*'dropout"):
        predict(made)
    (name,) = (x.name for x in backbone.layers if isinstance(x, layers.Dropout))
    assert predict(made, random_layers=[name]).std.min() > 0


# Copies


@pytest.mark.slow
def test_a_model_that_was_sampled_is_copied_and_saved_as_ever(tmp_path):
    made = classifier()
    predict(made)
    expected = made.predict(X, verbose=0)
    made.save(tmp_path / "model.keras")
    for copied in (
        copy.deepcopy(made),
        pickle.loads(pickle.dumps(made)),
        keras.saving.load_model(tmp_path / "model.keras"),
    ):
        # Samplers would hold on to the layers of the model that they were made for.
        assert not copied.__dict__.get("_keras_finetune_samplers")
        np.testing.assert_allclose(copied.predict(X, verbose=0), expected, rtol=1e-6)
        np.testing.assert_array_equal(predict(copied).mean, predict(made).mean)


# Inputs


def two_inputs():
    # Not in the order of the alphabet, in which dicts are flattened.
    first, second = keras.Input((8,), name="one"), keras.Input((8,), name="another")
    x = layers.Concatenate()([layers.Dense(4)(first), layers.Dense(4)(second)])
    outputs = layers.Dense(2)(layers.Dropout(0.5)(x))
    return keras.Model([first, second], outputs)


@pytest.fixture(scope="module")
def expected(model):
    """Of the ten inputs as an array, in batches of 4, 4 and 2."""
    return predict(model).mean


def in_batches():
    for start in range(0, 10, 4):
        yield X[start : start + 4]


def test_a_generator(model, expected):
    np.testing.assert_array_equal(predict(model, in_batches()).mean, expected)


def test_a_generator_of_pairs_and_steps(model, expected):
    endless = ((batch, batch) for _ in range(100) for batch in in_batches())
    prediction = predict(model, endless, steps=3)
    np.testing.assert_array_equal(prediction.mean, expected)


def test_a_sequence(model, expected):
    base = keras.utils.PyDataset if KERAS_3 else keras.utils.Sequence

    class Data(base):
        def __len__(self):
            return 3

        def __getitem__(self, index):
            batch = X[4 * index : 4 * index + 4]
            return batch, np.zeros(len(batch))

    np.testing.assert_array_equal(predict(model, Data()).mean, expected)


def test_a_dataset(model, expected):
    tf = pytest.importorskip("tensorflow", reason="tf.data needs TensorFlow")
    data = tf.data.Dataset.from_tensor_slices(X).batch(4)
    np.testing.assert_array_equal(predict(model, data).mean, expected)
    pairs = tf.data.Dataset.from_tensor_slices((X, X)).batch(4)
    np.testing.assert_array_equal(predict(model, pairs, steps=1).mean, expected[:4])


@pytest.mark.backend("torch")
def test_a_data_loader(model, expected):
    import torch

    data = torch.utils.data.TensorDataset(torch.from_numpy(X))
    loader = torch.utils.data.DataLoader(data, batch_size=4)
    np.testing.assert_array_equal(predict(model, loader).mean, expected)


def test_lists_and_dicts_of_inputs():
    made = two_inputs()
    expected = predict(made, [X, 2 * X]).mean
    by_name = {"another": 2 * X, "one": X}
    np.testing.assert_array_equal(predict(made, by_name).mean, expected)
    generator = (((x, 2 * x),) for x in in_batches())
    np.testing.assert_array_equal(predict(made, generator).mean, expected)


def test_sequences_of_any_length():
    inputs = keras.Input((None, 4))
    x = layers.Dropout(0.5)(layers.Dense(4)(inputs))
    made = keras.Model(inputs, layers.GlobalAveragePooling1D()(x))
    lengths = (3, 5, 3) if backend() == "jax" else (3, 5, 8, 2, 3)
    generator = ((np.ones((2, n, 4), "float32"),) for n in lengths)
    prediction = predict(made, generator)
    assert prediction.mean.shape == (2 * len(lengths), 4)
    assert (prediction.std.max(axis=-1) > 0).all()


def test_a_model_of_an_intermediate_tensor():
    inputs = keras.Input((8,))
    features = layers.Dense(4)(inputs)
    outputs = layers.Dense(2)(layers.Dropout(0.5)(features))
    made = keras.Model(features, outputs)
    assert predict(made, X[:, :4]).std.max() > 0


@pytest.mark.keras2
def test_ragged_inputs():
    import tensorflow as tf

    inputs = keras.Input((None,), ragged=True, dtype="int32")
    x = layers.LSTM(3, dropout=0.5)(layers.Embedding(10, 4)(inputs))
    made = keras.Model(inputs, x)
    ragged = tf.ragged.constant([[1, 2], [3], [4, 5, 6], [1, 1]])
    prediction = predict(made, ragged, batch_size=2)
    assert prediction.mean.shape == (4, 3)
    assert prediction.std.max() > 0


@pytest.mark.backend("tensorflow")
def test_inputs_that_are_text():
    import tensorflow as tf

    words = layers.TextVectorization(output_sequence_length=4)
    words.adapt(["a b c", "d e"])
    inputs = keras.Input((1,), dtype="string")
    x = layers.Dropout(0.5)(layers.Embedding(10, 4)(words(inputs)))
    made = keras.Model(inputs, layers.Flatten()(x))
    text = tf.constant([["a b"], ["d"], ["e e"]])
    assert predict(made, text, batch_size=2).std.max() > 0


def test_results_do_not_depend_on_what_else_is_in_the_batch(bare_dropout):
    # Shared masks of a batch that holds all inputs, and of one by one.
    whole = masks_of(bare_dropout, masks="shared", batch_size=12)
    parts = masks_of(bare_dropout, masks="shared", batch_size=6)
    np.testing.assert_array_equal(whole, parts)


# Outputs


def test_statistics_do_not_depend_on_how_samples_are_folded(model, monkeypatch):
    together = predict(model, samples=7, keep_samples=True)
    known = MCPrediction.from_samples(together.samples, "probabilities")
    for prediction in (together, known):
        np.testing.assert_allclose(prediction.mean, known.mean, rtol=1e-12)
        np.testing.assert_allclose(prediction.variance, known.variance, rtol=1e-9)
    monkeypatch.setattr(_sampler, "CHUNK_BYTES", 1000)
    apart = predict(model, samples=7, keep_samples=True)
    known = MCPrediction.from_samples(apart.samples, "probabilities")
    for measure in ("mean", "variance", "mutual_information", "variation_ratio"):
        np.testing.assert_allclose(
            getattr(apart, measure), getattr(known, measure), rtol=1e-9, atol=1e-12
        )


def test_the_kind_of_an_output_is_recognised():
    inputs = keras.Input((8,))
    x = layers.Dropout(0.5)(inputs)
    heads = {
        "probabilities": layers.Activation("softmax")(layers.Dense(3)(x)),
        "binary": layers.Dense(2, activation="sigmoid")(x),
        "values": layers.Dense(2)(x),
    }
    made = keras.Model(inputs, list(heads.values()))
    assert [p.kind for p in predict(made)] == list(heads)
    losses = {
        "logits": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        "binary_logits": keras.losses.BinaryCrossentropy(from_logits=True),
        "values": "mse",
    }
    made = keras.Model(inputs, heads["values"])
    for kind, loss in losses.items():
        made.compile("sgd", loss)
        assert predict(made).kind == kind
    assert predict(made, output="logits").kind == "logits"
    assert predict(made, output=["binary_logits"]).kind == "binary_logits"


def test_one_sample_has_no_variance(model):
    prediction = predict(model, samples=1)
    assert prediction.num_samples == 1
    assert prediction.variance.max() == 0
    assert prediction.mutual_information.max() < 1e-6


def test_progress_counts_passes(model, capsys):
    predict(model, verbose=1)
    assert "18/18" in capsys.readouterr().out
    predict(model, in_batches(), verbose=2)
    lines = capsys.readouterr().out.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("18/")
    predict(model, verbose=0)
    assert capsys.readouterr().out == ""


# Errors


def test_bad_arguments_are_refused(model):
    for options in (
        {"samples": 0},
        {"samples": 1.5},
        {"batch_size": 0},
        {"seed": -1},
        {"masks": "same"},
        {"output": "classes"},
        {"output": ["values", "values"]},
        {"steps": 0},
        {"verbose": 3},
        {"random_layers": "noise"},
    ):
        (name,) = options
        with pytest.raises((TypeError, ValueError), match=f"`{name}`.*Received"):
            predict(model, **options)


def test_a_model_without_randomness_is_refused():
    inputs = keras.Input((8,))
    x = layers.LSTM(2)(layers.Reshape((4, 2))(layers.Dropout(0.0)(inputs)))
    made = keras.Model(inputs, x, name="still")
    with pytest.raises(ValueError, match="random layer.*Received: model='still'"):
        predict(made)
    with pytest.raises(TypeError, match="`model` must be a model.*Received: model=3"):
        predict(3)


def test_wrong_inputs_are_refused():
    made = two_inputs()
    with pytest.raises(ValueError, match="one, another.*Received: 1 array"):
        predict(made, X)
    with pytest.raises(ValueError, match="`x`.*Received"):
        predict(made, object())
    with pytest.raises(ValueError, match=r"4|shape|incompatible"):
        predict(made, [X[:, :4], X])


def test_inputs_without_a_batch_axis_are_refused(model):
    for x in (X[0], X[:, :5], X[..., np.newaxis, np.newaxis]):
        with pytest.raises(ValueError, match=r"`x`.*\(rows, 8\).*Received: a batch of"):
            predict(model, x)
    with pytest.raises(ValueError, match="`x`.*no targets.*Received: a tuple of 2"):
        predict(model, (X, np.zeros(10)))
    by_name = {"one": X, "another": X[:, :3]}
    with pytest.raises(ValueError, match=r"`x`.*'another'.*Received.*\(4, 3\)"):
        predict(two_inputs(), by_name)


@pytest.mark.backend("tensorflow")
def test_a_dataset_that_is_not_batched_is_refused(model):
    import tensorflow as tf

    data = tf.data.Dataset.from_tensor_slices(X)
    with pytest.raises(ValueError, match=r"`x`.*`\.batch\(\)`.*Received: a batch"):
        predict(model, data)
    numbers = tf.data.Dataset.from_tensor_slices(X[:, 0])
    with pytest.raises(ValueError, match="`x`.*the batch axis first.*Received"):
        predict(model, numbers)


def test_arrays_are_read_as_predict_reads_them(model, expected):
    wide = X.astype("float64")
    np.testing.assert_array_equal(predict(model, wide).mean, expected)
    np.testing.assert_array_equal(predict(model, [wide]).mean, expected)
    np.testing.assert_array_equal(predict(model, X, steps=2).mean, expected[:8])


def test_nan_is_refused_and_the_model_left_as_it_was():
    inputs = keras.Input((8,))
    model = keras.Model(inputs, layers.Dense(2)(layers.Dropout(0.5)(inputs)))
    x = X.copy()
    x[7] = np.nan
    before = [variable.numpy().copy() for variable in model.variables]
    with pytest.raises(ValueError, match="NaN in output 0 for inputs of batch 1"):
        predict(model, x)
    for variable, value in zip(model.variables, before):
        np.testing.assert_array_equal(variable.numpy(), value)
    assert all("call" not in layer.__dict__ for layer in model.layers)


def test_an_error_inside_a_layer_leaves_nothing_behind():
    class Broken(layers.Layer):
        def call(self, inputs):
            if self.built_once:
                raise RuntimeError("broken")
            return inputs

        built_once = False

    inputs = keras.Input((8,))
    made = keras.Model(inputs, Broken()(layers.Dropout(0.5)(inputs)))
    Broken.built_once = True
    with pytest.raises(RuntimeError, match="broken"):
        predict(made)
    Broken.built_once = False
    dropout = next(x for x in made.layers if isinstance(x, layers.Dropout))
    assert "call" not in dropout.__dict__
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        np.testing.assert_array_equal(made.predict(X, verbose=0), X)


def test_outputs_without_a_row_for_each_input_are_refused():
    class Total(layers.Layer):
        def call(self, inputs):
            sums = keras.ops.sum if KERAS_3 else keras.backend.sum
            return sums(inputs, axis=0, keepdims=True)

    inputs = keras.Input((8,))
    made = keras.Model(inputs, Total()(layers.Dropout(0.5)(inputs)))
    with pytest.raises(ValueError, match="one row for each input.*use_cache"):
        predict(made)
