"""Plain-text tables that fit a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Sequence


def table(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    right: Collection[int] = (),
    width: int = 80,
) -> str:
    """Lays out a table, wrapping its widest column where it does not fit.

    Args:
        header: Titles of the columns.
        rows: One sequence of cells a row.
        right: Columns that are aligned to the right.
        width: Characters that a line may take.

    Returns:
        The table, without a newline at its end.
    """
    columns = list(zip(header, *rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    excess = sum(widths) + 2 * (len(widths) - 1) - width
    if excess > 0:
        widest = max(range(len(widths)), key=widths.__getitem__)
        widths[widest] = max(widths[widest] - excess, 10)
    lines = []
    for number, row in enumerate([header, *rows]):
        cells = [
            textwrap.wrap(cell, w) or [""] for cell, w in zip(row, widths, strict=True)
        ]
        for i in range(max(map(len, cells))):
            parts = [
                f"{(cell[i] if i < len(cell) else ''):{'>' if c in right else '<'}{w}}"
                for c, (cell, w) in enumerate(zip(cells, widths, strict=True))
            ]
            lines.append("  ".join(parts).rstrip())
        if number == 0:
            lines.append("  ".join("-" * w for w in widths))
    return "\n".join(lines)
