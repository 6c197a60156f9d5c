"""What a search for a learning rate has found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_finetune.rates import _suggestions
from keras_finetune.rates._suggestions import Array

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False)
class RateSearch:
    """The losses over rising learning rates, and what they suggest.

    `find_learning_rate` returns it.

    Attributes:
        rates: The base learning rate of each batch, shape `(batches,)`.
        losses: The loss of each batch alone, before its update. The last one may be
            NaN or infinite.
        baseline: The loss of the same batches in a run that learns next to nothing,
            all at the first rate.
        smoothed: The losses as an exponential average (factor 0.98, debiased).
        suggestions: What each rule suggests: `"ours"`, and fastai's `"valley"`,
            `"steepest"` and `"minimum"` (a tenth of the rate with the lowest loss).
            Empty where there is no suggestion.
        suggestion: The one to use, or `None`.
        reason: Why there is no suggestion, or `None`.
        stage: The stage of `GradualUnfreeze` that was searched.

    Example:

    >>> rates = np.geomspace(1e-6, 1.0, 60)
    >>> losses = np.where(rates < 0.3, 1 / (1 + 100 * rates), 9.0)
    >>> found = RateSearch.of(rates, losses)
    >>> sorted(found.suggestions)
    ['minimum', 'ours', 'steepest', 'valley']
    >>> found.reason is None
    True
    """

    rates: Array
    losses: Array
    baseline: Array | None
    smoothed: Array
    suggestions: Mapping[str, float]
    suggestion: float | None
    reason: str | None
    stage: int = 0

    @classmethod
    def of(
        cls,
        rates: Any,
        losses: Any,
        baseline: Any = None,
        *,
        steps: int | None = None,
        stage: int = 0,
    ) -> RateSearch:
        """Return what a curve suggests.

        Args:
            rates: The rates, rising.
            losses: The loss of a batch at each rate.
            baseline: The losses of the same batches without learning, if known.
            steps: The steps that were asked for, if the search was stopped before.
            stage: The stage that was searched.
        """
        rates, losses = np.asarray(rates, "float64"), np.asarray(losses, "float64")
        steps = len(rates) if steps is None else steps
        with np.errstate(invalid="ignore", over="ignore"):
            smoothed = _suggestions.smoothed(losses)
        if baseline is not None:
            baseline = np.asarray(baseline, "float64")
        kept, curve = _suggestions.usable(rates, smoothed, steps)
        finite = losses[: _finite(losses)]
        fair = _suggestions.corrected(finite, baseline)[steps // 10 :]
        reason = _suggestions.why_none(
            fair, len(kept), len(losses) == steps, len(finite) > 0
        )
        suggestions: dict[str, float] = {}
        if reason is None:
            suggestions = {
                "ours": _suggestions.ours(rates[steps // 10 :][: len(fair)], fair),
                "valley": _suggestions.valley(kept, curve),
                "steepest": _suggestions.steepest(kept, curve),
                "minimum": _suggestions.minimum(kept, curve),
            }
        return cls(
            rates,
            losses,
            baseline,
            smoothed,
            suggestions,
            suggestions.get("ours"),
            reason,
            stage,
        )

    def plot(self, *, figsize: tuple[float, float] = (7.0, 4.0)) -> Figure:
        """Draw the losses over the rates, with what is suggested.

        Args:
            figsize: Width and height of the figure in inches.

        Returns:
            A `matplotlib.figure.Figure`, neither shown nor saved.

        Raises:
            ImportError: If matplotlib is not installed.
        """
        try:
            from matplotlib.figure import Figure
        except ImportError as error:
            raise ImportError(
                "`RateSearch.plot` needs matplotlib: "
                "`pip install keras-finetune[plot]`."
            ) from error
        figure = Figure(figsize, layout="constrained")
        axes: Any = figure.subplots()
        axes.plot(self.rates, self.losses, color="0.75", label="loss of a batch")
        axes.plot(self.rates, self.smoothed, color="black", label="smoothed")
        styles = ("-", "--", "-.", ":")
        for (name, rate), style in zip(self.suggestions.items(), styles, strict=False):
            label = f"{name}: {rate:.2g}"
            axes.axvline(rate, color="0.3", linestyle=style, label=label)
        axes.set_xscale("log")
        axes.set_xlabel("base learning rate")
        axes.set_ylabel("loss")
        low, high = _view(self.losses, self.smoothed)
        axes.set_ylim(low, high)
        if self.reason is not None:
            axes.set_title(f"no suggestion: {self.reason}", fontsize="small", wrap=True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize="small")
        return figure

    def __repr__(self) -> str:
        if self.suggestion is None:
            said = f"no suggestion: {self.reason}"
        else:
            said = ", ".join(f"{name} {r:.2g}" for name, r in self.suggestions.items())
        return f"<RateSearch of {len(self.rates)} batches, stage {self.stage}: {said}>"


def _finite(losses: Array) -> int:
    """Return how many losses there are before the first that is not finite."""
    wrong = np.flatnonzero(~np.isfinite(losses))
    return int(wrong[0]) if len(wrong) else len(losses)


def _view(losses: Array, smoothed: Array) -> tuple[float | None, float | None]:
    """Return the limits of an axis that an exploding loss must not stretch."""
    finite = smoothed[np.isfinite(smoothed)]
    if not len(finite):
        return None, None
    low, start = float(np.nanmin(losses)), float(finite[0])
    high = min(float(np.max(finite)), max(start, low) + 0.5 * max(start - low, 1e-12))
    margin = 0.08 * max(high - low, 1e-12)
    return low - margin, high + margin
