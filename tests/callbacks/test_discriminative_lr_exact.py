"""DiscriminativeLR against one optimizer for each group, and against NumPy.

An eager step does the same operations as a loop written by hand: equal bits. A
compiled one fuses them as it likes (up to 1.8e-6 was seen, in Ftrl and RMSprop, whose
updates divide by small numbers): `COMPILED`. PyTorch compiles nothing.
"""

import importlib.util
import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import reference

from keras_finetune import DiscriminativeLR, GradualUnfreeze
from keras_finetune._engine import KERAS_3, backend, keras

pytestmark = pytest.mark.slow

EVERY = reference.optimizers()
if importlib.util.find_spec("tensorflow_addons"):
    EVERY |= reference.addons_optimizers()
    del EVERY["tfa_conditional_gradient"]  # refused: test_discriminative_lr.py

COMPILED = 0.0 if backend() == "torch" else 5e-6

# Powers of two: multiplied by one, a rate is rounded as a separate optimizer's is.
FACTORS = {"low": 0.25, "still": 0.0, "middle": 2.0, "head": 1.0}
DATA = reference.make_data(18)


def make_model(**kwargs):
    keras.utils.set_random_seed(1)

    def dense(name, units):
        return keras.layers.Dense(units, activation="tanh", name=name, **kwargs)

    body = [dense("low", 6), dense("still", 5), dense("middle", 5)]
    return reference.make_model(body=body)


def ours(
    optimizer,
    *,
    model=None,
    data=DATA,
    multipliers=FACTORS,
    callbacks=(),
    compile_args=None,
    **kwargs,
):
    model = model or make_model()
    reference.compile_model(model, optimizer, **(compile_args or {}))
    rates = DiscriminativeLR(multipliers=multipliers)
    reference.fit(model, data, callbacks=[rates, *callbacks], **kwargs)
    return model


def scale(optimizer, factor):
    """Multiplies the rate of an optimizer, and the decay that TFA has apart from it."""
    for inner in reference._inner(optimizer):
        scale(inner, factor)
        return optimizer
    if reference._is_legacy(optimizer):
        hyper = optimizer._hyper
        if hasattr(optimizer, "_decay_weights_op"):
            hyper["weight_decay"] *= factor
        hyper["learning_rate"] *= factor
        return optimizer
    rate = optimizer._learning_rate
    if hasattr(rate, "initial_learning_rate"):
        rate.initial_learning_rate *= factor
    else:
        optimizer.learning_rate = reference.to_numpy(rate) * np.float32(factor)
    return optimizer


def separate(make_optimizer, factors=FACTORS):
    """An optimizer for each layer that trains; loss scaling changes no bit."""
    optimizers = {}
    for name, factor in factors.items():
        if factor:
            optimizer = make_optimizer()
            optimizer = getattr(optimizer, "inner_optimizer", optimizer)
            optimizers[name] = scale(optimizer, factor)
    return optimizers


def by_hand(
    make_optimizer,
    *,
    model=None,
    data=DATA,
    factors=FACTORS,
    epochs=1,
    before_epoch=None,
    change=None,
):
    """A model trained with separate optimizers, and the slots of all of them.

    Args:
        make_optimizer: Makes an optimizer with the base rate.
        model: The model.
        data: `(x, y)`.
        factors: The factor of each layer.
        epochs: The epochs.
        before_epoch: Called with the epoch and the optimizers by layer.
        change: What is done to a step's gradients, as NumPy arrays.
    """
    model = model or make_model()
    optimizers = separate(make_optimizer, factors)
    x, y = data
    for epoch in range(epochs):
        if before_epoch:
            before_epoch(epoch, optimizers)
        for start in range(0, len(x), 6):
            grads = reference.gradients(model, x[start:][:6], y[start:][:6])
            paths = [reference.path(v) for v in model.trainable_variables]
            grads = dict(zip(paths, grads))
            if change:
                grads = change(grads)
            for name, optimizer in optimizers.items():
                variables = model.get_layer(name).trainable_variables
                own = [grads[reference.path(v)] for v in variables]
                reference.apply(optimizer, own, variables)
    state = {}
    for name, optimizer in optimizers.items():
        variables = model.get_layer(name).trainable_variables
        if getattr(optimizer, "use_ema", False):
            optimizer.finalize_variable_values(variables)
        state |= slots(optimizer, variables)
    return model, state


def slots(optimizer, variables):
    state = reference.state_variables(optimizer, variables)
    return {k: reference.to_numpy(v) for k, v in state.items() if " of " in k}


