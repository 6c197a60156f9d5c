"""Keras 2: slots made once for all variables that will ever train.

Everything is keyed by variable here, so an optimizer is built once over all variables
that will ever train, and each stage uses those it needs. Checkpoints, which address
variables by position, thereby stay the same from stage to stage.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Sequence
from typing import Any

import tensorflow as tf

from keras_finetune._engine import keras
from keras_finetune._engine.lane import SetAside, Trained
from keras_finetune._engine.patches import Patch, patched
from keras_finetune._engine.reuse import Reuse, StandIn


def is_legacy(optimizer: Any) -> bool:
    """Return whether an optimizer is of the older of Keras 2's two generations."""
    return isinstance(optimizer, keras.optimizers.legacy.Optimizer)


def all_optimizers(optimizer: Any) -> list[Any]:
    """Return the optimizer and all optimizers inside it, outermost first."""
    # Loss scaling in both generations, and TFA's Lookahead, SWA and MovingAverage.
    inner = optimizer.__dict__.get("_optimizer")
    return [optimizer, *(all_optimizers(inner) if inner is not None else [])]


def holders(optimizer: Any) -> list[Any]:
    """Return those that hold slots: all but loss scaling."""
    return [
        one for one in all_optimizers(optimizer) if not hasattr(one, "inner_optimizer")
    ]


def key_of(variable: Any) -> Any:
    """Return the key under which optimizers know a variable."""
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


def is_built(optimizer: Any) -> bool:
    """Return whether the optimizer has slots."""
    holder = holders(optimizer)[0]
    if is_legacy(holder):
        return bool(holder._slots)
    return bool(getattr(holder, "_built", False))


def rows(optimizer: Any) -> dict[Any, dict[str, Any]]:
    """Return the slots that one optimizer holds, by the key of a variable and name."""
    if is_legacy(optimizer):
        return {key: dict(row) for key, row in optimizer._slots.items()}
    place = getattr(optimizer, "_index_dict", {})
    lists = _slot_lists(optimizer, len(place))
    return {
        key: {name: values[i] for name, values in lists.items()}
        for key, i in place.items()
    }


def set_variables(optimizer: Any, variables: list[Any]) -> None:
    """Give an optimizer another list of variables."""
    optimizer._variables = variables
    # What `tf_keras` has found to save: among it the list of before, which has grown.
    optimizer.__dict__.pop("_coalesced_children", None)


def rebuild(optimizer: Any, trained: Trained, aside: SetAside) -> None:
    """Give an optimizer the slots that this and all later stages need."""
    every = holders(optimizer)
    legacy = is_legacy(every[0])
    # A checkpoint that waits for slots to be made finds them by position, so a first
    # build makes those of all stages at once, and no later call makes them again:
    # current TensorFlow would go on saving the old ones.
    variables = list(trained.later or trained.now)
    kept = trained.now if trained.begins and is_built(optimizer) else variables
    known = {key_of(v) for v in kept}
    hidden = {key_of(v) for v in trained.hidden}
    if legacy:
        _rebuild_legacy(every, variables, known, hidden, aside)
    else:
        _rebuild_new_style(every[0], variables, known, hidden, aside)
        _save_only(all_optimizers(optimizer), every[0], trained)


def _rebuild_new_style(
    optimizer: Any,
    variables: list[Any],
    keep: set[Any],
    hidden: Collection[Any],
    aside: SetAside,
) -> None:
    if not getattr(optimizer, "_built", False):
        optimizer.build(variables)
        return
    place = dict(optimizer._index_dict)
    wanted = [key_of(v) for v in variables]
    if list(place) == wanted and keep >= set(wanted):
        return
    before, scalars = rows(optimizer), _scalars(optimizer)
    own = {id(v) for row in before.values() for v in row.values()}
    own.update(id(v) for v in scalars.values())
    old = {key: row for key, row in before.items() if key in keep}
    for key, row in before.items():
        if key in hidden and key not in wanted:
            aside[id(optimizer), key] = row
    old.update({k: aside.pop((id(optimizer), k), old.get(k, {})) for k in wanted})

    reuse = Reuse(optimizer, lambda variable: old.get(key_of(variable), {}))
    optimizer._built = False
    optimizer._variables = [v for v in optimizer._variables if id(v) not in own]
    with patched(reuse.patches()):
        optimizer.build(variables)
    tracked = list(optimizer._variables)
    built = _slot_lists(optimizer, len(variables))
    instead = reuse.instead(built, variables)
    for name, values in built.items():
        setattr(optimizer, name, [instead.get(id(v), v) for v in values])
    for name, value in _scalars(optimizer).items():
        if name in scalars:
            instead[id(value)] = scalars[name]
            setattr(optimizer, name, scalars[name])
    in_order = reuse.in_order(tracked)
    optimizer._variables = [instead.get(id(v), v) for v in in_order]
    # What `tf_keras` has once found to be saved, it saves always: the old slots.
    vars(optimizer).pop("_coalesced_children", None)


