"""What moves is what `history` announces, however a model is put together."""

import random

import numpy as np
import pytest

from keras_finetune import GradualUnfreeze
from keras_finetune._engine import KERAS_3, backend, keras

layers = keras.layers
WIDTH = 4
FIT = {"batch_size": 8, "verbose": 0}


def to_numpy(variable):
    return np.array(
        keras.ops.convert_to_numpy(variable)
        if KERAS_3
        else keras.backend.get_value(variable)
    )


def unique(variables):
    return list({id(v): v for v in variables}.values())


def size(variables):
    return sum(int(np.prod(v.shape)) for v in unique(variables))


def compiled(model):
    # Most of what is tested here needs no graph, and tracing takes longer.
    eager = backend() == "tensorflow"
    model.compile(keras.optimizers.SGD(0.05), "mse", run_eagerly=eager)
    return model


def make_data(model):
    shape = (8, *model.inputs[0].shape[1:])
    x = np.random.default_rng(0).normal(size=shape).astype("float32")
    return x, 3 + x.reshape(8, -1)[:, :1]


class Moves(keras.callbacks.Callback):
    """Notes which variables each epoch moves."""

    def __init__(self):
        super().__init__()
        self.epochs = []

    def on_epoch_begin(self, epoch, logs=None):
        self.before = [(v, to_numpy(v)) for v in unique(self.model.weights)]

    def on_epoch_end(self, epoch, logs=None):
        moved = [v for v, old in self.before if not np.array_equal(old, to_numpy(v))]
        self.epochs.append(moved)


def fit(model, groups, epochs=None, **arguments):
    """Trains one epoch a stage: the callback, and what moved in each."""
    ours, moves = GradualUnfreeze(groups=groups, every=1, **arguments), Moves()
    compiled(model).fit(
        *make_data(model),
        epochs=len(groups) if epochs is None else epochs,
        callbacks=[ours, moves],
        **FIT,
    )
    return ours, moves.epochs


def assert_moves(came, expected):
    assert {id(v) for v in came} == {id(v) for v in expected}, (
        f"moved {[v.name for v in came]}, expected {[v.name for v in expected]}"
    )


def assert_as_announced(ours, epochs, owned):
    """What moved is what each stage's groups own, and as many as were announced.

    Args:
        ours: The callback.
        epochs: The variables that moved, for each epoch.
        owned: The variables that train in each group, by the group's name.
    """
    assert len(ours.history) == len(epochs)
    for entry, moved in zip(ours.history, epochs, strict=True):
        expected = unique(v for name in entry["groups"] for v in owned[name])
        assert_moves(moved, expected)
        assert entry["trainable_parameters"] == size(expected)


def sequential(*inner, name=None, shape=(WIDTH,)):
    return keras.Sequential([keras.Input(shape), *inner], name=name)


# --- situations ----------------------------------------------------------------------


@pytest.mark.parametrize("batch_norm", ["follow", "trainable"])
def test_a_backbone_inside_time_distributed(batch_norm):
    inner = [layers.Dense(WIDTH), layers.BatchNormalization(), layers.Dense(WIDTH)]
    body = sequential(*inner, name="body")
    model = sequential(
        layers.TimeDistributed(body, name="td"),
        layers.Flatten(),
        layers.Dense(1, name="top"),
        shape=(3, WIDTH),
    )
    dense = unique(v for layer in (inner[0], inner[2]) for v in layer.weights)
    norm = [inner[1].gamma, inner[1].beta]
    ours, epochs = fit(model, ["td", "top"], batch_norm=batch_norm)
    top = model.layers[-1].weights
    statistics = [inner[1].moving_mean, inner[1].moving_variance]
    always = [*norm, *statistics] if batch_norm == "trainable" else []
    assert_moves(epochs[0], [*top, *always])
    assert_moves(epochs[1], [*top, *dense, *norm, *statistics])
    assert ours.history[1]["trainable_parameters"] == size([*top, *dense, *norm])


