"""Keras 3: optimizers rebuilt in place, and their updates scaled, on every backend.

An optimizer of Keras 3 addresses its slots by the position of a variable among those
it was built with. When the set that trains changes, `adopt` builds the user's own
instance again and puts its old slots back, so that it looks as if freshly built for
what trains now: stateless application on JAX, averages of weights, loss scaling and
files saved in any stage all agree.
"""

from __future__ import annotations

import copy
import functools
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from types import MethodType
from typing import Any

from keras.src.utils.tracking import DotNotTrackScope

from keras_finetune._engine import backend, gradients, keras
from keras_finetune._engine.patches import Patch, patched, whole

_AVERAGES = "_model_variables_moving_average"

# --- which optimizers, which variables -------------------------------------------


def nodes(optimizer: Any) -> list[Any]:
    """The optimizer and all optimizers inside it, outermost first."""
    inner = getattr(optimizer, "inner_optimizer", None)
    children = [inner] if inner is not None else _inner_optimizers(optimizer)
    return [optimizer, *(node for child in children for node in nodes(child))]


def leaves(optimizer: Any) -> list[Any]:
    """The optimizers that update variables, inside loss scaling and the like."""
    return [
        node
        for node in nodes(optimizer)
        if getattr(node, "inner_optimizer", None) is None
        and not _inner_optimizers(node)
    ]


def leaf_of(optimizer: Any, variable: Any) -> Any:
    """The optimizer that updates this variable."""
    candidates = leaves(optimizer)
    for leaf in candidates:
        if any(known is variable for known in leaf._trainable_variables):
            return leaf
    return candidates[0]


def _inner_optimizers(optimizer: Any) -> list[Any]:
    return list(getattr(optimizer, "_inner_optimizers", ()))


def is_built(optimizer: Any) -> bool:
    """Whether the optimizer has slots."""
    return bool(optimizer.built)


def slot_key(optimizer: Any, variable: Any) -> Any:
    """The key under which the optimizer knows a variable."""
    return optimizer._var_key(variable)


def check_optimizer(optimizer: Any) -> None:
    """Raises `TypeError` unless all state of the optimizer can be carried over."""
    if not isinstance(optimizer, keras.optimizers.Optimizer):
        raise TypeError(
            "The model must be compiled with a `keras.optimizers.Optimizer`. "
            f"Received: optimizer={optimizer!r}"
        )
    for leaf in leaves(optimizer):
        if type(leaf).__module__.startswith("keras.src."):
            continue
        probe = leaf
        if not leaf.built:
            # A twin on two tiny variables shows how this class keeps its state.
            try:
                probe = type(leaf).from_config(leaf.get_config())
            except Exception:
                continue  # it is checked again when it is built
            probe.build([keras.Variable([[0.0]]), keras.Variable([0.0])])
        _check_known(probe)


def _check_known(optimizer: Any) -> None:
    state = _State(optimizer)
    known = {id(v) for slots in state.slots.values() for v in slots}
    known.update(id(v) for v in state.scalars.values())
    known.update(id(v) for v in _permanent(optimizer))
    unknown = [v.path for v in optimizer._variables if id(v) not in known]
    if unknown:
        raise TypeError(
            "The optimizer must keep its state as Keras's own do: variables in "
            "attributes, and lists with one variable for each trained variable. "
            f"Received: optimizer={optimizer!r}, which keeps elsewhere: {unknown}"
        )


# --- the set of variables that train ---------------------------------------------


def adopt(
    model: Any,
    now: Sequence[Any],
    ever: Sequence[Any],
    hidden: Sequence[Any],
    parked: dict[Any, Any],
    first: bool,
) -> None:
    """Makes the model's optimizer one that was built for the variables of now.

    Kept are the optimizer object, its learning rate, its iterations, and all slots of
    variables that it knows already. Slots of new variables are as a fresh build makes
    them.

    Args:
        model: The compiled model.
        now: The variables that train now.
        ever: Those that will train in any stage: not needed on Keras 3.
        hidden: Variables whose slots, when they fall away, are put into `parked`, and
            taken from there when the variable comes back.
        parked: The slots that wait.
        first: Whether this is the first call in a session.
    """
    del ever, first
    optimizer, variables = model.optimizer, list(now)
    with scope(model), whole(nodes(optimizer), parked, _set_variables):
        # Built eagerly: a build inside the first traced step would repeat its initial
        # assignments at every step (ScheduleFreeAdamW).
        if not optimizer.built:
            optimizer.build(variables)
            return
        known = optimizer._trainable_variables
        if len(known) == len(variables) and all(
            old is new for old, new in zip(known, variables, strict=True)
        ):
            return
        _rebuild(optimizer, variables, {id(v) for v in hidden}, parked)


