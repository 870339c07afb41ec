"""DreamVectorEnv: N dreams as one vector environment of Gymnasium."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from lssvwm.envs.dream import outputs
from lssvwm.envs.dream.dreams import NO_REQUESTS, Dreams, ResetRequests, RowMask
from lssvwm.envs.dream.options import (
    ContextLength,
    ContextStart,
    DreamOptions,
    Observation,
    Output,
    Terminate,
    UncertaintyKind,
    at_least_one,
    autoreset,
)
from lssvwm.envs.dream.state import DreamState
from lssvwm.envs.dream.termination import ends
from lssvwm.envs.dream.validation import check_actions, check_mask, check_reset_options, check_row_numbers, check_seeds
from lssvwm.envs.dream.world import World, open_world
from lssvwm.envs.policy import FrameArray
from lssvwm.envs.spaces.actions import space_of
from lssvwm.worldmodel.actions import actions_of
from lssvwm.worldmodel.checkpoint import Checkpoint
from lssvwm.worldmodel.uncertainty import Ensemble


class DreamVectorEnv(VectorEnv[Any, Any, Any]):
    """N dreams, each begun after real frames, its context; one forward pass of the world model steps all of them.

    Actions are those of the real environment, (N,) int64 where they are discrete. Observations are (N, ...), rewards
    (N,) float64, terminated and truncated (N,) bool and never both in one row; all arrays are fresh. All autoreset
    modes of Gymnasium hold, and a part of the rows can be reset or stepped in each. What row i does depends on its own
    seed and actions alone; `reset(seed=s)` gives row i the seed s + i. Every entry of info has a mask `_key`:

    termination_probability: (N,), what the head said of the step.
    uncertainty: (N,), if asked for: how little the step is to be trusted (`worldmodel.uncertainty`).
    context_frames, context_actions, context_length: with `context_info`, in rows that begin, to warm up a policy:
        (N, C, h, w, 3) uint8, of which the last is the observation; (N, C) int64, -1 for none, or (N, C, A) float32,
        NaN for none, where actions are not discrete; and how many of the C are a row's own, the last ones.
    mission, or whatever else the model is told (`--tell`): what the context was told holds through the whole dream, and
        every reset and step says it under the key of the real environment: (N,) texts, or (N, ...) numbers.
    final_obs, final_info: SAME_STEP alone, of rows that ended, as Gymnasium has them.

    checkpoint: a world model folder (`train_wm.py`, `train_agent.py`), the name of a world that comes with the package
        (`python -m lssvwm.worldmodel.worlds`), hf://OWNER/NAME[@REVISION], or a loaded `Checkpoint`, whose
        model itself dreams then: on `device`, and in evaluation mode until you call `train()`.
    contexts: folder of recorded episodes, or a packed file of them; None takes the folder that the checkpoint names,
        and where that is not there the `contexts.npz` that it carries.
    steps: denoising steps per frame; or instead
    profile: "quality", "balanced" or "realtime", which also set window and precision (`worldmodel.sampling`); or
    target_fps: frames per second that every row should get; the best profile that reaches it is chosen by a short
        measurement, logged and kept as `sampler.sampling`. What a dream shows then depends on the machine.
    device: where to dream: "cpu", "cuda".
    The other options are those of `DreamOptions`: contexts, horizon and ends, what is observed, infos, pessimism.

    Pickles and deep copies go on where the original stands, without its weights: a pickle loads them from the path of
    the checkpoint; copies, `clone` and `select` share the model.

    Raises InputError for a checkpoint, contexts or options that cannot be used; `step` before the first `reset` and
    both after `close` raise as Gymnasium's environments do.
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
        context_length: ContextLength = 8,
        start: ContextStart | float = "any",
        max_episode_steps: int | None = 64,
        steps: int | None = None,
        profile: str | None = None,
        target_fps: float | None = None,
        terminate: Terminate = "sample",
        autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP,
        observation: Observation = "frame",
        channels_first: bool = False,
        output: Output = "numpy",
        stagger: bool = False,
        context_info: bool = False,
        uncertainty: UncertaintyKind = "none",
        truncate_above: float | None = None,
        pessimism: float = 0.0,
        pessimism_over: Ensemble = "masks",
        prefetch: bool = True,
        device: str = "cpu",
        render_mode: str | None = None,
    ) -> None:
        options = DreamOptions(
            context_length=context_length,
            start=start,
            max_episode_steps=max_episode_steps,
            terminate=terminate,
            autoreset_mode=autoreset(autoreset_mode),
            observation=observation,
            output=output,
            channels_first=channels_first,
            stagger=stagger,
            context_info=context_info,
            uncertainty=uncertainty,
            truncate_above=truncate_above,
            pessimism=pessimism,
            pessimism_over=pessimism_over,
            prefetch=prefetch,
            render_mode=render_mode,
        )
        at_least_one(num_envs=num_envs, steps=steps)
        world = open_world(checkpoint, contexts, device, options.context_length, num_envs, steps, profile, target_fps)
        self._set_up(num_envs, world, options)

    def _set_up(self, rows: int, world: World, options: DreamOptions) -> None:
        self.num_envs, self.options, self.closed = rows, options, False
        self._world, self.model, self.sampler = world, world.model, world.sampler
        self.device, self.store = world.device, world.store
        self.render_mode, self.autoreset_mode = options.render_mode, options.autoreset_mode
        self.metadata = {**type(self).metadata, "autoreset_mode": options.autoreset_mode, "render_fps": world.fps}
        self._dreams = Dreams(rows, world, options)
        self._format = outputs.OutputFormat(options.observation, options.output, options.channels_first, world.device)
        self._actions = actions_of(self.model.config)
        self.single_observation_space = self._format.space(self.model.config)
        self.single_action_space = space_of(self._actions)
        self.observation_space = batch_space(self.single_observation_space, rows)
        self.action_space = batch_space(self.single_action_space, rows)

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin new dreams in all rows, or in those of `options["reset_mask"]`, bool (N,); the first time in all.

        seed: of row 0, or one for each row; a row whose seed is None goes on with its own random numbers.
        options: besides the mask, for this reset only, N entries that say where rows begin; None draws a context.

        context_frames, context_actions: uint8 (C, h, w, 3), or (3, h, w) with `channels_first`, and int64 (C,) in each
            row: C real frames and the actions that led to them, -1 where none did or none is known (as of the first
            frame of an episode); where an action is a vector, numbers (C, A), NaN throughout for none. All are
            observed, from empty memory; the last is the first observation. With
            `context_length` (N,) only the last of the C frames: what `context_info` tells can be handed over as it is.
        episode, start: name of a file of the store, and the number of the frame in it that is the first observation.
            The environment's `context_length` frames up to that one are observed, the longest of several; near the
            first frame of an episode fewer.
        told: for each key that the world model is told, N values: rows are told these from the first frame of their
            context on, wherever they begin. Keys that are left out, and rows with None, keep what was recorded.

        A reset with them staggers no row, and the random numbers of a dream do not depend on them. Raises InputError
        for what is unknown, half given, or does not fit the world; nothing has changed then.
        """
        self._check_open()
        mask = (options or {}).get("reset_mask")
        rows = check_mask("reset_mask", mask, self.num_envs, some=True)
        first = not self._dreams.begun
        rows = np.ones(self.num_envs, bool) if first else rows
        requests = check_reset_options(options, rows, self.store, self.model.config, self.options)
        seeds = check_seeds(seed, self.num_envs)
        super().reset(seed=int(seed) if isinstance(seed, int | np.integer) else None)
        if first:
            fresh = self.np_random.integers(2**31, size=self.num_envs).tolist()
            seeds = [fresh[row] if s is None else s for row, s in enumerate(seeds)]
        for row in np.flatnonzero(rows):
            if (s := seeds[row]) is not None:
                self._dreams.generators.seed(int(row), s)
        stagger = self.options.stagger and (first or mask is None) and not any(requests)
        info = self._begin(rows, stagger=stagger, requests=requests)
        return self._observation(), info | outputs.told_info(self._format, self._dreams.told, rows)

    def step(self, actions: Any, *, mask: Any = None) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Dream one frame further in every row, or in those of `mask`, bool (N,).

        actions: N of `single_action_space`, arrays or tensors. Finished rows begin anew and ignore theirs (NEXT_STEP),
            have done so already (SAME_STEP), or raise ResetNeeded (DISABLED).
        mask: rows that it leaves out stay as they are bit for bit: the same observation, reward 0, no end, and False in
            the masks of infos. Their actions must be valid all the same.

        Raises InputError for actions outside of the space, and a mask that is none.
        """
        self._check_open()
        if not self.begun:
            raise gym.error.ResetNeeded("call reset() before step()")
        chosen = check_actions(actions, self.num_envs, self._actions, self.device)
        rows = check_mask("mask", mask, self.num_envs)
        ended, live = rows & self._dreams.done, rows & ~self._dreams.done
        if ended.any() and self.autoreset_mode is AutoresetMode.DISABLED:
            raise gym.error.ResetNeeded(
                f"rows {np.flatnonzero(ended).tolist()} are finished: reset(options={{'reset_mask': mask}}) them first"
            )
        prediction = self._dreams.advance(chosen, live)
        terminated, truncated = ends(self._dreams, prediction, live)
        finished = terminated | truncated
        self._dreams.done = self._dreams.done | finished

        info = outputs.step_info(self._format, prediction, live)
        begins = ended
        if self.autoreset_mode is AutoresetMode.SAME_STEP and finished.any():
            info |= outputs.final_info(self._format, prediction, finished, self._observation(), self._dreams.told)
            begins = ended | finished
        if begins.any():
            info |= self._begin(begins)
        info |= outputs.told_info(self._format, self._dreams.told, live | begins)
        reward, *flags = (self._format.array(part) for part in (prediction.reward, terminated, truncated))
        return self._observation(), reward, flags[0], flags[1], info

    def render(self) -> tuple[FrameArray, ...] | None:
        """The current frame of every row, (h, w, 3) uint8 each."""
        if self.render_mode is None:
            return None
        if not self._dreams.begun:
            raise gym.error.ResetNeeded("there is no frame to render yet: call reset() first")
        return tuple(self._dreams.frame.cpu().numpy().copy())

    def close_extras(self, **kwargs: Any) -> None:
        """End the background thread."""
        self._dreams.contexts.close()

    def get_state(self) -> DreamState:
        """All that decides how the dreams go on, random state included: from `set_state` they replay bit for bit."""
        return self._state(torch.arange(self.num_envs))

    def set_state(self, state: DreamState) -> None:
        """Go on from `state`. Raises InputError unless it is of as many rows of the same world and options."""
        self._dreams.load_state(state)

    def clone(self, n: int) -> DreamVectorEnv:
        """An environment that has every row `n` times, side by side; each of them goes on as the original would.

        Of the same actions all copies make the same, up to float error between batches of other sizes.
        """
        at_least_one(n=n)
        return self._copy(torch.arange(self.num_envs).repeat_interleave(n))

    def select(self, rows: Sequence[int] | NDArray[np.int64]) -> DreamVectorEnv:
        """An environment of the rows with these numbers, repeats allowed; each goes on as the original would."""
        return self._copy(check_row_numbers(rows, self.num_envs))

    def __deepcopy__(self, memo: dict[int, Any]) -> DreamVectorEnv:
        """Return an environment that shares the model, and nothing that changes."""
        twin = copy.copy(self)
        twin._np_random = copy.deepcopy(self._np_random, memo)
        return twin

    def __getstate__(self) -> dict[str, Any]:
        """Return what another process needs to go on; of the weights only where they are."""
        return {
            "rows": self.num_envs,
            "world": self._world,
            "options": self.options,
            "state": self.get_state() if self.begun else None,
            "spec": self.spec,
            "random": (self._np_random, self._np_random_seed),
        }

    def __setstate__(self, kept: dict[str, Any]) -> None:
        self._set_up(kept["rows"], kept["world"], kept["options"])
        self.spec = kept["spec"]
        self._np_random, self._np_random_seed = kept["random"]
        if kept["state"] is not None:
            self.set_state(kept["state"])

    @property
    def begun(self) -> bool:
        """Whether there was a first `reset()`."""
        return self._dreams.begun

    def _check_open(self) -> None:
        if self.closed:
            raise gym.error.ClosedEnvironmentError("this environment was closed: make a new one")

    def _observation(self) -> Any:
        return self._format.observe(self._dreams.frame, self._dreams.features)

    def _begin(self, rows: RowMask, *, stagger: bool = False, requests: ResetRequests = NO_REQUESTS) -> dict[str, Any]:
        contexts = self._dreams.begin(rows, stagger=stagger, requests=requests)
        return outputs.context_info(self._format, contexts, rows) if self.options.context_info else {}

    def _state(self, rows: torch.Tensor) -> DreamState:
        if not self.begun:
            raise gym.error.ResetNeeded("call reset() first: dreams that did not begin have no state")
        return self._dreams.state(rows)

    def _copy(self, rows: torch.Tensor) -> DreamVectorEnv:
        state = self._state(rows)
        twin = object.__new__(type(self))
        twin._set_up(len(rows), self._world, self.options)
        twin.set_state(state)
        return twin
