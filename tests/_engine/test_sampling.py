"""The cut of a graph: what runs once, what is sampled, and that both make the whole."""

import collections
import copy
from dataclasses import replace

import numpy as np
import pytest

from keras_finetune._engine import KERAS_3, backend, keras, sampling
from keras_finetune._engine.graphs import cut as graphs
from keras_finetune._engine.sampling import _sampler
from keras_finetune._engine.sampling._lane import lane

layers = keras.layers


def vectors():
    return np.random.default_rng(0).normal(size=(6, 8)).astype("float32")


def sequences():
    return np.random.default_rng(0).integers(0, 20, size=(6, 5)).astype("int32")


def images():
    return np.random.default_rng(0).normal(size=(6, 8, 8, 3)).astype("float32")


def plain():
    inputs = keras.Input((8,))
    x = layers.Dense(6, activation="relu")(inputs)
    x = layers.BatchNormalization()(x)
    x = layers.Dropout(0.5)(x)
    return keras.Model(inputs, layers.Dense(3, activation="softmax")(x)), vectors()


def sequential():
    stack = [
        keras.Input((8,)),
        layers.Dense(6),
        layers.GaussianNoise(0.5),
        layers.Dense(2),
    ]
    return keras.Sequential(stack), vectors()


def skip_connection():
    inputs = keras.Input((8,))
    x = layers.Dense(8)(inputs)
    y = layers.Dense(8)(layers.Dropout(0.5)(x))
    z = layers.Add()([x, y, inputs])
    return keras.Model(inputs, layers.Dense(2)(z)), vectors()


def several_frontiers():
    first, second = keras.Input((8,), name="first"), keras.Input((8,), name="second")
    a = layers.Dropout(0.5)(layers.Dense(4)(first))
    b = layers.GaussianDropout(0.5)(layers.Dense(4)(second))
    c = layers.Dense(4)(second)
    z = layers.Concatenate()([a, layers.Multiply()([b, c])])
    model = keras.Model({"first": first, "second": second}, layers.Dense(2)(z))
    return model, {"first": vectors(), "second": 2 * vectors()}


def several_outputs():
    inputs = keras.Input((8,))
    x = layers.Dense(4)(inputs)
    sampled = layers.Dense(2, name="sampled")(layers.Dropout(0.5)(x))
    fixed = layers.Dense(3, activation="softmax", name="fixed")(x)
    return keras.Model(inputs, [sampled, fixed]), vectors()


def nested():
    inner = keras.Sequential(
        [
            keras.Input((8,)),
            layers.Dense(8),
            layers.BatchNormalization(),
            layers.Dropout(0.5),
            layers.Dense(8),
        ],
        name="inner",
    )
    x = keras.Input((8,))
    middle = keras.Model(x, layers.Dense(8)(inner(layers.Dense(8)(x))), name="middle")
    inputs = keras.Input((8,))
    return keras.Model(inputs, layers.Dense(2)(middle(inputs))), vectors()


def shared_layer():
    dropout, dense = layers.Dropout(0.5), layers.Dense(8)
    inputs = keras.Input((8,))
    x = dropout(dense(inputs))
    return keras.Model(inputs, dense(dropout(x))), vectors()


def masked_sequence():
    inputs = keras.Input((5,), dtype="int32")
    x = layers.Embedding(20, 4, mask_zero=True)(inputs)
    x = layers.LSTM(3, dropout=0.5, recurrent_dropout=0.5)(x)
    return keras.Model(inputs, layers.Dense(2)(x)), sequences()


def bidirectional():
    inputs = keras.Input((5,), dtype="int32")
    x = layers.Embedding(20, 4)(inputs)
    x = layers.Bidirectional(layers.GRU(3, dropout=0.5))(x)
    return keras.Model(inputs, x), sequences()


def attention():
    inputs = keras.Input((5,), dtype="int32")
    x = layers.Embedding(20, 4)(inputs)
    x = layers.MultiHeadAttention(2, 3, dropout=0.5)(x, x)
    x = layers.LayerNormalization()(x)
    return keras.Model(inputs, layers.Flatten()(x)), sequences()


def convolutional():
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, padding="same")(inputs)
    x = layers.BatchNormalization()(x)
    x = layers.SpatialDropout2D(0.5)(x)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(2)(x)), images()


