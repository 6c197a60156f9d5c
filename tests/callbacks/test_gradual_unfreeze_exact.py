"""GradualUnfreeze against the careful manual way: weights and every slot."""

import importlib.util

import numpy as np
import pytest
import reference

from keras_finetune import GradualUnfreeze
from keras_finetune._engine import KERAS_3, backend, keras

pytestmark = pytest.mark.slow

EVERY = reference.optimizers()
if importlib.util.find_spec("tensorflow_addons"):
    EVERY |= reference.addons_optimizers()

GROUPS = ["low", "middle", "head"]
STAGES = [({"head"}, 1), ({"middle", "head"}, 1), ({"low", "middle", "head"}, 1)]
DATA = reference.make_data()


def ours(make_optimizer, *, compile_args=None, callback=None, epochs=3, **kwargs):
    model = reference.make_model()
    reference.compile_model(model, make_optimizer(), **(compile_args or {}))
    callback = callback or GradualUnfreeze(groups=GROUPS, every=1)
    reference.fit(model, DATA, epochs=epochs, callbacks=[callback], **kwargs)
    return model


def by_hand(make_optimizer, *, stages=STAGES, compile_args=None, **kwargs):
    model = reference.make_model()
    return reference.manual_stages(
        model, make_optimizer, stages, DATA, compile_args=compile_args, **kwargs
    )


def assert_same(one, other):
    assert reference.difference(reference.weights(one), reference.weights(other)) == 0
    assert (
        reference.difference(
            reference.optimizer_state(one), reference.optimizer_state(other)
        )
        == 0
    )


@pytest.mark.parametrize("name", EVERY)
def test_equals_the_manual_way(name):
    one, other = ours(EVERY[name]), by_hand(EVERY[name])
    assert_same(one, other)
    start = reference.weights(reference.make_model())
    end = reference.weights(one)
    assert all(np.any(end[key] != start[key]) for key in end if "kernel" in key)


MODES = {
    "jit": {"jit_compile": True},
    "eager": {"run_eagerly": True},
    "steps_per_execution": {"steps_per_execution": 4},
}
if backend() == "torch":
    # Keras refuses `steps_per_execution` there; torch.compile has a test of its own.
    MODES = {"eager": {"run_eagerly": True}}


@pytest.mark.parametrize("mode", MODES)
def test_equals_the_manual_way_in_every_mode(mode):
    arguments = {"compile_args": MODES[mode]}
    assert_same(ours(EVERY["adamw"], **arguments), by_hand(EVERY["adamw"], **arguments))


def test_equals_the_manual_way_in_mixed_precision():
    keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        assert_same(ours(EVERY["adam"]), by_hand(EVERY["adam"]))
    finally:
        keras.mixed_precision.set_global_policy("float32")


def test_equals_the_manual_way_with_a_list_of_epochs():
    stages = [(STAGES[0][0], 1), (STAGES[1][0], 3), (STAGES[2][0], 1)]
    one = ours(
        EVERY["momentum"],
        callback=GradualUnfreeze(groups=GROUPS, every=[1, 4]),
        epochs=5,
    )
    assert_same(one, by_hand(EVERY["momentum"], stages=stages))


def test_equals_the_manual_way_with_two_groups_at_first():
    callback = GradualUnfreeze(groups=GROUPS, every=2, initial_groups=2)
    one = ours(EVERY["adam"], callback=callback, epochs=4)
    stages = [(STAGES[1][0], 2), (STAGES[2][0], 2)]
    assert_same(one, by_hand(EVERY["adam"], stages=stages))


