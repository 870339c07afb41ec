"""A collector of TorchRL gathers dreams, its PPO loss learns from them; nothing leaves the device.

python examples/torchrl_collector.py --checkpoint runs/demo/world_model --total-timesteps 20000 --device cuda
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import gymnasium as gym
import torch
import tyro
from tensordict.nn import TensorDictModule
from torch.distributions import Categorical
from torchrl.collectors import Collector
from torchrl.modules import MLP, ProbabilisticActor, ValueOperator
from torchrl.objectives import ClipPPOLoss
from torchrl.objectives.value import GAE

from lssvwm.agents.adapters import for_torchrl


@dataclass(frozen=True)
class Args:
    """PPO of TorchRL in the dream, on the features of the world model."""

    checkpoint: Path
    contexts: Path | None = None
    total_timesteps: int = 20_000
    num_envs: int = 16
    horizon: int = 64
    steps: int = 64
    """Steps of every row between two updates."""
    seed: int = 0
    device: str = "cpu"


def main(args: Args) -> None:
    """Train, and print the mean return of the dreams that ended since the last update."""
    torch.manual_seed(args.seed)
    envs = gym.make_vec(
        *("lssvwm:lssvwm/Dream-v0", args.num_envs),
        checkpoint=args.checkpoint,
        contexts=args.contexts,
        observation="features",
        max_episode_steps=args.horizon,
        stagger=True,
        autoreset_mode="Disabled",
        output="torch",
        device=args.device,
    )
    dreams = for_torchrl(envs)
    dreams.set_seed(args.seed)
    shape, actions = envs.single_observation_space.shape, int(envs.single_action_space.n)
    logits = TensorDictModule(
        MLP(*shape, actions, num_cells=[128, 128], device=args.device), ["observation"], ["logits"]
    )
    actor = ProbabilisticActor(
        logits, in_keys=["logits"], spec=dreams.action_spec, distribution_class=Categorical, return_log_prob=True
    )
    critic = ValueOperator(MLP(*shape, 1, num_cells=[128, 128], device=args.device))
    # With `truncated` in the batch it takes the value of the last observation where the horizon cut a dream off.
    advantage = GAE(gamma=0.97, lmbda=0.95, value_network=critic)
    loss = ClipPPOLoss(actor, critic, entropy_coeff=0.01, normalize_advantage=True)
    optimizer = torch.optim.Adam(loss.parameters(), lr=5e-4)
    frames = args.num_envs * args.steps
    collector = Collector(
        dreams,
        actor,
        frames_per_batch=frames,
        total_frames=max(args.total_timesteps, frames),
        auto_register_policy_transforms=False,
    )
    running = torch.zeros(args.num_envs, device=args.device)
    for number, batch in enumerate(collector, 1):
        returns = []
        for reward, done in zip(batch["next", "reward"].unbind(1), batch["next", "done"].unbind(1), strict=True):
            running += reward[:, 0]
            returns.append(running[done[:, 0]])
            running = running * ~done[:, 0]
        for _ in range(4):
            with torch.no_grad():
                advantage(batch)
            for rows in torch.randperm(frames, device=args.device).chunk(4):
                terms = loss(batch.flatten()[rows])
                total = terms["loss_objective"] + terms["loss_critic"] + terms["loss_entropy"]
                optimizer.zero_grad()
                total.backward()
                torch.nn.utils.clip_grad_norm_(loss.parameters(), 0.5)
                optimizer.step()
        print(f"{number * frames} steps, mean dreamt return {torch.cat(returns).mean():.3f}", flush=True)
    collector.shutdown()


if __name__ == "__main__":
    main(tyro.cli(Args))
