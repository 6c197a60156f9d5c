"""A learning rate for each group of layers, on the user's own optimizer."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

from keras_finetune import _checks
from keras_finetune._engine import keras, loading, optimizer, session
from keras_finetune._engine.structure import (
    numbered,
    variable_key,
    variable_path,
    weights,
)
from keras_finetune._groups.layer_groups import LayerGroups, layer_groups
from keras_finetune._rules import multipliers as _multipliers

_DECAY = 2.6


class DiscriminativeLR(keras.callbacks.Callback):
    """Multiplies the learning rate of each group of layers by a factor of its own.

    The rate of the update itself is multiplied, not the gradient, so it is exact for
    every optimizer, adaptive or not; decoupled weight decay is multiplied by the same
    factor, as PyTorch's parameter groups do. Global-norm clipping, averages of
    weights, gradient accumulation, loss scaling, schedules and every callback that
    changes the learning rate keep their meaning for the base rate. A factor of 0
    freezes a variable. It acts on the compiled optimizer while `fit` runs and leaves
    nothing behind: not after `fit`, not after an exception, not in a saved model.

    One of `decay`, `multipliers` and `bounds` says what the factors are.

    Args:
        decay: The group k below the top gets the factor `decay**-k`. Defaults to 2.6,
            the value of ULMFiT.
        multipliers: The factors themselves: a list with one for each group, bottom to
            top; a dictionary from layer name, group name, or regular expression on
            the path of a variable to its factor, where the longest key that matches
            wins and 1 holds elsewhere; or a callable from a variable to its factor.
        bounds: `(low, high)`: rates spread geometrically from `low` at the bottom to
            `high` at the top, as fastai's `slice(low, high)`. The base rate is `high`:
            an optimizer that has not taken a step yet is set to it, unless it has a
            schedule; from then on only the ratio counts.
        groups: The groups of layers: `"auto"`, an integer, a list, or a
            `LayerGroups`; see `layer_groups`.
        log: Whether to write the rate of each group into the logs at each epoch's end,
            as `learning_rate/<group>`. A frozen group has the rate 0; a group whose
            variables differ is logged with its highest rate.

    Raises:
        TypeError: If an argument has the wrong type, or the optimizer is of a make
            whose updates cannot be scaled.
        ValueError: If an argument has a wrong value, arguments contradict each other,
            or, before the first epoch, if they do not go with the model.

    Example:

    >>> callback = DiscriminativeLR(decay=2.0)
    >>> callback.decay
    2.0

    References:
        - [Howard and Ruder, 2018](https://arxiv.org/abs/1801.06146), section 3.1
    """

    def __init__(
        self,
        decay: float = _DECAY,
        multipliers: Any = None,
        bounds: tuple[float, float] | None = None,
        groups: Any = "auto",
        log: bool = True,
    ) -> None:
        super().__init__()
        self.decay = _checks.number("decay", decay, 0.0, exclusive=True)
        self.multipliers = _multipliers.check_multipliers(multipliers)
        self.bounds = _multipliers.check_bounds(bounds)
        self.groups = groups
        self.log = _checks.choice("log", log, (True, False))
        given = {
            "decay": None if self.decay == _DECAY else decay,
            "multipliers": multipliers,
            "bounds": bounds,
        }
        given = {name: value for name, value in given.items() if value is not None}
        if len(given) > 1:
            raise ValueError(
                "Only one of `decay`, `multipliers` and `bounds` can be given. "
                "Received: " + ", ".join(f"{k}={v!r}" for k, v in given.items())
            )
        self._groups: LayerGroups | None = None

    def factors(self, model: Any) -> dict[str, float]:
        """The factor of each variable of a model, by its path.

        Variables with equal paths are told apart by `#2`, `#3` and so on.
        """
        groups = layer_groups(model, self.groups)
        factors = self._by_variable(model, groups)
        variables = [v for group in groups for v in group.variables]
        paths = numbered(map(variable_path, variables))
        return {
            path: factors[variable_key(v)]
            for path, v in zip(paths, variables, strict=True)
        }

    def set_model(self, model: Any) -> None:
        super().set_model(model)
        loading.await_file(model, self, self._fit_file)

    def on_train_begin(self, logs: Any = None) -> None:
        model = self.model
        optimizer.check(model, scale=True)
        self._begin()
        optimizer.warn_inexact(model)
        if self.bounds is not None and optimizer.steps_taken(model) == 0:
            high = self.bounds[1]
            optimizer.set_learning_rate(model, lambda rate: high)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        loading.await_no_file(self)
        session.join(self.model).begin()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if self.log and logs is not None and self._groups is not None:
            logs.update(self._rates(self._groups))

    def on_train_end(self, logs: Any = None) -> None:
        session.join(self.model).leave(self)

    def _begin(self) -> session.Session:
        model = self.model
        self._groups = layer_groups(model, self.groups)
        factors = self._by_variable(model, self._groups)
        running = session.join(model)
        multipliers = {k: f for k, f in factors.items() if f not in (0.0, 1.0)}
        frozen = [v for v in weights(model) if factors[variable_key(v)] == 0.0]
        running.demand(self, multipliers=multipliers, frozen=frozen)
        return running

    def _fit_file(self, count: int) -> None:
        """Makes the optimizer fit a file that was saved beside factors of 0."""
        self._begin().apply()

    def _rates(self, groups: LayerGroups) -> dict[str, float]:
        """The highest rate in each group, as it stands now."""
        running = session.join(self.model)
        trained = running.trained()
        base = optimizer.learning_rates(self.model, trained)
        rates = {
            variable_key(v): rate * running.multiplier(v)
            for v, rate in zip(trained, base, strict=True)
        }
        return {
            f"learning_rate/{group.name}": max(
                (rates.get(variable_key(v), 0.0) for v in group.variables), default=0.0
            )
            for group in groups
        }

    def _by_variable(self, model: Any, groups: LayerGroups) -> dict[Hashable, float]:
        return _multipliers.by_variable(
            model, groups, self.decay, self.multipliers, self.bounds
        )
