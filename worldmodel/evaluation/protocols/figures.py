"""What the protocols come to: figures for JSON and as a table, drift curves, and videos of truth and models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from lssvwm.worldmodel.evaluation.protocols.clips import IntArray
from lssvwm.worldmodel.evaluation.protocols.judging import Judged
from lssvwm.worldmodel.evaluation.protocols.trials import Trial
from lssvwm.worldmodel.reporting.plots import Line, Plot, plotted, write_plot
from lssvwm.worldmodel.reporting.results import plain
from lssvwm.worldmodel.reporting.statistics import Band, FloatArray, by_unit, student_band
from lssvwm.worldmodel.reporting.tables import Table, number, span
from lssvwm.worldmodel.reporting.video import Panel, filmstrip, marked, montage, write_mp4, write_png

METRICS = {"psnr": "PSNR (dB)", "ssim": "SSIM", "lpips": "LPIPS", "nearest": "PSNR to the nearest real frame (dB)"}
FPS = 8
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
    found: dict[str, Any] = plain(plain_band(student_band(by_unit(values, episodes))))
    return found


def plain_band(band: Band) -> dict[str, Any]:
    """A band over episodes, by the names that it has in JSON."""
    return {"mean": band.mean, "low": band.low, "high": band.high, "episodes": band.count}


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
                    told = (str(f["episodes"]), str(f["clips"]), number(f["mean"]), span(f["low"], f["high"]))
                    lines.append((protocol, model, metric, *told, *map(number, near)))
            if "fvd" in figures:
                lines.append((protocol, model, "fvd", "", "", number(figures["fvd"]), "", *[""] * len(widest)))
    return lines


def has_curve(figures: Any) -> bool:
    """Whether figures are those of a metric by distance."""
    return isinstance(figures, Mapping) and "by_log_distance" in figures


def plot_drift(path: Path, title: str, models: Mapping[str, Judged], references: Sequence[str]) -> None:
    """Write a PNG: every metric over the distance from the context, one line per model with its interval over episodes.

    `references` are drawn dashed and grey.
    """
    plots = []
    for metric, label in METRICS.items():
        known = {name: found[metric] for name, judged in models.items() if metric in (found := metrics_of(judged))}
        if known:
            lines = [
                Line(name, at, student_band(by_unit(means, models[name].episodes)), name in references)
                for name, values in known.items()
                for at, means in [points_of(values)]
            ]
            log = any(values.shape[1] > LONG for values in known.values())
            plots.append(Plot(lines, "frames after the context", label, log))
    write_plot(path, plotted(plots, title))


def points_of(values: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Where a curve (clips, horizon) has points, and their values: every step, or groups where there are many."""
    horizon = values.shape[1]
    if horizon <= LONG:
        return np.arange(1.0, horizon + 1), values
    groups = [(first, last) for _, first, last in distances(horizon)]
    means = [over_time(values[:, first - 1 : last]) for first, last in groups]
    return np.array([(first * last) ** 0.5 for first, last in groups]), np.stack(means, 1)


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
