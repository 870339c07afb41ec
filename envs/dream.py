"""The learned simulator as a Gymnasium environment. The world model predicts; the environment owns the rollout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray
from torch import Tensor

from envs.contexts import check_length, check_world, contexts_folder
from envs.policy import FrameArray
from worldmodel.checkpoint import Checkpoint, load_checkpoint
from worldmodel.episodes import EpisodeStore
from worldmodel.errors import InputError
from worldmodel.sampling import Sampler, choose

Output = Literal["numpy", "torch"]
Terminate = Literal["sample", "threshold", "never"]


class DreamVectorEnv(VectorEnv[Any, Any, Any]):
    """N dreams advanced by one forward pass per step; each begins from a real context.

    checkpoint: a world model folder (`train_wm.py`, `train_agent.py`) or a loaded `Checkpoint`.
    contexts: folder of recorded episodes; None takes the one that the checkpoint names.
    context_length: real frames observed before a dream begins; its first observation is the last of them.
    max_episode_steps: horizon of a dream; reaching it truncates. None dreams on.
    steps: denoising steps per frame; or instead
    profile: "quality", "balanced" or "realtime", which also set window and precision (`worldmodel.sampling`); or
    target_fps: frames per second that every row should get; the best profile that reaches it is chosen by a short
        measurement, logged and kept as `sampler.sampling`. What a dream shows then depends on the machine.
    terminate: the termination head ends an episode by a draw ("sample"), above one half ("threshold") or "never".
    output: "numpy" arrays, or "torch" tensors that stay on `device`.

    Observations (N, h, w, 3) uint8, rewards (N,) float, terminated and truncated (N,) bool, all fresh at every step.
    `info["termination_probability"]` (N,) is what the head said. What row i does depends only on its seed and actions,
    whatever the other rows do; `reset(seed=s)` gives row i the seed s + i. All three autoreset modes of Gymnasium hold.

    Raises InputError at construction for a checkpoint or contexts that cannot be used.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012  (Gymnasium's own declaration)
        "render_modes": ["rgb_array"],
        "render_fps": 10,
        "autoreset_mode": AutoresetMode.NEXT_STEP,
    }

    def __init__(
        self,
        num_envs: int = 1,
        *,
        checkpoint: str | Path | Checkpoint,
        contexts: str | Path | None = None,
        context_length: int = 8,
        max_episode_steps: int | None = 64,
        steps: int | None = None,
        profile: str | None = None,
        target_fps: float | None = None,
        terminate: Terminate = "sample",
        autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP,
        output: Output = "numpy",
        device: str = "cpu",
        render_mode: str | None = None,
    ) -> None:
        choices = {"output": (output, ("numpy", "torch")), "terminate": (terminate, ("sample", "threshold", "never"))}
        for name, (value, allowed) in choices.items():
            if value not in allowed:
                raise InputError(f"{name}={value!r}: choose one of {', '.join(allowed)}")
        counts = {"num_envs": num_envs, "steps": steps, "context_length": context_length}
        for name, count in {**counts, "max_episode_steps": max_episode_steps}.items():
            if count is not None and count < 1:
                raise InputError(f"{name}={count}: give a number of at least 1")
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise InputError(f"render_mode={render_mode!r}: choose rgb_array or None")
        loaded = checkpoint if isinstance(checkpoint, Checkpoint) else load_checkpoint(checkpoint, device)
        self.model = loaded.model.eval().to(device)
        self.device = torch.device(device)
        self.store = EpisodeStore(contexts_folder(loaded) if contexts is None else contexts)
        check_world(loaded, self.store)
        check_length(self.store, context_length)
        sampling = choose(self.model, num_envs, steps=steps, profile=profile, target_fps=target_fps)
        self.sampler = Sampler(self.model, sampling)

        self.num_envs, self.max_episode_steps = num_envs, max_episode_steps
        self.context_length, self.terminate, self.output = context_length, terminate, output
        self.render_mode, self.closed = render_mode, False
        self.autoreset_mode = AutoresetMode(autoreset_mode)
        self.metadata = {**type(self).metadata, "autoreset_mode": self.autoreset_mode}

        config = self.model.config
        self.single_observation_space = gym.spaces.Box(0, 255, (config.height, config.width, 3), np.uint8)
        self.single_action_space = gym.spaces.Discrete(config.num_actions)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

        self._noise = [torch.Generator(self.device) for _ in range(num_envs)]
        self._draws: list[np.random.Generator] = []  # of contexts and terminations, one per row; empty before reset
        self._memory = self.model.empty(num_envs)
        self._frame = torch.zeros(num_envs, config.height, config.width, 3, dtype=torch.uint8, device=self.device)
        self._clock = np.zeros(num_envs, np.int64)
        self._done = np.zeros(num_envs, bool)

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin new dreams in all rows, or in those of `options["reset_mask"]`, bool (N,).

        A row whose seed is None goes on with its own random numbers.
        """
        super().reset(seed=seed if isinstance(seed, int) else None)
        mask = (options or {}).get("reset_mask")
        mask = np.ones(self.num_envs, bool) if mask is None else np.asarray(mask)
        if mask.shape != (self.num_envs,) or mask.dtype != np.bool_ or not mask.any():
            raise InputError(f"reset_mask must be bool ({self.num_envs},) with at least one True, got {mask!r}")
        seeds: list[int | None] = [None] * self.num_envs
        if isinstance(seed, int):
            seeds = [seed + row for row in range(self.num_envs)]
        elif seed is not None:
            seeds = [None if s is None else int(s) for s in seed]
            if len(seeds) != self.num_envs:
                raise InputError(f"{len(seeds)} seeds for {self.num_envs} rows: give one per row, or a single number")
        if not self._draws:
            fresh = self.np_random.integers(2**31, size=self.num_envs).tolist()
            seeds = [fresh[row] if s is None else s for row, s in enumerate(seeds)]
            self._draws = [np.random.default_rng(s) for s in seeds]
            mask = np.ones(self.num_envs, bool)
        for row in np.flatnonzero(mask):
            if (s := seeds[row]) is not None:
                self._draws[row] = np.random.default_rng(s)
                self._noise[row].manual_seed(s)
        self._begin(mask)
        return self._out(self._frame), {}

    @torch.no_grad()
    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Dream one frame further in every row; finished rows are treated as the autoreset mode says."""
        if not self._draws:
            raise gym.error.ResetNeeded("call reset() before step()")
        chosen = self._check_actions(actions)
        ended = self._done.copy()
        if ended.any() and self.autoreset_mode is AutoresetMode.DISABLED:
            raise gym.error.ResetNeeded(
                f"rows {np.flatnonzero(ended).tolist()} are finished: reset(options={{'reset_mask': mask}}) them first"
            )
        active = torch.as_tensor(~ended, device=self.device)
        imagined = self.sampler.imagine(
            chosen, self._memory, generator=self._noise, active=active if ended.any() else None
        )
        self._memory, self._frame = imagined.memory, imagined.frame
        probability = imagined.termination.double().cpu().numpy() * ~ended
        reward = imagined.reward.double() * active
        self._clock += ~ended
        terminated = self._ends(probability, ~ended)
        horizon = self.max_episode_steps
        truncated = ~terminated & ~ended & (self._clock >= (horizon if horizon is not None else np.inf))
        self._done = terminated | truncated

        info: dict[str, Any] = {
            "termination_probability": self._out(torch.as_tensor(probability, device=self.device)),
            "_termination_probability": ~ended,
        }
        if self.autoreset_mode is AutoresetMode.SAME_STEP and self._done.any():
            info = self._final(info)
            self._begin(self._done.copy())
        elif ended.any():
            self._begin(ended)
        flags = (self._out(torch.as_tensor(flag, device=self.device)) for flag in (terminated, truncated))
        return self._out(self._frame), self._out(reward), *flags, info

    def render(self) -> tuple[FrameArray, ...] | None:
        """The current frame of every row, (h, w, 3) uint8 each."""
        return tuple(self._frame.cpu().numpy().copy()) if self.render_mode == "rgb_array" else None

    def _begin(self, mask: NDArray[np.bool_]) -> None:
        """Start new dreams in the rows of `mask` from contexts that each row draws for itself."""
        rows = np.flatnonzero(mask)
        clips = [self.store.sample_contexts(1, self.context_length, self._draws[row]) for row in rows]
        frames = torch.cat([clip.frames for clip in clips]).to(self.device)
        actions = torch.cat([clip.actions for clip in clips]).to(self.device)
        with torch.no_grad():
            _, memory = self.model.observe(frames, actions)
        index = torch.as_tensor(rows, device=self.device)
        self._memory = self._memory.put(index, memory)
        self._frame = self._frame.index_copy(0, index, frames[:, -1])
        self._clock[rows] = 0
        self._done[rows] = False

    def _ends(self, probability: NDArray[np.float64], active: NDArray[np.bool_]) -> NDArray[np.bool_]:
        if self.terminate == "never":
            return np.zeros(self.num_envs, bool)
        if self.terminate == "threshold":
            return np.asarray(probability > 0.5) & active
        draws = np.array([self._draws[i].random() if active[i] else 1.0 for i in range(self.num_envs)])
        return np.asarray(draws < probability)

    def _final(self, info: dict[str, Any]) -> dict[str, Any]:
        """Gymnasium's SAME_STEP record of finished rows; with torch output `final_obs` is one batched tensor."""
        done = self._done.copy()
        final_obs: Any = self._out(self._frame)
        if self.output == "numpy":
            frames, final_obs = final_obs, np.full(self.num_envs, None, dtype=object)
            for row in np.flatnonzero(done):
                final_obs[row] = frames[row].copy()
        final_info = {"termination_probability": info["termination_probability"], "_termination_probability": done}
        return {**info, "final_obs": final_obs, "_final_obs": done, "final_info": final_info, "_final_info": done}

    def _check_actions(self, actions: Any) -> Tensor:
        chosen = torch.as_tensor(actions, device=self.device)
        count = self.model.config.num_actions
        whole = not (chosen.is_floating_point() or chosen.is_complex() or chosen.dtype == torch.bool)
        if chosen.shape != (self.num_envs,) or not whole:
            raise InputError(f"actions must be {self.num_envs} whole numbers, got {chosen.dtype} {tuple(chosen.shape)}")
        if bool(((chosen < 0) | (chosen >= count)).any()):
            raise InputError(f"actions {chosen.tolist()} are outside the action space Discrete({count})")
        return chosen.long()

    def _out(self, value: Tensor) -> Any:
        return value.clone() if self.output == "torch" else value.cpu().numpy().copy()


