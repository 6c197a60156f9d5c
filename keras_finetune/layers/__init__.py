from .convert_dropout import convert_dropout
from .mc_alpha_dropout import MCAlphaDropout
from .mc_dropout import MCDropout
from .mc_gaussian_dropout import MCGaussianDropout
from .mc_gaussian_noise import MCGaussianNoise
from .mc_spatial_dropout1d import MCSpatialDropout1D
from .mc_spatial_dropout2d import MCSpatialDropout2D
from .mc_spatial_dropout3d import MCSpatialDropout3D

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
