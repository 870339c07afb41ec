"""Play a policy in a real environment and write the episodes: seeded, in several processes, resumable."""

from __future__ import annotations

import signal
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, cast

import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from numpy.typing import NDArray

from envs.factory import EnvConfig, FrameVectorEnv, make_vec
from envs.inverses import inverse_actions
from envs.policy import FrameArray, Policy
from worldmodel.episodes import NO_ACTION, Episode, EpisodeStore
from worldmodel.episodes.data import INVERSE_KEY
from worldmodel.errors import InputError
from worldmodel.progress import Bar
from worldmodel.stepping import deferred_interrupts

SEED_KEY = "seed"
"""The extra that says which seed an episode was reset with; a recording that is started again skips those it finds."""


@dataclass(frozen=True)
class RecordSummary:
    """What `record` left in the store.

    `episodes`, `frames`, `returns` (in the order of the seeds) and `mean_return` (nan without episodes) are of the
    whole recording, the `skipped` episodes of earlier calls included. `seconds` of play, without the start of the
    processes, and `steps_per_second` are of this call.
    """

    episodes: int
    frames: int
    seconds: float
    steps_per_second: float
    mean_return: float
    returns: tuple[float, ...]
    skipped: int


@dataclass
class _Track:
    """The episode that a row plays, so far."""

    seed: int
    frames: list[FrameArray] = field(default_factory=list)
    actions: list[int] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    extras: dict[str, list[NDArray[Any]]] = field(default_factory=dict)

    def add(self, frame: FrameArray, action: int, reward: float, extras: Mapping[str, NDArray[Any]]) -> None:
        self.frames.append(frame.copy())  # a view would keep the frames of all rows alive
        self.actions.append(action)
        self.rewards.append(reward)
        for key, value in extras.items():
            self.extras.setdefault(key, []).append(np.array(value))

    def episode(self, terminated: bool, truncated: bool) -> Episode:
        last = np.arange(len(self.frames)) == len(self.frames) - 1
        return Episode(
            image=np.stack(self.frames),
            action=np.array(self.actions, np.int64),
            reward=np.array(self.rewards, np.float32),
            terminated=last & terminated,
            truncated=last & truncated,
            extras={key: np.stack(values) for key, values in self.extras.items()}
            | {SEED_KEY: np.array(self.seed, np.int64)},
        )


def play(
    envs: FrameVectorEnv,
    policy: Policy,
    seeds: Sequence[int],
    *,
    extra_keys: Sequence[str] = (),
    between_steps: Callable[[], None] | None = None,
) -> Iterator[Episode]:
    """Play one episode for each of `seeds` in the rows of `envs`, and yield each when it has ended.

    An episode depends on its seed alone: not on the number of rows, on its row, or on the others. They come in the
    order in which they end; `extras["seed"]` tells them apart. `extra_keys` names entries of `info` to keep as extras,
    with T + 1 entries. `between_steps` is called while no process is at work: the place to stop.

    `envs` must not reset itself (`AutoresetMode.DISABLED`, as `make_vec` gives it). Raises InputError if it does, or
    if `info` lacks one of `extra_keys`.
    """
    mode = envs.metadata.get("autoreset_mode")
    if mode != AutoresetMode.DISABLED:
        raise InputError(f"play needs environments with AutoresetMode.DISABLED (envs.make_vec), these have {mode}")
    if not seeds:
        return
    waiting = deque(int(seed) for seed in seeds)
    tracks: list[_Track | None] = [None] * envs.num_envs
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
                track.add(frames[row], NO_ACTION, 0.0, _extras(info, extra_keys, row))
        ended = np.zeros(envs.num_envs, np.bool_)
        while not ended.any():
            if between_steps is not None:
                between_steps()
            actions = np.asarray(policy.act(frames, info), np.int64)
            frames, rewards, terminated, truncated, info = envs.step(actions)
            for row, track in enumerate(tracks):
                if track is not None:
                    track.add(frames[row], int(actions[row]), float(rewards[row]), _extras(info, extra_keys, row))
            ended = np.asarray(terminated | truncated)
        for row in np.flatnonzero(ended).tolist():
            track = tracks[row]
            if track is not None:
                yield track.episode(bool(terminated[row]), bool(truncated[row]))


