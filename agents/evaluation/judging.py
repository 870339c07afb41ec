"""Judging one run or one named policy: its real episodes, its own dreams, what of it is kept on disk and seen."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.tensorboard import SummaryWriter

from lssvwm.agents.evaluation.files import (
    EPISODES,
    EVALUATIONS,
    MONITOR,
    append_evaluation,
    log_evaluation,
    read_episodes,
    write_episodes,
    write_monitor,
)
from lssvwm.agents.evaluation.imagined import dreamt_returns
from lssvwm.agents.evaluation.real import Evaluation, evaluate
from lssvwm.agents.evaluation.runs import Learned, TrainedRun, evaluations_of
from lssvwm.agents.policies.baselines import check_plays, make_policy, needs_map
from lssvwm.agents.running.environment import probe
from lssvwm.envs.factory import EnvConfig
from lssvwm.envs.recording.recorder import SEED_KEY
from lssvwm.worldmodel.checkpoint import read_json
from lssvwm.worldmodel.common.atomic import write_json
from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.episodes import Episode, EpisodeStore
from lssvwm.worldmodel.reporting.video import Panel, montage, write_mp4

ASKED = "asked.json"
SHOWN = 1000
"""Frames of an episode in its video, at most."""
FPS = 10


@dataclass(frozen=True)
class Contestant:
    """A policy by name, or what a run has learned, in the environment that it is to play."""

    name: str
    config: EnvConfig
    run: TrainedRun | None = None

    @property
    def folder(self) -> str:
        """Its name as that of a folder."""
        return "".join(letter if letter.isalnum() or letter in "._-" else "-" for letter in self.name)

    def learned(self, device: torch.device, greedy: bool) -> Learned:
        """Its policy. Raises InputError for one that cannot play this environment, or does not exist."""
        if self.run is not None:
            return self.run.learned(self.config, device, greedy)
        return Learned(make_policy(self.name, probe(self.config).actions, self.config.id), None, None)


@dataclass(frozen=True)
class How:
    """How contestants are judged: all alike, on the seeds `seed .. seed + episodes - 1`."""

    episodes: int
    seed: int
    imagined: int
    """Dreams whose returns are measured; 0 for none."""
    greedy: bool
    num_envs: int
    processes: bool
    videos: bool
    device: torch.device
    progress: bool


@dataclass(frozen=True)
class Result:
    """What a contestant earned in the real environment, and in its own dreams, if it has any."""

    contestant: Contestant
    evaluation: Evaluation
    imagined: tuple[float, ...] | None


def named_policy(name: str, config: EnvConfig) -> Contestant:
    """A policy that learns nothing; the oracle is told more than others, and sees the same frames.

    Raises InputError for one that does not play this world.
    """
    check_plays(name, config.id)
    return Contestant(name, replace(config, extra_obs=True) if needs_map(name, config.id) else config)


def judge(contestant: Contestant, how: How, out: Path) -> Result:
    """Play and dream, and write the folder of the contestant in `out`.

    A folder that holds the answer to the same question, of the same weights, is read instead: what was finished
    before an interruption is not done again.
    """
    folder = out / contestant.folder
    asked = _question(contestant, how)
    if (folder / ASKED).exists() and (kept := read_json(folder / ASKED, "an evaluation"))["question"] == asked:
        dreamt = kept["imagined_returns"]
        evaluation = read_episodes(folder / EPISODES, contestant.name)
        evaluation = replace(evaluation, familiarity=kept.get("familiarity", {}))
        return Result(contestant, evaluation, None if dreamt is None else tuple(dreamt))
    folder.mkdir(parents=True, exist_ok=True)
    for name in (ASKED, EVALUATIONS):
        (folder / name).unlink(missing_ok=True)
    learned = contestant.learned(how.device, how.greedy)
    started = time.time()
    with _collected(folder, how.videos) as collected:
        evaluation = evaluate(
            contestant.name,
            contestant.config,
            learned.policy,
            episodes=how.episodes,
            seed=how.seed,
            num_envs=how.num_envs,
            processes=how.processes,
            progress=how.progress,
            keep=collected.add if collected is not None else None,
        ).evaluation
        imagined = _imagined(contestant, learned, how, max(evaluation.lengths))
        if collected is not None:
            _write_videos(folder, evaluation, collected)
    _write_figures(folder, contestant, evaluation, imagined, started)
    told = {"imagined_returns": None if imagined is None else list(imagined)}
    write_json(folder / ASKED, {"question": asked, **told, "familiarity": dict(evaluation.familiarity)})
    return Result(contestant, evaluation, imagined)


def ranked(evaluation: Evaluation) -> dict[str, int]:
    """Which episode is the best, the median (the lower of two) and the worst by return; the first seed of equal ones.

    Values are positions in the lists of the evaluation.
    """
    order = np.argsort(np.array(evaluation.returns), kind="stable").tolist()
    best = int(np.argmax(evaluation.returns))
    return {"best": best, "median": order[(len(order) - 1) // 2], "worst": order[0]}


class _Collected:
    """Episodes in a folder of their own until it is known which of them are shown: hundreds do not fit into memory."""

    def __init__(self, folder: Path) -> None:
        self._store = EpisodeStore(folder, create=True, cache_bytes=0)
        self._names: dict[int, str] = {}

    def add(self, episode: Episode) -> None:
        self._names[int(episode.extras[SEED_KEY])] = self._store.append(episode).name

    def read(self, seed: int) -> Episode:
        return self._store.read(self._names[seed])


@contextmanager
def _collected(folder: Path, wanted: bool) -> Iterator[_Collected | None]:
    if not wanted:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix=".episodes-", dir=folder) as temporary:
        yield _Collected(Path(temporary))


def _imagined(contestant: Contestant, learned: Learned, how: How, horizon: int) -> tuple[float, ...] | None:
    """As long as the longest real episode, or the two returns would not compare."""
    if how.imagined == 0 or contestant.run is None or learned.dream is None or learned.contexts is None:
        return None
    return dreamt_returns(
        learned.dream.model,
        learned.policy,
        learned.contexts,
        episodes=how.imagined,
        horizon=horizon,
        steps=contestant.run.settings.dreamer.steps,
        seed=how.seed,
    )


def _question(contestant: Contestant, how: How) -> dict[str, Any]:
    """Everything that the figures follow from, as JSON has it."""
    question = {
        "env": contestant.config.to_dict(),
        "policy": contestant.name if contestant.run is None else contestant.run.digest,
        "episodes": how.episodes,
        "seed": how.seed,
        "imagined": how.imagined,
        "greedy": how.greedy,
        "videos": how.videos,
    }
    plain: dict[str, Any] = json.loads(json.dumps(question))
    return plain


def _write_videos(folder: Path, evaluation: Evaluation, collected: _Collected) -> None:
    for label, at in ranked(evaluation).items():
        frames = collected.read(evaluation.seeds[at]).image
        every = -(-len(frames) // SHOWN)
        text = f"{label}: return {evaluation.returns[at]:.3g}, seed {evaluation.seeds[at]}"
        write_mp4(folder / f"{label}.mp4", montage([Panel(text, frames[::every])]), FPS)


def _write_figures(
    folder: Path, contestant: Contestant, evaluation: Evaluation, imagined: tuple[float, ...] | None, started: float
) -> None:
    dreamt = None if imagined is None else float(np.mean(imagined))
    steps = _real_steps(contestant)
    write_episodes(folder / EPISODES, evaluation)
    write_monitor(folder / MONITOR, evaluation, contestant.config.id, started)
    append_evaluation(
        folder / EVALUATIONS, evaluation, steps=steps, imagined=float("nan") if dreamt is None else dreamt
    )
    with SummaryWriter(str(folder / "tensorboard")) as writer:
        log_evaluation(writer, evaluation, steps, imagined=dreamt)


def _real_steps(contestant: Contestant) -> int:
    """Real steps that the run learned from; 0 for a policy that learned nothing, or a run that does not say."""
    if contestant.run is None:
        return 0
    try:
        return int(evaluations_of(contestant.run.folder).steps[-1])
    except InputError:
        return 0
