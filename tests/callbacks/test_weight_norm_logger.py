"""`WeightNormLogger` against NumPy in float64, on every lane."""

import copy
import csv
import importlib.util
import math
import os
import pickle
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from keras_finetune._engine import backend, keras, norms, structure
from keras_finetune._engine.active import lane
from keras_finetune._groups.layer_groups import layer_groups
from keras_finetune.callbacks.gradual_unfreeze import GradualUnfreeze
from keras_finetune.callbacks.train_only import TrainOnly
from keras_finetune.callbacks.weight_norm_logger import WeightNormLogger

pytestmark = pytest.mark.slow

# float32 sums against float64: what the issue allows.
CLOSE = {"rtol": 1e-6, "atol": 0}
# A difference of nearly equal float32 numbers has fewer digits than they have.
CLOSE_DIFFERENCE = {"rtol": 1e-5, "atol": 0}
HAS_TENSORBOARD = importlib.util.find_spec("tensorboard") is not None

X = np.random.RandomState(0).standard_normal((24, 8, 8, 1)).astype("float32")
Y = np.random.RandomState(1).randint(0, 3, 24)


def convolutional():
    """Kernels, biases, batch normalization, a nested model."""
    body = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Conv2D(4, 3, name="convolution"),
            keras.layers.BatchNormalization(name="norm"),
            keras.layers.Flatten(),
        ],
        name="body",
    )
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            body,
            keras.layers.Dense(5, activation="tanh", name="hidden"),
            keras.layers.Dense(3, name="top"),
        ]
    )
    return compiled(model)


def dense():
    model = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(5, activation="tanh", name="bottom"),
            keras.layers.Dense(4, activation="tanh", name="middle"),
            keras.layers.Dense(3, name="top"),
        ]
    )
    return compiled(model)


def compiled(model, **arguments):
    model.compile(
        keras.optimizers.Adam(0.01),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        **arguments,
    )
    return model


def fit(model, callbacks, epochs=2, **arguments):
    x = X if len(model.input_shape) == 4 else X[:, :2, :2, 0].reshape(24, 4)
    return model.fit(
        x, Y, 8, epochs, verbose=0, callbacks=callbacks, shuffle=False, **arguments
    )


class Spy(keras.callbacks.Callback):
    """The trainable weights in float64 by path, before training and at epoch ends."""

    def __init__(self):
        super().__init__()
        self.weights = []

    def look(self):
        lane.pull_state(self.model)
        self.weights.append(
            {
                structure.variable_path(v): np.asarray(
                    keras.backend.get_value(v)
                    if not hasattr(keras, "ops")
                    else keras.ops.convert_to_numpy(v),
                    "float64",
                )
                for v in self.model.trainable_variables
            }
        )

    def on_train_begin(self, logs=None):
        self.look()

    def on_epoch_end(self, epoch, logs=None):
        self.look()


def norm(weights, order):
    if order == "spectral":
        matrices = [w.reshape(-1, w.shape[-1]) for w in weights if w.ndim > 1]
        return max(np.linalg.norm(matrix, 2) for matrix in matrices)
    return np.linalg.norm(np.concatenate([w.ravel() for w in weights]), order)


ORDERS = (1, 2, math.inf, "spectral")
PARTS = ("group", "layer", "variable")


@pytest.fixture(scope="module")
def trained():
    """One fit, watched by every kind of logger."""
    keras.utils.set_random_seed(0)
    spy = Spy()
    loggers = {order: WeightNormLogger(order=order) for order in ORDERS}
    loggers |= {by: WeightNormLogger(by) for by in PARTS}
    loggers["changes"] = WeightNormLogger("layer", updates=True, distance=True)
    loggers["kernels"] = WeightNormLogger(select="kernel$", order=1)
    loggers["few"] = WeightNormLogger(select=lambda v: len(v.shape) == 4)
    history = fit(convolutional(), [spy, *loggers.values()])
    return spy.weights, loggers, history.history


