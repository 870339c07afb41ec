"""Tables, curves and stills of a finished comparison."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

matplotlib.use("Agg")
from matplotlib import pyplot as plt

BEGIN, END = "<!-- comparison: begin -->", "<!-- comparison: end -->"
BANDS = ((1, 4), (5, 8), (9, 15))
"""Steps after the context, both included."""
STUDENT = {2: 12.71, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365, 9: 2.306, 10: 2.262}
"""0.975 quantile of Student's t for so many seeds."""
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
        lines += ["", f"### {protocol.capitalize()}", "", *table(figures, names, seeds, protocol)]
    lines += ["", f"![PSNR by distance from the context]({curves.name})", "", f"![Stills]({stills.name})"]
    text = page.read_text()
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    page.write_text(before + BEGIN + "\n" + "\n".join(lines) + "\n" + END + after)


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


def interval(by_seed: Values, digits: int) -> str:
    """Mean ± half of the 95 % interval."""
    half = STUDENT[len(by_seed)] * by_seed.std(ddof=1) / len(by_seed) ** 0.5 if len(by_seed) > 1 else float("nan")
    return f"{by_seed.mean():.{digits}f} ± {half:.{digits}f}"


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
    rows = []
    for name in names:
        with np.load(out / "runs" / f"{name}-0" / "retrieval.npz") as saved:
            truth, imagined = saved["truth"][0], saved["imagined"][0]
        if not rows:
            rows.append(("truth", truth[columns]))
        rows.append((name, imagined[columns]))
    side, margin, head = 84, 110, 18
    sheet = Image.new("RGB", (margin + side * len(columns), head + side * len(rows)), (23, 24, 28))
    pen = ImageDraw.Draw(sheet)
    for column, step in enumerate(SHOWN):
        pen.text((margin + column * side + 4, 3), f"+{step}", fill=(200, 200, 205))
    for row, (label, frames) in enumerate(rows):
        pen.text((6, head + row * side + side // 2 - 6), label, fill=(236, 237, 240))
        for column, frame in enumerate(frames):
            picture = Image.fromarray(frame).resize((side - 4, side - 4), Image.Resampling.NEAREST)
            sheet.paste(picture, (margin + column * side + 2, head + row * side + 2))
    sheet.save(path)
