"""FeatureCache: the same training, and frozen layers that run once a row."""

import copy
import pickle
import warnings

import numpy as np
import pytest
import reference

from keras_finetune import DiscriminativeLR, FeatureCache, GradualUnfreeze, TrainOnly
from keras_finetune._engine import KERAS_3, backend, keras
from keras_finetune._engine.features._feeding import Feeding
from keras_finetune._engine.graphs.active import lane

layers = keras.layers
# On JAX, XLA compiles the head apart from the frozen layers, and fuses it otherwise. On
# Keras 2.15 the convolutions of TensorFlow 2.15 give a row other last bits in another
# batch, and batches are shuffled.
CLOSE = 3e-7 if backend() == "jax" or not KERAS_3 else 0.0
ROWS, BATCH = 22, 8
BATCHES = -(-ROWS // BATCH)


def images(rows=ROWS, seed=0):
    return np.random.default_rng(seed).normal(size=(rows, 6, 6, 2)).astype("float32")


def labels(rows=ROWS, seed=1):
    return np.random.default_rng(seed).integers(0, 3, size=rows)


def frozen(layer):
    layer.trainable = False
    return layer


def body():
    return keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            layers.Dense(4),
            layers.BatchNormalization(),
            layers.Dense(6, activation="relu"),
        ],
        name="body",
    )


def nested():
    """A frozen backbone, pooling, dropout that is part of the head, a head."""
    inputs = keras.Input((6, 6, 2))
    x = layers.GlobalAveragePooling2D(name="pool")(frozen(body())(inputs))
    x = layers.Dropout(0.3, seed=3, name="dropout")(x)
    return keras.Model(inputs, layers.Dense(3, name="head")(x))


def flat():
    """A Sequential model whose first layers are frozen."""
    below = [*body().layers, layers.Flatten(name="flat")]
    head = layers.Dense(3, name="head")
    return keras.Sequential([keras.Input((6, 6, 2)), *map(frozen, below), head])


def cut_inside_a_model():
    """The cut is between two layers of a nested model."""
    backbone = body()
    for layer in backbone.layers[:-1]:
        layer.trainable = False
    inputs = keras.Input((6, 6, 2))
    x = layers.Flatten()(backbone(inputs))
    return keras.Model(inputs, layers.Dense(3, name="head")(x))


def branches():
    """Two ways around, a layer that is shared across the cut, a second output."""
    inputs = keras.Input((6, 6, 2))
    low = frozen(layers.Conv2D(2, 3, padding="same", name="low"))
    x = low(inputs)
    y = low(layers.Activation("tanh")(x))
    z = layers.Flatten(name="z")(layers.Add(name="sum")([x, y]))
    head = layers.Dense(3, name="head")(z)
    again = layers.Dense(2, name="again")(layers.Flatten()(low(inputs)))
    return keras.Model(inputs, [head, layers.Concatenate(name="both")([head, again])])


def text():
    """A mask that a frozen embedding makes, and what reads it."""
    inputs = keras.Input((5,), dtype="int32")
    x = frozen(layers.Embedding(9, 4, mask_zero=True, name="embedding"))(inputs)
    x = layers.SimpleRNN(3, name="rnn")(x)
    return keras.Model(inputs, layers.Dense(3, name="head")(x))


def two_inputs():
    """One input goes past the frozen layers."""
    picture, more = keras.Input((6, 6, 2), name="a"), keras.Input((4,), name="b")
    x = layers.GlobalAveragePooling2D()(frozen(body())(picture))
    x = layers.Concatenate()([x, more])
    return keras.Model({"a": picture, "b": more}, layers.Dense(3, name="head")(x))


def two_inputs_inside():
    """A nested model, called with a dictionary, in which the cut is."""
    inner = two_inputs()
    inputs = {"a": keras.Input((6, 6, 2), name="a"), "b": keras.Input((4,), name="b")}
    return keras.Model(inputs, layers.Dense(3, name="top")(inner(inputs)))