@pytest.mark.parametrize("order", ORDERS)
def test_every_order_equals_numpy(trained, order):
    weights, loggers, _ = trained
    expected = [norm(list(epoch.values()), order) for epoch in weights[1:]]
    found = [row["weight_norm"] for row in loggers[order].history]
    np.testing.assert_allclose(found, expected, **CLOSE)
    assert [row["epoch"] for row in loggers[order].history] == [0, 1]


def test_the_default_is_the_number_of_the_seed(trained):
    weights, loggers, _ = trained
    # Seed S4's function, word for word but for NumPy.
    total = 0.0
    for weight in weights[-1].values():
        total = total + np.sum(weight**2)
    np.testing.assert_allclose(
        loggers[2].history[-1]["weight_norm"], total**0.5, **CLOSE
    )


@pytest.mark.parametrize("by", PARTS)
def test_parts_equal_numpy_and_make_the_whole(trained, by):
    weights, loggers, _ = trained
    row = loggers[by].history[-1]
    parts = {name: value for name, value in row.items() if "/" in name}
    words = {
        "group": {"convolution": "convolution|norm", "hidden": "hidden", "head": "top"},
        "layer": {name: name for name in ("convolution", "norm", "hidden", "top")},
        "variable": {
            path.split("sequential/")[-1]: f"^{path}$" for path in weights[-1]
        },
    }[by]
    assert len(parts) == len(words)
    total = math.sqrt(sum(value**2 for value in parts.values()))
    np.testing.assert_allclose(total, row["weight_norm"], rtol=1e-12)
    if by == "group":
        return  # their names are those of `layer_groups`
    import re

    for name, pattern in words.items():
        own = [w for path, w in weights[-1].items() if re.search(pattern, path)]
        np.testing.assert_allclose(parts[f"weight_norm/{name}"], norm(own, 2), **CLOSE)


def test_updates_and_distance_equal_numpy(trained):
    weights, loggers, _ = trained

    def change(new, old, word=""):
        return norm([new[p] - old[p] for p in new if word in p], 2)

    start, first, last = weights
    rows = loggers["changes"].history
    for row, before, now in ((rows[0], start, first), (rows[1], first, last)):
        for name, word in (("", ""), ("/hidden", "hidden"), ("/norm", "norm")):
            size = norm([now[p] for p in now if word in p], 2)
            np.testing.assert_allclose(
                [row[f"update_ratio{name}"], row[f"weight_distance{name}"]],
                [change(now, before, word) / size, change(now, start, word)],
                **CLOSE_DIFFERENCE,
            )


def test_select_takes_a_pattern_or_a_callable(trained):
    weights, loggers, _ = trained
    last = weights[-1]
    kernels = [w for path, w in last.items() if path.endswith("kernel")]
    images = [w for w in last.values() if w.ndim == 4]
    np.testing.assert_allclose(
        loggers["kernels"].history[-1]["weight_norm"], norm(kernels, 1), **CLOSE
    )
    np.testing.assert_allclose(
        loggers["few"].history[-1]["weight_norm"], norm(images, 2), **CLOSE
    )


def test_history_has_the_numbers(trained):
    _, loggers, history = trained
    assert history["weight_norm/top"] == [
        row["weight_norm/top"] for row in loggers["layer"].history
    ]


def test_callbacks_after_it_see_the_norm(tmp_path):
    stopper = keras.callbacks.EarlyStopping(
        "weight_norm", mode="min", patience=0, min_delta=1e9
    )
    path = tmp_path / "log.csv"
    logger = WeightNormLogger("layer")
    history = fit(
        dense(), [logger, keras.callbacks.CSVLogger(str(path)), stopper], epochs=9
    )
    assert len(history.history["weight_norm"]) == 2  # stopped by the norm
    with path.open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["weight_norm/top"]) for row in rows] == history.history[
        "weight_norm/top"
    ]