def record(
    config: EnvConfig,
    store: EpisodeStore,
    policy: Policy,
    *,
    episodes: int,
    num_envs: int,
    seed: int,
    processes: bool = True,
    max_frames: int | None = None,
    progress: bool = True,
) -> RecordSummary:
    """Play episodes with the seeds `seed .. seed + episodes - 1`, up to `num_envs` at once, appending to `store`.

    Seeds that the store holds already are skipped, so a recording that was interrupted goes on where it stood and has
    lost only the episodes that had not ended; give another policy other seeds. With `max_frames` no episode is added
    once the recording has that many frames.

    Raises InputError for counts below 1 and where the store has frames of another size than the environment.
    """
    if episodes < 1 or num_envs < 1 or seed < 0:
        raise InputError(
            "record needs episodes and num_envs of 1 or more and a seed of 0 or more, "
            f"got {episodes}, {num_envs} and {seed}"
        )
    store.refresh()
    wanted = range(seed, seed + episodes)
    returns, frames = _recorded(store, wanted)
    skipped, steps = len(returns), 0
    missing = [wish for wish in wanted if wish not in returns]
    inverse = inverse_actions(config)
    known = {} if inverse is None else {INVERSE_KEY: inverse}
    budget = float("inf") if max_frames is None else max_frames
    began = time.perf_counter()
    if missing and frames < budget:
        # Interrupted in the middle of an exchange with its processes, it could not close them in order.
        with (
            deferred_interrupts() as interrupt,
            open_envs(config, min(num_envs, len(missing)), processes=processes) as envs,
        ):
            _check_frame_size(envs, store, config)
            # Both vector classes have get_attr, their base does not declare it.
            keys = cast("SyncVectorEnv", envs).get_attr("extra_keys")[0]
            began = time.perf_counter()
            if max_frames is None:
                bar = Bar(config.id, episodes, "episode", initial=skipped, show=progress)
            else:
                bar = Bar(config.id, max_frames, "frame", initial=frames, scale=True, show=progress)
            with bar:
                for played in play(envs, policy, missing, extra_keys=keys, between_steps=interrupt):
                    episode = replace(played, extras={**known, **played.extras})
                    store.append(episode)
                    returns[int(episode.extras[SEED_KEY])] = float(episode.reward.sum())
                    frames += len(episode.image)
                    steps += len(episode.image) - 1
                    bar.note({"steps/s": f"{steps / (time.perf_counter() - began):.0f}"})
                    bar.update(1 if max_frames is None else len(episode.image))
                    if frames >= budget:
                        break
    seconds = time.perf_counter() - began
    ordered = tuple(returns[wish] for wish in wanted if wish in returns)
    return RecordSummary(
        episodes=len(ordered),
        frames=frames,
        seconds=seconds,
        steps_per_second=steps / seconds,
        mean_return=float(np.mean(ordered)) if ordered else float("nan"),
        returns=ordered,
        skipped=skipped,
    )


@contextmanager
def open_envs(config: EnvConfig, num_envs: int, *, processes: bool = True) -> Iterator[FrameVectorEnv]:
    """Environments that are closed whatever happens, Ctrl-C included."""
    # Workers inherit the blocked signal. Ctrl-C would reach them too, and their parent could not close them in order.
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        envs = make_vec(config, num_envs, processes=processes)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    complete = False
    try:
        yield envs
        complete = True
    finally:
        # An interrupted step may have taken the answers of some workers only: waiting for the others would hang.
        envs.close(terminate=not complete)


def _recorded(store: EpisodeStore, wanted: range) -> tuple[dict[int, float], int]:
    """The returns of the `wanted` seeds that the store holds, by seed, and how many frames they have."""
    returns: dict[int, float] = {}
    frames = 0
    for name, length in zip(store.names, store.lengths, strict=True):
        seed = store.read_array(name, SEED_KEY)
        if seed is not None and int(seed) in wanted:
            rewards = store.read_array(name, "reward")
            assert rewards is not None  # the store indexes no file without
            returns[int(seed)] = float(rewards.sum())
            frames += int(length)
    return returns, frames


def _check_frame_size(envs: FrameVectorEnv, store: EpisodeStore, config: EnvConfig) -> None:
    shape = envs.single_observation_space.shape
    if len(store) and shape is not None and shape[:2] != store.image_shape:
        raise InputError(
            f"{config.id} shows frames of {shape[:2]}, but the episodes in {store.root} have {store.image_shape}: "
            "set EnvConfig.size to match, or record into another folder"
        )


def _extras(info: Mapping[str, Any], keys: Sequence[str], row: int) -> dict[str, NDArray[Any]]:
    missing = [key for key in keys if key not in info or not info[f"_{key}"][row]]
    if missing:
        raise InputError(
            f"extra keys {missing} are not in info, which has {sorted(info)}: leave them out of extra_keys"
        )
    return {key: info[key][row] for key in keys}