MODELS = {
    "nested": nested,
    "flat": flat,
    "cut inside a model": cut_inside_a_model,
    "branches": branches,
    "text": text,
    "two inputs": two_inputs,
    "two inputs inside": two_inputs_inside,
}


def data_for(name, rows=ROWS, seed=0):
    if name == "text":
        x = np.random.default_rng(seed).integers(0, 9, size=(rows, 5)).astype("int32")
        return x, labels(rows, seed + 1)
    if name.startswith("two inputs"):
        more = np.random.default_rng(seed).normal(size=(rows, 4)).astype("float32")
        return {"a": images(rows, seed), "b": more}, labels(rows, seed + 1)
    y = labels(rows, seed + 1)
    return images(rows, seed), [y, y] if name == "branches" else y


def compiled(make, optimizer=None, **kwargs):
    keras.utils.set_random_seed(1)
    model = make() if callable(make) else MODELS[make]()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    if backend() == "tensorflow" and "run_eagerly" not in kwargs:
        kwargs = {"jit_compile": False, **kwargs}
    if len(model.outputs) > 1:
        loss = [loss, loss]
    optimizer = optimizer or keras.optimizers.SGD(0.05, momentum=0.9)
    model.compile(optimizer, kwargs.pop("loss", loss), **kwargs)
    return model


# A session of ours builds the optimizer before the first step, which plain Keras 2
# does within it: it is traced twice then, and dropout draws other numbers.
def everything():
    return TrainOnly(".")


def trained(model, *data, callbacks=(), **kwargs):
    """The weights, the optimizer's state and the logs after a `fit`."""
    if any(isinstance(c, (GradualUnfreeze, DiscriminativeLR)) for c in callbacks):
        extra = []
    else:
        extra = [everything()]
    arguments = {"epochs": 2, "batch_size": BATCH, "verbose": 0, **kwargs}
    keras.utils.set_random_seed(5)
    logs = model.fit(*data, callbacks=[*extra, *callbacks], **arguments).history
    # By position: Keras numbers the names of layers through a whole process.
    slots = reference.state_variables(model.optimizer, model.trainable_variables)
    return {
        **{f"weight {i}": reference.to_numpy(v) for i, v in enumerate(model.weights)},
        **{f"slot {i}": reference.to_numpy(v) for i, v in enumerate(slots.values())},
        **{f"log {i}": np.array(v) for i, v in enumerate(logs.values())},
    }


def both(make, *data, callbacks=list, compile_args=dict, cache=None, **kwargs):
    """The same `fit` without and with a cache: their difference, and the cache."""
    cache = cache or FeatureCache(verbose=0)
    plain = trained(
        compiled(make, **compile_args()), *data, callbacks=callbacks(), **kwargs
    )
    cached = trained(
        compiled(make, **compile_args()),
        *data,
        callbacks=[*callbacks(), cache],
        **kwargs,
    )
    return reference.difference(plain, cached), cache


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_equals_the_fit_without_it(name):
    data, others = data_for(name), data_for(name, rows=7, seed=9)
    found, cache = both(name, *data, validation_data=others)
    assert found <= CLOSE
    (stage,) = cache.history
    assert stage["rows"] == ROWS + 7
    assert stage["misses"] == ROWS + 7
    assert stage["hits"] == ROWS + 7
    mask = 5 if name == "text" else 0
    assert stage["bytes"] == stage["rows"] * (stage["row_bytes"] + mask)


@pytest.mark.slow
def test_the_place_with_the_fewest_bytes_is_chosen():
    cache = FeatureCache(verbose=0)
    trained(compiled("nested"), images(), labels(), callbacks=[cache], epochs=1)
    assert cache.history[0]["layer"] == "pool"
    assert cache.history[0]["row_bytes"] == 6 * 4
    trained(compiled("branches"), *data_for("branches"), callbacks=[cache], epochs=1)
    assert cache.history[0]["row_bytes"] == 2 * 6 * 6 * 2 * 4


