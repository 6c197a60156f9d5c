"""Fine-tuning by hand, as a careful user does it without this package.

What is here knows nothing of the package's engine: it is what the callbacks are
compared with.
"""

import numpy as np

from keras_finetune._engine import KERAS_3, backend, keras

CLASSES = 3


def make_model(*, body=None, head_name="head"):
    """A small model of three dense groups: `low`, `middle`, `head`."""
    keras.utils.set_random_seed(1)
    layers = keras.layers
    if body is None:
        body = [
            layers.Dense(6, activation="tanh", name="low"),
            layers.Dense(5, activation="tanh", name="middle"),
        ]
    return keras.Sequential(
        [keras.Input((4,)), *body, layers.Dense(CLASSES, name=head_name)], name="net"
    )


def make_data(n=24, seed=0, features=4):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, features)).astype("float32")
    y = rng.integers(0, CLASSES, size=n)
    return x, y


def compile_model(model, optimizer, **kwargs):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=optimizer, loss=loss, **kwargs)
    return model


def fit(model, data, **kwargs):
    arguments = {"batch_size": 6, "shuffle": False, "verbose": 0, **kwargs}
    return model.fit(*data, **arguments)


# --- the state of a model and of its optimizer --------------------------------------


def to_numpy(value):
    if KERAS_3:
        return np.array(keras.ops.convert_to_numpy(value))
    return np.array(keras.backend.get_value(value))


def weights(model):
    return {path(v): to_numpy(v) for v in model.weights}


def path(variable):
    """The path of a variable, without the name of the model."""
    return variable.path.removeprefix("net/") if KERAS_3 else variable.name


def _is_legacy(optimizer):
    return not KERAS_3 and isinstance(optimizer, keras.optimizers.legacy.Optimizer)


def _inner(optimizer):
    for name in ("inner_optimizer", "_optimizer"):
        inner = getattr(optimizer, name, None)
        if inner is not None:
            return [inner]
    return list(getattr(optimizer, "_inner_optimizers", ()))


def state_variables(optimizer, variables):
    """The variables of an optimizer's state, each under a name of its own.

    Args:
        optimizer: The optimizer, built for `variables`.
        variables: The trained variables.
    """
    found = {}
    for i, inner in enumerate(_inner(optimizer)):
        known = getattr(inner, "_trainable_variables", variables)
        for key, value in state_variables(inner, known).items():
            found[f"{i}:{key}"] = value
    if _is_legacy(optimizer):
        for variable in variables:
            row = optimizer._slots.get(variable._unique_id, {})
            for name, slot in row.items():
                found[f"{name} of {path(variable)}"] = slot
        for name, value in (*optimizer._hyper.items(), *vars(optimizer).items()):
            if _is_variable(value):
                found[name] = value
        found["iterations"] = optimizer.iterations
        return found
    # Keras 2 says where the slots of a variable are, and may have slots of others.
    index = getattr(optimizer, "_index_dict", None)
    n = len(variables) if index is None else len(index)
    for name, value in vars(optimizer).items():
        if name in ("_variables", "_trainable_variables"):
            continue
        if isinstance(value, list) and len(value) == n:
            for i, variable in enumerate(variables):
                slot = value[i if index is None else index[variable._unique_id]]
                if _is_variable(slot):
                    found[f"{name} of {path(variable)}"] = slot
        elif _is_variable(value):
            found[name] = value
    return found


def _is_variable(value):
    return hasattr(value, "assign") and hasattr(value, "shape")


def optimizer_state(model):
    state = state_variables(model.optimizer, model.trainable_variables)
    return {name: to_numpy(value) for name, value in state.items()}


def copy_state(old, old_variables, new, new_variables):
    """Copies the state of an optimizer into a freshly built one, by variable."""
    before = state_variables(old, old_variables)
    after = state_variables(new, new_variables)
    for name, target in after.items():
        if name in before:
            target.assign(to_numpy(before[name]))


def build(optimizer, variables):
    if _is_legacy(optimizer):
        optimizer._create_all_weights(variables)
    else:
        optimizer.build(variables)
        for inner in _inner(optimizer):
            if not KERAS_3:
                inner.build(variables)


