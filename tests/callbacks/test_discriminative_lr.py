"""DiscriminativeLR: which factor a variable gets, what stays behind, what it costs."""

import collections
import re
import subprocess
import sys
import textwrap
import threading

import numpy as np
import pytest
import reference

from keras_finetune import DiscriminativeLR, layer_groups
from keras_finetune._engine import KERAS_3, backend, keras

GROUPS = ["low", "middle", "head"]
DATA = reference.make_data()


def compiled(optimizer=None, **kwargs):
    optimizer = optimizer or keras.optimizers.Adam(0.01)
    return reference.compile_model(reference.make_model(), optimizer, **kwargs)


def rate_of(model):
    return float(reference.to_numpy(model.optimizer.learning_rate))


def short(path):
    """The end of a path that is the same on Keras 2 and 3: `low/kernel`."""
    return "/".join(path.split("/")[-2:])


def factors(**arguments):
    callback = DiscriminativeLR(**{"groups": GROUPS, **arguments})
    found = callback.factors(reference.make_model())
    return {short(path): factor for path, factor in found.items()}


def by_layer(**given):
    return {f"{k}/{part}": v for k, v in given.items() for part in ("kernel", "bias")}


# --- which factor a variable gets -----------------------------------------------------


def test_decay():
    assert factors(decay=2.6) == by_layer(low=2.6**-2, middle=2.6**-1, head=1.0)
    assert factors(decay=4.0) == by_layer(low=1 / 16, middle=0.25, head=1.0)
    assert factors(decay=1) == by_layer(low=1.0, middle=1.0, head=1.0)


def test_by_default_the_body_is_well_below_the_head():
    assert factors() == by_layer(low=0.03, middle=0.3, head=1.0)


@pytest.mark.parametrize("layers", [3, 30])
def test_the_default_is_the_same_at_any_depth(layers):
    body = [keras.layers.Dense(2, name=f"block{i}_dense") for i in range(layers)]
    model = reference.make_model(body=body)
    found = list(DiscriminativeLR().factors(model).values())
    assert found == sorted(found)
    low, *_, top, head = found[::2]  # of kernels
    assert (low, top, head) == (pytest.approx(0.03), pytest.approx(0.3), 1.0)


def test_a_list_goes_from_bottom_to_top():
    assert factors(multipliers=[0, 0.5, 2]) == by_layer(low=0.0, middle=0.5, head=2.0)
    assert factors(multipliers=(1, 2), groups=2)["head/bias"] == 2.0


def test_bounds_are_geometric():
    found = factors(bounds=(1e-4, 1e-2))
    assert found["head/kernel"] == 1.0
    assert found["middle/kernel"] == pytest.approx(1e-1, rel=1e-12)
    assert found["low/kernel"] == pytest.approx(1e-2, rel=1e-12)


def test_a_callable_gets_each_variable():
    found = factors(multipliers=lambda v: 0.5 if "bias" in v.name else 2)
    assert found == {k: 0.5 if "bias" in k else 2.0 for k in found}


@pytest.mark.parametrize(
    ("multipliers", "expected"),
    [
        ({"middle": 0.5}, by_layer(low=1.0, middle=0.5, head=1.0)),
        ({"low|middle": 0.5}, by_layer(low=0.5, middle=0.5, head=1.0)),
        (
            {"bias": 2.0},
            {k: 2.0 if "bias" in k else 1.0 for k in by_layer(low=0, middle=0, head=0)},
        ),
        # The longest key that matches wins, in any order.
        (
            {"low": 0.5, "low/bias": 0.25},
            {**by_layer(low=0.5, middle=1.0, head=1.0), "low/bias": 0.25},
        ),
        (
            {"low/bias": 0.25, ".": 3.0, "low": 0.5},
            {**by_layer(low=0.5, middle=3.0, head=3.0), "low/bias": 0.25},
        ),
    ],
)
def test_a_dictionary_by_name_or_path(multipliers, expected):
    assert factors(multipliers=multipliers) == expected


def test_a_dictionary_by_group_name():
    model = reference.make_model()
    groups = layer_groups(model, [["low", "middle"], "head"])
    first = groups.names[0]
    found = DiscriminativeLR(multipliers={first: 0.5}, groups=groups).factors(model)
    expected = by_layer(low=0.5, middle=0.5, head=1.0)
    assert {short(path): factor for path, factor in found.items()} == expected


