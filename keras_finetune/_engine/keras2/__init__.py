"""Keras 2 as a lane: `slots`, `rates` and `flags`, and the class that joins them."""

from keras_finetune._engine.keras2.base import Keras2


def running() -> Keras2:
    """Return the lane of Keras 2."""
    return Keras2()


__all__ = ["running"]
