"""The stages of a gradual unfreeze: which layers, variables and parameters train."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from keras_finetune._engine import flags, session
from keras_finetune._engine.structure import variable_key
from keras_finetune._groups.layer_groups import LayerGroup, LayerGroups
from keras_finetune._tables import Table


class Stages:
    """The stages of one model.

    Args:
        model: The model.
        groups: Its groups of layers, bottom to top.
        initial_groups: Groups that train in stage 0, counted from the top.
        batch_norm: As the argument of `GradualUnfreeze`.

    Raises:
        ValueError: If no group is left to unfreeze after stage 0.
    """

    def __init__(
        self, model: Any, groups: LayerGroups, initial_groups: int, batch_norm: str
    ) -> None:
        self.model = model
        self.groups = tuple(groups)
        self.initial_groups = initial_groups
        self.last = len(self.groups) - initial_groups
        if self.last < 1:
            raise ValueError(
                "Argument `initial_groups` must be less than the number of groups, so "
                f"that one is left to unfreeze. Received: initial_groups="
                f"{initial_groups}, while the model has {len(self.groups)} groups: "
                f"{[group.name for group in self.groups]}"
            )
        self._own_variables = flags.own_variables(model)
        self._stay_frozen = session.frozen_one_by_one(model)
        self._batch_norm_on: list[Any] = []
        self._batch_norm_off: list[Any] = []
        if batch_norm == "trainable":
            self._batch_norm_on = flags.batch_norms(_layers(self.groups))
        if batch_norm == "frozen":
            self._batch_norm_off = flags.batch_norms(_layers(self.frozen(0)))

    def trained(self, stage: int) -> tuple[LayerGroup, ...]:
        """The groups that train in a stage."""
        return self.groups[self.last - stage :]

    def frozen(self, stage: int) -> tuple[LayerGroup, ...]:
        """The groups that do not."""
        return self.groups[: self.last - stage]

    def set_flags(self, stage: int) -> list[Any]:
        """Sets the model's flags; returns variables that flags cannot freeze."""
        return flags.set_trainable(
            self.model,
            on=_layers(self.trained(stage)),
            off=_layers(self.frozen(stage)),
            batch_norm_on=self._batch_norm_on,
            batch_norm_off=self._batch_norm_off,
            own_on=self._own(self.trained(stage)),
            own_off=self._own(self.frozen(stage)),
            stay_frozen=self._stay_frozen,
        )

    def _own(self, groups: tuple[LayerGroup, ...]) -> list[Any]:
        keys = {variable_key(v) for group in groups for v in group.variables}
        return [v for v in self._own_variables if variable_key(v) in keys]

    def noisy_frozen_layers(self, stage: int) -> list[Any]:
        """The layers in frozen groups, those inside others included."""
        return flags.with_inner(_layers(self.frozen(stage)))

    def variables(self, stage: int) -> list[Any]:
        """The variables that train in a stage, in the model's order."""
        with flags.preserved(self.model):
            hidden = {id(v) for v in self.set_flags(stage)}
            trained = list(self.model.trainable_variables)
        return [v for v in trained if id(v) not in hidden]

    def table(
        self,
        epochs: list[str],
        rate: float | None,
        learning_rate_factor: float,
        selects: Callable[[Any], bool] | None = None,
    ) -> Table:
        """The plan.

        Args:
            epochs: When each stage trains, in words.
            rate: The base learning rate of stage 0, if known.
            learning_rate_factor: The factor on it from stage to stage.
            selects: Whether a variable trains when its group does. Defaults to all.
        """
        header = ["stage", "epochs", "trains too", "trainable", "base rate"]
        rows = []
        for stage, when in enumerate(epochs):
            new = self.trained(stage) if stage == 0 else self.trained(stage)[:1]
            names = ", ".join(group.name for group in reversed(new))
            trained = [v for v in self.variables(stage) if not selects or selects(v)]
            row = [str(stage), when, names, f"{flags.count(trained):,}"]
            if rate is not None:
                row.append(f"{rate * learning_rate_factor**stage:.3g}")
            rows.append(row)
        return Table(header if rate is not None else header[:4], rows, right=(0, 3, 4))

    def parameters(self, stage: int) -> int:
        """The number of parameters that train in a stage."""
        return flags.count(self.variables(stage))


def _layers(groups: tuple[LayerGroup, ...]) -> list[Any]:
    return [layer for group in groups for layer in group.layers]
