"""Keras 2 (2.15 and `tf_keras`): the optimizers of two generations, and TFA's.

Everything is keyed by variable here, so an optimizer is built once over all variables
that will ever train, and each stage uses those it needs. Checkpoints, which address
variables by position, thereby stay the same from stage to stage.
"""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import tensorflow as tf

from keras_finetune._engine import gradients, keras
from keras_finetune._engine.patches import Patch, patched, whole
from keras_finetune._engine.structure import weights

# --- which optimizers, which variables -------------------------------------------


def _is_legacy(optimizer: Any) -> bool:
    return isinstance(optimizer, keras.optimizers.legacy.Optimizer)


def nodes(optimizer: Any) -> list[Any]:
    """The optimizer and all optimizers inside it, outermost first."""
    # Loss scaling in both generations, and TFA's Lookahead, SWA and MovingAverage.
    inner = optimizer.__dict__.get("_optimizer")
    return [optimizer, *(nodes(inner) if inner is not None else [])]


def _holders(optimizer: Any) -> list[Any]:
    """Those of the nodes that hold slots: all but loss scaling."""
    return [node for node in nodes(optimizer) if not hasattr(node, "inner_optimizer")]


def leaves(optimizer: Any) -> list[Any]:
    """The optimizers that update variables, inside loss scaling and the like."""
    return nodes(optimizer)[-1:]


def leaf_of(optimizer: Any, variable: Any) -> Any:
    """The optimizer that updates this variable."""
    del variable
    return leaves(optimizer)[0]


def is_built(optimizer: Any) -> bool:
    """Whether the optimizer has slots."""
    holder = _holders(optimizer)[0]
    if _is_legacy(holder):
        return bool(holder._slots)
    return bool(getattr(holder, "_built", False))


def slot_key(optimizer: Any, variable: Any) -> Any:
    """The key under which the optimizer knows a variable."""
    del optimizer
    return _key(variable)


def _key(variable: Any) -> Any:
    # As both generations of optimizers do it: the distributed variable, if there is
    # one, stands for its copies on the devices.
    if hasattr(variable, "_distributed_container"):
        variable = variable._distributed_container()
    elif isinstance(variable, tf.__internal__.CompositeTensor):
        # Not asked of a distributed variable: it has no handle outside a replica.
        handle: Any = getattr(variable, "handle", None)
        if hasattr(handle, "_distributed_container"):
            variable = handle._distributed_container()
    return getattr(variable, "_unique_id", id(variable))


def check_optimizer(optimizer: Any) -> None:
    """Raises `TypeError` unless all state of the optimizer can be carried over."""
    if not (_is_legacy(optimizer) or isinstance(optimizer, keras.optimizers.Optimizer)):
        raise TypeError(
            "The model must be compiled with a `keras.optimizers.Optimizer`. "
            f"Received: optimizer={optimizer!r}"
        )
    if hasattr(optimizer, "optimizer_specs"):
        raise TypeError(
            "`tfa.optimizers.MultiOptimizer` fixes its variables when it is made: "
            "compile with one optimizer, and use `DiscriminativeLR` for rates per "
            f"group. Received: optimizer={optimizer!r}"
        )


def warn_inexact(optimizer: Any) -> None:
    """Warns of optimizers that cannot be carried over exactly."""
    leaf = leaves(optimizer)[0]
    if type(leaf).__name__ == "Nadam" and not _is_legacy(leaf):
        # `_u_product_counter` is a Python number that changes while TensorFlow traces.
        warnings.warn(
            "Nadam of Keras 2 counts the traces of its step, so a run that is traced "
            "again, as at each stage, differs slightly from one that is not. Use "
            "`keras.optimizers.legacy.Nadam` for exact results.",
            stacklevel=3,
        )


