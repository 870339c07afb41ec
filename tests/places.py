"""A world of numbered places, each with a look of its own, and a model that remembers exactly which it has seen."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lssvwm.worldmodel.checkpoint import save_checkpoint
from lssvwm.worldmodel.episodes import NO_ACTION, Clips, Episode, EpisodeStore
from lssvwm.worldmodel.layers.memory import Memory
from lssvwm.worldmodel.model import Features, Imagined, WorldModel
from lssvwm.worldmodel.told import ToldPart
from worlds import random_frames, small_config

PLACES = 32
LOOKS = random_frames(small_config(), PLACES, source=torch.Generator().manual_seed(7))
"""What each place looks like, (32, 16, 8, 3) uint8."""


def walk(*paths: list[int], masked: int = 0) -> Clips:
    """Clips of walks through places: frames are their looks, poses their numbers, rewards 10 + t, actions t % 3.

    The last `masked` frames of every clip do not exist.
    """
    places = torch.tensor(paths)
    rows, frames = places.shape
    time = torch.arange(frames).expand(rows, -1)
    mask = time < frames - masked
    return Clips(
        frames=LOOKS[places] * mask[..., None, None, None],
        actions=torch.where(time > 0, time % 3, NO_ACTION),
        rewards=torch.where(time > 0, 10.0 + time, 0.0) * mask,
        terminated=time == frames - masked - 1,
        mask=mask,
        pose=places[..., None].float() * mask[..., None],
    )


@dataclass(frozen=True)
class RememberedConfig:
    chunk: int = 1
    pose_size: int = 1
    told: tuple[ToldPart, ...] = ()


class Remembered:
    """Shows the place that the pose names if it has been there before, and black otherwise.

    Memory: a bit per place, in `frames`. Reward 0.5, termination probability 0.25, features: the place.
    """

    device = torch.device("cpu")

    def __init__(self, chunk: int = 1, pose_size: int = 1) -> None:
        self.config = RememberedConfig(chunk, pose_size)
        self.shown: list[int] = []

    def empty(self, rows: int) -> Memory:
        return Memory((), torch.zeros(rows, dtype=torch.int64))

    def observe(
        self, frames: Tensor, actions: Tensor, memory: Memory | None = None, *, pose: Tensor | None = None
    ) -> tuple[Features, Memory]:
        places = (frames[:, :, None] == LOOKS).all((-1, -2, -3)).long().argmax(-1)  # (B, T)
        self.shown.append(frames.shape[1])
        seen = (memory or self.empty(len(frames))).frames
        for place in places.unbind(1):
            seen = seen | (1 << place)
        figures = torch.full(places.shape, 0.5)
        return Features(places[..., None].float(), figures, figures / 2, places[..., None].float()), Memory((), seen)

    def imagine(self, actions: Tensor, memory: Memory, *, pose: Tensor, **settings: Any) -> Imagined:
        many = self.config.chunk > 1
        places = (pose if many else pose[:, None])[..., 0].long()
        known = ((memory.frames[:, None] >> places) & 1).bool()
        frames = torch.where(known[..., None, None, None], LOOKS[places], 0).to(torch.uint8)
        figures = torch.full(places.shape, 0.5)
        parts = (frames, figures, figures / 2, places[..., None].float())
        return Imagined(*(part if many else part[:, 0] for part in parts), memory)


def places_store(root: Path, episodes: int = 6, frames: int = 30) -> EpisodeStore:
    """Random walks of `frames` frames between neighbouring places, with the extras that memory is probed for.

    `place` (T + 1, 1) float: where the agent is; `colors` (T + 1, 2) uint8: whether that place is brighter than the
    middle, twice; `home` () int64: a number of the episode that no frame shows.
    """
    store = EpisodeStore(root, create=True)
    for number in range(episodes):
        generator = np.random.default_rng(number)
        actions = generator.integers(3, size=frames)
        places = np.cumsum(actions - 1) % PLACES
        last = np.arange(frames) == frames - 1
        bright = LOOKS[places].float().mean((1, 2, 3)).numpy() > LOOKS.float().mean().item()
        episode = Episode(
            image=LOOKS[places].numpy(),
            action=np.where(np.arange(frames) > 0, actions, NO_ACTION).astype(np.int64),
            reward=np.where(np.arange(frames) > 0, actions == 2, 0).astype(np.float32),
            terminated=last & (number % 2 == 0),
            truncated=last & (number % 2 == 1),
            extras={
                "place": places[:, None].astype(np.float64),
                "colors": np.stack([bright, ~bright], 1).astype(np.uint8),
                "home": np.array(generator.integers(2)),
                "name": np.array("somewhere"),
            },
        )
        store.append(episode)
    return store


def places_checkpoint(folder: Path, store: EpisodeStore, seed: int = 0, **changes: Any) -> WorldModel:
    """An untrained model of this world in `folder`, with its tokenizer fitted."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = WorldModel(small_config(**changes)).eval()
    model.tokenizer.fit(LOOKS)
    save_checkpoint(folder, model, world={"episodes": str(store.root)}, step=0)
    return model
