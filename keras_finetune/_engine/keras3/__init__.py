"""Keras 3 as a lane: `slots` and `rates` on its optimizers, a class per backend."""

from keras_finetune._engine.keras3.backends import running

__all__ = ["running"]
