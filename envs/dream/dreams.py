"""N dreams: what they remember and show, how they begin and go on. Of Gymnasium they know nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lssvwm.envs.dream.contexts import Context, ContextLoader, Told, with_told
from lssvwm.envs.dream.options import DreamOptions
from lssvwm.envs.dream.seeding import RowGenerators
from lssvwm.envs.dream.state import DreamState
from lssvwm.envs.dream.world import World
from lssvwm.worldmodel.episodes import Clips
from lssvwm.worldmodel.told import told_apart
from lssvwm.worldmodel.uncertainty import UncertaintyPenalty, uncertainty

RowMask = NDArray[np.bool_]
"""Some of N rows, bool (N,)."""


class ResetRequests(NamedTuple):
    """What the caller of `reset` asks for, by row number."""

    contexts: Mapping[int, Context]
    told: Mapping[int, Told]


NO_REQUESTS = ResetRequests({}, {})


class Prediction(NamedTuple):
    """What the heads said of a step in every row, (N,) float64 on the device; zeros for rows that did not go on."""

    reward: Tensor
    termination: Tensor  # probability
    uncertainty: Tensor | None


class Dreams:
    """The rows of a dream environment.

    Arrays and tensors are replaced as a whole when they change and never written into, so that snapshots share them:
    only the memory is written over.
    """

    def __init__(self, rows: int, world: World, options: DreamOptions) -> None:
        self.world, self.options, config = world, options, world.model.config
        self.pessimism = UncertaintyPenalty(options.pessimism, options.pessimism_over)
        self.contexts = ContextLoader(world.store, options)
        self.generators = RowGenerators(rows, world.device)
        self.memory = world.model.empty(rows)
        self.frame = torch.zeros(rows, config.height, config.width, 3, dtype=torch.uint8, device=world.device)
        self.features = torch.zeros(rows, config.features, device=world.device)
        self.clock: NDArray[np.int64] = np.zeros(rows, np.int64)
        self.done: RowMask = np.zeros(rows, bool)
        self.told: dict[str, NDArray[Any]] = {}
        """What every row is told, by key, (N,) or (N, ...): it stays the same through a dream."""

    @property
    def begun(self) -> bool:
        """Whether every row has a dream."""
        return self.generators.seeded

    @torch.no_grad()
    def begin(self, rows: RowMask, *, stagger: bool = False, requests: ResetRequests = NO_REQUESTS) -> list[Clips]:
        """Start new dreams in `rows`, as `requests` say for some of them; returns their n contexts, (1, C, ...) each.

        Rows that are told something by request are told it from the first frame of their contexts on.
        """
        numbers = np.flatnonzero(rows)
        clock = np.zeros(len(numbers), np.int64)
        if stagger and self.options.max_episode_steps is not None:
            clock = (self.generators.phase(numbers) * self.options.max_episode_steps).astype(np.int64)
        (given, told), parts = requests, self.world.model.config.told
        wanted: list[int] = numbers.tolist()
        drawn = iter(self.contexts.take(self.generators.context_keys([row for row in wanted if row not in given])))
        contexts = [given[row] if row in given else next(drawn) for row in wanted]
        contexts = [with_told(each, told.get(row, {}), parts) for row, each in zip(wanted, contexts, strict=True)]
        self.generators.begin(numbers)
        self.contexts.prefetch(self.generators.context_keys(range(len(rows))))
        self.observe(numbers, contexts)
        self.clock, self.done = self.clock.copy(), self.done & ~rows
        self.clock[numbers] = clock
        return [context.clips for context in contexts]

    def observe(self, numbers: NDArray[np.int64], contexts: Sequence[Context]) -> None:
        """Let the rows at index `numbers` have read their contexts: windows of one length in one pass, whole pasts
        one by one."""
        batches: dict[Any, list[int]] = {}
        for i, context in enumerate(contexts):
            batches.setdefault(context.clips.frames.shape[1] if context.episode is None else -i - 1, []).append(i)
        for batch in batches.values():
            clips = Clips.cat([contexts[i].clips for i in batch]).to(self.world.device)
            if (episode := contexts[batch[0]].episode) is None:
                seen, memory = self.world.model.observe(clips.frames, clips.actions, **clips.goals)
                features = seen.features[:, -1]
            else:
                features, memory = self.world.prefixes.read(episode, clips)
            index = torch.as_tensor(numbers[batch], device=self.world.device)
            self.memory = self.memory.put(index, memory)
            self.frame = self.frame.index_copy(0, index, clips.frames[:, -1])
            self.features = self.features.index_copy(0, index, features.float())
        self._read_told()

    def _read_told(self) -> None:
        if self.memory.told is not None:
            self.told = told_apart(self.memory.told.cpu().numpy(), self.world.model.config.told)

    @torch.no_grad()
    def advance(self, actions: Tensor, live: RowMask) -> Prediction:
        """Dream one frame further under actions (N,) or (N, A) in the rows of `live`; the others stay as they are."""
        # Told that some rows rest, the model waits for the device to say which: not where all go on.
        active = None if live.all() else torch.as_tensor(live, device=self.world.device)
        sampler, before, noise = self.world.sampler, self.memory, self.generators.noise
        # Other draws look at the memory of before once more.
        in_place = self.options.uncertainty != "draws" and not self.pessimism.looks_back
        imagined = sampler.imagine(actions, before, generator=noise, active=active, in_place=in_place)
        reward = self.pessimism.reward(sampler, actions, before, imagined, noise, active=active)
        kind, uncertain = self.options.uncertainty, None
        if kind != "none":
            uncertain = uncertainty(kind, sampler, actions, before, imagined, noise, active=active)

        def kept(new: Tensor, old: Tensor | float) -> Tensor:
            return new if active is None else torch.where(active.view(-1, *[1] * (new.ndim - 1)), new, old)

        self.memory = imagined.memory
        self.frame = kept(imagined.frame, self.frame)
        self.features = kept(imagined.features.float(), self.features)
        self.clock = self.clock + live
        return Prediction(kept(reward.double(), 0.0), kept(imagined.termination.double(), 0.0), uncertain)

    def state(self, rows: Tensor) -> DreamState:
        """All that decides how the dreams at index `rows` go on."""
        tensors = {name: tensor[rows.to(tensor.device)] for name, tensor in self._tensors().items()}
        memory = self.memory.select(rows.to(self.world.device)).state_dict()
        tensors |= {f"memory.{name}": tensor for name, tensor in memory.items()}
        return DreamState(tensors, {**self.world.origin, **self.options.decisive})

    def _tensors(self) -> dict[str, Tensor]:
        return {
            "frame": self.frame,
            "features": self.features,
            "clock": torch.from_numpy(self.clock),
            "done": torch.from_numpy(self.done),
            **{f"chance.{name}": tensor for name, tensor in self.generators.state_dict().items()},
        }

    def load_state(self, state: DreamState) -> None:
        """Go on from `state`, which must be of as many rows, this world and these options."""
        rows, device = len(self.done), self.world.device
        empty = self.world.model.empty(rows)
        mine = {f"memory.{name}": tensor for name, tensor in empty.state_dict().items()}
        state.check({**self.world.origin, **self.options.decisive}, self._tensors() | mine)
        self.generators.check(state.under("chance."))
        memory = {name: tensor.to(device, copy=True) for name, tensor in state.under("memory.").items()}
        self.memory = empty.load_state_dict(memory)
        self._read_told()
        self.frame, self.features = state.tensors["frame"].to(device), state.tensors["features"].to(device)
        self.clock, self.done = state.tensors["clock"].numpy(), state.tensors["done"].numpy()
        self.generators.load_state_dict(state.under("chance."))
        self.contexts.prefetch(self.generators.context_keys(range(rows)))
