"""Alpha dropout that stays active in inference."""

from __future__ import annotations

from typing import Any

from keras_finetune._engine import keras
from keras_finetune.layers._monte_carlo import MonteCarlo, check_rate


@keras.saving.register_keras_serializable(package="keras_finetune")
class MCAlphaDropout(MonteCarlo, keras.layers.AlphaDropout):
    """Alpha dropout that stays active in inference.

    A drop-in for `keras.layers.AlphaDropout` that is active in `predict`, `evaluate`
    and `fit` alike. For networks of `selu` units: it keeps mean and variance.

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

    >>> layer = MCAlphaDropout(0.5, seed=1)
    >>> model = keras.Sequential([keras.Input((100,)), layer])
    >>> x = np.ones((2, 100), "float32")
    >>> bool(model.predict(x, verbose=0).std() > 0)
    True

    References:

    - [Self-Normalizing Neural Networks](https://arxiv.org/abs/1706.02515)
      (Klambauer et al., 2017)
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

    def get_config(self) -> dict[str, Any]:
        # Keras 2 leaves it out.
        return {**super().get_config(), "noise_shape": self.noise_shape}
