"""What plain Keras looks like after a `fit` that failed, and where a `fit` can fail.

A model is plain if no object that the user knows holds anything of this package, its
flags are those that the user or the stage gave it, its optimizer is as if freshly built
for what trains, and training goes on as it does for a copy that was saved and loaded.
"""

import functools
import types
import warnings

import numpy as np

from keras_finetune import (
    DiscriminativeLR,
    FeatureCache,
    GradualUnfreeze,
    TrainOnly,
    Warmup,
    WeightNormLogger,
)
from keras_finetune._engine import KERAS_3, backend, keras
from keras_finetune._engine.active import lane
from keras_finetune._engine.lane import Flags

LAYERS = ("low", "middle", "head")
PACKAGE = "keras_finetune"
STEPS = ("train_function", "test_function", "predict_function")
# The callback that fails is told when; an infinite stream of data has no epochs.
MANY = 24

CALLBACKS = {
    "GradualUnfreeze": lambda: [GradualUnfreeze(groups=list(LAYERS), every=1)],
    "DiscriminativeLR": lambda: [
        DiscriminativeLR(multipliers=[0.0, 0.5, 1.0], groups=list(LAYERS))
    ],
    "TrainOnly": lambda: [TrainOnly("bias")],
    "FeatureCache": lambda: [TrainOnly("head"), FeatureCache(verbose=0)],
    "WeightNormLogger": lambda: [WeightNormLogger(updates=True, distance=True)],
    "together": lambda: [
        GradualUnfreeze(groups=list(LAYERS), every=1),
        DiscriminativeLR(decay=2.0, groups=list(LAYERS)),
        Warmup(steps=3),
        TrainOnly("bias"),
    ],
}
HOOKS = (
    "on_train_begin",
    "on_epoch_begin",
    "on_train_batch_begin",
    "on_train_batch_end",
    "on_test_batch_end",
    "on_epoch_end",
    "on_train_end",
)
# Each place, and the stage that `GradualUnfreeze` has reached when `fit` fails there.
PLACES = {
    "data": 1,
    "step": 1,
    "trace": 0,
    "validation data": 1,
    **{f"{hook} {side}": 1 for hook in HOOKS for side in ("before", "after")},
    "on_train_begin before": None,
    "on_train_begin after": None,
    "on_epoch_begin before": 0,
}
# While it is entered, the stage may be the old one or the new one, but a whole one.
ENTERING = ("flags", "slots")


class Failure(Exception):
    """What goes wrong."""


class Trap:
    """Raises once it is armed; called from data, losses, setters."""

    def __init__(self, place, kind):
        self.place, self.kind, self.is_armed = place, kind, False

    def spring(self, place):
        if self.place == place and self.is_armed:
            self.is_armed = False
            raise self.kind()

    def arm_at(self, hook, epoch):
        """A callback that arms the trap at a hook of an epoch."""
        return _callback("Arms", hook, epoch, lambda: setattr(self, "is_armed", True))


def _callback(name, hook, epoch, act):
    """A user's callback of which one hook acts, in one epoch."""

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def acts(self, *args, **kwargs):
        if hook == "on_epoch_begin":
            self.epoch = args[0]
        if hook in ("on_train_begin", "on_train_end") or self.epoch == epoch:
            act()

    hooks = {"on_epoch_begin": on_epoch_begin, hook: acts}
    return type(name, (keras.callbacks.Callback,), hooks)()


def make_data():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(8, 4)).astype("float32")
    return x, rng.normal(size=(8, 2)).astype("float32")


def make_model(trap=None):
    keras.utils.set_random_seed(1)
    low, middle, head = LAYERS
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(5, activation="tanh", name=low),
            layers.Dense(3, activation="tanh", name=middle),
            layers.Dense(2, name=head),
        ],
        name="net",
    )
    loss = "mse" if trap is None else functools.partial(_loss, trap)
    model.compile(keras.optimizers.Adam(0.01), loss, **compile_arguments())
    return model


