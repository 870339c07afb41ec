"""A run on disk, and its first two stages: recording real episodes and learning the world from them."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from lssvwm.agents.policies.baselines import Exploring, RandomPolicy
from lssvwm.agents.policies.mixture import named_collector
from lssvwm.agents.report.clips import TAG, dream_beside_truth
from lssvwm.agents.running.checks import check_stages
from lssvwm.agents.running.environment import Probe, probe
from lssvwm.agents.running.settings import LearnSettings, WorldSettings
from lssvwm.agents.running.settings_file import to_json
from lssvwm.agents.running.tracking import Tracking
from lssvwm.envs.policy import Policy
from lssvwm.envs.recording.provenance import listed
from lssvwm.envs.recording.recorder import record
from lssvwm.worldmodel.actions import ActionSpec
from lssvwm.worldmodel.checkpoint import CONFIG, read_json
from lssvwm.worldmodel.common.atomic import write_json
from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.common.rng import weights_from
from lssvwm.worldmodel.config import WorldModelConfig
from lssvwm.worldmodel.episodes import EpisodeStore
from lssvwm.worldmodel.episodes.packed import CONTEXTS, pack
from lssvwm.worldmodel.episodes.retrace import Retraced
from lssvwm.worldmodel.layers.dead_reckoning import check_pose
from lssvwm.worldmodel.model import WorldModel
from lssvwm.worldmodel.told import ToldPart, read_told, told_parts
from lssvwm.worldmodel.training import STATE, ClipSource, Trainer, TrainingConfig, distilled, processes

SEEDS_PER_RUN, RUNS = 1_000_000, 1000
"""A run's own seed moves the seeds of its episodes by so many, and there are so many of such seeds."""
EVALUATION_SEEDS = SEEDS_PER_RUN * RUNS
"""Seeds from here on are for evaluation, those below for recording; a run's own seed moves both."""

EPISODES, DEMONSTRATIONS = "episodes", "demonstrations"
"""Folders of what a run records: what its world model learns from, and what is cloned alone."""

CLOCKS = "clocks.json"
LONG = 10
"""Episodes of more than so many clips are worth a word where no memory is carried."""

_log = logging.getLogger(__name__)

Figures = dict[str, Any]


