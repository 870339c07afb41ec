"""What a dream gives back: observations, and infos in the form of Gymnasium's vector environments, `key` and `_key`.

All of it belongs to the caller: it shares no storage with what was dreamt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lssvwm.envs.dream.dreams import Prediction, RowMask
from lssvwm.envs.dream.options import Observation, Output
from lssvwm.worldmodel.config import WorldModelConfig
from lssvwm.worldmodel.episodes import NO_ACTION, Clips


@dataclass(frozen=True)
class OutputFormat:
    """Frames, features or both of N rows, as fresh arrays or tensors."""

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

    def final_obs(self, observations: Any, rows: RowMask) -> Any:
        """Gymnasium's form of `final_obs`: an object array with the observation of each of `rows`, None elsewhere.

        Tensors stay one batch: rows of objects would make their reader wait for the device once per row.
        """
        if self.output == "torch":
            return observations
        final = np.full(len(rows), None, dtype=object)
        for row in np.flatnonzero(rows):
            if isinstance(observations, dict):
                final[row] = {key: part[row].copy() for key, part in observations.items()}
            else:
                final[row] = observations[row].copy()
        return final


def step_info(form: OutputFormat, prediction: Prediction, rows: RowMask) -> dict[str, Any]:
    """What the heads said of a step of `rows`."""
    said = {"termination_probability": prediction.termination, "uncertainty": prediction.uncertainty}
    return _masked({name: form.array(values) for name, values in said.items() if values is not None}, rows)


def told_info(form: OutputFormat, told: Mapping[str, NDArray[Any]], rows: RowMask) -> dict[str, Any]:
    """What `rows` are told, under the keys of the real environment; texts are an array of objects."""
    arrays = {key: part.copy() if part.dtype == object else form.array(part) for key, part in told.items()}
    return _masked(arrays, rows)


def final_info(
    form: OutputFormat, prediction: Prediction, finished: RowMask, observation: Any, told: Mapping[str, NDArray[Any]]
) -> dict[str, Any]:
    """Gymnasium's record of rows that are about to begin anew within the step."""
    info = step_info(form, prediction, finished) | told_info(form, told, finished)
    return _masked({"final_obs": form.final_obs(observation, finished), "final_info": info}, finished)


def context_info(form: OutputFormat, begun: Sequence[Clips], rows: RowMask) -> dict[str, Any]:
    """The contexts `begun`, (1, C, ...) for each of `rows`, spread over all N, and how many of the C frames are a row's
    own: shorter ones stand at the end."""
    contexts = _padded(begun).to(form.device)
    index = torch.as_tensor(np.flatnonzero(rows), device=contexts.frames.device)

    def spread(part: Tensor) -> Tensor:
        return part.new_zeros(len(rows), *part.shape[1:]).index_copy_(0, index, part)

    arrays = {
        "context_frames": form.frames(spread(contexts.frames)),
        "context_actions": form.array(spread(contexts.actions)),
        "context_length": form.array(spread(contexts.mask.sum(1))),
    }
    return _masked(arrays, rows)


def _padded(clips: Sequence[Clips]) -> Clips:
    """Clips of one row each as one batch (n, C, ...); shorter ones have frames without mask or action in front."""
    longest = max(each.mask.shape[1] for each in clips)

    def pad(part: Tensor, value: float) -> Tensor:
        front = (*part.shape[:1], longest - part.shape[1], *part.shape[2:])
        return torch.cat([part.new_full(front, value), part], 1)

    return Clips.cat(
        [
            Clips(
                pad(each.frames, 0),
                pad(each.actions, torch.nan if each.actions.is_floating_point() else NO_ACTION),
                pad(each.rewards, 0),
                pad(each.terminated, False),
                pad(each.mask, False),
                told=None if each.told is None else pad(each.told, 0),
            )
            for each in clips
        ]
    )


def _masked(entries: Mapping[str, Any], rows: RowMask) -> dict[str, Any]:
    """Each entry with a mask `_key` of its own, in Gymnasium's order."""
    return {name: value for key, entry in entries.items() for name, value in ((key, entry), (f"_{key}", rows.copy()))}
