"""Learning curves and returns as SVG, drawn to stand on a light and on a dark page."""

from __future__ import annotations

import functools
import io
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]

from lssvwm.worldmodel.common.errors import InputError, require
from lssvwm.worldmodel.reporting.statistics import Interval

# Matplotlib knows no currentColor: this one stands for it and is replaced in the SVG, whose axes and text then take
# the color of the page around them.
INK = "#010203"
COLORS = ("#3b82f6", "#e8833a", "#2fa67a", "#a06cd5", "#d9536f")
BUCKETS = 200
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
}


@dataclass(frozen=True)
class Curve:
    """One logged quantity: strictly rising `steps` and as many `values`."""

    steps: tuple[int, ...]
    values: tuple[float, ...]


def read_curves(tensorboard_folder: Path) -> dict[str, Curve]:
    """The scalars in a folder of TensorBoard event files, by tag in alphabetical order.

    A run that was stopped and resumed leaves several files, in which steps repeat: the value logged last counts, and
    what a writer took back with `purge_step` is gone. A file whose end was lost with its process is read as far as it
    goes. No such folder is an `InputError`; one without scalars has no curves.
    """
    if not tensorboard_folder.is_dir():
        raise InputError(f"{tensorboard_folder} is no folder: name the one that holds the TensorBoard event files")
    events = EventAccumulator(str(tensorboard_folder), size_guidance={"scalars": 0, "images": 1})  # 0: every point
    events.Reload()
    curves = {}
    for tag in sorted(events.Tags()["scalars"]):
        last = {event.step: event.value for event in sorted(events.Scalars(tag), key=lambda e: e.wall_time)}
        steps = tuple(sorted(last))
        curves[tag] = Curve(steps, tuple(last[step] for step in steps))
    return curves


@functools.lru_cache(maxsize=64)  # of a growing report most curves have ended, and drawing takes most of its time
def plot_curve(curve: Curve, title: str) -> bytes:
    """One curve as SVG."""
    return plot_curves({title: curve}, title)


def plot_curves(curves: Mapping[str, Curve], title: str) -> bytes:
    """Curves over steps in one plot, as SVG; with a legend when there are several.

    Of more than 200 points, the line shows means over neighbours and the band their range.
    """
    with styled():
        figure, axes = new_figure(3.6, 2.2)
        axes.set_title(title)
        for index, (label, curve) in enumerate(curves.items()):
            draw_curve(axes, curve, label, COLORS[index % len(COLORS)])
        axes.set_xlabel("step")
        axes.locator_params(axis="both", nbins=5)
        axes.xaxis.set_major_formatter(require("matplotlib.ticker", "video", "plots").EngFormatter(sep=""))
        if len(curves) > 1:
            axes.legend(frameon=False, fontsize=8)
        return to_svg(figure)


def draw_curve(axes: Any, curve: Curve, label: str, color: str) -> None:
    """One curve as a line, through the means of at most 200 stretches of neighbouring points."""
    count = max(1, min(BUCKETS, len(curve.steps)))
    steps, values = np.array_split(curve.steps, count), np.array_split(curve.values, count)
    centers, means = ([part.mean() for part in parts if len(part)] for parts in (steps, values))
    if len(curve.steps) > BUCKETS:
        lows, highs = [part.min() for part in values], [part.max() for part in values]
        axes.fill_between(centers, lows, highs, color=color, alpha=0.2, linewidth=0)
    axes.plot(
        centers, means, color=color, linewidth=1.4, marker="o" if count <= 12 else "", markersize=3.5, label=label
    )


def plot_returns(entries: Sequence[tuple[str, Interval, Sequence[float]]]) -> bytes:
    """Per entry (label, interval of the mean, return of every episode) one row of a dot plot, as SVG.

    Episodes are faint dots, the mean is a large one, and its interval a bar.
    """
    with styled():
        figure, axes = new_figure(5.0, 0.45 + 0.75 * len(entries))
        for row, (label, interval, returns) in enumerate(entries):
            # Many episodes share a return; the golden ratio spreads them evenly over the row, every time the same way.
            spread = (np.arange(len(returns)) * 0.618034 % 1 - 0.5) * 0.44
            axes.scatter(returns, row + spread, s=9, color=COLORS[0], alpha=0.35, linewidth=0)
            axes.plot([interval.low, interval.high], [row, row], color=COLORS[1], linewidth=3, solid_capstyle="round")
            axes.plot([interval.mean], [row], color=COLORS[1], marker="o", markersize=7)
            text = f"{number(interval.mean)}  [{number(interval.low)}, {number(interval.high)}]"
            place = {"transform": axes.get_yaxis_transform(), "va": "bottom"}
            axes.text(0, row - 0.32, label, ha="left", fontweight="bold", **place)
            axes.text(1, row - 0.32, text, ha="right", **place)
        axes.set_ylim(len(entries) - 0.6, -0.62)
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.margins(x=0.03)
        axes.set_xlabel("return of an episode")
        return to_svg(figure)


def number(value: float) -> str:
    """A return with as many digits as help."""
    return f"{value:,.3f}" if abs(value) < 10 else f"{value:,.1f}"


def styled() -> AbstractContextManager[None]:
    """The style of the page, for everything drawn inside."""
    context: AbstractContextManager[None] = require("matplotlib", "video", "plots").rc_context(STYLE)
    return context


def new_figure(width: float, height: float) -> tuple[Any, Any]:
    """A figure of that many inches, with one pair of axes."""
    # A figure of its own, not one of pyplot's: nothing to close, and no window system to choose.
    figure = require("matplotlib.figure", "video", "plots").Figure((width, height), layout="constrained")
    return figure, figure.subplots()


def to_svg(figure: Any) -> bytes:
    """The SVG of a figure, on no background."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return buffer.getvalue().replace(INK.encode(), b"currentColor")
