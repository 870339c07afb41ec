"""Path integration: where actions have led, worked out from the actions alone, for worlds that tell no pose."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from lssvwm.worldmodel.config import WorldModelConfig
from lssvwm.worldmodel.episodes import Clips
from lssvwm.worldmodel.layers.action_numbers import ActionNumbers

CANDIDATES, ASCENT, RATE = 128, 300, 0.02
"""Angles that `fit` begins with; steps and step size by which they are improved."""
LEAST, MOST = 0.05, 1.0
"""Radians by which actions turn them at first, those of the slowest and of the fastest."""
FARTHEST, MOVES = 32, 20_000
"""Frames between two that are compared; different moves that are looked at."""
ALIKE = 0.02
"""Squared distance at which frames are called alike, in units of that between any two."""
FOUND, CHANCE = 0.1, 5.0
"""Least score of an angle that is used, and least one in units of what chance gives a single angle."""
SAME, SCALES = 0.05, 4
"""Radians by which angles that are used differ; in how many halves each is."""


class Led(NamedTuple):
    """What every token of a frame is told of where actions have led, (B, T, 1, D), and the last angles, (B, M)."""

    place: Tensor
    angles: Tensor


class PathIntegration(nn.Module):
    """Where actions have led, as M angles: every action turns each by an amount of its own.

    Who turns away and back has the angles from before, after however many frames, and so finds what was written there.
    A state that fades counts turns only roughly, and the more roughly the longer ago they were.

    That turning left undoes turning right is hard to learn from the loss of frames: amounts that are nearly right are
    of no more use there than wrong ones. `fit` reads it off the recordings; from there they are trained as all weights.
    """

    def __init__(self, config: WorldModelConfig) -> None:
        super().__init__()
        self.numbers = ActionNumbers(config)
        self.size = config.path_integration
        self.turn = nn.Parameter(torch.zeros(self.numbers.width, self.size))
        self.project = nn.Linear(2 * self.size, config.dim)
        nn.init.normal_(self.project.weight, std=self.size**-0.5)

    def forward(self, actions: Tensor, before: Tensor) -> Led:
        """Actions as `Condition.check` wants them, which led to T frames after one at angles `before` (B, M)."""
        with torch.autocast(actions.device.type, enabled=False):
            features = self.numbers.features(actions).to(self.turn)
            # A product of matrices would be rounded on a GPU, and the error add up.
            turned = (features[..., None] * self.turn).sum(-2).cumsum(1)
            angles = torch.remainder(before[:, None] + turned, 2 * math.pi)
            place: Tensor = self.project(torch.cat([angles.sin(), angles.cos()], -1))
        return Led(place[:, :, None], angles[:, -1].contiguous())  # of its own, as memories are

    @torch.no_grad()
    def fit(self, clips: Clips, seed: int) -> str:
        """Find which turns undo each other in recorded clips; returns a line that says how many angles tell it.

        Where a frame looks like one before it, the actions between them have led back. Looked for are angles that stand
        there where they stood, and elsewhere do not (`scores`). They turn fast, which tells near places apart; with
        each come its halves, quarters and eighths, which tell near from far. Where none is found nothing turns, and a
        frame is told nothing.
        """
        features = self.numbers.features(clips.actions).float()
        found = distinct(compared(clips.frames, features, clips.mask), seed)
        order = torch.arange(self.turn.shape[1], device=found.device)
        if len(found):
            self.turn.copy_((found[order // SCALES % len(found)] / 2 ** (order % SCALES)[:, None]).T)
        used = min(math.ceil(len(order) / SCALES), len(found))
        return f"path integration: {used} angles in which recorded actions undo each other"


class Moves(NamedTuple):
    """What pairs of frames have between them: features of actions added up, (P, F), each once; how much more alike the
    pairs are than others as far apart, (P,), as a share of all that are alike; how many these are.
    """

    features: Tensor
    alike: Tensor
    total: float


def compared(frames: Tensor, features: Tensor, mask: Tensor) -> Moves:
    """All pairs of frames (B, T, h, w, 3), up to `FARTHEST` apart, of clips under actions of features (B, T, F)."""
    small = functional.adaptive_avg_pool2d(frames.flatten(0, 1).permute(0, 3, 1, 2).float(), 8)
    small = small.unflatten(0, frames.shape[:2]).flatten(2)
    scale = ALIKE * 2 * small[mask].var(0).mean().clamp(min=1e-8)
    path, moves, alike, total = features.cumsum(1), [], [], small.new_zeros(())
    for lag in range(1, min(FARTHEST, frames.shape[1] - 1) + 1):
        there = mask[:, lag:] & mask[:, :-lag]
        distance = (small[:, lag:] - small[:, :-lag]).square().mean(-1)[there]
        near = torch.exp(-distance / scale)
        moves.append((path[:, lag:] - path[:, :-lag])[there])
        alike.append(near - near.mean())
        total += near.sum()
    unique, place = torch.cat(moves).unique(dim=0, return_inverse=True)
    summed = unique.new_zeros(len(unique)).index_add(0, place, torch.cat(alike) / total)
    return Moves(unique, summed, float(total))


def scores(moves: Moves, angles: Tensor) -> Tensor:
    """How well K angles (K, F), in radians by feature, tell returns from other moves: 0 is chance, 1 perfect, (K,).

    The mean of cos(angle turned) over moves between frames that look alike, less that over moves of as many frames.
    """
    return torch.cos(angles @ moves.features.T) @ moves.alike


def distinct(moves: Moves, seed: int) -> Tensor:
    """The best angles (K, F) that ascent of their score from random ones comes to, best first, each once."""
    random = torch.Generator().manual_seed(seed)
    if (number := len(moves.features)) > MOVES:
        kept = torch.randperm(number, generator=random)[:MOVES].to(moves.alike.device)
        moves = Moves(moves.features[kept], moves.alike[kept] * (number / MOVES), moves.total)
    spread = torch.exp(torch.linspace(math.log(LEAST), math.log(MOST), CANDIDATES))[:, None]
    angles = (torch.randn(CANDIDATES, moves.features.shape[1], generator=random) * spread).to(moves.features)
    angles *= moves.features.abs().sum(0) > 0  # what never happened turns nothing
    optimizer = torch.optim.Adam([angles], lr=RATE)
    for _ in range(ASCENT):
        angles.grad = (torch.sin(angles @ moves.features.T) * moves.alike) @ moves.features
        optimizer.step()
    score = scores(moves, angles)
    angles *= angles.gather(1, angles.abs().argmax(1, keepdim=True)).sign()  # turning the other way is the same
    best: list[Tensor] = []
    least = max(FOUND, CHANCE / max(moves.total, 1e-9) ** 0.5, float(score.max()) / 2)
    for index in score.argsort(descending=True, stable=True).tolist():
        if score[index] < least:
            break
        if all((angles[index] - other).abs().max() > SAME for other in best):
            best.append(angles[index])
    return torch.stack(best) if best else angles[:0]