def test_a_dictionary_reaches_layers_inside_layers():
    keras.utils.set_random_seed(1)
    body = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(3, name="inner")], name="body"
    )
    model = keras.Sequential(
        [keras.Input((4,)), body, keras.layers.Dense(3, name="head")]
    )
    found = DiscriminativeLR(multipliers={"inner": 0.5}).factors(model)
    assert sorted(found.values()) == [0.5, 0.5, 1.0, 1.0]
    found = DiscriminativeLR(multipliers={"body": 0.5, "inner": 2.0}).factors(model)
    assert sorted(found.values()) == [1.0, 1.0, 2.0, 2.0]


# --- rates in the logs ----------------------------------------------------------------


def logged(optimizer=None, epochs=1, freeze=None, callbacks=(), **arguments):
    model = compiled(optimizer)
    if freeze:
        model.get_layer(freeze).trainable = False
        reference.compile_model(model, model.optimizer)
    rates = DiscriminativeLR(**{"groups": GROUPS, **arguments})
    history = reference.fit(
        model, DATA, epochs=epochs, callbacks=[rates, *callbacks]
    ).history
    names = [name for name in history if name.startswith("learning_rate/")]
    return {name.split("/")[1]: history[name] for name in names}


@pytest.mark.slow
def test_rates_are_logged():
    sgd = keras.optimizers.SGD(0.5)
    assert logged(sgd, decay=2.0, epochs=2) == {
        "low": [0.125] * 2,
        "middle": [0.25] * 2,
        "head": [0.5] * 2,
    }
    assert logged(log=False) == {}


def test_a_frozen_group_has_the_rate_0():
    found = logged(keras.optimizers.SGD(0.5), freeze="middle", multipliers=[0, 1, 2])
    assert found == {"low": [0.0], "middle": [0.0], "head": [1.0]}


def test_a_mixed_group_is_logged_with_its_highest_rate():
    found = logged(keras.optimizers.SGD(0.5), multipliers={"bias": 0.5, "head": 0.25})
    assert found == {"low": [0.5], "middle": [0.5], "head": [0.25]}


def test_logs_follow_a_schedule():
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay(
        [3, 7], [1.0, 0.5, 2.0]
    )
    found = logged(keras.optimizers.SGD(schedule), decay=2.0, epochs=2)
    assert found["middle"] == [0.25, 1.0]
    assert found["head"] == [0.5, 2.0]


def test_logs_follow_a_callback():
    scheduler = keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate / 2)
    for optimizer in optimizers_of_both_kinds():
        found = logged(optimizer, decay=2.0, epochs=2, callbacks=[scheduler])
        assert found["head"] == [0.25, 0.125]
        assert found["low"] == [0.0625, 0.03125]


def optimizers_of_both_kinds():
    kinds = [keras.optimizers]
    if not KERAS_3:
        kinds.append(keras.optimizers.legacy)
    return [kind.SGD(0.5, momentum=0.5) for kind in kinds]


# --- bounds and the base rate ---------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("bounds", [(1 / 16, 0.25), slice(1 / 16, 0.25)])
def test_bounds_are_the_rates_whatever_that_of_the_optimizer(bounds):
    for optimizer in optimizers_of_both_kinds():
        model = compiled(optimizer)
        rates = DiscriminativeLR(bounds=bounds, groups=GROUPS)
        for base in (rate_of(model), 1.0):  # a new optimizer, and a used one
            model.optimizer.learning_rate = base
            history = reference.fit(model, DATA, callbacks=[rates]).history
            assert rate_of(model) == base
            assert history["learning_rate/low"] == [pytest.approx(1 / 16)]
            assert history["learning_rate/head"] == [pytest.approx(0.25)]


def test_bounds_under_a_schedule_are_refused():
    schedule = keras.optimizers.schedules.ExponentialDecay(1.0, 10_000, 1.0)
    optimizer = keras.optimizers.SGD(schedule)
    refused(ValueError, "bounds", optimizer, bounds=(0.01, 0.04), groups=2)


# --- nothing left behind --------------------------------------------------------------


