"""Keras 3: an optimizer's updates, each with a multiplier on its learning rate."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from keras_finetune._engine import backend, keras
from keras_finetune._engine.keras3.slots import State
from keras_finetune._engine.patches import Patch
from keras_finetune._engine.traced import Positive


class ScaledUpdates:
    """Multiplies the rate of each variable's update, and of its weight decay.

    Args:
        optimizer: An optimizer that updates variables.
        multipliers: The multiplier of each variable, by the optimizer's key; 1
            elsewhere.
        factor: Gives, in a step, what all rates are multiplied by as well.
        momentum: The name of the optimizer's momentum, and what gives it in a step.
    """

    def __init__(
        self,
        optimizer: Any,
        multipliers: Mapping[Hashable, float],
        factor: Callable[[], Any] | None = None,
        momentum: tuple[str, Callable[[], Any]] | None = None,
    ) -> None:
        self._optimizer = optimizer
        self._multipliers = multipliers
        self._factor = factor
        self._momentum = momentum
        self._update_all = optimizer._backend_update_step
        self._update_one = optimizer.update_step
        self._decay = optimizer._apply_weight_decay
        self._base_rate = optimizer._get_current_learning_rate
        # The rate under each multiplier, while variables are updated; shared by all
        # threads, since a merged call under MirroredStrategy runs in another one.
        self._rates: dict[float, Any] = {}
        self._decaying: float = 1.0

    def patches(self) -> list[Patch]:
        """Return the patches under which the optimizer's step scales its updates."""
        patched: dict[str, Callable[..., Any]] = {
            "_get_current_learning_rate": self.current_learning_rate
        }
        if self._multipliers:
            patched["_apply_weight_decay"] = self.apply_weight_decay
            if hasattr(self._optimizer, "_parallel_update_step"):
                patched["_backend_update_step"] = self.update_in_parallel
            else:
                patched["_backend_update_step"] = self.update_all
                patched["update_step"] = self.update_step
        patches = [Patch(self._optimizer, *patch) for patch in patched.items()]
        if self._momentum is not None:
            name, value = self._momentum
            update = patched.get("_backend_update_step", self._update_all)
            patches += momentum_patches(self._optimizer, name, value, update)
        return patches

    def update_all(self, grads: Any, variables: Any, learning_rate: Any) -> Any:
        """Update all variables, with one multiplication for each multiplier."""
        # Made before TensorFlow leaves the replica.
        for multiplier in sorted({*map(self._multiplier, variables)} - {1.0}):
            self._rates[multiplier] = keras.ops.multiply(learning_rate, multiplier)
        try:
            return self._update_all(grads, variables, learning_rate)
        finally:
            self._rates.clear()  # tensors of a trace must not outlive it

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> Any:
        """Update one variable at its own rate."""
        rate = self._rates.get(self._multiplier(variable), learning_rate)
        return self._update_one(gradient, variable, rate)

    def update_in_parallel(self, grads: Any, variables: Any, rate: Any) -> None:
        """Update all variables, in one call for each multiplier (PyTorch)."""
        # State without a variable (Nadam's product) must advance once, not per call.
        scalars = list(State(self._optimizer).scalars.values())
        before = [keras.ops.copy(scalar) for scalar in scalars]
        for multiplier, indices in self._by_multiplier(variables).items():
            for scalar, start in zip(scalars, before, strict=True):
                scalar.assign(start)
            self._update_all(
                [grads[i] for i in indices],
                [variables[i] for i in indices],
                rate if multiplier == 1.0 else rate * multiplier,
            )

    def apply_weight_decay(self, variables: Any) -> None:
        """Apply decoupled weight decay, scaled like the updates."""
        variables = list(variables)
        try:
            for multiplier, indices in self._by_multiplier(variables).items():
                self._decaying = multiplier
                self._decay([variables[i] for i in indices])
        finally:
            self._decaying = 1.0
            self._rates.clear()

    def current_learning_rate(self) -> Any:
        """Return the rate of the update, and that weight decay is multiplied by."""
        multiplier = self._decaying
        if multiplier == 1.0:
            return self._current_rate()
        if multiplier not in self._rates:
            self._rates[multiplier] = keras.ops.multiply(
                self._current_rate(), multiplier
            )
        return self._rates[multiplier]

    def _current_rate(self) -> Any:
        rate = self._base_rate()
        if self._factor is None:
            return rate
        return keras.ops.multiply(rate, self._factor())

    def _multiplier(self, variable: Any) -> float:
        return self._multipliers.get(self._optimizer._var_key(variable), 1.0)

    def _by_multiplier(self, variables: Sequence[Any]) -> dict[float, list[int]]:
        parts: dict[float, list[int]] = {}
        for i, variable in enumerate(variables):
            parts.setdefault(self._multiplier(variable), []).append(i)
        return parts


def momentum_patches(
    optimizer: Any, name: str, value: Callable[[], Any], update: Callable[..., Any]
) -> list[Patch]:
    """Return patches under which an optimizer's momentum is another at each update.

    Args:
        optimizer: An optimizer that updates variables.
        name: What it calls its momentum.
        value: Gives the momentum in a step.
        update: Updates all variables.
    """

    def with_momentum(grads: Any, variables: Any, learning_rate: Any) -> Any:
        # Not put back here, but where the step ends: a merged call under
        # MirroredStrategy begins once all replicas are here, and runs after it.
        optimizer.__dict__[name] = known_to_be_positive(value())
        return update(grads, variables, learning_rate)

    as_it_is = Patch(optimizer, name, getattr(optimizer, name))
    return [as_it_is, Patch(optimizer, "_backend_update_step", with_momentum)]


def known_to_be_positive(momentum: Any) -> Any:
    """Return a momentum that optimizers may compare with 0 while they are traced."""
    return momentum if backend() == "torch" else Positive(momentum)


class Table(keras.optimizers.schedules.LearningRateSchedule):
    """A schedule that reads rates from a table, one a step.

    Args:
        rates: The rates; the last one stays.
        start: The step of the first one.
    """

    def __init__(self, rates: npt.NDArray[np.float32], start: int) -> None:
        self._rates = rates
        self._start = start

    def __call__(self, step: Any) -> Any:
        """Return the rate of a step."""
        position = keras.ops.cast(step, "int32") - self._start
        position = keras.ops.clip(position, 0, len(self._rates) - 1)
        return keras.ops.take(keras.ops.convert_to_tensor(self._rates), position)