@pytest.mark.slow
def test_stages():
    def unfreezes():
        return [GradualUnfreeze(groups=["stem", "middle", "head"], every=2)]

    def make():
        return keras.Sequential(
            [
                keras.Input((6, 6, 2)),
                layers.Dense(4, name="stem"),
                layers.Dense(4, name="middle"),
                layers.Flatten(),
                layers.Dense(3, name="head"),
            ]
        )

    found, cache = both(
        make,
        images(),
        labels(),
        callbacks=unfreezes,
        epochs=6,
        compile_args=lambda: {"optimizer": keras.optimizers.Adam(0.01)},
        validation_data=(images(5, 3), labels(5, 4)),
    )
    assert found <= CLOSE
    assert [stage["epoch"] for stage in cache.history] == [0, 2, 4]
    assert [stage["rows"] for stage in cache.history] == [ROWS + 5, ROWS + 5, 0]
    assert cache.history[1]["layer"] == "stem"
    assert cache.history[2]["layer"] is None


@pytest.mark.slow
@pytest.mark.parametrize("first", [True, False])
def test_beside_rates(first):
    def rates():
        return [DiscriminativeLR(decay=2.0)]

    plain = trained(compiled("flat"), images(), labels(), callbacks=rates())
    callbacks = [*rates(), FeatureCache(verbose=0)]
    cached = trained(
        compiled("flat"), images(), labels(), callbacks=callbacks[:: 1 if first else -1]
    )
    assert reference.difference(plain, cached) <= CLOSE


def _counting(calls):
    def loss(y, outputs):
        calls.append(1)
        return keras.losses.sparse_categorical_crossentropy(
            y, outputs, from_logits=True
        )

    return loss


@pytest.mark.slow
def test_the_frozen_layers_run_once_and_each_step_is_traced_once():
    class Counted(layers.Dense):
        calls = 0

        def call(self, inputs):
            if KERAS_3 and backend() == "jax":
                import jax

                jax.debug.callback(self.count)
            elif backend() == "tensorflow":
                import tensorflow as tf

                tf.py_function(self.count, [], [])
            else:
                self.count()
            return super().call(inputs)

        def count(self):
            Counted.calls += 1

    def make():
        inputs = keras.Input((6, 6, 2))
        x = layers.Flatten()(frozen(Counted(2))(inputs))
        return keras.Model(inputs, layers.Dense(3, name="head")(x))

    class Looks(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            counts.append(Counted.calls)

    traces = []
    for callbacks in ([], [FeatureCache(verbose=0)]):
        calls, counts = [], []
        model = compiled(make, loss=_counting(calls))
        callbacks = [*callbacks, Looks()]
        trained(model, images(), labels(), callbacks=callbacks, epochs=3)
        traces.append(len(calls))
    assert counts[0] > 0
    assert counts[1:] == [counts[0], counts[0]]
    assert traces[0] == traces[1]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["eager", "several steps", "xla", "half precision"])
def test_ways_to_compile(kind):
    if kind == "several steps" and backend() == "torch":
        pytest.skip("Keras refuses it on PyTorch")
    arguments = {
        "eager": {"run_eagerly": True},
        "several steps": {"steps_per_execution": 2},
        "xla": {"jit_compile": backend() != "torch"},
        "half precision": {},
    }[kind]
    policy = "mixed_bfloat16" if kind == "half precision" else "float32"
    keras.mixed_precision.set_global_policy(policy)
    try:
        found, cache = both(
            "flat",
            images(),
            labels(),
            compile_args=lambda: dict(arguments),
            validation_data=(images(5, 7), labels(5, 8)),
        )
        close = {"xla": 1e-6, "half precision": 0.002 if CLOSE else 0.0}
        assert found <= max(CLOSE, close.get(kind, 0.0))
        assert cache.history[0]["misses"] == ROWS + 5
        if kind == "half precision":
            assert cache.history[0]["row_bytes"] == 216 * 2
    finally:
        keras.mixed_precision.set_global_policy("float32")