MULTIPLIERS = [0.25, 0.0, 2.0]


class Stop(Exception):
    pass


def fails_in_data(model, callbacks):
    def batches():
        yield DATA[0][:6], DATA[1][:6]
        yield DATA[0][6:12], DATA[1][6:12]
        raise Stop

    with pytest.raises(Exception):  # noqa: B017, PT011  TensorFlow wraps it
        model.fit(
            batches(), steps_per_epoch=4, epochs=2, verbose=0, callbacks=callbacks
        )


def fails_in_callback(error, **hooks):
    def fails(model, callbacks):
        breaker = keras.callbacks.LambdaCallback(**hooks)
        with pytest.raises(error):
            reference.fit(model, DATA, epochs=3, callbacks=[*callbacks, breaker])

    return fails


def _raise(error):
    raise error


FAILURES = {
    "data": fails_in_data,
    "interrupt": fails_in_callback(
        KeyboardInterrupt,
        on_train_batch_end=lambda batch, logs: batch == 1 and _raise(KeyboardInterrupt),
    ),
    "epoch": fails_in_callback(
        Stop, on_epoch_end=lambda epoch, logs: epoch == 1 and _raise(Stop)
    ),
    "nowhere": lambda model, callbacks: reference.fit(
        model, DATA, epochs=2, callbacks=callbacks
    ),
}


def twin_of(model):
    """A model that never saw us, with the same weights and optimizer state."""
    other = reference.make_model()
    other.set_weights(model.get_weights())
    config = model.optimizer.get_config()
    reference.compile_model(other, type(model.optimizer).from_config(config))
    old, new = model.trainable_variables, other.trainable_variables
    reference.build(other.optimizer, new)
    reference.copy_state(model.optimizer, old, other.optimizer, new)
    return other


@pytest.mark.slow
@pytest.mark.parametrize("where", FAILURES)
def test_nothing_is_left(where, tmp_path):
    model = compiled()
    reference.fit(model, DATA)  # what a fit adds to vars() of a model is Keras's own
    of_optimizer, of_model = set(vars(model.optimizer)), set(vars(model))
    names = [short(reference.path(v)) for v in model.trainable_variables]

    FAILURES[where](model, [DiscriminativeLR(multipliers=MULTIPLIERS, groups=GROUPS)])

    assert set(vars(model.optimizer)) == of_optimizer
    for layer in model.layers:
        assert not {"call", "_trainable_weights"} & set(vars(layer)) or not KERAS_3
    # A later `fit`, and what a file holds, are those of plain Keras.
    path = tmp_path / ("model.keras" if KERAS_3 else "model.h5")
    model.save(path)
    saved = keras.models.load_model(path)
    twin = twin_of(model)
    assert [short(reference.path(v)) for v in model.trainable_variables] == names
    for one in (model, twin, saved):
        reference.fit(one, DATA)
    for other in (twin, saved):
        for a, b in zip(model.get_weights(), other.get_weights()):
            assert np.array_equal(a, b)
    assert set(vars(model)) == of_model


@pytest.mark.slow
def test_nothing_is_left_while_a_thread_of_keras_still_runs():
    """JAX and PyTorch: what follows a batch is called in threads, which hold the list.

    One that was still at work when `fit` failed kept the rates on the model, and took
    them off later, whatever the model was doing then.
    """

    class Slow(keras.callbacks.Callback):
        async_safe = True
        is_released = threading.Event()

        def on_train_batch_end(self, batch, logs=None):
            if threading.current_thread() is not threading.main_thread():
                self.is_released.wait(60)

    model = compiled()
    reference.fit(model, DATA)
    count = len(model.trainable_variables)
    try:
        FAILURES["data"](model, [DiscriminativeLR(multipliers=MULTIPLIERS), Slow()])
        assert "make_train_function" not in vars(model)
        assert len(model.trainable_variables) == count
    finally:
        Slow.is_released.set()


def test_train_on_batch_first_after_an_interruption_is_plain():
    model = compiled(keras.optimizers.SGD(0.5))
    FAILURES["interrupt"](model, [DiscriminativeLR(multipliers=MULTIPLIERS)])
    twin = twin_of(model)
    for one in (model, twin):
        one.train_on_batch(*DATA)
    one, other = reference.weights(model), reference.weights(twin)
    assert reference.difference(one, other) == 0


