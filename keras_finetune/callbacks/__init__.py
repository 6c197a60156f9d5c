"""Callbacks for `model.fit`."""

from keras_finetune.callbacks.discriminative_lr import DiscriminativeLR
from keras_finetune.callbacks.feature_cache import FeatureCache
from keras_finetune.callbacks.flat_cosine import FlatCosine
from keras_finetune.callbacks.gradual_unfreeze import GradualUnfreeze
from keras_finetune.callbacks.one_cycle import OneCycle
from keras_finetune.callbacks.slanted_triangular import SlantedTriangular
from keras_finetune.callbacks.train_only import TrainOnly
from keras_finetune.callbacks.warmup import Warmup
from keras_finetune.callbacks.weight_norm_logger import WeightNormLogger

__all__ = [
    "DiscriminativeLR",
    "FeatureCache",
    "FlatCosine",
    "GradualUnfreeze",
    "OneCycle",
    "SlantedTriangular",
    "TrainOnly",
    "Warmup",
    "WeightNormLogger",
]