def _rebuild(
    optimizer: Any, variables: list[Any], hidden: set[int], parked: dict[Any, Any]
) -> None:
    before = {id(node): _State(node) for node in nodes(optimizer)}
    for node in nodes(optimizer):
        if node.built:
            _check_known(node)
    for node in nodes(optimizer):
        _unbuild(node)
    with patched(_keep_assignment(optimizer)):
        optimizer.build(variables)
    for node in nodes(optimizer):
        if node.built and id(node) in before:
            before[id(node)].put_back(node, hidden, parked)


def _keep_assignment(optimizer: Any) -> list[Patch]:
    # The callable of a `MultiOptimizer` may make a new optimizer for each question:
    # a variable that has one already must not get another.
    known = getattr(optimizer, "_var_to_optimizer_idx", None)
    if not known:
        return []
    choose = optimizer._optimizer_map
    inner = _inner_optimizers(optimizer)
    previous = dict(known)

    def choose_again(variable: Any) -> Any:
        index = previous.get(optimizer._var_key(variable))
        return choose(variable) if index is None else inner[index]

    return [Patch(optimizer, "_optimizer_map", choose_again)]


class _State:
    """The variables of an optimizer, by attribute, and by the variable they serve."""

    def __init__(self, optimizer: Any) -> None:
        self.variables = list(optimizer._trainable_variables)
        n = len(self.variables)
        skip = {id(v) for v in _permanent(optimizer)}
        self.slots: dict[str, list[Any]] = {}
        self.scalars: dict[str, Any] = {}
        for name, value in vars(optimizer).items():
            if name in ("_variables", "_trainable_variables"):
                continue
            if isinstance(value, keras.Variable) and id(value) not in skip:
                self.scalars[name] = value
            elif isinstance(value, list) and len(value) == n and _is_slots(value):
                self.slots[name] = list(value)

    def put_back(
        self, optimizer: Any, hidden: set[int], parked: dict[Any, Any]
    ) -> None:
        """Replaces what a fresh build has made by what was there before."""
        fresh = _State(optimizer)
        instead: dict[int, Any] = {}
        position = {id(v): i for i, v in enumerate(self.variables)}
        stays = {id(v) for v in fresh.variables}
        started = int(iterations(optimizer)) > 0
        for i, variable in enumerate(self.variables):
            if id(variable) in hidden - stays:
                row = {name: slots[i] for name, slots in self.slots.items()}
                if not started:
                    row.pop(_AVERAGES, None)  # zeros, until the first step
                parked[id(optimizer), id(variable)] = row
        for name, slots in fresh.slots.items():
            for i, variable in enumerate(fresh.variables):
                old = None
                if id(variable) in position and name in self.slots:
                    old = self.slots[name][position[id(variable)]]
                else:
                    old = parked.get((id(optimizer), id(variable)), {}).get(name)
                if old is not None and slots[i] is not None:
                    instead[id(slots[i])] = old
                elif name == _AVERAGES and slots[i] is not None:
                    # The average of a variable that has not moved is the variable. A
                    # copy: JAX refuses to donate one buffer twice.
                    slots[i].assign(keras.ops.copy(variable))
        for name, scalar in fresh.scalars.items():
            if name in self.scalars:
                instead[id(scalar)] = self.scalars[name]
        for key in stays:
            parked.pop((id(optimizer), key), None)

        with DotNotTrackScope():
            for name, slots in fresh.slots.items():
                setattr(optimizer, name, [instead.get(id(v), v) for v in slots])
            for name, scalar in fresh.scalars.items():
                setattr(optimizer, name, instead.get(id(scalar), scalar))
        _set_variables(
            optimizer, [instead.get(id(v), v) for v in list(optimizer._variables)]
        )


def _is_slots(values: list[Any]) -> bool:
    return any(v is not None for v in values) and all(
        v is None or isinstance(v, keras.Variable) for v in values
    )


def _permanent(optimizer: Any) -> list[Any]:
    """The variables that no build makes: the iterations and the learning rate."""
    rate = optimizer._learning_rate
    return [
        optimizer._iterations,
        *([rate] if isinstance(rate, keras.Variable) else []),
    ]


