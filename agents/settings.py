"""Everything a run can be told, and the presets: typed options with one help line each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from agents.dreamer import DreamerConfig
from envs.factory import EnvConfig
from worldmodel.config import WorldModelConfig
from worldmodel.errors import InputError
from worldmodel.training import TrainingConfig


@dataclass(frozen=True)
class WorldSettings:
    """The real world, what is recorded from it, and the world model that learns from that."""

    env: str = "MiniGrid-MemoryS7-v0"
    """Gymnasium id of the real environment; `module:id` imports a module first."""
    size: int | None = None
    """Side of the frames in pixels; None keeps the environment's own."""
    actions: tuple[int, ...] | None = None
    """Which of the environment's discrete actions to use; None uses all."""
    extra_obs: bool = False
    """Ask for the environment's extra observations; the oracle needs them, recordings keep them."""
    max_episode_steps: int | None = None
    """Truncate real episodes after so many steps; None keeps the environment's own limit."""
    collector: str = "random"
    """Policy that records the first episodes: random, scripted or oracle."""
    collect_episodes: int = 100
    """Real episodes recorded in each round."""
    num_envs: int = 2
    """Real environments played at once, each in its own process."""
    world_steps: int = 2000
    """Training steps of the world model in each round."""
    model: WorldModelConfig = field(default_factory=WorldModelConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    seed: int = 0
    """Everything random in the run follows from it."""

    @property
    def env_config(self) -> EnvConfig:
        """The real environment as the model sees it."""
        return EnvConfig(self.env, self.size, self.actions, self.extra_obs, self.max_episode_steps)


@dataclass(frozen=True)
class LoopSettings(WorldSettings):
    """The whole loop: record, learn the world, dream, act."""

    rounds: int = 1
    """Times that collect, learn and dream are repeated; from the second on the learned policy records."""
    dreams: int = 300
    """Batches of dreams that the policy learns from in each round."""
    dreamer: DreamerConfig = field(default_factory=DreamerConfig)
    eval_episodes: int = 100
    """Real episodes of every evaluation, on seeds that are never recorded."""


def with_seed(settings: LoopSettings) -> LoopSettings:
    """The settings with every part's seed derived from the run's."""
    return replace(
        settings,
        training=replace(settings.training, seed=settings.seed),
        dreamer=replace(settings.dreamer, seed=settings.seed),
    )


_MINIGRID = LoopSettings(
    env="MiniGrid-MemoryS7-v0",
    actions=(0, 1, 2),  # turn left, turn right, forward: the only ones that matter in this world
    model=WorldModelConfig(patch=28, latent_channels=128, noise_mean=1.0, noise_std=1.4, min_noise=0.5),
    training=TrainingConfig(batch=8, length=32),
)

PRESETS: Mapping[str, LoopSettings] = {
    "default": LoopSettings(),
    "demo": _MINIGRID,
    "smoke": replace(
        _MINIGRID,
        collect_episodes=24,
        world_steps=60,
        dreams=20,
        eval_episodes=20,
        model=replace(_MINIGRID.model, dim=64, layers=2, features=64, state_size=16),
        dreamer=DreamerConfig(rows=16, horizon=8, context=4),
    ),
    "memory-maze": LoopSettings(
        env="lssvwm/MemoryMaze-9x9-v0",
        model=WorldModelConfig(height=64, width=64, patch=16, num_actions=6),
        collector="scripted",
        collect_episodes=20,
        world_steps=4000,
        dreams=600,
        eval_episodes=10,
    ),
}


def settings_from_dict(values: Mapping[str, Any]) -> LoopSettings:
    """Inverse of `dataclasses.asdict`, through JSON. Unknown keys are an `InputError`: another version wrote them."""
    values = dict(values)
    try:
        values["model"] = WorldModelConfig.from_dict(values["model"])
        values["training"] = TrainingConfig(**values["training"])
        values["dreamer"] = DreamerConfig(**values["dreamer"])
        values["actions"] = None if values["actions"] is None else tuple(values["actions"])
        return LoopSettings(**values)
    except (KeyError, TypeError) as error:
        raise InputError(f"settings.json was written by another version ({error}): start a new run") from error


def settings_of(options: LoopSettings) -> LoopSettings:
    """The settings within the options of a script, without what concerns the script alone."""
    return LoopSettings(**{f.name: getattr(options, f.name) for f in fields(LoopSettings)})
