"""Models trained for equally much CPU time, each in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from lssvwm.worldmodel import Trainer


def seconds_per_step(
    path: Path, names: Sequence[str], make: Callable[[str], Trainer], rounds: int = 6
) -> dict[str, float]:
    """CPU seconds of a training step, measured in turns so that what else the machine does falls on all alike.

    Kept in `path`, so that a benchmark that goes on trains for as many steps as it began with.
    """
    if path.exists():
        measured: dict[str, float] = json.loads(path.read_text())
        if set(names) <= set(measured):
            return measured
    trainers = {name: make(name) for name in names}
    best = dict.fromkeys(names, float("inf"))
    for trainer in trainers.values():
        trainer.prepare()
        trainer.train_step()
    for _ in range(rounds):
        for name, trainer in trainers.items():
            begin = time.process_time()
            trainer.train_step()
            best[name] = min(best[name], time.process_time() - begin)
    path.write_text(json.dumps(best, indent=2) + "\n")
    return best


def spawn(module: str, *arguments: str) -> None:
    """Run `python -m module arguments` to its end. Raises CalledProcessError where it fails."""
    subprocess.run([sys.executable, "-m", module, *arguments], check=True)
