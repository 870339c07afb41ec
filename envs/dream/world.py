"""What all dreams of one checkpoint share: the model, episodes to begin in and its memory of them, and the sampler."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lssvwm.envs.contexts import check_length, check_world, contexts_of
from lssvwm.envs.dream.options import ContextLength
from lssvwm.worldmodel.checkpoint import Checkpoint, device_of, load_checkpoint
from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.episodes import Clips, EpisodeStore
from lssvwm.worldmodel.layers.memory import Memory
from lssvwm.worldmodel.model import WorldModel
from lssvwm.worldmodel.sampling import Sampler, Sampling, choose

MIN_SEGMENT = 16
"""Frames between two snapshots of a prefix cache, at least."""
CACHE_BYTES = 1 << 30
"""Room for the snapshots of all episodes."""


@dataclass(frozen=True, eq=False)
class World:
    """A world model ready to dream on `device`. It is never copied; pickled, it is the path of its checkpoint."""

    checkpoint: Checkpoint
    path: Path | None  # None where the checkpoint was given as an object
    store: EpisodeStore
    sampler: Sampler
    device: torch.device

    @property
    def model(self) -> WorldModel:
        """The model, in evaluation mode."""
        return self.checkpoint.model

    @property
    def fps(self) -> float:
        """Frames per second of the world that was recorded; 10 where nothing told it."""
        return 10 if self.told_fps is None else self.told_fps

    @property
    def told_fps(self) -> float | None:
        """Frames per second of the world that was recorded, None where nothing told it."""
        fps = self.checkpoint.world.get("fps")
        known = isinstance(fps, int | float) and not isinstance(fps, bool) and 0 < fps < float("inf")
        return fps if known else None

    @cached_property
    def prefixes(self) -> PrefixCache:
        """What the model remembers at frames of the episodes; shared by all dreams of this world."""
        return PrefixCache(self.model, self.store.lengths)

    @cached_property
    def origin(self) -> dict[str, Any]:
        """What a snapshot must share with this world to go on in it as it would have, as JSON has it."""
        config = {f"model.{name}": value for name, value in self.model.config.to_dict().items()}
        episodes = json.dumps([self.store.names, self.store.lengths.tolist()])
        told = {
            **config,
            "training step": self.checkpoint.step,
            "episodes": hashlib.blake2b(episodes.encode(), digest_size=8).hexdigest(),
            "device": self.device.type,
            **asdict(self.sampler.sampling),
        }
        return json.loads(json.dumps(told))  # type: ignore[no-any-return]

    def __reduce__(self) -> tuple[Any, ...]:
        """Return how to load the world again; the index of episodes travels, so that contexts stay the same."""
        if self.path is None:
            raise InputError(
                "a dream of a loaded Checkpoint cannot be pickled, since that would copy its weights: make it from the "
                f"folder, checkpoint={str(self.checkpoint.path)!r}"
            )
        return _load, (self.path, self.store, self.sampler.sampling, str(self.device))


class Read(NamedTuple):
    """What a model knows after it has read frames."""

    features: Tensor  # (1, F), of the last frame
    memory: Memory  # of one row


class PrefixCache:
    """Memory after the first frames of episodes of `lengths` frames, for dreams that have read the whole past.

    A past is read in segments of `every` frames, and the memory between two segments is kept: so an episode is read
    once, and after that `every / 2` frames for each context, on average. `every` is as small as lets the snapshots of
    all episodes fit into `room` bytes, unless they grow (attention over all frames): then what comes when the room is
    full is not kept, and read again each time. Pasts are read one by one and always in the same segments: what is known
    of a frame does not depend on what was asked before, bit for bit.

    The weights of `model` must stay as they are.
    """

    def __init__(self, model: WorldModel, lengths: NDArray[np.int64], *, room: int = CACHE_BYTES) -> None:
        self.model = model
        self.every = max(MIN_SEGMENT, -(-int(lengths.sum()) * model.empty(1).nbytes // room))
        self.kept: dict[tuple[str, int], Memory] = {}
        self.left = room  # bytes

    def read(self, episode: str, past: Clips) -> Read:
        """What is known after all frames of `past`, (1, C, ...): the first C of `episode`."""
        frames = past.frames.shape[1]
        # The last frame is read anew, for its features.
        begin = max(at for at in range(0, frames, self.every) if at == 0 or (episode, at) in self.kept)
        memory = self.kept.get((episode, begin))
        while True:
            end = min(begin + self.every, frames)
            part = past.span(slice(begin, end))
            seen, memory = self.model.observe(part.frames, part.actions, memory, **part.goals)
            if end % self.every == 0 and (episode, end) not in self.kept and memory.nbytes <= self.left:
                self.kept[episode, end] = memory
                self.left -= memory.nbytes
            if end == frames:
                return Read(seen.features[:, -1], memory)
            begin = end


def open_world(
    checkpoint: str | Path | Checkpoint,
    contexts: str | Path | None,
    device: str,
    context_length: ContextLength,
    rows: int,
    steps: int | None,
    profile: str | None,
    target_fps: float | None,
) -> World:
    """Load and check everything that `rows` dreams need. Raises InputError for what cannot be dreamed."""
    place = device_of(device)
    given = isinstance(checkpoint, Checkpoint)
    loaded = checkpoint if isinstance(checkpoint, Checkpoint) else load_checkpoint(checkpoint, place)
    path = None if given else loaded.path.resolve()
    model = loaded.model.eval().to(place)
    store = EpisodeStore(contexts_of(loaded) if contexts is None else contexts, told=model.config.told)
    check_world(loaded, store)
    if isinstance(context_length, int):
        check_length(store, context_length)
    sampler = Sampler(model, choose(model, rows, steps=steps, profile=profile, target_fps=target_fps))
    return World(loaded, path, store, sampler, place)


def _load(path: Path, store: EpisodeStore, sampling: Sampling, device: str) -> World:
    place = device_of(device)
    loaded = load_checkpoint(path, place)
    check_world(loaded, store)
    return World(loaded, path, store, Sampler(loaded.model, sampling), place)
