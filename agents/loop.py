"""The whole loop on disk: record, learn the world, dream, act; every stage can be interrupted and is done once.

RUN/settings.json     what the run was told
RUN/episodes/         real episodes, one file each
RUN/world_model/      the world model: a checkpoint folder, and what it resumes from
RUN/policy/policy.pt  the policy, and what it resumes from
RUN/stages/           figures of every finished stage; one that is here is not done again
RUN/tensorboard/      learning curves
RUN/report/           index.html and results.json
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch
from torch.utils.tensorboard import SummaryWriter

from agents.dreamer import STATE as POLICY_STATE
from agents.dreamer import Dreamer
from agents.evaluation import evaluate, imagined_returns
from agents.policies import RandomPolicy, make_policy
from agents.report.run import report_run
from agents.settings import LoopSettings, WorldSettings, settings_from_dict
from agents.world_model_policy import WorldModelPolicy, load_agent
from envs.dream import check_world, contexts_folder
from envs.factory import EnvConfig, make
from envs.policy import Policy
from envs.recording import record
from worldmodel.checkpoint import Checkpoint, load_checkpoint, read_json
from worldmodel.checkpoint import replace as write_atomically
from worldmodel.config import WorldModelConfig
from worldmodel.episodes import EpisodeStore
from worldmodel.errors import InputError, require
from worldmodel.model import WorldModel
from worldmodel.training import Trainer, check_same

EVALUATION_SEEDS = 1_000_000_000
"""Seeds from here on are for evaluation, those below for recording; a run's own seed moves both."""
SEEDS_PER_RUN = 1_000_000

Figures = dict[str, Any]


class Run:
    """A folder in which stages are done once."""

    def __init__(self, out: Path, settings: WorldSettings, *, progress: bool = True) -> None:
        self.out, self.settings, self.progress = out, settings, progress
        self.writer = SummaryWriter(str(out / "tensorboard"))

    def stage(self, name: str, work: Callable[[], Figures]) -> Figures:
        """Do `work` unless its figures are there already; keep and return them."""
        path = self.out / "stages" / f"{name}.json"
        if not path.exists():
            figures = work()
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, figures)
        return read_json(path, "the folder of a run's stages")

    def store(self) -> EpisodeStore:
        """The run's own episodes."""
        return EpisodeStore(self.out / "episodes", create=True)

    def collect(self, round_: int, policy: Policy) -> Figures:
        """Record this round's real episodes."""
        s = self.settings
        first = s.seed * SEEDS_PER_RUN + round_ * s.collect_episodes
        summary = record(
            s.env_config,
            self.store(),
            policy,
            episodes=s.collect_episodes,
            num_envs=s.num_envs,
            seed=first,
            progress=self.progress,
        )
        figures = asdict(summary)
        del figures["returns"]
        return figures

    def first_collector(self) -> Policy:
        """The policy that records before anything is learned."""
        return make_policy(self.settings.collector, probe(self.settings.env_config).num_actions)

    def learn_world(self, round_: int, episodes: Path | None = None) -> Figures:
        """Train the world model on all episodes so far, from where it stands."""
        s = self.settings
        episodes = episodes or self.out / "episodes"
        store = EpisodeStore(episodes)
        num_actions = probe(s.env_config).num_actions if episodes == self.out / "episodes" else store.max_action + 1
        height, width = store.image_shape
        config = replace(s.model, height=height, width=width, num_actions=num_actions)
        folder = self.out / "world_model"
        world = {
            "env": s.env_config.to_dict(),
            "num_actions": num_actions,
            "episodes": str(Path("..") / "episodes") if episodes == self.out / "episodes" else str(episodes.resolve()),
        }
        model = build_model(config, s.seed).to(device())
        trainer = Trainer(model, store, s.training, folder, world=world, writer=self.writer)
        losses = trainer.train((round_ + 1) * s.world_steps, progress=self.progress)
        parameters = sum(p.numel() for p in model.parameters())
        return {
            "steps": trainer.step,
            "parameters": parameters,
            "episodes": len(store),
            "frames": store.frames,
            **losses,
        }