def test_equals_the_manual_way_with_validation_and_a_scheduler():
    def callbacks():
        schedule = keras.callbacks.LearningRateScheduler(lambda e, r: 0.05 / (e + 1))
        return [schedule, keras.callbacks.EarlyStopping("val_loss", patience=9)]

    arguments = {"validation_data": reference.make_data(seed=7)}
    one = reference.compile_model(reference.make_model(), EVERY["adam"]())
    gradual = GradualUnfreeze(groups=GROUPS, every=1)
    history = reference.fit(
        one, DATA, epochs=3, callbacks=[*callbacks(), gradual], **arguments
    )
    other = reference.make_model()
    losses = []

    class Keep(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            losses.append(logs["val_loss"])

    reference.manual_stages(
        other,
        EVERY["adam"],
        STAGES,
        DATA,
        callbacks=[*callbacks(), Keep()],
        **arguments,
    )
    assert_same(one, other)
    assert history.history["val_loss"] == losses


class _OwnStep(keras.Model):
    def train_step(self, *args, **kwargs):
        return super().train_step(*args, **kwargs)


def test_equals_the_manual_way_with_a_train_step_of_ones_own():
    def model():
        plain = reference.make_model()
        return _OwnStep(plain.inputs, plain.outputs, name="net")

    one = reference.compile_model(model(), EVERY["adam"]())
    reference.fit(
        one, DATA, epochs=3, callbacks=[GradualUnfreeze(groups=GROUPS, every=1)]
    )
    other = reference.manual_stages(model(), EVERY["adam"], STAGES, DATA)
    assert_same(one, other)


def _array():
    return DATA, {}


def _generator():
    def batches():
        while True:
            for start in range(0, len(DATA[0]), 6):
                yield tuple(part[start : start + 6] for part in DATA)

    return (batches(),), {"steps_per_epoch": 4}


def _sequence():
    base = keras.utils.PyDataset if KERAS_3 else keras.utils.Sequence

    class Batches(base):
        def __len__(self):
            return 4

        def __getitem__(self, i):
            return tuple(part[6 * i : 6 * i + 6] for part in DATA)

    return (Batches(),), {}


def _tf_data():
    import tensorflow as tf

    return (tf.data.Dataset.from_tensor_slices(DATA).batch(6),), {}


KINDS = {"generator": _generator, "sequence": _sequence}
if backend() == "tensorflow":
    KINDS["tf.data"] = _tf_data


@pytest.mark.parametrize("kind", KINDS)
def test_any_kind_of_data(kind, arrays_result):
    data, arguments = KINDS[kind]()
    model = reference.compile_model(reference.make_model(), EVERY["adam"]())
    model.fit(
        *data,
        epochs=3,
        verbose=0,
        callbacks=[GradualUnfreeze(groups=GROUPS, every=1)],
        **({"shuffle": False} if kind != "tf.data" else {}),
        **arguments,
    )
    assert_same(model, arrays_result)


@pytest.fixture(scope="module")
def arrays_result():
    return ours(EVERY["adam"])


def test_two_fits_are_one(arrays_result):
    model = reference.compile_model(reference.make_model(), EVERY["adam"]())
    callback = GradualUnfreeze(groups=GROUPS, every=1)
    reference.fit(model, DATA, epochs=2, callbacks=[callback])
    model.evaluate(*DATA, verbose=0)
    model.predict(DATA[0], verbose=0)
    reference.fit(model, DATA, initial_epoch=2, epochs=3, callbacks=[callback])
    assert_same(model, arrays_result)
    assert [entry["stage"] for entry in callback.history] == [0, 1, 2]


def test_a_second_fit_with_another_callback_starts_in_its_stage(arrays_result):
    model = reference.compile_model(reference.make_model(), EVERY["adam"]())
    reference.fit(
        model, DATA, epochs=2, callbacks=[GradualUnfreeze(groups=GROUPS, every=1)]
    )
    again = GradualUnfreeze(groups=GROUPS, every=1)
    reference.fit(model, DATA, initial_epoch=2, epochs=3, callbacks=[again])
    assert_same(model, arrays_result)


def test_the_same_callback_again_from_the_start(arrays_result):
    callback = GradualUnfreeze(groups=GROUPS, every=1)
    ours(EVERY["adam"], callback=callback)
    again = ours(EVERY["adam"], callback=callback)
    assert_same(again, arrays_result)
    assert [entry["epoch"] for entry in callback.history] == [0, 1, 2]


def test_a_model_saved_in_mid_stage_goes_on(arrays_result, tmp_path):
    model = reference.compile_model(reference.make_model(), EVERY["adam"]())
    checkpoint = keras.callbacks.ModelCheckpoint(str(tmp_path / "{epoch}.keras"))
    callbacks = [checkpoint, GradualUnfreeze(groups=GROUPS, every=1)]
    reference.fit(model, DATA, epochs=2, callbacks=callbacks)
    loaded = keras.models.load_model(tmp_path / "2.keras")
    again = GradualUnfreeze(groups=GROUPS, every=1)
    reference.fit(loaded, DATA, initial_epoch=2, epochs=3, callbacks=[again])
    assert_same(loaded, arrays_result)
