"""Keras 2: an optimizer's updates, each with a multiplier on its learning rate."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from keras_finetune._engine import keras
from keras_finetune._engine.keras2.slots import is_legacy, key_of
from keras_finetune._engine.lane import Scaling
from keras_finetune._engine.patches import Patch, patched
from keras_finetune._engine.traced import Positive


def rate_of(inner: Any) -> Any:
    """Return what an optimizer's rate is: a variable, a schedule or a callable."""
    return inner._hyper["learning_rate"] if is_legacy(inner) else inner._learning_rate


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
        self._momentum = None
        if momentum is not None and scaling.momentum is not None:
            self._momentum = momentum, scaling.momentum
        # A trace computes each result once; they live as long as the patches.
        self._results: dict[Hashable, Any] = {}

    def multiplier(self, variable: Any) -> float:
        """Return the multiplier of a variable."""
        return self._scaling.multipliers.get(key_of(variable), 1.0)

    def correction(self, variable: Any) -> Callable[[], Any] | None:
        """Return what gives the factor of a variable's bias correction, if any."""
        return self._scaling.corrections.get(key_of(variable))

    def leaves_alone(self, variable: Any) -> bool:
        """Return whether a variable is updated at the optimizer's own rate."""
        moves = self._scaling.factor is not None or self._momentum is not None
        scaled = self.multiplier(variable) != 1.0 or self.correction(variable)
        return not (moves or scaled)

    def scaled(self, rate: Any, multiplier: float) -> Any:
        """Return a rate times the factor of the update and a multiplier."""
        if self._scaling.factor is not None:
            rate = rate * self._scaling.factor()
        return rate if multiplier == 1.0 else rate * multiplier

    def once(self, key: Hashable, compute: Callable[[], Any]) -> Any:
        """Return a result that is computed once in each graph, and always eagerly."""
        if tf.executing_eagerly():
            return compute()
        # XLA compiles updates as functions of their own, which may not see tensors of
        # the graph around them.
        key = (id(tf.compat.v1.get_default_graph()), key)
        if key not in self._results:
            self._results[key] = compute()
        return self._results[key]


class NewStyle(ScaledUpdates):
    """The updates of an optimizer of the new generation."""

    def __init__(self, optimizer: Any, scaling: Scaling, momentum: str | None) -> None:
        super().__init__(optimizer, scaling, momentum)
        self._update_one = optimizer.update_step

    def patches(self) -> list[Patch]:
        """Return the patches under which the optimizer's step scales its updates."""
        optimizer = self._optimizer

        # The class's own keeps traces that know nothing of our rates.
        @tf.function(jit_compile=True)
        def update_step_xla(gradient: Any, variable: Any, key: Any) -> Any:
            del key
            return optimizer._update_step(gradient, variable)

        return [
            Patch(optimizer, "update_step", self.update_step),
            Patch(optimizer, "_apply_weight_decay", self.apply_weight_decay),
            Patch(optimizer, "_update_step_xla", update_step_xla),
        ]

    def update_step(self, gradient: Any, variable: Any) -> Any:
        """Update one variable at its own rate."""
        if self.leaves_alone(variable):
            return self._update_one(gradient, variable)
        # A tensor in the place of variable or schedule: the property returns it.
        rate, correction = self._rate(variable), self.correction(variable)
        if correction is not None:
            rate = rate * self.once(correction, correction)
        patches = [Patch(self._optimizer, "_learning_rate", rate)]
        if self._momentum is not None:
            name, value = self._momentum
            momentum = Positive(self.once(name, value))
            patches.append(Patch(self._optimizer, name, momentum))
        with patched(patches):
            return self._update_one(gradient, variable)

    def apply_weight_decay(self, variables: Any) -> None:
        """Apply decoupled weight decay, scaled like the updates."""
        # Written out, not called with another rate: under MirroredStrategy the decay
        # is merged into another thread, where an exchanged rate would leak.
        optimizer = self._optimizer
        if optimizer.weight_decay is None:
            return

        def merged(distribution: Any, variables: Any) -> None:
            for variable in variables:
                distribution.extended.update(variable, self._decay, group=False)

        tf.__internal__.distribute.interim.maybe_merge_call(
            merged, optimizer._distribution_strategy, variables
        )

    def _decay(self, variable: Any) -> None:
        optimizer = self._optimizer
        if optimizer._use_weight_decay(variable):
            rate = tf.cast(self._rate(variable), variable.dtype)
            weight_decay = tf.cast(optimizer.weight_decay, variable.dtype)
            variable.assign_sub(variable * weight_decay * rate)

    def _rate(self, variable: Any) -> Any:
        """Return the rate of a variable, but for a bias correction."""
        multiplier, optimizer = self.multiplier(variable), self._optimizer
        if self.leaves_alone(variable):
            return optimizer.learning_rate
        return self.once(
            multiplier, lambda: self.scaled(optimizer.learning_rate, multiplier)
        )


