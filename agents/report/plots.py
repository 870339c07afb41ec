"""Learning curves and returns as SVG, drawn to stand on a light and on a dark page."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]

from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.reporting.plots import COLORS, Line, Plot, alone, new_figure, plotted, styled, to_svg
from lssvwm.worldmodel.reporting.statistics import Band, Interval
from lssvwm.worldmodel.reporting.tables import estimate

BUCKETS = 200


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
    lines = [line_of(label, curve) for label, curve in curves.items()]
    return to_svg(plotted([Plot(lines, "step")], title, width=3.6, height=2.2))


def line_of(label: str, curve: Curve) -> Line:
    """A curve through the means of at most 200 stretches of neighbouring points."""
    if len(curve.steps) <= BUCKETS:
        return Line(label, curve.steps, alone(curve.values))
    steps, parts = (np.array_split(np.array(each), BUCKETS) for each in (curve.steps, curve.values))
    mean, low, high = (np.array([of(part) for part in parts]) for of in (np.mean, np.min, np.max))
    return Line(label, [float(part.mean()) for part in steps], Band(mean, low, high, np.array(list(map(len, parts)))))


def plot_returns(entries: Sequence[tuple[str, Interval, Sequence[float]]]) -> bytes:
    """Per entry (label, interval of the mean, return of every episode) one row of a dot plot, as SVG.

    Episodes are faint dots, the mean is a large one, and its interval a bar.
    """
    with styled():
        figure, (axes,) = new_figure(5.0, 0.45 + 0.75 * len(entries))
        for row, (label, interval, returns) in enumerate(entries):
            # Many episodes share a return; the golden ratio spreads them evenly over the row, every time the same way.
            spread = (np.arange(len(returns)) * 0.618034 % 1 - 0.5) * 0.44
            axes.scatter(returns, row + spread, s=9, color=COLORS[0], alpha=0.35, linewidth=0)
            axes.plot([interval.low, interval.high], [row, row], color=COLORS[1], linewidth=3, solid_capstyle="round")
            axes.plot([interval.mean], [row], color=COLORS[1], marker="o", markersize=7)
            place = {"transform": axes.get_yaxis_transform(), "va": "bottom"}
            axes.text(0, row - 0.32, label, ha="left", fontweight="bold", **place)
            axes.text(1, row - 0.32, estimate(interval.mean, interval.low, interval.high), ha="right", **place)
        axes.set_ylim(len(entries) - 0.6, -0.62)
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.margins(x=0.03)
        axes.set_xlabel("return of an episode")
    return to_svg(figure)
