"""S1: transfer learning between two sets of classes, frozen first, in one `fit`."""

import functools

import numpy as np
import pytest
import reference

from keras_finetune import (
    DiscriminativeLR,
    GradualUnfreeze,
    TrainOnly,
    WeightNormLogger,
)
from keras_finetune._engine import keras
from keras_finetune.layers import MCDropout

pytestmark = pytest.mark.slow

layers = keras.layers
SeluDense = functools.partial(
    layers.Dense, activation="selu", kernel_initializer="lecun_normal"
)
B_CLASSES = (5, 6)
B_EXAMPLES = 200


@pytest.fixture(scope="module")
def tasks(digits):
    """Task A: eight classes. Task B: class 5 against 6, the first 200 examples."""
    images, labels = digits
    x, is_b = images.reshape(len(images), -1), np.isin(labels, B_CLASSES)
    x_a, y_a = x[~is_b][:1400], labels[~is_b][:1400]
    y_a = y_a - 2 * (y_a > 6)
    x_b, y_b = x[is_b], (labels[is_b] == 6).astype("float32")
    test = slice(B_EXAMPLES, B_EXAMPLES + 500)
    return {
        "a": (x_a, y_a),
        "b": (x_b[:B_EXAMPLES], y_b[:B_EXAMPLES]),
        "b_test": (x_b[test], y_b[test]),
    }


def net(pixels, *head):
    hidden = [SeluDense(n, name=f"hidden{n}_{i}") for i, n in enumerate(WIDTHS)]
    return keras.Sequential([keras.Input((pixels,)), *hidden, *head])


WIDTHS = (300, 100, 50, 50, 50)


def sigmoid():
    return layers.Dense(1, activation="sigmoid", name="is_6")


def compiled_b(model):
    model.compile(
        keras.optimizers.SGD(0.01, momentum=0.9),
        "binary_crossentropy",
        metrics=["accuracy"],
    )
    return model


@pytest.fixture(scope="module")
def model_a(tasks):
    keras.utils.set_random_seed(0)
    x, y = tasks["a"]
    model = net(x.shape[1], layers.Dense(8, activation="softmax", name="classes"))
    model.compile(
        keras.optimizers.SGD(0.01, momentum=0.9),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    history = model.fit(x, y, epochs=4, batch_size=64, verbose=0).history
    assert history["accuracy"][-1] > 0.85
    return model


def on_top_of(model_a):
    """The write-up's model B: the layers of A but the last, and a sigmoid head."""
    # `model.layers` leaves out the input; without one the model has no weights before
    # its first batch, and `layer_groups` refuses it.
    inputs = keras.Input(model_a.input_shape[1:])
    return keras.Sequential([inputs, *model_a.layers[:-1], sigmoid()])


def cloned(model):
    # Keras's own two lines are enough: no helper is needed.
    clone = keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    return clone


def test_one_fit_frozen_then_unfrozen(tasks, model_a):
    a_before = model_a.get_weights()
    keras.utils.set_random_seed(1)
    b_on_a = on_top_of(cloned(model_a))
    body = b_on_a.get_weights()[:-2]
    weights_of_epoch = []
    watch = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: weights_of_epoch.append(b_on_a.get_weights())
    )
    model = compiled_b(b_on_a)
    unfreeze = GradualUnfreeze(
        groups=[model.layers[:-1], "is_6"], every=4, learning_rate_factor=0.1
    )
    model.fit(*tasks["b"], epochs=12, verbose=0, callbacks=[unfreeze, watch])

    def moved(epoch):
        pairs = zip(body, weights_of_epoch[epoch], strict=False)
        return [not np.array_equal(one, two) for one, two in pairs]

    assert not any(moved(3))
    assert all(moved(4))
    rates = [entry["learning_rate"] for entry in unfreeze.history]
    np.testing.assert_allclose(rates, [0.01, 0.001], rtol=1e-6)
    _, accuracy = model.evaluate(*tasks["b_test"], verbose=0)
    assert accuracy > 0.93
    # A was cloned, and is untouched.
    for before, after in zip(a_before, model_a.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)


def test_without_a_clone_b_changes_a(tasks, model_a):
    shared = cloned(model_a)
    a_before = [layer.get_weights() for layer in shared.layers[:-1]]
    b_on_a = on_top_of(shared)
    unfreeze = GradualUnfreeze(groups=[b_on_a.layers[:-1], "is_6"], every=1)
    compiled_b(b_on_a).fit(*tasks["b"], epochs=2, verbose=0, callbacks=[unfreeze])
    for before, layer in zip(a_before, shared.layers, strict=False):
        assert not np.array_equal(before[0], layer.get_weights()[0])


# --- everything the write-up names, with every callback of ours -----------------------


