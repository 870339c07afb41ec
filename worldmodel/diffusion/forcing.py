"""What a clip's noised frames are denoised from in training, by the two kinds of forcing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lssvwm.worldmodel.config import WorldModelConfig
from lssvwm.worldmodel.diffusion.shortcut import finest
from lssvwm.worldmodel.layers.backbone import Backbone
from lssvwm.worldmodel.layers.memory import Memory
from lssvwm.worldmodel.layers.teacher_forcing import deinterleaved, interleaved


@dataclass(frozen=True)
class Past:
    """The frames of B clips as they enter memory, what leads to them, and the memory before the first of them."""

    latents: Tensor  # (B, T, S, C)
    level: Tensor  # (B, T), the noise level they are declared to have
    actions: Tensor  # (B, T) or (B, T, A)
    pose: Tensor | None  # (B, T, P)
    memory: Memory
    told: Tensor | None = None  # (B, T, G)

    def rows(self, rows: Tensor) -> Past:
        """Those of some clips, by index."""
        pose, told = (None if part is None else part[rows] for part in (self.pose, self.told))
        memory = self.memory.select(rows)
        return Past(self.latents[rows], self.level[rows], self.actions[rows], pose, memory, told)

    @property
    def given(self) -> dict[str, Any]:
        """Pose and goal, in models that have them."""
        return {key: part for key, part in (("pose", self.pose), ("told", self.told)) if part is not None}


@dataclass(frozen=True)
class Streams:
    """What the layers make of a clip: tokens (B, T, S, D) of the noised frames, tokens and recall of those that heads
    read. With diffusion forcing the two are one. `memory` is the one after the clip, where it was asked for.
    """

    noised: Tensor
    clean: Tensor
    recall: tuple[Tensor, ...]
    memory: Memory | None


def streams(
    backbone: Backbone,
    config: WorldModelConfig,
    x: Tensor,
    level: Tensor,
    halvings: Tensor | None,
    past: Past,
    *,
    carry: bool = False,
) -> Streams:
    """Pass noised latents x (B, T, S, C) at `level` (B, T) through the layers; `halvings` (B, T) as in `Backbone`.

    With teacher forcing each frame is denoised from the frames of `past` before it, as in a dream, and with `carry` the
    memory after them comes along. With diffusion forcing it is denoised from the noised ones, and another pass has to
    find that memory (`remembered`).
    """
    if config.forcing == "diffusion":
        hidden = backbone(x, level, past.actions, past.memory, **past.given, halvings=halvings, advance=False)
        return Streams(hidden.tokens, hidden.tokens, hidden.recall, None)
    chunk = config.chunk
    how = {key: interleaved(part, part, chunk) for key, part in past.given.items()}
    if halvings is not None:
        how["halvings"] = interleaved(halvings, torch.full_like(halvings, finest(config.shortcut)), chunk)
    latents, levels = interleaved(x, past.latents, chunk), interleaved(level, past.level, chunk)
    actions = interleaved(past.actions, past.actions, chunk)
    hidden = backbone(latents, levels, actions, past.memory, **how, advance=carry, teacher_forcing=True)
    recall = tuple(deinterleaved(part, chunk).clean for part in hidden.recall)
    return Streams(*deinterleaved(hidden.tokens, chunk), recall, hidden.memory.detach() if carry else None)


@torch.no_grad()
def remembered(backbone: Backbone, past: Past) -> Memory:
    """The memory after the frames of `past`."""
    memory: Memory = backbone(past.latents, past.level, past.actions, past.memory, **past.given).memory
    return memory
