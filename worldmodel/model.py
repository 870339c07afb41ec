"""WorldModel: the learned simulator in three verbs, `loss`, `observe` and `imagine`."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from worldmodel.backbone import Backbone
from worldmodel.config import WorldModelConfig
from worldmodel.diffusion import add_noise, draw_levels, euler_levels, euler_step, loss_weight
from worldmodel.episodes import NO_ACTION, Clips
from worldmodel.errors import InputError
from worldmodel.heads import Readout, TwoHot, mlp
from worldmodel.memory import Memory
from worldmodel.tokenizer import PatchTokenizer

Generators = torch.Generator | Sequence[torch.Generator]


@dataclass(frozen=True)
class Losses:
    """Scalar training losses; `total` is what to minimise."""

    total: Tensor
    diffusion: Tensor
    reward: Tensor
    termination: Tensor


@dataclass(frozen=True)
class Features:
    """What committed frames tell: features (B, T, F), reward (B, T) and termination probability (B, T) of each."""

    features: Tensor
    reward: Tensor
    termination: Tensor


@dataclass(frozen=True)
class Imagined:
    """One new frame per row, and what came with it."""

    frame: Tensor  # (B, h, w, 3) uint8
    reward: Tensor  # (B,)
    termination: Tensor  # (B,) probability that the episode ended in this frame
    features: Tensor  # (B, F)
    memory: Memory


class WorldModel(nn.Module):
    """Predicts (o_t, r_t, d_t) from everything before t and the action a_t that leads there.

    A frame enters memory exactly once, at noise level 0. Reward, termination and features are read from that pass and
    trained only there. All randomness comes from generators that the caller owns.
    """

    def __init__(self, config: WorldModelConfig) -> None:
        super().__init__()
        self.config = config
        self.tokenizer = PatchTokenizer(config)
        self.backbone = Backbone(config)
        self.denoise = nn.Sequential(nn.LayerNorm(config.dim), nn.Linear(config.dim, config.latent_channels))
        self.readout = Readout(config.tokens, config.dim, self.backbone.scans, config.features)
        self.twohot = TwoHot()
        self.reward_head = mlp(config.features, config.features, config.reward_horizon * self.twohot.count)
        self.termination_head = mlp(config.features, config.features, 1)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.backbone.position.device

    def empty(self, rows: int) -> Memory:
        """Memory of `rows` dreams that have seen nothing."""
        return self.backbone.empty(rows)

    def loss(self, clips: Clips, generator: torch.Generator) -> Losses:
        """Diffusion-forcing loss on noised frames, head losses on clean ones. Clips as from `EpisodeStore.sample`."""
        self._check_actions(clips.actions, 2)
        config, mask = self.config, clips.mask
        latents = self.tokenizer.encode(clips.frames)
        batch, length = mask.shape
        level, clean = draw_levels(
            batch, length, generator, mean=config.noise_mean, std=config.noise_std, context_prob=config.context_prob
        )
        noise = torch.randn(latents.shape, generator=generator, device=generator.device, dtype=latents.dtype)
        level = level.to(latents.dtype)
        hidden = self.backbone(add_noise(latents, level, noise), level, clips.actions, self.empty(len(mask)))

        error = (self.denoise(hidden.tokens) - latents).square().mean((-1, -2)) * loss_weight(level, config.min_noise)
        diffusion = masked_mean(error, mask & ~clean)

        read = mask & clean
        features = self.readout(hidden.tokens, hidden.recall, read if self.training else None)
        ahead = future_rewards(clips.rewards, mask & (clips.actions != NO_ACTION), config.reward_horizon)
        logits = self.reward_head(features).unflatten(-1, (config.reward_horizon, -1))
        reward = masked_mean(self.twohot.loss(logits, ahead.rewards), read[..., None] & ahead.exists)
        termination = masked_mean(
            functional.binary_cross_entropy_with_logits(
                self.termination_head(features)[..., 0], clips.terminated.to(features.dtype), reduction="none"
            ),
            read,
        )
        total = diffusion + config.reward_weight * reward + termination
        return Losses(total, diffusion, reward, termination)

    def observe(self, frames: Tensor, actions: Tensor, memory: Memory | None = None) -> tuple[Features, Memory]:
        """Let real frames enter memory: frames (B, T, h, w, 3) uint8, actions (B, T) that led to them, -1 = none.

        One call, several segments or frame by frame give the same memory up to float error.
        """
        self._check_actions(actions, 2)
        if frames.ndim != 5 or frames.shape[:2] != actions.shape:
            raise ValueError(f"frames must be (B, T, h, w, 3) with actions (B, T), got {frames.shape}, {actions.shape}")
        return self._commit(self.tokenizer.encode(frames), actions, memory or self.empty(len(frames)))

    def imagine(
        self,
        actions: Tensor,
        memory: Memory,
        *,
        steps: int,
        generator: Generators,
        active: Tensor | None = None,
    ) -> Imagined:
        """Dream one frame per row under `actions` (B,), by `steps` Euler steps that all start from `memory`.

        `generator` is one for all rows, or one per row, which makes a row independent of its neighbours. Rows where
        `active` (B,) bool is False are computed but keep their memory bit for bit, and their own generators unused.
        The new frame is rounded to pixels and encoded again before it enters memory, so a dream stays on the grid of
        real frames and remembers exactly what it showed.
        """
        self._check_actions(actions, 1)
        if steps < 1:
            raise ValueError(f"steps={steps}: imagining takes at least one denoising step")
        rows, config = len(actions), self.config
        x = self._noise((rows, 1, config.tokens, config.latent_channels), generator, active)
        levels = euler_levels(steps).tolist()
        for level, target in itertools.pairwise(levels):
            at = x.new_full((rows, 1), level)
            hidden = self.backbone(x, at, actions[:, None], memory, advance=False)
            x = euler_step(x, self.denoise(hidden.tokens), level, target)
        frame = self.tokenizer.decode(x)
        seen, after = self._commit(self.tokenizer.encode(frame), actions[:, None], memory)
        if active is not None:
            after = after.where(active, memory)
        return Imagined(frame[:, 0], seen.reward[:, 0], seen.termination[:, 0], seen.features[:, 0], after)

    def _commit(self, latents: Tensor, actions: Tensor, memory: Memory) -> tuple[Features, Memory]:
        hidden = self.backbone(latents, latents.new_zeros(actions.shape), actions, memory)
        features = self.readout(hidden.tokens, hidden.recall)
        logits = self.reward_head(features)[..., : self.twohot.count]
        termination = torch.sigmoid(self.termination_head(features)[..., 0])
        return Features(features, self.twohot.mean(logits), termination), hidden.memory

    def _noise(self, shape: tuple[int, ...], generator: Generators, active: Tensor | None) -> Tensor:
        dtype = self.backbone.position.dtype
        if isinstance(generator, torch.Generator):
            return torch.randn(shape, generator=generator, device=self.device, dtype=dtype)
        if len(generator) != shape[0]:
            raise ValueError(f"{len(generator)} generators for {shape[0]} rows; give one for all, or one per row")
        drawn = torch.zeros(shape, device=self.device, dtype=dtype)
        chosen = range(shape[0]) if active is None else active.nonzero()[:, 0].tolist()
        for row in chosen:
            drawn[row] = torch.randn(shape[1:], generator=generator[row], device=self.device, dtype=dtype)
        return drawn

    def _check_actions(self, actions: Tensor, ndim: int) -> None:
        if actions.ndim != ndim or actions.dtype != torch.int64:
            raise ValueError(
                f"actions must be int64 with {ndim} dimensions, got {actions.dtype} {tuple(actions.shape)}"
            )
        for action in map(int, torch.aminmax(actions)) if actions.numel() else ():
            if not NO_ACTION <= action < self.config.num_actions:
                raise InputError(
                    f"action {action} is outside the {self.config.num_actions} actions of this world model; "
                    "it was trained on another action space"
                )


@contextmanager
def weights_from(seed: int) -> Iterator[None]:
    """Modules made inside draw their first weights from `seed`.

    Layers know only torch's global generator; outside it is left as it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


@dataclass(frozen=True)
class FutureRewards:
    """Rewards of a frame and of those after it, (B, T, n), and which of them exist within the clip."""

    rewards: Tensor
    exists: Tensor


def future_rewards(rewards: Tensor, exists: Tensor, horizon: int) -> FutureRewards:
    """Entry [b, t, j] is the reward of frame t + j. `exists` (B, T) marks frames that carry a reward."""
    padded = functional.pad(rewards, (0, horizon - 1))
    padded_exists = functional.pad(exists, (0, horizon - 1))
    return FutureRewards(padded.unfold(1, horizon, 1), padded_exists.unfold(1, horizon, 1))


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of values where mask is True; zero when it is nowhere."""
    return torch.where(mask, values, 0.0).sum() / mask.sum().clamp(min=1)
