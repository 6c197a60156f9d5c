"""When a metric lets the next stage begin."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from typing import Any

from keras_finetune import _checks
from keras_finetune._schedule.epochs import Plateau

# Words in the names of metrics, as Keras and its users write them.
_RISING = {
    *("acc", "accuracy", "auc", "bleu", "correlation", "dice", "f1", "fbeta", "io"),
    *("iou", "map", "ndcg", "precision", "psnr", "r2", "recall", "score"),
    *("sensitivity", "similarity", "specificity", "ssim"),
}
_FALLING = {
    *("bce", "brier", "cer", "cosh", "crossentropy", "distance", "divergence"),
    *("entropy", "error", "hinge", "huber", "kld", "loss", "logcosh", "mae", "mape"),
    *("mse", "msle", "nll", "perplexity", "poisson", "rmse", "wer"),
}


def direction(monitor: str) -> str | None:
    """Return whether a metric is to fall or to rise, by the words of its name.

    Args:
        monitor: Its key in the logs, such as `val_top_5_accuracy` or `f1_score`.

    Returns:
        `"min"`, `"max"`, or `None` for a name that does not say.
    """
    words = re.findall(r"[a-z]+[0-9]*", monitor.lower())
    # The last word that says it; a "score" only where no other word does.
    words.sort(key=lambda word: word != "score")
    for word in reversed(words):
        same = {word, word.rstrip("0123456789")}
        if same & (_RISING | _FALLING):
            return "max" if same & _RISING else "min"
    return None


class Metric:
    """A key of the logs that is to fall or to rise.

    Args:
        monitor: The key.
        mode: `"min"`, `"max"` or `"auto"`.
    """

    def __init__(self, monitor: str, mode: str) -> None:
        if not isinstance(monitor, str):
            raise TypeError(
                "Argument `monitor` must be a key of the logs or `None`. "
                f"Received: monitor={monitor!r}"
            )
        if mode == "auto":
            mode = direction(monitor) or "min"
        self.monitor = monitor
        self.mode = mode
        self._said: set[str] = set()

    def better(self, value: float, best: float | None) -> bool:
        """Return whether a value is better than the best so far; a NaN never is."""
        if value != value:
            return False
        return best is None or (value > best if self.mode == "max" else value < best)

    def value(self, epoch: int, logs: Mapping[str, Any]) -> float | None:
        """Return the value in an epoch's logs, if it is there."""
        if self.monitor not in logs:
            self._miss(epoch, logs)
            return None
        value = float(logs[self.monitor])
        if value != value:
            self._say_once(
                "nan",
                f"`{self.monitor}` is NaN in epoch {epoch + 1}, which tells nothing.",
            )
        return value

    def _miss(self, epoch: int, logs: Mapping[str, Any]) -> None:
        validated = any(key.startswith("val_") for key in logs)
        if self.monitor.startswith("val_") and not validated:
            # Not an error at once: `validation_freq` may leave epochs out.
            self._say_once(
                "validation",
                f"`{self.monitor}` is not in the logs of epoch {epoch + 1}, which was "
                "not validated: no stage starts on it before `fit` validates. "
                f"The logs have: {sorted(logs)}",
            )
            return
        raise ValueError(
            "Argument `monitor` must be a key of the logs. "
            f"Received: monitor={self.monitor!r}, while the logs of epoch "
            f"{epoch + 1} have: {sorted(logs)}"
        )

    def _say_once(self, what: str, message: str) -> None:
        if what not in self._said:
            self._said.add(what)
            warnings.warn(message, stacklevel=3)


class MetricTrigger:
    """Watches a metric until it stops improving.

    Args:
        monitor: Its key in the logs.
        mode: `"min"`, `"max"` or `"auto"`.
        min_delta: The change that counts as an improvement.
        patience: The epochs without improvement that pull the trigger.
    """

    def __init__(
        self, monitor: str, mode: str, min_delta: float, patience: int | None
    ) -> None:
        self.metric = Metric(monitor, mode)
        if patience is None:
            raise ValueError(
                "Argument `monitor` needs `patience`: the epochs without improvement "
                "after which the next stage starts. "
                f"Received: monitor={monitor!r}, patience=None"
            )
        self.plateau = Plateau(
            self.metric.mode, min_delta, _checks.integer("patience", patience, 1)
        )

    def update(self, epoch: int, logs: Mapping[str, Any]) -> bool:
        """Take an epoch's logs; True when the next stage is due."""
        value = self.metric.value(epoch, logs)
        return value is not None and self.plateau.update(value)

    def restart(self, *, keep_best: bool = False) -> None:
        """Start to wait again."""
        self.plateau.wait = 0
        if not keep_best:
            self.plateau.best = None