class OneCycle(keras.callbacks.Callback):
    """The rate rises to its maximum in the middle of training and falls again."""

    def __init__(self, maximum, steps):
        super().__init__()
        self.maximum, self.steps, self.step = maximum, steps, 0

    def on_train_batch_begin(self, batch, logs=None):
        distance = abs(2 * self.step / self.steps - 1)
        self.model.optimizer.learning_rate = self.maximum * (1 - 0.9 * distance)
        self.step += 1


def optimizers():
    o = keras.optimizers
    return {
        "momentum": lambda: o.SGD(0.01, momentum=0.9),
        "nesterov": lambda: o.SGD(0.01, momentum=0.9, nesterov=True),
        "adagrad": lambda: o.Adagrad(0.01),
        "rmsprop": lambda: o.RMSprop(0.01, rho=0.9),
        "adam": lambda: o.Adam(0.01),
        "nadam": lambda: o.Nadam(0.01),
        "power": lambda: o.SGD(o.schedules.InverseTimeDecay(0.01, 4, 1.0)),
        "exponential": lambda: o.SGD(o.schedules.ExponentialDecay(0.01, 4, 0.5)),
        "piecewise": lambda: o.SGD(
            o.schedules.PiecewiseConstantDecay([4, 8], [0.01, 0.005, 0.001])
        ),
    }


def rate_callbacks():
    callbacks = keras.callbacks
    return {
        "plateau": lambda: callbacks.ReduceLROnPlateau("loss", patience=1, factor=0.5),
        "scheduler": lambda: callbacks.LearningRateScheduler(lambda e: 0.01 * 0.9**e),
        "one_cycle": lambda: OneCycle(0.02, 12),
    }


def bodies():
    """Two hidden layers, `low` and `middle`, with what regularises them."""
    plain = functools.partial(SeluDense, 6)

    def regularised(regularizer):
        made = functools.partial(plain, kernel_regularizer=regularizer)
        return [made(name="low"), made(name="middle")]

    def dropped(layer):
        return [plain(name="low"), layer(0.2, name="noise"), plain(name="middle")]

    max_norm = functools.partial(
        plain, kernel_constraint=keras.constraints.max_norm(1.0)
    )
    return {
        "l1": lambda: regularised(keras.regularizers.L1(1e-3)),
        "l2": lambda: regularised(keras.regularizers.L2(1e-2)),
        "dropout": lambda: dropped(layers.Dropout),
        "alpha_dropout": lambda: dropped(layers.AlphaDropout),
        "mc_dropout": lambda: dropped(MCDropout),
        "max_norm": lambda: [max_norm(name="low"), max_norm(name="middle")],
    }


CASES = [*optimizers(), *rate_callbacks(), *bodies()]


@pytest.mark.filterwarnings("ignore:.*Nadam")
@pytest.mark.parametrize("name", CASES)
def test_with_every_callback(name):
    x, y = reference.make_data()
    optimizer = optimizers().get(name, lambda: keras.optimizers.SGD(0.01))()
    model = reference.make_model(body=bodies()[name]() if name in bodies() else None)
    reference.compile_model(model, optimizer)
    start = reference.weights(model)
    multipliers = {"low": 0.25, "middle": 0.5, "head": 1.0}
    rates = DiscriminativeLR(multipliers=multipliers, groups="auto")
    groups = [["low", "middle"], "head"]
    callbacks = [
        GradualUnfreeze(groups, every=1, learning_rate_factor=0.5),
        rates,
        TrainOnly(lambda v: "low/bias" not in reference.path(v)),
        WeightNormLogger(by="layer"),
    ]
    if name in rate_callbacks():
        callbacks.append(rate_callbacks()[name]())
    unmoved = []
    watch = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: unmoved.append(
            {k for k, v in reference.weights(model).items() if (v == start[k]).all()}
        )
    )
    history = reference.fit(
        model, (x, y), epochs=2, callbacks=[*callbacks, watch]
    ).history
    end = reference.weights(model)

    # Stages: the head, then all but the variable that was not selected.
    assert unmoved[0] == {key for key in start if "head" not in key}
    assert unmoved[1] == {key for key in start if "low/bias" in key}
    # Rates: 0 while frozen, then in the ratios that were asked for.
    low, middle, head = (
        np.array(history[f"learning_rate/{group}"])
        for group in ("low", "middle", "head")
    )
    assert low[0] == middle[0] == 0.0 < head[0]
    np.testing.assert_allclose([low[1], middle[1]], head[1] * np.array([0.25, 0.5]))
    # Norms: of what trains.
    for layer in ("middle", "head"):
        parts = [np.linalg.norm(v) for key, v in end.items() if layer in key]
        logged = history[f"weight_norm/{layer}"][1]
        np.testing.assert_allclose(logged, np.linalg.norm(parts), rtol=1e-5)
    assert np.isfinite(history["loss"]).all()
    if name == "max_norm":
        for key, value in end.items():
            if "kernel" in key and "head" not in key:
                assert np.linalg.norm(value, axis=0).max() < 1 + 1e-5
    if name == "mc_dropout":
        assert not np.array_equal(*(model.predict(x, verbose=0) for _ in range(2)))
