"""Pictures of a training: curves, stages, rates and norms. Needs matplotlib."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

# Told apart in greyscale too: no two neighbours share a line, a marker or a shade.
_LINES = ("-", "--", "-.", ":")
_MARKERS = ("o", "s", "^", "D", "v", "P")
_RATES = ("learning_rate", "lr")
_NORMS = {
    "weight_norm": "weight norm",
    "update_ratio": "update / weight",
    "weight_distance": "distance from start",
}
_LEGEND = 10  # more lines than this are not all named
_WIDE_STAGE = 0.16  # the share of the width that a stage's text needs


def plot_history(
    history: Any,
    callbacks: Any = (),
    *,
    metrics: Sequence[str] | None = None,
    title: str | None = None,
    figsize: tuple[float, float] | None = None,
) -> Any:
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
            keeps a history of its own (`GradualUnfreeze`, `WeightNormLogger`), or a
            list of those. Histories of several fits are drawn as one; of an epoch
            that ran twice the later is drawn.
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
    training = _Training()
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


@dataclass
class _Series:
    """A line: its label, and its points in epochs trained."""

    label: str
    x: list[float]
    y: list[float]
    is_whole: bool = False


@dataclass
class _Panel:
    """What shares a vertical axis."""

    label: str
    series: list[_Series]
    is_rate: bool = False


def _by_epoch(
    name: str, values: Any, epochs: Sequence[int], argument: str
) -> dict[float, float]:
    """Return the values of a key of a `History`, by the ends of their epochs."""
    try:
        numbers = [float(value) for value in values]
    except (TypeError, ValueError):
        raise TypeError(
            f"Argument `{argument}` must have lists of numbers. "
            f"Received: {name}={values!r}"
        ) from None
    n = len(numbers)
    # A key that came later has its values at the end; `validation_freq` leaves out all
    # but every second, third... epoch.
    ends = [epoch + 1.0 for epoch in epochs[max(len(epochs) - n, 0) :]]
    if name.startswith("val_") and 0 < n < len(epochs):
        every = len(epochs) // n
        chosen = [epoch + 1.0 for epoch in epochs if (epoch + 1) % every == 0]
        ends = chosen if len(chosen) == n else ends
    if len(ends) < n:
        ends = [float(i + 1) for i in range(n)]
    return dict(zip(ends, numbers, strict=True))


@dataclass
class _Training:
    """What the sources say, by the name of the number."""

    lines: dict[str, tuple[list[float], list[float]]] = field(default_factory=dict)
    stages: list[Mapping[str, Any]] = field(default_factory=list)
    _logged: dict[float, float] = field(default_factory=dict)

    def add(self, source: Any, argument: str) -> None:
        history = getattr(source, "history", source)
        if history is source and hasattr(source, "on_epoch_end"):
            return  # a callback that writes into the logs, such as `DiscriminativeLR`
        if isinstance(history, Mapping):
            epochs = list(getattr(source, "epoch", ()))
            for name, values in history.items():
                line = _by_epoch(str(name), values, epochs, argument)
                x, y = self.lines.get(str(name), ([], []))
                points = {**dict(zip(x, y, strict=True)), **line}
                if name == "stage":
                    self._add_stages(line)
                else:
                    ends = sorted(points)
                    self.lines[str(name)] = (ends, [points[end] for end in ends])
        elif isinstance(history, list) and all(isinstance(r, Mapping) for r in history):
            if any("stage" in row for row in history):
                self.stages = sorted(history, key=lambda row: row["epoch"])
            else:
                self._add_rows(history, source)
        else:
            raise TypeError(
                f"Argument `{argument}` must be a Keras `History`, a dictionary of "
                "lists, a callback with a `history` of its own, or a list of those. "
                f"Received: {argument}={source!r} (of type {type(source).__name__})"
            )

    def _add_stages(self, line: Mapping[float, float]) -> None:
        """Stages as `GradualUnfreeze` logs them; its own history says more."""
        self._logged.update(line)
        found: list[Mapping[str, Any]] = []
        for end in sorted(self._logged):
            stage = int(self._logged[end])
            if not found or stage != found[-1]["stage"]:
                found.append({"epoch": end - 1.0, "stage": stage})
        if not any("groups" in stage for stage in self.stages):
            self.stages = found

    def _add_rows(self, rows: Sequence[Mapping[str, Any]], source: Any) -> None:
        steps = (getattr(source, "params", None) or {}).get("steps")
        in_epoch: dict[int, int] = {}
        for row in rows:
            in_epoch[row["epoch"]] = in_epoch.get(row["epoch"], 0) + 1
        seen: dict[int, int] = {}
        lines: dict[str, tuple[list[float], list[float]]] = {}
        for row in rows:
            epoch = row["epoch"]
            seen[epoch] = seen.get(epoch, 0) + 1
            end = epoch + seen[epoch] / in_epoch[epoch]
            if "step" in row and steps:
                end = row["step"] / steps
            for name, value in row.items():
                if name not in ("epoch", "step"):
                    x, y = lines.setdefault(name, ([], []))
                    x.append(float(end))
                    y.append(float(value))
        self.lines.update(lines)

    @property
    def start(self) -> float:
        first = [x[0] for x, _ in self.lines.values() if x]
        first += [stage["epoch"] + 1 for stage in self.stages]
        return max(0.0, math.ceil(min(first)) - 1.0)

    @property
    def end(self) -> float:
        last = [x[-1] for x, _ in self.lines.values() if x]
        return float(max(last + [stage["epoch"] + 1 for stage in self.stages]))

    @property
    def length(self) -> float:
        return self.end - self.start

    def panels(self, metrics: Sequence[str] | None) -> list[_Panel]:
        names = [name for name, (x, _) in self.lines.items() if x]
        norms = [name for name in names if _base(name) in _NORMS]
        rates = [name for name in names if _base(name) in _RATES]
        bases = dict.fromkeys(
            name.removeprefix("val_")
            for name in names
            if name not in norms and name not in rates
        )
        losses = [base for base in bases if base.endswith("loss")]
        others = [base for base in bases if base not in losses]
        if metrics is not None:
            unknown = [metric for metric in metrics if metric not in bases]
            if unknown:
                raise ValueError(
                    f"Argument `metrics` must name metrics among {list(bases)}. "
                    f"Received: metrics={metrics!r}"
                )
            losses = [metric for metric in metrics if metric in losses]
            others = [metric for metric in metrics if metric in others]
        panels = [self._curves("loss", losses)]
        panels += [self._curves(other, [other]) for other in others]
        panels.append(self._rates(rates))
        for base, label in _NORMS.items():
            panels.append(self._parts(label, [n for n in norms if _base(n) == base]))
        return [panel for panel in panels if panel.series]

    def _curves(self, label: str, bases: Iterable[str]) -> _Panel:
        return _Panel(
            label,
            [
                _Series(name, *self.lines[name])
                for base in bases
                for name in (base, f"val_{base}")
                if name in self.lines
            ],
        )

    def _rates(self, names: list[str]) -> _Panel:
        panel = self._parts("learning rate", names)
        panel.is_rate = True
        if not panel.series and any(s.get("learning_rate") for s in self.stages):
            rates = [float(stage["learning_rate"]) for stage in self.stages]
            ends = [float(stage["epoch"]) for stage in self.stages[1:]] + [self.end]
            panel.series.append(_Series("learning_rate", ends, rates))
        for series in panel.series:
            # From the start: a rate holds while its epoch, or its step, runs.
            series.x = [self.start, *series.x]
            series.y = [series.y[0], *series.y]
        return panel

    def _parts(self, label: str, names: list[str]) -> _Panel:
        whole = [name for name in names if "/" not in name]
        parts = [name for name in names if "/" in name]
        series = [_Series(name, *self.lines[name], True) for name in whole]
        series += [
            _Series(name.split("/", maxsplit=1)[1], *self._by_step(name))
            for name in parts
        ]
        if len(series) > len(whole):
            for one in series[: len(whole)]:
                one.label = "all" if label != "learning rate" else "base"
        return _Panel(label, series)

    def _by_step(self, name: str) -> tuple[list[float], list[float]]:
        """Return the points of a group's rate, in steps where a schedule knows those.

        Within an epoch a group's rate keeps its ratio to the base rate.
        """
        ends, rates = self.lines[name]
        steps, base = self.lines.get(_base(name), ([], []))
        at_end = dict(zip(steps, base, strict=True))
        if _base(name) not in _RATES or len(steps) <= len(ends):
            return ends, rates
        ratios = {
            e: r / at_end[e] for e, r in zip(ends, rates, strict=True) if at_end.get(e)
        }
        if any(math.ceil(step) not in ratios for step in steps):
            return ends, rates
        by_step = [b * ratios[math.ceil(x)] for x, b in zip(steps, base, strict=True)]
        return steps, by_step


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


def _base(name: str) -> str:
    return name.split("/", maxsplit=1)[0]


def _draw(axes: Any, panel: _Panel) -> None:
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


def _line(series: _Series, part: int) -> str:
    if series.is_whole:
        return "-"
    return "--" if series.label.startswith("val_") else _LINES[part % len(_LINES)]


def _shade(i: int, n: int) -> Any:
    """Colours of falling lightness, so that the order shows without colour too."""
    from matplotlib import colormaps

    return colormaps["viridis"](0.0 if n == 1 else 0.78 * i / (n - 1))


def _draw_stages(grid: Any, training: _Training) -> None:
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
