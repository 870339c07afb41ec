"""What every frame is conditioned on, as one vector: its noise level and the size of the step taken from there, the
action that led to it, the agent's pose, what it is told of a goal.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from lssvwm.worldmodel.actions import actions_of
from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.config import WorldModelConfig
from lssvwm.worldmodel.diffusion.noise import fourier
from lssvwm.worldmodel.diffusion.shortcut import finest
from lssvwm.worldmodel.episodes import NO_ACTION
from lssvwm.worldmodel.layers.action_numbers import ActionNumbers
from lssvwm.worldmodel.told import ToldPart

NOISE_BANDS, POSE_BANDS = 32, 6
LONGEST, SHORTEST = 32.0, 1.0
"""Periods of the pose's waves in its own units: world cells, or meters."""


class Condition(nn.Module):
    """Embeddings of noise level, action and pose, added up (paper, section 3: discrete actions by a learned embedding,
    continuous ones by a small MLP, added to the embedding of the noise level); with `shortcut` the step's size as well.

    Of an action that is a vector, every choice has an embedding of its own; all are added to that of the other numbers.
    """

    def __init__(self, config: WorldModelConfig) -> None:
        super().__init__()
        self.config = config
        self.noise = _mlp(2 * NOISE_BANDS, config.dim)
        self.action = nn.Embedding(config.num_actions + 1, config.dim)  # the last one: no action led here, or not told
        self.numbers = ActionNumbers(config)
        reals, chosen = self.numbers.counts
        self.motion = _mlp(reals, config.dim) if reals else None
        self.choices = nn.Embedding(self.numbers.alternatives, config.dim) if chosen else None
        if self.choices is not None:
            nn.init.normal_(self.choices.weight, std=chosen**-0.5)  # of the sum as of a single one
        self.pose = _mlp(config.known_pose * 2 * POSE_BANDS, config.dim) if config.known_pose else None
        self.step = nn.Embedding(finest(config.shortcut) + 1, config.dim) if config.shortcut else None
        if self.step is not None:
            nn.init.zeros_(self.step.weight)  # so that a finished model begins as it was

    def forward(
        self,
        level: Tensor,
        actions: Tensor,
        pose: Tensor | None,
        halvings: Tensor | None = None,
        goal: Tensor | None = None,
    ) -> Tensor:
        """Levels (B, T) in [0, 1], actions and pose as `check` wants them, `goal` (B, T, D) of `Goal` -> (B, T, D).

        `halvings` (B, T) int64 are the steps of a model with `shortcut`; None is the finest one for all.
        """
        if not self.config.action_size:
            told = actions if self.config.num_actions else torch.full(level.shape, -1, device=level.device)
            action = self.action(torch.where(told < 0, self.config.num_actions, told))
        else:
            untold = actions.isnan().any(-1, keepdim=True)
            action = torch.where(untold, self.action.weight[-1], self._vector(torch.where(untold, 0, actions), level))
        condition = self.noise(fourier(level, NOISE_BANDS, 2.0, 0.002)) + action
        if self.pose is not None and pose is not None:
            condition = condition + self.pose(waves(pose.to(level.dtype)))
        if goal is not None:
            condition = condition + goal
        if self.step is not None:
            condition = condition + (self.step.weight[-1] if halvings is None else self.step(halvings))
        return nn.functional.silu(condition)

    def _vector(self, actions: Tensor, like: Tensor) -> Tensor:
        """Vectors (B, T, A) without "none" -> (B, T, D), as `like` in precision."""
        parts: list[Tensor] = []
        if self.motion is not None:
            parts.append(self.motion(self.numbers.reals(actions).to(like.dtype)))
        if self.choices is not None:
            parts.append(self.choices(self.numbers.choices(actions)).sum(-2))
        return parts[0] if len(parts) == 1 else parts[0] + parts[1]

    def check(self, actions: Tensor, pose: Tensor | None, frames: int | None) -> None:
        """Raise unless actions are (B, T) int64, or (B, T, A) floating where they are continuous, NaN for none; pose
        (B, T, P) floating, or None in a model without. `frames`: the T that is wanted. A model without actions takes
        any and looks at none.
        """
        config = self.config
        # Nothing can be read while a CUDA graph is recorded: who records it checks what it is given.
        recorded = actions.is_cuda and torch.cuda.is_current_stream_capturing()
        if config.action_size:
            if actions.ndim != 3 or not actions.is_floating_point():
                shape = f"floating with shape (B, T, {config.action_size})"
                raise ValueError(f"actions must be {shape}, got {actions.dtype} {tuple(actions.shape)}")
            if actions.shape[-1] != config.action_size:
                raise InputError(
                    f"actions have {actions.shape[-1]} numbers, this world model wants {config.action_size}"
                )
            if self.choices is not None and not recorded and self.numbers.beyond(actions):
                raise InputError(
                    f"the choices in actions are outside those of this world model ({actions_of(config)}): it was "
                    "trained on another action space"
                )
        elif config.num_actions:
            if actions.ndim != 2 or actions.dtype != torch.int64:
                raise ValueError(f"actions must be int64 (B, T), got {actions.dtype} {tuple(actions.shape)}")
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
        inputs = config.known_pose * 2 * POSE_BANDS
        self.project = nn.Linear(inputs, config.dim)
        nn.init.normal_(self.project.weight, std=(inputs / 2) ** -0.5)  # waves have variance one half

    def forward(self, pose: Tensor) -> Tensor:
        """(B, T, P) -> (B, T, 1, D)."""
        placed: Tensor = self.project(waves(pose.to(self.project.weight.dtype)))
        return placed[:, :, None]


