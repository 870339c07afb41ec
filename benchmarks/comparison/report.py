"""Tables, curves and stills of a finished comparison."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from numpy.typing import NDArray

from benchmarks.shared.page import fill, interval, markers, sheet

matplotlib.use("Agg")
from matplotlib import pyplot as plt

BEGIN, END = markers("comparison")
BANDS = ((1, 4), (5, 8), (9, 15))
"""Steps after the context, both included."""
SHOWN = (1, 2, 4, 6, 8, 10, 12, 14, 15)
REFERENCE = "lssvwm"

Figures = dict[tuple[str, int], dict[str, Any]]
Values = NDArray[np.float64]


def write_report(out: Path, names: list[str], seeds: int, page: Path, *, context: int, window: int) -> None:
    """Replace what lies between the markers of `page`, and the pictures beside it."""
    figures: Figures = {
        (name, seed): json.loads((out / "runs" / f"{name}-{seed}" / "figures.json").read_text())
        for name in names
        for seed in range(seeds)
    }
    curves = page.with_name(f"{page.stem}-curves.png")
    stills = page.with_name(f"{page.stem}-frames.png")
    plot(figures, names, seeds, curves, window)
    show(out, names, stills)
    first = next(iter(figures.values()))
    lines = [
        f"{seeds} seeds; {context} frames of context; {first['parameters'] / 1e6:.2f} M parameters within 1 %; "
        "mean and 95 % interval (Student's t over seeds).",
        "",
        "| model | layers | training steps | CPU seconds |",
        "|---|---|---|---|",
    ]
    for name in names:
        own = figures[name, 0]
        spent = np.mean([figures[name, seed]["cpu_seconds"] for seed in range(seeds)])
        lines.append(f"| {name} | {own['config']['layers']} | {own['steps']} | {spent:.0f} |")
    for protocol in ("retrieval", "reasoning"):
        lines += ["", f"## {protocol.capitalize()}", "", *table(figures, names, seeds, protocol)]
    lines += ["", f"![PSNR by distance from the context]({curves.name})", "", f"![Stills]({stills.name})"]
    fill(page, "comparison", lines)


def table(figures: Figures, names: list[str], seeds: int, protocol: str) -> list[str]:
    """PSNR by distance and over all, SSIM over all, and by how many decibels LSSVWM is better."""
    titles = [f"PSNR {first}-{last}" for first, last in BANDS]
    lines = [f"| model | {' | '.join(titles)} | PSNR, all | SSIM, all | LSSVWM better by |", "|---" * 7 + "|"]
    for name in names:
        psnr, ssim = (values(figures, name, seeds, protocol, metric) for metric in ("psnr", "ssim"))
        bands = [interval(psnr[:, first - 1 : last].mean(1), 1) for first, last in BANDS]
        better = values(figures, REFERENCE, seeds, protocol, "psnr").mean(1) - psnr.mean(1)
        ahead = "" if name == REFERENCE else f"{interval(better, 1)} dB"
        total = f"{interval(psnr.mean(1), 1)} | {interval(ssim.mean(1), 3)}"
        lines.append(f"| {name} | {' | '.join(bands)} | {total} | {ahead} |")
    return lines


def values(figures: Figures, name: str, seeds: int, protocol: str, metric: str) -> Values:
    """(seeds, horizon)."""
    return np.array([figures[name, seed][protocol][metric] for seed in range(seeds)])


def plot(figures: Figures, names: list[str], seeds: int, path: Path, window: int) -> None:
    """Drift curves with the spread over seeds."""
    fig, axes = plt.subplots(1, 2, figsize=(11, 4), sharey=True, layout="constrained")
    for axis, protocol in zip(axes, ("retrieval", "reasoning"), strict=True):
        for name in names:
            psnr = values(figures, name, seeds, protocol, "psnr")
            steps = np.arange(1, psnr.shape[1] + 1)
            style = {"linewidth": 2.5 if name == REFERENCE else 1.3, "linestyle": "-" if name in names[:5] else ":"}
            (line,) = axis.plot(steps, psnr.mean(0), label=name, **style)
            axis.fill_between(steps, psnr.min(0), psnr.max(0), color=line.get_color(), alpha=0.12, linewidth=0)
        axis.set(title=protocol, xlabel="frames after the context")
    out_of_sight = (window + 1) / 2
    axes[0].axvline(out_of_sight, color="0.6", linewidth=0.8)
    axes[0].text(out_of_sight + 0.3, axes[0].get_ylim()[0], "out of causal-window's sight", fontsize=8)
    axes[0].set_ylabel("PSNR, dB")
    axes[1].legend(fontsize=8)
    fig.savefig(path, dpi=110)
    plt.close(fig)


def show(out: Path, names: list[str], path: Path) -> None:
    """The first unseen clip, retraced: the truth and what every model made of it."""
    columns = [step - 1 for step in SHOWN]
    rows = {}
    for name in names:
        with np.load(out / "runs" / f"{name}-0" / "retrieval.npz") as saved:
            rows.setdefault("truth", saved["truth"][0][columns])
            rows[name] = saved["imagined"][0][columns]
    sheet(rows, [f"+{step}" for step in SHOWN], path)
