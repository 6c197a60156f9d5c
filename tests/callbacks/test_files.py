"""Files that are written while a model is unfrozen: plain Keras loads them."""

import subprocess
import sys
import textwrap

import numpy as np
import pytest
import reference

from keras_finetune import DiscriminativeLR, GradualUnfreeze
from keras_finetune._engine import KERAS_3, keras

pytestmark = pytest.mark.slow

GROUPS = ["low", "middle", "head"]
DATA = reference.make_data()

LOAD = """
    import os, sys
    import numpy as np
    if os.environ.get("TF_USE_LEGACY_KERAS") == "1":
        import tf_keras as keras
    else:
        import keras

    def save_state(model, path):
        variables = model.optimizer.variables
        np.savez(path, *map(keras.backend.get_value, variables) if not hasattr(
            keras, "ops") else map(keras.ops.convert_to_numpy, variables))

    names = ["low", "middle", "head"]
    for epoch in (1, 2, 3):
        model = keras.models.load_model(f"{epoch}.keras")
        save_state(model, f"model_{epoch}.npz")
        # The same from bare weights: a model that is frozen by hand.
        model = keras.models.clone_model(model)
        for name in names:
            model.get_layer(name).trainable = name in names[3 - epoch:]
        model.compile(keras.optimizers.Adam(0.02), "mse")
        model.optimizer.build(model.trainable_variables)
        model.load_weights(f"{epoch}.weights.h5")
        save_state(model, f"weights_{epoch}.npz")
    assert "keras_finetune" not in sys.modules
"""


def in_every_stage(directory):
    """Fits three stages of an epoch each; returns the optimizer's state after each."""
    model = reference.compile_model(reference.make_model(), keras.optimizers.Adam(0.02))
    states = []

    def look(epoch, logs):
        states.append(reference.optimizer_state(model))

    save = keras.callbacks.ModelCheckpoint
    callbacks = [
        save(str(directory / "{epoch}.keras")),
        save(str(directory / "{epoch}.weights.h5"), save_weights_only=True),
        GradualUnfreeze(groups=GROUPS, every=1),
        DiscriminativeLR(groups=GROUPS),
        keras.callbacks.LambdaCallback(on_epoch_end=look),
    ]
    reference.fit(model, DATA, epochs=3, callbacks=callbacks)
    return model, states


def test_files_of_every_stage_load_in_plain_keras_with_optimizer_state(tmp_path):
    _, states = in_every_stage(tmp_path)
    load = [sys.executable, "-c", textwrap.dedent(LOAD)]
    subprocess.run(load, cwd=tmp_path, check=True)
    for epoch, state in enumerate(states, start=1):
        for kind in ("model", "weights"):
            found = list(np.load(tmp_path / f"{kind}_{epoch}.npz").values())
            # Two slots a variable, the iterations, on Keras 3 the learning rate.
            assert len(found) == 4 * epoch + (2 if KERAS_3 else 1)
            for name, value in state.items():
                if KERAS_3 or "learning_rate" not in name:
                    assert any(np.array_equal(value, v) for v in found), name


def test_a_file_loaded_as_fit_begins_leads_to_its_stage(tmp_path):
    whole, _ = in_every_stage(tmp_path)
    for order in (1, -1):
        model = reference.compile_model(
            reference.make_model(), keras.optimizers.Adam(0.02)
        )

        def load(logs, model=model):
            model.load_weights(tmp_path / "2.weights.h5")

        callbacks = [
            keras.callbacks.LambdaCallback(on_train_begin=load),
            GradualUnfreeze(groups=GROUPS, every=1),
            DiscriminativeLR(groups=GROUPS),
        ][::order]
        reference.fit(model, DATA, epochs=3, initial_epoch=2, callbacks=callbacks)
        one, other = reference.weights(model), reference.weights(whole)
        assert reference.difference(one, other) == 0
        one, other = reference.optimizer_state(model), reference.optimizer_state(whole)
        assert reference.difference(one, other) == 0


def test_a_file_without_an_optimizer_is_loaded_as_ever(tmp_path):
    source = reference.make_model()
    source.set_weights([value + 1 for value in source.get_weights()])
    source.save_weights(tmp_path / "plain.weights.h5")
    model = reference.compile_model(reference.make_model(), keras.optimizers.Adam(0.0))
    load = keras.callbacks.LambdaCallback(
        on_train_begin=lambda logs: model.load_weights(tmp_path / "plain.weights.h5")
    )
    reference.fit(
        model, DATA, epochs=3, callbacks=[load, GradualUnfreeze(GROUPS, every=1)]
    )
    one, other = reference.weights(model), reference.weights(source)
    assert reference.difference(one, other) == 0


@pytest.mark.backend("tensorflow")
def test_a_saved_model_for_tensorflow(tmp_path):
    import tensorflow as tf

    model, _ = in_every_stage(tmp_path)
    path = str(tmp_path / "export")
    if KERAS_3:
        model.export(path, verbose=False)
    else:
        model.save(path, save_format="tf")
    loaded = tf.saved_model.load(path)
    served = loaded.serve(DATA[0]) if KERAS_3 else loaded(DATA[0])
    np.testing.assert_allclose(served, model.predict(DATA[0], verbose=0), rtol=1e-5)