class Run:
    """A folder in which stages are done once.

    Settings that cannot work are an `InputError` at construction, before anything is written. A run that was killed and
    goes on ends with the figures of one that was not, bit for bit on a CPU with one thread; only the order of episodes,
    which decides what is drawn from them, may differ where several were being recorded at once.
    """

    def __init__(
        self, out: Path, settings: WorldSettings, *, episodes: Path | None = None, progress: bool = True
    ) -> None:
        self.out, self.settings, self.progress = out, settings, progress
        self.tracking = Tracking(out, settings.log, lambda: to_json(settings))
        self.own_episodes = out / EPISODES
        self.episodes = episodes or self.own_episodes
        counted = ("collect_episodes", "collect_frames", "num_envs", "world_steps", "later_world_steps", "dreams")
        for name in (*counted, "rounds", "demonstrations", "eval_episodes", "eval_envs"):
            count = getattr(settings, name, None)
            if count is not None and count < 1:
                raise InputError(f"{name} is {count}: use 1 or more")
        if settings.pose and self.episodes == self.own_episodes and not settings.extra_obs:
            raise InputError(f"--pose {' '.join(settings.pose)} is recorded only with --extra-obs: add it")
        if settings.model.dead_reckoning and not settings.pose:
            raise InputError(
                f"--model.dead-reckoning {settings.model.dead_reckoning} finds out from recorded poses what actions "
                "do: name the extras that hold them (--extra-obs --pose agent_pos agent_dir)"
            )
        if not 0 <= settings.seed < RUNS:
            raise InputError(f"--seed {settings.seed}: use 0 to {RUNS - 1}, others would meet the seeds of evaluation")
        counts = {
            "collect_episodes": sum(map(len, seeds_of(settings))),
            "eval_episodes": getattr(settings, "eval_episodes", 0),
        }
        for name, count in counts.items():
            if count > SEEDS_PER_RUN:
                raise InputError(f"{name}: {count} are more than the {SEEDS_PER_RUN} seeds of a run, use fewer")

    def stage(self, name: str, work: Callable[[], Figures]) -> Figures:
        """Do `work` unless its figures are there already; keep and return them."""
        if (done := self.figures(name)) is not None:
            return done
        begin = time.monotonic()
        try:
            figures: Figures = json.loads(json.dumps(work(), allow_nan=False))
        finally:
            if processes().main:
                clocks = self.clocks()
                write_json(self.out / CLOCKS, {**clocks, name: clocks.get(name, 0.0) + time.monotonic() - begin})
        if processes().main:
            path = self.out / "stages" / f"{name}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, figures)
        return figures

    @property
    def is_new(self) -> bool:
        """Whether no stage has been begun."""
        return not (self.out / CLOCKS).exists()

    def figures(self, stage: str) -> Figures | None:
        """What a stage has come to; None before it is done."""
        path = self.out / "stages" / f"{stage}.json"
        return read_json(path, "the folder of a run's stages") if path.exists() else None

    def clocks(self) -> dict[str, float]:
        """Seconds that each stage has taken so far, interrupted attempts included."""
        path = self.out / CLOCKS
        return read_json(path, "a run") if path.exists() else {}

    def world_of_episodes(self) -> Probe:
        """Frames and actions that the world model is to learn: the environment's, or those of the given episodes."""
        s = self.settings
        if self.episodes == self.own_episodes:
            return probe(s.env_config)
        store = EpisodeStore(self.episodes)
        actions = (
            ActionSpec.unbounded(size) if (size := store.action_size) else ActionSpec.discrete(store.max_action + 1)
        )
        seen = Probe(store.image_shape, actions)
        if s.env is None:
            return seen
        world = probe(s.env_config)
        have, want = seen.actions, world.actions
        if world.frame != seen.frame or have.size != want.size or have.count > want.count:
            raise InputError(
                f"{self.episodes} holds frames of {seen.frame} and {have}, {s.env} has frames of {world.frame} and "
                f"{want}: leave out --env, or change --size and --actions"
            )
        return world

    def store(self) -> EpisodeStore:
        """The episodes to learn from, with the pose that was asked for."""
        return EpisodeStore(self.episodes, pose=self.settings.pose, told=self.told())

    def told(self) -> tuple[ToldPart, ...]:
        """Of every frame: what the world model has learned, else the episodes have, else the world (no words yet)."""
        s = self.settings
        if not s.tell:
            return ()
        for checkpoint in (self.out / "world_model", self.source):
            if checkpoint is not None and (checkpoint / CONFIG).exists():
                config = read_json(checkpoint / CONFIG, "a world model checkpoint")
                parts: tuple[ToldPart, ...] = read_told(config["model"].get("told", ()))
                if tuple(part.key for part in parts) != s.tell:
                    keys = " ".join(part.key for part in parts) or "nothing"
                    raise InputError(f"--tell {' '.join(s.tell)}: {checkpoint} has learned to be told {keys}")
                return parts
        if self.episodes != self.own_episodes or (self.episodes.is_dir() and len(EpisodeStore(self.episodes, True))):
            return told_parts(EpisodeStore(self.episodes), s.tell)
        sizes = dict(probe(s.env_config).extras)
        if missing := [key for key in s.tell if key not in sizes]:
            raise InputError(f"--tell {missing[0]}: {s.env} tells no such thing, but {sorted(sizes)}")
        return tuple(ToldPart(key, (sizes[key],)) for key in s.tell)

    @property
    def source(self) -> Path | None:
        """The checkpoint that the world model begins with; none where it begins anew."""
        return None

    def clips(self, store: EpisodeStore) -> ClipSource:
        """What the world model is trained on."""
        return store

    def configure(self, seen: Probe) -> WorldModelConfig:
        """The world model's configuration for a world: with the pose, where it is told one."""
        size = self.pose_size(seen)
        if self.settings.model.dead_reckoning:
            check_pose(size)
        return self.settings.model.of_world(seen, size, self.told())

    def pose_size(self, seen: Probe) -> int:
        """Numbers of the recorded pose."""
        if self.episodes != self.own_episodes:
            return self.store().pose_size
        sizes = dict(seen.extras)
        if missing := [key for key in self.settings.pose if key not in sizes]:
            raise InputError(f"--pose {missing[0]}: {self.settings.env} records no such extra, but {sorted(sizes)}")
        return sum(sizes[key] for key in self.settings.pose)

    def begun(self, config: WorldModelConfig) -> WorldModel:
        """The world model as it is before its first step."""
        with weights_from(self.settings.seed):
            return WorldModel(config)

    def model_config(self) -> WorldModelConfig:
        """The world model's configuration, checked."""
        config = self.configure(self.world_of_episodes())
        with torch.device("meta"):  # its parts check it too; nothing is allocated
            WorldModel(config)
        return config

    def collect(self, round_: int, policy: Policy) -> Figures:
        """Record this round's real episodes."""
        s, store = self.settings, EpisodeStore(self.own_episodes, create=True)
        first = s.seed * SEEDS_PER_RUN + round_ * s.collect_episodes
        if isinstance(policy, Exploring):
            # Earlier versions did not explore in the first round: one that they began ends as it began.
            plain = type(policy.policy).__name__
            round_of = [entry for entry in listed(store) if entry.seed in range(first, first + s.collect_episodes)]
            sources = [entry.source for entry in round_of if entry.source is not None]
            if any(source["policy"].partition("(")[0] == plain for source in sources):
                policy = policy.policy
        return self.record(store, policy, s.collect_episodes, first, s.collect_frames)

    def record(
        self, store: EpisodeStore, policy: Policy, episodes: int, seed: int, max_frames: int | None = None
    ) -> Figures:
        """Let `policy` play episodes of the real environment, in the way of this run."""
        s = self.settings
        summary = record(
            s.env_config,
            store,
            policy,
            episodes=episodes,
            num_envs=s.num_envs,
            processes=s.processes,
            seed=seed,
            max_frames=max_frames,
            progress=self.progress,
        )
        figures = {name: value for name, value in asdict(summary).items() if name != "returns"}
        return figures if summary.returns else {**figures, "mean_return": None}  # JSON knows no nan

    def first_collector(self) -> Policy:
        """The policy that records before anything is learned."""
        return self.exploring(named_collector(self.settings.collector, self.settings.env_config, "--collector"))

    def exploring(self, policy: Policy) -> Policy:
        """`policy` as it records: a share of its actions are random."""
        share, config = self.settings.explore, self.settings.env_config
        return Exploring(policy, RandomPolicy(probe(config).actions), share) if share else policy

    def world_steps(self, round_: int, store: EpisodeStore) -> int:
        """Training steps of the world model when round `round_` has ended."""
        return self.settings.world_steps

    def learn_world(self, round_: int) -> Figures:
        """Train the world model on all episodes so far, from where it stands."""
        s, store, config = self.settings, self.store(), self.model_config()
        own = self.episodes == self.own_episodes
        world = {
            "env": None if s.env is None else s.env_config.to_dict(),
            "num_actions": config.num_actions,
            "episodes": str(Path("..") / EPISODES) if own else str(self.episodes.resolve()),
            "pose": list(store.pose),
            "fps": store.fps,
        }
        frames, longest = store.lengths.mean(), max(stage.length for stage in s.training.stages.stages)
        if not s.training.carry and frames > LONG * longest:
            _log.warning(
                "episodes of %d frames are learned in clips of %d that begin from empty memory: what lies further back "
                "will be of little use; --training.carry 0.95 reads on through episodes",
                *(frames, longest),
            )
        model = self.begun(config).to(processes().device)
        steps = s.all_world_steps if s.training.decay else 0
        training = TrainingConfig(**{**asdict(s.training), "seed": s.seed, "steps": steps})
        trainer = Trainer(model, self.clips(store), training, self.out / "world_model", world=world)
        if processes().main:  # before the training, so that what an interrupted one leaves can dream elsewhere, too
            trainer.out.mkdir(parents=True, exist_ok=True)
            pack(trainer.out / CONTEXTS, store)
        with self.tracking.part("world_model", trainer.step) if processes().main else nullcontext() as logger:
            trainer.writer = logger
            losses = trainer.train(self.world_steps(round_, store), progress=self.progress)
            heads = trainer.fit_heads(store, s.heads)
            losses |= heads
            if logger is not None:
                for head in ("reward", "termination"):
                    if (loss := heads.get(f"heads_{head}")) is not None:
                        logger.add_scalar(f"heads/{head}", loss, trainer.step)
                if (clip := dream_beside_truth(trainer.average, store)) is not None:
                    logger.add_clip(TAG, clip, trainer.step)
        parameters = sum(p.numel() for p in model.parameters())
        counts = {"steps": trainer.step, "parameters": parameters, "episodes": len(store), "frames": store.frames}
        return {**counts, **losses}


