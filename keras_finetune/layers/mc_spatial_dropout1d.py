"""Dropout of whole 1D feature maps that stays active in inference."""

from __future__ import annotations

from typing import Any

from .._engine import keras
from ._monte_carlo import MonteCarlo, check_rate


@keras.saving.register_keras_serializable(package="keras_finetune")
class MCSpatialDropout1D(MonteCarlo, keras.layers.SpatialDropout1D):
    """Dropout of whole 1D feature maps that stays active in inference.

    A drop-in for `keras.layers.SpatialDropout1D` that is active in `predict`,
    `evaluate` and `fit` alike. Inputs are `(batch, time, channels)`.

    Args:
        rate: Fraction of the feature maps to drop, in [0, 1).
        seed: Integer seed, or `None` for a random one.
        **kwargs: Arguments of every layer, such as `name` and `dtype`.

    Raises:
        TypeError: If `rate` is not a number.
        ValueError: If `rate` lies outside [0, 1).

    Example:

    >>> layer = MCSpatialDropout1D(0.5, seed=1)
    >>> model = keras.Sequential([keras.Input((4, 100)), layer])
    >>> x = np.ones((2, 4, 100), "float32")
    >>> outputs = model.predict(x, verbose=0)
    >>> bool((outputs.reshape(2, -1, 100).std(axis=1) == 0).all())
    True

    References:

    - [Efficient Object Localization Using Convolutional Networks](
      https://arxiv.org/abs/1411.4280) (Tompson et al., 2014)
    - [Dropout as a Bayesian Approximation](https://arxiv.org/abs/1506.02142)
      (Gal & Ghahramani, 2016)
    """

    def __init__(
        self,
        rate: float,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(check_rate(rate), seed=seed, **kwargs)