def test_unfrozen_weights_join_and_keys_stay(tmp_path):
    logger = WeightNormLogger("layer", updates=True, distance=True)
    model = dense()
    spy = Spy()
    start = model.get_weights()
    path = tmp_path / "log.csv"
    # The logger comes first: it must notice what a callback after it unfreezes.
    unfreeze = GradualUnfreeze(every=1)
    fit(
        model,
        [logger, unfreeze, spy, keras.callbacks.CSVLogger(str(path))],
        epochs=4,
    )
    trains = [
        ["weight_norm/" + name for name in ("bottom", "middle", "top")][-n:]
        for n in (1, 2, 3, 3)
    ]
    for row, names, weights in zip(
        logger.history, trains, spy.weights[1:], strict=True
    ):
        known = [n for n in row if n.startswith("weight_norm/") and row[n] == row[n]]
        assert known == names
        np.testing.assert_allclose(
            row["weight_norm"], norm(list(weights.values()), 2), **CLOSE
        )
    # The distance counts from the weights that it was unfrozen with.
    last = logger.history[-1]
    end = model.get_weights()
    for i, name in ((0, "bottom"), (2, "middle"), (4, "top")):
        change = [end[j].astype("d") - start[j] for j in (i, i + 1)]
        np.testing.assert_allclose(
            last[f"weight_distance/{name}"], norm(change, 2), **CLOSE_DIFFERENCE
        )
    second = logger.history[1]
    assert second["update_ratio/middle"] * second["weight_norm/middle"] == (
        pytest.approx(second["weight_distance/middle"], rel=1e-9)
    )
    with path.open() as file:
        rows = list(csv.DictReader(file))
    assert "weight_norm/bottom" in rows[0]
    assert len(rows) == 4


def test_a_frozen_model_has_no_norm():
    model = dense()
    model.get_layer("bottom").trainable = False
    model.get_layer("middle").trainable = False
    compiled(model)
    logger = WeightNormLogger("layer", select="bottom|middle", updates=True)
    fit(model, [logger], epochs=1)
    assert all(math.isnan(v) for k, v in logger.history[0].items() if k != "epoch")


def test_every_n_batches_keeps_steps_and_leaves_the_logs_alone():
    logger = WeightNormLogger(frequency=2, updates=True)
    model = dense()
    history = fit(model, [logger], epochs=3)
    assert [row["step"] for row in logger.history] == [2, 4, 6, 8]
    assert [row["epoch"] for row in logger.history] == [0, 1, 1, 2]
    assert "weight_norm" not in history.history
    # A second fit that goes on counts on.
    fit(model, [logger], epochs=5, initial_epoch=3)
    assert [row["step"] for row in logger.history] == [2, 4, 6, 8, 10, 12, 14]
    # One that starts again starts again.
    fit(model, [logger], epochs=1)
    assert [row["step"] for row in logger.history] == [2]


def test_batch_measurements_are_those_of_the_moment():
    seen = []

    class Look(Spy):
        def on_epoch_end(self, epoch, logs=None):
            pass

        def on_train_batch_end(self, batch, logs=None):
            self.look()

    spy = Look()
    logger = WeightNormLogger(frequency=1, updates=True, distance=True)
    fit(dense(), [logger, spy])
    seen = spy.weights
    for i, row in enumerate(logger.history, start=1):
        now = list(seen[i].values())
        change = [w - v for w, v in zip(now, seen[i - 1].values(), strict=True)]
        far = [w - v for w, v in zip(now, seen[0].values(), strict=True)]
        np.testing.assert_allclose(row["weight_norm"], norm(now, 2), **CLOSE)
        np.testing.assert_allclose(
            [row["update_ratio"] * row["weight_norm"], row["weight_distance"]],
            [norm(change, 2), norm(far, 2)],
            rtol=1e-4,
        )


@pytest.mark.backend("tensorflow", "jax")
def test_steps_per_execution():
    logger = WeightNormLogger(frequency=2)
    fit(compiled(dense(), steps_per_execution=3), [logger])
    assert [row["step"] for row in logger.history] == [3, 6]


@pytest.mark.backend("tensorflow")
def test_copies_survive_compiled_updates():
    # XLA updates variables in place where it may.
    logger = WeightNormLogger(updates=True, distance=True)
    spy = Spy()
    fit(compiled(dense(), jit_compile=True), [logger, spy])
    far = [w - spy.weights[0][p] for p, w in spy.weights[-1].items()]
    np.testing.assert_allclose(
        logger.history[-1]["weight_distance"], norm(far, 2), **CLOSE_DIFFERENCE
    )


