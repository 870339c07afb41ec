"""The runs of a claim one after the other, each where it stopped, and what they have learned judged on equal seeds."""

from __future__ import annotations

import json
import os
import resource
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from benchmarks.evidence.claims import Claim, Method
from lssvwm.agents.running.run import EVALUATION_SEEDS
from lssvwm.envs.minecraft.minetest.build import find_program
from lssvwm.worldmodel.common.atomic import write_json
from lssvwm.worldmodel.common.errors import InputError

EPISODES = 100
JUDGED_SEED = 2 * EVALUATION_SEEDS
"""Above the seeds on which runs evaluate themselves while they learn."""
CPU = "cpu_seconds.json"

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
    """How claims are shown: in which folder, by how many seeds, and whether only to see that it works."""

    out: Path
    seeds: int
    quick: bool = False

    def folder(self, claim: Claim) -> Path:
        """Holds the runs of a claim, `judged` and the table."""
        return self.out / claim.name

    def run(self, claim: Claim, method: str, seed: int) -> Path:
        """The folder of one run."""
        return self.folder(claim) / f"{method}-{seed}"

    def judged(self, claim: Claim) -> Path:
        """What agents.evaluation has written."""
        return self.folder(claim) / "judged"


class Start(Protocol):
    """Starts a script or `-m MODULE` with arguments; returns its exit status."""

    def __call__(self, words: Sequence[str]) -> int: ...


def check(claim: Claim) -> None:
    """Raise InputError where what a claim plays in is missing."""
    if claim.minetest:
        find_program("minetest", "minetest")
        find_program("Xvfb", "xvfb")


def learning(claim: Claim, method: Method, seed: int, plan: Plan) -> list[str]:
    """The command of one run, which begins or continues it."""
    words = ["train_agent.py", *claim.words(method), "--seed", str(seed)]
    if method.world:
        words += ["--world-model", str(plan.run(claim, method.world, seed) / "world_model")]
    words += [*QUICK, *shlex.split(claim.quick)] if plan.quick else []
    return [*words, "--out", str(plan.run(claim, method.name, seed)), "--resume", "--no-progress"]


def judging(claim: Claim, plan: Plan) -> list[str]:
    """The command that judges the runs of all methods, and the policies beside them."""
    runs = [
        f"{method.name}={','.join(str(plan.run(claim, method.name, seed)) for seed in range(plan.seeds))}"
        for method in claim.methods
    ]
    words = ["-m", "lssvwm.agents.evaluation", *runs, "--policies", *claim.policies, "--out", str(plan.judged(claim))]
    words += ["--episodes", str(2 if plan.quick else EPISODES), "--seed", str(JUDGED_SEED)]
    words += ["--num-envs", str(2 if plan.quick else claim.at_once)]
    return [*words, "--no-processes", "--no-videos", "--no-progress"]


def finished(folder: Path) -> bool:
    """Whether a run came to its end: the page of its report is there from the beginning, the results are not."""
    return (folder / "report" / "results.json").exists()


def spawn(words: Sequence[str]) -> int:
    """`python *words` to its end. An interruption is passed on, and waited for until all is saved.

    The process has a session of its own, or Ctrl-C in a terminal would reach it twice, which means at once.
    """
    env = {"OMP_NUM_THREADS": "1", **os.environ}
    process = subprocess.Popen([sys.executable, *words], env=env, start_new_session=True)
    interrupted = False
    while True:
        try:
            status = process.wait()
            break
        except KeyboardInterrupt:
            interrupted = True
            process.send_signal(signal.SIGINT)
    return 130 if interrupted else status


def show(claim: Claim, plan: Plan, start: Start = spawn, say: Callable[[str], None] = print) -> None:
    """Do what is not done yet of the runs, and judge them.

    Raises KeyboardInterrupt when interrupted, InputError for a command that failed; the same call goes on after both.
    """
    for seed in range(plan.seeds):
        for method in claim.methods:
            if not finished(plan.run(claim, method.name, seed)):
                _timed(f"{method.name}-{seed}", learning(claim, method, seed, plan), claim, plan, start, say)
    _timed("judged", judging(claim, plan), claim, plan, start, say)


def cpu_seconds(folder: Path) -> dict[str, float]:
    """CPU seconds that each run of a claim has taken, its processes and evaluations included; of all attempts."""
    path = folder / CPU
    found: dict[str, float] = json.loads(path.read_text()) if path.exists() else {}
    return found


def _timed(name: str, words: Sequence[str], claim: Claim, plan: Plan, start: Start, say: Callable[[str], None]) -> None:
    say(f"{claim.name}: {shlex.join(['python', *words])}")
    folder, before = plan.folder(claim), _spent()
    folder.mkdir(parents=True, exist_ok=True)
    status = start(words)
    known = cpu_seconds(folder)
    write_json(folder / CPU, {**known, name: known.get(name, 0.0) + _spent() - before})
    if status == 130:
        raise KeyboardInterrupt
    if status:
        raise InputError(f"{claim.name}: {name} failed with status {status}, its command and reason stand above")


def _spent() -> float:
    """CPU seconds of this process and of the children that it has waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)