def trained_slots(model):
    optimizer = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    state = slots(optimizer, model.trainable_variables)
    return {k: v for k, v in state.items() if "still/" not in k}


def assert_close(model, expected, tolerance=0.0):
    other, state = expected
    one, two = reference.weights(model), reference.weights(other)
    assert reference.difference(one, two) <= tolerance
    assert reference.difference(trained_slots(model), state) <= tolerance


# The same classes with other arguments: an eager run is enough.
VARIANTS = {"nesterov", "amsgrad", "clipnorm", "ema", "schedule"}


@pytest.mark.parametrize("name", EVERY)
def test_equals_one_optimizer_for_each_group(name):
    change = clip_all(0.1) if name == "global_clipnorm" else None
    make = without_clipping(EVERY[name]) if change else EVERY[name]
    expected = by_hand(make, change=change)
    # The norm of all gradients is NumPy's there.
    tolerance = 1e-6 if change else 0.0
    if (backend(), name) == ("jax", "loss_scale"):
        tolerance = 1e-6  # its branches are compiled in an eager step too
    eager = ours(EVERY[name](), compile_args={"run_eagerly": True})
    assert_close(eager, expected, tolerance)
    if name not in VARIANTS:
        assert_close(ours(EVERY[name]()), expected, COMPILED or tolerance)
    start, end = reference.weights(make_model()), reference.weights(eager)
    for key in start:
        moved = np.any(start[key] != end[key])
        # Steps of one size, as Lion's, can take a bias back to where it was.
        assert moved == ("still" not in key) or ("bias" in key and not moved)


def clip_all(norm):
    def change(grads):
        arrays = {
            k: reference.to_numpy(g) for k, g in grads.items() if "still" not in k
        }
        total = np.sqrt(sum(np.sum(np.square(g, dtype="f8")) for g in arrays.values()))
        return {
            k: keras.ops.convert_to_tensor(v) if KERAS_3 else v
            for k, v in (
                (k, (g * min(1.0, norm / total)).astype("float32"))
                for k, g in arrays.items()
            )
        }

    return change


def without_clipping(make_optimizer):
    def make():
        optimizer = make_optimizer()
        optimizer.global_clipnorm = None
        return optimizer

    return make


@pytest.mark.parametrize("name", EVERY)
def test_factors_of_one_change_no_bit(name):
    def fitted(callbacks):
        model = reference.make_model()
        reference.compile_model(model, EVERY[name](), run_eagerly=True)
        # ScheduleFreeAdamW repeats its first assignments where Keras builds it in a
        # traced step: tests/test_engine_assumptions.py
        reference.build(model.optimizer, model.trainable_variables)
        reference.fit(model, reference.make_data(12), callbacks=callbacks)
        return model

    one, other = fitted([DiscriminativeLR(multipliers=[1, 1.0, 1])]), fitted([])
    state, expected = reference.optimizer_state(one), reference.optimizer_state(other)
    assert reference.difference(state, expected) == 0
    assert reference.difference(reference.weights(one), reference.weights(other)) == 0


# --- an independent implementation ----------------------------------------------------


class NumPyNet:
    """Dense layers with tanh, softmax on top, and their gradients, in float64."""

    def __init__(self, model):
        self.layers = [
            [reference.to_numpy(v).astype("float64") for v in layer.weights]
            for layer in model.layers
        ]

    def gradients(self, x, y):
        inputs = [x.astype("float64")]
        for kernel, bias in self.layers[:-1]:
            inputs.append(np.tanh(inputs[-1] @ kernel + bias))
        kernel, bias = self.layers[-1]
        logits = inputs[-1] @ kernel + bias
        odds = np.exp(logits - logits.max(axis=1, keepdims=True))
        delta = (odds / odds.sum(axis=1, keepdims=True) - np.eye(3)[y]) / len(x)
        grads = []
        for (kernel, _), values in zip(reversed(self.layers), reversed(inputs)):
            grads.insert(0, [values.T @ delta, delta.sum(axis=0)])
            delta = delta @ kernel.T * (1.0 - values**2)
        return grads


def momentum(state, g, w, rate, step):
    state["m"] = 0.9 * state.get("m", 0.0) - rate * g
    return w + state["m"]


