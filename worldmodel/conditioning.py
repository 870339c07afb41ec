"""What every frame is conditioned on, as one vector: its noise level and the size of the step taken from there, the
action that led to it, the agent's pose.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from worldmodel.config import WorldModelConfig
from worldmodel.diffusion import fourier
from worldmodel.episodes import NO_ACTION
from worldmodel.errors import InputError
from worldmodel.shortcut import finest

NOISE_BANDS, POSE_BANDS = 32, 6
LONGEST, SHORTEST = 32.0, 1.0
"""Periods of the pose's waves in its own units: world cells, or meters."""


class Condition(nn.Module):
    """Embeddings of noise level, action and pose, added up (paper, section 3: discrete actions by a learned embedding,
    continuous ones by a small MLP, added to the embedding of the noise level); with `shortcut` the step's size as well.
    """

    def __init__(self, config: WorldModelConfig) -> None:
        super().__init__()
        self.config = config
        self.noise = _mlp(2 * NOISE_BANDS, config.dim)
        self.action = nn.Embedding(config.num_actions + 1, config.dim)  # the last one: no action led here, or not told
        self.motion = _mlp(config.action_size, config.dim) if config.action_size else None
        self.pose = _mlp(config.pose_size * 2 * POSE_BANDS, config.dim) if config.pose_size else None
        self.step = nn.Embedding(finest(config.shortcut) + 1, config.dim) if config.shortcut else None
        if self.step is not None:
            nn.init.zeros_(self.step.weight)  # so that a finished model begins as it was

    def forward(self, level: Tensor, actions: Tensor, pose: Tensor | None, halvings: Tensor | None = None) -> Tensor:
        """Levels (B, T) in [0, 1], actions and pose as `check` wants them -> (B, T, D).

        `halvings` (B, T) int64 are the steps of a model with `shortcut`; None is the finest one for all.
        """
        if self.motion is None:
            told = actions if self.config.num_actions else torch.full(level.shape, -1, device=level.device)
            action = self.action(torch.where(told < 0, self.config.num_actions, told))
        else:
            untold = actions.isnan().any(-1, keepdim=True)
            told = self.motion(torch.where(untold, 0, actions).to(level.dtype))
            action = torch.where(untold, self.action.weight[-1], told)
        condition = self.noise(fourier(level, NOISE_BANDS, 2.0, 0.002)) + action
        if self.pose is not None and pose is not None:
            condition = condition + self.pose(waves(pose.to(level.dtype)))
        if self.step is not None:
            condition = condition + (self.step.weight[-1] if halvings is None else self.step(halvings))
        return nn.functional.silu(condition)

    def check(self, actions: Tensor, pose: Tensor | None, frames: int | None) -> None:
        """Raise unless actions are (B, T) int64, or (B, T, A) floating where they are continuous, NaN for none; pose
        (B, T, P) floating, or None in a model without. `frames`: the T that is wanted. A model without actions takes
        any and looks at none.
        """
        config = self.config
        if config.action_size:
            if actions.ndim != 3 or not actions.is_floating_point():
                shape = f"floating with shape (B, T, {config.action_size})"
                raise ValueError(f"actions must be {shape}, got {actions.dtype} {tuple(actions.shape)}")
            if actions.shape[-1] != config.action_size:
                raise InputError(
                    f"actions have {actions.shape[-1]} numbers, this world model wants {config.action_size}"
                )
        elif config.num_actions:
            if actions.ndim != 2 or actions.dtype != torch.int64:
                raise ValueError(f"actions must be int64 (B, T), got {actions.dtype} {tuple(actions.shape)}")
            # Nothing can be read while a CUDA graph is recorded: who records it checks what it is given.
            recorded = actions.is_cuda and torch.cuda.is_current_stream_capturing()
            for action in torch.stack(torch.aminmax(actions)).tolist() if actions.numel() and not recorded else ():
                if not NO_ACTION <= action < config.num_actions:
                    raise InputError(
                        f"action {action} is outside the {config.num_actions} actions of this world model; "
                        "it was trained on another action space"
                    )
        if frames is not None and actions.shape[1:2] != (frames,):
            raise ValueError(f"actions of {frames} frames wanted, got {tuple(actions.shape)}")
        if (pose is None) != (config.pose_size == 0):
            raise InputError(
                f"this world model is conditioned on a pose of {config.pose_size} numbers: give pose (B, T, "
                f"{config.pose_size})"
                if pose is None
                else "this world model knows no pose: leave it out, or train one with pose_size"
            )
        if pose is not None and pose.shape != (*actions.shape[:2], config.pose_size):
            raise ValueError(f"pose must be {(*actions.shape[:2], config.pose_size)}, got {tuple(pose.shape)}")


class Place(nn.Module):
    """The pose as a part of every token, as strong as the frame from the first step on.

    Keys and queries of the memory are made from tokens. As a mere modulation, which starts at zero, the pose takes
    long to get into them: with it in the tokens, retrieval was learned in less than half of the steps.
    """

    def __init__(self, config: WorldModelConfig) -> None:
        super().__init__()
        inputs = config.pose_size * 2 * POSE_BANDS
        self.project = nn.Linear(inputs, config.dim)
        nn.init.normal_(self.project.weight, std=(inputs / 2) ** -0.5)  # waves have variance one half

    def forward(self, pose: Tensor) -> Tensor:
        """(B, T, P) -> (B, T, 1, D)."""
        placed: Tensor = self.project(waves(pose.to(self.project.weight.dtype)))
        return placed[:, :, None]


def waves(pose: Tensor) -> Tensor:
    """(B, T, P) -> (B, T, 2 * bands * P)."""
    return fourier(pose, POSE_BANDS, LONGEST, SHORTEST).flatten(-2)


def withhold(actions: Tensor, withheld: Tensor) -> Tensor:
    """The same actions (B, T) or (B, T, A) with those where `withheld` (B, T) is True replaced by none."""
    if actions.is_floating_point():
        return actions.masked_fill(withheld[..., None], torch.nan)
    return actions.masked_fill(withheld, NO_ACTION)


def _mlp(inputs: int, width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, width), nn.SiLU(), nn.Linear(width, width))