@pytest.mark.parametrize("ends", ["in time", "by Ctrl-C"])
def test_a_frozen_body_is_the_users_again_after_fit(ends):
    body = sequential(layers.Dense(WIDTH, name="inner"), name="body")
    body.trainable = False
    model = sequential(
        body, layers.Dense(WIDTH, name="middle"), layers.Dense(1, name="top")
    )

    class Fails(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            raise KeyboardInterrupt

    callbacks = [GradualUnfreeze(groups=["middle", "top"], every=1)]
    callbacks += [] if ends == "in time" else [Fails()]
    kept, data = None, make_data(model)
    try:
        compiled(model).fit(*data, epochs=2, callbacks=callbacks, **FIT)
    except KeyboardInterrupt as error:
        kept = error
    assert not body.trainable
    assert not body.trainable_weights
    body.trainable = True
    moves = Moves()
    compiled(model).fit(*data, callbacks=[moves], **FIT)
    trained = [*body.weights, *model.layers[-1].weights]
    trained += model.layers[-2].weights if ends == "in time" else []
    assert_moves(moves.epochs[0], trained)
    del kept


class WithToken(keras.Model):
    """A model with a weight of its own."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = layers.Dense(WIDTH)

    def build(self, input_shape):
        shape, ones = (WIDTH,), "ones"
        self.token = self.add_weight(name="token", shape=shape, initializer=ones)
        self.dense.build((None, WIDTH))
        self.built = True

    def call(self, inputs):
        return self.dense(inputs + self.token)


@pytest.mark.parametrize("is_listed", [False, True])
def test_a_frozen_model_with_a_weight_of_its_own(is_listed):
    body = WithToken(name="body")
    body.build((None, WIDTH))
    body.trainable = False
    inputs = keras.Input((WIDTH,))
    middle, top = layers.Dense(WIDTH, name="middle"), layers.Dense(1, name="top")
    model = keras.Model(inputs, top(middle(body(inputs))))
    groups = [*(["body"] if is_listed else []), "middle", "top"]
    ours, epochs = fit(model, groups)
    owned = {"body": body.weights, "middle": middle.weights, "top": top.weights}
    assert_as_announced(ours, epochs, owned)
    assert bool(body.trainable_weights) == is_listed


class Tokens(layers.Layer):
    """A layer made of one that trains and one that its author has fixed."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.word = layers.Dense(WIDTH)
        self.fixed = layers.Dense(WIDTH, trainable=False)

    def build(self, input_shape):
        self.word.build(input_shape)
        self.fixed.build(input_shape)
        super().build(input_shape)

    def call(self, inputs):
        return self.word(inputs) + self.fixed(inputs)


@pytest.mark.parametrize("initial_groups", [1, 2])
@pytest.mark.parametrize("depth", [0, 1])
def test_a_frozen_part_of_a_layer_stays_frozen(initial_groups, depth):
    tokens = Tokens(name="tokens" if depth == 0 else "inner")
    body = tokens if depth == 0 else sequential(tokens, name="tokens")
    low, top = layers.Dense(WIDTH, name="low"), layers.Dense(1, name="top")
    model = sequential(low, body, top)
    groups = ["low", "tokens", "top"]
    _, epochs = fit(model, groups, initial_groups=initial_groups)
    initial = tokens.word.weights if initial_groups == 2 else []
    assert_moves(epochs[0], [*initial, *top.weights])
    assert_moves(epochs[-1], [*low.weights, *tokens.word.weights, *top.weights])
    assert not tokens.fixed.trainable
    assert tokens.word.trainable


class Tied(layers.Layer):
    """Multiplies by the matrix of another layer."""

    def __init__(self, matrix, **kwargs):
        super().__init__(**kwargs)
        self.kernel = matrix

    def build(self, input_shape):
        self.offset = self.add_weight(name="offset", shape=(WIDTH,))
        super().build(input_shape)

    def call(self, inputs):
        return inputs @ self.kernel + self.offset


@pytest.mark.slow
@pytest.mark.parametrize("frozen", [False, True])
def test_a_tied_weight_trains_with_its_first_group_alone(frozen):
    low = layers.Dense(WIDTH, use_bias=False, name="low")
    middle, inputs = layers.Dense(WIDTH, name="middle"), keras.Input((WIDTH,))
    hidden = middle(low(inputs))
    top = Tied(low.kernel, name="top")
    model = keras.Model(inputs, top(hidden))
    low.trainable = not frozen
    ours, epochs = fit(model, ["low", "middle", "top"])
    owned = {"low": [low.kernel], "middle": middle.weights, "top": [top.offset]}
    assert_as_announced(ours, epochs, owned)


# --- a grammar -----------------------------------------------------------------------


class Holder(layers.Layer):
    """A layer of layers, which it has in an attribute, a list or a dictionary."""

    def __init__(self, inner, kind, own, **kwargs):
        super().__init__(**kwargs)
        self.order = len(inner)
        self.kind, self.own = kind, own
        if kind == "attributes":
            for i, layer in enumerate(inner):
                setattr(self, f"part{i}", layer)
        else:
            self.parts = list(inner) if kind == "list" else _by_key(inner)

    def inner(self):
        if self.kind == "attributes":
            return [getattr(self, f"part{i}") for i in range(self.order)]
        return [
            self.parts[i if self.kind == "list" else f"k{i}"] for i in self._range()
        ]

    def _range(self):
        return range(self.order)

    def build(self, input_shape):
        if self.own:
            self.scale = self.add_weight(name="scale", shape=(WIDTH,))
        for layer in self.inner():
            if not layer.built:
                layer.build(input_shape)
        super().build(input_shape)

    def call(self, inputs, training=None):
        hidden = inputs + self.scale if self.own else inputs
        for layer in self.inner():
            hidden = layer(hidden)
        return hidden


def _by_key(inner):
    return {f"k{i}": layer for i, layer in enumerate(inner)}


class Grammar:
    """Puts together a random body of a few layers, some parts of them frozen.

    Attributes:
        frozen: The layers that the user freezes, at any depth.
        shared: The layers that may be used once more.
    """

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.count = 0
        self.frozen, self.shared = [], []
        keras.utils.set_random_seed(seed + 1)

    def name(self, kind):
        self.count += 1
        return f"{kind}{self.count}"

    def dense(self):
        if self.shared and self.random.random() < 0.15:
            return self.random.choice(self.shared)
        layer = layers.Dense(WIDTH, name=self.name("dense"))
        self.shared.append(layer)
        if self.random.random() < 0.2:
            self.frozen.append(layer)
        return layer

    def body(self, depth):
        kinds = ["dense"]
        if depth:
            kinds += ["attributes", "list", "dictionary", "model", "functional"]
            kinds += ["token", "wrapper"]
        kind = self.random.choice(kinds)
        if kind == "dense":
            return self.dense()
        if kind == "token":
            layer = WithToken(name=self.name("token"))
            layer.build((None, WIDTH))
        elif kind == "wrapper":
            inner = sequential(self.fresh(), self.fresh(), name=self.name("inside"))
            layer = sequential(
                layers.Reshape((1, WIDTH)),
                layers.TimeDistributed(inner, name=self.name("wrapper")),
                layers.Flatten(),
                name=self.name("around"),
            )
        else:
            inner = unique(
                self.body(depth - 1) for _ in range(self.random.choice((1, 2)))
            )
            layer = self.holder(kind, inner)
        if self.random.random() < 0.15:
            self.frozen.append(layer)
        return layer

    def fresh(self):
        return layers.Dense(WIDTH, name=self.name("dense"))

    def holder(self, kind, inner):
        if kind == "model":
            return sequential(*inner, name=self.name("model"))
        if kind == "functional":
            inputs = hidden = keras.Input((WIDTH,))
            for layer in inner:
                hidden = layer(hidden)
            return keras.Model(inputs, hidden + inputs, name=self.name("functional"))
        own = self.random.random() < 0.5
        return Holder(inner, kind, own, name=self.name("holder"))

    def model(self):
        """A model of two bodies and a head, where some parts are frozen."""
        bodies = unique(self.body(depth=2) for _ in range(2))
        inputs = hidden = keras.Input((WIDTH,))
        for body in bodies:
            hidden = body(hidden)
        head = layers.Dense(1, name="top")
        model = keras.Model(inputs, head(hidden))
        for layer in self.frozen:
            layer.trainable = False
        return model, [*bodies, head]


def owners(tops, frozen):
    """The variables that train in the group of each listed layer, by its name.

    Frozen is what the user froze. A layer all of whose weights are in groups below it
    has none of its own, and cannot be listed.
    """
    owned, seen = {}, set()
    for layer in tops:
        own = [v for v in unique(layer.weights) if id(v) not in seen]
        seen |= {id(v) for v in own}
        if own:
            owned[layer.name] = [v for v in own if id(v) not in frozen]
    return owned


def with_two_groups(seeds):
    """The seeds of models in which there is a group to unfreeze."""
    return [
        seed
        for seed in seeds
        if sum(layer.trainable for layer in Grammar(seed).model()[1]) > 1
    ]


SEEDS = range(24)


@pytest.mark.parametrize("seed", SEEDS)
def test_what_moves_without_us_is_what_keras_says_that_trains(seed):
    model, _ = Grammar(seed).model()
    moves = Moves()
    trained = unique(model.trainable_weights)
    compiled(model).fit(*make_data(model), callbacks=[moves], **FIT)
    assert_moves(moves.epochs[0], trained)


@pytest.mark.slow
@pytest.mark.parametrize("seed", with_two_groups(SEEDS))
def test_what_moves_is_what_is_announced_in_any_nest(seed):
    model, tops = Grammar(seed).model()
    # Whoever names a layer that is frozen itself wants it to train.
    named = [layer for layer in tops if layer.trainable]
    frozen = {id(v) for v in model.weights} - {id(v) for v in model.trainable_weights}
    owned = owners(named, frozen)
    ours, epochs = fit(model, list(owned))
    assert_as_announced(ours, epochs, owned)
    for variable in unique(model.weights):
        if id(variable) in frozen:
            assert not any(variable is v for v in model.trainable_weights)


@pytest.mark.slow
@pytest.mark.parametrize("seed", with_two_groups(range(100, 108)))
@pytest.mark.parametrize("after_ours", [False, True], ids=["plain", "after ours"])
def test_after_fit_flags_are_the_users_in_any_nest(seed, after_ours):
    model, tops = Grammar(seed).model()
    if after_ours:
        named = [layer for layer in tops if layer.trainable]
        fit(model, list(owners(named, set())))
    for layer in tops[:-1]:
        layer.trainable = False
    moves = Moves()
    compiled(model).fit(*make_data(model), callbacks=[moves], **FIT)
    assert_moves(moves.epochs[0], tops[-1].weights)
    for layer in tops[:-1]:
        layer.trainable = True
    compiled(model).fit(*make_data(model), callbacks=[moves], **FIT)
    assert_moves(moves.epochs[1], unique(model.weights))
