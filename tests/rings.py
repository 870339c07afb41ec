"""A ring of places: actions turn it, and toy models that know, ignore or forget how. What they are worth is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lssvwm.worldmodel.actions import ActionPart
from lssvwm.worldmodel.checkpoint import Checkpoint
from lssvwm.worldmodel.episodes import NO_ACTION, Episode, EpisodeStore
from lssvwm.worldmodel.evaluation.models import Model
from lssvwm.worldmodel.layers.memory import Memory
from lssvwm.worldmodel.model import Features, Imagined
from lssvwm.worldmodel.told import ToldPart
from places import LOOKS, PLACES

MOVES = torch.tensor([3, 1, -1])
"""Places by which each action moves on."""
CAP = 10 * np.log10(255**2 / 1e-3)
NOWHERE = 63


def ring_episode(actions: Sequence[int], start: int = 0, *, wall: int | None = None) -> Episode:
    """Frames of a walk; at place `wall` action 1 does nothing."""
    places = [start]
    for action in actions:
        stuck = places[-1] == wall and action == 1
        places.append(places[-1] if stuck else (places[-1] + int(MOVES[action])) % PLACES)
    return of_places(places, actions)


def of_places(places: Sequence[int], actions: Sequence[int] | None = None, **extras: Any) -> Episode:
    """An episode that shows these places; without actions it is a video."""
    frames = len(places)
    action = np.full(frames, NO_ACTION, np.int64)
    if actions is not None:
        action[1:] = actions
    return Episode(
        image=LOOKS[torch.tensor(list(places))].numpy(),
        action=action,
        reward=np.zeros(frames, np.float32),
        terminated=np.zeros(frames, np.bool_),
        truncated=np.arange(frames) == frames - 1,
        extras={"place": np.array(places, np.float64)[:, None], **extras},
    )


def ring_store(root: Path, *episodes: Episode, pose: Sequence[str] = ()) -> EpisodeStore:
    store = EpisodeStore(root, create=True, pose=pose)
    for episode in episodes:
        store.append(episode)
    return store


def as_model(world: Any, store: EpisodeStore, name: str = "toy") -> Model:
    return Model(name, Checkpoint(world, {}, 0, Path()), store)


def error(one: int, other: int) -> float:
    """Mean squared error between the looks of two places."""
    return float((LOOKS[one].double() - LOOKS[other].double()).square().mean())


def decibels(one: int, other: int) -> float:
    return float(10 * np.log10(255**2 / max(error(one, other), 1e-3)))


def places_of(frames: Tensor) -> Tensor:
    """Places that frames (..., h, w, 3) show; NOWHERE for anything else."""
    same = (frames[..., None, :, :, :] == LOOKS).all((-1, -2, -3))
    return torch.where(same.any(-1), same.long().argmax(-1), NOWHERE)


@dataclass(frozen=True)
class RingConfig:
    num_actions: int = 3
    action_size: int = 0
    action_parts: tuple[ActionPart, ...] = ()
    pose_size: int = 0
    chunk: int = 1
    usual_steps: int = 2
    told: tuple[ToldPart, ...] = ()


class Ring:
    """Knows the ring: shows where its action leads from the place it saw last, which is all that it remembers."""

    device = torch.device("cpu")
    config = RingConfig()
    moves = MOVES

    def empty(self, rows: int) -> Memory:
        return Memory((), torch.full((rows,), NOWHERE))

    def observe(self, frames: Tensor, actions: Tensor, memory: Memory | None = None, *, pose: Any = None) -> Any:
        known = (memory or self.empty(len(frames))).frames
        for place in places_of(frames).unbind(1):
            known = self.remembered(known, place)
        return self.told(frames), Memory((), known)

    def remembered(self, known: Tensor, place: Tensor) -> Tensor:
        return place

    def expected(self, known: Tensor, actions: Tensor) -> Tensor:
        return (known + self.moves[actions]) % PLACES

    def imagine(self, actions: Tensor, memory: Memory, *, active: Tensor | None = None, **settings: Any) -> Imagined:
        place = self.expected(memory.frames, actions)
        frames = torch.where((place < PLACES)[:, None, None, None], LOOKS[place % PLACES], 0).to(torch.uint8)
        after = self.remembered(memory.frames, place)
        after = after if active is None else torch.where(active, after, memory.frames)
        told = self.told(frames[:, None])
        return Imagined(frames, told.reward[:, 0], told.termination[:, 0], told.features[:, 0], Memory((), after))

    def told(self, frames: Tensor) -> Features:
        nothing = torch.zeros(frames.shape[:2])
        return Features(nothing[..., None], nothing, nothing, nothing[..., None])


class Still(Ring):
    """Ignores actions: nothing ever moves."""

    moves = torch.zeros(3, dtype=torch.int64)


class Careful(Ring):
    """Goes on by one place whenever the last `trusted` frames it remembers did, and shows black otherwise."""

    trusted = 3

    def empty(self, rows: int) -> Memory:
        return Memory((), torch.zeros(rows, dtype=torch.int64))

    def remembered(self, known: Tensor, place: Tensor) -> Tensor:
        return (known * 128 + place + 1) % 128**self.trusted

    def expected(self, known: Tensor, actions: Tensor) -> Tensor:
        seen = torch.stack([known // 128**k % 128 for k in range(self.trusted)], 1) - 1  # newest first, -1: none
        follows = (seen[:, :-1] == seen[:, 1:] + 1) | (seen[:, 1:] < 0)
        return torch.where(follows.all(1) & (seen[:, 0] < PLACES), seen[:, 0] + 1, NOWHERE)
