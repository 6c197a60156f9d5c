"""Multiplicative Gaussian noise that stays active in inference."""

from __future__ import annotations

from typing import Any

from keras_finetune._engine import keras
from keras_finetune.layers._monte_carlo import MonteCarlo, check_rate


@keras.saving.register_keras_serializable(package="keras_finetune")
class MCGaussianDropout(MonteCarlo, keras.layers.GaussianDropout):
    """Multiplicative Gaussian noise that stays active in inference.

    A drop-in for `keras.layers.GaussianDropout` that is active in `predict`,
    `evaluate` and `fit` alike. The noise has mean 1 and standard deviation
    `sqrt(rate / (1 - rate))`.

    Args:
        rate: Drop probability of the dropout that the noise stands for, in [0, 1).
        seed: Integer seed, or `None` for a random one.
        **kwargs: Arguments of every layer, such as `name` and `dtype`.

    Raises:
        TypeError: If `rate` is not a number.
        ValueError: If `rate` lies outside [0, 1).

    Example:

    >>> layer = MCGaussianDropout(0.5, seed=1)
    >>> model = keras.Sequential([keras.Input((100,)), layer])
    >>> x = np.ones((2, 100), "float32")
    >>> bool(model.predict(x, verbose=0).std() > 0)
    True

    References:

    - [Dropout: A Simple Way to Prevent Neural Networks from Overfitting](
      https://jmlr.org/papers/v15/srivastava14a.html) (Srivastava et al., 2014),
      section 10
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
