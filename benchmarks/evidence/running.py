"""The runs of a claim, each where it stopped, and what they have learned judged on equal seeds."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from benchmarks.evidence.claims import Claim, Method
from benchmarks.evidence.commands import Ended, Process, Running, Start
from lssvwm.agents.running.run import EVALUATION_SEEDS
from lssvwm.envs.minecraft.minetest.build import find_program
from lssvwm.worldmodel.common.atomic import write_json
from lssvwm.worldmodel.common.errors import InputError

EPISODES = 100
JUDGED_SEED = 2 * EVALUATION_SEEDS
"""Above the seeds on which runs evaluate themselves while they learn."""
CPU = "cpu_seconds.json"
INTERRUPTED = 130
"""Status of a command that saved what it had."""
POLL = 0.1
"""Seconds between two looks at what runs."""

QUICK = shlex.split(
    "--rounds 1 --max-episode-steps 30 --num-envs 1 --no-processes --collect-episodes 6 --collect-frames 150 "
    "--eval-episodes 2 --world-steps 3 --model.dim 32 --model.layers 1 --model.features 16 --model.state-size 4 "
    "--model.head-dim 32 --training.batch 2 --training.length 8 --training.fit-frames 64 --heads.steps 10 "
    "--heads.calibration 5 --heads.kept 300 --heads.observed 600 --dreams 2 --dreamer.rows 4 --dreamer.horizon 4 "
    "--dreamer.context 2 --cloning.steps 5 --env-steps 32 --ppo.rows 2 --ppo.steps 8 --ppo.minibatches 2 --sb3.rows 2 "
    "--sb3.rollout 16 --sb3.batch 16"
)
"""The whole path with next to nothing to learn, or from: less than a fiftieth of everything."""


@dataclass(frozen=True)
class Plan:
    """How claims are shown: in which folder, by how many seeds, how many runs at once, or only to see that it works."""

    out: Path
    seeds: int
    quick: bool = False
    jobs: int = 1

    def folder(self, claim: Claim) -> Path:
        """Holds the runs of a claim, `judged` and the table."""
        return self.out / claim.name

    def run(self, claim: Claim, method: str, seed: int) -> Path:
        """The folder of one run."""
        return self.folder(claim) / f"{method}-{seed}"

    def runs(self, claim: Claim) -> dict[str, tuple[Method, int]]:
        """All runs of a claim by their names, seed by seed."""
        return {f"{method.name}-{seed}": (method, seed) for seed in range(self.seeds) for method in claim.methods}

    def covered(self, claim: Claim, known: Collection[str]) -> bool:
        """Whether nothing of a claim is left to run or to judge."""
        return {*self.runs(claim), *claim.policies} <= set(known)

    def judged(self, claim: Claim, run: str) -> Path:
        """What agents.evaluation has written of a run."""
        return self.folder(claim) / "judged" / run


def check(claim: Claim) -> None:
    """Raise InputError where what a claim plays in is missing."""
    if claim.minetest:
        find_program("minetest", "minetest")
        find_program("Xvfb", "xvfb")


def options(claim: Claim, method: Method, seed: int, plan: Plan) -> list[str]:
    """What one run is told, without folders."""
    words = [*claim.words(method), "--seed", str(seed)]
    return [*words, *QUICK, *shlex.split(claim.quick)] if plan.quick else words


def learning(claim: Claim, method: Method, seed: int, plan: Plan) -> list[str]:
    """The command of one run, which begins or continues it."""
    words = ["train_agent.py", *options(claim, method, seed, plan)]
    if method.world:
        words += ["--world-model", str(plan.run(claim, method.world, seed) / "world_model")]
    return [*words, "--out", str(plan.run(claim, method.name, seed)), "--resume", "--no-progress"]


def judging(claim: Claim, plan: Plan, run: str) -> list[str]:
    """The command that judges a run, and beside the first one the policies that learn nothing."""
    runs = plan.runs(claim)
    method, seed = runs[run]
    words = ["-m", "lssvwm.agents.evaluation", f"{method.name}={plan.run(claim, method.name, seed)}"]
    if run == next(iter(runs)):
        words += ["--policies", *claim.policies]
    words += ["--out", str(plan.judged(claim, run)), "--seed", str(JUDGED_SEED)]
    words += ["--episodes", str(2 if plan.quick else EPISODES)]
    words += ["--num-envs", str(2 if plan.quick else claim.at_once)]
    return [*words, "--no-processes", "--no-videos", "--no-progress"]


def finished(folder: Path) -> bool:
    """Whether a run came to its end: the page of its report is there from the beginning, the results are not."""
    return (folder / "report" / "results.json").exists()


def commands(claim: Claim, plan: Plan) -> list[list[str]]:
    """All commands of the first seed, whatever is done: the runs, then what judges them."""
    learn = [learning(claim, method, 0, plan) for method in claim.methods]
    return [*learn, *(judging(claim, plan, f"{method.name}-0") for method in claim.methods)]


class Task(NamedTuple):
    """A command, and the tasks whose results it needs."""

    words: list[str]
    needs: tuple[str, ...] = ()


def tasks(claim: Claim, plan: Plan, known: Collection[str] = ()) -> dict[str, Task]:
    """What is not done yet: the runs, then what judges them."""
    runs = {name: run for name, run in plan.runs(claim).items() if name not in known}
    learn = {
        name: Task(learning(claim, method, seed, plan), (f"{method.world}-{seed}",) if method.world else ())
        for name, (method, seed) in runs.items()
        if not finished(plan.run(claim, method.name, seed))
    }
    judge = {
        f"judged/{name}": Task(judging(claim, plan, name), (name,))
        for name in runs
        if not (plan.judged(claim, name) / "results.json").exists()
    }
    return learn | judge


def show(
    claim: Claim,
    plan: Plan,
    start: Start = Process,
    say: Callable[[str], None] = print,
    known: Collection[str] = (),
) -> None:
    """Do what is not done yet, `plan.jobs` tasks at once. Runs in `known` need nothing.

    Raises KeyboardInterrupt when interrupted, InputError for a command that failed, after the others have saved and
    ended; the same call goes on after both.
    """
    todo = tasks(claim, plan, known)
    running: dict[str, Running] = {}
    try:
        while todo or running:
            pending = {*todo, *running}
            ready = [name for name, task in todo.items() if pending.isdisjoint(task.needs)]
            for name in ready[: plan.jobs - len(running)]:
                running[name] = _begin(todo.pop(name).words, claim, start, say)
            _wait(running, claim, plan)
    finally:
        _end(running, claim, plan)


def cpu_seconds(folder: Path) -> dict[str, float]:
    """CPU seconds that each run of a claim has taken, its processes and evaluations included; of all attempts."""
    path = folder / CPU
    found: dict[str, float] = json.loads(path.read_text()) if path.exists() else {}
    return found


def _begin(words: list[str], claim: Claim, start: Start, say: Callable[[str], None]) -> Running:
    say(f"{claim.name}: {shlex.join(['python', *words])}")
    return start(words)


def _wait(running: dict[str, Running], claim: Claim, plan: Plan) -> None:
    """Until one has ended, which is then out of `running`."""
    while not (ended := {name: end for name, each in running.items() if (end := each.poll()) is not None}):
        time.sleep(POLL)
    for name, end in ended.items():
        del running[name]
        _note(name, end, claim, plan)
    for name, end in ended.items():
        if end.status == INTERRUPTED:
            raise KeyboardInterrupt
        if end.status:
            raise InputError(
                f"{claim.name}: {name} failed with status {end.status}, its command and reason stand above"
            )


def _end(running: dict[str, Running], claim: Claim, plan: Plan) -> None:
    """Let all that run save and end; interrupted meanwhile, at once."""
    asked: set[str] = set()
    while running:
        try:
            for name in running.keys() - asked:
                running[name].interrupt()
                asked.add(name)
            name, each = next(iter(running.items()))
            ended = each.wait()
            del running[name]
            _note(name, ended, claim, plan)
        except KeyboardInterrupt:
            asked.clear()


def _note(name: str, ended: Ended, claim: Claim, plan: Plan) -> None:
    folder = plan.folder(claim)
    folder.mkdir(parents=True, exist_ok=True)
    known = cpu_seconds(folder)
    write_json(folder / CPU, {**known, name: known.get(name, 0.0) + ended.cpu_seconds})
