"""Does the memory solve it, and does the dream pay? Makes the tables and plots of docs/memory.md.

    python -m benchmarks.memory --out runs/memory [--seeds 3] [--jobs 2] [--worlds S7 S11] [--methods dream ppo]

On each memory world of MiniGrid, `train_agent.py` learns three times per method: in dreams of LSSVWM, in dreams of the
same model without its scan, and by recurrent PPO in the real environment. Every evaluation is of real episodes. What is
done already is not done again, so an interrupted benchmark goes on; each run has one thread.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.shared.page import fill
from lssvwm.agents.evaluation.comparison.curves import Axis, Line, Method, lines, reached
from lssvwm.agents.evaluation.comparison.plots import plot_comparison
from lssvwm.agents.evaluation.files import EVALUATIONS
from lssvwm.agents.evaluation.runs import evaluations_of
from lssvwm.worldmodel.common.errors import InputError


@dataclass(frozen=True)
class World:
    """A Gymnasium id, and how often those that dream there collect, learn and dream."""

    id: str
    rounds: int


WORLDS: Mapping[str, World] = {"S7": World("MiniGrid-MemoryS7-v0", 3), "S11": World("MiniGrid-MemoryS11-v0", 5)}
LEVEL = 0.9
SHARED = ("--preset", "minigrid")
PPO = ("--ppo.rows", "32", "--ppo.lr", "5e-4", "--ppo.entropy", "0.02")
METHODS: Mapping[str, tuple[str, ...]] = {
    "dream": (),
    # Through four layers a frame reaches four frames back, fewer than lie between the sight of the cue and the choice.
    "dream-no-scan": ("--model.scan", "none", "--model.window", "1"),
    "ppo": ("--algo", "ppo", "--in", "real", "--rounds", "8", "--env-steps", "100000", *PPO),
}
TITLES = {
    "dream": "in dreams of LSSVWM",
    "dream-no-scan": "in dreams of the same without its scan",
    "ppo": "recurrent PPO in the real world",
}


def folder_of(out: Path, world: str, method: str, seed: int) -> Path:
    return out / world / f"{method}-{seed}"


def train(folder: Path, world: str, method: str, seed: int) -> None:
    """One run, or the rest of one; a finished one returns at once."""
    told = ["--resume"] if (folder / "settings.json").exists() else []
    if (folder / "report" / "results.json").exists():  # the page is there from the beginning
        return
    command = [sys.executable, "train_agent.py", "--out", str(folder), "--seed", str(seed), *told, "--no-progress"]
    command += [*SHARED, "--env", WORLDS[world].id, "--rounds", str(WORLDS[world].rounds), *METHODS[method]]
    subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    print(f"done: {folder}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/memory"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2, help="runs at once, each on one core")
    parser.add_argument("--worlds", nargs="+", choices=WORLDS, default=list(WORLDS))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--page", type=Path, default=Path("docs/memory.md"), help="page that receives the tables")
    parser.add_argument("--report", action="store_true", help="learn nothing, show the runs that are there")
    options = parser.parse_args()
    if not options.report:
        runs = [(w, m, s) for w in options.worlds for s in range(options.seeds) for m in options.methods]
        with ThreadPoolExecutor(options.jobs) as pool:
            list(pool.map(lambda run: train(folder_of(options.out, *run), *run), runs))
    for world in options.worlds:
        report(options.out, world, options.methods, options.seeds, options.page)


def report(out: Path, world: str, methods: Sequence[str], seeds: int, page: Path) -> None:
    """Replace what lies between the markers of `world` in `page`, and its plot beside it, by what the runs show."""
    found = []
    for method in methods:
        folders = [folder_of(out, world, method, seed) for seed in range(seeds)]
        runs = tuple(evaluations_of(folder) for folder in folders if (folder / EVALUATIONS).exists())
        if runs:
            found.append(Method(TITLES[method], runs))
    if not found:
        raise InputError(f"{out / world} holds no runs of {', '.join(methods)}: let them learn first, without --report")
    picture = page.with_name(f"{page.stem}-{world.lower()}")
    plot_comparison(picture, found, "success", LEVEL)
    shown = f"![Success over real steps and over wall-clock, {world}]({picture.name}.png)"
    fill(page, world, [*table(found), "", shown])


def table(methods: Sequence[Method]) -> list[str]:
    """What each method ended with, and what it took to reach the level."""
    rows = [
        "| learns | success of each seed, last evaluation | all | mean return | real steps | minutes "
        f"| real steps to {LEVEL} | minutes to {LEVEL} |",
        "|---" * 8 + "|",
    ]
    for method in methods:
        last = [run.successes[-1].mean() for run in method.runs]
        returns = np.mean([run.returns[-1].mean() for run in method.runs])
        steps = np.mean([run.steps[-1] for run in method.runs])
        minutes = np.mean([run.seconds[-1] for run in method.runs]) / 60
        rows.append(
            f"| {method.name} | {', '.join(f'{each:.0%}' for each in last)} | {np.mean(last):.0%} | {returns:.2f} "
            f"| {steps:,.0f} | {minutes:.0f} | {cost(method, 'steps')} | {cost(method, 'seconds')} |"
        )
    return rows


def cost(method: Method, axis: Axis) -> str:
    """When the runs first reached the level: the median of those that did, and how many."""
    unit = 1 if axis == "steps" else 60
    when = reached(checked_lines(method, axis), LEVEL)
    if when.median is None:
        return f"never ({when.runs} of {when.count})"
    return f"{when.median / unit:,.0f} ({when.runs} of {when.count})"


def checked_lines(method: Method, axis: Axis) -> list[Line]:
    found = lines(method, axis, "success")
    if found is None:
        raise InputError(f"the runs of '{method.name}' do not know their {axis}: they were made by an older version")
    return found


if __name__ == "__main__":
    main()