class Goal(nn.Module):
    """What is told, as one vector per frame: a part of the condition, and of every token as the pose is (`Place`), so
    that whoever reads the tokens can tell goals apart from the first step on.
    """

    def __init__(self, told: Sequence[ToldPart], width: int) -> None:
        super().__init__()
        self.sizes = [part.size for part in told]
        self.parts = nn.ModuleList(
            Numbers(part.size, width) if part.words is None else Words(part, width) for part in told
        )

    def forward(self, told: Tensor) -> Tensor:
        """(B, T, G) -> (B, T, D)."""
        columns = zip(self.parts, told.split(self.sizes, -1), strict=True)
        return torch.stack([part(values) for part, values in columns]).sum(0)


class Numbers(nn.Module):
    """Numbers of any size, by their logarithm (Hafner et al. 2023, symlog)."""

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.mlp = _mlp(size, width)

    def forward(self, values: Tensor) -> Tensor:
        """(..., n) -> (..., D)."""
        vector: Tensor = self.mlp((values.sign() * values.abs().log1p()).to(next(self.mlp.parameters()).dtype))
        return vector


class Words(nn.Module):
    """A text: each word and its place embedded, bent, and added up, so that the order of words counts."""

    def __init__(self, part: ToldPart, width: int) -> None:
        super().__init__()
        self.word = nn.Embedding(len(part.words or ()) + 1, width)
        self.place = nn.Parameter(torch.randn(part.size, width))
        self.project = nn.Linear(width, width)

    def forward(self, numbers: Tensor) -> Tensor:
        """(..., W), 0 for no word -> (..., D)."""
        words = nn.functional.silu(self.word(numbers.long()) + self.place) * (numbers > 0)[..., None]
        text: Tensor = self.project(words.sum(-2) / len(self.place) ** 0.5)
        return text


def check_told(config: WorldModelConfig, told: Tensor | None, lead: tuple[int, ...]) -> None:
    """Raise unless `told` is (*lead, G) floating, or None in a model that is told nothing."""
    if (told is None) != (not config.told):
        raise InputError(
            f"this world model is told {', '.join(part.key for part in config.told)} with every frame: give told "
            f"(B, T, {config.told_size}), as EpisodeStore(folder, told=model.config.told) has it"
            if told is None
            else "this world model is told nothing: leave it out, or train one with --tell"
        )
    if told is not None and (told.shape != (*lead, config.told_size) or not told.is_floating_point()):
        raise ValueError(f"told must be floating {(*lead, config.told_size)}, got {told.dtype} {tuple(told.shape)}")


def waves(pose: Tensor) -> Tensor:
    """(B, T, P) -> (B, T, 2 * bands * P)."""
    return fourier(pose, POSE_BANDS, LONGEST, SHORTEST).flatten(-2)


class _Sized(Protocol):
    @property
    def action_size(self) -> int: ...


def no_actions(config: _Sized, rows: int, device: torch.device) -> Tensor:
    """What led to the first frame of an episode: (rows,) int64 of -1, or (rows, A) of NaN."""
    if config.action_size:
        return torch.full((rows, config.action_size), torch.nan, device=device)
    return torch.full((rows,), NO_ACTION, device=device)


def _mlp(inputs: int, width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, width), nn.SiLU(), nn.Linear(width, width))