def compile_arguments():
    # XLA has no callbacks into Python on a CPU, and takes longer to compile.
    on_tensorflow = backend() == "tensorflow"
    return {"jit_compile": False} if on_tensorflow else {}


def _loss(trap, y, outputs):
    trap.spring("trace")
    if trap.place == "step":
        y = _through_python(trap, y)
    return (keras.ops if KERAS_3 else keras.backend).mean((outputs - y) ** 2, axis=-1)


def _through_python(trap, y):
    def at_run_time(array):
        trap.spring("step")
        return np.asarray(array)

    if backend() == "tensorflow":
        import tensorflow as tf

        result = tf.numpy_function(at_run_time, [y], tf.float32)
        result.set_shape(y.shape)
        return result
    if backend() == "jax":
        import jax

        return jax.pure_callback(at_run_time, jax.ShapeDtypeStruct(y.shape, y.dtype), y)
    trap.spring("step")
    return y


def _stream(trap, place):
    x, y = make_data()
    while True:
        trap.spring(place)
        yield x[:4], y[:4]


# --- a `fit` that fails --------------------------------------------------------------


def failed_fit(place, callbacks, kind, monkeypatch=None):
    """The model whose `fit` failed at a place, the user's callbacks, the exception.

    Args:
        place: A key of `PLACES`, or of `ENTERING`.
        callbacks: Callbacks of ours; none to see what plain Keras does.
        kind: The class of what is raised there. No frame may hold the exception, which
            holds the frames: only a collection would end such a circle.
        monkeypatch: Needed to fail while a stage is entered.
    """
    trap = Trap(place, kind)
    model = make_model(trap if place in ("step", "trace") else None)
    x, y = make_data()
    arguments = {"batch_size": 4, "shuffle": False, "validation_data": (x, y)}
    hook, _, side = place.partition(" ")
    before, after = [], []
    if side in ("before", "after"):
        fails = _callback("Fails", hook, 1, lambda: _raise(kind))
        (before if side == "before" else after).append(fails)
    elif place == "trace":
        before = [trap.arm_at("on_epoch_begin", 0)]
    elif place == "validation data":
        before = [trap.arm_at("on_test_begin", 1)]
        arguments["validation_data"] = _stream(trap, place)
        arguments["validation_steps"] = MANY
    else:
        # Keras 2 makes the slots of all stages when the first begins.
        begins = 0 if place == "slots" and not KERAS_3 else 1
        before = [trap.arm_at("on_epoch_begin", begins)]
    if place == "data":
        x, y = _stream(trap, place), None
        del arguments["batch_size"], arguments["shuffle"]
        arguments["steps_per_epoch"] = MANY
    if place in ENTERING:
        _spring_on_entering(trap, monkeypatch)
    users = [*before, *after]
    try:
        model.fit(
            x, y, epochs=2, verbose=0, callbacks=[*before, *callbacks, *after],
            **arguments,
        )  # fmt: skip
    except BaseException as error:
        return model, users, error
    raise AssertionError(f"`fit` did not fail at {place!r}")


def _raise(kind):
    raise kind()


def _spring_on_entering(trap, monkeypatch):
    if trap.place == "flags":
        set_flags = lane.set_flags

        def set_half(model, flags, *, ends):
            half = {key: flags.layers[key] for key in list(flags.layers)[::2]}
            unsaid = set_flags(model, Flags(half, flags.variables), ends=ends)
            trap.spring("flags")
            return set_flags(model, flags, ends=ends) or unsaid

        monkeypatch.setattr(lane, "set_flags", set_half)
        return
    adam = keras.optimizers.Adam
    add = adam.add_variable_from_reference

    def add_variable(self, *args, **kwargs):
        trap.spring("slots")
        return add(self, *args, **kwargs)

    monkeypatch.setattr(adam, "add_variable_from_reference", add_variable)


# --- what is not plain about it ------------------------------------------------------


