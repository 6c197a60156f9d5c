"""The rules of fine-tuning as arithmetic: no Keras, no NumPy, no state but its own."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence


def stage_at(epoch: int, every: int | Sequence[int], last: int) -> int:
    """Return the stage of an epoch.

    Args:
        epoch: The epoch, counted from 0 as Keras does.
        every: The epochs a stage takes, or the epochs at which stages 1, 2, ... start.
        last: The last stage.

    Returns:
        The stage, from 0 to `last`.
    """
    stage = epoch // every if isinstance(every, int) else bisect_right(every, epoch)
    return min(stage, last)


def starts(every: int | Sequence[int], last: int) -> list[int]:
    """Return the epoch at which each of the stages 0 to `last` starts."""
    if isinstance(every, int):
        return [stage * every for stage in range(last + 1)]
    return [0, *every]


def spread(last: int, epochs: int, share: float) -> list[int]:
    """Return the epochs at which stages start, spread over the first epochs evenly.

    The last stage starts when `share` of the epochs are over, or in the last epoch;
    with fewer epochs than stages several start together.

    Args:
        last: The last stage.
        epochs: The epochs that `fit` runs.
        share: The share of them before the last stage, from 0 to 1.

    Example:

    >>> spread(4, 16, 0.5)
    [0, 2, 4, 6, 8]
    >>> spread(4, 3, 0.5)
    [0, 0, 1, 1, 2]
    """
    until = min(max(share * epochs, 1.0), epochs - 1.0) if epochs > 1 else 0.0
    return [round_half_up(until * stage / last) for stage in range(last + 1)]


def round_half_up(value: float) -> int:
    """Return the nearest integer, the larger of two."""
    return int(value + 0.5)


def spans(starts: Sequence[int], epochs: int | None) -> list[str]:
    """Say in words which of `epochs` epochs belong to the stages that start then."""
    said = []
    for i, first in enumerate(starts):
        if epochs is not None and first >= epochs:
            said.append("not reached")
            continue
        if first in starts[i + 1 : i + 2]:
            said.append("with the next")
            continue
        ends = [end for end in (*starts[i + 1 : i + 2], epochs) if end is not None]
        last = min(ends, default=0) - 1
        if not ends:
            said.append(f"from {first}")
        else:
            said.append(str(first) if last <= first else f"{first}-{last}")
    return said


def powers(decay: float, n: int) -> list[float]:
    """Multipliers of `n` groups, bottom to top: `decay**-k`, k groups below the top."""
    return [decay ** -(n - 1 - i) for i in range(n)]


def body_and_head(low: float, high: float, n: int) -> list[float]:
    """Return multipliers of `n` groups: a head at 1 above a body well below it.

    Args:
        low: The multiplier of the lowest group of the body.
        high: That of its highest; those between are spread geometrically.
        n: The number of groups, the head among them.

    Example:

    >>> body_and_head(0.01, 0.1, 4)
    [0.01, 0.0316..., 0.1, 1.0]
    """
    if n <= 2:
        return [*[high] * (n - 1), 1.0]
    return [*(high * factor for factor in geometric(low, high, n - 1)), 1.0]


def geometric(low: float, high: float, n: int) -> list[float]:
    """Multipliers of `n` groups that spread rates from `low` to `high`.

    The rate of group i, bottom to top, is `low * (high / low)**(i / (n - 1))`; the
    multiplier is that rate over `high`, so the top group has exactly 1.
    """
    if n == 1:
        return [1.0]
    return [(low / high) ** ((n - 1 - i) / (n - 1)) for i in range(n)]


class Plateau:
    """Tells when a metric has stopped improving.

    The rule of `keras.callbacks.ReduceLROnPlateau`: an epoch improves when its value
    beats the best so far by more than `min_delta`; `patience` epochs in a row without
    improvement are a plateau.

    Args:
        mode: `"min"` or `"max"`.
        min_delta: The change that counts as an improvement.
        patience: The epochs without improvement that make a plateau.
    """

    def __init__(self, mode: str, min_delta: float, patience: int) -> None:
        self.sign = 1.0 if mode == "max" else -1.0
        self.min_delta = min_delta
        self.patience = patience
        self.best: float | None = None
        self.wait = 0

    def update(self, value: float) -> bool:
        """Take the value of one more epoch; True when it completes a plateau.

        A NaN is no information: it neither improves nor counts as waiting.
        """
        if value != value:
            return False
        gain = None if self.best is None else self.sign * (value - self.best)
        if gain is None or gain > self.min_delta:
            self.best = value
            self.wait = 0
            return False
        self.wait += 1
        return self.wait >= self.patience
