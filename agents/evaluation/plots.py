"""Figures of evaluations: learning curves with bands, and imagined returns against real ones."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lssvwm.agents.evaluation.curves import Axis, Method, Metric, band, lines
from lssvwm.agents.report.plots import COLORS, styled, to_svg
from lssvwm.worldmodel.common.atomic import replace
from lssvwm.worldmodel.common.errors import InputError, require

AXES: Mapping[Axis, tuple[str, float]] = {
    "steps": ("real environment steps", 1.0),
    "seconds": ("wall-clock, minutes", 60.0),
}
LABELS: Mapping[Metric, str] = {"success": "success rate", "return": "mean return"}


def plot_comparison(path: Path, methods: Sequence[Method], metric: Metric, threshold: float | None) -> None:
    """Methods in one plot per axis, as `path`.svg and `path`.png: means and bands over runs, runs as thin lines.

    The wall-clock is left out where a method's runs do not know theirs.
    """
    drawn = {
        axis: {method.name: found for method in methods if (found := lines(method, axis, metric)) is not None}
        for axis in AXES
    }
    shown = [axis for axis in AXES if len(drawn[axis]) == len(methods)]
    with styled():
        figure, panels = _figure(len(shown))
        for axes, axis in zip(panels, shown, strict=True):
            label, unit = AXES[axis]
            for index, (name, runs) in enumerate(drawn[axis].items()):
                color = COLORS[index % len(COLORS)]
                over = band(runs)
                x = over.x / unit
                if over.low is not None:
                    axes.fill_between(x, over.low, over.high, color=color, alpha=0.2, linewidth=0)
                    for run in runs:
                        axes.plot(run.x / unit, run.y, color=color, linewidth=0.6, alpha=0.5)
                runs_text = "1 run" if over.count == 1 else f"{over.count} runs"
                axes.plot(x, over.mean, color=color, marker="o", markersize=3, label=f"{name} ({runs_text})")
            if threshold is not None:
                axes.axhline(threshold, linewidth=0.8, linestyle=":", color=COLORS[-1])
            axes.set_xlabel(label)
            axes.set_ylabel(LABELS[metric])
            if metric == "success":
                axes.set_ylim(-0.03, 1.03)
            axes.locator_params(axis="x", nbins=5)
            axes.xaxis.set_major_formatter(require("matplotlib.ticker", "video", "plots").EngFormatter(sep=""))
        panels[0].legend(frameon=False, fontsize=8)
        _write(path, figure)


def plot_gap(path: Path, points: Mapping[str, Sequence[tuple[float, float]]]) -> None:
    """Pairs (imagined, real) of mean returns, a color for each name; on the line nothing is exploited."""
    if not any(points.values()):
        raise InputError("there are no pairs of imagined and real returns to draw")
    with styled():
        figure, (axes,) = _figure(1)
        for index, (name, pairs) in enumerate(points.items()):
            if pairs:
                x, y = zip(*pairs, strict=True)
                axes.scatter(x, y, s=22, color=COLORS[index % len(COLORS)], label=name)
        low, high = axes.dataLim.min.min(), axes.dataLim.max.max()
        axes.plot([low, high], [low, high], linewidth=0.8, linestyle=":", color=COLORS[-1])
        axes.set_xlabel("mean return in its own dreams")
        axes.set_ylabel("mean real return")
        axes.legend(frameon=False, fontsize=8)
        _write(path, figure)


def _figure(count: int) -> tuple[Any, list[Any]]:
    figure = require("matplotlib.figure", "video", "plots").Figure((0.6 + 4.2 * count, 3.0), layout="constrained")
    return figure, list(figure.subplots(1, count, squeeze=False)[0])


def _write(path: Path, figure: Any) -> None:
    """An SVG for pages, which takes their colors, and a PNG on white for everything else."""
    picture = to_svg(figure)
    replace(path.with_suffix(".svg"), lambda temporary: temporary.write_bytes(picture))
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=160, facecolor="white", metadata={"Software": None})
    replace(path.with_suffix(".png"), lambda temporary: temporary.write_bytes(buffer.getvalue()))
