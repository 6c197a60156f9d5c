"""Callbacks for `model.fit`."""

from keras_finetune.callbacks.discriminative_lr import DiscriminativeLR
from keras_finetune.callbacks.gradual_unfreeze import GradualUnfreeze

__all__ = ["DiscriminativeLR", "GradualUnfreeze"]