class DreamEnv(gym.Env[FrameArray, np.int64]):
    """One dream as a plain Gymnasium environment; takes the options of `DreamVectorEnv` that concern a single row."""

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012

    def __init__(
        self,
        *,
        checkpoint: str | Path | Checkpoint,
        contexts: str | Path | None = None,
        context_length: int = 8,
        steps: int | None = None,
        profile: str | None = None,
        target_fps: float | None = None,
        terminate: Terminate = "sample",
        device: str = "cpu",
        render_mode: str | None = None,
    ) -> None:
        self._row = DreamVectorEnv(
            1,
            checkpoint=checkpoint,
            contexts=contexts,
            context_length=context_length,
            max_episode_steps=None,  # gymnasium.make adds the time limit
            steps=steps,
            profile=profile,
            target_fps=target_fps,
            terminate=terminate,
            autoreset_mode=AutoresetMode.DISABLED,
            device=device,
            render_mode=render_mode,
        )
        self.render_mode = render_mode
        self.observation_space = self._row.single_observation_space
        self.action_space = self._row.single_action_space

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[FrameArray, dict[str, Any]]:
        """Begin a new dream; without a seed it goes on with its own random numbers."""
        super().reset(seed=seed)
        if seed is None and not self._row._draws:
            seed = int(self.np_random.integers(2**31))
        observation, _ = self._row.reset(seed=seed)
        return observation[0], {}

    def step(self, action: Any) -> tuple[FrameArray, float, bool, bool, dict[str, Any]]:
        """Dream one frame further."""
        observation, reward, terminated, _, info = self._row.step(np.array([action]))
        probability = float(info["termination_probability"][0])
        return (
            observation[0],
            float(reward[0]),
            bool(terminated[0]),
            False,
            {"termination_probability": probability},
        )

    def render(self) -> FrameArray | None:
        """The current frame, (h, w, 3) uint8."""
        frames = self._row.render()
        return None if frames is None else frames[0]
