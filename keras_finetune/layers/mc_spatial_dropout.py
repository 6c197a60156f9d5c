"""Dropout of whole feature maps that stays active in inference."""

from __future__ import annotations

from typing import Any

from keras_finetune._engine import keras
from keras_finetune.layers._monte_carlo import MonteCarlo, check_rate


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


@keras.saving.register_keras_serializable(package="keras_finetune")
class MCSpatialDropout2D(MonteCarlo, keras.layers.SpatialDropout2D):
    """Dropout of whole 2D feature maps that stays active in inference.

    A drop-in for `keras.layers.SpatialDropout2D` that is active in `predict`,
    `evaluate` and `fit` alike. Inputs are `(batch, height, width, channels)`.

    Args:
        rate: Fraction of the feature maps to drop, in [0, 1).
        data_format: `"channels_last"`, `"channels_first"`, or `None` for Keras's own
            setting.
        seed: Integer seed, or `None` for a random one.
        **kwargs: Arguments of every layer, such as `name` and `dtype`.

    Raises:
        TypeError: If `rate` is not a number.
        ValueError: If `rate` lies outside [0, 1).

    Example:

    >>> layer = MCSpatialDropout2D(0.5, seed=1)
    >>> model = keras.Sequential([keras.Input((4, 4, 100)), layer])
    >>> x = np.ones((2, 4, 4, 100), "float32")
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
        data_format: str | None = None,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(check_rate(rate), data_format=data_format, seed=seed, **kwargs)

    def get_config(self) -> dict[str, Any]:
        # Keras 2 leaves it out.
        return {**super().get_config(), "data_format": self.data_format}


@keras.saving.register_keras_serializable(package="keras_finetune")
class MCSpatialDropout3D(MonteCarlo, keras.layers.SpatialDropout3D):
    """Dropout of whole 3D feature maps that stays active in inference.

    A drop-in for `keras.layers.SpatialDropout3D` that is active in `predict`,
    `evaluate` and `fit` alike. Inputs are `(batch, depth, height, width, channels)`.

    Args:
        rate: Fraction of the feature maps to drop, in [0, 1).
        data_format: `"channels_last"`, `"channels_first"`, or `None` for Keras's own
            setting.
        seed: Integer seed, or `None` for a random one.
        **kwargs: Arguments of every layer, such as `name` and `dtype`.

    Raises:
        TypeError: If `rate` is not a number.
        ValueError: If `rate` lies outside [0, 1).

    Example:

    >>> layer = MCSpatialDropout3D(0.5, seed=1)
    >>> model = keras.Sequential([keras.Input((2, 2, 2, 100)), layer])
    >>> x = np.ones((2, 2, 2, 2, 100), "float32")
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
        data_format: str | None = None,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(check_rate(rate), data_format=data_format, seed=seed, **kwargs)

    def get_config(self) -> dict[str, Any]:
        # Keras 2 leaves it out.
        return {**super().get_config(), "data_format": self.data_format}
