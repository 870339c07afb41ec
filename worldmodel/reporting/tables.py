"""Figures as text: numbers with the digits that matter, estimates with their intervals, tables."""

from __future__ import annotations

import math
from collections.abc import Sequence

NONE = "–"
"""What is not known, or not defined."""
Table = Sequence[Sequence[str]]
"""Lines of cells, the titles first."""


def number(value: float | None) -> str:
    """A figure with the digits that matter."""
    if value is None or math.isnan(value):
        return NONE
    size = abs(value)
    return f"{value:,.{3 if size < 10 else 2 if size < 100 else 1}f}"


def span(low: float | None, high: float | None) -> str:
    """Where an interval begins and ends."""
    return f"{number(low)} to {number(high)}"


def estimate(value: float | None, low: float | None, high: float | None) -> str:
    """A figure and its interval, where it has one."""
    known = low is not None and not math.isnan(low)
    return f"{number(value)} [{number(low)}, {number(high)}]" if known else number(value)


def table(lines: Table) -> str:
    """A Markdown table whose columns line up as plain text too: numbers to the right."""
    columns = [[cell.replace("|", "\\|") for cell in column] for column in zip(*lines, strict=True)]
    for column in columns:
        right = all(cell[:1] in "-0123456789" + NONE for cell in column[1:])
        width = max(1 + right, *map(len, column))
        column[:] = [cell.rjust(width) if right else cell.ljust(width) for cell in column]
        column.insert(1, "-" * (width - right) + ":" * right)
    return "\n".join(f"| {' | '.join(line)} |" for line in zip(*columns, strict=True))
