"""Figures of evaluations: learning curves with bands, and imagined returns against real ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lssvwm.agents.evaluation.comparison.curves import Axis, Line, Method, Metric, band, lines
from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.reporting import plots

AXES: Mapping[Axis, tuple[str, float]] = {
    "steps": ("real environment steps", 1.0),
    "seconds": ("wall-clock, minutes", 60.0),
}
LABELS: Mapping[Metric, str] = {"success": "success rate", "return": "mean return"}


def plot_comparison(path: Path, methods: Sequence[Method], metric: Metric, threshold: float | None) -> None:
    """Methods in one plot per axis, as `path`.svg and `path`.png: means and bands over runs, runs as thin lines.

    The wall-clock is left out where a method's runs do not know theirs.
    """
    shown = []
    for axis, (label, unit) in AXES.items():
        known = [(method.name, runs) for method in methods if (runs := lines(method, axis, metric)) is not None]
        if len(known) < len(methods):
            continue
        drawn = [mean_line(name, runs, unit) for name, runs in known]
        if threshold is not None:
            x = np.concatenate([line.x for line in drawn])
            drawn.append(plots.constant(f"threshold {threshold:.3g}", [x.min(), x.max()], threshold))
        limits = (-0.03, 1.03) if metric == "success" else None
        shown.append(plots.Plot(drawn, label, LABELS[metric], limits=limits))
    _write(path, plots.plotted(shown))


def mean_line(name: str, runs: Sequence[Line], unit: float) -> plots.Line:
    """The mean over runs with its band, and the runs where there are several."""
    over, several = band(runs), len(runs) > 1
    single = [(run.x / unit, run.y) for run in runs] if several else []
    return plots.Line(f"{name} ({len(runs)} run{'s' * several})", over.x / unit, over.band, single=single)


def plot_gap(path: Path, points: Mapping[str, Sequence[tuple[float, float]]]) -> None:
    """Pairs (imagined, real) of mean returns, a color for each name; on the line nothing is exploited."""
    if not any(points.values()):
        raise InputError("there are no pairs of imagined and real returns to draw")
    with plots.styled():
        figure, (axes,) = plots.new_figure(4.8, 3.4)
        for index, (name, pairs) in enumerate(points.items()):
            if pairs:
                x, y = zip(*pairs, strict=True)
                axes.scatter(x, y, s=22, color=plots.COLORS[index % len(plots.COLORS)], label=name)
        ends = [axes.dataLim.min.min(), axes.dataLim.max.max()]
        axes.plot(ends, ends, linewidth=1, linestyle="--", color=plots.REFERENCE)
        axes.set(xlabel="mean return in its own dreams", ylabel="mean real return")
        axes.legend()
    _write(path, figure)


def _write(path: Path, figure: Any) -> None:
    for ending in (".svg", ".png"):
        plots.write_plot(path.with_suffix(ending), figure)
