"""Play a policy in a real environment and write the episodes: seeded, in several processes, resumable."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from lssvwm.envs.factory import EnvConfig, maker
from lssvwm.envs.policy import Policy
from lssvwm.envs.recording.playing import play_pool
from lssvwm.envs.recording.pool import open_pool
from lssvwm.envs.recording.provenance import SEED_KEY, Entry, Source, check_same_world, listed, told
from lssvwm.envs.recording.writing import Writers
from lssvwm.envs.worlds.inverses import inverse_actions
from lssvwm.worldmodel.actions import ActionSpec
from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.common.progress import Bar
from lssvwm.worldmodel.common.stepping import deferred_interrupts
from lssvwm.worldmodel.episodes import EpisodeStore
from lssvwm.worldmodel.episodes.data import FPS_KEY, INVERSE_KEY

__all__ = ["SEED_KEY", "RecordSummary", "record"]

_log = logging.getLogger(__name__)

PIECE_BYTES = 1 << 29
"""Frames of an episode that a row holds in memory at most; what is longer is written in pieces."""


@dataclass(frozen=True)
class RecordSummary:
    """What `record` left in the store.

    `episodes`, `frames`, `steps` of the environment, `returns` (in the order of the seeds) and `mean_return` (nan
    without episodes) are of the whole recording, the `skipped` episodes of earlier calls included. `seconds` of play,
    without the start of the processes, and `steps_per_second` are of this call, as are the seeds that `failed` and have
    no whole episode.
    """

    episodes: int
    frames: int
    steps: int
    seconds: float
    steps_per_second: float
    mean_return: float
    returns: tuple[float, ...]
    skipped: int
    failed: tuple[int, ...] = ()


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
    piece_frames: int | None = None,
    timeout: float = 1000.0,
    attempts: int = 3,
    progress: bool = True,
) -> RecordSummary:
    """Play episodes with the seeds `seed .. seed + episodes - 1`, up to `num_envs` at once, appending to `store`.

    Rows in play are stepped together, while others are reset: each in a process of its own if `processes`. Episodes are
    written by threads. A process that fails, or takes `timeout` seconds for a reset or a step, is replaced, with the
    reason in the log. One that takes far longer for a step than others for theirs has failed too, unless its seed has
    before, and plays on when it is ready. A seed that has failed `attempts` times is skipped, and
    `RecordSummary.failed` names it.

    Seeds that the store holds already are skipped, so a recording that was interrupted goes on where it stood and has
    lost only the episodes that had not ended. With `max_frames` no episode is added once the recording has that many
    frames. An episode of more than `piece_frames` (by default as many as fill 512 MiB) is written in pieces, each
    beginning with the last frame of the one before, of which only the last ends as the episode does.

    Raises InputError for counts below 1, where the store has frames of another size than the environment, other
    actions, episodes of another world, seeds that were played with other settings or another policy, or pieces of a
    missing seed that were cut with other `piece_frames`, and where every seed fails.
    """
    if episodes < 1 or num_envs < 1 or seed < 0:
        raise InputError(
            "record needs episodes and num_envs of 1 or more and a seed of 0 or more, "
            f"got {episodes}, {num_envs} and {seed}"
        )
    if attempts < 1 or not timeout > 0 or (piece_frames is not None and piece_frames < 2):
        raise InputError(
            "record needs attempts of 1 or more, a timeout above 0 and piece_frames of 2 or more, "
            f"got {attempts}, {timeout} and {piece_frames}"
        )
    store.refresh()
    wanted = range(seed, seed + episodes)
    create = maker(config)
    source = Source.of(config, policy)
    entries = listed(store)
    check_same_world(entries, source, store, wanted)
    ours = [entry for entry in entries if entry.seed in wanted]
    frames = sum(entry.frames for entry in ours)
    returns, parts = _whole(ours)
    skipped, steps, before = len(returns), 0, frames - len(ours)
    failed: dict[int, str] = {}
    missing = [wish for wish in wanted if wish not in returns]
    inverse = inverse_actions(config)
    known = {} if inverse is None else {INVERSE_KEY: inverse}
    budget = float("inf") if max_frames is None else max_frames
    began = time.perf_counter()
    if missing and frames < budget:
        # Interrupted in the middle of an exchange with its processes, it could not close them in order.
        with (
            deferred_interrupts() as interrupt,
            open_pool(
                create, min(num_envs, len(missing)), processes=processes, timeout=timeout, between=interrupt
            ) as pool,
            Writers(store) as writers,
        ):
            _check_frame_size(pool.made.frame_shape, store, config)
            if pool.made.fps is not None:
                known |= {FPS_KEY: np.array(pool.made.fps)}
            _check_actions(pool.made.actions, store, config)
            began = time.perf_counter()
            if max_frames is None:
                bar = Bar(config.id, episodes, "episode", initial=skipped, show=progress)
            else:
                bar = Bar(config.id, max_frames, "frame", initial=frames, scale=True, show=progress)
            longest = piece_frames or max(2, PIECE_BYTES // int(np.prod(pool.made.frame_shape)))
            _check_pieces([entry for entry in ours if entry.seed not in returns], longest, store)
            with bar:
                for piece in play_pool(pool, policy, missing, longest, attempts, failed, interrupt):
                    length = len(piece.episode.image)
                    key = (piece.seed, piece.first)
                    if key not in parts:  # a recording that was interrupted may have written it
                        episode = replace(piece.episode, extras={**known, **piece.episode.extras})
                        writers.put(told(episode, source, first=piece.first, more=piece.more))
                        parts[key] = float(piece.episode.reward.sum())
                        frames += length
                        steps += length - 1
                    if not piece.more:
                        returns[piece.seed] = sum(total for (one, _), total in parts.items() if one == piece.seed)
                    bar.note({"steps/s": f"{steps / (time.perf_counter() - began):.0f}"})
                    if max_frames is not None:
                        bar.update(min(frames, max_frames) - bar.done)
                    elif not piece.more:
                        bar.update()
                    if frames >= budget:
                        break
        store.refresh()
        if failed and not returns:
            example = min(failed)
            raise InputError(f"{config.id} failed with every seed, {attempts} times each; {example}: {failed[example]}")
        if failed:
            example = min(failed)
            _log.warning("%d seeds failed and are skipped; %d: %s", len(failed), example, failed[example])
    seconds = time.perf_counter() - began
    ordered = tuple(returns[wish] for wish in wanted if wish in returns)
    return RecordSummary(
        episodes=len(ordered),
        frames=frames,
        steps=before + steps,
        seconds=seconds,
        steps_per_second=steps / seconds,
        mean_return=float(np.mean(ordered)) if ordered else float("nan"),
        returns=ordered,
        skipped=skipped,
        failed=tuple(sorted(failed)),
    )


def _whole(entries: Sequence[Entry]) -> tuple[dict[int, float], dict[tuple[int, int], float]]:
    """The returns of the seeds whose episodes are there to their end, and those of all pieces by seed and frame."""
    found = {(entry.seed, entry.first): entry for entry in entries if entry.seed is not None}
    parts = {key: entry.total for key, entry in found.items()}
    returns: dict[int, float] = {}
    for seed in {seed for seed, _ in parts}:
        total, piece = 0.0, found.pop((seed, 0), None)
        while piece is not None:  # one may be missing between others: several are written at once
            total += piece.total
            if not piece.more:
                returns[seed] = total
                break
            piece = found.pop((seed, piece.first + piece.frames - 1), None)
    return returns, parts


def _check_actions(actions: ActionSpec, store: EpisodeStore, config: EnvConfig) -> None:
    if len(store) and store.action_size != actions.size:
        raise InputError(
            f"{config.id} is played with actions of {actions.size} numbers (0: discrete), those of the episodes in "
            f"{store.root} have {store.action_size}: record into another folder"
        )


def _check_pieces(entries: Sequence[Entry], longest: int, store: EpisodeStore) -> None:
    for entry in entries:
        fits = entry.frames == longest if entry.more else entry.frames <= longest
        if entry.first % (longest - 1) or not fits:
            raise InputError(
                f"{store.root / entry.file} has {entry.frames} frames of seed {entry.seed} from frame {entry.first}, "
                f"which piece_frames={longest} would cut otherwise: give the piece_frames that it was recorded with, "
                "give other seeds, or record into another folder"
            )


def _check_frame_size(shape: tuple[int, ...], store: EpisodeStore, config: EnvConfig) -> None:
    if len(store) and shape[:2] != store.image_shape:
        raise InputError(
            f"{config.id} shows frames of {shape[:2]}, but the episodes in {store.root} have {store.image_shape}: "
            "set EnvConfig.size to match, or record into another folder"
        )
