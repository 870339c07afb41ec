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
ROUNDS, LEAST = 20, 5e-3
"""Least squares that are weighted anew, and the residual (units, radians) below which all weigh the same."""
UNIT = 1e-2
"""By how much the length of a view may differ from 1."""


class Reckoned(NamedTuple):
    """Poses (B, T, 7) of frames, position and cosine and sine of heading and pitch; and what reckoning goes on from
    after the last of them, (B, S).
    """

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
        self.width = self.numbers.width + bool(self.numbers.counts[0])
        self.register_buffer("moves", torch.zeros(self.width * self.actions, PLACE))

    @property
    def size(self) -> int:
        """Numbers kept per row, S: the place, and the features of all but one of the actions that count."""
        return PLACE + (self.actions - 1) * self.width

    def features(self, actions: Tensor) -> Tensor:
        """Actions (B, T) or (B, T, A) -> (B, T, F). With real numbers comes a one, as their middle may not be rest."""
        features = self.numbers.features(actions)
        return torch.cat([features, self.numbers.known(actions)], -1) if self.numbers.counts[0] else features

    def forward(self, actions: Tensor, before: Tensor) -> Reckoned:
        """Actions as `Condition.check` wants them, which led to T frames after one with `before` (B, S) -> `Reckoned`.

        In full precision, whatever the rest is computed in.
        """
        with torch.autocast(actions.device.type, enabled=False):
            place, past = before[:, :PLACE], before[:, PLACE:].unflatten(1, (self.actions - 1, self.width))
            done = torch.cat([past, self.features(actions).to(before)], 1)
            # A product of matrices would be rounded on a GPU, and the error add up.
            moves = (last(done, self.actions)[..., None] * self.moves.to(before)).sum(-2)
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
        actions = clips.actions.to(self.moves.device)
        clips = clips.to("cpu")  # where least squares bear features that depend on each other
        assert clips.pose is not None
        check_views(clips.pose.chunk(2, -1)[1][clips.mask])
        places, known = placed(clips.pose.double()), clips.mask[:, 1:] & clips.mask[:, :-1]
        # Most clips begin within an episode and lack what was done before: few frames, and these errors are absolute.
        done = functional.pad(self.features(actions).cpu().double(), (0, 0, self.actions - 1, 0))
        x, y = last(done, self.actions)[:, 1:][known], steps(places)[known]
        weight = torch.ones_like(y[:, :1])
        for _ in range(ROUNDS):
            moves = torch.linalg.lstsq(x * weight, y * weight, driver="gelsd").solution
            weight = ((y - x @ moves).abs().amax(1, keepdim=True).clamp(min=LEAST)) ** -0.5
        self.moves.copy_(moves)
        reckoned = self(actions, self.moves.new_zeros(len(places), self.size)).pose.cpu()
        found = torch.cat([reckoned[..., :3], torch.atan2(reckoned[..., 4:5], reckoned[..., 3:4])], -1)
        end = clips.mask.sum(1) - 1
        error = (since(found, end) - since(places, end)).norm(dim=-1).median()
        far = since(places, end).norm(dim=-1).median()
        return (
            f"dead reckoning: after {int(end.median())} frames half are within {error:.2f} of where they are, "
            f"{far:.2f} away"
        )


def check_pose(size: int) -> None:
    """Raise InputError unless a pose of so many numbers can be a position and a view."""
    if size not in (4, 6):
        raise InputError(
            "dead reckoning is fitted to recorded position and view, of 2 + 2 or 3 + 3 numbers, and the pose of these "
            f"episodes has {size}: record with --extra-obs and add --pose agent_pos agent_dir"
        )


def check_views(views: Tensor) -> None:
    """Raise InputError unless views (N, 2 or 3) are unit vectors."""
    if bool(((views.norm(dim=-1) - 1).abs() > UNIT).any()):
        raise InputError(
            "dead reckoning is fitted to recorded position and view, and the second half of these poses is no unit "
            "vector: name the position first, --pose agent_pos agent_dir"
        )


def last(done: Tensor, count: int) -> Tensor:
    """Features (B, T + K - 1, F) -> those of the last K = `count` actions at each of T frames, (B, T, F * K), for each
    feature the oldest first.
    """
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


def since(places: Tensor, end: Tensor) -> Tensor:
    """Where places (B, T, 4 or more) at frame `end` (B,) lie as seen from frame 0, (B, 3)."""
    row = torch.arange(len(places), device=places.device)
    return turned(places[row, end, :3] - places[:, 0, :3], -places[:, 0, 3])
