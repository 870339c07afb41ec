"""Recurrent PPO on frames or features: the same code in dreams and in real environments.

A policy that remembers needs more than shuffled steps: rollouts keep the state with which they began and are replayed
whole, an episode that begins within one starts from its own context, and no state passes from an episode to the next.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import VectorEnv
from torch import Tensor, nn

from lssvwm.agents.algorithm import Learner
from lssvwm.agents.dreamer.action_head import network_actions
from lssvwm.agents.model_free.recurrent import RecurrentConfig, RecurrentNet, RecurrentPolicy
from lssvwm.agents.model_free.resuming import resumable
from lssvwm.agents.model_free.rollouts import Collector, Rollout, generalised_advantages, replay
from lssvwm.envs.spaces.actions import spec_of
from lssvwm.worldmodel.common.errors import InputError, check_least
from lssvwm.worldmodel.common.loggers import Scalars
from lssvwm.worldmodel.common.rng import weights_from
from lssvwm.worldmodel.common.stepping import Figures, run_steps
from lssvwm.worldmodel.told import ToldPart

STATE = "ppo.pt"


@dataclass(frozen=True)
class PPOConfig:
    """How a recurrent policy learns by PPO. "CleanRL" is its ppo_atari_lstm, "PPO" is Schulman et al. 2017."""

    rows: int = 16
    """Environments at a time (CleanRL: 8)."""
    steps: int = 128
    """Steps of every row in a rollout (PPO, CleanRL): also how far back gradients reach."""
    epochs: int = 4
    """Times that a rollout is learned from (CleanRL)."""
    minibatches: int = 4
    """Parts of the rows, each learned from at once; the sequence of a row stays whole (CleanRL)."""
    discount: float = 0.99
    """What a reward one step later is worth (PPO, CleanRL)."""
    lam: float = 0.95
    """Lambda of the advantages: 0 trusts the critic after one step, 1 not at all (PPO, CleanRL)."""
    clip_ratio: float = 0.2
    """How far the probability of an action may move within a rollout, as a ratio (PPO; CleanRL: 0.1)."""
    entropy: float = 0.01
    """Weight of the entropy bonus (PPO, CleanRL)."""
    value: float = 0.5
    """Weight of the critic's loss (CleanRL); it is not clipped, which helps nowhere (Andrychowicz et al. 2021)."""
    lr: float = 2.5e-4
    """Learning rate of Adam, constant (CleanRL lets it fall, which would tie it to the length of training)."""
    clip: float = 0.5
    """Largest gradient norm (CleanRL)."""
    burn_in: int = 16
    """Frames of a context that gradients reach; those before are watched once, as they were played (R2D2: 40)."""
    hidden: int = 128
    """Width of the recurrent state (CleanRL)."""
    save_seconds: float = 60.0
    """Time between checkpoints."""
    seed: int = 0
    """Which episodes are played and which actions are drawn, and the first weights."""

    def __post_init__(self) -> None:
        check_least(self, 1, "rows", "steps", "epochs", "minibatches", "burn_in", "hidden", prefix="PPOConfig.")
        if self.minibatches > self.rows:
            raise InputError(
                f"PPOConfig.minibatches is {self.minibatches}, but a minibatch is of whole rows and there are "
                f"{self.rows}: have at most as many"
            )


