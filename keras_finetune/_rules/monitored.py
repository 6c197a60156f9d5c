"""Whether the logs will have what a callback monitors."""

from __future__ import annotations

import warnings
from typing import Any

from keras_finetune import _checks
from keras_finetune._engine import fit, logs


def check_monitor(model: Any, monitor: str) -> None:
    """Raise before the first batch if the logs will not have a key, or warn.

    Args:
        model: The model, in `fit`.
        monitor: The key.

    Raises:
        ValueError: If no step and no callback can add the key. Where a step or a
            callback of the user's own still could, it is a warning.
    """
    expected = logs.expected(model)
    ours = {key for c in fit.callbacks_of_fit(model) for key in getattr(c, "adds", ())}
    if monitor in expected.keys or monitor.partition("/")[0] in ours:
        return
    if monitor.startswith("val_") and not expected.validates:
        reason = (
            "`fit` has no validation data and never logs it. Pass `validation_data` or "
            "`validation_split`."
        )
    else:
        keys = sorted(expected.keys)
        hint = _checks.did_you_mean(monitor, keys)
        reason = f"the logs will have {keys}.{hint}"
    message = (
        "Argument `monitor` must be a key of the logs. "
        f"Received: monitor={monitor!r}, while {reason}"
    )
    if expected.certain:
        raise ValueError(message)
    warnings.warn(
        f"{message} No stage starts on it unless another callback or the model's own "
        "step adds it.",
        stacklevel=5,
    )
