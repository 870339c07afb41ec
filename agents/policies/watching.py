"""Whoever plays a real environment with a world model: it sees every frame, and remembers which action led there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lssvwm.envs.policy import FrameArray, IntArray
from lssvwm.worldmodel.layers.conditioning import no_actions
from lssvwm.worldmodel.layers.memory import Memory
from lssvwm.worldmodel.model import WorldModel
from lssvwm.worldmodel.told import told_now


class Watcher:
    """The memory of N rows that play at once, in step with the real frames, and a generator for each of them.

    Frames enter memory by the same pass that commits a frame in a dream, so features mean the same in both.
    """

    def __init__(self, model: WorldModel) -> None:
        self.model = model.eval()
        self.memory: Memory = model.empty(0)
        self.led_here = no_actions(model.config, 0, model.device)
        self.generators: list[np.random.Generator] = []

    def reset(self, rows: IntArray, seeds: IntArray) -> None:
        """Rows that start an episode forget everything; rows that are new are added."""
        self._resize(max(len(self.generators), int(rows.max()) + 1))
        index = torch.as_tensor(rows, device=self.model.device)
        self.memory = self.memory.put(index, self.model.empty(len(rows)))
        nothing = no_actions(self.model.config, len(rows), self.model.device)
        self.led_here = self.led_here.index_copy(0, index, nothing)
        for row, seed in zip(rows.tolist(), seeds.tolist(), strict=True):
            self.generators[row] = np.random.default_rng(seed)

    @torch.no_grad()
    def see(self, frames: FrameArray, info: Mapping[str, Any] | None = None) -> Tensor:
        """Let frames (N, h, w, 3) enter memory, and what `info` says that the model is told; returns features (N, F).

        Raises InputError where `info` lacks that.
        """
        if len(frames) > len(self.generators):
            raise ValueError(f"{len(frames)} frames for {len(self.generators)} rows: reset every row before it acts")
        self._resize(len(frames))
        seen = torch.as_tensor(frames, device=self.model.device)[:, None]
        goals: dict[str, Any] = {}
        if parts := self.model.config.told:
            told = torch.from_numpy(told_now(info or {}, len(frames), parts))
            goals = {"told": told.to(self.model.device)[:, None]}
        features, self.memory = self.model.observe(seen, self.led_here[:, None], self.memory, **goals)
        return features.features[:, 0]

    def took(self, actions: Tensor) -> None:
        """Note what leads to the next frames: actions (N,), or (N, A) where they are continuous."""
        self.led_here = actions.to(self.led_here, copy=True)

    def _resize(self, count: int) -> None:
        """Add rows that have seen nothing, or drop the last ones, left over from play with more rows."""
        kept = min(count, len(self.generators))
        if count == len(self.generators):
            return
        index = torch.arange(kept, device=self.model.device)
        self.memory = self.model.empty(count).put(index, self.memory.select(index))
        nothing = no_actions(self.model.config, count, self.model.device)
        self.led_here = nothing.index_copy(0, index, self.led_here[:kept])
        self.generators = self.generators[:kept] + [np.random.default_rng(0) for _ in range(count - kept)]
