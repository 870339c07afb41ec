"""Play a policy, one episode for each seed, in a pool in which resets block nobody."""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lssvwm.envs.policy import Disturbed, FrameArray, Policy
from lssvwm.envs.recording.pool import Answer, Failure, Pool
from lssvwm.envs.recording.provenance import SEED_KEY
from lssvwm.envs.spaces.actions import as_recorded, no_action
from lssvwm.envs.spaces.masks import MASK_KEY
from lssvwm.worldmodel.episodes import Episode
from lssvwm.worldmodel.episodes.data import INTENDED_KEY

_log = logging.getLogger(__name__)


@dataclass
class _Track:
    """The episode that a row plays, so far."""

    seed: int
    frames: list[FrameArray] = field(default_factory=list)
    actions: list[Any] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    extras: dict[str, list[NDArray[Any]]] = field(default_factory=dict)

    def add(self, frame: FrameArray, action: Any, reward: float, extras: Mapping[str, NDArray[Any]]) -> None:
        self.frames.append(frame.copy())  # a view would keep the frames of all rows alive
        self.actions.append(action)
        self.rewards.append(reward)
        for key, value in extras.items():
            self.extras.setdefault(key, []).append(np.array(value))

    def episode(self, terminated: bool, truncated: bool) -> Episode:
        last = np.arange(len(self.frames)) == len(self.frames) - 1
        return Episode(
            image=np.stack(self.frames),
            action=np.stack(self.actions),
            reward=np.array(self.rewards, np.float32),
            terminated=last & terminated,
            truncated=last & truncated,
            extras={key: _kept(values) for key, values in self.extras.items()}
            | {SEED_KEY: np.array(self.seed, np.int64)},
        )


def _kept(values: list[NDArray[Any]]) -> NDArray[Any]:
    """One entry per frame; a text that is always the same, once."""
    stacked = np.stack(values)
    same = stacked.dtype.kind == "U" and stacked.ndim == 1 and bool((stacked == stacked[0]).all())
    return stacked[:1].reshape(()) if same else stacked


@dataclass(frozen=True)
class Piece:
    """An episode, or a part of it that begins with its frame `first`; `more` of it may follow."""

    seed: int
    first: int
    more: bool
    episode: Episode


