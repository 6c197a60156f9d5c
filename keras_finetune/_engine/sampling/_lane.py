"""The Keras version and the backend that run, chosen once."""

from __future__ import annotations

from keras_finetune._engine import KERAS_3, backend
from keras_finetune._engine.sampling._interface import Arrays, Lane


def _arrays() -> Arrays:
    if backend() == "jax":
        from keras_finetune._engine.sampling._jax import JaxArrays

        return JaxArrays()
    if backend() == "torch":
        from keras_finetune._engine.sampling._torch import TorchArrays

        return TorchArrays()
    from keras_finetune._engine.sampling._tensorflow import TensorFlowArrays

    return TensorFlowArrays()


def _lane() -> Lane:
    if KERAS_3:
        from keras_finetune._engine.sampling._keras3 import Keras3

        return Keras3(_arrays())
    from keras_finetune._engine.sampling._keras2 import Keras2

    return Keras2(_arrays())


lane: Lane = _lane()
array: Arrays = lane.arrays
