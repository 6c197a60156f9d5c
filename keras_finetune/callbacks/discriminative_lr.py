"""A learning rate for each group of layers, on the user's own optimizer."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

from keras_finetune import _checks
from keras_finetune._engine import fit, keras, loading, optimizer, session
from keras_finetune._engine.structure import (
    numbered,
    variable_key,
    variable_path,
    weights,
)
from keras_finetune._groups.layer_groups import Groups, LayerGroups, check_groups
from keras_finetune._rules import advice
from keras_finetune._rules import multipliers as _multipliers
from keras_finetune._rules.sharing import shared_groups, warn_of_other_groups
from keras_finetune._schedule import epochs as _epochs
from keras_finetune.callbacks._callback import FineTuningCallback

# The multipliers of the body's lowest and highest group, below a head at 1.
_BODY = (0.03, 0.3)


@keras.saving.register_keras_serializable(package="keras_finetune")
class DiscriminativeLR(FineTuningCallback):
    """Multiply the learning rate of each group of layers by a factor of its own.

    The rate of the update itself is multiplied, not the gradient, so it is exact for
    every optimizer, adaptive or not; decoupled weight decay is multiplied by the same
    factor, as PyTorch's parameter groups do. Global-norm clipping, averages of
    weights, gradient accumulation, loss scaling, schedules and every callback that
    changes the learning rate keep their meaning for the base rate. A factor of 0
    freezes a variable. It acts on the compiled optimizer while `fit` runs and leaves
    nothing behind: not after `fit`, not after an exception, not in a saved model.

    At most one of `decay`, `multipliers` and `bounds` says what the factors are.
    Without any the head trains at the base rate, the top of the body at 0.3 of it, and
    its bottom at 0.03, however many groups there are.

    Args:
        decay: A number >= 1: the group k below the top gets the factor `decay**-k`.
            ULMFiT uses 2.6; the `layer_decay=0.75` of timm is `decay=1/0.75`.
        multipliers: The factors themselves: a list with one for each group, bottom to
            top; a dictionary from layer name, group name, or regular expression on
            the path of a variable to its factor, where the longest key that matches
            wins and 1 holds elsewhere; or a callable from a variable to its factor.
        bounds: `(low, high)`: learning rates spread geometrically from `low` at the
            bottom to `high` at the top, as fastai's `slice(low, high)`, whatever the
            rate of the optimizer, which stays as it is. Not with a schedule, under
            which they would not be these rates.
        groups: The groups of layers: `"auto"`, an integer, a list, or a
            `LayerGroups`; see `layer_groups`. Defaults to those of another callback in
            the same `fit`, else to the head and the body in up to four.
        log: Whether to write the rate of each group into the logs at each epoch's end,
            as `learning_rate/<group>`, for the callbacks after this one; the progress
            bar does not show it. A frozen group has the rate 0; a group whose
            variables differ is logged with its highest rate.

    Raises:
        TypeError: If an argument has the wrong type, or the updates of the optimizer
            cannot be scaled.
        ValueError: If an argument has a wrong value, arguments contradict each other,
            or, before the first epoch, if they do not go with the model.

    Example:

    >>> callback = DiscriminativeLR(decay=2.6)
    >>> callback
    DiscriminativeLR(decay=2.6)

    References:
        - [Howard and Ruder, 2018](https://arxiv.org/abs/1801.06146), section 3.1
    """

    adds = ("learning_rate",)

    def __init__(
        self,
        decay: float | None = None,
        *,
        multipliers: (
            Sequence[float] | Mapping[str, float] | Callable[[Any], float] | None
        ) = None,
        bounds: tuple[float, float] | None = None,
        groups: Groups | None = None,
        log: bool = True,
    ) -> None:
        super().__init__()
        self.decay = None if decay is None else _multipliers.check_decay(decay)
        self.multipliers = _multipliers.check_multipliers(multipliers)
        self.bounds = _multipliers.check_bounds(bounds)
        self.groups = None if groups is None else check_groups(groups)
        self.log = _checks.boolean("log", log)
        given = {"decay": decay, "multipliers": multipliers, "bounds": bounds}
        given = {name: value for name, value in given.items() if value is not None}
        if len(given) > 1:
            raise ValueError(
                "Only one of `decay`, `multipliers` and `bounds` can be given. "
                "Received: " + ", ".join(f"{k}={v!r}" for k, v in given.items())
            )

    @property
    def group_count(self) -> int | None:
        """How many groups there must be, where the arguments tell."""
        multipliers = self.multipliers
        return len(multipliers) if isinstance(multipliers, list) else None

    def factors(self, model: keras.Model) -> dict[str, float]:
        """Return the factor of each variable of a model, by its path.

        Variables with equal paths are told apart by `#2`, `#3` and so on. There are no
        neighbours outside `fit`: with `groups=None` these are the factors of this
        callback's own groups.

        Args:
            model: A built model.
        """
        groups = shared_groups(model, self, ())
        factors = self.by_variable(model, groups)
        variables = [v for group in groups for v in group.variables]
        paths = numbered(map(variable_path, variables))
        return {
            path: factors[variable_key(v)]
            for path, v in zip(paths, variables, strict=True)
        }

    def by_variable(self, model: Any, groups: LayerGroups) -> dict[Hashable, float]:
        """Return the factor of every weight of a model, by `variable_key`."""
        n = len(groups)
        multipliers: Any = self.multipliers
        if self.decay is not None:
            multipliers = _multipliers.powers(self.decay, n)
        elif self.bounds is not None:
            multipliers = self._of_bounds(model, n)
        elif multipliers is None:
            multipliers = _epochs.body_and_head(*_BODY, n)
        return _multipliers.by_variable(model, groups, multipliers)

    def _of_bounds(self, model: Any, n: int) -> list[float]:
        low, high = self.bounds or (1.0, 1.0)
        spread = _epochs.geometric(low, high, n)
        if getattr(model, "optimizer", None) is None:
            return spread
        base = optimizer.learning_rate(model) if self._run is None else self._run.base
        if optimizer.is_scheduled(model) or base == 0.0:
            raise ValueError(
                "Argument `bounds` asks for rates, which an optimizer with a schedule, "
                "or with the rate 0, cannot give: use `decay` or `multipliers`, which "
                f"multiply its rate. Received: bounds={self.bounds}, while the rate of "
                f"the optimizer is {base:.3g} now"
            )
        return [multiplier * high / base for multiplier in spread]

    # --- the hooks -------------------------------------------------------------------

    def _prepare(self, model: Any) -> None:
        self.refuse_another(fit.callbacks_of_fit(model))
        self._run = _Run(model, self.bounds is not None)
        loading.await_file(model, self, self._fit_file)

    def on_train_begin(self, logs: Any = None) -> None:
        optimizer.check(self.model, scale=True)
        self._begin()
        optimizer.warn_inexact(self.model)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        loading.await_no_file(self)
        session.join(self.model).begin()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        running = session.join(self.model)
        if self.log and logs is not None and running.is_used():
            logs.update(self._rates(running))

    def on_train_end(self, logs: Any = None) -> None:
        session.join(self.model).leave(self)

    def _begin(self) -> session.Session:
        model, run = self.model, self._run
        neighbours = fit.callbacks_of_fit(model)
        if run.groups is None:
            run.groups = shared_groups(model, self, neighbours)
            warn_of_other_groups(model, self, run.groups, neighbours)
            self._warn_of_multipliers(run.groups)
        factors = self.by_variable(model, run.groups)
        running = session.join(model)
        multipliers = {k: f for k, f in factors.items() if f not in (0.0, 1.0)}
        frozen = [v for v in weights(model) if factors[variable_key(v)] == 0.0]
        running.demand(self, multipliers=multipliers, frozen=frozen)
        running.log_quietly(*_keys(run.groups))
        return running

    def _fit_file(self, count: int) -> None:
        """Make the optimizer fit a file that was saved beside factors of 0."""
        optimizer.check(self.model, scale=True)
        self._begin().apply()

    def _warn_of_multipliers(self, groups: LayerGroups) -> None:
        factors = self.by_variable(self.model, groups)
        highest = {
            group.name: max(factors[variable_key(v)] for v in group.variables)
            for group in groups
        }
        listed = self.multipliers if isinstance(self.multipliers, list) else [1.0]
        for said in (
            advice.of_tiny_multipliers(highest),
            advice.of_multipliers_upside_down(listed),
        ):
            if said is not None:
                warnings.warn(said, stacklevel=4)

    def _rates(self, running: session.Session) -> dict[str, float]:
        """Return the highest rate in each group, that of the last update."""
        groups, factor = self._run.groups, running.factor()
        trained = running.trained()
        base = optimizer.learning_rates(self.model, trained)
        rates = {
            variable_key(v): rate * factor * running.multiplier(v)
            for v, rate in zip(trained, base, strict=True)
        }
        return {
            key: max(
                (rates.get(variable_key(v), 0.0) for v in group.variables), default=0.0
            )
            for key, group in zip(_keys(groups), groups, strict=True)
        }


class _Run:
    """What belongs to one `fit`.

    Attributes:
        base: The base learning rate before a backup is loaded, if it is needed.
        groups: The groups, once the model has weights.
    """

    def __init__(self, model: Any, needs_base: bool) -> None:
        has_rate = needs_base and getattr(model, "optimizer", None) is not None
        self.base = optimizer.learning_rate(model) if has_rate else 0.0
        self.groups: LayerGroups | None = None


def _keys(groups: LayerGroups) -> list[str]:
    return [f"learning_rate/{group.key}" for group in groups]