def test_shared_layers_and_weights_count_once():
    inputs = keras.Input((4,))
    shared = keras.layers.Dense(4, name="shared")
    outputs = keras.layers.Dense(3, name="top")(shared(shared(inputs)))
    model = compiled(keras.Model(inputs, outputs))
    spy = Spy()
    logger = WeightNormLogger("layer")
    fit(model, [spy, logger], epochs=1)
    assert len(logger.history[0]) == 4
    np.testing.assert_allclose(
        logger.history[0]["weight_norm"], norm(list(spy.weights[-1].values()), 2)
    )


def test_layers_of_the_same_name_are_told_apart():
    def body(name):
        return keras.Sequential(
            [keras.Input((4,)), keras.layers.Dense(4, name="dense")], name=name
        )

    inputs = keras.Input((4,))
    hidden = body("left")(inputs) + body("right")(inputs)
    model = compiled(keras.Model(inputs, keras.layers.Dense(3, name="top")(hidden)))
    logger = WeightNormLogger("layer")
    fit(model, [logger], epochs=1)
    assert set(logger.history[0]) == {
        "epoch",
        "weight_norm",
        "weight_norm/left/dense",
        "weight_norm/right/dense",
        "weight_norm/top",
    }


@pytest.mark.skipif(not HAS_TENSORBOARD, reason="tensorboard is not installed")
@pytest.mark.parametrize("frequency", ["epoch", 2])
def test_tensorboard_gets_every_measurement(tmp_path, frequency):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = WeightNormLogger("layer", frequency=frequency, log_dir=tmp_path)
    fit(dense(), [logger])
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    key = "epoch" if frequency == "epoch" else "step"
    for name in ("weight_norm", "weight_norm/top"):
        found = events.Tensors(name)
        assert [event.step for event in found] == [row[key] for row in logger.history]
        values = [event.tensor_proto.float_val[0] for event in found]
        np.testing.assert_allclose(
            values, [row[name] for row in logger.history], rtol=1e-6
        )


def test_tensorboard_missing_is_said_at_once(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "tensorboard.summary", None)
    with pytest.raises(ImportError, match=r"pip install keras-finetune\[tensorboard\]"):
        WeightNormLogger(log_dir=tmp_path)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"order": 3}, ValueError, "`order` must be one of 1, 2, inf, 'spectral'"),
        ({"by": "weights"}, ValueError, "`by` must be one of 'model', 'group'"),
        ({"frequency": "batch"}, ValueError, '`frequency` must be "epoch" or an'),
        ({"frequency": 0}, ValueError, "`frequency` must be an integer >= 1"),
        ({"frequency": 1.5}, TypeError, "Received: frequency=1.5"),
        (
            {"updates": 1},
            TypeError,
            "`updates` must be True or False. Received: updates=1",
        ),
        ({"log_dir": 1}, TypeError, "`log_dir` must be a path or None"),
        ({"select": 3}, TypeError, "`select` must be a regular expression"),
        ({"select": "("}, ValueError, "`select` must be a regular expression"),
    ],
)
def test_errors_at_once(arguments, error, message):
    with pytest.raises(error, match=message):
        WeightNormLogger(**arguments)


def test_by_group_takes_the_groups_of_the_other_callbacks():
    layers = [keras.layers.Dense(4, name=f"block{i}_dense") for i in range(7)]
    model = compiled(keras.Sequential([keras.Input((4,)), *layers]))
    x, y = np.ones((4, 4), "float32"), np.zeros(4, "int32")
    unfreeze, logger = GradualUnfreeze(every=[1], groups=2), WeightNormLogger("group")
    model.fit(x, y, epochs=2, verbose=0, callbacks=[logger, unfreeze])
    parts = {key for key in logger.history[-1] if "/" in key}
    groups = layer_groups(model, 2)
    assert unfreeze.history[-1]["groups"] == list(groups.names)
    assert parts == {f"weight_norm/{group.key}" for group in groups}


