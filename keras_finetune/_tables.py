"""Plain-text tables that fit a terminal, and the same for a notebook."""

from __future__ import annotations

import html
import os
import shutil
import sys
import textwrap
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

_WIDTH = 80
_NARROWEST = 8  # no column is wrapped to less than this


@dataclass(frozen=True)
class Table:
    """A table.

    Args:
        header: Titles of the columns.
        rows: One sequence of cells a row.
        right: Columns that are aligned to the right.
        is_dense: Whether a row is one line: without a rule below the header, and with
            cells cut, not wrapped, where they do not fit.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    right: Collection[int] = ()
    is_dense: bool = False

    def text(self, width: int = _WIDTH, head: Callable[[str], str] = str) -> str:
        """Lays out the table, wrapping its widest columns where it does not fit.

        Args:
            width: Characters that a line may take.
            head: Applied to the lines above the first row.

        Returns:
            The table, without a newline at its end.
        """
        columns = list(zip(self.header, *self.rows, strict=True))
        widths = [max(map(len, column)) for column in columns]
        room = width - 2 * (len(widths) - 1)
        while sum(widths) > room and max(widths) > _NARROWEST:
            widest = max(range(len(widths)), key=widths.__getitem__)
            others = sorted(widths)[-2] if len(widths) > 1 else 0
            target = max(room - (sum(widths) - widths[widest]), others, _NARROWEST)
            widths[widest] = min(target, widths[widest] - 1)
        lines = self._lines(self.header, widths)
        if not self.is_dense:
            lines.append("  ".join("-" * w for w in widths))
        lines = [head(line) for line in lines]
        for row in self.rows:
            lines += self._lines(row, widths)
        return "\n".join(lines)

    def _lines(self, row: Sequence[str], widths: Sequence[int]) -> list[str]:
        fit = self._cut if self.is_dense else textwrap.wrap
        cells = [fit(cell, w) or [""] for cell, w in zip(row, widths, strict=True)]
        lines = []
        for i in range(max(map(len, cells))):
            parts = [
                f"{(cell[i] if i < len(cell) else ''):{self._side(c)}{w}}"
                for c, (cell, w) in enumerate(zip(cells, widths, strict=True))
            ]
            lines.append("  ".join(parts).rstrip())
        return lines

    @staticmethod
    def _cut(cell: str, width: int) -> list[str]:
        return [cell if len(cell) <= width else f"{cell[: width - 1]}…"]

    def _side(self, column: int) -> str:
        return ">" if column in self.right else "<"

    def html(self) -> str:
        """Return the table for a notebook."""
        rows = [("th", self.header), *(("td", row) for row in self.rows)]
        lines = ["<table>"]
        for tag, row in rows:
            cells = [
                f'<{tag} style="text-align: {"right" if c in self.right else "left"}">'
                f"{html.escape(cell)}</{tag}>"
                for c, cell in enumerate(row)
            ]
            lines.append(f"<tr>{''.join(cells)}</tr>")
        return "\n".join([*lines, "</table>"])


class Report:
    """Paragraphs and tables, as text or, in a notebook, as HTML.

    Args:
        *parts: What to say, from top to bottom.
    """

    def __init__(self, *parts: str | Table) -> None:
        self.parts = parts
        self._is_shown = False

    def __str__(self) -> str:
        return self._text(_WIDTH, str)

    def __repr__(self) -> str:
        rows = sum(len(p.rows) for p in self.parts if isinstance(p, Table))
        return f"<Report of {rows} rows; print it to read it>"

    def _repr_html_(self) -> str:
        return "\n".join(
            p.html() if isinstance(p, Table) else f"<p>{html.escape(p)}</p>"
            for p in self.parts
        )

    def _ipython_display_(self) -> None:
        # A notebook shows the last value of a cell: not a second time.
        if self._is_shown:
            self._is_shown = False
            return
        from IPython.display import display

        display({"text/plain": str(self), "text/html": self._repr_html_()}, raw=True)

    def show(self) -> Report:
        """Print the text, in colour on a terminal, or show HTML in a notebook."""
        if _in_notebook():
            self._ipython_display_()
            self._is_shown = True
        else:
            print(self._text(_columns(), bold), flush=True)
        return self

    def _text(self, width: int, head: Callable[[str], str]) -> str:
        return "\n\n".join(
            p.text(width, head) if isinstance(p, Table) else textwrap.fill(p, width)
            for p in self.parts
        )


def bold(text: str) -> str:
    """Bold on a terminal that shows it, unless `NO_COLOR` is set; else as it is."""
    is_plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return text if is_plain or not _on_terminal() else f"\033[1m{text}\033[0m"


def _columns() -> int:
    return min(_WIDTH, shutil.get_terminal_size().columns) if _on_terminal() else _WIDTH


def _on_terminal() -> bool:
    # What stands in for the stream may have less than a stream has.
    return bool(getattr(sys.stdout, "isatty", bool)())


def _in_notebook() -> bool:
    """Whether a front end that shows HTML is listening, as Jupyter's does."""
    ipython: Any = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return hasattr(shell, "kernel")