class Legacy(ScaledUpdates):
    """The updates of an optimizer of the older generation, and of TFA's."""

    def __init__(self, optimizer: Any, scaling: Scaling, momentum: str | None) -> None:
        super().__init__(optimizer, scaling, momentum)
        # TFA's decoupled decay is not multiplied by the rate: it has one of its own,
        # and goes with the group, as in PyTorch's parameter groups.
        self._scaled = ["learning_rate"]
        if hasattr(optimizer, "_decay_weights_op"):
            self._scaled.append("weight_decay")

    def patches(self) -> list[Patch]:
        """Return the patches under which the optimizer's step scales its updates."""
        return [self._patch("_resource_apply_dense"), self._sparse_patch()]

    def _patch(self, name: str) -> Patch:
        original = getattr(self._optimizer, name)
        if not _takes_state(original):

            def stateless(grad: Any, var: Any, *rest: Any) -> Any:
                return self._apply(original, var, (grad, var, *rest), {})

            return Patch(self._optimizer, name, stateless)

        # Keras looks up once, and remembers, whether `apply_state` is among the named
        # arguments; where it is not, each update computes that state for itself.
        def dense(grad: Any, var: Any, apply_state: Any = None) -> Any:
            state = {"apply_state": apply_state}
            return self._apply(original, var, (grad, var), state)

        return Patch(self._optimizer, name, dense)

    def _sparse_patch(self) -> Patch:
        name = "_resource_apply_sparse"
        original = getattr(self._optimizer, name)
        if not _takes_state(original):
            return self._patch(name)

        def sparse(grad: Any, var: Any, indices: Any, apply_state: Any = None) -> Any:
            state = {"apply_state": apply_state}
            return self._apply(original, var, (grad, var, indices), state)

        return Patch(self._optimizer, name, sparse)

    def _apply(
        self,
        original: Callable[..., Any],
        var: Any,
        arguments: tuple[Any, ...],
        state: dict[str, Any],
    ) -> Any:
        scale = self.multiplier(var), self.correction(var)
        if self.leaves_alone(var):
            return original(*arguments, **state)
        with self._hyper_scaled(*scale):
            if state:
                key = ("state", scale, var.device, var.dtype.base_dtype)
                state["apply_state"] = self.once(key, lambda: self._prepare(var))
            return original(*arguments, **state)

    @contextmanager
    def _hyper_scaled(
        self, multiplier: float, correction: Callable[[], Any] | None
    ) -> Iterator[None]:
        hyper = self._optimizer._hyper
        before = dict(hyper)

        def scale() -> dict[str, Any]:
            rates = {n: self.scaled(self._value(n), multiplier) for n in self._scaled}
            if correction is not None:
                rates["learning_rate"] = rates["learning_rate"] * correction()
            return rates

        scaled = self.once(("hyper", multiplier, correction), scale)
        try:
            hyper.update(scaled)
            if self._momentum is not None:
                name, value = self._momentum
                hyper[name] = self.once(name, value)
            yield
        finally:
            hyper.update(before)

    def _value(self, name: str) -> Any:
        value = self._optimizer._hyper[name]
        if isinstance(value, keras.optimizers.schedules.LearningRateSchedule):
            return value(self._optimizer.iterations)
        if callable(value) and not isinstance(value, tf.Variable):
            return value()
        return value

    def _prepare(self, variable: Any) -> Any:
        key = (variable.device, variable.dtype.base_dtype)
        state: dict[Any, Any] = {key: {}}
        self._optimizer._prepare_local(*key, state)
        return state


def _takes_state(function: Callable[..., Any]) -> bool:
    return "apply_state" in inspect.signature(function).parameters


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
        position = tf.cast(step, "int32") - self._start
        position = tf.clip_by_value(position, 0, len(self._rates) - 1)
        return tf.gather(tf.constant(self._rates), position)
