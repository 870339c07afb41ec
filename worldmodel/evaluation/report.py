"""What an evaluation leaves: figures as JSON and as a table, drift curves, and videos of truth and models."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from lssvwm.worldmodel.common.atomic import replace
from lssvwm.worldmodel.common.errors import require
from lssvwm.worldmodel.evaluation.clips import IntArray
from lssvwm.worldmodel.evaluation.judging import Judged
from lssvwm.worldmodel.evaluation.trials import Trial
from lssvwm.worldmodel.reporting.statistics import Band, FloatArray, by_unit, student_band
from lssvwm.worldmodel.reporting.video import Panel, filmstrip, marked, montage, write_mp4, write_png

COLORS = ("#3b82f6", "#e8833a", "#2fa67a", "#a06cd5", "#d9536f", "#8a6d3b", "#17a2b8")
REFERENCE = "#80848f"
METRICS = {"psnr": "PSNR (dB)", "ssim": "SSIM", "lpips": "LPIPS", "nearest": "PSNR to the nearest real frame (dB)"}
FPS = 8
Table = tuple[tuple[str, ...], ...]
"""Lines of cells, the titles first."""
STILLS = 12
"""Frames of a clip in a strip of stills, about."""
LONG = 100
"""Frames from which on a drift curve has a logarithmic axis."""


def metrics_of(judged: Judged) -> dict[str, FloatArray]:
    """The metrics that a model has in a protocol, by name: arrays (clips, horizon)."""
    curve = judged.curve
    found = {
        "psnr": None if curve is None else curve.psnr_by_clip,
        "ssim": None if curve is None else curve.ssim_by_clip,
        "lpips": judged.lpips,
        "nearest": judged.nearest,
    }
    return {name: values for name, values in found.items() if values is not None}


def figures_of(judged: Judged) -> dict[str, Any]:
    """All figures of one model in one protocol: means with 95 % intervals over episodes, as a whole and by distance."""
    figures: dict[str, Any] = {
        name: {
            **summary(values, judged.episodes),
            "by_distance": interval_of(values, judged.episodes),
            "by_log_distance": {
                label: interval_of(over_time(values[:, first - 1 : last]), judged.episodes)
                for label, first, last in distances(values.shape[1])
            },
        }
        for name, values in metrics_of(judged).items()
    }
    if judged.fvd is not None:
        figures["fvd"] = judged.fvd
    if judged.heads is not None:
        figures["heads"] = judged.heads.to_dict()
    return figures


def summary(values: FloatArray, episodes: IntArray) -> dict[str, Any]:
    """Mean of (clips, horizon) over all steps, with its interval and the number of clips and episodes."""
    return {**interval_of(over_time(values), episodes), "clips": len(values)}


def interval_of(values: FloatArray, episodes: IntArray) -> dict[str, Any]:
    """Mean and Student's t interval of values (clips, ...) over the episodes that the clips are from."""
    band = student_band(by_unit(values, episodes))
    return {"mean": plain(band.mean), "low": plain(band.low), "high": plain(band.high), "episodes": plain(band.count)}


def distances(horizon: int) -> list[tuple[str, int, int]]:
    """Frames 1 to `horizon` in groups whose ends double: 1, 2, 3-4, 5-8, ... as (label, first, last)."""
    found, first = [], 1
    while first <= horizon:
        last = min(horizon, max(1, 2 * (first - 1)))
        found.append((str(first) if first == last else f"{first}-{last}", first, last))
        first = last + 1
    return found


def over_time(values: FloatArray) -> FloatArray:
    """Mean of every clip over its steps, NaNs left out: (clips, horizon) -> (clips,)."""
    return student_band(values.T).mean


