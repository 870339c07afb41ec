"""How little a dreamt frame is to be trusted, told by the model alone, and rewards lowered by it (pessimism).

A frame's uncertainty comes from the heads, or from other draws of the frame. A reward's is how far the members of an
ensemble differ: masks of the head's inputs (Monte Carlo dropout), or other draws of the step.
"""

from __future__ import annotations

import functools
import hashlib
import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.common.philox import Counted
from lssvwm.worldmodel.common.rng import Drawn, Noise, normal
from lssvwm.worldmodel.layers.memory import Memory
from lssvwm.worldmodel.model import Imagined, WorldModel
from lssvwm.worldmodel.sampling import Sampler

Uncertainty = Literal["heads", "draws"]
"""heads: entropy of the predicted reward and termination, in nats; draws: distance of other draws, in pixel RMS."""

DRAWS = 2
"""Other draws of a frame or step: each costs as much as the first one."""


@torch.no_grad()
def uncertainty(
    kind: Uncertainty,
    sampler: Sampler,
    actions: Tensor,
    memory: Memory,
    imagined: Imagined,
    generator: Noise,
    *,
    active: Tensor | None = None,
    pose: Tensor | None = None,
    draws: int = DRAWS,
) -> Tensor:
    """How uncertain the model is of the frames `imagined`, float64, in the shape of their rewards: (B,).

    `actions`, `active` and `pose` are those of the step, `memory` is the one from before it.

    heads: entropy of what the committing pass predicts of reward and termination, in nats. It costs next to nothing.
    draws: the step is denoised `draws` more times from other noises: root mean square distance of these frames from the
    one that was dreamt, over pixels and draws, 0..1 of the whole range. Were the model's distribution the world's own,
    this would be the expected distance from the real frame, too. Nothing of it enters memory.

    The noises follow from the state of `generator`, which is left as it is: a dream shows the same with and without.
    Rows where `active` (B,) bool is False get 0.
    """
    if kind not in get_args(Uncertainty):
        raise InputError(f"uncertainty={kind!r}: choose one of {', '.join(get_args(Uncertainty))}")
    if kind == "heads":
        found = head_entropy(sampler.model, imagined.features)
    else:
        others = other_draws(sampler, actions, memory, derived(generator), draws=draws, active=active, pose=pose)
        found = distance(others, imagined.frame[:, None])
    return found if active is None else torch.where(active.view(-1, *[1] * (found.ndim - 1)), found, 0.0)


def head_entropy(model: WorldModel, features: Tensor) -> Tensor:
    """Entropy in nats of reward and termination, independently predicted from features (..., F): (...) float64."""
    features = features.to(model.device, model.backbone.position.dtype)  # half precision where the sampler chose it
    reward = model.reward_head(features)[..., : model.twohot.count].double().log_softmax(-1)
    ended = model.termination_head(features).double()
    either = torch.nn.functional.logsigmoid(torch.cat([ended, -ended], -1))
    entropy: Tensor = -(reward.exp() * reward).sum(-1) - (either.exp() * either).sum(-1)
    return entropy


def other_draws(
    sampler: Sampler,
    actions: Tensor,
    memory: Memory,
    generator: Noise,
    *,
    draws: int,
    active: Tensor | None = None,
    pose: Tensor | None = None,
) -> Tensor:
    """The step as `sampler` denoises it from `draws` noises of every row: (B, draws, h, w, 3) uint8, in chunks
    (B, draws, c, h, w, 3). Memory is left as it is.
    """
    if draws < 1:
        raise InputError(f"draws={draws}: give at least 1 other draw to compare with")
    config, like = sampler.model.config, sampler.model.backbone.position
    one = config.chunk == 1
    if one:
        actions, pose = actions[:, None], None if pose is None else pose[:, None]
    rows = torch.arange(memory.rows, device=like.device).repeat_interleave(draws)
    noise = normal((memory.rows, draws, config.chunk, config.tokens, config.latent_channels), generator, like, active)
    pose = None if pose is None else pose[rows]
    frames = sampler.denoised(noise.flatten(0, 1), actions[rows], memory.select(rows), pose=pose)
    shape = frames.shape[2:] if one else frames.shape[1:]
    return frames.view(memory.rows, draws, *shape)


