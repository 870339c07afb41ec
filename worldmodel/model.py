"""WorldModel: the learned simulator in three verbs, `loss`, `observe` and `imagine`."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional

from lssvwm.worldmodel.common.precision import Full
from lssvwm.worldmodel.common.rng import Generators, Noise, normal
from lssvwm.worldmodel.config import WorldModelConfig
from lssvwm.worldmodel.diffusion.forcing import Past, remembered, streams
from lssvwm.worldmodel.diffusion.noise import Draw, add_noise, clean_from, draw, euler_levels, euler_step, loss_weight
from lssvwm.worldmodel.diffusion.shortcut import finest, halvings_of, two_half_steps, with_steps
from lssvwm.worldmodel.episodes import Clips
from lssvwm.worldmodel.episodes.data import led_here, without_actions
from lssvwm.worldmodel.heads import Readout, TwoHot, future_rewards, mlp
from lssvwm.worldmodel.layers.backbone import Backbone
from lssvwm.worldmodel.layers.conditioning import check_told
from lssvwm.worldmodel.layers.memory import Memory
from lssvwm.worldmodel.results import Counts, Features, Imagined, Losses
from lssvwm.worldmodel.tokenizer import completed, make_tokenizer

__all__ = ["Counts", "Features", "Imagined", "Losses", "WorldModel", "masked_sum"]


class WorldModel(nn.Module):
    """Predicts (o_t, r_t, d_t) from everything before t and the action a_t that leads there.

    A frame enters memory exactly once, at noise level 0 or one that it is declared to have. Reward, termination and
    features are read from that pass and trained only there. All randomness comes from generators that the caller owns.
    Only `loss` can be differentiated: a memory that grew a graph with every frame would soon fill all there is.
    """

    def __init__(self, config: WorldModelConfig) -> None:
        super().__init__()
        self.config = config = completed(config)
        self.tokenizer = make_tokenizer(config)
        self.backbone = Backbone(config)
        self.denoise = Full(nn.LayerNorm(config.dim), nn.Linear(config.dim, config.latent_channels))
        self.readout = Readout(config.tokens, config.dim, self.backbone.scans, config.features)
        self.twohot = TwoHot()
        self.reward_head = mlp(config.features, config.features, config.reward_horizon * self.twohot.count)
        self.termination_head = mlp(config.features, config.features, 1)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.backbone.position.device

    @property
    def heads(self) -> tuple[nn.Module, ...]:
        """What reads rewards and ends from the layers: the last part of the read-out, and the two heads."""
        return (self.readout.standardise, self.readout.mix, self.reward_head, self.termination_head)

    def empty(self, rows: int) -> Memory:
        """Memory of `rows` dreams that have seen nothing."""
        return self.backbone.empty(rows)

    def encode(self, frames: Tensor) -> Tensor:
        """Frames (..., h, w, 3) uint8 -> latents (..., S, C), in full precision whatever the rest is computed in."""
        with torch.autocast(self.device.type, enabled=False):
            return self.tokenizer.encode(frames)

    def decode(self, latents: Tensor) -> Tensor:
        """Latents (..., S, C) -> frames (..., h, w, 3) uint8, likewise."""
        with torch.autocast(self.device.type, enabled=False):
            return self.tokenizer.decode(latents)

    def loss(self, clips: Clips, generator: Generators) -> Losses:
        """Diffusion loss on noised frames, head losses on those that enter memory."""
        return self(clips, self.draw(clips, generator))  # type: ignore[no-any-return]

    def draw(self, clips: Clips, generator: Generators) -> Draw:
        """What chance decides about `clips`; with a generator per row, each row's share follows from its own."""
        self.backbone.condition.check(clips.actions, self.told_pose(clips), clips.mask.shape[1])
        check_told(self.config, clips.told, tuple(clips.mask.shape))
        like = self.backbone.position
        shape = (*clips.mask.shape, self.config.tokens, self.config.latent_channels)
        drawn = draw(shape, generator, like, self.config)
        return with_steps(drawn, generator, self.config) if self.config.shortcut else drawn

    def told_pose(self, clips: Clips) -> Tensor | None:
        """What is told of the pose: dead reckoning only looks at it before the first step."""
        return None if self.config.dead_reckoning else clips.pose

    def counts(self, clips: Clips, drawn: Draw) -> Counts:
        """What `forward` divides by, unless told otherwise."""
        head_mask = self._head_mask(clips, drawn)
        ahead = future_rewards(clips.rewards, clips.mask & led_here(clips.actions), self.config.reward_horizon)
        parts = (clips.mask & ~drawn.clean, head_mask[..., None] & ahead.exists, head_mask)
        return Counts(*(part.sum() for part in parts))

    def forward(
        self,
        clips: Clips,
        drawn: Draw,
        counts: Counts | None = None,
        memory: Memory | None = None,
        carry: bool = False,
    ) -> Losses:
        """`loss` of what was drawn, in clips that go on from `memory` (None: from an empty one).

        `counts` of a batch that these clips are a part of makes their losses parts of its losses, which add up. With
        `carry` the losses bring the memory after the clips' clean frames along, for the clips that follow them; of rows
        that were masked it holds what lay behind the mask too.
        """
        config, mask, counts = self.config, clips.mask, counts or self.counts(clips, drawn)
        with torch.autocast(mask.device.type, enabled=False):  # half precision would be noise in what is to be learnt
            latents = self.encode(clips.frames)
        noised = add_noise(latents, drawn.level, drawn.noise)
        actions = without_actions(clips.actions, drawn.withheld)
        start = self.empty(len(mask)) if memory is None else memory
        past = Past(*self._committed(latents, drawn), actions, self.told_pose(clips), start, clips.told)
        found = streams(self.backbone, config, noised, drawn.level, drawn.halvings, past, carry=carry)
        predicted = clean_from(self.denoise(found.noised), noised, drawn.level, config.target)
        # After the pass that learns, so that the weights that autocast keeps are those it cast for that one.
        targets = self._targets(latents, noised, drawn, past)
        after = remembered(self.backbone, past) if carry and found.memory is None else found.memory
        weight = loss_weight(drawn.level, config.weight, config.min_noise)
        error = (predicted - targets).square().mean((-1, -2)) * weight
        diffusion = masked_sum(error, mask & ~drawn.clean) / counts.diffusion.clamp(min=1)

        head_mask = self._head_mask(clips, drawn)
        features = self.readout(found.clean, found.recall, head_mask if self.training else None)
        ahead = future_rewards(clips.rewards, clips.mask & led_here(clips.actions), config.reward_horizon)
        logits = self.reward_head(features).unflatten(-1, (config.reward_horizon, -1))
        losses = self.twohot.loss(logits, ahead.rewards)
        reward = masked_sum(losses, head_mask[..., None] & ahead.exists) / counts.reward.clamp(min=1)
        ended = clips.terminated.to(features.dtype)
        losses = functional.binary_cross_entropy_with_logits(
            self.termination_head(features)[..., 0], ended, reduction="none"
        )
        termination = masked_sum(losses, head_mask) / counts.termination.clamp(min=1)
        total = diffusion + config.reward_weight * reward + termination
        return Losses(total, diffusion, reward, termination, after)

    def _head_mask(self, clips: Clips, drawn: Draw) -> Tensor:
        """The frames (B, T) bool that carry the losses of the heads: those that enter memory in this pass."""
        return clips.mask if self.config.forcing == "teacher" else clips.mask & drawn.clean

    def _committed(self, latents: Tensor, drawn: Draw) -> tuple[Tensor, Tensor]:
        """The latents (B, T, S, C) as they enter memory, and the level (B, T) that they are declared to have there."""
        level = latents.new_zeros(latents.shape[:2])
        if drawn.context is None:
            return latents, level
        level = level + drawn.context[:, None]
        return add_noise(latents, level, drawn.noise), level

    def _targets(self, latents: Tensor, noised: Tensor, drawn: Draw, past: Past) -> Tensor:
        """The latents (B, T, S, C) to predict: those of the frames, or of steps larger than the finest what two of half
        the size make of them.
        """
        if drawn.halvings is None:
            return latents
        big = drawn.halvings < finest(self.config.shortcut)
        rows = big.any(1).nonzero()[:, 0]
        if not len(rows):
            return latents
        before = past.rows(rows)

        def denoise(x: Tensor, level: Tensor, halvings: Tensor) -> Tensor:
            found = streams(self.backbone, self.config, x, level, halvings, before)
            return clean_from(self.denoise(found.noised), x, level, self.config.target)

        # Compiled layers would be compiled again for every number of rows.
        with torch.compiler.set_stance("force_eager"):
            made = two_half_steps(denoise, noised[rows], drawn.level[rows], drawn.halvings[rows], big[rows])
        return latents.index_copy(0, rows, made.to(latents.dtype).where(big[rows][..., None, None], latents[rows]))

    @torch.no_grad()
    def observe(
        self,
        frames: Tensor,
        actions: Tensor,
        memory: Memory | None = None,
        *,
        pose: Tensor | None = None,
        told: Tensor | None = None,
        noise: float = 0.0,
        generator: Generators | None = None,
    ) -> tuple[Features, Memory]:
        """Let real frames enter memory: frames (B, T, h, w, 3) uint8, actions (B, T) that led to them, -1 = none.

        One call, several segments or frame by frame give the same memory up to float error. Continuous actions are
        (B, T, A), NaN for none; `pose` (B, T, P) and `told` (B, T, G) are for models that were trained with them.
        `noise` in (0, 1) lets the frames enter noised to that level, by `generator`: a prefix that is itself not to be
        trusted.
        """
        self.backbone.condition.check(actions, pose, None)
        check_told(self.config, told, tuple(actions.shape[:2]))
        if frames.ndim != 5 or frames.shape[:2] != actions.shape[:2]:
            raise ValueError(f"frames must be (B, T, h, w, 3) with actions (B, T), got {frames.shape}, {actions.shape}")
        memory = self.empty(len(frames)) if memory is None else memory
        latents = self.encode(frames)
        level = latents.new_full(frames.shape[:2], noise)
        if noise:
            if generator is None or not 0 < noise < 1:
                raise ValueError(f"noise={noise}: a noised prefix takes a level between 0 and 1, and a generator")
            latents = add_noise(latents, level, normal(tuple(latents.shape), generator, latents))
        return self._commit(latents, level, actions, memory, pose, told)

    @torch.no_grad()
    def imagine(
        self,
        actions: Tensor,
        memory: Memory,
        *,
        steps: int | None = None,
        generator: Noise,
        active: Tensor | None = None,
        pose: Tensor | None = None,
        stabilise: float = 0.0,
        in_place: bool = False,
    ) -> Imagined:
        """Dream one frame per row under `actions` (B,), by `steps` Euler steps that all start from `memory`; None takes
        one step of a model with `shortcut`, two of another.

        `generator` is one for all rows, or one per row, which makes a row independent of its neighbours. Rows where
        `active` (B,) bool is False are computed but keep their memory bit for bit, and their own generators unused.
        The new frame is rounded to pixels and encoded again before it enters memory, so a dream stays on the grid of
        real frames and remembers exactly what it showed. `stabilise` is the noise level that it is declared to have
        there: above 0 the model trusts its own frames less (Chen et al. 2024, section 3.3). `in_place` uses `memory`
        up: the new one is written over it where no `active` is given, which a CPU does in a fraction of the time.

        What the last frame was told, the new one is told too: `Memory.told`.

        `pose` (B, P) is for models that were trained with one, continuous actions are (B, A). A model of chunks
        (`chunk` = c > 1) dreams c frames jointly: all arguments and results have (B, c) in place of (B,). From empty
        memory, with action -1, the dream begins without any real frame.
        """
        steps = self.config.usual_steps if steps is None else steps
        if steps < 1:
            raise ValueError(f"steps={steps}: imagining takes at least one denoising step")
        if not 0 <= stabilise < 1:
            raise ValueError(f"stabilise={stabilise}: give a noise level from 0 to below 1")
        config, one = self.config, self.config.chunk == 1
        if actions.ndim != 2 - one + bool(config.action_size):
            want = "(B,)" if one else f"(B, {config.chunk})"
            vectors = f" and {config.action_size} numbers" if config.action_size else ""
            raise ValueError(f"actions to imagine must be {want}{vectors}, got {tuple(actions.shape)}")
        if one:
            actions, pose = actions[:, None], None if pose is None else pose[:, None]
        self.backbone.condition.check(actions, pose, config.chunk)
        lead = (len(actions), config.chunk)
        x = normal((*lead, config.tokens, config.latent_channels), generator, self.backbone.position, active)
        frames = self.denoised(x, actions, memory, steps=steps, pose=pose)
        level, in_place = x.new_full(lead, stabilise), in_place and active is None
        seen, after = self._commit(self.encode(frames), level, actions, memory, pose, in_place=in_place)
        if active is not None:
            after = after.where(active, memory)
        if not one:
            return Imagined(frames, seen.reward, seen.termination, seen.features, after, seen.inputs)
        features, reward, termination, inputs = (part[:, 0] for part in vars(seen).values())
        return Imagined(frames[:, 0], reward, termination, features, after, inputs)

    @torch.no_grad()
    def denoised(
        self, noise: Tensor, actions: Tensor, memory: Memory, *, steps: int, pose: Tensor | None = None
    ) -> Tensor:
        """The frames (B, c, h, w, 3) that `steps` Euler steps make of `noise` (B, c, S, C); memory stays as it is.

        Actions (B, c) or (B, c, A) and pose (B, c, P) are those of the frames. A model with `shortcut` is told how
        large the steps are; InputError where it knows none of that size (`halvings_of`).
        """
        x, target, told = noise, self.config.target, halvings_of(steps, self.config.shortcut)
        halvings = None if told is None else torch.full(x.shape[:2], told, device=x.device)
        for level, lower in itertools.pairwise(euler_levels(steps, target)):
            at = x.new_full(x.shape[:2], level)
            hidden = self.backbone(x, at, actions, memory, pose=pose, halvings=halvings, advance=False)
            x = euler_step(x, clean_from(self.denoise(hidden.tokens), x, at, target), level, lower)
        return self.decode(x)

    def _commit(
        self,
        latents: Tensor,
        level: Tensor,
        actions: Tensor,
        memory: Memory,
        pose: Tensor | None,
        told: Tensor | None = None,
        *,
        in_place: bool = False,
    ) -> tuple[Features, Memory]:
        hidden = self.backbone(latents, level, actions, memory, pose=pose, told=told, in_place=in_place)
        inputs = self.readout.inputs(hidden.tokens, hidden.recall)
        features = self.readout.features(inputs)
        logits = self.reward_head(features)[..., : self.twohot.count]
        termination = torch.sigmoid(self.termination_head(features)[..., 0])
        return Features(features, self.twohot.mean(logits), termination, inputs), hidden.memory


def masked_sum(values: Tensor, mask: Tensor) -> Tensor:
    """Sum of values where mask is True."""
    return torch.where(mask, values, 0.0).sum()
