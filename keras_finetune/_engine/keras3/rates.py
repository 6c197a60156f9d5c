"""Keras 3: an optimizer's updates, each with a multiplier on its learning rate."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from keras_finetune._engine import backend, keras
from keras_finetune._engine.keras3.slots import State
from keras_finetune._engine.lane import Scaling
from keras_finetune._engine.patches import Patch
from keras_finetune._engine.traced import Positive

# On a rate: a multiplier, and what gives the factor of a bias correction in a step.
_Scale: TypeAlias = tuple[float, Callable[[], Any] | None]
_AS_IT_IS: _Scale = (1.0, None)


class ScaledUpdates:
    """Multiplies the rate of each variable's update, and of its weight decay.

    Args:
        optimizer: An optimizer that updates variables.
        scaling: What is multiplied.
        momentum: The name of the optimizer's momentum; `None` if it stays as it is.
    """

    def __init__(self, optimizer: Any, scaling: Scaling, momentum: str | None) -> None:
        self._optimizer = optimizer
        self._scaling = scaling
        self._momentum = momentum
        self._update_all = optimizer._backend_update_step
        self._update_one = optimizer.update_step
        self._decay = optimizer._apply_weight_decay
        self._base_rate = optimizer._get_current_learning_rate
        # The rate under each scale, while variables are updated; shared by all
        # threads, since a merged call under MirroredStrategy runs in another one.
        self._rates: dict[_Scale, Any] = {}
        self._decaying: float = 1.0

    def patches(self) -> list[Patch]:
        """Return the patches under which the optimizer's step scales its updates."""
        patched: dict[str, Callable[..., Any]] = {
            "_get_current_learning_rate": self.current_learning_rate
        }
        if self._scaling.multipliers or self._scaling.corrections:
            patched["_apply_weight_decay"] = self.apply_weight_decay
            if hasattr(self._optimizer, "_parallel_update_step"):
                patched["_backend_update_step"] = self.update_in_parallel
            else:
                patched["_backend_update_step"] = self.update_all
                patched["update_step"] = self.update_step
        patches = [Patch(self._optimizer, *patch) for patch in patched.items()]
        value = self._scaling.momentum
        if self._momentum is not None and value is not None:
            update = patched.get("_backend_update_step", self._update_all)
            patches += momentum_patches(self._optimizer, self._momentum, value, update)
        return patches

    def update_all(self, grads: Any, variables: Any, learning_rate: Any) -> Any:
        """Update all variables, with one multiplication for each scale."""
        # Made before TensorFlow leaves the replica.
        for scale in dict.fromkeys(map(self._scale, variables)):
            if scale != _AS_IT_IS:
                self._rates[scale] = _times(learning_rate, scale)
        try:
            return self._update_all(grads, variables, learning_rate)
        finally:
            self._rates.clear()  # tensors of a trace must not outlive it

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> Any:
        """Update one variable at its own rate."""
        rate = self._rates.get(self._scale(variable), learning_rate)
        return self._update_one(gradient, variable, rate)

    def update_in_parallel(self, grads: Any, variables: Any, rate: Any) -> None:
        """Update all variables, in one call for each scale (PyTorch)."""
        # State without a variable (Nadam's product) must advance once, not per call.
        scalars = list(State(self._optimizer).scalars.values())
        before = [keras.ops.copy(scalar) for scalar in scalars]
        for scale, indices in _positions(map(self._scale, variables)).items():
            for scalar, start in zip(scalars, before, strict=True):
                scalar.assign(start)
            self._update_all(
                [grads[i] for i in indices],
                [variables[i] for i in indices],
                rate if scale == _AS_IT_IS else _times(rate, scale),
            )

    def apply_weight_decay(self, variables: Any) -> None:
        """Apply decoupled weight decay, scaled like the updates."""
        variables = list(variables)
        try:
            multipliers = map(self._multiplier, variables)
            for multiplier, indices in _positions(multipliers).items():
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
        scale = (multiplier, None)
        if scale not in self._rates:
            self._rates[scale] = _times(self._current_rate(), scale)
        return self._rates[scale]

    def _current_rate(self) -> Any:
        rate = self._base_rate()
        if self._scaling.factor is None:
            return rate
        return keras.ops.multiply(rate, self._scaling.factor())

    def _multiplier(self, variable: Any) -> float:
        key = self._optimizer._var_key(variable)
        return self._scaling.multipliers.get(key, 1.0)

    def _scale(self, variable: Any) -> _Scale:
        key = self._optimizer._var_key(variable)
        return self._multiplier(variable), self._scaling.corrections.get(key)


def _times(rate: Any, scale: _Scale) -> Any:
    multiplier, correction = scale
    if multiplier != 1.0:
        rate = keras.ops.multiply(rate, multiplier)
    return rate if correction is None else keras.ops.multiply(rate, correction())


def _positions(values: Iterable[Any]) -> dict[Any, list[int]]:
    """Return where each value is."""
    found: dict[Any, list[int]] = {}
    for i, value in enumerate(values):
        found.setdefault(value, []).append(i)
    return found


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