def _unbuild(optimizer: Any) -> None:
    state = _State(optimizer)
    with DotNotTrackScope():
        optimizer.built = False
        optimizer._trainable_variables = []
        optimizer._trainable_variables_indices = {}
        for name in state.slots:
            setattr(optimizer, name, [])
    permanent = {id(v) for v in _permanent(optimizer)}
    _set_variables(
        optimizer, [v for v in list(optimizer._variables) if id(v) in permanent]
    )


def _set_variables(optimizer: Any, variables: list[Any]) -> None:
    # A new list, not an assignment to items of the old one: TensorFlow wraps lists of
    # optimizers, and the wrapper compares variables element by element.
    with DotNotTrackScope():
        optimizer._variables = variables
    tracker = optimizer._tracker
    is_variable, _ = tracker.config["variables"]
    tracker.config["variables"] = (is_variable, optimizer._variables)
    tracker.stored_ids["variables"] = {id(v) for v in variables}


def build(model: Any, variables_of_fit: Mapping[str, Any]) -> None:
    """Builds a model from the data of `fit`, as Keras does on JAX and PyTorch."""
    iterator = variables_of_fit.get("epoch_iterator")
    if iterator is not None:
        with scope(model):
            model._symbolic_build(iterator=iterator)
        iterator.reset()


def scope(model: Any) -> AbstractContextManager[Any]:
    """The distribution scope in which the model's variables are made."""
    strategy = getattr(model, "distribute_strategy", None)
    return nullcontext() if strategy is None else strategy.scope()


def is_plain() -> bool:
    """Whether variables and steps can be made here as outside of everything."""
    if backend() != "tensorflow":
        return True
    import tensorflow as tf

    return bool(tf.executing_eagerly()) and not tf.distribute.has_strategy()


def free_from_threads(callbacks: Any) -> Callable[[], None]:
    """Lets a `CallbackList` end with its `fit`, not with the last thread that holds it.

    On JAX and PyTorch Keras hands the list's own methods to threads, where what follows
    a batch is called. They get those of a copy.

    Returns:
        What takes it back.
    """
    listed = weakref.ref(callbacks)

    def take_back() -> None:
        if (ours := listed()) is not None:
            vars(ours).pop("_async_dispatch", None)

    def dispatch(method: Any, *args: Any) -> None:
        now: Any = listed()
        again = MethodType(method.__func__, copy.copy(now))
        type(now)._async_dispatch(now, again, *args)

    flags = ("_async_train", "_async_test")
    if any(getattr(callbacks, flag, False) for flag in flags):
        callbacks.__dict__["_async_dispatch"] = dispatch
    return take_back


# --- flags -----------------------------------------------------------------------


def trains(variable: Any) -> bool:
    """Whether a variable's own flag lets it train."""
    # PyTorch has one of its own, which `requires_grad_` sets without Keras.
    return variable.trainable and getattr(variable._value, "requires_grad", True)


def frozen_one_by_one(layers: Iterable[Any]) -> list[Any]:
    """Variables that are frozen for themselves, whatever their layer's flag says."""
    alone: dict[int, Any] = {}
    for layer in layers:
        if layer.trainable:
            alone.update(
                (id(v), v) for v in layer._trainable_variables if not trains(v)
            )
        if getattr(layer, "lora_enabled", False):
            for name in ("_kernel", "_embeddings"):
                base = getattr(layer, name, None)
                if isinstance(base, keras.Variable):
                    alone[id(base)] = base
    return list(alone.values())


def hide(layers: Iterable[Any], variables: Sequence[Any]) -> list[Patch]:
    """Freezes single variables; returns the patches that the step needs for it."""
    del layers
    for variable in variables:
        variable.trainable = False
    return []


def unhide(layers: Iterable[Any], variables: Iterable[Any]) -> None:
    """Takes `hide` back, but for layers that were frozen since."""
    frozen = {
        id(v)
        for layer in layers
        if not layer.trainable
        for v in layer._trainable_variables
    }
    for variable in variables:
        if id(variable) not in frozen:
            variable.trainable = True


def slot_variables(
    model: Any, variables: Iterable[Any], hidden: Sequence[Any]
) -> list[Any]:
    """Those of the variables, which are to train, that need slots."""
    del model, hidden  # their own flags say so
    return list(variables)


