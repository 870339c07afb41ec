"""The world model looks at real environments: its features on real frames, as a dream has them on dreamt ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray
from torch import Tensor

from lssvwm.envs.dream import DreamVectorEnv, Observation, Output
from lssvwm.envs.dream.options import autoreset
from lssvwm.envs.dream.outputs import OutputFormat
from lssvwm.envs.dream.validation import check_actions
from lssvwm.envs.factory import EnvConfig, make_vec, trusted
from lssvwm.envs.spaces.actions import shaped, space_of
from lssvwm.worldmodel.actions import actions_of
from lssvwm.worldmodel.checkpoint import Checkpoint, device_of, load_checkpoint
from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.episodes.data import without_actions
from lssvwm.worldmodel.layers.conditioning import no_actions
from lssvwm.worldmodel.model import WorldModel
from lssvwm.worldmodel.told import told_now

if TYPE_CHECKING:
    _Wrapper = VectorWrapper[Any, Any, Any, Any, Any]
else:
    _Wrapper = VectorWrapper  # takes no parameters in older versions of Gymnasium


class WorldModelFeatures(_Wrapper):
    """Observations become what `DreamVectorEnv` gives: features of the world model, frames, or both.

    envs: vector environment with frames (h, w, 3) uint8 and the actions that the world model was trained
        on, in any autoreset mode: of `envs.make_vec`, Gymnasium's own, wrapped ones, dreams.
    checkpoint: the world model, a folder or a loaded `Checkpoint`, whose model is put into evaluation mode and moved.
    observation: "features" (F,) float32, "frame" as the environment has it, or a dictionary of "both".
    output: "numpy" arrays, or "torch" tensors on `device`; actions may be either.
    channels_first: frames are (3, h, w).

    Every frame is observed once, after the action that led to it; a row that starts an episode forgets everything.
    In SAME_STEP the last frame of an episode is observed too, and `info["final_obs"]` is made as observations are.
    All else in `info` stays as it is. Observations are fresh arrays.

    Raises InputError for a world model that takes no such steps, and environments that are not its own.
    """

    def __init__(
        self,
        envs: VectorEnv[Any, Any, Any],
        checkpoint: str | Path | Checkpoint,
        *,
        observation: Observation = "features",
        output: Output = "numpy",
        channels_first: bool = False,
        device: str = "cpu",
    ) -> None:
        super().__init__(envs)
        where = device_of(device)
        loaded = checkpoint if isinstance(checkpoint, Checkpoint) else load_checkpoint(checkpoint, where)
        _check(loaded, envs)
        self.model: WorldModel = loaded.model.eval().to(where)
        self.device = where
        self.autoreset_mode: AutoresetMode = envs.metadata["autoreset_mode"]
        self.output: Output = output
        self._actions = actions_of(self.model.config)
        self._format = OutputFormat(observation, output, channels_first, self.device)
        self.single_observation_space = self._format.space(self.model.config)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self._memory = self.model.empty(self.num_envs)
        self._features = torch.zeros(self.num_envs, self.model.config.features, device=self.device)
        self._ended = np.zeros(self.num_envs, bool)
        self._told: NDArray[np.float32] | None = None  # (N, G)

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """As of the environment; rows outside of `options["reset_mask"]` keep their memory and their features."""
        mask = (options or {}).get("reset_mask")
        # A copy, since Gymnasium's environments take the mask out of what they are given.
        frames, info = self.env.reset(seed=seed, options=None if options is None else dict(options))  # type: ignore[arg-type]
        shown = self._tensor(frames)
        self._hear(info)
        self._begin(np.ones(self.num_envs, bool) if mask is None else np.asarray(mask, bool), shown)
        return self._format.observe(shown, self._features), info

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """As of the environment; its actions lead to the frames that are observed."""
        led_here = check_actions(actions, self.num_envs, self._actions, self.device)
        given = shaped(self._actions, led_here.cpu().numpy())
        frames, reward, terminated, truncated, info = self.env.step(given)
        self._hear(info)
        shown, began = self._tensor(frames), self._ended
        ended = np.array(self._host(terminated) | self._host(truncated))
        if self.autoreset_mode is AutoresetMode.SAME_STEP and ended.any():
            last = _with_final(shown, info["final_obs"], ended)
            now = self._told
            self._hear(info.get("final_info", {}))
            self._observe(last, led_here)
            self._told = now
            final = self._format.observe(last, self._features)
            info = {**info, "final_obs": self._format.final_obs(final, ended)}
            self._begin(ended, shown)
        elif self.autoreset_mode is AutoresetMode.NEXT_STEP and began.any():
            # These rows were reset instead of stepped, whatever the action.
            rows = torch.as_tensor(began, device=self.device)
            self._memory = self.model.empty(self.num_envs).where(rows, self._memory)
            self._observe(shown, without_actions(led_here, rows))
        else:
            self._observe(shown, led_here)
        self._ended = ended
        results = (self._format.array(self._host(part)) for part in (reward, terminated, truncated))
        return self._format.observe(shown, self._features), *results, info

    @torch.no_grad()
    def _observe(self, frames: Tensor, led_here: Tensor) -> None:
        if self._format.observation != "frame":
            seen, self._memory = self.model.observe(
                frames[:, None], led_here[:, None], self._memory, **self._goals(slice(None))
            )
            self._features = seen.features[:, 0].float()

    @torch.no_grad()
    def _begin(self, began: NDArray[np.bool_], frames: Tensor) -> None:
        """Start an episode in the rows of `began` with their frames; other rows stay as they are."""
        self._ended = self._ended & ~began
        if self._format.observation != "frame":
            rows = torch.as_tensor(np.flatnonzero(began), device=self.device)
            none = no_actions(self.model.config, len(rows), self.device)
            seen, memory = self.model.observe(frames[rows][:, None], none[:, None], **self._goals(rows.cpu().numpy()))
            self._memory = self._memory.put(rows, memory)
            self._features = self._features.index_copy(0, rows, seen.features[:, 0].float())

    def _hear(self, info: Mapping[str, Any]) -> None:
        """Note what rows are told now; of those that `info` says nothing of, what they were told before holds."""
        if parts := self.model.config.told:
            self._told = told_now(info, self.num_envs, parts, self._told)

    def _goals(self, rows: Any) -> dict[str, Any]:
        if self._told is None:
            return {}
        return {"told": torch.from_numpy(self._told[rows]).to(self.device)[:, None]}

    def _tensor(self, values: Any) -> Tensor:
        return values.to(self.device) if isinstance(values, Tensor) else torch.tensor(values, device=self.device)

    def _host(self, values: Any) -> NDArray[Any]:
        return np.asarray(values.cpu() if isinstance(values, Tensor) else values)


class Pair(NamedTuple):
    """A real environment and the dream of it: the same spaces, types and autoreset mode, the same time-line."""

    real: WorldModelFeatures
    dream: DreamVectorEnv


def make_pair(
    checkpoint: str | Path | Checkpoint,
    num_envs: int,
    *,
    observation: Observation = "features",
    output: Output = "numpy",
    channels_first: bool = False,
    autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP,
    device: str = "cpu",
    processes: bool = False,
    **dream: Any,
) -> Pair:
    """The dream of a checkpoint and the real environment that it dreams of, `num_envs` rows each.

    What learns in one of them acts in the other unchanged. Both use the same weights. `processes`: real environments
    live in one process each; `dream`: further options of `DreamVectorEnv`. The real environment has its own limit of
    steps, that of the dream is its horizon.

    Raises InputError for a checkpoint that names no environment, or one of a module that has not been imported yet,
    which could be any; and where one of the two cannot be made.
    """
    dreams = DreamVectorEnv(
        num_envs,
        checkpoint=checkpoint,
        observation=observation,
        output=output,
        channels_first=channels_first,
        autoreset_mode=autoreset_mode,
        device=device,
        **dream,
    )
    loaded = checkpoint if isinstance(checkpoint, Checkpoint) else load_checkpoint(checkpoint, device_of(device))
    named = loaded.world.get("env")
    if named is None:
        raise InputError(
            f"{loaded.path} names no real environment, train_wm.py notes the one that it records: make one yourself "
            "and wrap it in WorldModelFeatures"
        )
    config = trusted(EnvConfig.from_dict(named), str(loaded.path))
    real = make_vec(config, num_envs, processes=processes, autoreset_mode=autoreset(autoreset_mode))
    try:
        watched = WorldModelFeatures(
            real,
            replace(loaded, model=dreams.model),
            observation=observation,
            output=output,
            channels_first=channels_first,
            device=device,
        )
    except InputError:
        real.close()
        raise
    return Pair(watched, dreams)


def _check(checkpoint: Checkpoint, envs: VectorEnv[Any, Any, Any]) -> None:
    config = checkpoint.model.config
    actions = actions_of(config)
    if config.pose_size or config.chunk > 1 or not actions.parts or not actions.bounded:
        raise InputError(
            f"{checkpoint.path} is no model of an environment: train one with --env, told the actions, without a pose, "
            "and chunk=1"
        )
    frame, action = envs.single_observation_space, envs.single_action_space
    want = (gym.spaces.Box(0, 255, (config.height, config.width, 3), np.uint8), space_of(actions))
    for what, space, wanted in zip(("observe", "take the actions"), (frame, action), want, strict=True):
        if space != wanted:
            raise InputError(f"the environments {what} {space}, {checkpoint.path} models {wanted}: make them to match")
    mode = envs.metadata.get("autoreset_mode")
    if not isinstance(mode, AutoresetMode):
        raise InputError(
            f"the environments name the autoreset mode {mode!r}: their metadata must hold an AutoresetMode"
        )


def _with_final(frames: Tensor, final_obs: Any, ended: NDArray[np.bool_]) -> Tensor:
    """Frames (N, ...) with the last ones of their episodes in the rows that ended; `final_obs` by row, or one batch."""
    frames = frames.clone()
    for row in np.flatnonzero(ended).tolist():
        frames[row] = torch.as_tensor(final_obs[row])
    return frames
