"""Tables, curves and stills of the memory tasks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import matplotlib
import numpy as np
from numpy.typing import NDArray

from benchmarks.minetest_memory.judging import Result, Scores
from benchmarks.minetest_memory.sights import FloatArray
from benchmarks.minetest_memory.tasks import CONTEXT
from benchmarks.shared.page import fill, interval, sheet

matplotlib.use("Agg")
from matplotlib import pyplot as plt

SECTION = "minetest-memory"
REFERENCE = "lssvwm"
BIN = 4
"""Frames that a point of the curve stands for."""
SHOWN = 10
DRAWN = {"mean frame": "-", "last frame, repeated": ":", "through the tokenizer": "--"}
"""References in the plot; the view as last seen would lie far above."""


def write_section(page: Path, results: Mapping[str, Result]) -> None:
    """Replace what lies between the markers of `page`, and the pictures beside it."""
    curves = page.with_name(f"{page.stem}-minetest-curves.png")
    plot(results, curves)
    lines: list[str] = []
    for task, result in results.items():
        stills = page.with_name(f"{page.stem}-minetest-{task.lower()}.png")
        show(result, stills)
        lines += [
            f"## {task}",
            "",
            *summary(result),
            "",
            *table(result),
            "",
            f"![Stills of {task}]({stills.name})",
            "",
        ]
    fill(page, SECTION, [*lines, f"![PSNR by frames since the view was last seen]({curves.name})"])


def summary(result: Result) -> list[str]:
    """What was trained and judged, in one paragraph."""
    clips, horizon = result.ago.shape
    beyond, within, never = (int(each.sum()) for each in result.bands)
    first = next(iter(result.runs.values()))
    seeds = f"{len(first)} seeds" if len(first) > 1 else "one seed"
    trained = "; ".join(
        f"{name}: {runs[0]['config']['layers']} layers, {runs[0]['steps']} steps, "
        f"{np.mean([run['cpu_seconds'] for run in runs]):.0f} CPU seconds"
        for name, runs in result.runs.items()
    )
    return [
        f"{clips} unseen clips of {CONTEXT} frames of context and {horizon} to continue: {beyond} frames show a view "
        f"that was last seen more than {result.reach} frames before, {within} one last seen within {result.reach}, "
        f"{never} one that the context does not have. {seeds.capitalize()}, {first[0]['parameters'] / 1e6:.2f} M "
        f"parameters within 1 %; {trained}. Mean and 95 % interval (Student's t over seeds).",
    ]


def table(result: Result) -> list[str]:
    """The headline first: the frames that the limited window cannot know."""
    far = f"seen > {result.reach} before"
    titles = [f"PSNR, {far}", f"SSIM, {far}", f"PSNR, seen <= {result.reach} before", "PSNR, never seen"]
    lines = [f"| | {' | '.join(titles)} | LSSVWM better by, {far} |", "|---" * 6 + "|"]
    best = result.models.get(REFERENCE)
    for name, scores in result.models.items():
        ahead = ""
        if best is not None and name != REFERENCE:
            gained = over(best.psnr, result.bands.beyond) - over(scores.psnr, result.bands.beyond)
            ahead = f"{told(gained, 1)} dB"
        lines.append(f"| {name} | {' | '.join(cells(result, scores))} | {ahead} |")
    for name, scores in result.references.items():
        lines.append(f"| *{name}* | {' | '.join(cells(result, scores, spread=False))} | |")
    return lines


def cells(result: Result, scores: Scores, *, spread: bool = True) -> list[str]:
    beyond, within, never = result.bands
    return [
        told(over(scores.psnr, beyond), 1, spread=spread),
        told(over(scores.ssim, beyond), 3, spread=spread),
        told(over(scores.psnr, within), 1, spread=spread),
        told(over(scores.psnr, never), 1, spread=spread),
    ]


def over(values: FloatArray, where: NDArray[np.bool_]) -> FloatArray:
    """Mean over the frames `where` (clips, horizon), by seed: (seeds, clips, horizon) -> (seeds,); NaN without any."""
    chosen = values[:, where]
    return chosen.mean(1) if chosen.shape[1] else np.full(len(values), np.nan)


def told(by_seed: FloatArray, digits: int, *, spread: bool = True) -> str:
    if np.isnan(by_seed).any():
        return "-"
    return interval(by_seed, digits) if spread and len(by_seed) > 1 else f"{by_seed.mean():.{digits}f}"


def plot(results: Mapping[str, Result], path: Path) -> None:
    """PSNR by frames since the view was last seen, with the spread over seeds."""
    fig, axes = plt.subplots(1, len(results), figsize=(5.5 * len(results), 4), layout="constrained", squeeze=False)
    for axis, (task, result) in zip(axes[0], results.items(), strict=True):
        starts = np.arange(1, result.ago.max() + 1, BIN)
        groups = [(result.ago >= start) & (result.ago < start + BIN) for start in starts]
        groups, starts = [g for g in groups if g.any()], starts[[bool(g.any()) for g in groups]]
        middle = starts + (BIN - 1) / 2
        for name, scores in result.models.items():
            psnr = np.array([over(scores.psnr, group) for group in groups])  # (bins, seeds)
            (line,) = axis.plot(middle, psnr.mean(1), label=name, linewidth=2.5 if name == REFERENCE else 1.3)
            axis.fill_between(middle, psnr.min(1), psnr.max(1), color=line.get_color(), alpha=0.12, linewidth=0)
        for name, style in DRAWN.items():
            psnr = np.array([over(result.references[name].psnr, group).mean() for group in groups])
            axis.plot(middle, psnr, label=name, color="0.6", linestyle=style, linewidth=1)
        axis.axvline(result.reach + 0.5, color="0.6", linewidth=0.8)
        axis.set(
            title=f"{task}: the window reaches {result.reach} frames", xlabel="frames since the view was last seen"
        )
    axes[0, 0].set_ylabel("PSNR, dB")
    axes[0, -1].legend(fontsize=8)
    fig.savefig(path, dpi=110)
    plt.close(fig)


def show(result: Result, path: Path) -> None:
    """The clip with most views last seen beyond the window's reach: the truth and what every model made of it."""
    clip = int(result.bands.beyond.sum(1).argmax())
    columns = np.unique(np.linspace(0, result.ago.shape[1] - 1, SHOWN).round().astype(int))
    ago = result.ago[clip, columns]
    titles = [f"+{step + 1}: {f'{k} ago' if k else 'new'}" for step, k in zip(columns, ago, strict=True)]
    rows = {"truth": result.truth[clip, columns]}
    rows |= {name: frames[clip, columns] for name, frames in result.imagined.items()}
    sheet(rows, titles, path)