# --- the step --------------------------------------------------------------------

# What is around each call of a step.
around_step: Callable[[], AbstractContextManager[Any]] = (
    gradients.forgotten if backend() == "tensorflow" else nullcontext
)


def pull_state(model: Any) -> None:
    """Brings weights that live inside `fit` (JAX) back to the model's variables."""
    if hasattr(model, "jax_state_sync"):
        model.jax_state_sync()


def hold_state(model: Any) -> None:
    """Lets `fit` put back the weights of now should the next step fail (JAX).

    `fit` takes them from their variables for the first step of an epoch, and ends with
    the last state it knows: none, or one that was taken apart by the flags of before.
    """
    if hasattr(model, "_jax_state_synced"):
        kinds = ("trainable", "non_trainable", "optimizer", "metrics")
        names = [f"{kind}_variables" for kind in kinds]
        values = model._get_jax_state(**dict.fromkeys(names, True))
        model._jax_state = dict(zip(names, values, strict=True))


def new_train_function(model: Any) -> Callable[..., Any]:
    """A train function that shares no trace with any made before."""
    if "ddp_model" in model.__dict__:
        # PyTorch averages over the processes what trained when this was made (by Keras
        # 3.16, or by a model's own `make_train_function`): it must be made again.
        model.__dict__["ddp_model"] = None
    _make_anew(model, "train")
    if hasattr(model, "_jax_state_synced"):
        # Their traces take the weights apart into trainable and frozen. The step of
        # `predict` is a new function whenever Keras makes it.
        _make_anew(model, "test")
        model.predict_function = None
        # The next step starts from the variables.
        pull_state(model)
        model._jax_state_synced = True
        if hasattr(model, "_record_training_state_sharding_spec"):
            # Keras 3.8 asks at each step for the shardings it found when `fit` began.
            model._record_training_state_sharding_spec()
    return model.train_function


def _make_anew(model: Any, kind: str) -> None:
    original = getattr(model, f"{kind}_step")

    @functools.wraps(original)  # programs have the name that Keras gives them
    def step(*args: Any, **kwargs: Any) -> Any:
        return original(*args, **kwargs)

    # `jax.jit` finds its traces by the function it is given, and a bound method equals
    # itself whenever it is asked for: while the old step is alive, a stale frozen set
    # or stale rates would be reused silently. See tests/_engine/test_jax.py
    with patched([Patch(model, f"{kind}_step", step)]):
        getattr(type(model), f"make_{kind}_function")(model, force=True)


def renew_compiled_state(model: Any) -> None:
    """Keras 3 keeps no record of the flags at `compile`."""


# --- learning rates --------------------------------------------------------------


def learning_rate(leaf: Any) -> float:
    """The base learning rate as it stands now."""
    return float(keras.ops.convert_to_numpy(leaf.learning_rate))


def iterations(optimizer: Any) -> Any:
    """The steps taken."""
    return keras.ops.convert_to_numpy(leaves(optimizer)[0]._iterations)


def is_scheduled(leaf: Any) -> bool:
    """Whether the base rate is computed, so that it cannot be assigned."""
    return not isinstance(leaf._learning_rate, keras.Variable)


def set_learning_rate(leaf: Any, value: float) -> None:
    """Assigns the base learning rate."""
    leaf.learning_rate = value


def check_scalable(leaf: Any) -> None:
    """Raises unless a factor on the rate of this optimizer means what it says."""
    if type(leaf).__name__ == "ConditionalGradient":
        raise ValueError(
            "Rates per group have no meaning with ConditionalGradient: a smaller "
            "learning rate is a larger move there (the weights become `rate * weights "
            "- (1 - rate) * lambda_ * direction`). Use another optimizer. "
            f"Received: optimizer={leaf!r}"
        )


def rate_patches(leaf: Any, multipliers: Mapping[Any, float]) -> list[Patch]:
    """Patches that multiply the rate of the update of each variable.

    Args:
        leaf: An optimizer that updates variables.
        multipliers: The factor of each variable, by `slot_key`; 1 where missing.
    """

    def factor(variable: Any) -> float:
        return multipliers.get(leaf._var_key(variable), 1.0)

    if hasattr(leaf, "_parallel_update_step"):
        patches = _parallel_patches(leaf, factor)
    else:
        patches = _update_patches(leaf, factor)
    return [*patches, *_decay_patches(leaf, factor)]


