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
    """A Markdown table whose columns line up as plain text too: the first to the left, the others to the right."""
    cells = [[cell.replace("|", "\\|") for cell in line] for line in lines]
    first, *others = (max(map(len, column)) for column in zip(*cells, strict=True))
    rule = f"|{'-' * (first + 2)}|{''.join('-' * (width + 1) + ':|' for width in others)}"
    head, *rows = (f"| {' | '.join([line[0].ljust(first), *map(str.rjust, line[1:], others)])} |" for line in cells)
    return "\n".join([head, rule, *rows])