@pytest.mark.slow
def test_weights_of_rows_and_of_classes():
    found, _ = both(
        "nested",
        images(),
        labels(),
        sample_weight=np.linspace(0.1, 1, ROWS),
        shuffle=True,
    )
    assert found <= CLOSE
    found, _ = both("nested", images(), labels(), class_weight={0: 1.0, 1: 2.0, 2: 3.0})
    assert found <= CLOSE


class Batches(keras.utils.Sequence if not KERAS_3 else keras.utils.PyDataset):
    def __init__(self):
        super().__init__()

    def __len__(self):
        return BATCHES

    def __getitem__(self, index):
        part = slice(index * BATCH, index * BATCH + BATCH)
        return images()[part], labels()[part]


def _generator():
    while True:
        for i in range(BATCHES):
            yield Batches()[i]


def _dataset():
    import tensorflow as tf

    return tf.data.Dataset.from_tensor_slices((images(), labels())).batch(BATCH)


def _loader():
    import torch

    pairs = torch.utils.data.TensorDataset(
        torch.from_numpy(images()), torch.from_numpy(labels())
    )
    return torch.utils.data.DataLoader(pairs, batch_size=BATCH)


SOURCES = {"sequence": Batches, "generator": _generator}
if backend() == "tensorflow":
    SOURCES["dataset"] = _dataset
if backend() == "torch":
    SOURCES["loader"] = _loader


@pytest.mark.slow
@pytest.mark.parametrize("name", SOURCES)
def test_any_source_of_data(name):
    ends = []
    for callbacks in ([], [cache := FeatureCache(verbose=0)]):
        model = compiled("nested")
        kwargs = {"steps_per_epoch": BATCHES} if name == "generator" else {}
        ends.append(
            trained(
                model, SOURCES[name](), callbacks=callbacks, batch_size=None, **kwargs
            )
        )
    assert reference.difference(*ends) <= CLOSE
    assert cache.history[0]["hits"] == ROWS


@pytest.mark.slow
def test_rows_that_come_again_in_one_epoch_are_kept_once():
    x = np.concatenate([images(8), images(8), images(6)])
    cache = FeatureCache(verbose=0)
    data = x, labels()
    trained(compiled("nested"), *data, callbacks=[cache], epochs=2, shuffle=False)
    assert cache.history[0]["rows"] == 8
    assert cache.history[0]["hits"] == 8 + 6 + 22


# --- variants of a row ----------------------------------------------------------------


class Shakes(layers.Layer):
    """Augmentation of one's own: noise for each pixel."""

    def __init__(self):
        super().__init__(name="shakes")
        self.seed_generator = keras.random.SeedGenerator(1)

    def call(self, inputs, training=None):
        if not training:
            return inputs
        shape = keras.ops.shape(inputs)
        return inputs + keras.random.normal(shape, seed=self.seed_generator)


def augmented(augment):
    """An augmentation layer, dropout between frozen layers, a head."""
    return keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            augment,
            frozen(layers.Dense(4)),
            layers.Dropout(0.5, seed=1, name="inner"),
            layers.Flatten(name="flat"),
            frozen(layers.Dense(8, name="high")),
            layers.Dense(3, name="head"),
        ]
    )


def flip():
    return layers.RandomFlip("horizontal", seed=1, name="flip")


