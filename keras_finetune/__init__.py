"""Fine-tuning for Keras, inside one `model.fit`."""

from keras_finetune import layers, optimizers, rates, uncertainty
from keras_finetune._groups.layer_groups import LayerGroup, LayerGroups, layer_groups
from keras_finetune._summary import summary
from keras_finetune.callbacks import (
    DiscriminativeLR,
    FeatureCache,
    FlatCosine,
    GradualUnfreeze,
    OneCycle,
    SlantedTriangular,
    TrainOnly,
    Warmup,
    WeightNormLogger,
)
from keras_finetune.features import CachedFeatures, cache_features
from keras_finetune.layers import MCDropout, convert_dropout
from keras_finetune.plotting import plot_history
from keras_finetune.rates import RateSearch, find_learning_rate
from keras_finetune.recipes import fine_tune
from keras_finetune.uncertainty import MCPrediction, mc_predict

__version__ = "0.1.0"

__all__ = [
    "CachedFeatures",
    "DiscriminativeLR",
    "FeatureCache",
    "FlatCosine",
    "GradualUnfreeze",
    "LayerGroup",
    "LayerGroups",
    "MCDropout",
    "MCPrediction",
    "OneCycle",
    "RateSearch",
    "SlantedTriangular",
    "TrainOnly",
    "Warmup",
    "WeightNormLogger",
    "cache_features",
    "convert_dropout",
    "find_learning_rate",
    "fine_tune",
    "layer_groups",
    "layers",
    "mc_predict",
    "optimizers",
    "plot_history",
    "rates",
    "summary",
    "uncertainty",
]