class Loop(Run):
    """Collect, learn the world, dream and act, repeated, then judged for real."""

    settings: LoopSettings

    def __init__(
        self, out: Path, settings: LoopSettings, *, world_model: Path | None = None, progress: bool = True
    ) -> None:
        super().__init__(out, settings, progress=progress)
        self.given = world_model

    def run(self) -> dict[str, Figures]:
        """Every stage in order; returns the figures of all, by name."""
        figures: dict[str, Figures] = {}
        for round_ in range(self.settings.rounds):
            figures |= self.round(round_)
        return figures

    def run_to_report(self, command: str) -> Path:
        """Run every stage that is not done yet and write the report; returns its page."""
        require("av", "video", "Videos in reports")
        require("matplotlib", "video", "Plots in reports")
        stages = self.run()
        self.writer.flush()
        settings = json.loads(json.dumps(asdict(self.settings)))
        return report_run(self.out, stages, self.world().model, settings=settings, command=command)

    def round(self, round_: int) -> dict[str, Figures]:
        """One time through the loop."""
        figures = {}
        if self.given is None:
            name = f"{round_}-collect"
            figures[name] = self.stage(name, lambda: self.collect(round_, self.collector(round_)))
            name = f"{round_}-world-model"
            figures[name] = self.stage(name, lambda: self.learn_world(round_))
        name = f"{round_}-policy"
        figures[name] = self.stage(name, lambda: self.dream(round_))
        if round_ == 0:
            figures["random"] = self.stage("random", lambda: self.judge("random", "random", self.random()))
        name = f"{round_}-evaluation"
        figures[name] = self.stage(name, lambda: self.judge_learned(name, round_))
        return figures

    def world(self) -> Checkpoint:
        """The world model that the policy lives in, checked against its contexts."""
        checkpoint = load_checkpoint(self.given or self.out / "world_model", device())
        check_world(checkpoint, self.contexts(checkpoint))
        return checkpoint

    def contexts(self, checkpoint: Checkpoint) -> EpisodeStore:
        """Where dreams begin: the run's own episodes, or those of the world model that was given."""
        return EpisodeStore(contexts_folder(checkpoint))

    def collector(self, round_: int) -> Policy:
        """The first round is recorded by a policy that needs no learning, later ones by what was learned."""
        if round_ == 0:
            return self.first_collector()
        return self.learned(self.world().model)

    def learned(self, model: WorldModel) -> WorldModelPolicy:
        """The policy as it stands."""
        return WorldModelPolicy(model, load_agent(self.out / "policy" / POLICY_STATE, model))

    def random(self) -> Policy:
        """The lower anchor."""
        return RandomPolicy(probe(self.settings.env_config).num_actions)

    def dream(self, round_: int) -> Figures:
        """Train the policy in dreams, from where it stands."""
        s = self.settings
        checkpoint = self.world()
        dreamer = Dreamer(
            checkpoint.model, self.contexts(checkpoint), s.dreamer, self.out / "policy", writer=self.writer
        )
        means = dreamer.train((round_ + 1) * s.dreams, progress=self.progress)
        frames = dreamer.step * s.dreamer.rows * s.dreamer.horizon
        return {"batches": dreamer.step, "imagined_frames": frames, **means}

    def judge(self, stage: str, name: str, policy: Policy) -> Figures:
        """Play real episodes on the evaluation seeds, and keep one of them to look at."""
        s = self.settings
        seed = EVALUATION_SEEDS + s.seed * SEEDS_PER_RUN
        judged = evaluate(
            name,
            s.env_config,
            policy,
            episodes=s.eval_episodes,
            seed=seed,
            num_envs=s.num_envs,
            progress=self.progress,
        )
        EpisodeStore(self.out / "examples" / stage, create=True).append(judged.example)
        return judged.evaluation.to_dict()

    def judge_learned(self, stage: str, round_: int) -> Figures:
        """Play the learned policy for real, and its own dreams beside it."""
        s = self.settings
        checkpoint = self.world()
        policy = self.learned(checkpoint.model)
        figures = self.judge(stage, "trained in dreams", policy)
        horizon = max(figures["lengths"])
        imagined = imagined_returns(
            checkpoint.model,
            policy.agent,
            self.contexts(checkpoint),
            episodes=s.eval_episodes,
            horizon=min(horizon, 64),
            steps=s.dreamer.steps,
            seed=s.seed,
        )
        self.writer.add_scalar("evaluation/real_return", figures["return"]["mean"], round_)
        figures["imagined_returns"] = imagined
        return figures


def open_run(out: Path, settings: LoopSettings | WorldSettings, *, resume: bool) -> None:
    """Note the settings of a new run, or check that a resumed one keeps its own (only `rounds` may grow)."""
    path = out / "settings.json"
    if path.exists():
        if not resume:
            raise InputError(f"{out} holds a run already: add --resume to continue it, or choose another --out")
        check_same(path, read_json(path, "a run"), json.loads(json.dumps(asdict(settings))), but=("rounds",))
    out.mkdir(parents=True, exist_ok=True)
    write_json(path, asdict(settings))


def saved_settings(out: Path) -> LoopSettings | None:
    """Settings of the run in `out`, None when there is none."""
    path = out / "settings.json"
    return settings_from_dict(read_json(path, "a run")) if path.exists() else None


@dataclass(frozen=True)
class Probe:
    """What an environment shows and takes."""

    frame: tuple[int, int]
    num_actions: int


@functools.cache
def probe(config: EnvConfig) -> Probe:
    """Make the environment once and look."""
    env = make(config)
    try:
        height, width, _ = env.observation_space.shape or ()
        assert isinstance(env.action_space, gym.spaces.Discrete)
        return Probe((height, width), int(env.action_space.n))
    finally:
        env.close()


def build_model(config: WorldModelConfig, seed: int) -> WorldModel:
    """A new world model whose weights follow from `seed`; torch's global random state is left as it was."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return WorldModel(config)


def device() -> torch.device:
    """The first GPU, or the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON object atomically."""
    text = json.dumps(value, indent=2, allow_nan=False) + "\n"
    write_atomically(path, lambda temporary: temporary.write_text(text))
