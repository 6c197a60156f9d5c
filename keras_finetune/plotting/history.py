"""Draw a training; needs matplotlib."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from keras_finetune.plotting._training import Panel, Series, Training

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Told apart in greyscale too: no two neighbours share a line, a marker or a shade.
_LINES = ("-", "--", "-.", ":")
_MARKERS = ("o", "s", "^", "D", "v", "P")
_LEGEND = 10  # more lines than this are not all named
_WIDE_STAGE = 0.16  # the share of the width that a stage's text needs


def plot_history(
    history: Any,
    callbacks: Any = (),
    *,
    metrics: Sequence[str] | None = None,
    title: str | None = None,
    figsize: tuple[float, float] | None = None,
) -> Figure:
    """Draws a training: loss and metrics, stages, rates per group, and norms.

    One panel under another over the same epochs, each only if there is something to
    draw in it: the losses; each metric with its validation; the learning rates, as
    steps; the norms of the weights, their updates and their distance from the start.
    With a schedule such as `OneCycle` among the callbacks, rates are drawn as they
    change from step to step.
    Stages of `GradualUnfreeze` are lines through all panels, with the groups that
    begin to train and the number of parameters that train from there. The value of an
    epoch stands at its end, and a stage at the start of its first epoch.

    Nothing is shown or saved: the figure is returned. Notebooks with
    `%matplotlib inline` show it when it is the last value of a cell; anywhere
    `figure.savefig("training.png")` writes it.

    Args:
        history: What to draw: a Keras `History` or its dictionary, a callback that
            keeps a history of its own (`GradualUnfreeze`, `WeightNormLogger`), of which
            stages, rates and norms are drawn, or a list of those. Histories of several
            fits are drawn as one; of an epoch that ran twice the later is drawn.
        callbacks: More of the same.
        metrics: The metrics to draw, in this order, without `"val_"`. Defaults to all
            in the history.
        title: A title for the figure.
        figsize: Width and height of the figure in inches. Defaults to what the panels
            need.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ImportError: If matplotlib is not installed.
        TypeError: If an argument has the wrong type.
        ValueError: If there is nothing to draw, or a metric is not in the history.

    Example:

    >>> figure = plot_history({"loss": [0.9, 0.5], "val_loss": [1.0, 0.7]})
    >>> [axes.get_ylabel() for axes in figure.axes]
    ['loss']
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "`plot_history` needs matplotlib: `pip install keras-finetune[plot]`."
        ) from error
    _check(metrics, title, figsize)
    training = Training()
    for name, sources in (("history", history), ("callbacks", callbacks)):
        for source in _flat([sources]):
            training.add(source, name)
    panels = training.panels(metrics)
    if not panels:
        raise ValueError(
            "Argument `history` must have at least one epoch to draw. "
            f"Received: history={history!r}"
        )
    figure = Figure(figsize or (8.0, 0.8 + 1.9 * len(panels)), layout="constrained")
    grid: Any = figure.subplots(len(panels), sharex=True, squeeze=False)[:, 0]
    for axes, panel in zip(grid, panels, strict=True):
        _draw(axes, panel)
    _draw_stages(grid, training)
    grid[-1].set_xlabel("epochs trained")
    grid[-1].xaxis.get_major_locator().set_params(integer=True)
    grid[-1].set_xlim(training.start, training.end + 0.02 * training.length)
    if title is not None:
        figure.suptitle(title)
    return figure


def _check(metrics: Any, title: Any, figsize: Any) -> None:
    if metrics is not None and not (
        isinstance(metrics, (list, tuple)) and all(isinstance(m, str) for m in metrics)
    ):
        raise TypeError(
            "Argument `metrics` must be a list of names or None. "
            f"Received: metrics={metrics!r}"
        )
    if title is not None and not isinstance(title, str):
        raise TypeError(
            f"Argument `title` must be a string or None. Received: title={title!r}"
        )
    if figsize is not None and not (
        isinstance(figsize, (list, tuple)) and len(figsize) == 2
    ):
        raise TypeError(
            "Argument `figsize` must be a width and a height in inches, or None. "
            f"Received: figsize={figsize!r}"
        )