def _slot_lists(optimizer: Any, n: int) -> dict[str, list[Any]]:
    return {
        name: list(value)
        for name, value in vars(optimizer).items()
        if name != "_variables"
        and isinstance(value, list)
        and len(value) == n > 0
        and all(isinstance(v, (tf.Variable, StandIn)) for v in value)
    }


def _scalars(optimizer: Any) -> dict[str, Any]:
    permanent = ("_iterations", "_learning_rate", "_current_learning_rate")
    return {
        name: value
        for name, value in vars(optimizer).items()
        if name not in permanent and isinstance(value, tf.Variable)
    }


def _rebuild_legacy(
    every: Sequence[Any],
    variables: list[Any],
    keep: set[Any],
    hidden: Collection[Any],
    aside: SetAside,
) -> None:
    wanted = [key_of(v) for v in variables]
    if all(list(one._slots) == wanted and keep >= set(wanted) for one in every):
        return
    asked: dict[int, list[tuple[Any, str]]] = {id(one): [] for one in every}
    patches = [Patch(one, "add_slot", _noting(one, asked[id(one)])) for one in every]
    for one in every:
        before = dict(one._slots)
        own = {id(v) for row in before.values() for v in row.values()}
        one._weights = [v for v in one._weights if id(v) not in own]
        for key in set(before) & set(hidden) - set(wanted):
            aside[id(one), key] = dict(before[key])
        one._slots.clear()
        for key in wanted:  # `add_slot` makes only what is not there
            row = before.get(key) if key in keep else None
            if row := aside.pop((id(one), key), row):
                one._slots[key] = row
    with patched(patches):
        every[0]._create_all_weights(variables)
    for one in every:
        # The order of `weights` is the order in which slots were asked for.
        slots = [one._slots[key][name] for key, name in dict.fromkeys(asked[id(one)])]
        made = {id(v) for v in slots}
        one._weights = [*(v for v in one._weights if id(v) not in made), *slots]
        rows = {key: one._slots[key] for key in wanted if key in one._slots}
        one._slots.clear()
        one._slots.update(rows)


def _noting(optimizer: Any, asked: list[tuple[Any, str]]) -> Callable[..., Any]:
    """`add_slot` that notes what it was asked for."""
    add_slot = optimizer.add_slot

    def noting(var: Any, slot_name: str, *args: Any, **kwargs: Any) -> Any:
        asked.append((key_of(var), slot_name))
        return add_slot(var, slot_name, *args, **kwargs)

    return noting


def variables_in_file(optimizer: Any) -> list[Any]:
    """Return the variables of an optimizer that a file of now would hold."""
    save = optimizer.__dict__.get("save_own_variables")
    return list(optimizer.variables if save is None else save.variables())


def _save_only(optimizers: Sequence[Any], holder: Any, trained: Trained) -> None:
    """Let files leave out the slots that wait, as plain Keras expects them to.

    Args:
        optimizers: The optimizer and those around it.
        holder: The one that holds the slots.
        trained: What it trains.
    """

    def saved(optimizer: Any) -> list[Any]:
        trains = {key_of(v) for v in trained.now}
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
        if trained.later:
            save: Any = functools.partial(save_own_variables, optimizer)
            save.variables = functools.partial(saved, optimizer)
            optimizer.__dict__["save_own_variables"] = save