def test_a_logger_without_groups_leaves_the_stages_as_they_are():
    stages = []
    for loggers in ([], [WeightNormLogger()]):
        layers = [keras.layers.Dense(4, name=f"block{i}_dense") for i in range(7)]
        model = keras.Sequential([keras.Input((4,)), *layers])
        unfreeze = GradualUnfreeze()
        stages.append(unfreeze.stages(model, [unfreeze, *loggers]).groups)
    assert [group.name for group in stages[0]] == [group.name for group in stages[1]]
    assert len(stages[0]) == 5


def test_errors_before_training():
    model = dense()
    before = model.get_weights()
    with pytest.raises(ValueError, match=r"must select a weight.*bottom/kernel"):
        fit(model, [WeightNormLogger(select="nothing")])
    with pytest.raises(ValueError, match="`groups`"):
        fit(model, [WeightNormLogger(groups=["nothing"])])
    np.testing.assert_equal(model.get_weights(), before)


def test_weights_frozen_one_by_one_do_not_count():
    model = dense()
    loggers = [WeightNormLogger("variable"), WeightNormLogger(updates=True)]
    before, after = loggers
    fit(model, [before, TrainOnly("bias"), after])
    biases = [w.astype("d") for w in model.get_weights()[1::2]]
    for logger in loggers:
        np.testing.assert_allclose(
            logger.history[-1]["weight_norm"], norm(biases, 2), **CLOSE
        )
    assert math.isnan(before.history[-1]["weight_norm/top/kernel"])


@pytest.mark.backend("tensorflow", "jax")
@pytest.mark.parametrize("frequency", ["epoch", 1])
@pytest.mark.parametrize("changes", [False, True])
def test_a_staged_fit_traces_the_pass_once(monkeypatch, frequency, changes):
    kind, traces = norms.kind_of_pass(), []
    rows = kind._rows
    monkeypatch.setattr(
        kind, "_rows", lambda self, *args: traces.append(self) or rows(self, *args)
    )
    logger = WeightNormLogger(frequency=frequency, updates=changes, distance=changes)
    fit(dense(), [logger, GradualUnfreeze(every=1, verbose=0)], epochs=4)
    assert len(traces) == 1


def test_weights_that_never_train_are_not_in_the_pass():
    class Look(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.weights = logger._run.norms._pass.variables

    logger, look = WeightNormLogger("layer"), Look()
    model = dense()
    model.get_layer("bottom").trainable = False
    fit(compiled(model), [logger, look], epochs=1)
    assert len(look.weights) == 4


# --- copies ---------------------------------------------------------------------------


def pickled(callback):
    return pickle.loads(pickle.dumps(callback))


class Copier(keras.callbacks.Callback):
    """Copies a callback at each hook of a `fit`."""

    def __init__(self, callback, copies):
        super().__init__()
        self.callback, self.copies = callback, copies

    def copy(self, *args, **kwargs):
        self.copies += [copy.deepcopy(self.callback), pickled(self.callback)]

    def on_train_begin(self, logs=None):
        self.copy()
        self.on_epoch_begin = self.on_epoch_end = self.on_train_end = self.copy


@pytest.mark.parametrize(
    "arguments",
    [
        {"by": "layer", "order": 1},
        {"select": "kernel", "updates": True, "distance": True, "frequency": 2},
    ],
)
@pytest.mark.parametrize("first", [True, False])
def test_copies_made_before_in_and_after_a_fit_work_in_one(arguments, first, tmp_path):
    if HAS_TENSORBOARD:
        arguments = {**arguments, "log_dir": str(tmp_path)}
    logger = WeightNormLogger(**arguments)
    copies = [copy.deepcopy(logger), pickled(logger)]
    others = [Copier(logger, copies), GradualUnfreeze(every=1, verbose=0)]
    model = dense()
    start = model.get_weights()
    fit(model, [*others, logger] if first else [logger, *others])
    copies += [copy.deepcopy(logger), pickled(logger)]
    assert len(copies) == 16
    for made in copies[-2:]:
        assert_equal_rows(made.history, logger.history)
    again = dense()
    again.set_weights(start)
    # In one `fit`, which is faster than one for each.
    fit(again, [*copies, GradualUnfreeze(every=1, verbose=0)])
    assert {c.model for c in copies} == {again}
    for made in copies:
        assert_equal_rows(made.history, logger.history)


def assert_equal_rows(rows, expected):
    assert [list(row) for row in rows] == [list(row) for row in expected]
    for row, other in zip(rows, expected, strict=True):
        np.testing.assert_allclose(list(row.values()), list(other.values()), rtol=1e-5)


@pytest.mark.parametrize("copied", [copy.deepcopy, pickled])
def test_a_copy_leaves_the_model_and_the_original_alone(copied):
    class Local(keras.Model):
        """A model that Keras cannot pickle: its class is not importable."""

        def __init__(self):
            super().__init__()
            self.top = keras.layers.Dense(3)

        def call(self, inputs):
            return self.top(inputs)

    copies = []
    logger = WeightNormLogger(distance=True)
    look = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: copies.append(copied(logger))
    )
    model = compiled(Local())
    model.fit(X.reshape(24, -1), Y, 8, epochs=2, verbose=0, callbacks=[logger, look])
    assert [len(c.history) for c in copies] == [1, 2]
    assert all(c.model is None for c in copies)
    assert logger.model is model
    first, second = (row["weight_distance"] for row in logger.history)
    assert second > first > 0


