"""The dream that is played: one row, whose denoising steps and measure of uncertainty may change while it goes on."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import numpy as np
import torch

from lssvwm.envs.dream.contexts import Context
from lssvwm.envs.dream.dreams import Dreams
from lssvwm.envs.dream.options import DreamOptions, UncertaintyKind
from lssvwm.envs.dream.state import DreamState
from lssvwm.envs.dream.world import World
from lssvwm.envs.play.context import PlayContext
from lssvwm.envs.policy import FrameArray
from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.sampling import Sampler

STEPS = (1, 2, 4, 8, 16)
"""Denoising steps to choose from, as far as the model has learned them."""
ENDS_ABOVE = 0.5
"""A dream ends when the termination head says more."""


@dataclass(frozen=True)
class DreamStep:
    """What a step of the dream told."""

    reward: float = 0.0
    termination: float | None = None
    uncertainty: float | None = None
    seconds: float | None = None


class DreamSide:
    """One dream in `world`."""

    def __init__(self, world: World, uncertainty: UncertaintyKind) -> None:
        self._dreams = self._made(world, uncertainty)
        self.last = DreamStep()

    @staticmethod
    def _made(world: World, uncertainty: UncertaintyKind) -> Dreams:
        # Contexts are chosen by whoever plays, not drawn ahead.
        options = DreamOptions(max_episode_steps=None, terminate="never", uncertainty=uncertainty, prefetch=False)
        return Dreams(1, world, options)

    @property
    def world(self) -> World:
        """The model, and how it is sampled now."""
        return self._dreams.world

    @property
    def steps(self) -> int:
        """Denoising steps per frame."""
        return self.world.sampler.sampling.steps

    @property
    def uncertainty(self) -> UncertaintyKind:
        """What is measured."""
        return self._dreams.options.uncertainty

    @property
    def choices(self) -> tuple[int, ...]:
        """The steps that the model can dream with."""
        return tuple(steps for steps in sorted({*STEPS, self.steps}) if self._sampler(steps) is not None)

    @property
    def frame(self) -> FrameArray:
        """The current frame, (h, w, 3)."""
        shown: FrameArray = self._dreams.frame[0].cpu().numpy()
        return shown

    @property
    def read(self) -> int:
        """Frames in memory, real and dreamt."""
        return self._dreams.memory.longest

    def begin(self, context: PlayContext, seed: int) -> None:
        """Read the context; all chance of the dream follows from `seed` and the number of the context."""
        with torch.no_grad():
            self._dreams.observe(np.array([0]), [Context(context.clips, context.episode)])
        self._dreams.generators.seed(0, int(np.random.SeedSequence((seed, context.number)).generate_state(1)[0]))
        self.last = DreamStep()

    def step(self, action: int) -> DreamStep:
        """Dream one frame further."""
        began = time.perf_counter()
        device = self.world.device
        said = self._dreams.advance(torch.tensor([action], device=device), np.ones(1, bool))
        uncertainty = None if said.uncertainty is None else float(said.uncertainty[0])
        reward, ended = float(said.reward[0]), float(said.termination[0])
        self.last = DreamStep(reward, ended, uncertainty, time.perf_counter() - began)
        return self.last

    def get_state(self) -> DreamState:
        """All that decides how the dream goes on, as it is now: dreaming on does not change it."""
        state = self._dreams.state(torch.tensor([0]))
        # The step writes over its memory, and a selection of all rows may share it.
        return DreamState({name: tensor.clone() for name, tensor in state.tensors.items()}, state.origin)

    def set_state(self, state: DreamState) -> None:
        """Go on from `state`, whatever the denoising steps were when it was taken."""
        self._dreams.load_state(replace(state, origin={**state.origin, "steps": self.steps}))

    def change(self, *, steps: int | None = None, uncertainty: UncertaintyKind | None = None) -> None:
        """Go on with other denoising steps, or another measure of uncertainty."""
        sampler = self.world.sampler if steps is None else self._sampler(steps)
        if sampler is None:
            raise InputError(f"steps={steps}: this model dreams with one of {', '.join(map(str, self.choices))}")
        state = self.get_state()
        self._dreams = self._made(replace(self.world, sampler=sampler), uncertainty or self.uncertainty)
        self.set_state(state)

    def _sampler(self, steps: int) -> Sampler | None:
        try:
            return Sampler(self.world.model, replace(self.world.sampler.sampling, steps=steps))
        except InputError:
            return None
