"""A search leaves no trace: the `fit` after it is the one that it would have been."""

import random

import numpy as np
import pytest

from keras_finetune import (
    DiscriminativeLR,
    GradualUnfreeze,
    find_learning_rate,
)
from keras_finetune._engine import KERAS_3, backend, keras
from keras_finetune._engine.active import lane
from keras_finetune._engine.structure import all_layers
from keras_finetune._rules import stages
from keras_finetune.rates._sweep import Sweep

GROUPS = ["low", ["norm", "head"]]
CALLBACKS = {
    "none": list,
    "stages and rates": lambda: [
        GradualUnfreeze(GROUPS, every=1),
        DiscriminativeLR(2.0, groups=GROUPS),
    ],
}
SGD, ADAM = keras.optimizers.SGD, keras.optimizers.Adam
DECAY = keras.optimizers.schedules.ExponentialDecay
OPTIMIZERS = {
    "adam": lambda: ADAM(0.01),
    "momentum under a schedule": lambda: SGD(DECAY(0.1, 2, 0.9), momentum=0.9),
    "average of weights": lambda: keras.optimizers.AdamW(0.01, use_ema=True),
    "loss scaling": lambda: LOSS_SCALING(ADAM(0.01)),
}
if KERAS_3:
    LOSS_SCALING = keras.optimizers.LossScaleOptimizer
    OPTIMIZERS["accumulation"] = lambda: ADAM(0.01, gradient_accumulation_steps=2)
else:
    LOSS_SCALING = keras.mixed_precision.LossScaleOptimizer
    OPTIMIZERS["legacy"] = lambda: keras.optimizers.legacy.Adam(0.01)


# Tracing takes most of the time where a step is a graph.
EAGER = {"run_eagerly": True} if backend() == "tensorflow" else {}


def make_data():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(22, 4)).astype("float32")
    return x, x[:, :1]


def make_model(optimizer=OPTIMIZERS["adam"], **arguments):
    keras.utils.set_random_seed(3)
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(3, activation="tanh", name="low"),
            layers.Dropout(0.3, seed=5, name="drop"),
            layers.BatchNormalization(name="norm"),
            layers.Dense(1, name="head"),
        ]
    )
    model.compile(optimizer(), "mse", metrics=["mae"], **(arguments or EAGER))
    return model


def fit(model, callbacks, data=None, epochs=2, **arguments):
    x, y = data or make_data()
    history = model.fit(
        x, y, batch_size=8, epochs=epochs, verbose=0, callbacks=callbacks, **arguments
    )
    return history.history


def values(model):
    return [lane.value(v) for v in lane.state_variables(model)]


def generators():
    """What generators would draw next; they are as before afterwards."""
    state, numpy_state = random.getstate(), np.random.get_state()
    found = [state, *numpy_state[1:3]]
    if backend() == "torch":
        import torch

        found.append(torch.get_rng_state().numpy())
    if backend() == "tensorflow":
        from tensorflow.python.eager import context

        found.append(context.context()._rng.getstate())
    return found


def seen(model):
    """Everything that a user may look at, by identity where it is an object."""
    metrics = [metric.name for metric in model.metrics]
    return {
        "model": {k: id(v) for k, v in vars(model).items()},
        "optimizer": {
            k: id(v) if not isinstance(v, (list, dict)) else len(v)
            for k, v in vars(model.optimizer).items()
            if k != "_coalesced_children"  # notes of `tf_keras`, made when asked for
        },
        "flags": [layer.trainable for layer in all_layers(model)],
        "variables": [v.trainable for v in model.weights],
        "metrics": metrics,
        "remembered": stages._NOT_REACHED.get(model),
    }


def same(one, other):
    return len(one) == len(other) and all(
        np.array_equal(a, b, equal_nan=True) for a, b in zip(one, other)
    )


def assert_same_fit(search, callbacks, name="adam", trained=0, **arguments):
    """Compares a `fit` after a search with one without."""
    ends = []
    for searches in (False, True):
        model = make_model(OPTIMIZERS[name], **arguments)
        if trained:
            fit(model, CALLBACKS["none"](), epochs=trained)
        if searches:
            # `seen` last: on `tf_keras` a look at the state leaves notes.
            state, drawn, before = values(model), generators(), seen(model)
            search(model)
            assert seen(model) == before
            assert same(values(model), state)
            for a, b in zip(generators(), drawn):
                np.testing.assert_equal(a, b)
        history = fit(model, callbacks())
        ends.append((history, values(model), generators()))
    plain, ours = ends
    assert plain[0] == ours[0]
    assert same(plain[1], ours[1])
    for a, b in zip(plain[2], ours[2]):
        np.testing.assert_equal(a, b)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "trained"), [("none", 0), ("stages and rates", 1)])
def test_the_fit_after_a_search_is_that_without(name, trained):
    def search(model):
        found = find_learning_rate(
            model, *make_data(), callbacks=CALLBACKS[name](), batch_size=8, steps=4
        )
        assert len(found.losses) == 4

    assert_same_fit(search, CALLBACKS[name], trained=trained, run_eagerly=False)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if name != "adam"])
