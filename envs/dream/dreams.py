"""N dreams: what they remember and show, how they begin and go on. Of Gymnasium they know nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lssvwm.envs.dream.options import DreamOptions
from lssvwm.envs.dream.seeding import Chance
from lssvwm.envs.dream.starts import Start, Starts, Told, telling
from lssvwm.envs.dream.state import DreamState
from lssvwm.envs.dream.world import World
from lssvwm.worldmodel.episodes import NO_ACTION, Clips
from lssvwm.worldmodel.told import told_apart
from lssvwm.worldmodel.uncertainty import UncertaintyPenalty, uncertainty

Rows = NDArray[np.bool_]
"""Some of N rows, bool (N,)."""


class Dreamt(NamedTuple):
    """What a step told of every row, (N,) float64 on the device; zeros for rows that did not go on."""

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
        self.starts = Starts(world.store, options)
        self.chance = Chance(rows, world.device)
        self.memory = world.model.empty(rows)
        self.frame = torch.zeros(rows, config.height, config.width, 3, dtype=torch.uint8, device=world.device)
        self.features = torch.zeros(rows, config.features, device=world.device)
        self.clock: NDArray[np.int64] = np.zeros(rows, np.int64)
        self.done: Rows = np.zeros(rows, bool)
        self.goals: dict[str, NDArray[Any]] = {}
        """What every row is told, by key, (N,) or (N, ...): it stays the same through a dream."""

    @property
    def begun(self) -> bool:
        """Whether every row has a dream."""
        return self.chance.seeded

    @torch.no_grad()
    def begin(
        self,
        rows: Rows,
        *,
        stagger: bool = False,
        asked: Mapping[int, Start] | None = None,
        told: Mapping[int, Told] | None = None,
    ) -> list[Clips]:
        """Start new dreams in `rows`, where `asked` says for some of them; returns their n contexts, (1, C, ...) each.

        Rows in `told` are told that instead of what was recorded, from the first frame of their contexts on.
        Windows of one length are observed in one pass, whole pasts one by one.
        """
        numbers = np.flatnonzero(rows)
        clock = np.zeros(len(numbers), np.int64)
        if stagger and self.options.max_episode_steps is not None:
            clock = (self.chance.phase(numbers) * self.options.max_episode_steps).astype(np.int64)
        given = asked or {}
        drawn = iter(self.starts.take(self.chance.upcoming(np.array([n for n in numbers if n not in given], np.int64))))
        starts = [given[number] if number in given else next(drawn) for number in numbers.tolist()]
        if told:
            parts = self.world.model.config.told
            starts = [
                telling(start, told.get(int(number), {}), parts) for number, start in zip(numbers, starts, strict=True)
            ]
        self.chance.begin(numbers)
        self.starts.expect(self.chance.upcoming(np.arange(len(rows))))
        self.observe(numbers, starts)
        self.clock, self.done = self.clock.copy(), self.done & ~rows
        self.clock[numbers] = clock
        return [start.clips for start in starts]

    def observe(self, numbers: NDArray[np.int64], starts: Sequence[Start]) -> None:
        """Let the rows at index `numbers` have read what their dreams begin with."""
        together: dict[Any, list[int]] = {}
        for i, start in enumerate(starts):
            together.setdefault(start.clips.frames.shape[1] if start.episode is None else -i - 1, []).append(i)
        for which in together.values():
            clips = Clips.cat([starts[i].clips for i in which]).to(self.world.device)
            if (name := starts[which[0]].episode) is None:
                seen, memory = self.world.model.observe(clips.frames, clips.actions, **clips.goals)
                features = seen.features[:, -1]
            else:
                features, memory = self.world.index.at_end(name, clips)
            index = torch.as_tensor(numbers[which], device=self.world.device)
            self.memory = self.memory.put(index, memory)
            self.frame = self.frame.index_copy(0, index, clips.frames[:, -1])
            self.features = self.features.index_copy(0, index, features.float())
        self._tell()

    def _tell(self) -> None:
        if self.memory.told is not None:
            self.goals = told_apart(self.memory.told.cpu().numpy(), self.world.model.config.told)

    @torch.no_grad()
    def advance(self, actions: Tensor, live: Rows) -> Dreamt:
        """Dream one frame further under actions (N,) or (N, A) in the rows of `live`; the others stay as they are."""
        # Told that some rows rest, the model waits for the device to say which: not where all go on.
        active = None if live.all() else torch.as_tensor(live, device=self.world.device)
        sampler, before, noise = self.world.sampler, self.memory, self.chance.noise
        # Other draws look at the memory of before once more.
        in_place = self.options.uncertainty != "draws" and not self.pessimism.looks_back
        imagined = sampler.imagine(actions, before, generator=noise, active=active, in_place=in_place)
        reward = self.pessimism.reward(sampler, actions, before, imagined, noise, active=active)
        doubt = None
        if self.options.uncertainty != "none":
            kind = self.options.uncertainty
            doubt = uncertainty(kind, sampler, actions, before, imagined, noise, active=active)

        def kept(new: Tensor, old: Tensor | float) -> Tensor:
            return new if active is None else torch.where(active.view(-1, *[1] * (new.ndim - 1)), new, old)

        self.memory = imagined.memory
        self.frame = kept(imagined.frame, self.frame)
        self.features = kept(imagined.features.float(), self.features)
        self.clock = self.clock + live
        return Dreamt(kept(reward.double(), 0.0), kept(imagined.termination.double(), 0.0), doubt)

    def state(self, rows: Tensor) -> DreamState:
        """All that decides how the dreams at index `rows` go on."""
        tensors = {name: tensor[rows.to(tensor.device)] for name, tensor in self._own().items()}
        memory = self.memory.select(rows.to(self.world.device)).state_dict()
        tensors |= {f"memory.{name}": tensor for name, tensor in memory.items()}
        return DreamState(tensors, {**self.world.origin, **self.options.decisive})

    def _own(self) -> dict[str, Tensor]:
        return {
            "frame": self.frame,
            "features": self.features,
            "clock": torch.from_numpy(self.clock),
            "done": torch.from_numpy(self.done),
            **{f"chance.{name}": tensor for name, tensor in self.chance.state_dict().items()},
        }

    def load_state(self, state: DreamState) -> None:
        """Go on from `state`, which must be of as many rows, this world and these options."""
        rows, device = len(self.done), self.world.device
        empty = self.world.model.empty(rows)
        mine = {f"memory.{name}": tensor for name, tensor in empty.state_dict().items()}
        state.check({**self.world.origin, **self.options.decisive}, self._own() | mine)
        self.chance.check(state.under("chance."))
        memory = {name: tensor.to(device, copy=True) for name, tensor in state.under("memory.").items()}
        self.memory = empty.load_state_dict(memory)
        self._tell()
        self.frame, self.features = state.tensors["frame"].to(device), state.tensors["features"].to(device)
        self.clock, self.done = state.tensors["clock"].numpy(), state.tensors["done"].numpy()
        self.chance.load_state_dict(state.under("chance."))
        self.starts.expect(self.chance.upcoming(np.arange(rows)))


def padded(clips: Sequence[Clips]) -> Clips:
    """Clips of one row each as one batch; shorter ones have frames without a mask in front, with no action."""
    longest = max(each.mask.shape[1] for each in clips)

    def filled(part: Tensor, value: float) -> Tensor:
        front = (*part.shape[:1], longest - part.shape[1], *part.shape[2:])
        return torch.cat([part.new_full(front, value), part], 1)

    return Clips.cat(
        [
            Clips(
                filled(each.frames, 0),
                filled(each.actions, torch.nan if each.actions.is_floating_point() else NO_ACTION),
                filled(each.rewards, 0),
                filled(each.terminated, False),
                filled(each.mask, False),
                told=None if each.told is None else filled(each.told, 0),
            )
            for each in clips
        ]
    )
