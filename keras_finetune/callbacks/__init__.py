"""Callbacks for `model.fit`."""

from keras_finetune.callbacks.discriminative_lr import DiscriminativeLR
from keras_finetune.callbacks.feature_cache import FeatureCache
from keras_finetune.callbacks.gradual_unfreeze import GradualUnfreeze
from keras_finetune.callbacks.train_only import TrainOnly
from keras_finetune.callbacks.weight_norm_logger import WeightNormLogger

__all__ = [
    "DiscriminativeLR",
    "FeatureCache",
    "GradualUnfreeze",
    "TrainOnly",
    "WeightNormLogger",
]