def adam(state, g, w, rate, step, decay=0.0):
    state["m"] = 0.9 * state.get("m", 0.0) + 0.1 * g
    state["v"] = 0.999 * state.get("v", 0.0) + 0.001 * g**2
    alpha = rate * np.sqrt(1.0 - 0.999**step) / (1.0 - 0.9**step)
    w = w - rate * decay * w
    return w - alpha * state["m"] / (np.sqrt(state["v"]) + 1e-7)


RULES = {
    "momentum": (momentum, 0.1),
    "adam": (adam, 0.01),
    "adamw": (lambda *args: adam(*args, decay=0.1), 0.01),
}


@pytest.mark.parametrize("name", RULES)
def test_equals_numpy(name):
    rule, rate = RULES[name]
    model = make_model()
    data = reference.make_data()
    net = NumPyNet(model)
    reference.compile_model(model, EVERY[name]())
    groups = ["low", "still", "middle", "head"]
    rates = DiscriminativeLR(2.6, groups=groups)
    reference.fit(model, data, epochs=3, callbacks=[rates])
    states = [[{}, {}] for _ in net.layers]
    x, y = data
    for step in range(12):
        start = step * 6 % len(x)
        for k, grads in enumerate(net.gradients(x[start:][:6], y[start:][:6])):
            own = rate * 2.6 ** -(3 - k)
            for i, g in enumerate(grads):
                w = net.layers[k][i]
                net.layers[k][i] = rule(states[k][i], g, w, own, step + 1)
    # float32 against float64, 12 steps: Adam divides by the root of tiny squares.
    for layer, expected in zip(model.layers, net.layers):
        for variable, values in zip(layer.weights, expected):
            assert np.abs(reference.to_numpy(variable) - values).max() < 2e-6


# --- what else can be in a fit --------------------------------------------------------


MODES = {"jit": {"jit_compile": True}, "steps": {"steps_per_execution": 4}}


@pytest.mark.backend("tensorflow", "jax")  # torch.compile: tests/_engine/test_torch.py
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["adamw", *(["legacy_adam"] if not KERAS_3 else [])])
def test_compiled_in_every_mode(mode, name):
    model = ours(EVERY[name](), compile_args=MODES[mode])
    # XLA compiles the whole step, or each update of Keras 2, by rules of its own.
    assert_close(model, by_hand(EVERY[name]), 5e-6)
    start, end = reference.weights(make_model()), reference.weights(model)
    assert all(np.all(start[k] == end[k]) for k in start if "still" in k)


NAMES = ["adamw", *(["legacy_adam"] if not KERAS_3 else [])]


def set_rates(rate_of):
    def before_epoch(epoch, optimizers):
        for name, optimizer in optimizers.items():
            rate = np.float32(rate_of(epoch)) * np.float32(FACTORS[name])
            optimizer.learning_rate = rate

    return before_epoch


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("first", [True, False])
def test_learning_rate_scheduler(name, first):
    scheduler = keras.callbacks.LearningRateScheduler(lambda e, rate: 0.05 / (e + 1))
    model = reference.compile_model(make_model(), EVERY[name](), run_eagerly=True)
    callbacks = [DiscriminativeLR(multipliers=FACTORS), scheduler]
    reference.fit(model, DATA, epochs=2, callbacks=callbacks[:: 1 if first else -1])
    before_epoch = set_rates(lambda epoch: 0.05 / (epoch + 1))
    assert_close(model, by_hand(EVERY[name], epochs=2, before_epoch=before_epoch))


@pytest.mark.parametrize("name", NAMES)
def test_reduce_learning_rate_on_plateau(name):
    reduce = keras.callbacks.ReduceLROnPlateau(
        "loss", factor=0.5, patience=1, min_delta=100.0
    )
    model = ours(EVERY[name](), callbacks=[reduce], epochs=4)
    before_epoch = set_rates(lambda epoch: 0.01 * 0.5 ** max(0, epoch - 1))
    expected = by_hand(EVERY[name], epochs=4, before_epoch=before_epoch)
    assert_close(model, expected, COMPILED)
    assert reference.to_numpy(model.optimizer.learning_rate) == np.float32(0.01 / 8)


