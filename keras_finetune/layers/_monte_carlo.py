"""What turns a random layer of Keras into one that is random in inference as well."""

from __future__ import annotations

from typing import Any

from keras_finetune import _checks


class MonteCarlo:
    """Mixed in before a layer of Keras: active whatever `training` says.

    The decision is made inside `call`, where nothing overrides it. A functional model
    hands its own `training` to every layer, so that `Dropout(0.5)(x, training=True)`
    is silently deterministic in `predict` on Keras 3.
    """

    def call(self, inputs: Any, training: Any = None) -> Any:
        return super().call(inputs, training=True)  # type: ignore[misc]


def check_rate(rate: Any) -> float:
    """Return `rate`, a number in [0, 1), or raise."""
    value = _checks.number("rate", rate, minimum=0)
    if value >= 1:
        raise ValueError(
            f"Argument `rate` must be a number in [0, 1). Received: rate={rate!r}"
        )
    return value
