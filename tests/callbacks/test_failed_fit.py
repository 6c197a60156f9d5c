"""Whatever ends `fit`, the next line sees a model as plain Keras has it.

At once, in the same thread, whoever keeps the traceback, without a collection.
"""

import gc
import subprocess
import sys
import warnings

import numpy as np
import plain
import pytest
from plain import CALLBACKS, ENTERING, PLACES, Failure, failed_fit, goes_on, problems

from keras_finetune._engine import KERAS_3, backend, keras

# Where `fit` failed with a loss that cannot be saved, or before Keras has made slots,
# so that a file has none for the optimizer that it builds while loading.
CANNOT_SAVE = ("step", "trace", "on_train_begin before", "on_train_begin after")
# On JAX Keras gives the weights to a step, and a step that fails has lost them: plain
# Keras in the first step of any epoch, we unless a stage has just begun.
LOST = ("data", "step", "trace") if backend() == "jax" else ()
FEW = (
    *(() if LOST else ("data",)),
    "on_train_begin after",
    "on_train_batch_end before",
    "on_epoch_end after",
)


@pytest.fixture(autouse=True)
def no_collection():
    gc.disable()
    yield
    gc.enable()
    # While its iterators are young: TensorFlow's tuning thread sleeps longer the older
    # an iterator is, and whoever lets go of it may have to wait for its next turn.
    gc.collect()


def stage_of(name, place):
    """The stage whose flags the model must have, `None` for those before `fit`."""
    return PLACES[place] if name in ("GradualUnfreeze", "together") else None


@pytest.mark.slow
@pytest.mark.parametrize("place", [p for p in PLACES if p not in LOST])
def test_what_is_called_plain_here_is_what_plain_keras_leaves(place):
    model, users, error = failed_fit(place, [], Failure)
    assert not problems(model, users, error, place, None)


KEPT = [p for p in PLACES if not LOST or p != "step"]


@pytest.mark.slow
@pytest.mark.parametrize("place", KEPT)
def test_after_ctrl_c_with_the_traceback_kept_the_model_is_plain(place, tmp_path):
    model, users, error = failed_fit(place, CALLBACKS["together"](), KeyboardInterrupt)
    assert not problems(model, users, error, place, PLACES[place])
    if place not in CANNOT_SAVE:
        assert not goes_on(model, tmp_path / "model.keras")


# What is kept alive by a traceback is more; without one a few places tell.
@pytest.mark.slow
@pytest.mark.parametrize("place", FEW)
def test_after_an_exception_whose_traceback_is_dropped_the_model_is_plain(place):
    model, users, error = failed_fit(place, CALLBACKS["together"](), Failure)
    error = None
    assert not problems(model, users, error, place, PLACES[place])


@pytest.mark.slow
@pytest.mark.parametrize("place", FEW)
@pytest.mark.parametrize("name", [name for name in CALLBACKS if name != "together"])
def test_each_callback_alone_leaves_nothing(name, place, tmp_path):
    model, users, error = failed_fit(place, CALLBACKS[name](), Failure)
    assert not problems(model, users, error, place, stage_of(name, place))
    if place == "on_train_batch_end before":
        assert not goes_on(model, tmp_path / "model.keras")


@pytest.mark.slow
@pytest.mark.parametrize("kind", [KeyboardInterrupt, Failure])
@pytest.mark.parametrize("place", ENTERING)
def test_a_stage_that_could_not_be_entered_is_the_old_or_the_new_one(
    place, kind, tmp_path, monkeypatch
):
    ours = CALLBACKS["GradualUnfreeze"]()
    with monkeypatch.context() as patch:
        model, users, error = failed_fit(place, ours, kind, patch)
    stage = int(plain.flags(model) == plain.flags(plain.frozen_by_hand(1)))
    assert not problems(model, users, error, place, stage)
    if KERAS_3 or place == "flags":  # else no optimizer has been built
        assert not goes_on(model, tmp_path / "model.keras")