@pytest.mark.parametrize("distance", [False, True])
def test_unbuilt_models_are_built_from_the_data_of_fit(distance):
    model = compiled(keras.Sequential([keras.layers.Dense(3, name="top")]))
    logger = WeightNormLogger("layer", distance=distance)
    model.fit(X.reshape(24, -1), Y, verbose=0, callbacks=[logger])
    kinds = ["weight_norm", "weight_distance"] if distance else ["weight_norm"]
    keys = {f"{kind}{part}" for kind in kinds for part in ("", "/top")}
    assert set(logger.history[0]) == {"epoch", *keys}
    assert all(logger.history[0][key] > 0 for key in keys)


TENSORFLOW = """
    import tensorflow as tf
    cpu = tf.config.list_physical_devices("CPU")[0]
    two = [tf.config.LogicalDeviceConfiguration()] * 2
    tf.config.set_logical_device_configuration(cpu, two)
    scope = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope
"""
JAX = """
    from contextlib import nullcontext as scope
    from keras_finetune._engine import keras
    keras.distribution.set_distribution(keras.distribution.DataParallel())
    assert len(keras.distribution.list_devices()) == 2
"""
DISTRIBUTED = """
    import numpy as np
    from keras_finetune._engine import keras
    from keras_finetune.callbacks.weight_norm_logger import WeightNormLogger
    keras.utils.set_random_seed(0)
    with scope():
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
        model.compile(keras.optimizers.SGD(0.1), "mse")
    logger = WeightNormLogger(updates=True, distance=True)
    batches = WeightNormLogger(frequency=1)
    start = [w.astype("d") for w in model.get_weights()]
    x, y = np.ones((8, 4), "float32"), np.ones((8, 3), "float32")
    model.fit(x, y, 4, verbose=0, callbacks=[logger, batches])
    end = [w.astype("d") for w in model.get_weights()]
    flat = np.concatenate([w.ravel() for w in end])
    far = flat - np.concatenate([w.ravel() for w in start])
    row = logger.history[0]
    np.testing.assert_allclose(row["weight_norm"], np.linalg.norm(flat), rtol=1e-6)
    np.testing.assert_allclose(row["weight_distance"], np.linalg.norm(far), rtol=1e-5)
    assert batches.history[-1]["weight_norm"] == row["weight_norm"]
    print("equal")
"""


@pytest.mark.backend("tensorflow", "jax")
def test_replicas_count_once():
    setup = JAX if backend() == "jax" else TENSORFLOW
    # A new process: the number of devices is fixed once a framework is loaded.
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(setup) + textwrap.dedent(DISTRIBUTED)],
        capture_output=True,
        text=True,
        env={**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=2"},
        timeout=300,
    )
    assert done.stdout.strip().endswith("equal"), done.stderr[-3000:]