def time_distributed():
    inputs = keras.Input((5,), dtype="int32")
    x = layers.Embedding(20, 4)(inputs)
    x = layers.TimeDistributed(layers.Dropout(0.5))(x)
    return keras.Model(inputs, layers.GlobalAveragePooling1D()(x)), sequences()


def self_normalizing():
    inputs = keras.Input((8,))
    x = layers.Dense(8, activation="selu")(inputs)
    return keras.Model(inputs, layers.AlphaDropout(0.2)(x)), vectors()


MODELS = (
    plain,
    sequential,
    skip_connection,
    several_frontiers,
    several_outputs,
    nested,
    shared_layer,
    masked_sequence,
    bidirectional,
    attention,
    convolutional,
    time_distributed,
    self_normalizing,
)


@pytest.fixture(scope="module", params=MODELS, ids=lambda make: make.__name__)
def case(request):
    """A model, inputs, and its sampler for independent draws."""
    model, x = request.param()
    for layer in model._flatten_layers():
        if isinstance(layer, layers.BatchNormalization):
            # Statistics that inference and training mode tell apart.
            layer.moving_mean.assign(np.full(layer.moving_mean.shape, 0.5))
    return model, x, sampling.sampler(model, x, (), shared=False)


def draw(sampler, x, samples=4, seed=0):
    """All samples of all outputs, each (samples, rows, ...)."""
    parts = [draws.values for draws in sampler.sample([x], samples, seed)]
    return [np.concatenate(values) for values in zip(*parts)]


def test_without_force_the_two_parts_make_the_whole(case):
    model, x, sampler = case
    random = copy.copy(sampler.subject.random)
    random.forced = []
    quiet = _sampler.Sampler(replace(sampler.subject, random=random), shared=False)
    expected = model.predict(x, verbose=0)
    expected = expected if isinstance(expected, list) else [expected]
    for output, known in zip(draw(quiet, x), expected):
        for sample in output:
            # Four samples in a batch reduce in another order than one.
            np.testing.assert_allclose(sample, known, rtol=1e-5, atol=1e-6)


def test_samples_differ_between_samples_and_inputs(case):
    _, x, sampler = case
    (first, *_) = draw(sampler, x)
    (again, *_) = draw(sampler, x)
    (other, *_) = draw(sampler, x, seed=1)
    assert first.shape[:2] == (4, 6)
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    flat = first.reshape(4, 6, -1)
    assert (flat.std(axis=0).max(axis=-1) > 0).all()


def test_nothing_of_the_model_changes(case):
    model, x, sampler = case
    before = [v.numpy().copy() for v in model.variables]
    attributes = [dict(layer.__dict__) for layer in model._flatten_layers()]
    draw(sampler, x)
    for variable, value in zip(model.variables, before):
        np.testing.assert_array_equal(variable.numpy(), value)
    for layer, known in zip(model._flatten_layers(), attributes):
        assert layer.__dict__.get("call") is known.get("call")
        assert layer.__dict__.get("_random_generator") is known.get("_random_generator")
        # Keras 3 names its cached masks only after the first call.
        new = set(layer.__dict__) - set(known)
        assert new <= {"_dropout_mask", "_recurrent_dropout_mask"}


def test_everything_before_the_first_random_layer_is_cut_off():
    model, x = nested()
    sampler = sampling.sampler(model, x, (), shared=False)
    prefix = [step.operation for step in sampler.subject.cut.prefix]
    inner = model.get_layer("middle").get_layer("inner")
    assert any(layer in prefix for layer in inner.layers)
    kinds = [type(step.operation).__name__ for step in sampler.subject.cut.suffix]
    assert kinds.count("Dense") == 3
    assert "BatchNormalization" not in kinds


def test_where_the_prefix_ends_is_asked_for():
    model, _ = nested()
    last = model.layers[-1]
    middle = model.get_layer("middle")
    graph = graphs.Graph(lane.opened(model), lambda node: node.operation is last)
    cut = graphs.Cut(graph)
    # A nested model that the cut does not go through is one step.
    assert [step.operation for step in cut.prefix] == [middle]
    assert [step.operation for step in cut.suffix] == [last]
    assert cut.varying == [True]
    whole = graphs.Cut(graphs.Graph(lane.opened(model), lambda node: False))
    assert whole.suffix == []
    assert whole.varying == [False]


