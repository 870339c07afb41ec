"""How a dream is shown: frames, features or both, as arrays or tensors that belong to the caller."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lssvwm.envs.dream.options import Observation, Output
from lssvwm.worldmodel.config import WorldModelConfig


@dataclass(frozen=True)
class View:
    """Observations of N rows from what was dreamt. Whatever it returns shares no storage with what it was given."""

    observation: Observation
    output: Output
    channels_first: bool
    device: torch.device

    def space(self, config: WorldModelConfig) -> gym.Space[Any]:
        """What a row observes: frame (h, w, 3) or (3, h, w) uint8, features (F,) float32, or a dictionary of both."""
        shape = (config.height, config.width, 3)
        parts: dict[str, gym.Space[Any]] = {
            "frame": gym.spaces.Box(0, 255, (shape[2], *shape[:2]) if self.channels_first else shape, np.uint8),
            "features": gym.spaces.Box(-np.inf, np.inf, (config.features,), np.float32),
        }
        return gym.spaces.Dict(parts) if self.observation == "both" else parts[self.observation]

    def observe(self, frame: Tensor, features: Tensor) -> Any:
        """Observations from frames (N, h, w, 3) and features (N, F)."""
        if self.observation == "frame":
            return self.frames(frame)
        if self.observation == "features":
            return self.array(features)
        return {"frame": self.frames(frame), "features": self.array(features)}

    def frames(self, frames: Tensor) -> Any:
        """Frames (..., h, w, 3), with the channels where they were asked for."""
        return self.array(frames.movedim(-1, -3) if self.channels_first else frames)

    def array(self, values: Tensor | NDArray[Any]) -> Any:
        """A fresh array on the host, or a fresh tensor on the device."""
        tensor = torch.as_tensor(values)
        if self.output == "torch":
            return tensor.to(self.device, copy=True, memory_format=torch.contiguous_format)
        return tensor.to("cpu", copy=True, memory_format=torch.contiguous_format).numpy()

    def row_by_row(self, observations: Any, rows: NDArray[np.bool_]) -> Any:
        """Gymnasium's form of `final_obs`: an object array with the observation of each of `rows`, None elsewhere.

        Tensors stay one batch: rows of objects would make their reader wait for the device once per row.
        """
        if self.output == "torch":
            return observations
        apart = np.full(len(rows), None, dtype=object)
        for row in np.flatnonzero(rows):
            if isinstance(observations, dict):
                apart[row] = {key: part[row].copy() for key, part in observations.items()}
            else:
                apart[row] = observations[row].copy()
        return apart
