"""Episodes of a policy in the rows of a vector environment, without processes or retries: to compare with."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import numpy as np
from gymnasium.vector import AutoresetMode

from lssvwm.envs.factory import FrameVectorEnv
from lssvwm.envs.policy import Policy
from lssvwm.envs.recording.playing import _Track
from lssvwm.envs.spaces.actions import as_recorded, no_action, shaped, spec_of
from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.episodes import Episode


def play(
    envs: FrameVectorEnv,
    policy: Policy,
    seeds: Sequence[int],
    *,
    extra_keys: Sequence[str] = (),
) -> Iterator[Episode]:
    """Play one episode for each of `seeds` in the rows of `envs`, and yield each when it has ended.

    An episode depends on its seed alone: not on the number of rows, on its row, or on the others. They come in the
    order in which they end; `extras["seed"]` tells them apart. `extra_keys` names entries of `info` to keep as extras,
    with T + 1 entries, but a text that stays the same once.

    `envs` must not reset itself (`AutoresetMode.DISABLED`, as `make_vec` gives it). Raises InputError if it does, or
    if `info` lacks one of `extra_keys`.
    """
    mode = envs.metadata.get("autoreset_mode")
    if mode != AutoresetMode.DISABLED:
        raise InputError(
            f"play needs environments with AutoresetMode.DISABLED (lssvwm.envs.make_vec), these have {mode}"
        )
    if not seeds:
        return
    waiting = deque(int(seed) for seed in seeds)
    tracks: list[_Track | None] = [None] * envs.num_envs
    space = spec_of(envs.single_action_space, "the environment")
    ended = np.ones(envs.num_envs, np.bool_)
    while True:
        # A finished row cannot be stepped: with no seed left for it, it plays an episode that nobody keeps.
        for row in np.flatnonzero(ended).tolist():
            tracks[row] = _Track(waiting.popleft()) if waiting else None
        if not any(tracks):
            return
        row_seeds = [int(seeds[-1]) if track is None else track.seed for track in tracks]
        started = np.flatnonzero(ended)
        frames, info = envs.reset(seed=cast("Any", row_seeds), options={"reset_mask": ended})
        policy.reset(started, np.array(row_seeds, np.int64)[started])
        for row in started.tolist():
            track = tracks[row]
            if track is not None:
                track.add(frames[row], no_action(space), 0.0, _extras(info, extra_keys, row))
        ended = np.zeros(envs.num_envs, np.bool_)
        while not ended.any():
            actions = as_recorded(space, policy.act(frames, info), envs.num_envs)
            frames, rewards, terminated, truncated, info = envs.step(shaped(space, actions))
            for row, track in enumerate(tracks):
                if track is not None:
                    track.add(frames[row], actions[row], float(rewards[row]), _extras(info, extra_keys, row))
            ended = np.asarray(terminated | truncated)
        for row in np.flatnonzero(ended).tolist():
            track = tracks[row]
            if track is not None:
                yield track.episode(bool(terminated[row]), bool(truncated[row]))


def _extras(info: Mapping[str, Any], keys: Sequence[str], row: int) -> dict[str, Any]:
    missing = [key for key in keys if key not in info or not info[f"_{key}"][row]]
    if missing:
        raise InputError(
            f"extra keys {missing} are not in info, which has {sorted(info)}: leave them out of extra_keys"
        )
    return {key: info[key][row] for key in keys}
