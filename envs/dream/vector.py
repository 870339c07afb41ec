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
from torch import Tensor

from lssvwm.envs.dream import infos
from lssvwm.envs.dream.dreams import Dreams, Rows, padded
from lssvwm.envs.dream.options import (
    RENDER_MODES,
    Beginning,
    ContextLength,
    Doubt,
    DreamOptions,
    Observation,
    Output,
    Terminate,
    at_least_one,
    autoreset,
)
from lssvwm.envs.dream.requested import asked, asked_told
from lssvwm.envs.dream.starts import Start, Told
from lssvwm.envs.dream.state import DreamState
from lssvwm.envs.dream.termination import ends
from lssvwm.envs.dream.validation import check_actions, check_mask, check_seeds
from lssvwm.envs.dream.view import View
from lssvwm.envs.dream.world import World, open_world
from lssvwm.envs.policy import FrameArray
from lssvwm.envs.spaces.actions import space_of
from lssvwm.worldmodel.actions import actions_of
from lssvwm.worldmodel.checkpoint import Checkpoint
from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.layers.memory import Memory
from lssvwm.worldmodel.pessimism import Over


class DreamVectorEnv(VectorEnv[Any, Any, Any]):
    """N dreams advanced by one forward pass per step; each begins from a real context.

    checkpoint: a world model folder (`train_wm.py`, `train_agent.py`), the name of a world that comes with the package
        (`python -m lssvwm.worldmodel.worlds`), hf://OWNER/NAME[@REVISION], or a loaded `Checkpoint`, whose
        model itself dreams then: on `device`, and in evaluation mode until you call `train()`.
    contexts: folder of recorded episodes, or a packed file of them; None takes the folder that the checkpoint names,
        and where that is not there the `contexts.npz` that it carries.
    context_length: real frames observed before a dream begins; its first observation is the last of them. A number n;
        (1, n) draws one for each dream, and goes no further than the longest episode; "all" reads the whole past, from
        the first frame of the episode on, as real play has seen it (`envs.dream.index` says what that costs).
    start: "any" begins anywhere (with "all" every frame after which an episode goes on is equally likely to be the
        last one read), "episode" reads from the first frame of an episode on (with "all": that one alone); a number
        from 0 to 1 is the share of dreams that do.
    max_episode_steps: horizon of a dream; reaching it truncates. None dreams on.
    steps: denoising steps per frame; or instead
    profile: "quality", "balanced" or "realtime", which also set window and precision (`worldmodel.sampling`); or
    target_fps: frames per second that every row should get; the best profile that reaches it is chosen by a short
        measurement, logged and kept as `sampler.sampling`. What a dream shows then depends on the machine.
    terminate: the termination head ends an episode by a draw ("sample"), above one half ("threshold") or "never".
    observation: "frame" (h, w, 3) uint8, "features" (F,) float32 of the model, or a dictionary of "both".
    channels_first: frames are (3, h, w), also those of `context_info`; `render` is not concerned.
    output: "numpy" arrays, or "torch" tensors on `device`. Then a step brings to the host only whether actions that
        were given as tensors are valid, and N termination probabilities and uncertainties where they decide something.
        Masks `_key` of infos are numpy arrays either way, and `final_obs` is one batch of tensors.
    stagger: the dreams that `reset()` begins in all rows have 0 to max_episode_steps - 1 steps behind them already, by
        seed and evenly spread, so that rows are not truncated all at once. Later dreams are whole.
    context_info: whenever a row begins, tell its context as `info["context_frames"]` (N, C, h, w, 3) uint8 and
        `info["context_actions"]` (N, C) int64, -1 for none, or (N, C, A) float32, NaN for none, where actions are not
        discrete (`worldmodel.actions`), to warm up a policy. The last frame is the observation.
        `info["context_length"]` (N,) says how many of the C frames are a row's own; shorter contexts stand at the end.
    uncertainty: tell as `info["uncertainty"]` (N,) how little a step is to be trusted (`worldmodel.uncertainty`).
    truncate_above: a dream whose uncertainty exceeds this has left what the model knows, and is truncated.
    pessimism: rewards are lowered by so many standard deviations (`worldmodel.pessimism`), measured over
    pessimism_over: "masks" of the reward head's inputs, or other "draws" of the step.
    prefetch: read the contexts of the next dreams on a background thread. Dreams do not depend on it.

    A world model that is told something (`--tell`) is told what the context was, through the whole dream. Under the key
    of the real environment every reset and step says what that is: `info["mission"]` (N,) texts, or (N, ...) numbers.

    Rewards (N,) float64, terminated and truncated (N,) bool; all arrays are fresh at every step.
    `info["termination_probability"]` (N,) is what the head said. What row i does depends only on its seed and actions,
    whatever the other rows do; `reset(seed=s)` gives row i the seed s + i. All three autoreset modes of Gymnasium hold.
    Pickles and deep copies go on where the original stands, without its weights: a pickle loads them from the path of
    the checkpoint, copies, `clone` and `select` share the model.

    Raises InputError at construction for a checkpoint, contexts or options that cannot be used.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012  (Gymnasium's own declaration)
        "render_modes": list(RENDER_MODES),
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
        start: Beginning | float = "any",
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
        uncertainty: Doubt = "none",
        truncate_above: float | None = None,
        pessimism: float = 0.0,
        pessimism_over: Over = "masks",
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
        world = open_world(
            checkpoint,
            contexts,
            device,
            context_length=options.context_length,
            rows=num_envs,
            steps=steps,
            profile=profile,
            target_fps=target_fps,
        )
        self._set_up(num_envs, world, options)

    def _set_up(self, rows: int, world: World, options: DreamOptions) -> None:
        self.num_envs, self.options, self.closed = rows, options, False
        self._world, self.model, self.sampler = world, world.model, world.sampler
        self.device, self.store = world.device, world.store
        self.render_mode, self.autoreset_mode = options.render_mode, options.autoreset_mode
        told = {"autoreset_mode": self.autoreset_mode, "render_fps": world.fps}
        self.metadata = {**type(self).metadata, **told}
        self._dreams = Dreams(rows, world, options)
        self._view = View(options.observation, options.output, options.channels_first, world.device)
        self.single_observation_space = self._view.space(self.model.config)
        self._actions = actions_of(self.model.config)
        self.single_action_space = space_of(self._actions)
        self.observation_space = batch_space(self.single_observation_space, rows)
        self.action_space = batch_space(self.single_action_space, rows)

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin new dreams in all rows, or in those of `options["reset_mask"]`, bool (N,).

        A row whose seed is None goes on with its own random numbers. Other options say where rows begin, with an entry
        for each of the N rows, and None for one that draws its context as always:

        context_frames, context_actions: uint8 (C, h, w, 3), or (3, h, w) with `channels_first`, and int64 (C,) in each
            row: C real frames and the actions that led to them, -1 where none did or none is known (as of the first
            frame of an episode); where an action is a vector, numbers (C, A), NaN throughout for none. All are
            observed, from empty memory; the last is the first observation. With
            `context_length` (N,) only the last of the C frames: what `context_info` tells can be handed over as it is.
        episode, start: name of a file of the store, and the number of the frame in it that is the first observation.
            The environment's `context_length` frames up to that one are observed, the longest of several; at the
            beginning of an episode fewer.
        told: for each key that the world model is told, N values: rows are told these from the first frame of their
            context on, wherever they begin. Keys that are left out, and rows with None, keep what was recorded.

        They hold for this reset only, which then staggers no row; dreams that begin by themselves draw their contexts.
        The random numbers of a dream do not depend on them. Raises InputError for what is unknown, half given, or does
        not fit the world; nothing has changed then.
        """
        self._check_open()
        mask = (options or {}).get("reset_mask")
        rows = check_mask("reset_mask", mask, self.num_envs, some=True)
        first = not self._dreams.begun
        rows = np.ones(self.num_envs, bool) if first else rows
        told = asked_told(options, rows, self.model.config)
        where = asked(options, rows, self.store, self.model.config, self.options, told)
        seeds = check_seeds(seed, self.num_envs)
        super().reset(seed=int(seed) if isinstance(seed, int | np.integer) else None)
        if first:
            fresh = self.np_random.integers(2**31, size=self.num_envs).tolist()
            seeds = [fresh[row] if s is None else s for row, s in enumerate(seeds)]
        for row in np.flatnonzero(rows):
            if (s := seeds[row]) is not None:
                self._dreams.chance.seed(int(row), s)
        stagger = self.options.stagger and (first or mask is None) and not where and not told
        info = self._begin(rows, stagger=stagger, asked=where, told=told)
        return self._observation(), info | infos.of_goals(self._view, self._dreams.goals, rows)

    def step(self, actions: Any, *, mask: Any = None) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Dream one frame further in every row, or in those of `mask`, bool (N,).

        Finished rows are treated as the autoreset mode says. Rows that `mask` leaves out stay as they are bit for bit:
        the same observation, reward 0, no end, and False in the masks of infos. Their actions must be valid all the
        same.
        """
        self._check_open()
        if not self._dreams.begun:
            raise gym.error.ResetNeeded("call reset() before step()")
        chosen = check_actions(actions, self.num_envs, self._actions, self.device)
        asked = check_mask("mask", mask, self.num_envs)
        ended, live = asked & self._dreams.done, asked & ~self._dreams.done
        if ended.any() and self.autoreset_mode is AutoresetMode.DISABLED:
            raise gym.error.ResetNeeded(
                f"rows {np.flatnonzero(ended).tolist()} are finished: reset(options={{'reset_mask': mask}}) them first"
            )
        dreamt = self._dreams.advance(chosen, live)
        terminated, truncated = ends(self._dreams, dreamt, live)
        finished = terminated | truncated
        self._dreams.done = self._dreams.done | finished

        info = infos.of_step(self._view, dreamt, live)
        begins = ended
        if self.autoreset_mode is AutoresetMode.SAME_STEP and finished.any():
            info |= infos.of_end(self._view, dreamt, finished, self._observation(), self._dreams.goals)
            begins = ended | finished
        if begins.any():
            info |= self._begin(begins)
        info |= infos.of_goals(self._view, self._dreams.goals, live | begins)
        reward, *flags = (self._view.array(part) for part in (dreamt.reward, terminated, truncated))
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
        self._dreams.starts.close()

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
        numbers = np.asarray(rows)
        if numbers.dtype.kind not in "iu" or not set(numbers.tolist()) <= set(range(self.num_envs)):
            raise InputError(f"rows={rows!r}: give some of the row numbers 0 to {self.num_envs - 1}")
        return self._copy(torch.as_tensor(numbers, dtype=torch.int64))

    def __deepcopy__(self, memo: dict[int, Any]) -> DreamVectorEnv:
        """Return an environment that shares the model, and nothing that changes."""
        twin = self._copy(torch.arange(self.num_envs)) if self._dreams.begun else self._alike(self.num_envs)
        twin.spec = self.spec
        twin._np_random, twin._np_random_seed = copy.deepcopy(self._np_random, memo), self._np_random_seed
        return twin

    def __getstate__(self) -> dict[str, Any]:
        """Return what another process needs to go on; of the weights only where they are."""
        return {
            "rows": self.num_envs,
            "world": self._world,
            "options": self.options,
            "state": self.get_state() if self._dreams.begun else None,
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

    @property
    def _memory(self) -> Memory:
        return self._dreams.memory

    def _check_open(self) -> None:
        if self.closed:
            raise gym.error.ClosedEnvironmentError("this environment was closed: make a new one")

    def _observation(self) -> Any:
        return self._view.observe(self._dreams.frame, self._dreams.features)

    def _begin(
        self,
        rows: Rows,
        *,
        stagger: bool = False,
        asked: Mapping[int, Start] | None = None,
        told: Mapping[int, Told] | None = None,
    ) -> dict[str, Any]:
        begun = self._dreams.begin(rows, stagger=stagger, asked=asked, told=told)
        if not self.options.context_info:
            return {}
        return infos.of_contexts(self._view, padded(begun).to(self.device), rows)

    def _state(self, rows: Tensor) -> DreamState:
        if not self._dreams.begun:
            raise gym.error.ResetNeeded("call reset() first: dreams that did not begin have no state")
        return self._dreams.state(rows)

    def _copy(self, rows: Tensor) -> DreamVectorEnv:
        twin = self._alike(len(rows))
        twin.set_state(self._state(rows))
        return twin

    def _alike(self, rows: int) -> DreamVectorEnv:
        twin = object.__new__(type(self))
        twin._set_up(rows, self._world, self.options)
        return twin