def distance(frames: Tensor, others: Tensor) -> Tensor:
    """Root mean square over pixels and draws, 0..1: (B, draws, ..., h, w, 3) uint8, `others` alike -> (B, ...)."""
    squares = (frames.double() - others.double()).div(255).square()
    root: Tensor = squares.mean((1, -1, -2, -3)).sqrt()
    return root


def derived(generator: Noise) -> Noise:
    """A source whose numbers follow from the state of another, which stays as it is."""
    if isinstance(generator, Counted):
        return generator.derived()
    if isinstance(generator, Drawn):
        raise ValueError("other draws follow from the state of generators, of numbers that were drawn nothing does")
    return _derived(generator) if isinstance(generator, torch.Generator) else [_derived(row) for row in generator]


def _derived(generator: torch.Generator) -> torch.Generator:
    # The whole state, since the seed would give every step the same; reading it does not wait for a GPU.
    digest = hashlib.blake2b(generator.get_state().numpy().tobytes(), digest_size=8, person=b"uncertainty")
    return torch.Generator(generator.device).manual_seed(int.from_bytes(digest.digest(), "little") >> 1)


Ensemble = Literal["masks", "draws"]
"""masks: the reward head with parts of its input left out, as it was fitted; draws: the step dreamt again from other
noises."""

MASKS, LEFT_OUT = 8, 0.5
"""Masks, and the share of the read-out's inputs that each leaves out, as in the fitting (`HeadsConfig.dropout`)."""


@dataclass(frozen=True)
class UncertaintyPenalty:
    """A reward minus so many standard deviations over an ensemble (as MOPO, Yu et al. 2020); 0: the reward as it is."""

    deviations: float = 0.0
    over: Ensemble = "masks"

    def __post_init__(self) -> None:
        if not (isinstance(self.deviations, int | float) and 0 <= self.deviations < math.inf):
            raise InputError(f"pessimism={self.deviations}: give a number of standard deviations, at least 0")
        if self.over not in get_args(Ensemble):
            raise InputError(f"pessimism_over={self.over!r}: choose one of {', '.join(get_args(Ensemble))}")

    @property
    def looks_back(self) -> bool:
        """Whether it needs the memory from before a step, which must not be written over then."""
        return self.deviations > 0 and self.over == "draws"

    @torch.no_grad()
    def reward(
        self,
        sampler: Sampler,
        actions: Tensor,
        memory: Memory,
        imagined: Imagined,
        generator: Noise,
        *,
        active: Tensor | None = None,
    ) -> Tensor:
        """The reward of the step that was `imagined` under `actions`, minus so many standard deviations, (B,).

        `memory` is that from before the step where `looks_back`. Masks are the same for all frames and rows: thinned
        networks (Gal and Ghahramani 2016), so the reward stays a function of the frame. The noises of other draws
        follow from the state of `generator`, which is left as it is.
        """
        if not self.deviations:
            return imagined.reward
        if self.over == "masks":
            others = masked_rewards(sampler.model, imagined)
        else:
            noise, rewards = derived(generator), [imagined.reward]
            for _ in range(DRAWS):
                rewards.append(sampler.imagine(actions, memory, generator=noise, active=active).reward)
            others = torch.stack(rewards, -1)
        return imagined.reward - self.deviations * others.std(-1)


def masked_rewards(model: WorldModel, imagined: Imagined) -> Tensor:
    """What the reward head says of each frame under each of the masks, (B, MASKS)."""
    if imagined.inputs is None:
        raise ValueError("masks leave out inputs of the read-out, and this step tells none: dream with Sampler")
    inputs = model.readout.standardise(imagined.inputs)[..., None, :]
    kept = _kept(inputs.shape[-1], inputs.device).to(inputs.dtype)
    logits = model.reward_head(model.readout.mix(inputs * kept / (1 - LEFT_OUT)))
    return model.twohot.mean(logits[..., : model.twohot.count])


@functools.cache
def _kept(inputs: int, device: torch.device) -> Tensor:
    return (torch.rand(MASKS, inputs, generator=torch.Generator().manual_seed(0)) >= LEFT_OUT).to(device)
