"""Rewards of a dream at their pessimistic end, so that a policy gains little where the model does not know."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.common.rng import Noise
from lssvwm.worldmodel.layers.memory import Memory
from lssvwm.worldmodel.model import Imagined, WorldModel
from lssvwm.worldmodel.sampling import Sampler
from lssvwm.worldmodel.uncertainty import derived

Over = Literal["masks", "draws"]
"""masks: the reward head with parts of its input left out, as it was fitted; draws: the step dreamt again from other
noises."""

MASKS, LEFT_OUT = 8, 0.5
"""Masks, and the share of the read-out's inputs that each leaves out, as in the fitting (`HeadsConfig.dropout`)."""
DRAWS = 2
"""Other draws of a step: each costs as much as the step."""


@dataclass(frozen=True)
class Pessimism:
    """By how many standard deviations a reward is lowered, and over what these are measured. 0: not at all."""

    deviations: float = 0.0
    over: Over = "masks"

    def __post_init__(self) -> None:
        if not (isinstance(self.deviations, int | float) and 0 <= self.deviations < math.inf):
            raise InputError(f"pessimism={self.deviations}: give a number of standard deviations, at least 0")
        if self.over not in get_args(Over):
            raise InputError(f"pessimism_over={self.over!r}: choose one of {', '.join(get_args(Over))}")

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
            noise, told = derived(generator), [imagined.reward]
            for _ in range(DRAWS):
                told.append(sampler.imagine(actions, memory, generator=noise, active=active).reward)
            others = torch.stack(told, -1)
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