def problems(model, users, error, place, stage):
    """What is not as in plain Keras, a line each.

    Args:
        model: The model whose `fit` failed.
        users: The user's callbacks.
        error: The exception, with its traceback, or `None` if that was dropped.
        place: Where it failed.
        stage: The stage whose flags the model must have, `None` for those from
            before `fit`.
    """
    objects = known_objects(model, users, error)
    found = [
        f"{label}.{name} is of this package: {value!r}"
        for label, owner in objects.items()
        for name, value in vars(owner).items()
        if is_ours(value)
    ]
    like = place
    if place in ENTERING:
        # Keras 2 makes all slots at once: then there are none yet.
        none = not KERAS_3 and place == "slots"
        like = "on_train_begin after" if none else "data"
    expected, built = as_in_plain_keras(like)
    attributes = {label: _attributes(owner) for label, owner in objects.items()}
    for label in expected.keys() & attributes.keys():
        for name in sorted(expected[label].keys() | attributes[label].keys()):
            came, plain = attributes[label].get(name), expected[label].get(name)
            allowed = {plain} | ({"NoneType", STEP} if name in STEPS else set())
            if came not in allowed:
                found.append(f"{label}.{name}: {came}, in plain Keras {plain}")
    if flags(model) != (by_hand := flags(frozen_by_hand(stage))):
        found.append(f"flags: {flags(model)}, by hand {by_hand}")
    return found + unfit_optimizer(model, built and place in PLACES)


STEP = "a compiled step"


def known_objects(model, users=(), error=None):
    """The objects that a user can reach, by a name each."""
    found = {"model": model, "optimizer": model.optimizer}
    found |= {f"layer {layer.name}": layer for layer in model.layers}
    found |= {f"callback {type(c).__name__}": c for c in users}
    traceback = error.__traceback__ if error is not None else None
    while traceback is not None:
        value = traceback.tb_frame.f_locals.get("callbacks")
        if isinstance(value, keras.callbacks.CallbackList):
            found["the list of callbacks"] = value
        traceback = traceback.tb_next
    return found


def _attributes(owner):
    # How JAX keeps its state between batches is nothing that a user sees.
    return {
        name: STEP if name in STEPS and value is not None else _kind(value)
        for name, value in vars(owner).items()
        if not name.startswith("_jax_state")
    }


def _kind(value):
    # Whether a list is one that a tracker listens to is nothing that a user sees.
    for kind in (list, dict, set):
        if isinstance(value, kind):
            return kind.__name__
    name = type(value).__name__
    return {"ListWrapper": "list", "_DictWrapper": "dict"}.get(name, name)


def is_ours(value, depth=4):
    """Whether a value is a function, or an object, that this package has made."""
    if depth == 0 or value is None:
        return False
    if type(value).__module__.partition(".")[0] == PACKAGE:
        return True
    inner = [
        getattr(value, name, None)
        for name in ("__wrapped__", "__func__", "__self__", "func", "python_function")
        if isinstance(value, (types.FunctionType, types.MethodType, functools.partial))
        or name in ("python_function", "__wrapped__")
    ]
    if isinstance(value, types.FunctionType):
        if value.__module__.partition(".")[0] == PACKAGE:
            return True
        for cell in value.__closure__ or ():
            try:
                inner.append(cell.cell_contents)
            except ValueError:
                continue
    return any(is_ours(x, depth - 1) for x in inner if not _is_keras_object(x))


def _is_keras_object(value):
    return isinstance(value, (keras.layers.Layer, keras.callbacks.Callback))


@functools.cache
def as_in_plain_keras(place):
    """The attributes of all objects after the same failure without us."""
    model, users, error = failed_fit(place, [], Failure)
    attributes = {
        k: _attributes(v) for k, v in known_objects(model, users, error).items()
    }
    return attributes, len(_state(model.optimizer)) > 2


def frozen_by_hand(stage):
    model = make_model()
    if stage is not None:
        for layer in model.layers[: len(LAYERS) - 1 - stage]:
            layer.trainable = False
    return model