def _start_averages(optimizer, known, variables):
    """The average of a variable that has not trained yet is that variable."""
    for inner in _inner(optimizer):
        _start_averages(inner, known, variables)
    averages = getattr(optimizer, "_model_variables_moving_average", None)
    if averages:
        for variable, average in zip(variables, averages):
            if path(variable) not in known:
                average.assign(to_numpy(variable))


# --- the careful manual way ----------------------------------------------------------


def manual_stages(model, make_optimizer, stages, data, *, compile_args=None, **kwargs):
    """Fits stage after stage, each with a new optimizer that takes over the state.

    Args:
        model: The model.
        make_optimizer: A function that makes a fresh optimizer.
        stages: For each stage the names of the layers that train, and its epochs.
        data: `(x, y)`.
        compile_args: More for `compile`.
        **kwargs: More for `fit`.
    """
    old = None
    epoch = 0
    for names, epochs in stages:
        for layer in model.layers:
            layer.trainable = layer.name in names
        compile_model(model, make_optimizer(), **(compile_args or {}))
        variables = model.trainable_variables
        build(model.optimizer, variables)
        if old is not None:
            copy_state(*old, model.optimizer, variables)
            if int(to_numpy(model.optimizer.iterations)):
                _start_averages(model.optimizer, {path(v) for v in old[1]}, variables)
        if (names, epochs) != stages[-1]:
            # The end of `fit` would put the averages into the weights.
            for inner in (model.optimizer, *_inner(model.optimizer)):
                inner.finalize_variable_values = lambda *args: None
        fit(model, data, initial_epoch=epoch, epochs=epoch + epochs, **kwargs)
        epoch += epochs
        old = model.optimizer, variables
    return model


# --- gradients, without `fit` ---------------------------------------------------------


def gradients(model, x, y):
    """The gradients of the mean loss with respect to the trainable variables."""
    loss_fn = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    if not KERAS_3 or backend() == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            loss = loss_fn(y, model(x, training=True))
        return tape.gradient(loss, list(_native(model.trainable_variables)))
    if backend() == "jax":
        import jax

        frozen = [v.value for v in model.non_trainable_variables]

        def loss_of(trainable):
            logits, _ = model.stateless_call(trainable, frozen, x, training=True)
            return loss_fn(y, logits)

        return jax.grad(loss_of)([v.value for v in model.trainable_variables])
    model.zero_grad()
    loss_fn(y, model(x, training=True)).backward()
    return [v.value.grad for v in model.trainable_variables]


def _native(variables):
    return [v.value if KERAS_3 else v for v in variables]


def apply(optimizer, grads, variables):
    if not KERAS_3:
        optimizer.apply_gradients(zip(grads, variables))
    elif backend() == "torch":
        import torch

        with torch.no_grad():
            optimizer.apply(grads, variables)
    elif backend() == "jax" and hasattr(optimizer, "inner_optimizer"):
        # Keras's loss scaling leaks tracers of its branches in `apply`.
        state, values = (
            [v.value for v in vs] for vs in (optimizer.variables, variables)
        )
        values, state = optimizer.stateless_apply(state, grads, values)
        for variable, value in zip(
            [*variables, *optimizer.variables], [*values, *state]
        ):
            variable.assign(value)
    else:
        optimizer.apply(grads, variables)


def separate_optimizers(model, optimizers, data, epochs, batch_size=6):
    """Trains with one optimizer for each top-level layer, in a hand-written loop."""
    x, y = data
    for _ in range(epochs):
        for start in range(0, len(x), batch_size):
            grads = gradients(
                model, x[start : start + batch_size], y[start : start + batch_size]
            )
            by_path = dict(zip([path(v) for v in model.trainable_variables], grads))
            for layer in model.layers:
                if layer.trainable_variables and layer.name in optimizers:
                    apply(
                        optimizers[layer.name],
                        [by_path[path(v)] for v in layer.trainable_variables],
                        layer.trainable_variables,
                    )
    return model


# --- comparison -----------------------------------------------------------------------