def play_pool(
    pool: Pool,
    policy: Policy,
    seeds: Sequence[int],
    longest: int,
    attempts: int,
    failed: dict[int, str],
    between: Callable[[], None],
) -> Iterator[Piece]:
    """Play one episode for each of `seeds`, and yield each, or its pieces of `longest` frames, when they have ended.

    An episode depends on its seed alone: not on the number of rows, on its row, or on the others. A row that has none
    left is shown what another sees. Seeds that failed `attempts` times go into `failed`, with the reason. `between` is
    called between steps: the place to stop.
    """
    count = min(pool.count, len(seeds))
    waiting = deque(int(seed) for seed in seeds)
    tracks: list[_Track | None] = [None] * count
    firsts = [0] * count
    shown: list[Answer | None] = [None] * count
    playing: set[int] = set()
    late: set[int] = set()
    tries: Counter[int] = Counter()
    begun, meant, disturbed = False, None, policy if isinstance(policy, Disturbed) else None
    keys, space = pool.made.extra_keys, pool.made.actions
    kept = [keys] * count
    while True:
        for row in range(count):
            if tracks[row] is None and row not in late and waiting:
                tracks[row], firsts[row] = (new := _Track(waiting.popleft())), 0
                pool.reset(row, new.seed)
        if not any(tracks):
            return
        between()
        rows = sorted(playing)
        if rows:
            frames, info = _together(shown)
            actions = as_recorded(space, policy.act(frames, info), count)
            meant = None if disturbed is None else as_recorded(space, disturbed.intended(), count)
            for row in rows:
                pool.step(row, actions[row])
        # A seed that has failed before is waited for: it may take as long whenever it is played.
        hurried = [row for row in rows if attempts > 1 and (track := tracks[row]) and not tries[track.seed]]
        answers = pool.collect(rows, between, hurried)
        free = {row for row in late if row in answers}  # what they answer to nobody waits for any more
        late -= free
        answers = {row: answer for row, answer in answers.items() if row not in free}
        for row in playing - answers.keys():
            answers[row] = Failure("no answer long after the others")
            late.add(row)
        started = [row for row, answer in answers.items() if row not in playing and isinstance(answer, Answer)]
        for row, answer in sorted(answers.items()):
            track = tracks[row]
            assert track is not None  # nothing else was asked
            if isinstance(answer, Failure):
                tries[track.seed] += 1
                again = tries[track.seed] < attempts
                where = f"\n{answer.trace}" if answer.trace and tries[track.seed] == 1 else ""
                _log.warning(
                    "seed %d failed (%d of %d): %s%s", track.seed, tries[track.seed], attempts, answer.reason, where
                )
                if again:
                    waiting.appendleft(track.seed)
                else:
                    failed[track.seed] = answer.reason
                tracks[row] = None
                playing.discard(row)
                continue
            shown[row] = answer
            took = actions[row] if row in playing else no_action(space)
            if row not in playing:
                masked = space.count and MASK_KEY in answer.info
                kept[row] = tuple(dict.fromkeys((*keys, MASK_KEY))) if masked else keys
            extras = {key: answer.info[key] for key in kept[row]}
            if disturbed is not None:
                extras[INTENDED_KEY] = no_action(space) if meant is None or row not in playing else meant[row]
            track.add(answer.frame, took, answer.reward, extras)
            if answer.terminated or answer.truncated:
                yield Piece(track.seed, firsts[row], False, track.episode(answer.terminated, answer.truncated))
                tracks[row] = shown[row] = None  # nothing follows, and its mask may say so
                playing.discard(row)
            elif len(track.frames) == longest:
                yield Piece(track.seed, firsts[row], True, track.episode(False, True))
                firsts[row] += longest - 1
                tracks[row] = rest = _Track(track.seed)
                if disturbed is not None:
                    extras[INTENDED_KEY] = no_action(space)
                rest.add(answer.frame, no_action(space), 0.0, extras)
        if started:
            playing |= set(started)
            # At first in all rows: those whose reset takes longer are shown what another sees, and begin anew later.
            told_rows = sorted(started) if begun else list(range(count))
            begun = True
            all_seeds = [track.seed if track else int(seeds[-1]) for track in tracks]
            policy.reset(np.array(told_rows, np.int64), np.array([all_seeds[row] for row in told_rows], np.int64))


def _together(shown: Sequence[Answer | None]) -> tuple[FrameArray, dict[str, Any]]:
    """Frames and info of all rows."""
    some = next(answer for answer in shown if answer is not None)
    answers = [answer or some for answer in shown]
    return np.stack([answer.frame for answer in answers]), _merged([answer.info for answer in answers])


def _merged(infos: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Infos of all rows as those of Gymnasium's vector environments, but of types that hold what every row has.

    There the first row decides, and here one may have been reset while the others took a step.
    """
    info: dict[str, Any] = {}
    for key in dict.fromkeys(key for each in infos for key in each):
        has = np.array([key in each for each in infos])
        values = [each[key] for each in infos if key in each]
        if all(isinstance(value, Mapping) for value in values):
            info[key] = _merged([each.get(key, {}) for each in infos])
        else:
            plain = all(isinstance(value, np.ndarray | np.generic | float | int) for value in values)
            arrays = [np.asarray(value) for value in values] if plain else []
            alike = len({each.shape for each in arrays}) == 1 and all(each.dtype.kind in "biuf" for each in arrays)
            shape, dtype = (arrays[0].shape, np.result_type(*arrays)) if alike else ((), np.dtype(object))
            info[key] = np.zeros((len(infos), *shape), dtype) if alike else np.full(len(infos), None, dtype)
            for row, value in zip(np.flatnonzero(has).tolist(), values, strict=True):
                info[key][row] = value
        info[f"_{key}"] = has
    return info
