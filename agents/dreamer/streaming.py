"""Where dreams begin: rows that read on through whole recorded episodes, or windows of them read from nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lssvwm.worldmodel.episodes import Clips
from lssvwm.worldmodel.layers.memory import Memory
from lssvwm.worldmodel.model import WorldModel

SEGMENT = 64
"""Frames of a row that are observed at once where it catches up."""
LARGEST_SAVED = 4 << 30
"""Bytes of memory that go into a snapshot; where there are more, the readers read again when it is taken up."""


class ContextSource(Protocol):
    """Where the real beginnings of dreams come from; `EpisodeStore` is one."""

    @property
    def names(self) -> tuple[str, ...]:
        """One for each episode, for good."""
        ...

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Frames of each episode, in the order of `names`; at least 2."""
        ...

    def gather(self, rows: NDArray[np.int64], starts: NDArray[np.int64], length: int) -> Clips:
        """The windows of `length` frames that begin at frame `starts` (B,) of the episodes at index `rows` (B,)."""
        ...

    def sample_contexts(self, batch: int, length: int, generator: np.random.Generator, *, start: Any = "any") -> Clips:
        """Draw `batch` windows of `length` frames after which the episode went on."""
        ...


@dataclass(frozen=True)
class Past:
    """The real frames that B rows have read last, L at most, the newest in entry L - 1; shorter rows begin later.

    The episode went on after all of them; what came next is `beyond`.
    """

    features: Tensor  # (B, L, F)
    rewards: Tensor  # (B, L), came with these frames
    mask: Tensor  # (B, L) bool, False before a row's first one
    beyond: Tensor  # (B,) reward of the next frame
    ended: Tensor  # (B,) bool, whether the episode terminated in the next frame

    @property
    def largest_reward(self) -> Tensor:
        """Of all that came with these frames and the next ones, by absolute value, ()."""
        return torch.maximum((self.rewards * self.mask).abs().max(), self.beyond.abs().max())


class Contexts(NamedTuple):
    """Where B dreams begin: the memory is theirs to use up."""

    past: Past
    memory: Memory


class WindowContexts:
    """Windows of 1 to `longest` frames, each read from empty memory: who begins there knows nothing of what was before.

    A share `episode_start` of the batches begins with an episode. Windows are as long as the longest episode allows.
    """

    def __init__(self, source: ContextSource, rows: int, longest: int, episode_start: float) -> None:
        self.source, self.rows, self.longest, self.episode_start = source, rows, longest, episode_start

    def next(self, model: WorldModel, generator: np.random.Generator) -> Contexts:
        """Draw windows and let `model` observe them."""
        length = int(generator.integers(1, min(self.longest, int(self.source.lengths.max()) - 1) + 1))
        start = "episode" if generator.random() < self.episode_start else "any"
        clips = self.source.sample_contexts(self.rows, length, generator, start=start).to(model.device)
        seen, memory = model.observe(clips.frames, clips.actions, **clips.goals)
        unknown = torch.zeros(self.rows, device=model.device)
        return Contexts(Past(seen.features, clips.rewards, clips.mask, unknown, unknown.bool()), memory)

    def enter(self, model: WorldModel) -> None:
        """Nothing is kept that another world model has made."""

    @contextmanager
    def rewinding(self) -> Iterator[None]:
        """Nothing is kept that would have to be put back."""
        yield

    def state_dict(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any], model: WorldModel) -> None:
        """Nothing to take up."""


@dataclass(frozen=True)
class Reading:
    """Where every reader stands: in which episode, how many of its frames it has read, and what it remembers."""

    episodes: tuple[str, ...]
    positions: NDArray[np.int64]
    memory: Memory | None
    """None: the frames before have to be read (again) first."""


