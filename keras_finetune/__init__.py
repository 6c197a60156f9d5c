"""Fine-tuning for Keras, inside one `model.fit`."""

from keras_finetune.callbacks import (
    DiscriminativeLR,
    GradualUnfreeze,
    TrainOnly,
    WeightNormLogger,
)
from keras_finetune.layer_groups import LayerGroup, LayerGroups, layer_groups

__version__ = "0.1.0"

__all__ = [
    "DiscriminativeLR",
    "GradualUnfreeze",
    "LayerGroup",
    "LayerGroups",
    "TrainOnly",
    "WeightNormLogger",
    "layer_groups",
]