@pytest.mark.slow
def test_the_same_callbacks_start_again_after_ctrl_c():
    ours = CALLBACKS["together"]()
    model, _, error = failed_fit("on_train_batch_end after", ours, KeyboardInterrupt)
    x, y = plain.make_data()
    for layer in model.layers:
        layer.trainable = True
    fresh = plain.make_model()
    fresh.set_weights(model.get_weights())
    models = []
    for one, callbacks in ((model, ours), (fresh, CALLBACKS["together"]())):
        one.compile(keras.optimizers.Adam(0.01), "mse", **plain.compile_arguments())
        one.fit(x, y, epochs=3, verbose=0, shuffle=False, callbacks=callbacks)
        models.append([plain.to_numpy(v) for v in one.weights])
    for a, b in zip(*models):
        np.testing.assert_array_equal(a, b)
    del error


LOADS = """
import sys, warnings
warnings.simplefilter("error")
{imports}
model = keras.models.load_model(sys.argv[1])
assert not any(name.startswith("keras_finetune") for name in sys.modules)
variables = model.optimizer.variables
print("state", len(variables() if callable(variables) else variables))
print("steps", int(model.optimizer.iterations))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "place", ["data", "on_train_batch_end after", "on_epoch_end before"]
)
def test_a_process_without_us_loads_what_was_saved_after_ctrl_c(place, tmp_path):
    ours = CALLBACKS["together"]()
    model, _, error = failed_fit(place, ours, KeyboardInterrupt)
    model.save(tmp_path / "model.keras")
    imports = f"import {keras.__name__.partition('.')[0]} as keras"
    script = LOADS.format(imports=imports)
    command = [sys.executable, "-W", "ignore", "-c", script, tmp_path / "model.keras"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    expected = f"state {len(plain._state(model.optimizer))}"
    assert done.stdout.splitlines()[0] == expected
    steps = int(plain.to_numpy(model.optimizer.iterations))
    assert done.stdout.splitlines()[1] == f"steps {steps}"
    assert not plain.unfit_optimizer(model, must_be_built=False)
    del error


@pytest.fixture
def keras_asks_for_flags(monkeypatch):
    """Lets Keras warn of flags that have changed since `compile`.

    Keras 3.15 and 3.16 ask only after they have raised. Older ones have no such
    question, and there is nothing to hear.
    """
    asks = getattr(keras.Model, "_warn_if_trainable_state_changed", None)
    called = getattr(keras.Model, "_assert_compile_called", None)

    def asserts(self, method_name=None):
        called(self, method_name)
        asks(self)

    if asks is not None:
        monkeypatch.setattr(keras.Model, "_assert_compile_called", asserts)
    return asks is not None


def warnings_of_flags(act, *args, **kwargs):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        act(*args, **kwargs)
    return [w for w in caught if "`trainable` state" in str(w.message)]


@pytest.mark.slow
@pytest.mark.keras3
def test_the_warning_of_changed_flags_can_be_heard(keras_asks_for_flags):
    model = plain.make_model()
    model.layers[0].trainable = False
    warned = warnings_of_flags(model.fit, *plain.make_data(), verbose=0)
    assert bool(warned) == keras_asks_for_flags


@pytest.mark.slow
@pytest.mark.keras3
@pytest.mark.usefixtures("keras_asks_for_flags")
@pytest.mark.parametrize("name", ["GradualUnfreeze", "together"])
def test_keras_is_not_told_that_flags_changed_in_a_fit_of_ours(name):
    x, y = plain.make_data()
    model, ours = plain.make_model(), CALLBACKS[name]()
    fit = {"epochs": 2, "verbose": 0, "validation_data": (x, y)}
    assert not warnings_of_flags(model.fit, x, y, callbacks=ours, **fit)
    assert not warnings_of_flags(model.evaluate, x, y, verbose=0)
    assert not warnings_of_flags(model.fit, x, y, verbose=0)


@pytest.mark.slow
@pytest.mark.keras3
@pytest.mark.usefixtures("keras_asks_for_flags")
@pytest.mark.parametrize("name", ["GradualUnfreeze", "together"])
def test_keras_is_not_told_that_flags_changed_in_a_fit_that_failed(name):
    failed = []
    assert not warnings_of_flags(
        lambda: failed.extend(
            failed_fit("on_epoch_end after", CALLBACKS[name](), KeyboardInterrupt)
        )
    )
    model = failed[0]
    assert not warnings_of_flags(model.fit, *plain.make_data(), verbose=0)
