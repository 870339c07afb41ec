"""Dead reckoning: the agent's pose worked out from its actions, whose effects were fitted to recorded poses."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.config import WorldModelConfig
from lssvwm.worldmodel.episodes import Clips
from lssvwm.worldmodel.layers.action_numbers import ActionNumbers

PLACE = 5
"""Numbers of a place: three of position, the third upwards, then heading and pitch in radians."""
RECKONED = 7
"""Numbers of the pose that is told: position, then cosine and sine of heading and of pitch."""
ROUNDS, LEAST = 20, 5e-3
"""Least squares that are weighted anew, and the residual (units, radians) below which all weigh the same."""


class Reckoned(NamedTuple):
    """Poses (B, T, 7) of frames, and what reckoning goes on from after the last of them, (B, S)."""

    pose: Tensor
    after: Tensor


class DeadReckoning(nn.Module):
    """Where the agent is, by what it did: each of the last K actions moves it, ahead of where it looked, and turns it.

    Begins at the origin of every episode, or of what a dream has seen of it. Movements are linear in the actions, as
    inertia is; walls are not known of, so that bumping into them leaves an error that stays.
    """

    moves: Tensor

    def __init__(self, config: WorldModelConfig) -> None:
        super().__init__()
        self.numbers = ActionNumbers(config)
        self.actions = config.dead_reckoning
        self.register_buffer("moves", torch.zeros(self.actions * self.numbers.width, PLACE))

    @property
    def size(self) -> int:
        """Numbers kept per row, S: the place, and the features of all but one of the actions that count."""
        return PLACE + (self.actions - 1) * self.numbers.width

    def forward(self, actions: Tensor, before: Tensor) -> Reckoned:
        """Actions as `Condition.check` wants them, which led to T frames after one with `before` (B, S) -> `Reckoned`.

        In full precision, whatever the rest is computed in.
        """
        with torch.autocast(actions.device.type, enabled=False):
            place, past = before[:, :PLACE], before[:, PLACE:].unflatten(1, (self.actions - 1, self.numbers.width))
            done = torch.cat([past, self.numbers.features(actions).to(before)], 1)
            moves = last(done, self.actions) @ self.moves.to(before)
            angles = place[:, None, 3:] + moves[..., 3:].cumsum(1)
            headings = torch.cat([place[:, None, 3], angles[:, :-1, 0]], 1)
            position = place[:, None, :3] + turned(moves[..., :3], headings).cumsum(1)
            angles = torch.remainder(angles, 2 * math.pi)
            rest = done[:, done.shape[1] - self.actions + 1 :].flatten(1)
            after = torch.cat([position[:, -1], angles[:, -1], rest], 1)
            waves = torch.stack([angles.cos(), angles.sin()], -1).flatten(-2)
            return Reckoned(torch.cat([position, waves], -1), after)

    @torch.no_grad()
    def fit(self, clips: Clips, seed: int) -> str:
        """Find what actions do, by least absolute errors in clips with poses; returns how well that tells where one is.

        Poses are position and unit vector of the view, both of 2 numbers or both of 3 with the second upwards, as the
        extras `agent_pos` and `agent_dir` are. Absolute errors, as a few frames in which a wall stopped the agent would
        bend the squares of all others.

        Raises InputError for clips without poses, and for others.
        """
        check_pose(0 if clips.pose is None else clips.pose.shape[-1])
        assert clips.pose is not None
        places, known = placed(clips.pose.double()), clips.mask[:, 1:] & clips.mask[:, :-1]
        done = functional.pad(self.numbers.features(clips.actions).double(), (0, 0, self.actions - 1, 0))
        x = last(done, self.actions)[:, 1:][known]
        y = steps(places)[known]
        weight = torch.ones_like(y[:, :1])
        for _ in range(ROUNDS):
            moves = torch.linalg.lstsq(x * weight, y * weight, driver="gelsd").solution
            weight = ((y - x @ moves).abs().amax(1, keepdim=True).clamp(min=LEAST)) ** -0.5
        self.moves.copy_(moves)
        where = self(clips.actions, self.moves.new_zeros(len(clips.actions), self.size))
        start, whole = places[:, 0], clips.mask.all(1)
        went = turned(places[:, -1, :3] - start[:, :3], -start[:, 3])
        # The first action led to the first frame, where the pose is known.
        moved = where.pose[:, -1, :3] - where.pose[:, 0, :3]
        led = turned(moved, -torch.atan2(where.pose[:, 0, 4], where.pose[:, 0, 3]))
        error = (led - went)[whole].norm(dim=-1).median()
        far = went[whole].norm(dim=-1).median()
        frames = clips.mask.shape[1] - 1
        return f"dead reckoning: after {frames} frames half are within {error:.2f} of where they are, {far:.2f} away"


def check_pose(size: int) -> None:
    """Raise InputError unless a pose of so many numbers is a position and a view."""
    if size not in (4, 6):
        raise InputError(
            "dead reckoning is fitted to recorded position and view, of 2 + 2 or 3 + 3 numbers, and the pose of these "
            f"episodes has {size}: record with --extra-obs and add --pose agent_pos agent_dir"
        )


def last(done: Tensor, count: int) -> Tensor:
    """Features (B, T + K - 1, F) -> those of the last K = `count` actions at each of T frames, (B, T, K * F)."""
    return done.unfold(1, count, 1).flatten(2)


def turned(moves: Tensor, heading: Tensor) -> Tensor:
    """Moves (..., 3) of which the first two are turned by `heading` (...)."""
    ahead, left, up = moves.unbind(-1)
    cos, sin = heading.cos(), heading.sin()
    return torch.stack([ahead * cos - left * sin, ahead * sin + left * cos, up], -1)


def placed(pose: Tensor) -> Tensor:
    """Recorded poses (B, T, 4 or 6) as places (B, T, 5), whose angles may jump by whole turns."""
    position, view = pose.chunk(2, -1)
    if position.shape[-1] == 3:
        position, view = (part[..., [0, 2, 1]] for part in (position, view))
    else:
        position, view = (functional.pad(part, (0, 1)) for part in (position, view))
    heading = torch.atan2(view[..., 1], view[..., 0])
    pitch = torch.atan2(view[..., 2], view[..., :2].norm(dim=-1))
    return torch.cat([position, heading[..., None], pitch[..., None]], -1)


def steps(places: Tensor) -> Tensor:
    """What lies between places (B, T, 5): movement ahead, to the left and upwards, and turns of half a turn at most,
    (B, T - 1, 5).
    """
    change = places.diff(dim=1)
    ahead = turned(change[..., :3], -places[:, :-1, 3])
    return torch.cat([ahead, torch.remainder(change[..., 3:] + math.pi, 2 * math.pi) - math.pi], -1)