class Learning(Run):
    """A world model alone: recorded and learned, or learned from episodes that are there."""

    settings: LearnSettings

    def __init__(self, out: Path, settings: LearnSettings, *, progress: bool = True) -> None:
        super().__init__(out, settings, episodes=settings.episodes, progress=progress)
        if self.is_new:
            check_stages(settings.training.stages, settings.world_steps)
        if settings.retrace and (not settings.pose or settings.model.dead_reckoning):
            raise InputError(
                f"--retrace {settings.retrace} turns clips round, where only a pose says where the way back leads: add "
                "--pose and the names of the extras that hold it, and leave out --model.dead-reckoning"
            )
        if settings.retrace and settings.training.carry:
            raise InputError(
                f"--retrace {settings.retrace} turns clips round, where no other can go on: add --training.carry 0"
            )

    @property
    def source(self) -> Path | None:
        """The checkpoint to distil; none once the training has weights of its own."""
        return None if (self.out / "world_model" / STATE).exists() else self.settings.distill

    def begun(self, config: WorldModelConfig) -> WorldModel:
        """With the weights that are to be distilled."""
        return super().begun(config) if self.source is None else distilled(self.source, config)

    def model_config(self) -> WorldModelConfig:
        """Checked against what is to be distilled, too."""
        config = super().model_config()
        if self.source is not None:
            distilled(self.source, config)
        return config

    def clips(self, store: EpisodeStore) -> ClipSource:
        """Some of them turn round, where that was asked for."""
        return Retraced(store, self.settings.retrace) if self.settings.retrace else store

    def configure(self, seen: Probe) -> WorldModelConfig:
        """Without the actions where they are not to be told."""
        world = seen if self.settings.tell_actions else Probe(seen.frame, ActionSpec.discrete(0), seen.extras)
        return super().configure(world)


def recorded_in(out: Path) -> tuple[EpisodeStore, ...]:
    """What the run in folder `out` has recorded: episodes and demonstrations, those of them that there are."""
    return tuple(EpisodeStore(out / name) for name in (EPISODES, DEMONSTRATIONS) if (out / name).exists())


def seeds_of(settings: WorldSettings) -> tuple[range, range]:
    """Seeds of a run's episodes, at most, and of its demonstrations: the last of its own, as rounds may grow."""
    first, last = settings.seed * SEEDS_PER_RUN, (settings.seed + 1) * SEEDS_PER_RUN
    shown = int(getattr(settings, "demonstrations", 0)) if getattr(settings, "demonstrator", None) else 0
    episodes = int(getattr(settings, "rounds", 1)) * settings.collect_episodes
    return range(first, first + episodes), range(last - shown, last)