@pytest.mark.slow
def test_a_second_fit_goes_on_with_the_rates():
    for optimizer in optimizers_of_both_kinds():
        config = optimizer.get_config()
        one, other = compiled(optimizer), compiled(type(optimizer).from_config(config))
        for multipliers in (MULTIPLIERS, [0.25, 0.5, 2.0]):
            rates = DiscriminativeLR(multipliers=multipliers, groups=GROUPS)
            reference.fit(one, DATA, epochs=2, callbacks=[rates])
            reference.fit(other, DATA, epochs=1, callbacks=[rates])
            again = DiscriminativeLR(multipliers=multipliers, groups=GROUPS)
            reference.fit(other, DATA, initial_epoch=1, epochs=2, callbacks=[again])
            a, b = reference.weights(one), reference.weights(other)
            # The slots of a variable that rested are new for a second `fit`; those of
            # the others go on.
            assert reference.difference(a, b) == 0


@pytest.mark.slow
def test_fits_in_which_others_rest():
    model, twin = compiled(), compiled()
    for multipliers in ([1, 0, 1], [1, 1, 1]):
        rates = DiscriminativeLR(multipliers=multipliers, groups=GROUPS)
        reference.fit(model, DATA, callbacks=[rates])
    reference.fit(twin, DATA)
    reference.fit(twin, DATA)
    assert set(reference.optimizer_state(model)) == set(reference.optimizer_state(twin))


CHILD = """
    import sys
    sys.modules["keras_finetune"] = None
    import numpy as np
    if sys.argv[1] == "3":
        import keras
    else:
        import tensorflow as tf
        keras = tf.keras
    data = np.load(sys.argv[2])
    for path in sys.argv[3:]:
        model = keras.models.load_model(path)
        steps = model.optimizer.iterations
        steps = int(steps.numpy() if hasattr(steps, "numpy") else steps.value)
        assert steps == 8, (path, steps)
        model.fit(data["x"], data["y"], batch_size=6, shuffle=False, verbose=0)
        np.savez(path + ".npz", *model.get_weights())
    print("done")
"""


@pytest.mark.slow
def test_a_saved_model_needs_plain_keras_only(tmp_path):
    makers = {"new.keras": lambda: keras.optimizers.AdamW(0.01)}
    if not KERAS_3:
        makers["new.h5"] = makers["new.keras"]
        # `.keras` files do not keep the state of legacy optimizers.
        makers["old.h5"] = lambda: keras.optimizers.legacy.Adam(0.01)
    expected = {}
    for name, make in makers.items():
        model = compiled(make())
        rates = DiscriminativeLR(multipliers=MULTIPLIERS, groups=GROUPS)
        reference.fit(model, DATA, epochs=2, callbacks=[rates])
        model.save(tmp_path / name)
        reference.fit(model, DATA)
        expected[name] = model.get_weights()
    np.savez(tmp_path / "data.npz", x=DATA[0], y=DATA[1])
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(CHILD), "3" if KERAS_3 else "2"]
        + [str(tmp_path / name) for name in ("data.npz", *makers)],
        capture_output=True,
        text=True,
    )
    assert "done" in result.stdout, result.stderr[-3000:]
    for name, weights in expected.items():
        with np.load(tmp_path / f"{name}.npz") as found:
            assert len(found.files) == len(weights)
            for key, value in zip(found.files, weights):
                assert np.array_equal(found[key], value)


# --- cost -----------------------------------------------------------------------------


class Counting(keras.Model):
    """Notes the operations in the graph of each trace of its step."""

    def train_step(self, *args, **kwargs):
        result = super().train_step(*args, **kwargs)
        self.traces.append(operations() if backend() == "tensorflow" else None)
        return result


def operations():
    """Types of the operations in the graph that is made: of scalars, and of arrays."""
    import tensorflow as tf

    scalars, arrays = collections.Counter(), collections.Counter()
    for op in tf.compat.v1.get_default_graph().get_operations():
        shapes = [output.shape for output in op.outputs]
        is_array = any(shape.rank != 0 for shape in shapes)
        (arrays if is_array else scalars)[op.type] += 1
    return scalars, arrays