class Counter(layers.Layer):
    """Counts, at run time and in compiled functions as well, how often it runs."""

    runs = collections.Counter()

    def call(self, inputs):
        name = self.name

        def count(*_):
            Counter.runs[name] += 1

        if backend() == "torch":
            count()
            return inputs
        if backend() == "jax":
            import jax

            jax.debug.callback(count)
            return inputs
        import tensorflow as tf

        def run(x):
            count()
            return x

        outputs = tf.py_function(run, [inputs], inputs.dtype)
        outputs.set_shape(inputs.shape)
        return outputs

    def compute_output_shape(self, input_shape):
        return input_shape


def test_the_prefix_runs_once_a_batch_and_the_suffix_for_every_part(monkeypatch):
    inputs = keras.Input((8,))
    x = Counter(name="before")(layers.Dense(4)(inputs))
    x = Counter(name="after")(layers.Dropout(0.5)(x))
    model = keras.Model(inputs, layers.Dense(2)(x))
    sampler = sampling.sampler(model, vectors(), (), shared=False)
    sampler.prepare(vectors()[:4])
    # Three calls for six samples.
    monkeypatch.setattr(sampler, "plan", lambda *_: [2, 2, 2])
    if backend() == "jax":
        import jax

        jax.effects_barrier()
    Counter.runs.clear()
    for _ in sampler.sample([vectors()[:4], vectors()[4:]], 6, seed=0):
        pass
    if backend() == "jax":
        import jax

        jax.effects_barrier()
    assert Counter.runs == {"before": 2, "after": 6}


def test_samples_are_folded_within_the_memory_that_is_allowed(monkeypatch):
    model, x = plain()
    sampler = sampling.sampler(model, x, (), shared=False)
    batch, program = sampler.prepare(x)

    def plan(samples):
        return sampler.plan(program, batch, samples)

    assert plan(50) == [50]
    (per_row,) = program.bytes_per_row.values()
    per_sample = per_row * batch.padded
    # The widest tensor has 6 inputs of 6 float32; masks may be drawn wider.
    assert 6 * 6 * 4 <= per_sample <= 6 * 6 * 8
    monkeypatch.setattr(_sampler, "CHUNK_BYTES", 7.5 * per_sample)
    assert plan(50) == [7] * 7 + [1]
    assert plan(12) == [6, 6]
    monkeypatch.setattr(_sampler, "CHUNK_BYTES", 1)
    assert plan(3) == [1, 1, 1]


def test_a_fixed_batch_size_is_sampled_one_by_one():
    make = {"batch_shape": (6, 8)} if KERAS_3 else {"shape": (8,), "batch_size": 6}
    inputs = keras.Input(**make)
    x = layers.Dropout(0.5)(layers.Dense(4)(inputs))
    model = keras.Model(inputs, layers.Reshape((4,))(x))
    sampler = sampling.sampler(model, vectors(), (), shared=False)
    parts = [draws.values[0] for draws in sampler.sample([vectors()], 3, seed=0)]
    assert [part.shape for part in parts] == [(1, 6, 4)] * 3


class Positions(layers.Layer):
    """Adds a table that has no batch axis, with dropout on the table."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dropout = layers.Dropout(0.5)

    def build(self, input_shape):
        self.table = self.add_weight(shape=(1, 4), initializer="ones", name="table")

    def call(self, inputs, training=None):
        return inputs + self.dropout(self.table, training=training)


def test_a_draw_without_a_batch_axis_is_told_apart_by_sample():
    inputs = keras.Input((8,))
    model = keras.Model(inputs, Positions()(layers.Dense(4)(inputs)))
    sampler = sampling.sampler(model, vectors(), (), shared=False)
    parts = [draws.values[0] for draws in sampler.sample([vectors()], 8, seed=0)]
    assert [len(part) for part in parts] == [1] * 8
    assert len({part.tobytes() for part in parts}) > 2


def test_a_sampler_is_kept_until_the_model_changes():
    model, x = plain()
    first = sampling.sampler(model, x, (), shared=False)
    assert sampling.sampler(model, x, (), shared=False) is first
    assert sampling.sampler(model, x, (), shared=True) is not first
    model.layers[3].rate = 0.25
    assert sampling.sampler(model, x, (), shared=False) is not first
