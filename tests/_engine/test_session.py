"""One `fit` is told from another, whatever the user's own callbacks do in it."""

import warnings

import numpy as np
import pytest
import reference

from keras_finetune import (
    DiscriminativeLR,
    GradualUnfreeze,
    TrainOnly,
    WeightNormLogger,
    layer_groups,
    summary,
)
from keras_finetune._engine import KERAS_3, keras

pytestmark = pytest.mark.slow

DATA = reference.make_data()


def calling(hook, act):
    """A callback that does something in one of its hooks."""
    callback = keras.callbacks.Callback()
    setattr(callback, hook, lambda *args, **kwargs: act(callback.model))
    return callback


@pytest.mark.parametrize(
    "hook",
    ["on_train_begin", "on_epoch_begin", "on_train_batch_end", "on_epoch_end"],
)
def test_predict_within_a_callback_changes_nothing(hook):
    # On Keras 2 it replaces `model.history` until the end of the epoch.
    def fit(act):
        model = reference.compile_model(reference.make_model(), "sgd")
        ours = [
            TrainOnly("kernel"),
            DiscriminativeLR(multipliers=[0.0, 0.5, 1.0], groups=3),
            GradualUnfreeze(groups=3, every=1),
        ]
        callbacks = [calling(hook, act), *ours]
        logs = reference.fit(model, DATA, epochs=3, callbacks=callbacks).history
        return reference.weights(model), logs["learning_rate/middle"]

    def predict(model):
        model.predict(DATA[0], verbose=0)
        model.evaluate(*DATA, verbose=0)

    plain, rates = fit(lambda model: None)
    found, its_rates = fit(predict)
    assert reference.difference(found, plain) == 0
    assert its_rates == rates


class Stop(Exception):
    pass


def stop(*args):
    raise Stop


@pytest.mark.parametrize("ending", ["no epoch", "before ours", "after ours"])
def test_a_fit_without_an_epoch_leaves_nothing_for_the_next(ending, tmp_path):
    def model_of_a_killed_fit(directory):
        model = reference.compile_model(reference.make_model(), "adam")
        backup = keras.callbacks.BackupAndRestore(str(directory))

        def kill(model):
            if int(model.optimizer.iterations) == 8:
                raise Stop

        killer = calling("on_epoch_begin", kill)
        with pytest.raises(Stop):
            reference.fit(model, DATA, epochs=4, callbacks=[backup, killer])
        return reference.compile_model(reference.make_model(), "adam")

    def resume(model, directory):
        backup = keras.callbacks.BackupAndRestore(str(directory))
        reference.fit(model, DATA, epochs=4, callbacks=[backup])
        return reference.optimizer_state(model)

    plain = resume(model_of_a_killed_fit(tmp_path / "plain"), tmp_path / "plain")
    model = model_of_a_killed_fit(tmp_path / "ours")
    ours = [TrainOnly("bias"), DiscriminativeLR(multipliers=[0.0, 1.0], groups=2)]
    if ending == "no epoch":
        reference.fit(model, DATA, epochs=1, initial_epoch=1, callbacks=ours)
        assert "load_own_variables" not in vars(model.optimizer)
    else:
        place = 0 if ending == "before ours" else 2
        ours.insert(place, calling("on_train_begin", stop))
        with pytest.raises(Stop):
            reference.fit(model, DATA, epochs=4, callbacks=ours)
    found = resume(model, tmp_path / "ours")
    assert reference.difference(found, plain) == 0
    if KERAS_3:  # the backups of Keras 2 are no such files
        assert "load_own_variables" not in vars(model.optimizer)


@pytest.mark.backend("tensorflow")
def test_a_vocabulary_is_no_weight():
    import tensorflow as tf

    layers = keras.layers
    words = layers.TextVectorization(max_tokens=9, output_sequence_length=3)
    text = np.array([["a b c"], ["b c"], ["d a"], ["a"]])
    words.adapt(text)
    inputs = keras.Input((1,), dtype="string")
    x = layers.Embedding(9, 4, name="embedding")(words(inputs))
    x = layers.GlobalAveragePooling1D()(x)
    model = keras.Model(inputs, layers.Dense(3, name="head")(x))
    model.compile("adam", "mse")
    summary(model)
    assert layer_groups(model).names == ("embedding", "head")
    callbacks = [
        GradualUnfreeze(groups=2, learning_rate_factor=0.5, every=1),
        DiscriminativeLR(multipliers={"embedding": 0.1}, groups=2),
        TrainOnly("kernel|embeddings"),
        WeightNormLogger(by="layer"),
    ]
    history = model.fit(
        tf.constant(text), np.zeros((4, 3)), epochs=2, verbose=0, callbacks=callbacks
    )
    assert history.history["stage"] == [0, 1]


@pytest.mark.keras2
@pytest.mark.parametrize(
    "ours", [lambda: GradualUnfreeze(every=1), lambda: TrainOnly("kernel")]
)
def test_checkpoints_of_tensorflow_are_warned_of(ours, tmp_path):
    def fit(name, optimizer="adam", **arguments):
        model = reference.compile_model(reference.make_model(), optimizer)
        save = keras.callbacks.ModelCheckpoint(str(tmp_path / name), **arguments)
        reference.fit(model, DATA, epochs=1, callbacks=[ours(), save])

    with pytest.warns(UserWarning, match=r"ends in `\.weights\.h5`"):
        fit("weights", save_weights_only=True)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="With `save_weights_only=True`")
        fit("all.weights.h5", save_weights_only=True)
        fit("model.keras")
        fit("legacy", keras.optimizers.legacy.Adam(), save_weights_only=True)
