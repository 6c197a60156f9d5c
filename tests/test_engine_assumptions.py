"""What the engine relies on in Keras, pinned: a new release breaks loudly here."""

import warnings

import numpy as np
import pytest
import reference

from keras_finetune import GradualUnfreeze
from keras_finetune._engine import KERAS_3, backend, keras

DATA = reference.make_data()
GROUPS = ["low", "middle", "head"]


def compiled(optimizer="adam", **kwargs):
    return reference.compile_model(reference.make_model(), optimizer, **kwargs)


def freeze(model, *names):
    for layer in model.layers:
        layer.trainable = layer.name not in names


# --- fit ------------------------------------------------------------------------------


def test_the_order_in_which_fit_calls():
    calls = []

    class Model(keras.Model):
        def make_train_function(self, force=False):
            calls.append("make_train_function")
            return super().make_train_function(force)

    class Callback(keras.callbacks.Callback):
        def set_model(self, model):
            super().set_model(model)
            calls.append("set_model")

        def on_train_begin(self, logs=None):
            calls.append("on_train_begin")

        def on_epoch_begin(self, epoch, logs=None):
            calls.append("on_epoch_begin")

        def on_train_end(self, logs=None):
            calls.append("on_train_end")

    plain = reference.make_model()
    model = reference.compile_model(Model(plain.inputs, plain.outputs), "sgd")
    reference.fit(model, DATA, callbacks=[Callback()])
    assert calls == [
        "set_model",
        "make_train_function",
        "on_train_begin",
        "on_epoch_begin",
        "on_train_end",
    ]


@pytest.mark.slow
def test_an_exception_skips_on_train_end_and_keeps_the_step():
    ended = []

    def stop(batch, logs=None):
        raise KeyboardInterrupt

    model = compiled()
    watch = keras.callbacks.LambdaCallback(
        on_train_batch_end=stop, on_train_end=lambda logs: ended.append(True)
    )
    with pytest.raises(KeyboardInterrupt):
        reference.fit(model, DATA, callbacks=[watch])
    assert not ended
    assert model.train_function is not None


@pytest.mark.slow
def test_each_fit_has_a_history_of_its_own():
    model = compiled()
    first = reference.fit(model, DATA)
    assert first is model.history
    assert reference.fit(model, DATA) is not first


@pytest.mark.slow
@pytest.mark.backend("tensorflow")
def test_flags_changed_in_a_callback_do_nothing():
    """Why this package exists: Keras takes the change, and nothing trains."""
    model = compiled()
    freeze(model, "low")
    reference.compile_model(model, "adam")
    start = reference.weights(model)

    def thaw(epoch, logs=None):
        model.get_layer("low").trainable = epoch == 1  # after the first trace

    callback = keras.callbacks.LambdaCallback(on_epoch_begin=thaw)
    reference.fit(model, DATA, epochs=2, callbacks=[callback])
    end = reference.weights(model)
    assert all(np.array_equal(end[k], start[k]) for k in end if "low" in k)


def test_what_models_tell_of_their_structure():
    model = reference.make_model()
    inputs = keras.Input((4,))
    outer = keras.Model(inputs, model(inputs))
    assert sorted(outer._nodes_by_depth) == [0, 1]
    inside = {layer.name for layer in outer._flatten_layers(include_self=False)}
    assert set(GROUPS) <= inside
    for variable in () if KERAS_3 else outer.weights:
        assert isinstance(variable._unique_id, str)


@pytest.mark.keras3
@pytest.mark.backend("jax", "torch")
def test_threads_get_methods_of_the_list_of_callbacks(monkeypatch):
    # So they can get those of a copy, and the list itself ends with its `fit`.
    given = []
    kept = keras.callbacks.CallbackList._async_dispatch

    def dispatch(self, method, *args):
        given.append((method.__self__ is self, method.__name__))
        kept(self, method, *args)

    monkeypatch.setattr(keras.callbacks.CallbackList, "_async_dispatch", dispatch)
    reference.fit(compiled(), DATA)
    assert set(given) == {(True, "_on_train_batch_end")}


# --- optimizers of Keras 3 -----------------------------------------------------------