def _flat(sources: Iterable[Any]) -> Iterable[Any]:
    for source in sources:
        if isinstance(source, (list, tuple)):
            yield from _flat(source)
        else:
            yield source


def _draw(axes: Any, panel: Panel) -> None:
    n = len(panel.series)
    values = [abs(y) for s in panel.series for y in s.y if y == y and y != 0]
    if panel.is_rate and values and max(values) > 20 * min(values):
        axes.set_yscale("log")  # a rate of 0, of a frozen group, is no point there
    shown = {round(i * (n - 1) / (_LEGEND - 1)) for i in range(_LEGEND)}
    wholes = sum(series.is_whole for series in panel.series)
    for i, series in enumerate(panel.series):
        is_validation = series.label.startswith("val_")
        # The same part looks the same in all panels, with or without the whole.
        part = i - wholes
        axes.plot(
            series.x,
            [math.nan if panel.is_rate and y == 0 else y for y in series.y],
            label=series.label if n <= _LEGEND or i in shown else None,
            color="black" if series.is_whole else _shade(part, n - wholes),
            linestyle=_line(series, part),
            linewidth=1.6 if n <= _LEGEND or series.is_whole else 0.9,
            marker="." if series.is_whole else _MARKERS[part % len(_MARKERS)],
            markersize=4,
            markerfacecolor="white" if is_validation else None,
            markevery=max(1, len(series.x) // 12),
            drawstyle="steps-pre" if panel.is_rate else "default",
        )
    axes.set_ylabel(panel.label)
    axes.grid(color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    if n > 1 or panel.series[0].label != panel.label:
        title = f"{n} lines, some named" if n > _LEGEND else None
        axes.legend(
            title=title,
            loc="center left",
            bbox_to_anchor=(1.01, 0.5),
            frameon=False,
            fontsize="small",
            title_fontsize="small",
        )


def _line(series: Series, part: int) -> str:
    if series.is_whole:
        return "-"
    return "--" if series.label.startswith("val_") else _LINES[part % len(_LINES)]


def _shade(i: int, n: int) -> Any:
    """Colours of falling lightness, so that the order shows without colour too."""
    from matplotlib import colormaps

    return colormaps["viridis"](0.0 if n == 1 else 0.78 * i / (n - 1))


def _draw_stages(grid: Any, training: Training) -> None:
    stages = training.stages
    if not stages:
        return
    starts = [float(stage["epoch"]) for stage in stages]
    for axes in grid:
        for x in starts:
            axes.axvline(x, color="0.45", linewidth=1.0, linestyle=(0, (1, 2)))
    gaps = [b - a for a, b in itertools.pairwise(starts)]
    if min(gaps, default=training.length) < _WIDE_STAGE * training.length:
        labels = [str(stage["stage"]) for stage in stages]
    else:
        known: set[str] = set()
        labels = []
        for stage in stages:
            labels.append(_stage_label(stage, known))
            known.update(stage.get("groups", ()))
    top = grid[0].secondary_xaxis("top")
    top.set_xticks(starts, labels, fontsize="small", horizontalalignment="left")
    top.tick_params(length=0)
    top.spines["top"].set_visible(False)


def _stage_label(stage: Mapping[str, Any], known: set[str]) -> str:
    new = [name for name in stage.get("groups", ()) if name not in known]
    names = ", ".join(new[:2]) + (", …" if len(new) > 2 else "")
    lines = [f"stage {stage['stage']}", f"+ {names}" if new else ""]
    if stage.get("trainable_parameters") is not None:
        lines.append(f"{_short(stage['trainable_parameters'])} parameters")
    return "\n".join(line for line in lines if line)


def _short(count: int) -> str:
    """Three digits and a unit; the number itself below 10,000."""
    if count < 10_000:
        return f"{count:,}"
    for size, unit in ((1e3, "k"), (1e6, "M"), (1e9, "G"), (1e12, "T")):
        digits = f"{count / size:.3g}"
        if float(digits) < 1000:  # not what rounds up to the next unit
            return f"{digits}{unit}"
    return f"{count:.3g}"
