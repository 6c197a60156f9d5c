"""What the histories of a training hold, as lines over the epochs trained."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

_RATES = ("learning_rate", "lr")
_NORMS = {
    "weight_norm": "weight norm",
    "update_ratio": "update / weight",
    "weight_distance": "distance from start",
}


@dataclass
class Series:
    """A line: its label, and its points in epochs trained."""

    label: str
    x: list[float]
    y: list[float]
    is_whole: bool = False


@dataclass
class Panel:
    """What shares a vertical axis."""

    label: str
    series: list[Series]
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


def _length(values: Any) -> int:
    return len(values) if hasattr(values, "__len__") else 0


@dataclass
class Training:
    """What the sources say, by the name of the number."""

    lines: dict[str, tuple[list[float], list[float]]] = field(default_factory=dict)
    stages: list[Mapping[str, Any]] = field(default_factory=list)
    _logged: dict[float, float] = field(default_factory=dict)

    def add(self, source: Any, argument: str) -> None:
        history = getattr(source, "history", source)
        if history is source and hasattr(source, "on_epoch_end"):
            return  # a callback that writes into the logs, such as `DiscriminativeLR`
        if isinstance(history, Mapping):
            longest = max(map(_length, history.values()), default=0)
            epochs = list(getattr(source, "epoch", range(longest)))
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
                if _base(name) in (*_RATES, *_NORMS):  # not what a cache tells
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

    def panels(self, metrics: Sequence[str] | None) -> list[Panel]:
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

    def _curves(self, label: str, bases: Iterable[str]) -> Panel:
        return Panel(
            label,
            [
                Series(name, *self.lines[name])
                for base in bases
                for name in (base, f"val_{base}")
                if name in self.lines
            ],
        )

    def _rates(self, names: list[str]) -> Panel:
        panel = self._parts("learning rate", names)
        panel.is_rate = True
        if not panel.series and any(s.get("learning_rate") for s in self.stages):
            rates = [float(stage["learning_rate"]) for stage in self.stages]
            ends = [float(stage["epoch"]) for stage in self.stages[1:]] + [self.end]
            panel.series.append(Series("learning_rate", ends, rates))
        for series in panel.series:
            # From the start: a rate holds while its epoch, or its step, runs.
            series.x = [self.start, *series.x]
            series.y = [series.y[0], *series.y]
        return panel

    def _parts(self, label: str, names: list[str]) -> Panel:
        whole = [name for name in names if "/" not in name]
        parts = [name for name in names if "/" in name]
        series = [Series(name, *self.lines[name], True) for name in whole]
        series += [
            Series(name.split("/", maxsplit=1)[1], *self._by_step(name))
            for name in parts
        ]
        if len(series) > len(whole):
            for one in series[: len(whole)]:
                one.label = "all" if label != "learning rate" else "base"
        return Panel(label, series)

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


def _base(name: str) -> str:
    return name.split("/", maxsplit=1)[0]