@pytest.mark.parametrize(
    "augment", [flip, pytest.param(Shakes, marks=pytest.mark.backend("torch"))]
)
def test_rows_come_in_as_many_variants_as_asked_and_then_in_these_again(augment):
    # Nothing is learned, so that the loss of an epoch tells which variants it had.
    model = compiled(lambda: augmented(augment()), optimizer=keras.optimizers.SGD(0.0))
    others = images(7, seed=9), labels(7)
    cache = FeatureCache(copies=2, verbose=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        history = model.fit(
            images(),
            labels(),
            batch_size=BATCH,
            shuffle=False,
            epochs=5,
            verbose=0,
            validation_data=others,
            callbacks=[cache],
        ).history
    first, second, *later = history["loss"]
    assert first != second
    assert later == [first, second, first]
    expected = [model.evaluate(*others, verbose=0)] * 5
    np.testing.assert_allclose(history["val_loss"], expected, rtol=1e-5)
    (stage,) = cache.history
    assert (stage["layer"], stage["copies"]) == ("high", 2)
    assert stage["misses"] == stage["rows"] == 2 * ROWS + 7
    assert stage["bytes"] == stage["rows"] * stage["row_bytes"]
    assert stage["hits"] == 3 * ROWS + 4 * 7


@pytest.mark.once
def test_what_draws_variants_and_what_rests():
    def said(**arguments):
        report = FeatureCache(**arguments).plan(augmented(flip()))
        return " ".join(str(report).split())

    nothing = said()
    assert nothing == said(frozen_mode="training")
    assert nothing == (
        "Nothing is cached before 'flip', which is random while it trains. With "
        "`copies=4` four variants of each row are kept that it draws."
    )
    drawn = said(copies=3)
    assert "for 3 variants of each row, 32 bytes each. 'flip' draws them" in drawn
    assert "Noise between frozen layers is switched off: 'inner'" in drawn
    both_drawn = said(copies=3, frozen_mode="training")
    assert "2 layers, such as 'flip' draw them" in both_drawn
    assert "rests" not in both_drawn
    report = FeatureCache(copies=3).plan(compiled("nested"))
    assert "variants" not in str(report)
    trains = augmented(flip())
    for layer in trains.layers:
        layer.trainable = True
    first = trains.layers[1].name
    report = str(FeatureCache().plan(trains))
    assert report == f"Nothing is cached before {first!r}, which trains."


# --- what ends the cached part --------------------------------------------------------


def noisy():
    """Dropout between frozen layers, and after them."""
    return keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            frozen(layers.Dense(4, name="low")),
            layers.Dropout(0.5, seed=1, name="inner"),
            layers.Flatten(name="flat"),
            frozen(layers.Dense(8, name="high")),
            layers.Dropout(0.5, seed=2, name="outer"),
            layers.Dense(3, name="head"),
        ]
    )


@pytest.mark.slow
def test_noise_between_frozen_layers_rests_and_that_of_the_head_does_not(capsys):
    plain = compiled(noisy)
    plain.get_layer("inner").rate = 0.0
    without = trained(plain, images(), labels())
    cache = FeatureCache()
    cached = trained(compiled(noisy), images(), labels(), callbacks=[cache])
    assert reference.difference(without, cached) <= CLOSE
    assert cache.history[0]["layer"] == "high"
    said = " ".join(capsys.readouterr().out.split())
    assert "'high' is computed once a row and kept: 32 bytes a row" in said
    assert "Noise between frozen layers is switched off: 'inner'" in said


@pytest.mark.keras2
def test_a_model_called_in_inference_mode_stays_in_it_where_the_cut_opens_it():
    def make():
        backbone = keras.Sequential(
            [
                keras.Input((6, 6, 2)),
                frozen(layers.Dense(4, name="low")),
                layers.Dropout(0.5, name="quiet"),
                layers.BatchNormalization(name="norm"),
                layers.Dense(4, name="high"),
                layers.Dropout(0.5),
            ]
        )
        inputs = keras.Input((6, 6, 2))
        x = layers.Flatten()(backbone(inputs, training=False))
        return keras.Model(inputs, layers.Dense(3, name="head")(x))

    found, cache = both(make, images(), labels(), cache=_as_in_training())
    assert found <= CLOSE
    assert cache.history[0]["layer"] == "quiet"


@pytest.mark.slow
def test_noise_stays_active_if_asked_and_the_cut_is_before_it(capsys):
    cache = FeatureCache(frozen_mode="training")
    found, cache = both(noisy, images(), labels(), cache=cache)
    assert found <= CLOSE
    assert cache.history[0]["layer"] == "low"
    said = " ".join(capsys.readouterr().out.split())
    assert "if 'inner' did not draw random numbers between frozen layers" in said
    assert 'frozen_mode="inference"' in said


def _with(layer, name):
    def make():
        return keras.Sequential(
            [
                keras.Input((6, 6, 2)),
                frozen(layers.Dense(4, name="low")),
                layer(name),
                layers.Flatten(),
                frozen(layers.Dense(4, name="high")),
                layers.Dense(3, name="head"),
            ]
        )

    return make


