"""What a world model remembers at frames of recorded episodes, all read from the first frame on."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from lssvwm.worldmodel.episodes import Clips
from lssvwm.worldmodel.layers.memory import Memory
from lssvwm.worldmodel.model import WorldModel

SHORTEST = 16
"""Frames between two snapshots, at least."""
INDEX_BYTES = 1 << 30
"""Room for the snapshots of all episodes."""


class Known(NamedTuple):
    """What was made of one past."""

    features: Tensor  # (1, F), of its last frame
    memory: Memory  # of one row


class MemoryIndex:
    """Memory at any frame of episodes of `lengths` frames, for dreams that begin there.

    A past is read in segments of `every` frames, and the memory between two segments is kept: so an episode is read
    once, and after that `every / 2` frames for each beginning, on average. `every` is as small as lets the snapshots of
    all episodes fit into `room` bytes, unless they grow (attention over all frames): then what comes when the room is
    full is not kept, and read again each time. Pasts are read one by one and always in the same segments: what is known
    of a frame does not depend on what was asked before, bit for bit.

    The weights of `model` must stay as they are.
    """

    def __init__(self, model: WorldModel, lengths: NDArray[np.int64], *, room: int = INDEX_BYTES) -> None:
        self.model = model
        self.every = max(SHORTEST, -(-int(lengths.sum()) * model.empty(1).nbytes // room))
        self.kept: dict[tuple[str, int], Memory] = {}
        self.left = room  # bytes

    def at_end(self, name: str, past: Clips) -> Known:
        """What is known after all frames of `past`, (1, t + 1, ...): those of the episode `name` from the first on."""
        frames = past.frames.shape[1]
        # The last frame is read anew, for its features.
        read = max(at for at in range(0, frames, self.every) if at == 0 or (name, at) in self.kept)
        memory = self.kept.get((name, read))
        while True:
            end = min(read + self.every, frames)
            part = past.span(slice(read, end))
            seen, memory = self.model.observe(part.frames, part.actions, memory, **part.goals)
            if end % self.every == 0 and (name, end) not in self.kept and memory.nbytes <= self.left:
                self.kept[name, end] = memory
                self.left -= memory.nbytes
            if end == frames:
                return Known(seen.features[:, -1], memory)
            read = end