def traces(make_optimizer, callbacks, fits=1):
    plain = reference.make_model()
    model = Counting(plain.inputs, plain.outputs)
    model.__dict__["traces"] = []
    reference.compile_model(model, make_optimizer())
    # Built by us beforehand; Keras 3 itself does it in the first traced step.
    reference.build(model.optimizer, model.trainable_variables)
    for _ in range(fits):
        reference.fit(model, DATA, epochs=2, callbacks=callbacks)
    return model.traces


@pytest.mark.slow
@pytest.mark.backend("tensorflow", "jax")
def test_a_fit_is_traced_once():
    rates = DiscriminativeLR(multipliers=MULTIPLIERS, groups=GROUPS)
    assert len(traces(lambda: keras.optimizers.Adam(0.01), [rates], fits=2)) == 2


# Multiplications for each factor that is not 1: of the rate, and of decoupled decay.
# Keras 2 takes the rate of the decay from where the update took it.
COSTS = {"adam": 1, "adamw": 2 if KERAS_3 else 1}
# Its legacy optimizers prepare scalars from a rate: again for each factor.
LEGACY = {"legacy_sgd": {"Mul": 1}, "legacy_adam": {"Mul": 3, "Pow": 2, "Sub": 4}}


@pytest.mark.slow
@pytest.mark.backend("tensorflow")
@pytest.mark.parametrize("name", [*COSTS, *([] if KERAS_3 else LEGACY)])
def test_a_factor_adds_one_multiplication_of_a_scalar(name):
    make = reference.optimizers()[name]
    plain = traces(make, [])[0]
    rates = DiscriminativeLR(multipliers=[0.25, 0.5, 1.0], groups=GROUPS)
    scaled = traces(make, [rates])[0]
    (more, arrays), (less, _) = (
        [a - b for a, b in zip(*x)] for x in ((scaled, plain), (plain, scaled))
    )
    assert not arrays, arrays  # nothing of the size of a variable
    free = {"Const", "Identity", "Cast", "ReadVariableOp", "NoOp"}
    found = {key: n for key, n in more.items() if key not in free}
    if name in COSTS:
        assert found == {"Mul": 2 * COSTS[name]}
        assert not set(less) - free
    else:
        for key, n in LEGACY[name].items():
            assert found[key] == 2 * n


@pytest.mark.keras2
def test_a_legacy_optimizer_prepares_its_scalars_once_again_after_us():
    # Keras remembers for an instance whether its updates take prepared scalars.
    optimizer = keras.optimizers.legacy.Adam(0.01)
    rates = DiscriminativeLR(multipliers=[0.25, 0.5, 1.0], groups=GROUPS)
    reference.fit(compiled(optimizer), DATA, callbacks=[rates])
    assert "apply_state" in optimizer._dense_apply_args
    assert "apply_state" in optimizer._sparse_apply_args


# --- bad input ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"decay": 0.0}, ValueError, "decay=0.0"),
        ({"decay": -2.0}, ValueError, "decay=-2.0"),
        ({"decay": np.inf}, ValueError, "decay=inf"),
        ({"decay": np.nan}, ValueError, "decay=nan"),
        ({"decay": "2"}, TypeError, "decay='2'"),
        ({"decay": True}, TypeError, "decay=True"),
        ({"decay": 0.75}, ValueError, "write `decay=1 / 0.75`"),
        ({"bounds": slice(1, 2, 3)}, TypeError, "bounds=slice(1, 2, 3)"),
        ({"multipliers": 0.5}, TypeError, "multipliers=0.5"),
        ({"multipliers": "head"}, TypeError, "multipliers='head'"),
        ({"multipliers": [1.0, -0.1]}, ValueError, "multipliers[1]=-0.1"),
        ({"multipliers": [1.0, np.nan]}, ValueError, "multipliers[1]=nan"),
        ({"multipliers": [1.0, None]}, TypeError, "multipliers[1]=None"),
        ({"multipliers": {"head": "x"}}, TypeError, "multipliers['head']='x'"),
        ({"multipliers": {"head": np.inf}}, ValueError, "multipliers['head']=inf"),
        ({"multipliers": {3: 1.0}}, TypeError, "3"),
        ({"multipliers": {"(": 1.0}}, ValueError, "'('"),
        ({"bounds": 0.1}, TypeError, "bounds=0.1"),
        ({"bounds": (0.1,)}, TypeError, r"bounds=(0.1,)"),
        ({"bounds": (0.0, 0.1)}, ValueError, "bounds[0]=0.0"),
        ({"bounds": (0.2, 0.1)}, ValueError, "bounds=(0.2, 0.1)"),
        ({"bounds": (0.1, "1")}, TypeError, "bounds[1]='1'"),
        ({"bounds": (0.1, 0.2), "decay": 2.0}, ValueError, "decay=2.0, bounds="),
        ({"multipliers": [1.0], "decay": 2.0}, ValueError, "decay=2.0, multipliers="),
        ({"multipliers": [1.0], "bounds": (1, 2)}, ValueError, "Only one of"),
        ({"log": "yes"}, TypeError, "log='yes'"),
        ({"log": 1}, TypeError, "log=1"),
    ],
)
def test_bad_arguments_are_refused_at_once(arguments, error, message):
    with pytest.raises(error, match=re.escape(message)):
        DiscriminativeLR(**arguments)