class Remembers(layers.Layer):
    def build(self, shape):
        self.sum = self.add_weight(name="sum", shape=(), initializer="zeros")
        self.sum_is_here = True

    def call(self, inputs):
        self.sum.assign(self.sum + 1.0)
        return inputs * 1.0


ENDS = {
    "statistics": lambda name: layers.BatchNormalization(
        center=False, scale=False, name=name
    ),
    "a loss": lambda name: layers.ActivityRegularization(0.1, name=name),
    "a regularizer": lambda name: frozen(
        layers.Dense(3, activity_regularizer="l2", name=name)
    ),
    "a state": lambda name: frozen(Remembers(name=name)),
    "what trains": lambda name: layers.Dense(3, name=name),
    "augmentation": lambda name: layers.GaussianNoise(0.1, seed=1, name=name),
}


@pytest.mark.slow
@pytest.mark.parametrize("what", ENDS)
def test_the_cached_part_ends_before(what):
    make = _with(ENDS[what], "obstacle")
    found, cache = both(make, images(), labels(), cache=_as_in_training())
    assert found <= CLOSE
    assert cache.history[0]["layer"] == "low"


def _as_in_training():
    return FeatureCache(frozen_mode="training", verbose=0)


def test_nothing_is_cached_where_everything_trains(capsys):
    model = compiled("flat")
    for layer in model.layers:
        layer.trainable = True
    model.compile(keras.optimizers.SGD(0.01), model.loss)
    cache = FeatureCache()
    trained(model, images(), labels(), callbacks=[cache], epochs=1)
    assert cache.history[0]["layer"] is None
    assert "nothing is cached before" in " ".join(capsys.readouterr().out.split())


@pytest.mark.slow
def test_a_layer_that_trains_and_validates_differently():
    class Doubles(layers.Layer):
        def call(self, inputs, training=None):
            return inputs * 2.0 if training else inputs

    make = _with(lambda name: Doubles(name=name), "own")
    data = images(), labels()
    found, cache = both(make, *data, validation_data=data)
    assert found <= CLOSE
    assert cache.history[0]["rows"] == 2 * ROWS


@pytest.mark.slow
def test_rows_that_depend_on_one_another_are_noticed():
    class Centers(layers.Layer):
        def call(self, inputs):
            ops = keras.ops if KERAS_3 else keras.backend
            return inputs - ops.mean(inputs, axis=0, keepdims=True)

    make = _with(lambda name: Centers(name=name), "own")
    plain = trained(compiled(make), images(), labels())
    with pytest.warns(UserWarning, match="depend on the other rows"):
        cached = trained(
            compiled(make), images(), labels(), callbacks=[FeatureCache(verbose=0)]
        )
    assert reference.difference(plain, cached) <= CLOSE


# --- when it does not pay, or may not -------------------------------------------------


class Augmented(Batches):
    def __getitem__(self, index):
        x, y = super().__getitem__(index)
        return x + np.random.normal(size=x.shape).astype("float32"), y


def test_rows_that_never_come_again_are_noticed():
    cache = FeatureCache(verbose=0)
    model = compiled("nested")
    with pytest.warns(UserWarning, match="in epoch 1 only 0 had been seen before"):
        trained(model, Augmented(), callbacks=[cache], batch_size=None, epochs=4)
    assert cache.history[0]["bytes"] == 0
    assert cache.history[0]["misses"] == 2 * ROWS


def test_rows_that_find_no_room_are_not_taken_for_augmented_ones():
    with pytest.warns(UserWarning, match="keeps no more rows") as said:
        trained(
            compiled("nested"),
            images(),
            labels(),
            callbacks=[FeatureCache("10B", verbose=0)],
            epochs=4,
        )
    assert not [s for s in said if "seen before" in str(s.message)]


