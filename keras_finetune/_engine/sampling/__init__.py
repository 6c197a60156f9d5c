"""Sampling a model with its random layers active, on every Keras and backend."""

from keras_finetune._engine.sampling._inputs import batches
from keras_finetune._engine.sampling._sampler import (
    Draws,
    Sampler,
    check,
    pack,
    progress,
    sampler,
)

__all__ = ["Draws", "Sampler", "batches", "check", "pack", "progress", "sampler"]
