"""Additive Gaussian noise that stays active in inference."""

from __future__ import annotations

from typing import Any

from keras_finetune import _checks
from keras_finetune._engine import keras
from keras_finetune.layers._monte_carlo import MonteCarlo


@keras.saving.register_keras_serializable(package="keras_finetune")
class MCGaussianNoise(MonteCarlo, keras.layers.GaussianNoise):
    """Additive Gaussian noise that stays active in inference.

    A drop-in for `keras.layers.GaussianNoise` that is active in `predict`, `evaluate`
    and `fit` alike.

    Args:
        stddev: Standard deviation of the noise. Keras 3 takes none above 1.
        seed: Integer seed, or `None` for a random one.
        **kwargs: Arguments of every layer, such as `name` and `dtype`.

    Raises:
        TypeError: If `stddev` is not a number.
        ValueError: If `stddev` is negative.

    Example:

    >>> layer = MCGaussianNoise(0.5, seed=1)
    >>> model = keras.Sequential([keras.Input((100,)), layer])
    >>> x = np.ones((2, 100), "float32")
    >>> bool(model.predict(x, verbose=0).std() > 0)
    True

    References:

    - [Dropout as a Bayesian Approximation](https://arxiv.org/abs/1506.02142)
      (Gal & Ghahramani, 2016)
    """

    def __init__(
        self,
        stddev: float,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        stddev = _checks.number("stddev", stddev, minimum=0)
        super().__init__(stddev, seed=seed, **kwargs)
