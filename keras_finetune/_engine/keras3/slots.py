"""Keras 3: the user's optimizer rebuilt in place, with the slots that it has.

An optimizer of Keras 3 addresses its slots by the position of a variable among those
it was built with. When the set that trains changes, the user's own instance is built
again and keeps the slots that it had, so that it looks as if freshly built for what
trains now: stateless application on JAX, averages of weights, loss scaling and files
saved in any stage all agree. Only the slots of new variables are made.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from keras.src.utils.tracking import DotNotTrackScope

from keras_finetune._engine import keras
from keras_finetune._engine.lane import SetAside
from keras_finetune._engine.patches import Patch, patched
from keras_finetune._engine.reuse import Reuse, StandIn

_AVERAGES = "_model_variables_moving_average"


def all_optimizers(optimizer: Any) -> list[Any]:
    """Return the optimizer and all optimizers inside it, outermost first."""
    inner = getattr(optimizer, "inner_optimizer", None)
    children = [inner] if inner is not None else parts_of(optimizer)
    return [optimizer, *(one for child in children for one in all_optimizers(child))]


def parts_of(optimizer: Any) -> list[Any]:
    """Return the optimizers that a `MultiOptimizer` is made of."""
    return list(getattr(optimizer, "_inner_optimizers", ()))


def check_known(optimizer: Any) -> None:
    """Raise `TypeError` if the optimizer keeps state where no rebuild finds it."""
    state = State(optimizer)
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


def rebuild(
    optimizer: Any,
    variables: list[Any],
    hidden: Collection[int],
    aside: SetAside,
    started: bool,
) -> None:
    """Build a built optimizer again, for other variables.

    Args:
        optimizer: The user's optimizer.
        variables: What it is to train.
        hidden: The ids of variables whose slots are set aside if they lose them.
        aside: The slots that were set aside.
        started: Whether the optimizer has taken a step.
    """
    optimizers = [one for one in all_optimizers(optimizer) if one.built]
    before = {id(one): State(one) for one in optimizers}
    for one in optimizers:
        check_known(one)
        before[id(one)].set_aside(id(one), hidden, variables, aside, started)
    reuses = [_reuse(one, before[id(one)], aside) for one in optimizers]
    for one in all_optimizers(optimizer):
        _unbuild(one)
    patches = [patch for reuse in reuses for patch in reuse.patches()]
    with patched([*patches, *_keep_assignment(optimizer)]):
        optimizer.build(variables)
    for reuse in reuses:
        if reuse.optimizer.built:
            _put_back(reuse, before[id(reuse.optimizer)], aside)


def _reuse(optimizer: Any, before: State, aside: SetAside) -> Reuse:
    def old(variable: Any) -> Mapping[str, Any]:
        if id(variable) in before.position:
            return before.row(variable)
        return aside.get((id(optimizer), id(variable)), {})

    return Reuse(optimizer, old)


def set_variables(optimizer: Any, variables: list[Any]) -> None:
    """Give an optimizer another list of variables, which Keras tracks."""
    # A new list, not an assignment to items of the old one: TensorFlow wraps lists of
    # optimizers, and the wrapper compares variables element by element.
    with DotNotTrackScope():
        optimizer._variables = variables
    tracker = optimizer._tracker
    is_variable, _ = tracker.config["variables"]
    tracker.config["variables"] = (is_variable, optimizer._variables)
    tracker.stored_ids["variables"] = {id(v) for v in variables}


class State:
    """The variables of an optimizer, by attribute, and by the variable they serve."""

    def __init__(self, optimizer: Any) -> None:
        self.variables = list(optimizer._trainable_variables)
        self.position = {id(v): i for i, v in enumerate(self.variables)}
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

    def set_aside(
        self,
        owner: int,
        hidden: Collection[int],
        variables: Sequence[Any],
        aside: SetAside,
        started: bool,
    ) -> None:
        """Put the slots of hidden variables that train no longer aside."""
        stay = {id(v) for v in variables}
        for variable in self.variables:
            if id(variable) in hidden and id(variable) not in stay:
                row = self.row(variable)
                if not started:
                    row.pop(_AVERAGES, None)  # zeros, until the first step
                aside[owner, id(variable)] = row

    def row(self, variable: Any) -> dict[str, Any]:
        """Return the slots of one variable, by attribute."""
        i = self.position[id(variable)]
        return {name: slots[i] for name, slots in self.slots.items()}


def _put_back(reuse: Reuse, before: State, aside: SetAside) -> None:
    """Replace what stands for old slots, or was made for them, by the old ones."""
    optimizer, fresh = reuse.optimizer, State(reuse.optimizer)
    tracked = list(optimizer._variables)
    instead = reuse.instead(fresh.slots, fresh.variables)
    for name, scalar in fresh.scalars.items():
        instead[id(scalar)] = before.scalars.get(name, scalar)
    averages = [instead.get(id(v), v) for v in fresh.slots.get(_AVERAGES, ())]
    for variable, average in zip(fresh.variables, averages, strict=False):
        if average is not None and _AVERAGES not in reuse.old(variable):
            # The average of a variable that has not moved is the variable. A copy:
            # JAX refuses to donate one buffer twice.
            average.assign(keras.ops.copy(variable))

    with DotNotTrackScope():
        for name, slots in fresh.slots.items():
            setattr(optimizer, name, [instead.get(id(v), v) for v in slots])
        for name, scalar in fresh.scalars.items():
            setattr(optimizer, name, instead[id(scalar)])
    in_order = reuse.in_order(tracked)
    set_variables(optimizer, [instead.get(id(v), v) for v in in_order])
    for variable in fresh.variables:
        aside.pop((id(optimizer), id(variable)), None)


def _keep_assignment(optimizer: Any) -> list[Patch]:
    # The callable of a `MultiOptimizer` may make a new optimizer for each question:
    # a variable that has one already must not get another.
    assigned = getattr(optimizer, "_var_to_optimizer_idx", None)
    if not assigned:
        return []
    choose = optimizer._optimizer_map
    parts = parts_of(optimizer)
    previous = dict(assigned)

    def choose_again(variable: Any) -> Any:
        index = previous.get(optimizer._var_key(variable))
        return choose(variable) if index is None else parts[index]

    return [Patch(optimizer, "_optimizer_map", choose_again)]


def _is_slots(values: list[Any]) -> bool:
    kinds = (keras.Variable, StandIn)
    return any(v is not None for v in values) and all(
        v is None or isinstance(v, kinds) for v in values
    )


def _permanent(optimizer: Any) -> list[Any]:
    """Return the variables that no build makes: iterations and learning rate."""
    rate = optimizer._learning_rate
    return [
        optimizer._iterations,
        *([rate] if isinstance(rate, keras.Variable) else []),
    ]


def _unbuild(optimizer: Any) -> None:
    state = State(optimizer)
    with DotNotTrackScope():
        optimizer.built = False
        optimizer._trainable_variables = []
        optimizer._trainable_variables_indices = {}
        for name in state.slots:
            setattr(optimizer, name, [])
    permanent = {id(v) for v in _permanent(optimizer)}
    set_variables(
        optimizer, [v for v in list(optimizer._variables) if id(v) in permanent]
    )
