"""Real episodes dreamt again from their own beginning and actions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from worldmodel.episodes import Episode
from worldmodel.model import WorldModel


@dataclass(frozen=True)
class Dreamt:
    """A real episode dreamt again from its own beginning and actions."""

    frames: NDArray[np.uint8]  # (T + 1, h, w, 3), the first `context` are real
    context: int
    psnr: tuple[float, ...]  # of every dreamt frame against the real one, in dB


@torch.no_grad()
def dream_along(model: WorldModel, episode: Episode, *, context: int, steps: int | None, seed: int = 0) -> Dreamt:
    """Observe the first `context` frames, at most half of the episode, then dream on under its recorded actions."""
    context = max(1, min(context, len(episode.image) // 2))
    frames = torch.tensor(episode.image, device=model.device)[None]
    actions = torch.tensor(episode.action, device=model.device)[None]
    generator = torch.Generator(model.device).manual_seed(seed)
    _, memory = model.observe(frames[:, :context], actions[:, :context])
    dreamt, psnr = [], []
    for t in range(context, frames.shape[1]):
        imagined = model.imagine(actions[:, t], memory, steps=steps, generator=generator)
        memory = imagined.memory
        dreamt.append(imagined.frame[0])
        error = (imagined.frame[0].double() - frames[0, t].double()).square().mean().item()
        psnr.append(float(10 * np.log10(255**2 / max(error, 1e-3))))
    everything = torch.cat([frames[0, :context], torch.stack(dreamt)])
    return Dreamt(everything.cpu().numpy(), context, tuple(psnr))