def warn_of_checkpoints(optimizer: Any, callbacks: Iterable[Any]) -> None:
    """Warns of files whose slots are not those that the optimizer has after `fit`."""
    if _is_legacy(_holders(optimizer)[0]):
        return
    for callback in callbacks:
        if not isinstance(callback, keras.callbacks.ModelCheckpoint):
            continue
        path = str(callback.filepath)
        if callback.save_weights_only and not path.endswith((".h5", ".hdf5")):
            warnings.warn(
                "With `save_weights_only=True` and no suffix `ModelCheckpoint` writes "
                "checkpoints of TensorFlow, which address the optimizer's slots by "
                "their position. While some weights are frozen for the time of `fit`, "
                "these slots are not those that the optimizer has afterwards, unless "
                "the last stage was reached. Give it a filepath that ends in "
                f"`.weights.h5`. Received: filepath={path!r}",
                stacklevel=3,
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
    """Gives the model's optimizer the slots that this and all later stages need.

    Kept are the optimizer object, its learning rate, its iterations, and all slots of
    variables that train now. Slots of new variables are as a fresh build makes them.

    Args:
        model: The compiled model.
        now: The variables that train now.
        ever: Those that will train in any stage; the same as `now` if empty.
        hidden: Variables whose slots, when they fall away, are put into `parked`, and
            taken from there when the variable comes back.
        parked: The slots that wait.
        first: Whether this is the first call in a session.
    """
    away = {_key(v) for v in hidden}
    holders = _holders(model.optimizer)
    legacy = _is_legacy(holders[0])
    built = is_built(model.optimizer)
    with scope(model), whole(nodes(model.optimizer), parked, _set_variables):
        # A checkpoint that waits for slots to be made finds them by position, so a
        # first build makes those of all stages at once, and no later call makes them
        # again: current TensorFlow would go on saving the old ones.
        todo = [ever] if ever else [now]
        if ever and built and first:
            todo = [now, ever]
        for variables in todo:
            if legacy:
                _adopt_legacy(holders, list(variables), away, parked)
            else:
                _adopt_new_style(holders[0], list(variables), away, parked)
    if not legacy:
        _save_only(nodes(model.optimizer), holders[0], now, ever)


def _set_variables(optimizer: Any, variables: list[Any]) -> None:
    optimizer._variables = variables


def _save_only(
    optimizers: Sequence[Any], holder: Any, now: Sequence[Any], ever: Sequence[Any]
) -> None:
    """Lets files leave out the slots that wait, as plain Keras expects them to.

    Args:
        optimizers: The optimizer and those around it.
        holder: The one that holds the slots.
        now: The variables that train now.
        ever: Those that have slots; if empty, only those that train.
    """

    def saved(optimizer: Any) -> list[Any]:
        trains = {_key(v) for v in now}
        slots = _slot_lists(holder, len(holder._index_dict)).values()
        waiting = {
            id(values[i])
            for key, i in holder._index_dict.items()
            for values in slots
            if key not in trains
        }
        return [v for v in optimizer.variables if id(v) not in waiting]

    def save_own_variables(optimizer: Any, store: Any) -> None:
        for i, variable in enumerate(saved(optimizer)):
            store[str(i)] = variable.numpy()

    for optimizer in optimizers:
        optimizer.__dict__.pop("save_own_variables", None)
        if ever:
            save: Any = functools.partial(save_own_variables, optimizer)
            save.variables = functools.partial(saved, optimizer)
            optimizer.__dict__["save_own_variables"] = save


def in_file(optimizer: Any) -> list[Any]:
    """The variables of an optimizer that a file of now would hold."""
    save = optimizer.__dict__.get("save_own_variables")
    return list(optimizer.variables if save is None else save.variables())


def _adopt_new_style(
    optimizer: Any, variables: list[Any], hidden: set[Any], parked: dict[Any, Any]
) -> None:
    if not getattr(optimizer, "_built", False):
        optimizer.build(variables)
        return
    known = dict(optimizer._index_dict)
    wanted = [_key(v) for v in variables]
    if list(known) == wanted:
        return
    slots, scalars = _slot_lists(optimizer, len(known)), _scalars(optimizer)
    own = {id(v) for values in slots.values() for v in values}
    own.update(id(v) for v in scalars.values())
    for key, i in known.items():
        if key in hidden and key not in wanted:
            row = {name: values[i] for name, values in slots.items()}
            parked[id(optimizer), key] = row

    optimizer._built = False
    optimizer._variables = [v for v in optimizer._variables if id(v) not in own]
    optimizer.build(variables)

    instead: dict[int, Any] = {}
    for name, values in _slot_lists(optimizer, len(variables)).items():
        for i, key in enumerate(wanted):
            row = parked.get((id(optimizer), key), {})
            old = slots[name][known[key]] if key in known else row.get(name)
            if old is not None:
                instead[id(values[i])] = old
        setattr(optimizer, name, [instead.get(id(v), v) for v in values])
    for name, value in _scalars(optimizer).items():
        if name in scalars:
            instead[id(value)] = scalars[name]
            setattr(optimizer, name, scalars[name])
    optimizer._variables = [instead.get(id(v), v) for v in optimizer._variables]
    # What `tf_keras` has once found to be saved, it saves for ever: the old slots.
    vars(optimizer).pop("_coalesced_children", None)
    for key in wanted:
        parked.pop((id(optimizer), key), None)


def _slot_lists(optimizer: Any, n: int) -> dict[str, list[Any]]:
    return {
        name: list(value)
        for name, value in vars(optimizer).items()
        if name != "_variables"
        and isinstance(value, list)
        and len(value) == n > 0
        and all(isinstance(v, tf.Variable) for v in value)
    }


def _scalars(optimizer: Any) -> dict[str, Any]:
    permanent = ("_iterations", "_learning_rate", "_current_learning_rate")
    return {
        name: value
        for name, value in vars(optimizer).items()
        if name not in permanent and isinstance(value, tf.Variable)
    }


def _adopt_legacy(
    holders: list[Any], variables: list[Any], hidden: set[Any], parked: dict[Any, Any]
) -> None:
    outermost = holders[0]
    wanted = [_key(v) for v in variables]
    before = [dict(holder._slots) for holder in holders]
    if all(list(known) == wanted for known in before):
        return
    # The order of `weights` is the order in which slots were made: make all of them
    # again, and put the old ones into their places.
    for holder, known in zip(holders, before, strict=True):
        own = {id(v) for row in known.values() for v in row.values()}
        for key, row in known.items():
            if key in hidden and key not in wanted:
                parked[id(holder), key] = dict(row)
        holder._slots.clear()
        holder._weights = [v for v in holder._weights if id(v) not in own]
    outermost._create_all_weights(variables)
    for holder, known in zip(holders, before, strict=True):
        instead: dict[int, Any] = {}
        for key, row in holder._slots.items():
            old = known.get(key) or parked.pop((id(holder), key), {})
            for name, value in row.items():
                if name in old:
                    instead[id(value)] = row[name] = old[name]
        holder._weights = [instead.get(id(v), v) for v in holder._weights]


def build(model: Any, variables_of_fit: Mapping[str, Any]) -> None:
    """Builds a model by calling it on zeros that are like the data of `fit`."""
    handler = variables_of_fit.get("data_handler")
    spec = getattr(getattr(handler, "_dataset", None), "element_spec", None)
    x = spec[0] if isinstance(spec, tuple) and spec else spec
    specs = tf.nest.flatten(x)
    if all(isinstance(s, tf.TensorSpec) and s.shape.rank for s in specs):
        zeros = [tf.zeros([n or 1 for n in s.shape], s.dtype) for s in specs]
        with scope(model):
            model(tf.nest.pack_sequence_as(x, zeros), training=False)


def scope(model: Any) -> AbstractContextManager[Any]:
    """The distribution scope in which the model's variables are made."""
    manager: AbstractContextManager[Any] = model.distribute_strategy.scope()
    return manager


def is_plain() -> bool:
    """Whether variables and steps can be made here as outside of everything."""
    return bool(tf.executing_eagerly()) and not tf.distribute.has_strategy()


def free_from_threads(callbacks: Any) -> Callable[[], None]:
    """Not needed on Keras 2, which hands its list of callbacks to no thread."""
    del callbacks
    return lambda: None


# --- flags -----------------------------------------------------------------------


def trains(variable: Any) -> bool:
    """Whether a variable's own flag lets it train."""
    return bool(variable.trainable)


def frozen_one_by_one(layers: Iterable[Any]) -> list[Any]:
    """Variables that were frozen although their layer trains: none on Keras 2."""
    del layers
    return []


def hide(layers: Iterable[Any], variables: Sequence[Any]) -> list[Patch]:
    """Freezes single variables; returns the patches that the step needs for it.

    Keras 2 sorts the weights of a layer when they are made and saves them in that
    order, so the layer says otherwise only while a step runs.
    """
    hidden = {id(v) for v in variables}
    patches = []
    for layer in layers:
        own = list(layer.__dict__.get("_trainable_weights", ()))
        away = [v for v in own if id(v) in hidden]
        if away:
            rest = [v for v in own if id(v) not in hidden]
            frozen = [*layer._non_trainable_weights, *away]
            patches.append(Patch(layer, "_trainable_weights", rest))
            patches.append(Patch(layer, "_non_trainable_weights", frozen))
    return patches


def unhide(layers: Iterable[Any], variables: Iterable[Any]) -> None:
    """Takes `hide` back: nothing is left of it outside the step."""
    del layers, variables


def slot_variables(
    model: Any, variables: Iterable[Any], hidden: Sequence[Any]
) -> list[Any]:
    """Those of the variables, which are to train, that need slots."""
    if getattr(leaves(model.optimizer)[0], "use_ema", False):
        # `fit` ends by assigning the averages of all trainable variables.
        return list(variables)
    away = {id(v) for v in hidden}
    return [v for v in variables if id(v) not in away]


# --- the step --------------------------------------------------------------------

# What is around each call of a step.
around_step: Callable[[], AbstractContextManager[Any]] = gradients.forgotten


def pull_state(model: Any) -> None:
    """Weights live in the model's variables."""
    del model


def hold_state(model: Any) -> None:
    """Not needed on Keras 2, where weights stay in their variables."""
    del model


def new_train_function(model: Any) -> Callable[..., Any]:
    """A train function that shares no trace with any made before."""
    function: Callable[..., Any] = type(model).make_train_function(model, force=True)
    model.train_function = function
    return function


def renew_compiled_state(model: Any) -> None:
    """Makes the flags of now those that `fit` takes for the compiled ones.

    Without it the next `fit` goes back to the flags at `compile`. Not by assignment:
    the tracker of attributes would sort the layers in it.
    """
    model.__dict__["_compiled_trainable_state"] = model._get_trainable_state()


# --- learning rates --------------------------------------------------------------


def _rate(leaf: Any) -> Any:
    return leaf._hyper["learning_rate"] if _is_legacy(leaf) else leaf._learning_rate


def learning_rate(leaf: Any) -> float:
    """The base learning rate as it stands now."""
    rate = _rate(leaf)
    if isinstance(rate, keras.optimizers.schedules.LearningRateSchedule):
        return float(rate(leaf.iterations))
    return float(keras.backend.get_value(rate() if callable(rate) else rate))


def iterations(optimizer: Any) -> Any:
    """The steps taken."""
    return leaves(optimizer)[0].iterations.numpy()


def is_scheduled(leaf: Any) -> bool:
    """Whether the base rate is computed, so that it cannot be assigned."""
    return callable(_rate(leaf)) and not isinstance(_rate(leaf), tf.Variable)


def set_learning_rate(leaf: Any, value: float) -> None:
    """Assigns the base learning rate."""
    leaf.learning_rate = value


def check_scalable(leaf: Any) -> None:
    """Raises unless a factor on the rate of this optimizer means what it says."""
    name = type(leaf).__name__
    if name == "ConditionalGradient":
        raise ValueError(
            "Rates per group have no meaning with ConditionalGradient: a smaller "
            "learning rate is a larger move there (the weights become `rate * weights "
            "- (1 - rate) * lambda_ * direction`). Use another optimizer. "
            f"Received: optimizer={leaf!r}"
        )
    if _is_legacy(leaf) and "learning_rate" not in leaf._hyper:
        raise ValueError(
            f"Rates per group need an optimizer that has a learning rate; {name} has "
            f"none. Received: optimizer={leaf!r}"
        )


def rate_patches(leaf: Any, multipliers: Mapping[Any, float]) -> list[Patch]:
    """Patches that multiply the rate of the update of each variable.

    Args:
        leaf: An optimizer that updates variables.
        multipliers: The factor of each variable, by `slot_key`; 1 where missing.
    """

    def factor(variable: Any) -> float:
        return multipliers.get(_key(variable), 1.0)

    return (_legacy_patches if _is_legacy(leaf) else _new_style_patches)(leaf, factor)


class _Memo:
    """Results kept for the graph they belong to, so that a trace computes them once.

    An eager step computes anew each time. The memo lives as long as the patches that
    use it: those of one stage.
    """

    def __init__(self) -> None:
        self._results: dict[Any, Any] = {}

    def get(self, key: Any, compute: Callable[[], Any]) -> Any:
        if tf.executing_eagerly():
            return compute()
        # XLA compiles updates as functions of their own, which may not see tensors of
        # the graph around them.
        key = (id(tf.compat.v1.get_default_graph()), key)
        if key not in self._results:
            self._results[key] = compute()
        return self._results[key]


def _new_style_patches(leaf: Any, factor: Callable[[Any], float]) -> list[Patch]:
    update_one = leaf.update_step
    memo = _Memo()

    def rate_of(variable: Any) -> Any:
        value = factor(variable)
        if value == 1.0:
            return leaf.learning_rate
        return memo.get(value, lambda: leaf.learning_rate * value)

    def update_step(gradient: Any, variable: Any) -> Any:
        if factor(variable) == 1.0:
            return update_one(gradient, variable)
        # A tensor in the place of variable or schedule: the property returns it.
        with patched([Patch(leaf, "_learning_rate", rate_of(variable))]):
            return update_one(gradient, variable)

    def decay(variable: Any) -> None:
        if leaf._use_weight_decay(variable):
            rate = tf.cast(rate_of(variable), variable.dtype)
            weight_decay = tf.cast(leaf.weight_decay, variable.dtype)
            variable.assign_sub(variable * weight_decay * rate)

    def apply_weight_decay(variables: Any) -> None:
        # Written anew, not called with another rate: under MirroredStrategy the
        # decay is merged into another thread, where an exchanged rate would leak.
        if leaf.weight_decay is None:
            return

        def merged(distribution: Any, variables: Any) -> None:
            for variable in variables:
                distribution.extended.update(variable, decay, group=False)

        tf.__internal__.distribute.interim.maybe_merge_call(
            merged, leaf._distribution_strategy, variables
        )

    # The class's own keeps traces that know nothing of our rates.
    @tf.function(jit_compile=True)
    def update_step_xla(gradient: Any, variable: Any, key: Any) -> Any:
        del key
        return leaf._update_step(gradient, variable)

    return [
        Patch(leaf, "update_step", update_step),
        Patch(leaf, "_apply_weight_decay", apply_weight_decay),
        Patch(leaf, "_update_step_xla", update_step_xla),
    ]


def _legacy_patches(leaf: Any, factor: Callable[[Any], float]) -> list[Patch]:
    # TFA's decoupled decay is not multiplied by the rate: it has one of its own, and
    # goes with the group, as in PyTorch's parameter groups.
    names = ["learning_rate"]
    if hasattr(leaf, "_decay_weights_op"):
        names.append("weight_decay")
    memo = _Memo()

    def raw(name: str) -> Any:
        value = leaf._hyper[name]
        if isinstance(value, keras.optimizers.schedules.LearningRateSchedule):
            return value(leaf.iterations)
        if callable(value) and not isinstance(value, tf.Variable):
            return value()
        return value

    @contextmanager
    def scaled(value: float) -> Iterator[None]:
        hyper = leaf._hyper
        before = {name: hyper[name] for name in names}
        try:
            hyper.update(
                memo.get(("hyper", value), lambda: {n: raw(n) * value for n in names})
            )
            yield
        finally:
            hyper.update(before)

    def prepare(variable: Any) -> Any:
        key = (variable.device, variable.dtype.base_dtype)
        state: dict[Any, Any] = {key: {}}
        leaf._prepare_local(*key, state)
        return state

    def hooked(name: str) -> Patch:
        original = getattr(leaf, name)
        takes_state = "apply_state" in inspect.signature(original).parameters

        def apply(grad: Any, var: Any, *indices: Any, apply_state: Any = None) -> Any:
            value = factor(var)
            state = {"apply_state": apply_state} if takes_state else {}
            if value == 1.0:
                return original(grad, var, *indices, **state)
            with scaled(value):
                if state:
                    key = ("state", value, var.device, var.dtype.base_dtype)
                    state["apply_state"] = memo.get(key, lambda: prepare(var))
                return original(grad, var, *indices, **state)

        # Keras looks up once, and remembers, whether `apply_state` is among the named
        # arguments; where it is not, each update computes that state for itself.
        def dense(grad: Any, var: Any, apply_state: Any = None) -> Any:
            return apply(grad, var, apply_state=apply_state)

        def sparse(grad: Any, var: Any, indices: Any, apply_state: Any = None) -> Any:
            return apply(grad, var, indices, apply_state=apply_state)

        if not takes_state:
            return Patch(leaf, name, lambda grad, var, *rest: apply(grad, var, *rest))
        return Patch(leaf, name, sparse if name.endswith("sparse") else dense)

    return [hooked("_resource_apply_dense"), hooked("_resource_apply_sparse")]


# --- files -----------------------------------------------------------------------


def epoch_of_checkpoint(model: Any) -> int | None:
    """The epoch in which the checkpoint was written that `fit` resumes from, if any."""
    state = getattr(model, "_training_state", None)
    if state is None:
        return None
    epoch = int(state._ckpt_saved_epoch.numpy())
    return None if epoch == state.CKPT_SAVED_EPOCH_UNUSED_VALUE else epoch


def make_room(model: Any, variables: Sequence[Any]) -> None:
    """Gives a built optimizer the slots that it had when a backup was written.

    Those of later stages fall away when a `fit` ends, also when it is interrupted, and
    a checkpoint finds slots by position. An optimizer that is not built can wait.
    """
    if is_built(model.optimizer):
        order = {id(v): i for i, v in enumerate(weights(model))}
        adopt(model, sorted(variables, key=lambda v: order[id(v)]), [], [], {}, False)


def load_patch(optimizer: Any, prepare: Callable[[int], None]) -> Patch | None:
    """A patch that calls `prepare(count)` before `count` variables are loaded.

    From files only: checkpoints of Keras 2 do not depend on the stage.
    """
    if _is_legacy(leaves(optimizer)[0]):
        return None  # files do not hold its state
    load = optimizer.load_own_variables

    def load_own_variables(store: Any) -> None:
        count = len(store.keys())
        if count:  # else it is a file of weights only
            prepare(count)
        variables = in_file(optimizer)
        if len(variables) != count:
            load(store)  # Keras says what it leaves out
            return
        for i, variable in enumerate(variables):
            variable.assign(store[str(i)])

    return Patch(optimizer, "load_own_variables", load_own_variables)
