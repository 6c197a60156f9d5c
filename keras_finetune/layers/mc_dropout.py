"""Dropout that stays active in inference."""

from __future__ import annotations

from typing import Any

from keras_finetune._engine import keras
from keras_finetune.layers._monte_carlo import MonteCarlo, check_rate


@keras.saving.register_keras_serializable(package="keras_finetune")
class MCDropout(MonteCarlo, keras.layers.Dropout):
    """Dropout that stays active in inference.

    A drop-in for `keras.layers.Dropout` that is active in `predict`, `evaluate` and
    `fit` alike, so that repeated predictions are samples of an approximate
    posterior. It has the same configuration, holds no weights, and its seed advances
    with every call. `keras_finetune.mc_predict` needs no such layers and is faster
    than a loop over `predict`; they are for models that are to be random by
    themselves.

    Args:
        rate: Fraction of the inputs to drop, in [0, 1).
        noise_shape: Shape of the mask that is multiplied with the input, `None` for
            an axis as long as the input's. `(None, 1, features)` drops a feature at
            all time steps together; a 1 in front shares the mask between the inputs
            of a batch.
        seed: Integer seed, or `None` for a random one.
        **kwargs: Arguments of every layer, such as `name` and `dtype`.

    Raises:
        TypeError: If `rate` is not a number.
        ValueError: If `rate` lies outside [0, 1).

    Example:

    >>> model = keras.Sequential([keras.Input((100,)), MCDropout(0.5, seed=1)])
    >>> x = np.ones((2, 100), "float32")
    >>> float(model.predict(x, verbose=0).max())
    2.0

    References:

    - [Dropout as a Bayesian Approximation](https://arxiv.org/abs/1506.02142)
      (Gal & Ghahramani, 2016)
    """

    def __init__(
        self,
        rate: float,
        noise_shape: Any = None,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(check_rate(rate), noise_shape=noise_shape, seed=seed, **kwargs)
