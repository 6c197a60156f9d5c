"""What the callbacks of one `fit` want from a model's training, taken together."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from keras_finetune._engine.features import Features
from keras_finetune._engine.lane import Flags
from keras_finetune._engine.structure import variable_key


@dataclass(frozen=True)
class Schedule:
    """What updates of an optimizer do one after the other.

    Kept as a table and not as a formula: the values are worked out once in double
    precision, so that a step has them to half a unit in the last place of single
    precision, and to the same bit on every backend.

    Args:
        factors: On the base learning rate, one for each update; the last holds for
            all later ones.
        start: The updates that the optimizer had made before the first of these.
        momenta: The momentum of each update, likewise; empty if it stays as it is.
    """

    factors: Sequence[float]
    start: int = 0
    momenta: Sequence[float] = ()

    def factor_of(self, update: int) -> float:
        """Return the factor of an update, all those of the optimizer counted."""
        return self.factors[self._index(update, self.factors)]

    def momentum_of(self, update: int) -> float | None:
        """Return the momentum of an update, if the schedule moves it."""
        if not self.momenta:
            return None
        return self.momenta[self._index(update, self.momenta)]

    def _index(self, update: int, values: Sequence[float]) -> int:
        return min(max(update - self.start, 0), len(values) - 1)


@dataclass(frozen=True)
class Demand:
    """What one callback wants while a `fit` runs.

    Args:
        multipliers: On learning rates, by `variable_key`; 1 where missing.
        frozen: Single variables of layers that train, to be frozen.
        flags: What the flags are to say; they stay like that after `fit`.
        at_inference: Layers that behave as at inference while the model trains.
        later: The variables that train in any stage, for a callback that has stages
            and applies its demands itself.
        features: What feeds the steps with the features of frozen layers.
        schedule: What the updates do one after the other; one callback has it.
        begun: By `variable_key`, the updates that the optimizer had made when a
            variable began to train, for those whose bias correction counts from there.
    """

    multipliers: Mapping[Hashable, float] | None = None
    frozen: Sequence[Any] = ()
    flags: Flags | None = None
    at_inference: Sequence[Any] = ()
    later: Sequence[Any] = ()
    features: Features | None = None
    schedule: Schedule | None = None
    begun: Mapping[Hashable, int] | None = None


class Demands:
    """The demands of all callbacks, in the order in which they came."""

    def __init__(self) -> None:
        self._by_owner: dict[Any, Demand] = {}

    def change(self, owner: Any, **changes: Any) -> None:
        """Change what a callback wants; `changes` are fields of `Demand`."""
        known = self._by_owner.get(owner, Demand())
        self._by_owner[owner] = replace(known, **changes)

    def keep_flags_only(self) -> None:
        """Withdraw all but the flags, which stay after `fit`."""
        self._by_owner = {
            owner: Demand(flags=demand.flags)
            for owner, demand in self._by_owner.items()
        }

    def flags(self) -> list[Flags]:
        """Return what the flags are to say; the last one decides."""
        every = (demand.flags for demand in self._by_owner.values())
        return [flags for flags in every if flags is not None]

    def frozen(self) -> list[Any]:
        """Return the single variables that are to be frozen."""
        return [v for demand in self._by_owner.values() for v in demand.frozen]

    def later(self) -> list[Any]:
        """Return the variables that train in any stage."""
        return [v for demand in self._by_owner.values() for v in demand.later]

    def at_inference(self) -> list[Any]:
        """Return the layers that behave as at inference, each once."""
        asked = (demand.at_inference for demand in self._by_owner.values())
        return list({id(layer): layer for some in asked for layer in some}.values())

    def multiplier(self, variable: Any) -> float:
        """Return the multiplier on a variable's rate, all callbacks together."""
        key, product = variable_key(variable), 1.0
        for demand in self._by_owner.values():
            if demand.multipliers is not None:
                product *= demand.multipliers.get(key, 1.0)
        return product

    def begun(self, variable: Any) -> int:
        """Return after how many updates a variable began, if that is to count."""
        key = variable_key(variable)
        asked = (demand.begun or {} for demand in self._by_owner.values())
        return next((begun[key] for begun in asked if key in begun), 0)

    def features(self) -> Features | None:
        """Return what feeds the steps with features, if anything."""
        asked = (demand.features for demand in self._by_owner.values())
        return next((features for features in asked if features is not None), None)

    def schedule(self) -> Schedule | None:
        """Return what the updates follow, if anything."""
        asked = (demand.schedule for demand in self._by_owner.values())
        return next((schedule for schedule in asked if schedule is not None), None)
