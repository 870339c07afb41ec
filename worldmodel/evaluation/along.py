"""Real episodes dreamt again from their own beginning and actions."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from lssvwm.worldmodel.episodes import Clips, Episode
from lssvwm.worldmodel.evaluation.metrics import psnr
from lssvwm.worldmodel.evaluation.rollout import rollout
from lssvwm.worldmodel.evaluation.trials import Trial, window
from lssvwm.worldmodel.model import WorldModel
from lssvwm.worldmodel.told import told_in


@dataclass(frozen=True)
class Dreamt:
    """A real episode dreamt again from its own beginning and actions."""

    frames: NDArray[np.uint8]  # (T + 1, h, w, 3), the first `context` are real
    context: int
    psnr: tuple[float, ...]  # of every dreamt frame against the real one, in dB


def dream_along(model: WorldModel, episode: Episode, *, context: int, steps: int | None, seed: int = 0) -> Dreamt:
    """Observe the first `context` frames, at most half of the episode, then dream on under its recorded actions."""
    context = max(1, min(context, len(episode.image) // 2))
    arrays = (episode.image, episode.action, episode.reward, episode.terminated, np.ones(len(episode.image), np.bool_))
    clips = Clips(*(torch.tensor(array)[None] for array in arrays))
    if parts := model.config.told:
        told = told_in(episode.extras, len(episode.image), parts, "the episode to dream along")
        clips = replace(clips, told=torch.from_numpy(told)[None])
    trial = Trial(window(clips, 0, context), window(clips, context, len(episode.image)))
    frames = rollout(model, trial, steps=steps, seed=seed).frames
    everything = torch.cat([trial.context.frames, frames], 1)[0]
    return Dreamt(everything.numpy(), context, tuple(psnr(frames, trial.ahead.frames)[0].tolist()))
