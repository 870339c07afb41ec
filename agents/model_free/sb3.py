"""Stable-Baselines3 and sb3-contrib as an `Algorithm`: trained in any vector environment, played for real."""

from __future__ import annotations

import inspect
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import VectorEnv
from numpy.typing import NDArray
from stable_baselines3 import DQN, PPO, SAC, TD3
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import KVWriter, Logger
from stable_baselines3.common.vec_env import VecMonitor

from lssvwm.agents.adapters import for_stable_baselines
from lssvwm.agents.model_free.sb3_config import Name, SB3Config
from lssvwm.envs.policy import Actions, FrameArray, IntArray
from lssvwm.envs.spaces.actions import flat, spec_of
from lssvwm.envs.spaces.masks import masks_of
from lssvwm.worldmodel.checkpoint import read_state, taking_up
from lssvwm.worldmodel.common.atomic import replace
from lssvwm.worldmodel.common.errors import InputError, require
from lssvwm.worldmodel.common.loggers import Scalars
from lssvwm.worldmodel.common.progress import Bar
from lssvwm.worldmodel.common.stepping import Interrupts, deferred_interrupts

STATE = "sb3.pt"


class StableBaselines:
    """Trains algorithm `name` in `envs`, which reset themselves (`AutoresetMode.SAME_STEP`).

    `out` receives `sb3.pt`: weights, optimiser and steps so far, from which a new object of the same settings goes on.
    Other than our own algorithms it does not go on bit for bit: Stable-Baselines3 keeps no random state, and DQN,
    SAC and TD3 begin with an empty buffer. Its seed sets the global generators of torch, numpy and Python.

    Raises MissingExtraError without sb3-contrib for MaskablePPO and RecurrentPPO, InputError for actions that it cannot
    take.
    """

    def __init__(
        self,
        name: Name,
        envs: VectorEnv[Any, Any, Any],
        config: SB3Config,
        out: Path,
        *,
        device: torch.device | str = "cpu",
        writer: Scalars | None = None,
    ) -> None:
        self.name, self.config, self.out, self.writer = name, config, out, writer
        self.model = _make(name, envs, config, device)
        self.model.set_logger(Logger(None, [_Curves(self)]))
        if (out / STATE).exists():
            self.load()

    @property
    def logged(self) -> int:
        """Steps of the environment so far, over all rows."""
        return int(self.model.num_timesteps)

    def train(self, until: int, *, progress: bool = True) -> dict[str, float]:
        """Train up to environment step `until`, at most a rollout more, and save; returns means of recent episodes."""
        left = until - self.model.num_timesteps
        if left > 0:
            with deferred_interrupts() as interrupts:
                try:
                    self.model.learn(left, _Watching(self, until, interrupts, progress), reset_num_timesteps=False)
                finally:
                    self.save()
                interrupts()
        return {"env_steps": float(self.model.num_timesteps), **self.recent()}

    def recent(self) -> dict[str, float]:
        """Mean return and length of the last hundred episodes, where some have ended."""
        episodes = list(self.model.ep_info_buffer or ())
        keys = {"episodic_return": "r", "episodic_length": "l"}
        return {name: float(np.mean([e[key] for e in episodes])) for name, key in keys.items() if episodes}

    def policy(self, *, greedy: bool = False) -> SB3Policy:
        """What has been learned, playing episodes."""
        return SB3Policy(self.model, greedy=greedy)

    def save(self) -> None:
        """Write weights, optimiser and steps so far."""
        self.out.mkdir(parents=True, exist_ok=True)
        state: Mapping[str, Any] = {
            "steps": self.model.num_timesteps,
            "parameters": self.model.get_parameters(),
            "variables": {name: tensor.detach() for name, tensor in self._variables().items()},
        }
        replace(self.out / STATE, lambda path: torch.save(state, path))

    def load(self) -> None:
        """Continue from `sb3.pt`."""
        state = read_state(self.out / STATE, self.model.device)
        with taking_up(self.out / STATE):
            self.model.set_parameters(state["parameters"], exact_match=True, device=self.model.device)
            self.model.num_timesteps = state["steps"]
            for name, value in state.get("variables", {}).items():  # earlier versions kept none
                self._variables()[name].data.copy_(value)

    def _variables(self) -> Mapping[str, torch.Tensor]:
        """What is learned besides the parameters: the weight of SAC's entropy."""
        _, names = self.model._get_torch_save_params()
        return {name: getattr(self.model, name) for name in names}


class _Curves(KVWriter):  # type: ignore[misc]
    """What Stable-Baselines3 logs, under its own tags."""

    def __init__(self, owner: StableBaselines) -> None:
        self.owner = owner

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, Any], step: int = 0) -> None:
        """One point of each curve; counters of time are our own business."""
        if (writer := self.owner.writer) is None:
            return
        for name, value in key_values.items():
            if isinstance(value, int | float | np.number) and np.isfinite(value) and not name.startswith("time/"):
                writer.add_scalar(name, float(value), step)

    def close(self) -> None:
        """Nothing is open."""


@dataclass
class _Row:
    """An episode that is played."""

    chance: torch.Tensor
    """State of torch's generator for its next action."""
    state: tuple[Any, ...] | None = None
    begins: bool = True