def test_mixed_precision(monkeypatch):
    size = 2.0**15  # where dynamic scales start; a power of two changes no bit

    class Scaled(keras.losses.SparseCategoricalCrossentropy):
        def __call__(self, *args, **kwargs):
            return super().__call__(*args, **kwargs) * size

    keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        model = ours(EVERY["adam"](), compile_args={"run_eagerly": True})
        graph = ours(EVERY["adam"]())
        assert "LossScale" in type(model.optimizer).__name__
        monkeypatch.setattr(keras.losses, "SparseCategoricalCrossentropy", Scaled)
        unscale = {"change": lambda grads: {k: g / size for k, g in grads.items()}}
        expected = by_hand(EVERY["adam"], **unscale)
    finally:
        keras.mixed_precision.set_global_policy("float32")
    # Keras compiles the branches of loss scaling on JAX also where a step is eager.
    assert_close(model, expected, 1e-6 if backend() == "jax" else 0.0)
    # Half precision: a fused tanh may differ in the last of 11 bits, which Adam makes
    # part of a step of 0.02.
    assert_close(graph, expected, 2e-3 if COMPILED else 0.0)


def embedding_model():
    keras.utils.set_random_seed(1)
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((3,), dtype="int32"),
            layers.Embedding(7, 4, name="low"),
            layers.Flatten(name="flat"),
            layers.Dense(3, name="head"),
        ],
        name="net",
    )


SPARSE = ["momentum", "adam", *([] if KERAS_3 else ["legacy_adam", "legacy_sgd"])]


@pytest.mark.parametrize("name", SPARSE)
def test_sparse_gradients(name):
    data = np.random.default_rng(0).integers(0, 5, (18, 3)).astype("int32"), DATA[1]
    arguments = {"data": data, "multipliers": {"low": 0.25}}
    factors = {"low": 0.25, "head": 1.0}
    expected = by_hand(EVERY[name], model=embedding_model(), data=data, factors=factors)
    for eager, tolerance in ((True, 0.0), (False, COMPILED)):
        model = embedding_model()
        compile_args = {"run_eagerly": eager}
        ours(EVERY[name](), model=model, compile_args=compile_args, **arguments)
        assert_close(model, expected, tolerance)


def test_constraints():
    limit = {"kernel_constraint": keras.constraints.MaxNorm(0.2)}
    expected = by_hand(EVERY["adamw"], model=make_model(**limit))
    model = make_model(**limit)
    ours(EVERY["adamw"](), model=model, compile_args={"run_eagerly": True})
    assert_close(model, expected)
    kernel = reference.to_numpy(model.get_layer("still").kernel)
    assert np.all(kernel == reference.to_numpy(make_model().get_layer("still").kernel))
    assert np.linalg.norm(kernel, axis=0).max() > 0.5  # the constraint was not applied