def plain(value: Any) -> Any:
    """Numbers and arrays as JSON has them; what is not defined as None."""
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    if isinstance(value, Path):
        return str(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_results(path: Path, results: Mapping[str, Any]) -> None:
    """Write results as JSON, at once."""
    text = json.dumps(plain(results), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    replace(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def table(protocols: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> Table:
    """Figures by protocol and model: mean [95 % interval], and means by distance from the context."""
    found = [each for models in protocols.values() for figures in models.values() for each in figures.values()]
    widest: Mapping[str, Any] = max((each["by_log_distance"] for each in found if has_curve(each)), key=len, default={})
    lines = [("protocol", "model", "metric", "episodes", "clips", "mean", "95% interval", *widest)]
    for protocol, models in protocols.items():
        for model, figures in models.items():
            for metric, f in figures.items():
                if has_curve(f):
                    near = (f["by_log_distance"].get(label, {"mean": None})["mean"] for label in widest)
                    sizes = (str(f["episodes"]), str(f["clips"]))
                    lines.append((protocol, model, metric, *sizes, number(f["mean"]), spread(f), *map(number, near)))
            if "fvd" in figures:
                lines.append((protocol, model, "fvd", "", "", number(figures["fvd"]), "", *[""] * len(widest)))
    return tuple(lines)


def has_curve(figures: Any) -> bool:
    """Whether figures are those of a metric by distance."""
    return isinstance(figures, Mapping) and "by_log_distance" in figures


def spread(figures: Mapping[str, Any]) -> str:
    """Where an interval begins and ends."""
    return f"{number(figures['low'])} to {number(figures['high'])}"


def aligned(lines: Sequence[tuple[str, ...]]) -> str:
    """Rows of one length as text in columns."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


def number(value: float | None) -> str:
    """A figure with the digits that matter."""
    return "-" if value is None else f"{value:.2f}" if abs(value) >= 10 else f"{value:.3f}"


def plot_drift(path: Path, title: str, models: Mapping[str, Judged], references: Sequence[str]) -> None:
    """Write a PNG: every metric over the distance from the context, one line per model with its interval over episodes.

    `references` are drawn dashed and grey.
    """
    figure_module = require("matplotlib.figure", "video", "plots")
    metrics = {name: metrics_of(judged) for name, judged in models.items()}
    shown = [metric for metric in METRICS if any(metric in each for each in metrics.values())]
    figure = figure_module.Figure((4.8 * len(shown), 3.4), layout="constrained", dpi=150)
    colors = iter(COLORS * (1 + len(models) // len(COLORS)))
    styles = {name: (REFERENCE, "--") if name in references else (next(colors), "-") for name in models}
    for axes, metric in zip(np.atleast_1d(figure.subplots(1, len(shown))), shown, strict=True):
        for name, found in metrics.items():
            if metric in found:
                at, values = points_of(found[metric])
                draw_band(axes, at, student_band(by_unit(values, models[name].episodes)), name, *styles[name])
        axes.set_xlabel("frames after the context")
        if horizon_of(metrics) > LONG:
            axes.set_xscale("log")
        axes.set_ylabel(METRICS[metric])
        axes.grid(alpha=0.2)
        axes.spines[["top", "right"]].set_visible(False)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(4, len(labels)), frameon=False)
    figure.suptitle(title, fontsize=11)
    replace(path, lambda temporary: figure.savefig(temporary, format="png"))


def horizon_of(metrics: Mapping[str, Mapping[str, FloatArray]]) -> int:
    """The steps of the longest curve."""
    return max(int(values.shape[1]) for found in metrics.values() for values in found.values())


def points_of(values: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Where a curve (clips, horizon) has points, and their values: every step, or groups where there are many."""
    horizon = values.shape[1]
    if horizon <= LONG:
        return np.arange(1.0, horizon + 1), values
    groups = [(first, last) for _, first, last in distances(horizon)]
    means = [over_time(values[:, first - 1 : last]) for first, last in groups]
    return np.array([(first * last) ** 0.5 for first, last in groups]), np.stack(means, 1)


def draw_band(axes: Any, steps: FloatArray, band: Band, label: str, color: str, style: str) -> None:
    """One curve with its interval, which a reference goes without."""
    if color != REFERENCE:
        axes.fill_between(steps, band.low, band.high, color=color, alpha=0.15, linewidth=0)
    marker = "o" if len(steps) <= 12 else ""
    axes.plot(steps, band.mean, color=color, linestyle=style, linewidth=1.5, marker=marker, markersize=3, label=label)


def write_grid(folder: Path, name: str, trial: Trial, imagined: Mapping[str, Tensor], fps: float | None = None) -> None:
    """Write `grid-NAME.mp4`, truth and models side by side, a row per clip, and `strip-NAME.png`, stills of the first.

    `imagined` frames (clips, horizon, h, w, 3) by model, of the first clips of the trial. Frames of the context, which
    all of them were shown, have a colored border. `fps` is the rate of the world, where it is known.
    """
    clips = len(next(iter(imagined.values())))
    rows = [panels(trial, imagined, row) for row in range(clips)]
    video = np.concatenate([montage(row) for row in rows], axis=1)
    write_mp4(folder / f"grid-{name}.mp4", video, fps or FPS)
    length = len(rows[0][0].frames)
    write_png(folder / f"strip-{name}.png", filmstrip(rows[0], every=max(1, length // STILLS)))


def panels(trial: Trial, imagined: Mapping[str, Tensor], row: int) -> list[Panel]:
    """Truth and models of one clip, from the beginning of the context."""
    context = trial.context.frames[row].numpy()
    ahead = {"truth": trial.ahead.frames[row], **{name: frames[row] for name, frames in imagined.items()}}
    return [
        Panel(name, marked(np.concatenate([context, frames.numpy()]), len(context))) for name, frames in ahead.items()
    ]