class SB3Policy:
    """Plays real episodes with a policy of Stable-Baselines3, of frames; each row has its own recurrent state.

    Stable-Baselines3 draws the actions of all rows from torch's global generator. So each row is asked by itself, with
    the generator as its own draws have left it, and what it does depends on its seed alone (on a CPU; DQN explores by
    numpy's generator besides).
    """

    def __init__(self, model: BaseAlgorithm, *, greedy: bool = False) -> None:
        self.model, self.greedy = model, greedy
        self.space = spec_of(model.action_space, "the policy's environment")
        self._rows: dict[int, _Row] = {}

    def reset(self, rows: IntArray, seeds: IntArray) -> None:
        """Rows that start an episode forget everything."""
        for row, seed in zip(rows.tolist(), seeds.tolist(), strict=True):
            self._rows[row] = _Row(torch.Generator().manual_seed(seed % 2**63).get_state())

    def act(self, frames: FrameArray, info: Mapping[str, Any]) -> Actions:
        """Next actions (N,) or (N, A) for frames (N, h, w, 3); MaskablePPO looks at the masks in `info`."""
        count = len(frames)
        allowed = masks_of(info, count, self.space.count) if _maskable(self.model) else None
        observation = np.moveaxis(frames, -1, 1)  # Stable-Baselines3 has moved the channels of its environments too
        whole = torch.default_generator.get_state()
        try:
            chosen = [
                self._act(row, observation[row : row + 1], None if allowed is None else allowed[row : row + 1])
                for row in range(count)
            ]
        finally:
            torch.default_generator.set_state(whole)
        return flat(self.space, np.concatenate(chosen))

    def _act(self, row: int, observation: NDArray[np.uint8], allowed: NDArray[np.bool_] | None) -> NDArray[Any]:
        one = self._rows[row]
        torch.default_generator.set_state(one.chance)
        masked = {} if allowed is None else {"action_masks": allowed}
        chosen: NDArray[Any]
        chosen, one.state = self.model.predict(
            observation, one.state, np.array([one.begins]), deterministic=self.greedy, **masked
        )
        one.chance, one.begins = torch.default_generator.get_state(), False
        return chosen


def _maskable(model: BaseAlgorithm) -> bool:
    return "action_masks" in inspect.signature(model.predict).parameters


class _Watching(BaseCallback):  # type: ignore[misc]
    """Progress, curves, checkpoints and interruptions while Stable-Baselines3 learns."""

    def __init__(self, owner: StableBaselines, until: int, interrupts: Interrupts, progress: bool) -> None:
        super().__init__()
        self.owner, self.interrupts = owner, interrupts
        self.saved = time.monotonic()
        done = owner.model.num_timesteps
        self.bar = Bar(owner.name, until, "step", initial=done, scale=True, show=progress)

    def _on_rollout_end(self) -> None:
        for name, value in self.owner.recent().items() if self.owner.writer else ():
            assert self.owner.writer is not None
            self.owner.writer.add_scalar(f"charts/{name}", value, self.num_timesteps)

    def _on_step(self) -> bool:
        self.bar.update(self.num_timesteps - self.bar.done)
        if time.monotonic() - self.saved > self.owner.config.save_seconds:
            self.owner.save()
            self.saved = time.monotonic()
        return not self.interrupts.came  # False ends the training

    def _on_training_end(self) -> None:
        self.bar.close()


_ANY = (spaces.Discrete, spaces.Box, spaces.MultiDiscrete, spaces.MultiBinary)
TAKES: Mapping[Name, tuple[type[spaces.Space[Any]], ...]] = {
    "sb3-ppo": _ANY,
    "sb3-maskable-ppo": (spaces.Discrete,),
    "sb3-recurrent-ppo": _ANY,
    "sb3-dqn": (spaces.Discrete,),
    "sb3-sac": (spaces.Box,),
    "sb3-td3": (spaces.Box,),
}
"""The action spaces that the algorithms know."""


def _make(name: Name, envs: VectorEnv[Any, Any, Any], config: SB3Config, device: torch.device | str) -> BaseAlgorithm:
    taken, found = TAKES[name], envs.single_action_space
    if not isinstance(found, taken):
        fitting = (
            ", ".join(other for other, kinds in TAKES.items() if isinstance(found, kinds)) or "--algo dreamer or ppo"
        )
        wanted = " or ".join(kind.__name__ for kind in taken)
        raise InputError(f"--algo {name} takes actions in a {wanted}, this environment has {found}: choose {fitting}")
    rows = VecMonitor(for_stable_baselines(envs))
    shared: dict[str, Any] = {"learning_rate": config.lr, "gamma": config.discount}
    shared |= {"seed": config.seed, "device": device, "verbose": 0}
    if name == "sb3-dqn":
        return DQN(
            "CnnPolicy",
            rows,
            buffer_size=config.buffer,
            batch_size=config.batch,
            learning_starts=min(1_000, config.buffer // 4),
            train_freq=(4, "step"),
            gradient_steps=4,
            target_update_interval=1_000,
            exploration_fraction=config.exploration,
            **shared,
        )
    if name in ("sb3-sac", "sb3-td3"):
        off_policy: dict[str, Any] = {
            "train_freq": 1,
            "gradient_steps": -1,
            "learning_starts": min(1_000, config.buffer // 4),
        }
        kind = SAC if name == "sb3-sac" else TD3
        return kind("CnnPolicy", rows, buffer_size=config.buffer, batch_size=config.batch, **off_policy, **shared)
    on_policy: dict[str, Any] = {
        "n_steps": config.rollout,
        "batch_size": config.batch,
        "n_epochs": config.epochs,
        "ent_coef": config.entropy,
        **shared,
    }
    if name == "sb3-ppo":
        return PPO("CnnPolicy", rows, **on_policy)
    require("sb3_contrib", "sb3", f"--algo {name}")
    from sb3_contrib import MaskablePPO, RecurrentPPO

    if name == "sb3-maskable-ppo":
        return MaskablePPO("CnnPolicy", rows, **on_policy)
    networks: dict[str, Any] = {"lstm_hidden_size": config.hidden, "enable_critic_lstm": False, "shared_lstm": True}
    return RecurrentPPO("CnnLstmPolicy", rows, policy_kwargs=networks, **on_policy)