@pytest.mark.keras3
def test_build_never_forgets_a_variable():
    optimizer = keras.optimizers.Adam()
    a, b = keras.Variable([0.0]), keras.Variable([0.0])
    optimizer.build([a, b])
    optimizer.built = False
    optimizer.build([a])
    with pytest.raises(ValueError, match="one-to-on"):
        optimizer.apply([keras.ops.ones((1,))])


@pytest.mark.keras3
@pytest.mark.backend("tensorflow")
def test_tensorflow_compares_the_items_of_lists_on_optimizers():
    # So a list is replaced as a whole, never item by item.
    optimizer = keras.optimizers.Adam()
    optimizer.build([keras.Variable([0.0]), keras.Variable([[0.0, 1.0]])])
    assert type(optimizer._variables) is not list
    assert optimizer._tracker.config["variables"][1] is optimizer._variables


@pytest.mark.slow
@pytest.mark.keras3
def test_an_optimizer_file_of_another_set_is_skipped_with_a_warning(tmp_path):
    # Why a hook finds the stage of a backup before Keras loads it.
    model = compiled()
    reference.fit(model, DATA)
    model.save_weights(tmp_path / "all.weights.h5")
    other = reference.make_model()
    freeze(other, "low", "middle")
    reference.compile_model(other, "adam")
    other.optimizer.build(other.trainable_variables)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        other.load_weights(tmp_path / "all.weights.h5")
    assert any("Skipping variable loading" in str(w.message) for w in caught)
    assert int(other.optimizer.iterations) == 0


@pytest.mark.keras3
def test_the_average_of_a_new_variable_would_start_at_zero():
    optimizer = keras.optimizers.SGD(use_ema=True)
    optimizer.build([keras.Variable([3.0])])
    average = optimizer._model_variables_moving_average[0]
    assert float(reference.to_numpy(average)[0]) == 0.0


@pytest.mark.keras3
def test_an_unknown_make_of_optimizer_is_refused():
    class Elsewhere(keras.optimizers.SGD):
        def build(self, variables):
            super().build(variables)
            self.slots = {
                i: self.add_variable_from_reference(v, name="slot")
                for i, v in enumerate(variables)
            }

    model = compiled(Elsewhere(0.1))
    with pytest.raises(TypeError, match="Elsewhere"):
        reference.fit(model, DATA, callbacks=[GradualUnfreeze(groups=GROUPS, every=1)])


@pytest.mark.slow
@pytest.mark.keras3
def test_an_optimizer_of_ones_own_works():
    class Own(keras.optimizers.Optimizer):
        def build(self, variables):
            super().build(variables)
            self.sums = [
                self.add_variable_from_reference(v, name="sum") for v in variables
            ]
            self.total = self.add_variable((), name="total")

        def update_step(self, gradient, variable, learning_rate):
            index = self._get_variable_index(variable)
            rate = keras.ops.cast(learning_rate, variable.dtype)
            self.assign_add(self.sums[index], gradient)
            self.assign_sub(variable, self.sums[index] * rate)

    stages = [(set(GROUPS[2 - i :]), 1) for i in range(3)]
    model = compiled(Own(0.05))
    reference.fit(
        model, DATA, epochs=3, callbacks=[GradualUnfreeze(groups=GROUPS, every=1)]
    )
    other = reference.manual_stages(
        reference.make_model(), lambda: Own(0.05), stages, DATA
    )
    one, two = reference.weights(model), reference.weights(other)
    assert reference.difference(one, two) == 0


# --- Keras 2 -------------------------------------------------------------------------


@pytest.mark.keras2
def test_nadam_counts_traces_and_is_warned_of():
    optimizer = keras.optimizers.Nadam(0.01)
    model = compiled(optimizer)
    callbacks = [GradualUnfreeze(groups=GROUPS, every=1)]
    with pytest.warns(UserWarning, match=r"legacy\.Nadam"):
        reference.fit(model, DATA, epochs=2, callbacks=callbacks)
    assert isinstance(optimizer._u_product_counter, int)


@pytest.mark.keras2
def test_fit_goes_back_to_the_flags_at_compile():
    model = compiled()
    model.get_layer("low").trainable = False
    start = reference.weights(model)
    reference.fit(model, DATA)
    end = reference.weights(model)
    assert not any(np.array_equal(end[k], start[k]) for k in end if "low" in k)


@pytest.mark.slow
def test_the_backend_is_one_we_know():
    assert backend() in ("tensorflow", "jax", "torch")
