"""The conditional gradient (Frank-Wolfe) optimizer, for Keras 3."""

from __future__ import annotations

from collections.abc import Callable
from numbers import Real
from typing import Any

from keras_finetune import _checks
from keras_finetune._engine import conditional_gradient as engine
from keras_finetune._engine import keras

ops = keras.ops


@keras.saving.register_keras_serializable(package="keras_finetune")
class ConditionalGradient(keras.optimizers.Optimizer):
    """Optimizer that keeps each weight in a norm ball: conditional gradient descent.

    Each step moves a variable towards the point of the ball of radius `lambda_` that
    is best for the linearised loss:

    ```
    variable = learning_rate * variable - (1 - learning_rate) * lambda_ * s
    ```

    where `s` is `gradient / (norm(gradient) + epsilon)` for `ord="fro"` (the Frobenius
    norm, of a tensor of any shape), and the outer product of the first left and right
    singular vectors of the gradient for `ord="nuclear"`. A variable that starts in the
    ball never leaves it, as long as the rate is between 0 and 1.

    Mind the direction: the learning rate is the share of the variable that is *kept*.
    At 1 nothing moves, at 0 the variable jumps to the surface of the ball; callbacks
    and schedules that lower the rate make the steps larger.

    Arguments and steps are those of `tensorflow_addons.optimizers.ConditionalGradient`
    (TensorFlow Addons 0.23, which does not run on Keras 3). Like TensorFlow Addons it
    takes the singular vectors from a full singular value decomposition, takes a vector
    for a matrix of one row and a scalar for one of one entry, and updates only the rows
    that were looked up where the gradient of an embedding is sparse (on TensorFlow; on
    JAX and PyTorch that gradient is dense and all rows move). Beyond it, a tensor with
    more than two dimensions counts for `ord="nuclear"` as a matrix with one column for
    each entry of its last dimension (TensorFlow Addons raises an error), schedules
    work, and float16 and bfloat16 variables are updated in float32.

    On Keras 2 `keras_finetune.optimizers.ConditionalGradient` is the class of
    TensorFlow Addons itself.

    Args:
        learning_rate: A float between 0 and 1, a
            `keras.optimizers.schedules.LearningRateSchedule`, or a callable without
            arguments: the share of a variable that a step keeps.
        lambda_: Radius of the ball: a positive float, or a callable without arguments
            that is asked when a step is traced. Defaults to `0.01`.
        epsilon: A float that is added to the Frobenius norm of the gradient, lest a
            gradient of zeros divide by zero. 0 stands for `keras.config.epsilon()`, as
            in TensorFlow Addons. Defaults to `1e-7`.
        ord: `"fro"` (default) or `"nuclear"`: the norm whose ball it is.
        name: Name of the optimizer.
        **kwargs: The arguments of every Keras optimizer: `weight_decay`, `clipnorm`,
            `clipvalue`, `global_clipnorm`, `use_ema`, `ema_momentum`,
            `ema_overwrite_frequency`, `loss_scale_factor`,
            `gradient_accumulation_steps`.

    Raises:
        ValueError: If the learning rate is outside [0, 1], if `lambda_` is not
            positive, if `epsilon` is negative, or if `ord` is unknown.
        TypeError: If one of the numbers is no number.

    Example:
    >>> import keras
    >>> from keras_finetune.optimizers import ConditionalGradient
    >>> weight = keras.Variable([[0.0, 0.0]])
    >>> optimizer = ConditionalGradient(learning_rate=0.5, lambda_=10.0)
    >>> optimizer.apply([keras.ops.array([[3.0, -4.0]])], [weight])
    >>> keras.ops.convert_to_numpy(weight).tolist()
    [[-3.0, 4.0]]

    References:
    - [Ravi et al., 2018, Constrained Deep Learning using Conditional Gradient and
      Applications in Computer Vision](https://arxiv.org/abs/1803.06453)
    - [TensorFlow Addons, `optimizers/conditional_gradient.py`](
      https://github.com/tensorflow/addons/blob/v0.23.0/tensorflow_addons/optimizers/conditional_gradient.py)
    """

    def __init__(
        self,
        learning_rate: Any,
        lambda_: float | Callable[[], float] = 0.01,
        epsilon: float = 1e-7,
        ord: str = "fro",
        name: str = "conditional_gradient",
        **kwargs: Any,
    ) -> None:
        if isinstance(learning_rate, Real):
            rate = _checks.number("learning_rate", learning_rate, 0.0)
            if rate > 1.0:
                raise ValueError(
                    "Argument `learning_rate` must be between 0 and 1: it is the share "
                    "of a variable that a step keeps. "
                    f"Received: learning_rate={learning_rate!r}"
                )
        if not callable(lambda_):
            lambda_ = _checks.number("lambda_", lambda_, 0.0, exclusive=True)
        epsilon = _checks.number("epsilon", epsilon, 0.0)
        ord = _checks.choice("ord", ord, ("fro", "nuclear"))
        super().__init__(learning_rate=learning_rate, name=name, **kwargs)
        self.lambda_ = lambda_
        self.epsilon = epsilon or float(keras.config.epsilon())
        self.ord = ord

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Move one variable."""
        gradient, value, to_assign = engine.touched(gradient, variable)
        dtype = keras.backend.standardize_dtype(variable.dtype)
        if dtype in ("float16", "bfloat16"):
            # The sum of squares of a gradient overflows float16 at a norm of 256.
            dtype = "float32"
        gradient = ops.cast(gradient, dtype)
        value = ops.cast(value, dtype)
        rate = ops.cast(learning_rate, dtype)
        lambda_ = ops.cast(self._radius(), dtype)
        if self.ord == "fro":
            norm = ops.sqrt(ops.sum(ops.square(gradient)))
            s = gradient / (norm + self.epsilon)
        else:
            s = _top_singular_matrix(gradient)
        # The order of these operations is that of TensorFlow Addons, bit for bit.
        value = value * rate - (1.0 - rate) * lambda_ * s
        self.assign(variable, to_assign(ops.cast(value, variable.dtype)))

    def _radius(self) -> Any:
        return self.lambda_() if callable(self.lambda_) else self.lambda_

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the optimizer."""
        return {
            **super().get_config(),
            "lambda_": float(self._radius()),
            "epsilon": self.epsilon,
            "ord": self.ord,
        }


def _top_singular_matrix(gradient: Any) -> Any:
    """Return the outer product of the first pair of singular vectors."""
    shape = ops.shape(gradient)
    columns = shape[-1] if shape else 1
    rows = -1 if len(shape) > 1 else 1
    matrix = ops.reshape(gradient, (rows, columns))
    left, _, right = ops.linalg.svd(matrix, full_matrices=False)
    return ops.reshape(left[:, :1] * right[:1, :], shape)
