"""TrainOnly: the selection trains, the rest is left as it was."""

import importlib.util

import numpy as np
import pytest
import reference

from keras_finetune import DiscriminativeLR, GradualUnfreeze, TrainOnly
from keras_finetune._engine import KERAS_3, keras

DATA = reference.make_data()
GROUPS = ["low", "middle", "head"]
EVERY = reference.optimizers()
if importlib.util.find_spec("tensorflow_addons"):
    EVERY |= reference.addons_optimizers()
NAMES = ["sgd", "momentum", "adamw", "ema_overwrite", "global_clipnorm"]
NAMES += ["accumulation", "loss_scale"] if KERAS_3 else ["legacy_adam"]
NAMES += [name for name in EVERY if name.startswith("tfa_l")]


def is_bias(variable):
    return "bias" in reference.path(variable)


def compiled(optimizer=None, **kwargs):
    optimizer = optimizer or keras.optimizers.Adam(0.01)
    return reference.compile_model(reference.make_model(), optimizer, **kwargs)


def moved(model, start):
    end = reference.weights(model)
    return {key for key in end if not np.array_equal(end[key], start[key])}


def biases(*names):
    return {f"{name}/bias" + ("" if KERAS_3 else ":0") for name in names}


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_equals_a_hand_written_loop(name):
    model = compiled(EVERY[name]())
    start = reference.weights(model)
    reference.fit(model, DATA, epochs=2, callbacks=[TrainOnly("bias")])
    assert moved(model, start) == biases("low", "middle", "head")

    other = reference.make_model()
    optimizer = EVERY[name]()
    chosen = [v for v in other.trainable_variables if is_bias(v)]
    reference.build(optimizer, chosen)
    for _ in range(2):
        for i in range(0, len(DATA[0]), 6):
            grads = reference.gradients(other, *(part[i : i + 6] for part in DATA))
            paths = [reference.path(v) for v in other.trainable_variables]
            by_path = dict(zip(paths, grads, strict=True))
            scale = getattr(optimizer, "dynamic_scale", None)
            grads = [by_path[reference.path(v)] for v in chosen]
            if scale is not None:
                grads = [g * float(reference.to_numpy(scale)) for g in grads]
            reference.apply(optimizer, grads, chosen)
    if "ema" in name:
        optimizer.finalize_variable_values(chosen)
    # Compiled and eager steps fuse differently.
    one, two = reference.weights(model), reference.weights(other)
    assert reference.difference(one, two) < 2e-6


class Slots(keras.callbacks.Callback):
    """Counts the variables of the optimizer while it trains."""

    def on_epoch_end(self, epoch, logs=None):
        self.count = len(self.model.optimizer.variables)


@pytest.mark.slow
def test_slots_only_for_what_trains_and_all_is_restored():
    model = compiled()
    reference.fit(model, DATA, epochs=1)
    before = reference.optimizer_state(model)
    flags = {layer.name: layer.trainable for layer in model.layers}
    names = set(vars(model)), set(vars(model.optimizer))
    slots = Slots()
    reference.fit(model, DATA, epochs=1, callbacks=[TrainOnly("bias"), slots])
    fresh = keras.optimizers.Adam(0.01)
    fresh.build([v for v in model.trainable_variables if is_bias(v)])
    assert slots.count == len(fresh.variables)
    after = reference.optimizer_state(model)
    assert before.keys() == after.keys()
    for key, value in before.items():
        if "kernel" in key:
            assert np.array_equal(value, after[key]), key
    assert flags == {layer.name: layer.trainable for layer in model.layers}
    assert len(model.trainable_variables) == 6
    assert names == (set(vars(model)), set(vars(model.optimizer)))
    start = reference.weights(model)
    reference.fit(model, DATA, epochs=1)
    assert moved(model, start) == set(start)


@pytest.mark.slow
def test_an_interrupted_fit_is_followed_by_a_plain_one():
    model = compiled()

    def stop(batch, logs):
        raise KeyboardInterrupt

    breaker = keras.callbacks.LambdaCallback(on_train_batch_end=stop)
    with pytest.raises(KeyboardInterrupt):
        reference.fit(model, DATA, callbacks=[TrainOnly("bias"), breaker])
    assert len(model.trainable_variables) == 6
    assert "make_train_function" not in vars(model)
    start = reference.weights(model)
    reference.fit(model, DATA, epochs=1)
    assert moved(model, start) == set(start)