class StreamingContexts:
    """`rows` readers. For every batch each reads on, and its dream forks from the memory of all that it has read.

    A batch draws a number from 1 to `longest`, by which all readers move on, so that dreams begin at every frame after
    which an episode goes on equally often, however long the episodes are. Who comes to an end goes on in an episode
    drawn at random, from empty memory, and with as many frames as were left to read. Readers begin anywhere, so a
    batch holds early and late frames; for that they read what comes before once, half an episode each on average.

    Besides, the first `round(episode_start * rows)` rows begin a new episode with every batch and read 1 to `longest`
    of its first frames: where real play begins, and where a reader of long episodes seldom is.

    Memory is of one world model. In another one (`enter`), and in one that has learned more, all readers read their
    episodes again up to where they stand: that costs as much as the beginning, and keeps what dreams are begun from.
    """

    def __init__(self, source: ContextSource, rows: int, longest: int, episode_start: float) -> None:
        self.source, self.rows, self.longest = source, rows, longest
        self.beginners = round(episode_start * rows)
        self.reading: Reading | None = None
        self.world = ""

    def next(self, model: WorldModel, generator: np.random.Generator) -> Contexts:
        """Let every row read on; whatever the store has become since, its episodes are found by name."""
        names, lengths = self.source.names, self.source.lengths
        index = {name: i for i, name in enumerate(names)}
        before = self.reading or self._anywhere(generator)
        memory = self._caught_up(model, before, index)
        length = int(generator.integers(1, self.longest + 1))
        episodes = np.array([index.get(name, -1) for name in before.episodes])
        begins, counts = before.positions.copy(), np.full(self.rows, length)
        for row in range(self.rows):
            goes_on = row >= self.beginners and episodes[row] >= 0
            left = lengths[episodes[row]] - 1 - begins[row] if goes_on else 0
            while counts[row] > left:
                counts[row] -= left
                episodes[row], begins[row] = generator.integers(len(names)), 0
                left = lengths[episodes[row]] - 1
        if len(fresh := np.flatnonzero(begins == 0)):
            memory = memory.put(torch.from_numpy(fresh).to(model.device), model.empty(len(fresh)))
        past, memory = read_on(model, self.source, episodes, begins, counts, memory)
        self.reading = Reading(tuple(names[i] for i in episodes), begins + counts, memory)
        return Contexts(past, memory.clone())

    def enter(self, model: WorldModel) -> None:
        """Dream in `model` from now on: memory that other weights have made is thrown away."""
        world = fingerprint(model)
        if self.reading is not None and world != self.world:
            self.reading = replace(self.reading, memory=None)
        self.world = world

    @contextmanager
    def rewinding(self) -> Iterator[None]:
        """Put the readers back to where they were if what is inside fails, so that it can be done again."""
        before = self.reading
        try:
            yield
        except BaseException:
            self.reading = before
            raise

    def state_dict(self) -> dict[str, Any]:
        """Where the readers stand, as plain values and tensors; with their memory, unless that is too large."""
        if (reading := self.reading) is None:
            return {}
        memory = reading.memory
        kept = memory is not None and memory.nbytes <= LARGEST_SAVED
        return {
            "world": self.world,
            "episodes": list(reading.episodes),
            "positions": reading.positions.tolist(),
            "memory": memory.state_dict() if memory is not None and kept else None,
        }

    def load_state_dict(self, state: Mapping[str, Any], model: WorldModel) -> None:
        """Go on from `state_dict()`: with the same weights exactly, with others after reading again."""
        if not state:
            return
        self.world, memory = fingerprint(model), None
        if state["memory"] is not None and state["world"] == self.world:
            memory = model.empty(self.rows).load_state_dict(state["memory"])
        self.reading = Reading(tuple(state["episodes"]), np.array(state["positions"], np.int64), memory)

    def _anywhere(self, generator: np.random.Generator) -> Reading:
        """Readers before frames that are drawn evenly from all of those after which an episode goes on."""
        names, ends = self.source.names, np.cumsum(self.source.lengths - 1)
        drawn = generator.integers(ends[-1], size=self.rows)
        episodes = np.searchsorted(ends, drawn, side="right")
        positions = drawn - (ends[episodes] - (self.source.lengths[episodes] - 1))
        positions[: self.beginners] = 0
        return Reading(tuple(names[i] for i in episodes), positions, None)

    def _caught_up(self, model: WorldModel, reading: Reading, index: Mapping[str, int]) -> Memory:
        """What the readers remember, read again where that is not known."""
        if reading.memory is not None:
            return reading.memory
        memory, done = model.empty(self.rows), np.zeros(self.rows, np.int64)
        episodes = np.array([index.get(name, -1) for name in reading.episodes])
        # Beginners need none of theirs, and of an episode that is gone there is nothing to read.
        wanted = np.where((episodes >= 0) & (np.arange(self.rows) >= self.beginners), reading.positions, 0)
        while (counts := np.minimum(wanted - done, SEGMENT)).any():
            _, memory = read_on(model, self.source, episodes, done, counts, memory)
            done = done + counts
        return memory


def read_on(
    model: WorldModel,
    source: ContextSource,
    episodes: NDArray[np.int64],
    begins: NDArray[np.int64],
    counts: NDArray[np.int64],
    memory: Memory,
) -> tuple[Past, Memory]:
    """Let row b observe `counts[b]` frames of the episode at index `episodes[b]` from frame `begins[b]` on, all (B,).

    Rows of equal counts are observed together; those of count 0 keep their memory. Each row's next frame must exist.
    """
    rows, longest, device = len(counts), int(counts.max()), model.device
    past = Past(
        features=torch.zeros(rows, longest, model.config.features, device=device),
        rewards=torch.zeros(rows, longest, device=device),
        mask=torch.zeros(rows, longest, dtype=torch.bool, device=device),
        beyond=torch.zeros(rows, device=device),
        ended=torch.zeros(rows, dtype=torch.bool, device=device),
    )
    for count in np.unique(counts[counts > 0]).tolist():
        chosen = np.flatnonzero(counts == count)
        at = torch.from_numpy(chosen).to(device)
        clips = source.gather(episodes[chosen], begins[chosen], count + 1).to(device)
        all_rows = len(chosen) == rows
        before = memory if all_rows else memory.select(at)
        shown = clips.span(slice(count))
        seen, after = model.observe(shown.frames, shown.actions, before, **shown.goals)
        memory = after if all_rows else memory.put(at, after)
        past.features[at, longest - count :] = seen.features.to(past.features)
        past.rewards[at, longest - count :] = clips.rewards[:, :count]
        past.mask[at, longest - count :] = True
        past.beyond[at], past.ended[at] = clips.rewards[:, count], clips.terminated[:, count]
    return past, memory


def fingerprint(model: WorldModel) -> str:
    """A hash of the weights: memory is of use only to the weights that made it."""
    found = hashlib.blake2b(digest_size=16)
    for name, tensor in model.state_dict().items():
        found.update(name.encode())
        found.update(tensor.detach().cpu().flatten().view(torch.uint8).numpy())
    return found.hexdigest()
