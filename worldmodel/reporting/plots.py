"""Curves with their intervals, drawn to stand on a light and on a dark page."""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lssvwm.worldmodel.common.atomic import replace
from lssvwm.worldmodel.common.errors import require
from lssvwm.worldmodel.reporting.statistics import Band, FloatArray

# Matplotlib knows no currentColor: this one stands for it and is replaced in the SVG, whose axes and text then take
# the color of the page around them.
INK = "#010203"
COLORS = ("#3b82f6", "#e8833a", "#2fa67a", "#a06cd5", "#d9536f", "#8a6d3b", "#17a2b8")
DASHES = ("-", ":", "-.")
"""Of the lines for which there were no colors left, and of those after them."""
REFERENCE = "#80848f"
MARKED = 12
"""Points of a line up to which each is marked."""
THOUSANDS = 10_000
"""Where numbers along x begin to be written as 10k."""
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "lssvwm",  # the same input gives the same bytes
    "text.parse_math": False,  # labels are data: a $ in them is a $
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": INK,
    "grid.alpha": 0.12,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "axes.titlelocation": "left",
    "axes.titlesize": 10.5,
    "axes.titlepad": 8,
    "legend.frameon": False,
    "legend.fontsize": 8,
}


@dataclass(frozen=True)
class Line:
    """One curve over x (n,), with its interval where it has one. A reference is dashed and grey."""

    label: str
    x: Sequence[float] | FloatArray
    band: Band
    reference: bool = False
    single: Sequence[tuple[FloatArray, FloatArray]] = ()
    """What it is the mean of, drawn thin."""


@dataclass(frozen=True)
class Plot:
    """Curves over the same axes. Lines of one label look the same in all plots of a figure, and no two of 21 alike."""

    lines: Sequence[Line]
    x: str
    y: str = ""
    log: bool = False
    """Whether x is logarithmic."""
    limits: tuple[float, float] | None = None
    """Of y."""


def constant(label: str, x: Sequence[float] | FloatArray, value: float) -> Line:
    """A reference at one height."""
    return Line(label, x, alone(np.full(len(x), value)), reference=True)


def alone(values: Sequence[float] | FloatArray) -> Band:
    """Figures without an interval."""
    nothing = np.full(len(values), np.nan)
    return Band(np.array(values, np.float64), nothing, nothing, np.ones(len(values), np.int64))


def plotted(plots: Sequence[Plot], title: str = "", *, width: float = 4.8, height: float = 3.4) -> Any:
    """A figure of plots side by side, each of so many inches, with a legend below where there are several lines."""
    numbers: dict[str, int] = {}
    with styled():
        figure, panels = new_figure(width, height, len(plots))
        for axes, plot in zip(panels, plots, strict=True):
            for line in plot.lines:
                number = -1 if line.reference else numbers.setdefault(line.label, len(numbers))
                _draw(axes, line, number)
            axes.set(xlabel=plot.x, ylabel=plot.y, ylim=plot.limits)
            if plot.log:
                axes.set_xscale("log")
                continue
            axes.locator_params(nbins=round(1.5 * width))
            if axes.dataLim.max[0] >= THOUSANDS:
                axes.xaxis.set_major_formatter(require("matplotlib.ticker", "video", "plots").EngFormatter(sep=""))
        if title and len(plots) == 1:
            panels[0].set_title(title)
        elif title:
            figure.suptitle(title)
        handles = {label: h for axes in panels for h, label in zip(*axes.get_legend_handles_labels(), strict=True)}
        if len(handles) > 1:
            columns = max(1, min(len(handles), int(width * len(plots) / 2.4)))
            figure.legend(handles.values(), handles, loc="outside lower center", ncols=columns)
    return figure


def _draw(axes: Any, line: Line, number: int) -> None:
    color, dashes, width = REFERENCE, "--", 1.0
    if not line.reference:
        color, dashes, width = COLORS[number % len(COLORS)], DASHES[number // len(COLORS) % len(DASHES)], 1.4
    band, marker = line.band, "o" if len(line.x) <= MARKED and not line.reference else ""
    style: dict[str, Any] = {"linestyle": dashes, "linewidth": width}
    if not line.reference and np.isfinite(band.low).any():
        axes.fill_between(line.x, band.low, band.high, color=color, alpha=0.2, linewidth=0)
    for x, y in line.single:
        axes.plot(x, y, color=color, linewidth=0.6, alpha=0.5)
    axes.plot(line.x, band.mean, color=color, marker=marker, markersize=3.5, label=line.label, **style)


def styled() -> AbstractContextManager[None]:
    """The one style, for everything drawn or written inside."""
    context: AbstractContextManager[None] = require("matplotlib", "video", "plots").rc_context(STYLE)
    return context


def new_figure(width: float, height: float, count: int = 1) -> tuple[Any, list[Any]]:
    """A figure with `count` pairs of axes side by side, each of so many inches."""
    # A figure of its own, not one of pyplot's: nothing to close, and no window system to choose.
    figure = require("matplotlib.figure", "video", "plots").Figure((width * count, height), layout="constrained")
    return figure, list(figure.subplots(1, count, squeeze=False)[0])


def to_svg(figure: Any) -> bytes:
    """The SVG of a figure, on no background, in the color of the page around it."""
    buffer = io.BytesIO()
    with styled():
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return buffer.getvalue().replace(INK.encode(), b"currentColor")


def write_plot(path: Path, figure: Any) -> None:
    """Write a figure: an SVG for pages, which takes their colors, or a PNG on white, by the ending of `path`."""
    if path.suffix == ".svg":
        data = to_svg(figure)
    else:
        buffer = io.BytesIO()
        with styled():
            figure.savefig(buffer, format="png", dpi=160, facecolor="white", metadata={"Software": None})
        data = buffer.getvalue()
    replace(path, lambda temporary: temporary.write_bytes(data))
