"""Everything that is claimed of a GPU, shown or not, in one call: equality, waiting, speed, and a world model.

    python -m benchmarks.gpu --minutes 9 --out DIR
    python -m benchmarks.gpu --rehearse --out DIR     all of it on a CPU, tiny

DIR receives summary.md, results.json and log.txt, written anew after every stage, and what the stage `train` made:
world_model/ and episodes/. README.md beside this file says how to prepare a machine without network.
"""

from __future__ import annotations

import argparse
import itertools
import os
import shlex
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.gpu.running import Outcome, run_together, write_results
from benchmarks.gpu.stages import Stage, stages
from benchmarks.gpu.summary import summary

RESERVE = 8.0
"""Seconds kept back for ending stages and writing."""
KEPT = 100_000
"""Characters of a stage's log that are kept, from its end."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/gpu"))
    parser.add_argument("--minutes", type=float, default=9.0, help="for everything together")
    parser.add_argument("--only", nargs="+", metavar="STAGE", help="these alone, or whole groups")
    parser.add_argument("--rehearse", action="store_true", help="tiny, on a CPU")
    parser.add_argument(
        "--at-once", type=int, help="stages of a group side by side; by default as many as there are cores"
    )
    parser.add_argument("--shared", type=Path, help="where stages leave what others need; kept between calls")
    parser.add_argument("--list", action="store_true", help="name the stages and end")
    options = parser.parse_args()
    chosen = pick(stages(rehearse=options.rehearse), options.only)
    if options.list:
        for stage in chosen:
            print(f"{stage.name:22s} {stage.seconds:5.0f} s  {stage.group:9s} {stage.title}")
        return
    device = "cuda" if torch.cuda.is_available() and not options.rehearse else "cpu"
    if device == "cpu" and not options.rehearse:
        raise SystemExit("error: torch finds no CUDA device here: add --rehearse to try everything on a CPU")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what is at work is ended too
    options.out.mkdir(parents=True, exist_ok=True)
    shared = options.shared or Path(tempfile.mkdtemp(prefix="lssvwm-gpu-"))
    shared.mkdir(parents=True, exist_ok=True)
    told = {"device": device, "rehearse": options.rehearse, "out": str(options.out.resolve())}
    if options.rehearse:
        os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("TRITON_CACHE_AUTOTUNING", "1")  # one stage's tuning serves the next
    at_once = options.at_once or os.cpu_count() or 1
    end = time.monotonic() + 60 * options.minutes - RESERVE
    outcomes: list[Outcome] = []
    groups = grouped(chosen)
    for number, group in enumerate(groups):
        later = sum(max(stage.seconds for stage in each) for each in groups[number + 1 :])
        most = max(stage.seconds for stage in group)
        left = end - time.monotonic()
        seconds = left * most / (most + later) if not options.rehearse else left / 2
        # A group that needs several turns shares its time among them.
        seconds /= -(-len(group) // at_once)
        if seconds < 1:
            outcomes += [Outcome(stage, "not run: no time was left", 0.0, []) for stage in group]
        else:
            outcomes += run_together([(stage, seconds) for stage in group], at_once, shared.resolve(), told)
        waiting = [stage.name for each in groups[number + 1 :] for stage in each]
        write(options.out, shared, outcomes, waiting, told)
    print((options.out / "summary.md").read_text())


def pick(known: Sequence[Stage], only: Sequence[str] | None) -> list[Stage]:
    """The stages named by name or group; all but the extra ones where none is."""
    if only is None:
        return [stage for stage in known if not stage.extra]
    if unknown := set(only) - {name for stage in known for name in (stage.name, stage.group)}:
        raise SystemExit(f"error: no stage {', '.join(sorted(unknown))}: see --list")
    return [stage for stage in known if {stage.name, stage.group} & set(only)]


def grouped(chosen: Sequence[Stage]) -> list[list[Stage]]:
    """Stages of one group that follow each other together, every other one alone."""
    return [list(each) for _, each in itertools.groupby(chosen, key=lambda stage: stage.group or stage.name)]


def write(
    out: Path, shared: Path, outcomes: Sequence[Outcome], waiting: Sequence[str], told: dict[str, object]
) -> None:
    """Everything so far."""
    command = shlex.join(["python", "-m", "benchmarks.gpu", *sys.argv[1:]])
    heading = "A rehearsal on a CPU: these figures say nothing about a GPU" if told["rehearse"] else "On a GPU"
    (out / "summary.md").write_text(summary(outcomes, waiting, heading) + f"\n`{command}`\n")
    write_results(out / "results.json", {"command": command, **told, "out": str(out)}, outcomes)
    logs = [(outcome.stage.name, shared / f"{outcome.stage.name}.log") for outcome in outcomes]
    parts = [f"==== {name}\n{path.read_text(errors='replace')[-KEPT:]}\n" for name, path in logs if path.exists()]
    (out / "log.txt").write_text("".join(parts))


if __name__ == "__main__":
    main()
