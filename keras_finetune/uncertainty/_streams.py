"""Statistics of samples that arrive a few at a time, in float64.

What is kept does not grow with the number of samples. For the variance, parts are
merged as Chan, Golub & LeVeque (1983) do; the difference of the mean of squares and
the squared mean would cancel.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np

from keras_finetune.uncertainty._entropy import (
    binary_entropy,
    entropy,
    log_softmax,
    logsumexp,
    softplus,
)

# What an output stands for. All but values are distributions over classes.
Kind = Literal["probabilities", "logits", "binary", "binary_logits", "values"]
KINDS: tuple[str, ...] = get_args(Kind)


class Stream:
    """Statistics of one output, over samples within a batch, and over batches.

    Args:
        kind: One of `KINDS`.
        keep: Whether to keep the samples as well.
    """

    def __init__(self, kind: str, keep: bool) -> None:
        self.kind = kind
        self.keep = keep
        self._batches: list[dict[str, np.ndarray]] = []
        self._kept: list[np.ndarray] = []
        self._count = 0
        self._state: dict[str, np.ndarray] = {}
        self._samples: list[np.ndarray] = []

    def update(self, samples: np.ndarray) -> None:
        """Add samples, shape (samples, rows, ...), of the batch at hand."""
        if self.keep:
            self._samples.append(samples)
        added = summary(samples.astype("float64"), self.kind)
        count = len(samples)
        if self._count:
            added = _merge(self._state, self._count, added, count)
        self._state = added
        self._count += count

    def end_batch(self) -> None:
        """Go on to the next rows."""
        self._batches.append(self._state)
        if self.keep:
            self._kept.append(np.concatenate(self._samples))
        self._count, self._state, self._samples = 0, {}, []

    def result(self) -> dict[str, Any]:
        """All rows: the statistics, and the samples or `None`."""
        names = self._batches[0]
        merged: dict[str, Any] = {
            name: np.concatenate([batch[name] for batch in self._batches])
            for name in names
        }
        merged["samples"] = np.concatenate(self._kept, axis=1) if self.keep else None
        return merged


def summary(samples: np.ndarray, kind: str) -> dict[str, np.ndarray]:
    """Return sums over the first axis: see `MCPrediction` for what they become."""
    extra: dict[str, np.ndarray] = {}
    if kind == "values":
        p = samples
    elif kind.startswith("binary"):
        if kind == "binary":
            p, spread = samples, binary_entropy(samples)
        else:
            heads, tails = -softplus(-samples), -softplus(samples)
            p = np.exp(heads)
            # softplus(z) - z sigmoid(z), written so that it is exact for large |z|.
            spread = -(p * heads + np.exp(tails) * tails)
            extra["log_heads"] = logsumexp(heads)
            extra["log_tails"] = logsumexp(tails)
        extra["entropies"] = spread.sum(axis=0)
        extra["votes"] = (p > 0.5).sum(axis=0)
    else:
        if kind == "logits":
            logs = log_softmax(samples)
            p = np.exp(logs)
            extra["log_sum"] = logsumexp(logs)
            extra["entropies"] = -(p * logs).sum(axis=-1).sum(axis=0)
        else:
            p = samples
            extra["entropies"] = entropy(p).sum(axis=0)
        chosen = p.argmax(axis=-1)[..., np.newaxis]
        extra["votes"] = (chosen == np.arange(p.shape[-1])).sum(axis=0)
    mean = p.mean(axis=0)
    return {"mean": mean, "squares": ((p - mean) ** 2).sum(axis=0), **extra}


def _merge(
    a: dict[str, np.ndarray], n: int, b: dict[str, np.ndarray], m: int
) -> dict[str, np.ndarray]:
    merged = {}
    for name, value in a.items():
        if name.startswith("log_"):
            merged[name] = np.logaddexp(value, b[name])
        else:
            merged[name] = value + b[name]
    step = b["mean"] - a["mean"]
    merged["mean"] = a["mean"] + step * (m / (n + m))
    merged["squares"] = a["squares"] + b["squares"] + step**2 * (n * m / (n + m))
    return merged


def recognize(samples: np.ndarray, told: str | None) -> str:
    """Tell what an output stands for, by what the model says and by the samples."""
    if told is not None and (told.endswith("logits") or is_kind(samples, told)):
        return told
    if samples.shape[-1] > 1 and is_kind(samples, "probabilities"):
        return "probabilities"
    return "values"


def is_kind(samples: np.ndarray, kind: str) -> bool:
    """Tell whether samples can be what they are said to be."""
    if kind not in ("probabilities", "binary"):
        return True
    # Half precision is that far from 1.
    slack = 5e-3
    if samples.ndim < 3 and kind == "probabilities":
        return False
    if samples.min() < 0 or samples.max() > 1 + slack:
        return False
    if kind == "binary":
        return True
    return bool(np.abs(samples.astype("float64").sum(axis=-1) - 1).max() <= slack)