def difference(a, b):
    """The largest absolute difference of two dictionaries of arrays."""
    assert a.keys() == b.keys(), sorted(a.keys() ^ b.keys())
    return max(
        (float(np.max(np.abs(a[k].astype("float64") - b[k]), initial=0.0)) for k in a),
        default=0.0,
    )


# --- the optimizers of the lane -------------------------------------------------------


def optimizers():
    """Every built-in optimizer of the running Keras, by name, as functions."""
    made = {}

    def add(name, cls, **kwargs):
        made[name] = lambda: cls(**kwargs)

    o = keras.optimizers
    add("sgd", o.SGD, learning_rate=0.1)
    add("momentum", o.SGD, learning_rate=0.1, momentum=0.9)
    add("nesterov", o.SGD, learning_rate=0.1, momentum=0.9, nesterov=True)
    add("adam", o.Adam, learning_rate=0.01)
    add("amsgrad", o.Adam, learning_rate=0.01, amsgrad=True)
    add("adamw", o.AdamW, learning_rate=0.01, weight_decay=0.1)
    add("rmsprop", o.RMSprop, learning_rate=0.01, momentum=0.5, centered=True)
    for name in ("Adadelta", "Adagrad", "Adamax", "Adafactor", "Nadam", "Ftrl"):
        if name == "Nadam" and not KERAS_3:
            continue  # cannot be exact: tests/test_engine_assumptions.py
        add(name.lower(), getattr(o, name), learning_rate=0.05)
    add("lion", o.Lion, learning_rate=0.01)
    for name in ("Lamb", "Muon", "ScheduleFreeAdamW"):
        if hasattr(o, name):
            add(name.lower(), getattr(o, name), learning_rate=0.02)
    add("global_clipnorm", o.Adam, learning_rate=0.01, global_clipnorm=0.1)
    add("clipnorm", o.SGD, learning_rate=0.1, momentum=0.9, clipnorm=0.05)
    add("ema", o.Adam, learning_rate=0.01, use_ema=True, ema_momentum=0.8)
    add(
        "ema_overwrite",
        o.SGD,
        learning_rate=0.1,
        momentum=0.9,
        use_ema=True,
        ema_momentum=0.8,
        ema_overwrite_frequency=3,
    )
    made["schedule"] = lambda: o.Adam(
        o.schedules.ExponentialDecay(0.02, decay_steps=2, decay_rate=0.9)
    )
    if KERAS_3:
        add(
            "accumulation",
            o.AdamW,
            learning_rate=0.02,
            weight_decay=0.1,
            gradient_accumulation_steps=2,
        )
        made["loss_scale"] = lambda: o.LossScaleOptimizer(
            o.Adam(learning_rate=0.01), dynamic_growth_steps=5
        )
    else:
        legacy = o.legacy
        add("legacy_sgd", legacy.SGD, learning_rate=0.1, momentum=0.9)
        add("legacy_adam", legacy.Adam, learning_rate=0.01, decay=0.05)
        add("legacy_rmsprop", legacy.RMSprop, learning_rate=0.01, momentum=0.5)
        for name in ("Adadelta", "Adagrad", "Adamax", "Nadam", "Ftrl"):
            add(f"legacy_{name.lower()}", getattr(legacy, name), learning_rate=0.05)
    return made


def addons_optimizers():
    """Optimizers of TensorFlow Addons, by name, as functions."""
    import tensorflow_addons as tfa

    o, legacy = tfa.optimizers, keras.optimizers.legacy
    return {
        "tfa_conditional_gradient": lambda: o.ConditionalGradient(
            learning_rate=0.99, lambda_=5.0
        ),
        "tfa_lamb": lambda: o.LAMB(learning_rate=0.02),
        "tfa_lookahead": lambda: o.Lookahead(legacy.Adam(0.01), sync_period=3),
        "tfa_adamw": lambda: o.AdamW(weight_decay=0.01, learning_rate=0.01),
        "tfa_moving_average": lambda: o.MovingAverage(legacy.SGD(0.1, momentum=0.9)),
    }


def can_compile():
    """Whether PyTorch finds the C++ compiler that it compiles steps with."""
    from torch._inductor import cpp_builder, exc

    try:
        return bool(cpp_builder.get_cpp_compiler())
    except exc.InvalidCxxCompiler:
        return False
