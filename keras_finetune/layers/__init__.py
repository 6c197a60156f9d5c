from keras_finetune.layers.convert_dropout import convert_dropout
from keras_finetune.layers.mc_alpha_dropout import MCAlphaDropout
from keras_finetune.layers.mc_dropout import MCDropout
from keras_finetune.layers.mc_gaussian_dropout import MCGaussianDropout
from keras_finetune.layers.mc_gaussian_noise import MCGaussianNoise
from keras_finetune.layers.mc_spatial_dropout import (
    MCSpatialDropout1D,
    MCSpatialDropout2D,
    MCSpatialDropout3D,
)

__all__ = [
    "MCAlphaDropout",
    "MCDropout",
    "MCGaussianDropout",
    "MCGaussianNoise",
    "MCSpatialDropout1D",
    "MCSpatialDropout2D",
    "MCSpatialDropout3D",
    "convert_dropout",
]
