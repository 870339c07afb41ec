"""What callers hand over at a step or a reset, checked: actions, masks, seeds, and requests of contexts and goals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lssvwm.envs.dream.contexts import Context, Told
from lssvwm.envs.dream.dreams import ResetRequests
from lssvwm.envs.dream.options import WHOLE, DreamOptions
from lssvwm.worldmodel.actions import ActionPart, ActionSpec, actions_of
from lssvwm.worldmodel.common.errors import InputError, one_line
from lssvwm.worldmodel.config import WorldModelConfig
from lssvwm.worldmodel.episodes import NO_ACTION, Clips, EpisodeStore

FRAMES, ACTIONS, LENGTH, EPISODE, START = "context_frames", "context_actions", "context_length", "episode", "start"
TOLD = "told"
_CONTEXT = (FRAMES, ACTIONS, LENGTH, EPISODE, START)
RESET_OPTIONS = ("reset_mask", *_CONTEXT, TOLD)
"""What `reset` takes as options."""


def check_actions(actions: Any, rows: int, space: ActionSpec, device: torch.device) -> Tensor:
    """Actions of `rows` rows as `space` has them, as the model wants them, on `device`, in storage of their own.

    That is (rows,) int64 where an action is one of n, else (rows, A) float32.
    """
    if space.count:
        return _numbers(actions, rows, space.count, device)
    keys = [part.key for part in space.parts]
    if space.named and not (isinstance(actions, Mapping) and set(actions) == set(keys)):
        got = sorted(actions) if isinstance(actions, Mapping) else type(actions).__name__
        raise InputError(f"actions must be a dictionary with the keys {sorted(keys)}, got {got}")
    entries = actions if space.named else {"": actions}
    vectors = torch.cat([_part(entries[part.key], rows, part, device) for part in space.parts], 1)
    low, high = (vectors.new_tensor(bound) for bound in (space.low, space.high))
    if not bool(((vectors >= low) & (vectors <= high)).all()):
        raise InputError(f"actions {vectors.tolist()} are outside the action space: {space}")
    return vectors


def _part(actions: Any, rows: int, part: ActionPart, device: torch.device) -> Tensor:
    name = f"'{part.key}' of actions" if part.key else "actions"
    chosen = _tensor(actions, name)
    if chosen.shape != (rows, *part.shape) or chosen.is_complex() or (part.choices and chosen.is_floating_point()):
        kind = "whole numbers" if part.choices else "numbers"
        raise InputError(
            f"{name} must be {kind} of shape {(rows, *part.shape)}, got {chosen.dtype} {tuple(chosen.shape)}"
        )
    return chosen.to(device, torch.float32).reshape(rows, -1)


def _numbers(actions: Any, rows: int, count: int, device: torch.device) -> Tensor:
    chosen = _tensor(actions, "actions")
    whole = not (chosen.is_floating_point() or chosen.is_complex() or chosen.dtype == torch.bool)
    if chosen.shape != (rows,) or not whole:
        raise InputError(f"actions must be {rows} whole numbers, got {chosen.dtype} {tuple(chosen.shape)}")
    numbers = chosen.to(device, torch.int64, copy=True)  # torch compares no unsigned ones; too large, they are negative
    if bool(((numbers < 0) | (numbers >= count)).any()):
        raise InputError(f"actions {chosen.tolist()} are outside the action space Discrete({count})")
    return numbers


def _tensor(given: Any, name: str) -> Tensor:
    try:
        return torch.as_tensor(given)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:  # text, objects, lists of different lengths
        raise InputError(f"{name} must be numbers, got {one_line(repr(given))}") from error


def check_mask(name: str, mask: Any, rows: int, *, some: bool = False) -> NDArray[np.bool_]:
    """`mask`, bool (rows,), as an array; None is every row. With `some`, one of them must be True."""
    if mask is None:
        return np.ones(rows, bool)
    try:
        checked = np.array(mask.cpu().numpy() if isinstance(mask, Tensor) else mask)
    except ValueError:  # lists of different lengths
        checked = np.array(None)
    if checked.shape != (rows,) or checked.dtype != np.bool_ or (some and not checked.any()):
        got = one_line(repr(mask))
        raise InputError(f"{name} must be bool ({rows},){' with at least one True' * some}, got {got}")
    return checked


def check_seeds(seed: int | Sequence[int | None] | None, rows: int) -> list[int | None]:
    """One seed per row, None for a row that goes on with its own random numbers."""
    if seed is None:
        return [None] * rows
    if isinstance(seed, int | np.integer) and not isinstance(seed, bool):
        seeds: list[Any] = [int(seed) + row for row in range(rows)]
    else:
        seeds = list(seed) if isinstance(seed, Sequence | np.ndarray) and not isinstance(seed, str | bytes) else [seed]
    if any(isinstance(s, bool) or not isinstance(s, int | np.integer | None) for s in seeds):
        raise InputError(f"seeds {seed!r:.80}: give a whole number, or one per row, each a whole number or None")
    if len(seeds) != rows:
        raise InputError(f"{len(seeds)} seeds for {rows} rows: give one per row, or a single number")
    if any(s is not None and not 0 <= s < 2**63 for s in seeds):
        raise InputError(f"seeds {seeds}: give numbers from 0 to below 2 ** 63")
    return [None if s is None else int(s) for s in seeds]


def check_row_numbers(rows: Sequence[int] | NDArray[np.int64], count: int) -> Tensor:
    """Numbers of rows, repeats allowed, as an index int64."""
    numbers = np.asarray(rows)
    if numbers.dtype.kind not in "iu" or not set(numbers.tolist()) <= set(range(count)):
        raise InputError(f"rows={rows!r}: give some of the row numbers 0 to {count - 1}")
    return torch.as_tensor(numbers, dtype=torch.int64)


def check_reset_options(
    options: Mapping[str, Any] | None,
    rows: NDArray[np.bool_],
    store: EpisodeStore,
    config: WorldModelConfig,
    dream: DreamOptions,
) -> ResetRequests:
    """Contexts and what is told of those of `rows` (N,) for which `options` of `DreamVectorEnv.reset` say so.

    Raises InputError, naming option and row, for what is unknown, half given or does not fit the world.
    """
    options = options or {}
    if unknown := sorted(map(str, set(options) - set(RESET_OPTIONS))):
        raise InputError(f"reset(options=...) has an unknown '{unknown[0]}': give some of {', '.join(RESET_OPTIONS)}")
    if options.get(LENGTH) is not None and options.get(FRAMES) is None:
        raise InputError(f"reset(options=...): '{LENGTH}' goes with '{FRAMES}'")
    told = _requested_told(options.get(TOLD), rows, config)
    given = {key: _per_row(key, options.get(key), len(rows)) for key in _CONTEXT}
    contexts: dict[int, Context] = {}
    for row in np.flatnonzero(rows).tolist():
        frames, actions, length, episode, start = (given[key][row] for key in _CONTEXT)
        where = f"of row {row} in reset(options=...)"
        if (frames is None) != (actions is None) or (episode is None) != (start is None):
            raise InputError(f"half a context {where}: give '{FRAMES}' and '{ACTIONS}', or '{EPISODE}' and '{START}'")
        if frames is not None and episode is not None:
            raise InputError(f"the context {where} is given twice: '{FRAMES}' or '{EPISODE}'")
        if frames is not None:
            if missing := [part.key for part in config.told if part.key not in told.get(row, {})]:
                raise InputError(
                    f"'{FRAMES}' {where} do not say what the world model is told: give '{TOLD}' with '{missing[0]}' too"
                )
            contexts[row] = Context(_given_clips(frames, actions, length, config, dream, where), None)
        elif episode is not None:
            contexts[row] = _recorded_context(episode, start, store, dream, where)
    return ResetRequests(contexts, told)


def _requested_told(given: Any, rows: NDArray[np.bool_], config: WorldModelConfig) -> dict[int, Told]:
    if given is None:
        return {}
    parts = {part.key: part for part in config.told}
    if not isinstance(given, Mapping) or (unknown := sorted(map(str, set(given) - set(parts)))):
        got = f"'{unknown[0]}'" if isinstance(given, Mapping) else type(given).__name__
        raise InputError(
            f"'{TOLD}' in reset(options=...) must be a dictionary with keys that the world model is told, "
            f"{sorted(parts) or 'of which it has none'}, got {got}"
        )
    found: dict[int, dict[str, NDArray[np.float32]]] = {}
    for key, values in given.items():
        for row, value in enumerate(_per_row(key, values, len(rows))):
            if value is not None and rows[row]:
                plain = value.cpu().numpy() if isinstance(value, Tensor) else value
                where = f"'{TOLD}' of row {row} in reset(options=...)"
                found.setdefault(row, {})[key] = parts[key].encode(plain, where)
    return {**found}


def _per_row(key: str, value: Any, rows: int) -> Sequence[Any]:
    if value is None:
        return [None] * rows
    rowed = isinstance(value, list | tuple) or (isinstance(value, np.ndarray | Tensor) and value.ndim > 0)
    if not rowed or len(value) != rows:
        raise InputError(f"'{key}' in reset(options=...) needs {rows} entries, one per row, None for those without")
    return value  # type: ignore[no-any-return]


def _array(value: Any) -> NDArray[Any]:
    try:
        return np.asarray(value.cpu().numpy() if isinstance(value, Tensor) else value)
    except (ValueError, TypeError):  # lists of different lengths, or of what is no number
        return np.asarray(None)


def _is_action(led: NDArray[Any], config: WorldModelConfig) -> bool:
    """Whether every row of `led` (C, A) is an action, or NaN throughout. Numbers may lie out of a box, as recorded."""
    with np.errstate(over="ignore"):  # infinite then
        rows = led[~np.isnan(led).all(1)].astype(np.float32)
    counts = np.array(actions_of(config).choices)
    chosen, counts = rows[:, counts > 0], counts[counts > 0]
    whole = (chosen == np.floor(chosen)) & (chosen >= 0) & (chosen < counts)
    return bool(np.isfinite(rows).all() and whole.all())


def _given_clips(
    frames: Any, actions: Any, length: Any, config: WorldModelConfig, dream: DreamOptions, where: str
) -> Clips:
    """Frames and actions of a row, as a batch of one."""
    shown, size = _array(frames), (config.height, config.width)
    wanted = (3, *size) if dream.channels_first else (*size, 3)
    if shown.dtype != np.uint8 or shown.ndim != 4 or shown.shape[1:] != wanted or not len(shown):
        raise InputError(
            f"'{FRAMES}' {where} must be uint8 (C, {', '.join(map(str, wanted))}) with C >= 1, "
            f"got {shown.dtype} {shown.shape}"
        )
    led = _array(actions)
    if config.action_size:
        fits = led.dtype.kind in "fiu" and led.shape == (len(shown), config.action_size) and _is_action(led, config)
        kind = f"finite numbers (C, {config.action_size}) of {actions_of(config)}, a row of NaN for none"
    else:
        fits = led.dtype.kind in "iu" and led.shape == (len(shown),)
        fits = fits and bool(((led >= NO_ACTION) & (led < config.num_actions)).all())
        kind = f"whole numbers (C,) from 0 to {config.num_actions - 1}, {NO_ACTION} for none"
    if not fits:
        raise InputError(
            f"'{ACTIONS}' {where} must be {kind}, one for each of the {len(shown)} frames that it led to, "
            f"got {led.dtype} {led.shape}{f': {led.tolist()}' if led.size <= 16 else ''}"
        )
    if length is not None:
        count = _array(length)
        if count.dtype.kind not in "iu" or count.ndim or not 1 <= count <= len(shown):
            raise InputError(f"'{LENGTH}' {where} must be from 1 to {len(shown)}, its frames, got {length!r}")
        shown, led = shown[-int(count) :], led[-int(count) :]
    if dream.channels_first:
        shown = shown.transpose(0, 2, 3, 1)
    c = len(shown)
    return Clips(
        frames=torch.from_numpy(shown.copy())[None],
        actions=torch.from_numpy(led.astype(np.float32 if config.action_size else np.int64))[None],
        rewards=torch.zeros(1, c),
        terminated=torch.zeros(1, c, dtype=torch.bool),
        mask=torch.ones(1, c, dtype=torch.bool),
    )


def _recorded_context(episode: Any, start: Any, store: EpisodeStore, dream: DreamOptions, where: str) -> Context:
    """The context that ends with a frame of an episode, as long as the environment's are."""
    frames = store.frames_of(episode) if isinstance(episode, str) else 0
    if not frames:
        raise InputError(f"'{EPISODE}' {where}: {store.root} has no episode {episode!r}, see EpisodeStore.names")
    at = _array(start)
    if at.dtype.kind not in "iu" or at.ndim or not 0 <= at < frames:
        raise InputError(f"'{START}' {where} must be a frame of {episode}, from 0 to {frames - 1}, got {start!r}")
    wanted = dream.context_length
    longest = int(at) + 1 if wanted == WHOLE else wanted[1] if isinstance(wanted, tuple) else int(wanted)
    begin = max(int(at) + 1 - longest, 0)
    row = np.array([store.names.index(episode)])
    clips = store.gather(row, np.array([begin]), int(at) + 1 - begin)
    return Context(clips, episode if wanted == WHOLE else None)