def flags(model):
    """The flags of all layers, and of all variables on Keras 3."""
    found = {layer.name: layer.trainable for layer in (model, *model.layers)}
    if KERAS_3:
        found |= {variable.path: variable.trainable for variable in model.weights}
    return found


def _state(optimizer):
    variables = optimizer.variables
    return list(variables() if callable(variables) else variables)


def unfit_optimizer(model, must_be_built=True):
    """How an optimizer differs from one freshly built for what trains."""
    optimizer = model.optimizer
    came = [_described(v) for v in _state(optimizer)]
    if len(came) <= 2 and not must_be_built:
        return []
    fresh = type(optimizer).from_config(optimizer.get_config())
    fresh.build(model.trainable_variables)
    expected = [_described(v) for v in _state(fresh)]
    found = []
    if came != expected:
        found.append(f"optimizer: {came}, freshly built {expected}")
    for name in ("_index_dict", "_trainable_variables_indices"):
        if getattr(optimizer, name, None) != getattr(fresh, name, None):
            found.append(f"optimizer.{name} is not that of a fresh one")
    return found


def _described(variable):
    # On Keras 2 the name of a slot says where it was built, in a step or outside.
    return variable.path if KERAS_3 else "", tuple(variable.shape)


def _path(variable):
    return variable.path if KERAS_3 else variable.name


# --- that training goes on -----------------------------------------------------------


def to_numpy(variable):
    if KERAS_3:
        return np.array(keras.ops.convert_to_numpy(variable))
    return variable.numpy()


def goes_on(model, path):
    """Saves and loads a model, and trains both on without callbacks.

    Returns:
        What is wrong, a line each.
    """
    found = []
    if hasattr(model.loss, "func"):
        # A loss that raises cannot be saved; `compile` would hide what was left.
        model.loss = None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.save(path)
        copy = keras.models.load_model(path)
    found += [str(w.message) for w in caught if "optimizer" in str(w.message)]
    x, y = make_data()
    before = [to_numpy(v) for v in model.weights]
    trained = {id(v) for v in model.trainable_variables}
    results = []
    for one in (model, copy):
        arguments = {"batch_size": 4, "verbose": 0}
        evaluated = one.evaluate(x, y, **arguments)
        history = one.fit(x, y, shuffle=False, epochs=2, **arguments).history
        again = one.evaluate(x, y, **arguments)
        results.append((evaluated, history["loss"], again))
    if results[0] != results[1]:
        found.append(f"losses: {results[0]}, loaded {results[1]}")
    for variable, old, other in zip(model.weights, before, copy.weights):
        new, name = to_numpy(variable), _path(variable)
        if np.array_equal(new, old) == (id(variable) in trained):
            found.append(f"{name} moved: {not np.array_equal(new, old)}")
        if not np.array_equal(new, to_numpy(other)):
            found.append(f"{name} is not what the loaded model has")
    ours, theirs = (_state(one.optimizer) for one in (model, copy))
    if len(ours) != len(theirs) or any(
        not np.array_equal(to_numpy(a), to_numpy(b)) for a, b in zip(ours, theirs)
    ):
        found.append("the state of the optimizer is not what the loaded model has")
    return found


# --- an interactive session ----------------------------------------------------------


def interrupted(name):
    """A model whose `fit` a user is about to interrupt, its data, its callbacks."""
    act = functools.partial(_raise, KeyboardInterrupt)
    fails = _callback("Fails", "on_train_batch_end", 0, act)
    return make_model(), make_data(), [*CALLBACKS[name](), fails]


def report(model, users, stage, path):
    """Prints what the next line of a session finds of us; nothing is `[]`."""
    objects = known_objects(model, users)
    ours = [
        f"{label}.{name}"
        for label, owner in objects.items()
        for name, value in vars(owner).items()
        if is_ours(value)
    ]
    print("ours:", ours)
    print("flags:", flags(model) == flags(frozen_by_hand(stage)))
    print("optimizer:", unfit_optimizer(model))
    print("goes on:", goes_on(model, path))
