"""DreamEnv: one dream as a plain environment of Gymnasium."""

from __future__ import annotations

import string
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode

from lssvwm.envs.dream.options import RENDER_MODES, ContextLength, ContextStart, Observation, Terminate, UncertaintyKind
from lssvwm.envs.dream.state import DreamState
from lssvwm.envs.dream.validation import TOLD
from lssvwm.envs.dream.vector import DreamVectorEnv
from lssvwm.envs.policy import FrameArray
from lssvwm.worldmodel.checkpoint import Checkpoint
from lssvwm.worldmodel.common.errors import InputError

KEYS = string.digits + string.ascii_lowercase


class DreamEnv(gym.Env[Any, Any]):
    """One dream, by the options of `DreamVectorEnv` that concern a single row.

    Its horizon is the time limit that `gymnasium.make` puts around it; on its own it truncates nothing but what
    `truncate_above` does. `gymnasium.utils.play` plays it: keys 0, 1, ..., 9, a, b, ... are the actions.
    """

    metadata: dict[str, Any] = {"render_modes": list(RENDER_MODES), "render_fps": 10}  # noqa: RUF012

    def __init__(
        self,
        *,
        checkpoint: str | Path | Checkpoint,
        contexts: str | Path | None = None,
        context_length: ContextLength = 8,
        start: ContextStart | float = "any",
        steps: int | None = None,
        profile: str | None = None,
        target_fps: float | None = None,
        terminate: Terminate = "sample",
        observation: Observation = "frame",
        channels_first: bool = False,
        context_info: bool = False,
        uncertainty: UncertaintyKind = "none",
        truncate_above: float | None = None,
        prefetch: bool = True,
        device: str = "cpu",
        render_mode: str | None = None,
    ) -> None:
        self._row = DreamVectorEnv(
            1,
            checkpoint=checkpoint,
            contexts=contexts,
            context_length=context_length,
            start=start,
            max_episode_steps=None,
            steps=steps,
            profile=profile,
            target_fps=target_fps,
            terminate=terminate,
            autoreset_mode=AutoresetMode.DISABLED,
            observation=observation,
            channels_first=channels_first,
            context_info=context_info,
            uncertainty=uncertainty,
            truncate_above=truncate_above,
            prefetch=prefetch,
            device=device,
            render_mode=render_mode,
        )
        self.render_mode = render_mode
        self.metadata = {**type(self).metadata, "render_fps": self._row.metadata["render_fps"]}
        self.observation_space = self._row.single_observation_space
        self.action_space = self._row.single_action_space

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin a new dream; without a seed it goes on with its own random numbers.

        `options` may say where, as those of `DreamVectorEnv.reset` do for a row: `context_frames` (C, h, w, 3) with
        `context_actions` (C,), or `episode` with `start`; and with `told` what the dream is told, a value by key.
        """
        super().reset(seed=seed)
        if seed is None and not self._row.begun:
            seed = int(self.np_random.integers(2**31))
        row = {key: value if key == "reset_mask" else [value] for key, value in (options or {}).items()}
        if isinstance(told := (options or {}).get(TOLD), Mapping):
            row[TOLD] = {key: [value] for key, value in told.items()}
        observation, info = self._row.reset(seed=seed, options=row)
        return _first(observation), _only(info)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Dream one frame further."""
        observation, reward, terminated, truncated, info = self._row.step(_batch(action))
        return _first(observation), float(reward[0]), bool(terminated[0]), bool(truncated[0]), _only(info)

    def render(self) -> FrameArray | None:
        """The current frame, (h, w, 3) uint8."""
        frames = self._row.render()
        return None if frames is None else frames[0]

    def close(self) -> None:
        """End the background thread."""
        self._row.close()

    def get_state(self) -> DreamState:
        """All that decides how the dream goes on, random state included; the time limit around it is no part of it."""
        return self._row.get_state()

    def set_state(self, state: DreamState) -> None:
        """Go on from `state`. Raises InputError unless it is of one row of the same world and options."""
        self._row.set_state(state)

    def get_keys_to_action(self) -> dict[tuple[int, ...], int]:
        """Which key is which action, for `gymnasium.utils.play`; actions beyond the 36th have none.

        Raises InputError where actions are not discrete.
        """
        if not isinstance(self.action_space, gym.spaces.Discrete):
            raise InputError(
                f"keys stand for discrete actions, this dream takes {self.action_space}: say what they do, "
                "play(env, keys_to_action=...)"
            )
        actions = range(int(self.action_space.n))
        return {(ord(key),): action for action, key in zip(actions, KEYS, strict=False)}


def _batch(action: Any) -> Any:
    """One action as those of one row."""
    return {key: np.array([part]) for key, part in action.items()} if isinstance(action, dict) else np.array([action])


def _first(observation: Any) -> Any:
    return {key: part[0] for key, part in observation.items()} if isinstance(observation, dict) else observation[0]


def _only(info: dict[str, Any]) -> dict[str, Any]:
    """The infos of the only row, numbers as plain ones."""
    return {
        name: values[0].item() if values.ndim == 1 and values.dtype != object else values[0]
        for name, values in info.items()
        if not name.startswith("_")
    }