@pytest.mark.slow
def test_memory_is_bounded(monkeypatch):
    sizes = []
    compute = Feeding._computed

    def spy(self, role, state, x):
        sizes.append(len(lane.flatten(x)[0]))
        return compute(self, role, state, x)

    monkeypatch.setattr(Feeding, "_computed", spy)
    plain = trained(compiled("nested"), images(), labels())
    size = 10 * (6 * 4 + 32)  # a digest has 32 bytes
    cache = FeatureCache(size, verbose=0)
    with pytest.warns(UserWarning, match="keeps no more rows") as said:
        cached = trained(compiled("nested"), images(), labels(), callbacks=[cache])
    assert sum("keeps no more" in str(one.message) for one in said) == 1
    # Rows are computed in other batches than without the cache.
    assert reference.difference(plain, cached) <= 1e-6
    assert cache.history[0]["rows"] == 10
    assert cache.history[0]["hits"] == 10
    # Of a batch with some known rows the others only, where that costs no compiling.
    again = sum(sizes) - ROWS
    assert again > ROWS - 10 if backend() == "jax" else again == ROWS - 10


@pytest.mark.slow
def test_a_folder_is_used_by_the_next_run(tmp_path):
    ends, caches = [], []
    for _ in range(2):
        keras.backend.clear_session()
        caches.append(FeatureCache(folder=tmp_path, verbose=0))
        ends.append(
            trained(compiled("nested"), images(), labels(), callbacks=[caches[-1]])
        )
    assert reference.difference(*ends) <= CLOSE
    assert [cache.history[0]["misses"] for cache in caches] == [ROWS, 0]
    # Another weight of a frozen layer: nothing of it is used.
    model = compiled("nested")
    kernel = model.get_layer("body").layers[0].weights[0]
    kernel.assign(kernel + 0.5)
    trained(model, images(), labels(), callbacks=[cache := caches[0]])
    assert cache.history[0]["misses"] == ROWS


@pytest.mark.slow
def test_a_file_that_is_torn_is_refused_by_name_and_written_again(tmp_path):
    def run():
        cache = FeatureCache(folder=tmp_path, verbose=0)
        trained(compiled("nested"), images(), labels(), callbacks=[cache], epochs=1)
        return cache.history[0]["misses"]

    assert run() == ROWS
    (path,) = tmp_path.rglob("*.npy")
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.warns(UserWarning, match=path.name):
        assert run() == ROWS
    assert run() == 0
    np.save(path, np.array([{"a": 1}], object), allow_pickle=True)
    with pytest.warns(UserWarning, match=path.name):
        assert run() == ROWS
    path.parent.joinpath("rows.json").write_text("[[")
    with pytest.warns(UserWarning, match="rows.json"):
        run()


def test_a_model_without_a_graph_is_refused_before_anything_changes():
    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.head = layers.Dense(3)

        def call(self, inputs):
            return self.head(inputs[:, 0, 0])

    model = Own()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss)
    with pytest.raises(ValueError, match="class Own has a `call` of its own"):
        model.fit(images(), labels(), verbose=0, callbacks=[FeatureCache()])
    assert "make_train_function" not in vars(model)


def test_there_is_one_of_them():
    with pytest.raises(ValueError, match="one `FeatureCache`"):
        trained(
            compiled("nested"),
            images(),
            labels(),
            callbacks=[FeatureCache(), FeatureCache()],
        )


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"memory": "4 apples"}, ValueError),
        ({"memory": 0}, ValueError),
        ({"memory": 1.5}, TypeError),
        ({"folder": 3}, TypeError),
        ({"frozen_mode": "eval"}, ValueError),
        ({"copies": 0}, ValueError),
        ({"verbose": 2}, ValueError),
    ],
)
def test_bad_arguments(arguments, error):
    with pytest.raises(error, match=f"`{next(iter(arguments))}`"):
        FeatureCache(**arguments)


def test_sizes_in_words():
    assert FeatureCache("4GB").limit == 4 * 2**30
    assert FeatureCache("1.5 MB").limit == 3 * 2**19
    assert FeatureCache(77).limit == 77


