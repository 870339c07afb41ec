"""Runs of train_agent.py as something to evaluate: their policies, their dreams, and how they came about."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch

from lssvwm.agents.evaluation.files import EVALUATIONS, Evaluations, read_evaluations
from lssvwm.agents.running.algorithms import learned
from lssvwm.agents.running.best import NOTE
from lssvwm.agents.running.cli import SETTINGS, LoopOptions
from lssvwm.agents.running.environment import Probe, probe
from lssvwm.agents.running.run import recorded_in
from lssvwm.agents.running.settings import LoopSettings
from lssvwm.agents.running.settings_file import from_json, to_json
from lssvwm.envs.contexts import contexts_of
from lssvwm.envs.factory import EnvConfig, trusted
from lssvwm.envs.policy import Policy
from lssvwm.worldmodel.actions import actions_of
from lssvwm.worldmodel.checkpoint import CONFIG, WEIGHTS, Checkpoint, load_checkpoint, read_json
from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.episodes import EpisodeStore


class Learned(NamedTuple):
    """What a run has learned: a policy, and the world model in which it dreams, if it has one."""

    policy: Policy
    dream: Checkpoint | None
    contexts: EpisodeStore | None


@dataclass(frozen=True)
class TrainedRun:
    """The folder of a run of train_agent.py, and what it was told."""

    folder: Path
    settings: LoopSettings

    @property
    def world_model(self) -> Path:
        """The folder of the world model in which the policy learned."""
        return self.settings.world_model or self.folder / "world_model"

    @property
    def is_best(self) -> bool:
        """Whether it is the best round of the run in the folder above."""
        return (self.folder / NOTE).is_file()

    @property
    def recorded(self) -> tuple[EpisodeStore, ...]:
        """What it recorded: its episodes and demonstrations, those that there are."""
        return recorded_in(self.folder / ".." if self.is_best else self.folder)

    @property
    def digest(self) -> str:
        """Changes with what was learned: a hash of the policy's files and of the world model's."""
        files = sorted(path for path in (self.folder / "policy").rglob("*") if path.is_file())
        found = hashlib.sha256()
        for path in (*files, *(p for p in (self.world_model / CONFIG, self.world_model / WEIGHTS) if p.is_file())):
            found.update(path.name.encode())
            found.update(hashlib.sha256(path.read_bytes()).digest())
        return found.hexdigest()

    def learned(self, config: EnvConfig, device: torch.device, greedy: bool) -> Learned:
        """The policy as it stands, to play the environment of `config`; its frames and actions have to fit."""
        s, out = self.settings, self.folder / "policy"
        if s.place == "real":
            return Learned(learned(s, out, checkpoint=None, contexts=None, greedy=greedy), None, None)
        checkpoint = load_checkpoint(self.world_model, device)
        shape, real = checkpoint.model.config, probe(config)
        if real != (modelled := Probe((shape.height, shape.width), actions_of(shape))):
            raise InputError(
                f"{config.id} has frames of {real.frame} and {real.actions}, {self.folder} learned with "
                f"{modelled.frame} and {modelled.actions}: change --size and --actions to match"
            )
        contexts = EpisodeStore(s.contexts or contexts_of(checkpoint), told=shape.told)
        policy = learned(s, out, checkpoint=checkpoint, contexts=contexts, greedy=greedy)
        return Learned(policy, checkpoint, contexts)


def open_run(folder: Path) -> TrainedRun:
    """A run that has a policy; a folder that holds none is an `InputError`."""
    if not folder.is_dir():
        raise InputError(f"there is no run {folder}: name the --out of train_agent.py")
    values = read_json(folder / SETTINGS, "a run (made by train_agent.py)")
    run = TrainedRun(folder, from_json(LoopOptions, values, folder / SETTINGS))
    policy = folder / "policy"
    if run.settings.algo != "plan" and (not policy.is_dir() or not any(policy.iterdir())):
        raise InputError(
            f"{folder} has no policy: train one with train_agent.py (train_wm.py learns the world alone), or go on "
            "with --resume"
        )
    return run


def load_policy(run: Path | str, *, greedy: bool = False, device: torch.device | str = "cpu") -> Policy:
    """What a run of train_agent.py (its folder, or RUN/best) has learned, to play the environment that it learned for.

    `reset(rows, seeds)` begins episodes, `act(frames, info)` gives the next action of every row. Import the module of
    an environment of your own first. Raises InputError for what is no run, has no policy, or does not fit its
    environment any more.
    """
    found = open_run(Path(run))
    trusted(found.settings.env_config, str(run))
    return found.learned(found.settings.env_config, torch.device(device), greedy).policy


def alike(a: TrainedRun, b: TrainedRun) -> bool:
    """Whether two runs are seeds of one method: told the same but for the seed, and both the last round or the best."""
    told, other = (to_json(run.settings) | {"seed": 0, "preset": "", "log": [], "best": run.is_best} for run in (a, b))
    return told == other


def evaluations_of(folder: Path) -> Evaluations:
    """What the evaluations of a run were while it learned: its `evaluations.npz`, which may be Stable-Baselines3's.

    Raises InputError for a folder that is missing, and a run that was never evaluated.
    """
    if not folder.is_dir():
        raise InputError(f"there is no run {folder}: name the --out of train_agent.py")
    if not (folder / EVALUATIONS).exists():
        raise InputError(f"{folder} was never evaluated: let train_agent.py finish a round")
    return read_evaluations(folder / EVALUATIONS)


def names_of(folders: Sequence[Path]) -> list[str]:
    """A name for each run, by which it is told from the others: as many last parts of its path as that takes."""
    parts = [folder.resolve().parts for folder in folders]
    if len(set(parts)) < len(parts):
        raise InputError(f"a run is named twice: {', '.join(str(folder) for folder in folders)}")
    depth = 1
    while len({part[-depth:] for part in parts}) < len(parts):
        depth += 1
    return ["/".join(part[-depth:]) for part in parts]