@pytest.mark.slow
def test_a_traceback_that_is_kept_does_not_keep_the_selection():
    model = compiled()

    def stop(batch, logs):
        raise KeyboardInterrupt

    breaker = keras.callbacks.LambdaCallback(on_train_batch_end=stop)
    with pytest.raises(KeyboardInterrupt) as kept:
        reference.fit(model, DATA, callbacks=[TrainOnly("bias"), breaker])
    compile_again = reference.compile_model(model, keras.optimizers.SGD(0.1))
    start = reference.weights(compile_again)
    reference.fit(model, DATA, epochs=1)
    assert moved(model, start) == set(start)
    del kept


@pytest.mark.slow
def test_a_regular_expression_and_a_callable():
    for select in ("middle/kernel", lambda v: "middle/kernel" in reference.path(v)):
        model = compiled()
        start = reference.weights(model)
        reference.fit(model, DATA, epochs=1, callbacks=[TrainOnly(select)])
        assert {key.split(":")[0] for key in moved(model, start)} == {"middle/kernel"}


@pytest.mark.slow
@pytest.mark.parametrize("first", [True, False])
def test_beside_the_others(first):
    model = compiled()
    seen = []
    start = reference.weights(model)
    watch = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: seen.append(moved(model, start))
    )
    ours = [GradualUnfreeze(groups=GROUPS, every=1), DiscriminativeLR(groups=GROUPS)]
    only = TrainOnly("bias")
    callbacks = [only, *ours] if first else [*ours, only]
    reference.fit(model, DATA, epochs=3, callbacks=[*callbacks, watch])
    assert seen == [
        biases("head"),
        biases("head", "middle"),
        biases("head", "middle", "low"),
    ]
    assert len(model.trainable_variables) == 6


@pytest.mark.slow
@pytest.mark.backend("tensorflow")
def test_the_graph_has_no_gradients_of_kernels():
    import collections

    import tensorflow as tf

    def matmuls(model):
        """MatMuls that run in the step, as it is during `fit`."""
        x, y = (tf.constant(part[:6]) for part in DATA)
        step = tf.function(lambda: model.train_step((x, y))).get_concrete_function()
        todo = [t.op for t in step.graph.outputs] + list(step.graph.control_outputs)
        live = {}
        while todo:
            op = todo.pop()
            if op.name not in live:
                live[op.name] = op.type
                todo += [t.op for t in op.inputs] + list(op.control_inputs)
        return collections.Counter(live.values())["MatMul"]

    counts = []

    class Count(keras.Model):
        def train_step(self, data):
            if not counts:
                counts.append(None)
                counts[0] = matmuls(self)
            return super().train_step(data)

    plain = reference.make_model()
    for callbacks, expected in (([TrainOnly("bias")], 5), ([], 8)):
        counts.clear()
        model = Count(plain.inputs, plain.outputs)
        reference.compile_model(model, keras.optimizers.SGD(0.1))
        reference.fit(model, DATA, epochs=1, callbacks=callbacks)
        # Three forward; backward two for inputs, and three for kernels if they train.
        assert counts[0] == expected


@pytest.mark.parametrize(
    ("select", "error", "message"),
    [("[", ValueError, "select='\\['"), (3, TypeError, "select=3")],
)
def test_bad_arguments(select, error, message):
    with pytest.raises(error, match=message):
        TrainOnly(select)


def test_a_selection_of_nothing_is_refused():
    model = compiled()
    with pytest.raises(ValueError, match="select='kernle'"):
        reference.fit(model, DATA, callbacks=[TrainOnly("kernle")])
    assert len(model.trainable_variables) == 6


@pytest.mark.slow
def test_averages_of_what_was_frozen_are_its_weights():
    """They were zeros where an optimizer was built before its first step."""
    model = compiled(keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.5))
    reference.build(model.optimizer, model.trainable_variables)
    reference.fit(model, DATA, epochs=2, callbacks=[TrainOnly("head")])
    weights, state = reference.weights(model), reference.optimizer_state(model)
    for path in weights:
        if "low" in path:
            average = state[f"_model_variables_moving_average of {path}"]
            assert np.array_equal(average, weights[path]), path