def test_the_state_of_optimizers_is_kept(name):
    make = CALLBACKS["stages and rates"]

    def search(model):
        find_learning_rate(
            model, *make_data(), callbacks=make(), batch_size=8, steps=4, stage=1
        )

    # On JAX a second `fit` of plain Keras fails after averages were written over
    # weights: "Attempt to donate the same buffer twice".
    assert_same_fit(search, make, name, trained=int(name != "average of weights"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("hook", "kind"),
    [("on_train_batch_begin", RuntimeError), ("on_train_batch_end", KeyboardInterrupt)],
)
def test_a_search_that_is_interrupted_leaves_no_trace(hook, kind, monkeypatch):
    calls = []

    def fails(self, batch, logs=None):
        calls.append(batch)
        if len(calls) == 3:
            raise kind

    def search(model):
        with monkeypatch.context() as patch:
            patch.setattr(Sweep, hook, fails)
            with pytest.raises(kind):
                find_learning_rate(
                    model, *make_data(), callbacks=callbacks(), batch_size=8
                )

    callbacks = CALLBACKS["stages and rates"]
    assert_same_fit(search, callbacks)


@pytest.mark.slow
def test_a_search_that_ends_in_nan_leaves_no_trace():
    x, y = make_data()
    x[4] = np.nan

    def search(model):
        found = find_learning_rate(model, x, y, batch_size=8, steps=10)
        assert found.suggestion is None
        assert np.isnan(found.losses[-1])

    assert_same_fit(search, CALLBACKS["stages and rates"])


@pytest.mark.slow
def test_the_callbacks_are_as_before():
    callbacks = CALLBACKS["stages and rates"]()
    before = [{**vars(c)} for c in callbacks]
    find_learning_rate(make_model(), *make_data(), callbacks=callbacks, steps=4)
    assert [vars(c) for c in callbacks] == before
    assert callbacks[0].history == []


# --- data -----------------------------------------------------------------------------

ITEMS = keras.utils.PyDataset if KERAS_3 else keras.utils.Sequence


class Items(ITEMS):
    """Batches in an order of its own, which changes with each epoch."""

    def __init__(self):
        if KERAS_3:
            super().__init__()
        self.x, self.y = make_data()
        self.order = np.arange(3)
        self.epochs = 0

    def __len__(self):
        return 3

    def __getitem__(self, index):
        rows = slice(8 * self.order[index], 8 * self.order[index] + 8)
        return self.x[rows] + np.random.normal(), self.y[rows]

    def on_epoch_end(self):
        self.epochs += 1
        np.random.shuffle(self.order)


@pytest.mark.slow
def test_items_hear_of_no_epoch():
    items = Items()

    def search(model):
        assert len(find_learning_rate(model, items, steps=7).losses) == 7
        assert items.epochs == 0

    assert_same_fit(search, CALLBACKS["none"])


@pytest.mark.slow
@pytest.mark.keras3
def test_items_without_an_end():
    class Endless(ITEMS):
        num_batches = None

        def __getitem__(self, index):
            x, y = make_data()
            return x + index, y

    assert len(find_learning_rate(make_model(), Endless(), steps=5).losses) == 5


@pytest.mark.slow
def test_an_iterator_is_drawn_from_once_and_says_so():
    def stream():
        for i in range(100):
            drawn.append(i)
            x, y = make_data()
            yield x[:8] + i / 50, y[:8]

    drawn, batches = [], stream()
    model = make_model()
    with pytest.warns(UserWarning, match="its next 6 batches are used up"):
        found = find_learning_rate(
            model, batches, stage="each", steps=6, callbacks=[GradualUnfreeze(GROUPS)]
        )
    assert drawn == list(range(6))
    assert [len(one.losses) for one in found] == [6, 6]
    next(batches)
    assert drawn[-1] == 6
    with pytest.warns(UserWarning, match="used up"):
        short = find_learning_rate(model, iter(list(stream())[:4]), steps=6)
    assert len(short.losses) == 4
    with pytest.raises(ValueError, match="at least one batch"):
        find_learning_rate(model, iter([]), steps=6)


@pytest.mark.slow
@pytest.mark.backend("tensorflow")
@pytest.mark.parametrize("shuffles", [False, True])
def test_a_dataset_is_read_as_often_as_needed(shuffles, recwarn):
    import tensorflow as tf

    data = tf.data.Dataset.from_tensor_slices(make_data())
    if shuffles:
        data = data.shuffle(22, seed=1)
    found = find_learning_rate(make_model(), data.batch(8), steps=7)
    assert len(found.losses) == 7
    assert shuffles == any("shuffles" in str(w.message) for w in recwarn)


@pytest.mark.backend("torch")
def test_the_generator_of_a_loader_is_put_back():
    import torch

    x, y = map(torch.from_numpy, make_data())
    generator = torch.Generator().manual_seed(1)
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(x, y), 8, shuffle=True, generator=generator
    )
    before = generator.get_state()
    assert len(find_learning_rate(make_model(), loader, steps=7).losses) == 7
    assert torch.equal(generator.get_state(), before)


# --- generators -----------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.keras3
@pytest.mark.parametrize("exists", [False, True])
def test_keras_global_generator_draws_what_it_would_have_drawn(exists):
    drawn = []
    for searches in (False, True):
        keras.utils.clear_session()  # Keras 3.8 does not seed it again
        model = make_model()
        if exists:
            keras.random.normal((2,))
        if searches:
            find_learning_rate(model, *make_data(), steps=4)
        drawn.append(keras.ops.convert_to_numpy(keras.random.normal((3,))))
    np.testing.assert_array_equal(*drawn)


@pytest.mark.slow
@pytest.mark.backend("tensorflow")
def test_eager_operations_of_tensorflow_draw_what_they_would_have_drawn():
    import tensorflow as tf

    class Draws(ITEMS):
        def __len__(self):
            return 2

        def __getitem__(self, index):
            x, y = make_data()
            return x + tf.random.normal(()).numpy(), y

    drawn = []
    for searches in (False, True):
        model = make_model()
        tf.random.get_global_generator().reset_from_seed(1)
        tf.random.normal(())
        if searches:
            find_learning_rate(model, Draws(), steps=4)
        drawn.append(
            [
                tf.random.normal((3,)).numpy(),
                tf.random.get_global_generator().normal((3,)).numpy(),
            ]
        )
    np.testing.assert_array_equal(*drawn)
