"""The base learning rate of each stage of a `GradualUnfreeze`."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from keras_finetune._engine import fit, optimizer
from keras_finetune._rules import advice
from keras_finetune._rules.stages import Stages


class RatesOfStages:
    """The base rates that stages give to the optimizer in one `fit`.

    Args:
        asks: The callback, with its `learning_rate_factor` or `learning_rates`.
        model: The model.
    """

    def __init__(self, asks: Any, model: Any) -> None:
        self._asks = asks
        self._model = model

    @property
    def given_by(self) -> str | None:
        """The argument by which stages set the optimizer's rate, if any does."""
        if self._asks.learning_rates is not None:
            return "learning_rates"
        scheduled = optimizer.is_scheduled(self._model)
        if self._asks.learning_rate_factor != 1.0 and not scheduled:
            return "learning_rate_factor"
        return None

    def check(self, stages: Stages) -> None:
        """Raise where `learning_rates` cannot be given to the optimizer."""
        asks, model = self._asks, self._model
        if asks.learning_rates is None:
            return
        asks.base_rates(optimizer.learning_rate(model), stages)
        others = [c for c in fit.callbacks_of_fit(model) if getattr(c, "bounds", None)]
        if optimizer.is_scheduled(model) or others:
            raise ValueError(
                "Argument `learning_rates` gives the optimizer the rate of each stage, "
                "which a `LearningRateSchedule` or the `bounds` of `DiscriminativeLR` "
                "give as well. Compile with a number, and use `decay` or "
                f"`multipliers`. Received: {asks!r}"
                + (f" beside {others[0]!r}" if others else "")
            )

    def enter(self, stage: int, before: int | None) -> None:
        """Give the optimizer the rate of a stage.

        Args:
            stage: The stage.
            before: The one that trained before, if any did.
        """
        if self._asks.learning_rates is not None:
            self._set(self._asks.learning_rates[stage])
        elif before is not None:
            self._scale(stage - before)

    def go_back(self, entry: Mapping[str, Any], left: Mapping[str, Any]) -> None:
        """Undo what later stages of an earlier `fit` have done to the rate.

        Args:
            entry: What the history says of the stage to go on in.
            left: The same of the last stage of that `fit`.
        """
        if self._asks.learning_rates is not None:
            self._set(self._asks.learning_rates[entry["stage"]])
        elif optimizer.updates_made(self._model) >= left["updates"]:  # else another one
            self._scale(entry["stage"] - left["stage"])

    def advise_in_mid_run(self, stage: int) -> None:
        """Say that a run that begins in a later stage keeps the optimizer's rate."""
        if self.given_by == "learning_rate_factor":
            rate = optimizer.learning_rate(self._model)
            factor = self._asks.learning_rate_factor
            warnings.warn(advice.of_rate_in_mid_run(stage, rate, factor), stacklevel=5)

    def _set(self, rate: float) -> None:
        # The rates of several optimizers keep their ratios.
        base = optimizer.learning_rate(self._model)
        optimizer.set_learning_rate(
            self._model, lambda own: rate * (own / base) if base else rate
        )

    def _scale(self, stages: int) -> None:
        factor = self._asks.learning_rate_factor**stages
        if factor != 1.0:
            optimizer.set_learning_rate(self._model, lambda rate: rate * factor)
