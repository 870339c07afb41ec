"""PPO in one file, in the manner of CleanRL, trained in the dream of a world model. No adapter is needed.

    python examples/cleanrl_ppo.py --checkpoint runs/demo/world_model --total-timesteps 20000

One thing differs from CleanRL's ppo.py: an episode that the horizon cuts off is not over, so the value of its last
observation joins the reward of its last step. With dreams as short as 64 steps, most episodes end that way.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import gymnasium as gym
import numpy as np
import torch
import tyro
from torch import Tensor, nn
from torch.distributions import Categorical


@dataclass(frozen=True)
class Args:
    """PPO in the dream of a world model."""

    checkpoint: Path
    contexts: Path | None = None
    observation: Literal["frame", "features"] = "frame"
    horizon: int = 64
    total_timesteps: int = 20_000
    num_envs: int = 16
    num_steps: int = 64
    minibatches: int = 4
    update_epochs: int = 4
    learning_rate: float = 5e-4
    gamma: float = 0.97
    gae_lambda: float = 0.95
    clip_coef: float = 0.2
    ent_coef: float = 0.01
    vf_coef: float = 0.5
    max_grad_norm: float = 0.5
    seed: int = 1
    device: str = "cpu"


def layer(module: nn.Conv2d | nn.Linear, std: float = 2**0.5) -> nn.Module:
    """Orthogonal weights, no bias."""
    nn.init.orthogonal_(module.weight, std)
    nn.init.zeros_(module.bias)
    return module


class Agent(nn.Module):
    """Actor and critic on one body: convolutions for frames, two layers for features."""

    def __init__(self, shape: tuple[int, ...], actions: int) -> None:
        super().__init__()
        self.is_frame, body = len(shape) == 3, nn.Sequential()
        if self.is_frame:
            body.extend([layer(nn.Conv2d(3, 16, 8, 4)), nn.ReLU(), layer(nn.Conv2d(16, 32, 4, 2)), nn.ReLU()])
            body.append(nn.Flatten())
            shape = body(torch.zeros(1, 3, *shape[:2])).shape[1:]
        body.extend([layer(nn.Linear(shape[0], 256)), nn.Tanh(), layer(nn.Linear(256, 128)), nn.Tanh()])
        self.body, self.actor, self.critic = body, layer(nn.Linear(128, actions), 0.01), layer(nn.Linear(128, 1), 1.0)

    def hidden(self, obs: Tensor) -> Tensor:
        """(B, 128) of frames (B, h, w, 3) uint8 or features (B, F)."""
        return self.body(obs.permute(0, 3, 1, 2) / 255.0 if self.is_frame else obs)

    def value(self, obs: Tensor) -> Tensor:
        """(B,)."""
        return self.critic(self.hidden(obs)).squeeze(-1)

    def forward(self, obs: Tensor, action: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Action, its log-probability, entropy and value, (B,) each."""
        hidden = self.hidden(obs)
        chances = Categorical(logits=self.actor(hidden))
        action = chances.sample() if action is None else action
        return action, chances.log_prob(action), chances.entropy(), self.critic(hidden).squeeze(-1)


def main(args: Args) -> None:
    """Train, and print the mean return of the last 100 dreams after every rollout."""
    torch.manual_seed(args.seed)
    options = {"contexts": args.contexts, "observation": args.observation, "max_episode_steps": args.horizon}
    envs = gym.make_vec(
        *("lssvwm:lssvwm/Dream-v0", args.num_envs),
        checkpoint=args.checkpoint,
        autoreset_mode="SameStep",
        stagger=True,
        device=args.device,
        **options,
    )
    agent = Agent(envs.single_observation_space.shape, int(envs.single_action_space.n)).to(args.device)
    optimizer = torch.optim.Adam(agent.parameters(), lr=args.learning_rate, eps=1e-5)
    returns, scores, start = deque(maxlen=100), np.zeros(args.num_envs), time.perf_counter()
    seen, _ = envs.reset(seed=args.seed)
    obs = torch.as_tensor(seen, device=args.device)
    done = torch.zeros(args.num_envs, device=args.device)
    updates = max(args.total_timesteps // (args.num_envs * args.num_steps), 1)
    for update in range(updates):
        rollout, rewards, dones = [], [], []
        for _ in range(args.num_steps):
            with torch.no_grad():
                action, logprob, _, value = agent(obs)
            rollout.append((obs, action, logprob, value))
            dones.append(done)
            seen, reward, terminated, truncated, info = envs.step(action.cpu().numpy())
            ended = terminated | truncated
            scores += reward  # RecordEpisodeStatistics counts wrong before Gymnasium 1.4
            returns.extend(scores[ended])
            scores[ended] = 0
            reward = torch.as_tensor(reward, dtype=torch.float32, device=args.device)
            if truncated.any():
                last = np.stack([info["final_obs"][row] for row in np.flatnonzero(truncated)])
                with torch.no_grad():
                    reward[truncated] += args.gamma * agent.value(torch.as_tensor(last, device=args.device))
            rewards.append(reward)
            obs = torch.as_tensor(seen, device=args.device)
            done = torch.as_tensor(ended, dtype=torch.float32, device=args.device)

        b_obs, b_actions, b_logprobs, values = (torch.stack(part) for part in zip(*rollout, strict=True))
        with torch.no_grad():
            after = agent.value(obs)
        advantages, last_advantage = torch.zeros_like(values), torch.zeros_like(after)
        for t in reversed(range(args.num_steps)):
            goes_on = 1.0 - (done if t == args.num_steps - 1 else dones[t + 1])
            following = after if t == args.num_steps - 1 else values[t + 1]
            delta = rewards[t] + args.gamma * following * goes_on - values[t]
            last_advantage = delta + args.gamma * args.gae_lambda * goes_on * last_advantage
            advantages[t] = last_advantage
        b_obs, b_actions, b_logprobs = b_obs.flatten(0, 1), b_actions.flatten(), b_logprobs.flatten()
        b_advantages, b_returns = advantages.flatten(), (advantages + values).flatten()

        for _ in range(args.update_epochs):
            for batch in torch.randperm(len(b_returns), device=args.device).chunk(args.minibatches):
                _, logprob, entropy, value = agent(b_obs[batch], b_actions[batch])
                ratio = (logprob - b_logprobs[batch]).exp()
                gain = b_advantages[batch]
                gain = (gain - gain.mean()) / (gain.std() + 1e-8)
                clipped = ratio.clamp(1 - args.clip_coef, 1 + args.clip_coef)
                loss = -torch.minimum(gain * ratio, gain * clipped).mean()
                loss += args.vf_coef * 0.5 * (value - b_returns[batch]).pow(2).mean() - args.ent_coef * entropy.mean()
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(agent.parameters(), args.max_grad_norm)
                optimizer.step()
        steps = (update + 1) * args.num_envs * args.num_steps
        mean = f"{np.mean(returns):.3f}" if returns else "none yet"
        print(f"{steps} steps, dreamt return {mean}, {steps / (time.perf_counter() - start):.0f} steps/s", flush=True)
    envs.close()


if __name__ == "__main__":
    main(tyro.cli(Args))
