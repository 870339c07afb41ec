"""How much training buys: retrieval within and beyond the window after 3, 10, 30 and 90 CPU minutes.

    python -m benchmarks.comparison.curve --out runs/comparison [--variants lssvwm causal-full] [--seeds 3] [--jobs 2]

On the episodes and with the settings of `benchmarks.comparison`, of which it fills another section of the page. Every
point is a training of its own, whose learning rates fall over its last third; a run that was interrupted goes on, and
what is done is not done again. The cost of a step is measured for all variants in turns, and kept.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.comparison.__main__ import CONTEXT, EPISODES, UNSEEN, UNSEEN_SEED, costs, record_episodes, run
from benchmarks.comparison.report import BANDS
from benchmarks.shared.page import fill, interval
from benchmarks.shared.training import spawn
from lssvwm.worldmodel.presets import VARIANTS
from lssvwm.worldmodel.reporting.statistics import student_band

matplotlib.use("Agg")
from matplotlib import pyplot as plt

SECTION = "comparison-curve"
SIDES = {"within the window": BANDS[0], "beyond the window": BANDS[-1]}
"""Steps of the way back: their frames were seen up to 8, and 18 frames or more before."""

Figures = dict[tuple[str, float, int], dict[str, Any]]
"""What `run` found, by variant, CPU minutes and seed."""


def runs_of(minutes: float) -> str:
    """Folder of the runs of one budget."""
    return f"curve/{minutes:g}min"


def start(out: Path, name: str, minutes: float, seed: int, steps: int) -> None:
    if not (out / runs_of(minutes) / f"{name}-{seed}" / "figures.json").exists():
        job = (name, str(minutes), str(seed), str(steps))
        spawn("benchmarks.comparison.curve", "--out", str(out), "--run", *job)
        print(f"done: {name}, {minutes:g} CPU minutes, seed {seed}, {steps} steps", flush=True)


def collect(out: Path, names: Sequence[str], minutes: Sequence[float], seeds: int) -> Figures:
    return {
        (name, budget, seed): json.loads((out / runs_of(budget) / f"{name}-{seed}" / "figures.json").read_text())
        for name in names
        for budget in minutes
        for seed in range(seeds)
    }


def side(figures: Figures, name: str, minutes: float, seeds: int, band: tuple[int, int]) -> NDArray[np.float64]:
    """PSNR of retrieval over the steps of a band, (seeds,)."""
    curves = [figures[name, minutes, seed]["retrieval"]["psnr"] for seed in range(seeds)]
    return np.array(curves)[:, band[0] - 1 : band[1]].mean(1)


def lines_of(figures: Figures, names: Sequence[str], minutes: Sequence[float], seeds: int, picture: str) -> list[str]:
    """The section: what it is of, and PSNR by budget."""
    titles = [f"{which}, {budget:g} min" for which in SIDES for budget in minutes]
    lines = [
        f"Retrieval PSNR in dB on {UNSEEN} unseen episodes, {CONTEXT} frames of context; {seeds} seeds, mean and 95 % "
        "interval (Student's t over seeds). Within the window: frames 1-4 of the way back, beyond: 9-15. Every point "
        f"is a training of its own. `python -m benchmarks.comparison.curve --variants {' '.join(names)} --minutes "
        f"{' '.join(f'{budget:g}' for budget in minutes)} --seeds {seeds}`",
        "",
        f"| model | {' | '.join(titles)} | training steps | CPU minutes, measured |",
        "|---" * (len(titles) + 3) + "|",
    ]
    for name in names:
        cells = [interval(side(figures, name, m, seeds, band), 1) for band in SIDES.values() for m in minutes]
        steps = ", ".join(str(figures[name, m, 0]["steps"]) for m in minutes)
        spent = [np.mean([figures[name, m, s]["cpu_seconds"] for s in range(seeds)]) / 60 for m in minutes]
        lines.append(f"| {name} | {' | '.join(cells)} | {steps} | {', '.join(f'{m:.1f}' for m in spent)} |")
    return [*lines, "", f"![Retrieval by CPU minutes of training]({picture})"]


def plot(figures: Figures, names: Sequence[str], minutes: Sequence[float], seeds: int, path: Path) -> None:
    """PSNR over CPU minutes, a panel for either side of the window."""
    fig, axes = plt.subplots(1, len(SIDES), figsize=(11, 4), sharey=True, layout="constrained")
    for axis, (title, band) in zip(axes, SIDES.items(), strict=True):
        for name in names:
            found = student_band(np.stack([side(figures, name, m, seeds, band) for m in minutes], 1))
            (line,) = axis.plot(minutes, found.mean, marker="o", label=name)
            axis.fill_between(minutes, found.low, found.high, color=line.get_color(), alpha=0.12, linewidth=0)
        axis.set(title=f"retrieval {title}", xlabel="CPU minutes of training", xscale="log", xticks=minutes)
        axis.set_xticks(minutes, [f"{budget:g}" for budget in minutes])
        axis.minorticks_off()
    axes[0].set_ylabel("PSNR, dB")
    axes[0].legend(fontsize=8)
    fig.savefig(path, dpi=110)
    plt.close(fig)


def write_section(
    out: Path, names: Sequence[str], minutes: Sequence[float], seeds: int, page: Path, picture: Path
) -> None:
    """Replace the section of `page`, and its picture."""
    figures = collect(out, names, minutes, seeds)
    plot(figures, names, minutes, seeds, picture)
    fill(page, SECTION, lines_of(figures, names, minutes, seeds, picture.name))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/comparison"))
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=["lssvwm", "causal-full"])
    parser.add_argument("--minutes", nargs="+", type=float, default=[3, 10, 30, 90], help="CPU minutes of training")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2, help="models trained at once, each on one core")
    parser.add_argument("--page", type=Path, default=Path("docs/results.md"), help="page that receives the table")
    parser.add_argument("--run", nargs=4, metavar=("VARIANT", "MINUTES", "SEED", "STEPS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        name, minutes, seed, steps = options.run
        return run(options.out, name, int(seed), int(steps), runs_of(float(minutes)))
    torch.set_num_threads(1)
    record_episodes(options.out / "episodes", EPISODES, seed=0)
    record_episodes(options.out / "unseen", UNSEEN, seed=UNSEEN_SEED)
    cost = costs(options.out, options.variants)
    budgets = sorted(options.minutes)
    with ThreadPoolExecutor(options.jobs) as pool:  # the short ones of all seeds first
        done = [
            pool.submit(start, options.out, name, minutes, seed, max(1, round(60 * minutes / cost[name])))
            for minutes in budgets
            for seed in range(options.seeds)
            for name in options.variants
        ]
        for each in done:
            each.result()
    picture = options.page.with_name(f"{options.page.stem}-minutes.png")
    write_section(options.out, options.variants, budgets, options.seeds, options.page, picture)
    print(f"table: {options.page}")
    return None


if __name__ == "__main__":
    main()