class PPO(Learner):
    """Trains a `RecurrentNet` in `envs`; `out` receives `ppo.pt`, from which it continues exactly.

    envs: `config.rows` rows that do not reset themselves (`envs.make_vec`, `DreamVectorEnv(..., context_info=True,
        autoreset_mode="Disabled")`), with frames (h, w, 3) uint8 or features (F,), as arrays or as
        tensors, and any actions that `envs.spaces.actions` knows. They belong to this object from now on, and must be
        fresh.
    device: where the network learns.
    told: what `info` tells it besides (`worldmodel.told`), as the world model is told it.

    Episodes in dreams begin with a context: the recurrent state is warmed up on all of it (R2D2, section 3, "burn-in";
    but gradients reach its last frames). Raises InputError for environments that it cannot learn in.
    """

    FILE, NETWORK, NEEDS = STATE, "net", ("collector",)
    config: PPOConfig
    agent: RecurrentNet

    def __init__(
        self,
        envs: VectorEnv[Any, Any, Any],
        config: PPOConfig,
        out: Path,
        *,
        device: torch.device | str = "cpu",
        told: tuple[ToldPart, ...] = (),
        writer: Scalars | None = None,
    ) -> None:
        super().__init__(config, out, writer)
        networks = replace(networks_for(envs, config), told=told)
        with weights_from(config.seed):
            self.agent = RecurrentNet(networks)
        self.agent.to(device)
        self.optimizer = torch.optim.Adam(self.agent.parameters(), lr=config.lr, eps=1e-5)
        self.generator = torch.Generator(self.agent.device).manual_seed(config.seed)
        self.collector = Collector(self.agent, resumable(envs, config.seed), config.burn_in)
        if (state := self.resume()) is not None:
            self.collector.load_state_dict(state["collector"])

    @property
    def env_steps(self) -> int:
        """Steps of the environment so far, over all rows."""
        return self.step * self.config.rows * self.config.steps

    @property
    def logged(self) -> int:
        """What curves count: steps of the environment."""
        return self.env_steps

    def train(self, until: int, *, progress: bool = True) -> dict[str, float]:
        """Train up to iteration number `until` and save; returns means over the last hundred iterations at most.

        Return, length and success are instead over the last hundred episodes, and absent before one has ended.
        """
        means = run_steps(
            self,
            until,
            name="ppo",
            unit="step",
            units=self.config.rows * self.config.steps,
            shown=("episodic_return", "success_rate", "entropy"),
            every=1,
            save_seconds=self.config.save_seconds,
            writer=None,  # it would count iterations, where the world counts steps
            progress=progress,
        )
        figures = {**means, **self.collector.finished.means()}
        return {name: value for name, value in figures.items() if value == value}

    def policy(self, *, greedy: bool = False) -> RecurrentPolicy:
        """What has been learned, playing episodes."""
        return RecurrentPolicy(self.agent, greedy=greedy)

    def prepare(self) -> None:
        """Nothing comes before the first iteration."""

    def train_step(self) -> Figures:
        """Collect a rollout and learn from it."""
        self.whole, began = False, time.perf_counter()
        rollout = self.collector.collect(self.config.steps, self.generator)
        losses = self.learn(rollout)
        self.step += 1
        self.whole = True
        episodes = self.collector.finished.means()
        if self.writer is not None:
            speed = rollout.rewards.numel() / (time.perf_counter() - began)
            self._log({"charts": {**episodes, "SPS": speed}, "losses": {k: float(v) for k, v in losses.items()}})
        return {**losses, **episodes}

    def learn(self, rollout: Rollout) -> dict[str, Tensor]:
        """Several epochs of clipped policy-gradient and critic steps on one rollout (PPO, equations 7 and 9)."""
        config, net = self.config, self.agent
        advantages = generalised_advantages(
            rollout.rewards, rollout.values, rollout.next_values, rollout.ended, config.discount, config.lam
        )
        returns = advantages + rollout.values
        normalised = (advantages - advantages.mean()) / (advantages.std(correction=0) + 1e-8)
        records = []
        for _ in range(config.epochs):
            order = torch.randperm(config.rows, generator=self.generator, device=net.device)
            for rows in order.tensor_split(config.minibatches):
                allowed = None if rollout.allowed is None else rollout.allowed[:, rows]
                policy, values = net.judge(replay(net, rollout, rows), allowed)
                gain = normalised[:, rows]
                change = policy.log_prob(rollout.actions[:, rows]) - rollout.log_probs[:, rows]
                ratio = change.exp()
                clipped = ratio.clamp(1 - config.clip_ratio, 1 + config.clip_ratio)
                policy_loss = -torch.minimum(ratio * gain, clipped * gain).mean()
                value_loss = 0.5 * (values - returns[:, rows]).square().mean()
                entropy = policy.entropy().mean()
                torch.autograd.backward(policy_loss + config.value * value_loss - config.entropy * entropy)
                nn.utils.clip_grad_norm_(net.parameters(), config.clip)
                self.optimizer.step()
                self.optimizer.zero_grad(set_to_none=True)
                outside = (ratio - 1).abs() > config.clip_ratio
                # Of the estimators of the divergence the one that is never negative (Schulman 2020, k3).
                record = (policy_loss, value_loss, entropy, (ratio - 1 - change).mean(), outside.float().mean())
                records.append(torch.stack(record).detach())
        names = ("policy_loss", "value_loss", "entropy", "approx_kl", "clipfrac")
        explained = 1 - advantages.var(correction=0) / returns.var(correction=0).clamp(min=1e-8)
        return {**dict(zip(names, torch.stack(records).mean(0), strict=True)), "explained_variance": explained}

    def extra_state(self) -> Mapping[str, Any]:
        """The generator, and where the rows stand."""
        return {"generator": self.generator.get_state(), "collector": self.collector.state_dict()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up the generator; what fails in the environments later is no fault of the file."""
        self.generator.set_state(state["generator"].cpu())

    def _log(self, figures: Mapping[str, Mapping[str, float]]) -> None:
        """To TensorBoard, under the names and over the steps that CleanRL uses."""
        assert self.writer is not None
        for group, values in figures.items():
            for name, value in values.items():
                if value == value:
                    self.writer.add_scalar(f"{group}/{name}", value, self.env_steps)


def networks_for(envs: VectorEnv[Any, Any, Any], config: PPOConfig) -> RecurrentConfig:
    """The network that fits `envs`. Raises InputError, saying what to change, if none does."""
    seen, acted = envs.single_observation_space, envs.single_action_space
    actions = spec_of(acted, "PPO's environment")
    if not isinstance(seen, gym.spaces.Box):
        raise InputError(f"PPO reads one array of frames or features, these environments show {seen}: choose one part")
    if len(seen.shape) > 1 and seen.dtype != np.uint8:
        raise InputError(f"PPO reads frames of uint8, these environments show {seen}: leave scaling to the network")
    if envs.num_envs != config.rows:
        raise InputError(
            f"PPOConfig.rows is {config.rows}, but there are {envs.num_envs} environments: make them equal"
        )
    return RecurrentConfig(tuple(seen.shape), hidden=config.hidden, **network_actions(actions))
