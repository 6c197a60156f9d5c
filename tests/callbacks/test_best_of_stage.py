"""Each stage ends with its best epoch, and `EarlyStopping` can end a stage."""

import numpy as np
import pytest
import reference

from keras_finetune import GradualUnfreeze, OneCycle
from keras_finetune._engine import KERAS_3, keras

layers = keras.layers
# Lowest in epoch 1 of stage 0, epoch 2 of stage 1, epoch 4 of stage 2.
VALUES = [3.0, 1.0, 2.0, 3.0, 2.0, 5.0]
GROUPS = ["low", "middle", "head"]
BEST = {0: 1, 1: 2, 2: 4}


class Block(layers.Layer):
    """A layer made of layers: on Keras 2 flags change the order of its weights."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.first = layers.BatchNormalization(name="norm")
        self.dense = layers.Dense(4, name="dense")

    def build(self, input_shape):
        self.first.build(input_shape)
        self.dense.build(input_shape)
        super().build(input_shape)

    def call(self, inputs, training=None):
        return self.dense(self.first(inputs, training=training))


@pytest.fixture(autouse=True)
def generators():
    """Dropout of Keras 2 has a state that a run can be given back."""
    if KERAS_3:
        yield
        return
    keras.backend.experimental.enable_tf_random_generator()
    yield
    keras.backend.experimental.disable_tf_random_generator()


def make_model(optimizer=None):
    keras.utils.set_random_seed(1)  # layers draw seeds when they are made
    body = [
        Block(name="low"),
        layers.Dense(5, activation="tanh", name="middle"),
        layers.Dropout(0.2, seed=1),
    ]
    model = reference.make_model(body=body)
    return reference.compile_model(model, optimizer or keras.optimizers.Adam(0.05))


DATA = reference.make_data(18)


def state(model):
    """All weights, and all that the optimizer has, by variable."""
    optimizer = model.optimizer
    held = optimizer.variables
    held = held() if callable(held) else held
    unique = {id(v): v for v in [*model.weights, *held]}
    return {key: reference.to_numpy(v) for key, v in unique.items()}


class Watch(keras.callbacks.Callback):
    """Logs a quantity, and notes the state at the beginning and end of each epoch."""

    def __init__(self, values=VALUES):
        super().__init__()
        self.values, self.begins, self.ends = values, {}, {}

    def on_epoch_end(self, epoch, logs=None):
        logs["quantity"] = self.values[epoch]
        self.ends[epoch] = state(self.model)

    def after(self, unfreeze):
        """A callback after ours, which sees what an epoch begins with."""

        def begin(epoch, logs):
            self.begins[epoch] = state(self.model)

        return keras.callbacks.LambdaCallback(on_epoch_begin=begin)


def assert_same(came, expected, *but):
    """Both are equal where they have the same variables, counters apart."""
    for key in expected:
        if key not in but:
            np.testing.assert_array_equal(came[key], expected[key])


def counters(model):
    """The ids of iterations and learning rate, which go on."""
    optimizer = model.optimizer
    names = ("_iterations", "iterations", "_learning_rate")
    return {id(getattr(optimizer, name, None)) for name in names}


OPTIMIZERS = {"adam": lambda: keras.optimizers.Adam(0.05)}
if not KERAS_3:
    OPTIMIZERS["legacy"] = lambda: keras.optimizers.legacy.Adam(0.05)


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_stage_ends_with_its_best_epoch(name):
    model, watch = make_model(OPTIMIZERS[name]()), Watch()
    ours = GradualUnfreeze(
        GROUPS, every=2, monitor="quantity", restore_best=True, batch_norm="trainable"
    )
    callbacks = [watch, ours, OneCycle(per="stage"), watch.after(ours)]
    history = reference.fit(model, DATA, epochs=6, callbacks=callbacks)
    counts = counters(model)
    assert_same(watch.begins[2], watch.ends[BEST[0]], *counts)
    assert_same(watch.begins[4], watch.ends[BEST[1]], *counts)
    assert_same(state(model), watch.ends[BEST[2]], *counts)
    assert [entry["best_epoch"] for entry in ours.history] == list(BEST.values())
    # Where the last epoch was not the best, something did come back.
    kernel = id(model.get_layer("head").kernel)
    assert np.any(watch.begins[4][kernel] != watch.ends[3][kernel])
    assert int(reference.to_numpy(model.optimizer.iterations)) == 18
    # The cycles go on as if nothing had come back: two epochs each.
    factors = OneCycle().factors(6)
    rates = [0.05 * factors[t] for t in (2, 5)] * 3
    np.testing.assert_allclose(history.history["learning_rate"], rates, rtol=1e-6)


class Killed(Exception):
    """Ends a run where it stands."""


def resumed(directory, kills, backup_first):
    for kill_in in (*kills, None):

        def stop(epoch, logs, kill_in=kill_in):
            if epoch == kill_in:
                raise Killed

        model = make_model()
        ours = GradualUnfreeze(GROUPS, every=2, monitor="quantity", restore_best=True)
        backup = keras.callbacks.BackupAndRestore(str(directory))
        pair = [backup, ours] if backup_first else [ours, backup]
        killer = keras.callbacks.LambdaCallback(on_epoch_begin=stop)
        try:
            callbacks = [Watch(), *pair, killer]
            reference.fit(model, DATA, epochs=6, callbacks=callbacks)
        except Killed:
            continue
        files = [path.name for path in directory.rglob("keras_finetune_file*")]
        assert not files
        best = [entry["best_epoch"] for entry in ours.history]
        return best, {**reference.weights(model), **reference.optimizer_state(model)}


# At a boundary, and in a stage whose best epoch is over.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("backup_first", "kills"), [(True, (2, 5)), (False, (3,))], ids=["first", "last"]
)
def test_the_best_epoch_survives_kills(backup_first, kills, tmp_path):
    whole, expected = resumed(tmp_path / "whole", (), backup_first)
    best, came = resumed(tmp_path / "killed", kills, backup_first)
    assert best == whole == list(BEST.values())
    assert reference.difference(came, expected) == 0


def stopping(values, callbacks, epochs=10):
    model = make_model()
    watch = Watch([*values, *[9.0] * epochs])
    fitted = reference.fit(model, DATA, epochs=epochs, callbacks=[watch, *callbacks])
    return fitted.history["stage"]


@pytest.mark.slow
@pytest.mark.parametrize("first", [True, False])
def test_early_stopping_ends_the_stage_and_then_the_run(first):
    ours = GradualUnfreeze(GROUPS, early_stopping="stage")
    stop = keras.callbacks.EarlyStopping("quantity", mode="min", patience=2)
    callbacks = [ours, stop] if first else [stop, ours]
    stages = stopping([3.0, 2.0, 2.5, 2.5, 1.0, 1.0, 1.0, 0.5], callbacks)
    assert stages == [0, 0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert "on_epoch_end" not in vars(stop)


@pytest.mark.slow
def test_early_stopping_ends_stages_beside_a_monitor():
    ours = GradualUnfreeze(
        GROUPS, every=2, monitor="loss", restore_best=True, early_stopping="stage"
    )
    stop = keras.callbacks.EarlyStopping("quantity", mode="min", patience=1)
    assert stopping([1.0, 2.0, 1.5, 0.5, 3.0], [ours, stop]) == [0, 0, 1, 2, 2]


def test_what_cannot_be_meant_is_refused():
    with pytest.raises(ValueError, match="`restore_best=True` needs a `monitor`"):
        GradualUnfreeze(restore_best=True)
    with pytest.raises(ValueError, match="`every` is the number of epochs"):
        GradualUnfreeze(every=[1, 2], early_stopping="stage")
    model, ours = make_model(), GradualUnfreeze(GROUPS, early_stopping="stage")
    with pytest.raises(ValueError, match="needs a `keras.callbacks.EarlyStopping`"):
        reference.fit(model, DATA, callbacks=[ours])