def _update_patches(leaf: Any, factor: Callable[[Any], float]) -> list[Patch]:
    update_all, update_one = leaf._backend_update_step, leaf.update_step
    rates: dict[float, Any] = {}

    def backend_update_step(grads: Any, variables: Any, learning_rate: Any) -> Any:
        # One multiplication per factor, made before TensorFlow leaves the replica.
        # The dictionary is shared, not local to a thread: the merged call under
        # MirroredStrategy runs in another one.
        for value in sorted({factor(v) for v in variables} - {1.0}):
            rates[value] = keras.ops.multiply(learning_rate, value)
        try:
            return update_all(grads, variables, learning_rate)
        finally:
            rates.clear()  # tensors of a trace must not outlive it

    def update_step(gradient: Any, variable: Any, learning_rate: Any) -> Any:
        rate = rates.get(factor(variable), learning_rate)
        return update_one(gradient, variable, rate)

    return [
        Patch(leaf, "_backend_update_step", backend_update_step),
        Patch(leaf, "update_step", update_step),
    ]


def _parallel_patches(leaf: Any, factor: Callable[[Any], float]) -> list[Patch]:
    # PyTorch updates all variables in one call, so each factor has a call of its own.
    # State without a variable (Nadam's product) must advance once, not once a call.
    update_all = leaf._backend_update_step

    def backend_update_step(grads: Any, variables: Any, learning_rate: Any) -> None:
        scalars = list(_State(leaf).scalars.values())
        before = [keras.ops.copy(scalar) for scalar in scalars]
        for value, indices in _by_factor(variables, factor).items():
            for scalar, start in zip(scalars, before, strict=True):
                scalar.assign(start)
            update_all(
                [grads[i] for i in indices],
                [variables[i] for i in indices],
                learning_rate if value == 1.0 else learning_rate * value,
            )

    return [Patch(leaf, "_backend_update_step", backend_update_step)]


def _decay_patches(leaf: Any, factor: Callable[[Any], float]) -> list[Patch]:
    apply_decay, current_rate = (
        leaf._apply_weight_decay,
        leaf._get_current_learning_rate,
    )
    scaled: dict[str, Any] = {}

    def get_current_learning_rate() -> Any:
        value = scaled.get("factor", 1.0)
        if value == 1.0:
            return current_rate()
        if "rate" not in scaled:
            scaled["rate"] = keras.ops.multiply(current_rate(), value)
        return scaled["rate"]

    def apply_weight_decay(variables: Any) -> None:
        variables = list(variables)
        try:
            for value, indices in _by_factor(variables, factor).items():
                scaled.clear()
                scaled["factor"] = value
                apply_decay([variables[i] for i in indices])
        finally:
            scaled.clear()

    return [
        Patch(leaf, "_get_current_learning_rate", get_current_learning_rate),
        Patch(leaf, "_apply_weight_decay", apply_weight_decay),
    ]


def _by_factor(
    variables: Sequence[Any], factor: Callable[[Any], float]
) -> dict[float, list[int]]:
    parts: dict[float, list[int]] = {}
    for i, variable in enumerate(variables):
        parts.setdefault(factor(variable), []).append(i)
    return parts


# --- files -----------------------------------------------------------------------


def epoch_of_checkpoint(model: Any) -> int | None:
    """Not needed on Keras 3, where a file tells its stage by its size."""
    del model
    return None


def make_room(model: Any, variables: Sequence[Any]) -> None:
    """Not needed on Keras 3: `load_patch` is told which slots a file has."""
    del model, variables


def in_file(optimizer: Any) -> list[Any]:
    """The variables of an optimizer that a file of now would hold."""
    return list(optimizer.variables)


def load_patch(optimizer: Any, prepare: Callable[[int], None]) -> Patch | None:
    """A patch that calls `prepare(count)` before `count` variables are loaded."""
    load = optimizer.load_own_variables

    def load_own_variables(store: Any) -> None:
        if len(store.keys()):  # else it is a file of weights only
            prepare(len(store.keys()))
        load(store)

    return Patch(optimizer, "load_own_variables", load_own_variables)


def warn_inexact(optimizer: Any) -> None:
    """Warns of optimizers that cannot be carried over exactly: none on Keras 3."""
    del optimizer


def warn_of_checkpoints(optimizer: Any, callbacks: Iterable[Any]) -> None:
    """Nothing to warn of: files say which slots they hold."""
    del optimizer, callbacks
