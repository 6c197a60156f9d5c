"""Keras 3 on each of its backends: what only one of them needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import numpy.typing as npt

from keras_finetune._engine import backend, gradients, keras
from keras_finetune._engine.keras3.base import Keras3


class TensorFlow(Keras3):
    """Keras 3 on TensorFlow."""

    def new_train_function(self, model: Any) -> Callable[..., Any]:
        return gradients.traced_on_purpose(super().new_train_function(model))

    def around_step(self) -> AbstractContextManager[Any]:
        return gradients.forgotten()


class Jax(Keras3):
    """Keras 3 on JAX, where `fit` keeps the weights outside of their variables."""

    def pull_state(self, model: Any) -> None:
        model.jax_state_sync()

    def hold_state(self, model: Any) -> None:
        # `fit` takes them from their variables for the first step of an epoch, and ends
        # with the last state it knows: none, or one that was taken apart by the flags
        # of before.
        kinds = ("trainable", "non_trainable", "optimizer", "metrics")
        names = [f"{kind}_variables" for kind in kinds]
        values = model._get_jax_state(**dict.fromkeys(names, True))
        model._jax_state = dict(zip(names, values, strict=True))

    def new_train_function(self, model: Any) -> Callable[..., Any]:
        self._make_again(model, "train")
        # The next step starts from the variables.
        self.pull_state(model)
        model._jax_state_synced = True
        if hasattr(model, "_record_training_state_sharding_spec"):
            # Keras 3.8 asks at each step for the shardings it found when `fit` began.
            model._record_training_state_sharding_spec()
        function: Callable[..., Any] = model.train_function
        return function

    def read_by_evaluation(self, model: Any) -> list[Any]:
        # Its trace takes the weights apart into trainable and frozen.
        return self.trained(model)

    def renew_evaluation(self, model: Any) -> None:
        # The step of `predict` is a new function whenever Keras makes it.
        self._make_again(model, "test")
        model.predict_function = None

    def data_of_fit(self, variables_of_fit: Mapping[str, Any]) -> list[tuple[Any, str]]:
        return _read_by_keras(super().data_of_fit(variables_of_fit))


class Torch(Keras3):
    """Keras 3 on PyTorch."""

    def constant(self, array: npt.NDArray[np.float32]) -> Any:
        # Else every step would carry the array to the device.
        return keras.ops.convert_to_tensor(array)

    def has_gradient(self, variable: Any) -> bool:
        # A flag of PyTorch's own, which `requires_grad_` sets without Keras.
        return bool(variable._value.requires_grad)

    def new_train_function(self, model: Any) -> Callable[..., Any]:
        if "ddp_model" in model.__dict__:
            # PyTorch averages over the processes what trained when this was made (by
            # Keras 3.16, or by a model's own `make_train_function`).
            model.__dict__["ddp_model"] = None
        return super().new_train_function(model)

    def data_of_fit(self, variables_of_fit: Mapping[str, Any]) -> list[tuple[Any, str]]:
        return _read_by_keras(super().data_of_fit(variables_of_fit))


def _read_by_keras(methods: list[tuple[Any, str]]) -> list[tuple[Any, str]]:
    """Add what `fit` reads batches from, where no compiled step does so."""
    return [*methods, *((iterator, "_get_iterator") for iterator, _ in methods)]


def running() -> Keras3:
    """Return the lane of the backend that runs."""
    kinds = {"jax": Jax, "tensorflow": TensorFlow, "torch": Torch}
    return kinds[backend()]()
