"""The backend that runs, as a feature cache sees it."""

from __future__ import annotations

from keras_finetune._engine import backend
from keras_finetune._engine.features._interface import Backend


def _running() -> Backend:
    if backend() == "jax":
        from keras_finetune._engine.features._jax import Jax

        return Jax()
    if backend() == "torch":
        from keras_finetune._engine.features._torch import Torch

        return Torch()
    from keras_finetune._engine.features._tensorflow import TensorFlow

    return TensorFlow()


running: Backend = _running()
