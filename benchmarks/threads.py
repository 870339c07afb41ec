"""What waiting threads cost training on a machine that does something else too.

    python -m benchmarks.threads [--steps 6]

Forward and backward passes over 96 frames, at the default size, on torch's default number of threads, in a fresh
process for each of OpenMP's ways to wait: alone, beside a process that keeps one core busy, and beside another of its
kind. Seconds by the clock, the median of the passes.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping

from benchmarks.shared.machine import cpu

WAITING: Mapping[str, Mapping[str, str]] = {
    "as OpenMP comes": {},
    "OMP_WAIT_POLICY=ACTIVE": {"OMP_WAIT_POLICY": "ACTIVE"},
    "OMP_WAIT_POLICY=PASSIVE": {"OMP_WAIT_POLICY": "PASSIVE"},
    "one thread": {"OMP_NUM_THREADS": "1"},
}

FRAMES = 96


def timed(steps: int) -> float:
    """Seconds of a pass, by the clock."""
    import torch  # OpenMP reads its variables when torch loads it

    from benchmarks.scaling import make, train
    from lssvwm.worldmodel import WorldModelConfig

    torch.manual_seed(0)
    model, spent = make(WorldModelConfig(), torch.device("cpu")), []
    for _ in range(steps + 1):
        begin = time.perf_counter()
        train(model, FRAMES)
        spent.append(time.perf_counter() - begin)
    return statistics.median(spent[1:])


def begun(steps: int, told: Mapping[str, str]) -> subprocess.Popen[str]:
    """`timed` in a process whose OpenMP is told `told` alone."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_", "KMP_"))}
    command = [sys.executable, "-m", "benchmarks.threads", "--steps", str(steps), "--timed"]
    return subprocess.Popen(command, env={**kept, **told}, stdout=subprocess.PIPE, text=True)


def seconds(process: subprocess.Popen[str]) -> float:
    return float(process.communicate()[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--timed", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.timed:
        print(timed(options.steps))
        return
    print(f"{cpu()}\n\n| seconds of a pass | alone | beside a busy core | two at once |\n|---|---|---|---|")
    for name, told in WAITING.items():
        alone = seconds(begun(options.steps, told))
        busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
        try:
            beside = seconds(begun(options.steps, told))
        finally:
            busy.kill()
            busy.wait()
        both = max(map(seconds, [begun(options.steps, told), begun(options.steps, told)]))
        print(f"| {name} | {alone:.2f} | {beside:.2f} | {both:.2f} |", flush=True)


if __name__ == "__main__":
    main()
