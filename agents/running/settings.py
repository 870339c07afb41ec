"""Everything a run can be told: typed options with one help line each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from tyro.conf import Suppress, arg

from lssvwm.agents.dreamer.cloning import CloningConfig
from lssvwm.agents.dreamer.dreamer import DreamerConfig
from lssvwm.agents.model_free.ppo import PPOConfig
from lssvwm.agents.model_free.sb3_config import SB3Config
from lssvwm.agents.planning.planner import PlanningConfig
from lssvwm.agents.running.environment import Probe
from lssvwm.agents.running.trackers import TRACKERS, Log
from lssvwm.envs.config import EnvConfig, EnvOptions
from lssvwm.worldmodel.actions import ActionPart, told
from lssvwm.worldmodel.config import WorldModelConfig, dividing
from lssvwm.worldmodel.registry import check_known
from lssvwm.worldmodel.told import ToldPart
from lssvwm.worldmodel.training import HeadsConfig, TrainingConfig

Algo = Literal[
    "dreamer",
    "ppo",
    "plan",
    "clone",
    "sb3-ppo",
    "sb3-maskable-ppo",
    "sb3-recurrent-ppo",
    "sb3-dqn",
    "sb3-sac",
    "sb3-td3",
]
"""What can learn to act."""
Place = Literal["dream", "real"]
"""Where."""

ALGORITHMS: dict[str, Callable[..., Any]] = {}
"""Algorithms that others add, by what --algo calls them (docs/architecture.md): what makes an `Algorithm` from the
`LoopSettings`, the folder that holds its state, the `Checkpoint` of the world model, and the `EpisodeStore` in which
dreams begin. In each round it trains until `--dreams` more."""


@dataclass(frozen=True)
class ModelOptions(WorldModelConfig):
    """Architecture and diffusion settings of the world model."""

    # What follows from the environment is no option.
    height: Suppress[int] = 56
    width: Suppress[int] = 56
    num_actions: Suppress[int] = 3
    action_size: Suppress[int] = 0
    action_parts: Suppress[tuple[ActionPart, ...]] = ()
    pose_size: Suppress[int] = 0
    told: Suppress[tuple[ToldPart, ...]] = ()
    architecture: Suppress[str] = ""

    patch: int = 0
    """Pixels along the side of a token; 0 is a quarter of the frame's shorter side, sixteen tokens of a square frame,
    or less where that does not divide it."""

    def __post_init__(self) -> None:
        """Nothing is checked before the frame is known."""

    def of_world(self, world: Probe, pose_size: int = 0, told_parts: tuple[ToldPart, ...] = ()) -> WorldModelConfig:
        """The checked configuration for the frames and actions of `world`."""
        derived = {
            "height": world.frame[0],
            "width": world.frame[1],
            "patch": self.patch or dividing(*world.frame, min(world.frame) // 4),
            **told(world.actions),
            "pose_size": 0 if self.dead_reckoning else pose_size,
            "told": told_parts,
        }
        return WorldModelConfig.from_dict({**self.to_dict(), **derived})


@dataclass(frozen=True)
class TrainingOptions(TrainingConfig):
    """How the world model is trained."""

    curriculum: Annotated[str, arg(prefix_name=False)] = ""
    """Lengths of the clips in stages, each with its number of steps: 64:20k,128:20k. The last length stays."""
    seed: Suppress[int] = 0  # follows from the run's
    steps: Suppress[int] = 0


@dataclass(frozen=True)
class DreamerOptions(DreamerConfig):
    """How the policy learns in dreams."""

    seed: Suppress[int] = 0  # follows from the run's


@dataclass(frozen=True)
class CloningOptions(CloningConfig):
    """How recorded episodes are cloned."""

    # Those of the dreamer.
    hidden: Suppress[int] = 256
    layers: Suppress[int] = 2
    seed: Suppress[int] = 0


@dataclass(frozen=True)
class PPOOptions(PPOConfig):
    """How the recurrent PPO learns."""

    seed: Suppress[int] = 0


@dataclass(frozen=True)
class SB3Options(SB3Config):
    """What Stable-Baselines3 is told."""

    seed: Suppress[int] = 0


@dataclass(frozen=True)
class WorldSettings(EnvOptions):
    """The real world, what is recorded from it, and the world model that learns from that."""

    env: str | None = "MiniGrid-MemoryS7-v0"
    """Gymnasium id of the real environment; `module:id` imports a module first. None only where nothing is played."""
    tell: tuple[str, ...] = ()
    """What else to tell the world model with every frame: keys of the environment's observation that are a text, such
    as mission, or a few numbers. What it has in dreams is what their context had."""
    pose: tuple[str, ...] = ()
    """Extras of the recordings that say where the agent is, such as agent_pos agent_dir. With --model.dead-reckoning
    the model finds out from them what actions do, and works out its own pose. Without it is told the pose with every
    frame: such a model continues recorded videos, for judging its memory; it is no environment."""
    collector: str = "random"
    """Policy that records the first episodes: random, scripted, seeker (Memory Maze) or oracle; or several, each for a
    share of the episodes, so that the world is seen to go well and not: seeker:0.5,random:0.5."""
    explore: float = 0.0
    """Share of random actions while recording, whoever records."""
    collect_episodes: int = 100
    """Real episodes recorded in each round, at most."""
    collect_frames: int | None = None
    """Record no more episodes in a round once it has this many frames: so that rounds cost alike, whether the policy
    that records takes hundreds of steps to an end or ten."""
    num_envs: int = 2
    """Real environments played at once."""
    processes: bool = True
    """Play each of them in a process of its own: for slow ones. Fast ones are faster together in one process."""
    world_steps: int = 2000
    """Training steps of the world model in each round."""
    model: ModelOptions = field(default_factory=ModelOptions)
    training: TrainingOptions = field(default_factory=TrainingOptions)
    heads: HeadsConfig = field(default_factory=HeadsConfig)
    seed: int = 0
    """Everything random in the run follows from it."""
    log: tuple[Log | str, ...] = ("tensorboard",)
    """Where settings, curves and videos of dreams go: any of tensorboard, wandb, trackio, mlflow."""

    def __post_init__(self) -> None:
        for name in self.log:
            check_known("log", name, TRACKERS, "TRACKERS")

    @property
    def all_world_steps(self) -> int:
        """Training steps of the world model in the whole run."""
        return self.world_steps


@dataclass(frozen=True)
class LoopSettings(WorldSettings):
    """The whole loop: record, learn the world, dream, act."""

    algo: Algo | str = "dreamer"
    """What learns to act: dreamer on the world model's features, clone (what was recorded) on the same, ppo (recurrent)
    or one of Stable-Baselines3's on frames; plan learns nothing and searches in dreams at every step."""
    place: Annotated[Place, arg(name="in")] = "dream"
    """Where it learns: in dreams, or without a world model in the real environment (ppo and sb3-*)."""
    rounds: int = 1
    """Times that collect, learn and dream are repeated; from the second on the learned policy records."""
    later_world_steps: int | None = None
    """Training steps of the world model in each round after the first. None: --world-steps."""
    train_ratio: float | None = None
    """Frames that the world model is trained on for each one recorded in a round, instead of so many steps."""
    dreams: int = 300
    """Batches of dreams that the dreamer learns from in each round."""
    dream_ratio: float | None = None
    """Frames that the dreamer imagines for each one recorded in a round, instead of --dreams."""
    env_steps: int = 200_000
    """Steps, dreamt or real, that ppo and sb3-* learn from in each round."""
    dream_steps: int = 64
    """Steps after which dreams that ppo and sb3-* learn in are truncated."""
    dream_context: int | None = None
    """Real frames that those have read when they begin; None: all since their episode began, as in real play."""
    dream_start: float = 0.25
    """Share of those that begin where an episode does."""
    clone: bool = False
    """Let the dreamer's policy start from what was recorded, where rewards are too rare to be found by chance."""
    demonstrator: str | None = None
    """Policy that records what is cloned, and what the world model never learns from; named as by --collector. A policy
    that knows more than the frames show walks to what nobody can see, and from such walks a world model learns that
    what is done tells what is there (Ortega et al. 2021, "Shaking the foundations"). None: those are cloned
    that the world model learns from."""
    demonstrations: int = 24
    """Episodes of the demonstrator."""
    dreamer: DreamerOptions = field(default_factory=DreamerOptions)
    ppo: PPOOptions = field(default_factory=PPOOptions)
    sb3: SB3Options = field(default_factory=SB3Options)
    planning: PlanningConfig = field(default_factory=PlanningConfig)
    cloning: CloningOptions = field(default_factory=CloningOptions)
    eval_episodes: int = 100
    """Real episodes of every evaluation, on seeds that are never recorded."""
    eval_layouts: tuple[int, int] | None = None
    """The first and how many of the layouts to evaluate in; None takes those of --layouts. What is never recorded is
    held out only by layouts that differ: seeds that differ may begin alike."""
    eval_envs: int | None = None
    """Real environments played at once in evaluations. None: one for each core, 64 with --no-processes, and no fewer
    than --num-envs."""
    world_model: Path | None = None
    """World model to use as it is, instead of recording and learning one: a checkpoint folder, a name of
    `lssvwm worlds`, or hf://OWNER/NAME. The environment is the one that it was trained on unless --env and the
    options with it say otherwise."""
    contexts: Path | None = None
    """With --world-model: episodes in which dreams begin. None takes those that it was trained on, or those that it
    carries."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_known("algo", self.algo, (*get_args(Algo), *ALGORITHMS), "ALGORITHMS")

    @property
    def all_world_steps(self) -> int:
        """Training steps of the world model in the whole run."""
        return self.world_steps_until(self.rounds - 1)

    def world_steps_until(self, round_: int) -> int:
        """Training steps of the world model when round `round_` has ended, by `world_steps` and `later_world_steps`."""
        later = self.world_steps if self.later_world_steps is None else self.later_world_steps
        return self.world_steps + round_ * later

    @property
    def eval_config(self) -> EnvConfig:
        """The real environment in which policies are judged."""
        return replace(self.env_config, layouts=self.eval_layouts or self.layouts)


@dataclass(frozen=True)
class LearnSettings(WorldSettings):
    """The world model alone."""

    episodes: Path | None = None
    """Folder of recorded episodes to train on. Nothing is recorded then, and no environment is needed."""
    distill: Path | None = None
    """A finished world model: its checkpoint folder, to train on for world-steps so that it dreams in one step
    (model.shortcut). World, episodes and model are its own unless options say otherwise."""
    tell_actions: bool = True
    """Tell the model the actions. The paper's Maze models are told the pose alone."""
    retrace: float = 0.0
    """Share of training clips that turn round and play their own past backwards; needs --pose."""