def refused(error, message, optimizer=None, model=None, **arguments):
    model = model or compiled(optimizer)
    # Keras itself builds it before `on_train_begin` on JAX and PyTorch.
    reference.build(model.optimizer, model.trainable_variables)
    before = set(vars(model.optimizer)), set(vars(model))
    state = reference.weights(model)
    with pytest.raises(error, match=message):
        reference.fit(model, DATA, callbacks=[DiscriminativeLR(**arguments)])
    assert set(vars(model.optimizer)) == before[0]
    assert not {"make_train_function"} & (set(vars(model)) - before[1])
    assert reference.difference(reference.weights(model), state) == 0


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"multipliers": [1, 2], "groups": GROUPS}, ValueError, "each of the 3 groups"),
        (
            {"multipliers": {"tail": 1.0}},
            ValueError,
            r"\['tail'\], which match nothing",
        ),
        ({"multipliers": {"head": 1.0, "x+y": 2.0}}, ValueError, r"\['x\+y'\]"),
        ({"multipliers": lambda v: -1.0}, ValueError, r"low/kernel.*\)=-1.0"),
        ({"multipliers": lambda v: "a"}, TypeError, r"low/kernel.*\)='a'"),
        ({"multipliers": lambda v: None}, TypeError, r"low/kernel.*\)=None"),
        ({"groups": 0}, ValueError, "groups"),
        ({"groups": ["low", "tail"]}, ValueError, "tail"),
        ({"groups": 2.5}, TypeError, "groups"),
        ({"decay": 1e-200, "groups": GROUPS}, ValueError, "decay"),
    ],
)
def test_what_does_not_go_with_the_model_is_refused(arguments, error, message):
    refused(error, message, **arguments)


def test_bounds_with_wrong_groups_change_no_rate():
    model = compiled(keras.optimizers.SGD(0.5))
    refused(ValueError, "tail", model=model, bounds=(0.1, 0.2), groups=["tail"])
    assert rate_of(model) == 0.5


def test_a_conditional_gradient_of_any_make_is_refused():
    class ConditionalGradient(keras.optimizers.SGD):
        pass

    message = "a smaller learning rate is a larger move"
    refused(ValueError, message, ConditionalGradient(0.1))


@pytest.mark.keras3
def test_our_own_conditional_gradient_is_refused():
    from keras_finetune.optimizers import ConditionalGradient

    optimizer = ConditionalGradient(learning_rate=0.9, lambda_=1.0)
    refused(ValueError, "a smaller learning rate is a larger move", optimizer)


@pytest.mark.addons
def test_optimizers_of_addons_that_have_no_rate_are_refused():
    import tensorflow_addons as tfa

    optimizer = tfa.optimizers.ConditionalGradient(learning_rate=0.9, lambda_=1.0)
    refused(ValueError, "a smaller learning rate is a larger move", optimizer)
    refused(ValueError, "COCOB has none", tfa.optimizers.COCOB())


def test_a_model_that_is_not_compiled_is_refused():
    callback = DiscriminativeLR()
    callback.set_model(reference.make_model())
    with pytest.raises(ValueError, match="must be compiled"):
        callback.on_train_begin()