@pytest.mark.slow
def test_configuration_and_copies():
    cache = FeatureCache("1GB", folder="x", frozen_mode="training", verbose=0)
    again = FeatureCache.from_config(cache.get_config())
    assert repr(again) == repr(cache)

    class Copies(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            self.seen = copy.deepcopy(used), pickle.loads(pickle.dumps(used))

    used = FeatureCache(verbose=0)
    copies = Copies()
    trained(compiled("nested"), images(), labels(), callbacks=[used, copies], epochs=1)
    assert all(repr(one) == repr(used) for one in copies.seen)


def test_plan(capsys):
    model = compiled("nested")
    report = FeatureCache().plan(model)
    assert "'pool' is computed once a row and kept: 24 bytes" in " ".join(
        str(report).split()
    )


# --- steps of one's own ---------------------------------------------------------------


def _own(change):
    """A functional model whose class changes the inputs of a step first."""

    class Own(keras.Model):
        def train_step(self, *args):
            *state, data = args
            x, y, weight = keras.utils.unpack_x_y_sample_weight(data)
            return super().train_step(*state, (change(x), y, weight))

    def make():
        model = flat()
        return Own(model.inputs, model.outputs)

    return make


@pytest.mark.slow
def test_a_step_that_leaves_its_inputs_alone_is_fed():
    found, cache = both(_own(lambda x: x), images(), labels())
    assert found <= CLOSE
    assert cache.history[0]["hits"] == ROWS


@pytest.mark.slow
def test_a_step_that_changes_its_inputs_gets_the_whole_model():
    make = _own(lambda x: x * 0.5)
    with pytest.warns(UserWarning, match="something else than the inputs"):
        found, _ = both(make, images(), labels())
    assert found <= CLOSE


# --- ends -----------------------------------------------------------------------------


class Stop(Exception):
    pass


@pytest.mark.slow
@pytest.mark.parametrize("hook", ["on_train_batch_end", "on_test_batch_end"])
def test_nothing_is_left_after_an_exception(hook):
    def stop(batch, logs=None):
        raise Stop

    model = compiled("nested")
    before = set(vars(model))
    callback = keras.callbacks.LambdaCallback()
    setattr(callback, hook, stop)
    with pytest.raises(Stop):
        trained(
            model,
            images(),
            labels(),
            validation_data=(images(), labels()),
            callbacks=[FeatureCache(verbose=0), callback],
        )
    ours = {"call", "train_step", "test_step", "make_train_function", "evaluate"}
    assert not ours & (set(vars(model)) - before)
    other = compiled("nested")
    other.set_weights(model.get_weights())
    x, y = images(), labels()
    np.testing.assert_allclose(
        model.evaluate(x, y, verbose=0), other.evaluate(x, y, verbose=0), rtol=1e-6
    )
    found = [m.fit(x, y, epochs=1, verbose=0) for m in (model, other)]
    assert all(np.isfinite(h.history["loss"][0]) for h in found)


@pytest.mark.slow
def test_resumed_after_a_failure(tmp_path):
    def backup():
        return keras.callbacks.BackupAndRestore(str(tmp_path / "backup"))

    data = images(), labels()
    whole = trained(compiled("flat"), *data, epochs=4, shuffle=False)

    class Fails(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise Stop

    with pytest.raises(Stop):
        trained(
            compiled("flat"),
            *data,
            epochs=4,
            shuffle=False,
            callbacks=[backup(), FeatureCache(verbose=0), Fails()],
        )
    cache = FeatureCache(verbose=0)
    resumed = trained(
        compiled("flat"), *data, epochs=4, shuffle=False, callbacks=[backup(), cache]
    )
    assert cache.history[0]["epoch"] == 2
    keys = [key for key in whole if not key.startswith("log")]
    one, two = ({k: end[k] for k in keys} for end in (whole, resumed))
    assert reference.difference(one, two) <= CLOSE


def test_no_warnings_of_ours_in_an_ordinary_fit():
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        trained(
            compiled("nested"), images(), labels(), callbacks=[FeatureCache(verbose=0)]
        )
