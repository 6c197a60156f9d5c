"""Building an optimizer again so that it keeps the slots it has.

A build makes all slots from nothing. Under the patches of `Reuse` it gets a stand-in
for each slot that exists already, and makes only the others; afterwards the old slots
take the places of their stand-ins, also in the optimizer's list of variables, whose
order is that of a build from nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from keras_finetune._engine.patches import Patch


class StandIn:
    """Stands for a slot that exists already, while an optimizer is built.

    Args:
        position: How many variables the optimizer listed when it asked for the slot.
        make: Makes the slot after all, should the old state not have it.
    """

    def __init__(self, position: int, make: Callable[[], Any]) -> None:
        self.position = position
        self.make = make


class Reuse:
    """The slots that an optimizer takes over when it is built again.

    Args:
        optimizer: The optimizer.
        old: Gives the slots that a variable has, by attribute; empty for a new one.
    """

    def __init__(self, optimizer: Any, old: Callable[[Any], Mapping[str, Any]]) -> None:
        self.optimizer = optimizer
        self.old = old
        self._asked: list[StandIn] = []

    def patches(self) -> list[Patch]:
        """Return the patches under which a build makes slots for new variables only."""
        optimizer = self.optimizer
        if ".src." not in type(optimizer).__module__:
            return []  # not Keras's own: its build may do more with a slot than keep it
        make = optimizer.add_variable_from_reference

        def add_variable_from_reference(*args: Any, **kwargs: Any) -> Any:
            named = (kwargs.get(n) for n in ("reference_variable", "model_variable"))
            variable = args[0] if args else next(v for v in named if v is not None)
            if not self.old(variable):
                return make(*args, **kwargs)
            stand_in = StandIn(len(optimizer._variables), lambda: make(*args, **kwargs))
            self._asked.append(stand_in)
            return stand_in

        return [
            Patch(
                optimizer, "add_variable_from_reference", add_variable_from_reference
            ),
            *self._assign_patch(),
        ]

    def _assign_patch(self) -> list[Patch]:
        assign = getattr(self.optimizer, "assign", None)
        if assign is None:
            return []

        def assign_unless_it_exists(variable: Any, value: Any) -> None:
            if not isinstance(variable, StandIn):
                assign(variable, value)  # ScheduleFreeAdamW starts slots at weights

        return [Patch(self.optimizer, "assign", assign_unless_it_exists)]

    def instead(
        self, slots: Mapping[str, Sequence[Any]], variables: Sequence[Any]
    ) -> dict[int, Any]:
        """Return, by the id of what a build has put there, what belongs there.

        Args:
            slots: The lists that the build has filled, by attribute.
            variables: The variables that the items of each list belong to.
        """
        instead: dict[int, Any] = {}
        for name, built in slots.items():
            for variable, slot in zip(variables, built, strict=True):
                old = self.old(variable).get(name)
                if slot is not None and old is not None:
                    instead[id(slot)] = old
                elif isinstance(slot, StandIn):
                    instead[id(slot)] = slot.make()
        return instead

    def in_order(self, tracked: Sequence[Any]) -> list[Any]:
        """Return an optimizer's variables and stand-ins, in the order of a build.

        Args:
            tracked: The variables that the optimizer lists after the build.
        """
        in_order, done = [], 0
        for stand_in in self._asked:
            in_order += [*tracked[done : stand_in.position], stand_in]
            done = stand_in.position
        return [*in_order, *tracked[done:]]
