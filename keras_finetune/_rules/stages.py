"""The stages of a gradual unfreeze: which variables and layers train in each."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from keras_finetune._engine.active import lane
from keras_finetune._engine.flags import batch_norms, count, with_inner
from keras_finetune._engine.lane import Flags
from keras_finetune._engine.session import frozen_for_now
from keras_finetune._engine.structure import (
    all_layers,
    is_model,
    own_weights,
    sublayers,
    variable_key,
    weights,
)
from keras_finetune._groups.layer_groups import LayerGroup, LayerGroups
from keras_finetune._tables import Table

# What an earlier `fit` left frozen because it had not come to its stage: the keys of
# variables and the ids of layers, by model. It is no decision of the user's.
_NOT_REACHED: weakref.WeakKeyDictionary[Any, set[Hashable]] = (
    weakref.WeakKeyDictionary()
)


@contextmanager
def memory_kept(model: Any) -> Iterator[None]:
    """Let `remember` change nothing for longer than a block."""
    before = _NOT_REACHED.get(model)
    try:
        yield
    finally:
        if before is None:
            _NOT_REACHED.pop(model, None)
        else:
            _NOT_REACHED[model] = before


class Stages:
    """The stages of one model.

    A variable belongs to one group, and its group decides when it trains. What was
    frozen before `fit` stays frozen, at any depth, with two exceptions: a layer that a
    list of groups names is there to be unfrozen, and so are the layers of a body, or of
    a head, of which nothing trains.

    Args:
        model: The model.
        groups: Its groups of layers, bottom to top.
        initial_groups: Groups that train in stage 0, counted from the top.
        batch_norm: As the argument of `GradualUnfreeze`.

    Raises:
        ValueError: If no group is left to unfreeze after stage 0.
    """

    def __init__(
        self,
        model: Any,
        groups: LayerGroups,
        initial_groups: int,
        batch_norm: str,
    ) -> None:
        self.model = model
        self._before = before = _Before(model)
        self._released: set[Hashable] = set(_NOT_REACHED.get(model, ()))
        for layer in with_inner(self._released_layers(groups[:])):
            self._released.add(id(layer))
            self._released.update(variable_key(v) for v in own_weights(layer))
        self._may_train = before.trainable & (before.trained | self._released)
        self.groups = tuple(
            g for g in groups if g.named is not None or self._trainable_part(g)
        )
        self.initial_groups = initial_groups
        self.last = len(self.groups) - initial_groups
        if self.last < 1:
            raise ValueError(
                "Argument `initial_groups` must be less than the number of groups, so "
                f"that one is left to unfreeze. Received: initial_groups="
                f"{initial_groups}, while the model has "
                f"{[group.name for group in self.groups]} to unfreeze"
            )
        self._exceptions = self._normalization(batch_norm)
        # The index of the group that decides, by variable, and the topmost of those
        # in a layer, by the id of the layer.
        self._index = {
            variable_key(v): i
            for i, group in enumerate(self.groups)
            for v in group.variables
        }
        self._top = self._tops()

    # --- what may train --------------------------------------------------------------

    def _released_layers(self, groups: Sequence[LayerGroup]) -> list[Any]:
        """Layers that were frozen for stages to unfreeze them, not to stay so."""
        frozen = self._before.is_frozen
        if any(group.named is not None for group in groups):
            named = [layer for group in groups for layer in group.named or ()]
            return [layer for layer in named if frozen(layer)]
        released: list[Any] = []
        around = [layer for layer in all_layers(self.model) if is_model(layer)]
        for part in groups[:-1], groups[-1:]:
            keys = {variable_key(v) for group in part for v in group.variables}
            if not keys & self._before.trained:
                released += [x for x in (*_layers(part), *around) if frozen(x)]
        return released

    def _trainable_part(self, group: LayerGroup) -> list[Any]:
        return [v for v in group.variables if variable_key(v) in self._may_train]

    def _normalization(self, batch_norm: str) -> dict[Hashable, bool]:
        """Whether normalization trains, by layer and variable, whatever its group."""
        if batch_norm == "follow":
            return {}
        trains = batch_norm == "trainable"
        exceptions: dict[Hashable, bool] = {}
        for layer in batch_norms(_layers(self.groups if trains else self.frozen(0))):
            exceptions[id(layer)] = trains
            exceptions.update((variable_key(v), trains) for v in weights(layer))
        return exceptions

    def _tops(self) -> dict[int, int]:
        tops: dict[int, int] = {}

        def top(layer: Any) -> int:
            if id(layer) not in tops:
                tops[id(layer)] = -1  # for a layer that contains itself
                own = [self._index.get(variable_key(v), -1) for v in own_weights(layer)]
                inside = [top(part) for part in sublayers(layer)]
                tops[id(layer)] = max([*own, *inside], default=-1)
            return tops[id(layer)]

        top(self.model)
        for i, group in enumerate(self.groups):
            for layer in with_inner(group.layers):
                if tops.get(id(layer), -1) < 0:  # it has no weights
                    tops[id(layer)] = i
        return tops

    # --- the stages ------------------------------------------------------------------

    def trained(self, stage: int) -> tuple[LayerGroup, ...]:
        """Return the groups that train in a stage."""
        return self.groups[self.last - stage :]

    def frozen(self, stage: int) -> tuple[LayerGroup, ...]:
        """Return the groups that do not."""
        return self.groups[: self.last - stage]

    def flags(self, stage: int) -> Flags:
        """Return what the flags of the model say in a stage."""
        lowest = self.last - stage
        variables = {
            key: self._trains(key, lowest)
            for key in self._index
            if key in self._before.trainable
        }
        training = {key for key, trains in variables.items() if trains}
        layers: dict[int, bool] = {}
        for layer in all_layers(self.model):
            key, top = id(layer), self._top[id(layer)]
            if top < 0:
                continue  # in no group
            if is_model(layer):
                # What is around a group agrees with what is inside.
                keys = {variable_key(v) for v in weights(layer)}
                if keys & self._may_train:
                    layers[key] = bool(keys & training)
            elif self._before.flags[key] or key in self._released:
                layers[key] = self._exceptions.get(key, top >= lowest)
        return Flags(layers, variables)

    def _trains(self, key: Hashable, lowest: int) -> bool:
        trains = self._exceptions.get(key, self._index[key] >= lowest)
        return trains and key in self._may_train

    def variables(self, stage: int) -> list[Any]:
        """Return the variables that train in a stage, in the model's order."""
        lowest = self.last - stage
        return [
            v
            for v in weights(self.model)
            if variable_key(v) in self._index and self._trains(variable_key(v), lowest)
        ]

    def frozen_layers(self, stage: int) -> list[Any]:
        """Return the layers in frozen groups, and those inside them."""
        lowest = self.last - stage
        layers = with_inner(_layers(self.groups))
        return [layer for layer in layers if self._top[id(layer)] < lowest]

    def remember(self, stage: int) -> None:
        """Remember what is frozen after this stage only because it was not reached."""
        lowest = self.last - stage
        left: set[Hashable] = {
            key for key in self._may_train if self._index.get(key, lowest) < lowest
        }
        left.update(key for key, top in self._top.items() if 0 <= top < lowest)
        _NOT_REACHED[self.model] = left

    # --- in words --------------------------------------------------------------------

    def parameters(self, stage: int) -> int:
        """Return the number of parameters that train in a stage."""
        return count(self.variables(stage))

    def never_trained(self) -> list[str]:
        """Return a sentence for each reason why a part of some groups never trains."""
        reasons = {
            "frozen before `fit`": self._is_left_frozen,
            "in normalization that stays frozen": self._is_frozen_norm,
        }
        said = []
        for why, applies in reasons.items():
            found = {g.name: list(filter(applies, g.variables)) for g in self.groups}
            parts = [f"{count(vs):,} in {name}" for name, vs in found.items() if vs]
            if parts:
                said.append(f"Never trained, {why}: {', '.join(parts)}.")
        return said

    def _is_left_frozen(self, variable: Any) -> bool:
        key = variable_key(variable)
        return key in self._before.known and key not in self._may_train

    def _is_frozen_norm(self, variable: Any) -> bool:
        key = variable_key(variable)
        return key in self._may_train and not self._exceptions.get(key, True)

    def table(
        self,
        epochs: list[str],
        rates: Sequence[float] | None,
        selects: Callable[[Any], bool] | None = None,
        more: Mapping[str, Sequence[str]] | None = None,
    ) -> Table:
        """Return the plan.

        Args:
            epochs: When each stage trains, in words.
            rates: The base learning rate of each stage, if known.
            selects: Whether a variable trains when its group does. Defaults to all.
            more: Further columns, by their titles: a cell for each stage.
        """
        more = more or {}
        header = ["stage", "epochs", "trains too", "trainable"]
        header += [*([] if rates is None else ["base rate"]), *more]
        rows = []
        trained = self._counts(selects)
        for stage, when in enumerate(epochs):
            lowest = self.last - stage
            new = self.groups[lowest : None if stage == 0 else lowest + 1]
            names = ", ".join(group.name for group in reversed(new))
            row = [str(stage), when, names, f"{trained[stage]:,}"]
            if rates is not None:
                row.append(f"{rates[stage]:.3g}")
            rows.append([*row, *(cells[stage] for cells in more.values())])
        right = (0, 3) if rates is None else (0, 3, 4)
        return Table(header, rows, right=right)

    def _counts(self, selects: Callable[[Any], bool] | None) -> list[int]:
        """Return the parameters that train in each stage."""
        starting = [0] * (self.last + 1)
        for v in self.variables(self.last):
            if selects is None or selects(v):
                key = variable_key(v)
                first = max(self.last - self._index[key], 0)
                starting[0 if self._exceptions.get(key, False) else first] += count([v])
        return list(itertools.accumulate(starting))


class _Before:
    """What a model's flags said before a stage changed them.

    Attributes:
        flags: By the id of a layer.
        trained: The keys of the variables that trained.
        trainable: The keys of those that train if no flag freezes them.
        known: Those, and the base weights of LoRA, which stay frozen.
    """

    def __init__(self, model: Any) -> None:
        layers = all_layers(model)
        now = [v for v in lane.trained(model) if lane.has_gradient(v)]
        now += frozen_for_now(model)
        alone = {variable_key(v) for v in lane.frozen_alone(layers)}
        ever = {variable_key(v) for layer in layers for v in lane.can_train(layer)}
        self.flags = {id(layer): bool(layer.trainable) for layer in layers}
        self.trained = {variable_key(v) for v in now}
        self.trainable = ever - alone
        self.known = ever | alone

    def is_frozen(self, layer: Any) -> bool:
        """Return whether a layer itself was frozen, not only what is in it."""
        return not self.flags[id(layer)]


def _layers(groups: Sequence[LayerGroup]) -> list[Any]:
    return [layer for group in groups for layer in group.layers]