@pytest.mark.parametrize("name", ["adam", "ema_overwrite"])
def test_factor_zero_has_no_slots(name):
    class Look(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            sizes.append(size(model))

    def size(model):
        variables = model.optimizer.variables
        return len(variables() if callable(variables) else variables)

    sizes = []
    model = make_model()
    plain = reference.compile_model(make_model(), EVERY[name]())
    reference.build(plain.optimizer, plain.trainable_variables)
    ours(EVERY[name](), model=model, callbacks=[Look()])
    less = 2 * 2  # two slots for each of two variables
    if name == "ema_overwrite" and not KERAS_3:
        less = 0  # Keras 2 averages all variables that the model calls trainable
    assert set(sizes) == {size(plain) - less}
    # Afterwards the optimizer is as plain Keras makes it.
    assert size(model) == size(plain)
    paths = [reference.path(v) for v in plain.trainable_variables]
    assert [reference.path(v) for v in model.trainable_variables] == paths


def test_factor_zero_leaves_flags_of_others_alone():
    layers = keras.layers
    frozen = layers.Dense(5, name="frozen")
    frozen.trainable = False
    model = reference.make_model(
        body=[layers.Dense(6, name="low"), layers.BatchNormalization(name="bn"), frozen]
    )
    reference.compile_model(model, EVERY["adam"]())
    before = [reference.path(v) for v in model.trainable_variables]
    rates = DiscriminativeLR(multipliers=lambda variable: 0.0)
    first = reference.weights(model)
    with pytest.warns(UserWarning, match="no weight trains") as said:
        reference.fit(model, DATA, callbacks=[rates])
    assert not [w for w in said if "used the optimizer" in str(w.message)]
    assert [reference.path(v) for v in model.trainable_variables] == before
    last = reference.weights(model)
    assert all(np.all(first[k] == last[k]) for k in first if "moving" not in k)
    assert all(np.any(first[k] != last[k]) for k in first if "moving" in k)


@pytest.mark.keras3
def test_multi_optimizer():
    if not hasattr(keras.optimizers, "MultiOptimizer"):
        pytest.skip("for Keras with a MultiOptimizer")
    o = keras.optimizers

    def multi():
        chosen = {"head": o.SGD(0.1, momentum=0.9)}
        rest = o.AdamW(0.01)
        return o.MultiOptimizer(lambda v: chosen.get(v.path.split("/")[-2], rest))

    model = ours(multi(), compile_args={"run_eagerly": backend() != "jax"})
    optimizers = iter([*[lambda: o.AdamW(0.01)] * 2, lambda: o.SGD(0.1, momentum=0.9)])
    other, _ = by_hand(lambda: next(optimizers)())
    tolerance = COMPILED if backend() == "jax" else 0.0
    one, two = reference.weights(model), reference.weights(other)
    assert reference.difference(one, two) <= tolerance


# --- with GradualUnfreeze -------------------------------------------------------------


GROUPS = ["low", "middle", "head"]
GROUP_FACTORS = dict(zip(GROUPS, [0.25, 2.0, 0.5]))


def ours_in_stages(name, first, eager):
    """Both callbacks: the model and its logs."""
    model = reference.make_model()
    reference.compile_model(model, EVERY[name](), run_eagerly=eager)
    callbacks = [
        DiscriminativeLR(multipliers=list(GROUP_FACTORS.values()), groups=GROUPS),
        GradualUnfreeze(groups=GROUPS, every=1),
    ]
    callbacks = callbacks[:: 1 if first else -1]
    history = reference.fit(model, DATA, epochs=3, callbacks=callbacks)
    return model, history.history


def by_hand_in_stages(name):
    """Separate optimizers, of which one more starts with each epoch."""

    def before_epoch(epoch, optimizers):
        everyone.update(optimizers)
        optimizers.clear()
        steps = len(DATA[0]) // 6 * epoch
        for group in GROUPS[2 - epoch :]:
            optimizer = optimizers[group] = everyone[group]
            if group == GROUPS[2 - epoch]:
                # New slots, as if just built, and the steps of the whole run.
                variables = other.get_layer(group).trainable_variables
                reference.build(optimizer, variables)
                optimizer.iterations.assign(steps)

    everyone, other = {}, reference.make_model()
    return by_hand(
        EVERY[name],
        model=other,
        factors=GROUP_FACTORS,
        epochs=3,
        before_epoch=before_epoch,
    )


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("first", [True, False])
def test_with_gradual_unfreeze(name, first):
    expected = by_hand_in_stages(name)
    model, logs = ours_in_stages(name, first, eager=True)
    assert_close(model, expected)
    if name == NAMES[-1]:
        model, logs = ours_in_stages(name, first, eager=False)
        assert_close(model, expected, COMPILED)
    base = float(reference.to_numpy(model.optimizer.learning_rate))
    assert logs["learning_rate/head"] == [base / 2] * 3
    assert logs["learning_rate/middle"] == [0.0, base * 2, base * 2]
    assert logs["learning_rate/low"] == [0.0, 0.0, base / 4]


# --- several devices ------------------------------------------------------------------


MIRRORED = """
    import sys
    sys.path.insert(0, sys.argv[1])
    import tensorflow as tf

    cpu = tf.config.list_physical_devices("CPU")[0]
    two = [tf.config.LogicalDeviceConfiguration()] * 2
    tf.config.set_logical_device_configuration(cpu, two)
    import reference
    from keras_finetune import DiscriminativeLR
    from keras_finetune._engine import keras

    def fitted(strategy, multipliers, **kwargs):
        with strategy.scope():
            model = reference.make_model()
            optimizer = keras.optimizers.AdamW(0.01, weight_decay=0.1, **kwargs)
            reference.compile_model(model, optimizer)
        rates = DiscriminativeLR(multipliers=multipliers)
        reference.fit(model, reference.make_data(), epochs=2, callbacks=[rates])
        return reference.weights(model), reference.optimizer_state(model)

    mirrored = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    assert mirrored.num_replicas_in_sync == 2
    one = fitted(tf.distribute.get_strategy(), [0.3, 0.0, 1.0])
    other = fitted(mirrored, [0.3, 0.0, 1.0])
    for a, b in zip(one, other):
        print("difference", reference.difference(a, b))
"""


@pytest.mark.backend("tensorflow")
def test_mirrored_strategy():
    tests = os.path.dirname(reference.__file__)
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(MIRRORED), tests],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    lines = [x.split() for x in result.stdout.splitlines() if "difference" in x]
    assert len(lines) == 2
    # The loss of a batch is the sum of two halves, added in another order.
    assert all(float(line[1]) < 2e-6 for line in lines), lines
