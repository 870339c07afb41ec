"""Dreams that begin where the caller says: after frames that it hands over, or at a frame of a recorded episode."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lssvwm.envs.dream.options import WHOLE, DreamOptions
from lssvwm.envs.dream.starts import Start, Told
from lssvwm.worldmodel.actions import actions_of
from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.config import WorldModelConfig
from lssvwm.worldmodel.episodes import NO_ACTION, Clips, EpisodeStore

FRAMES, ACTIONS, LENGTH, EPISODE, START = "context_frames", "context_actions", "context_length", "episode", "start"
TOLD = "told"
_PLACES = (FRAMES, ACTIONS, LENGTH, EPISODE, START)
OPTIONS = ("reset_mask", *_PLACES, TOLD)
"""What `reset` takes as options."""


def asked(
    options: Mapping[str, Any] | None,
    rows: NDArray[np.bool_],
    store: EpisodeStore,
    config: WorldModelConfig,
    dream: DreamOptions,
    told: Mapping[int, Told],
) -> dict[int, Start]:
    """Where those of `rows` (N,) begin for which `options` of `reset` say so; others are not in the answer.

    `told` is what `asked_told` finds in the same options.
    `DreamVectorEnv.reset` says what they mean. Raises InputError, naming option and row, for what cannot be meant.
    """
    options = options or {}
    if unknown := sorted(map(str, set(options) - set(OPTIONS))):
        raise InputError(f"reset(options=...) has an unknown '{unknown[0]}': give some of {', '.join(OPTIONS)}")
    if options.get(LENGTH) is not None and options.get(FRAMES) is None:
        raise InputError(f"reset(options=...): '{LENGTH}' goes with '{FRAMES}'")
    given = {key: _per_row(key, options.get(key), len(rows)) for key in _PLACES}
    starts: dict[int, Start] = {}
    for row in np.flatnonzero(rows).tolist():
        frames, actions, length, episode, start = (given[key][row] for key in _PLACES)
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
            starts[row] = Start(_handed(frames, actions, length, config, dream, where), None)
        elif episode is not None:
            starts[row] = _recorded(episode, start, store, dream, where)
    return starts


def asked_told(options: Mapping[str, Any] | None, rows: NDArray[np.bool_], config: WorldModelConfig) -> dict[int, Told]:
    """What those of `rows` (N,) are to be told for which `options` of `reset` say so. Raises InputError as `asked`."""
    given = (options or {}).get(TOLD)
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


def _known(led: NDArray[Any], config: WorldModelConfig) -> bool:
    """Whether every row of `led` (C, A) is an action, or NaN throughout. Numbers may lie out of a box, as recorded."""
    with np.errstate(over="ignore"):  # infinite then
        rows = led[~np.isnan(led).all(1)].astype(np.float32)
    counts = np.array(actions_of(config).choices)
    chosen, counts = rows[:, counts > 0], counts[counts > 0]
    whole = (chosen == np.floor(chosen)) & (chosen >= 0) & (chosen < counts)
    return bool(np.isfinite(rows).all() and whole.all())


def _handed(frames: Any, actions: Any, length: Any, config: WorldModelConfig, dream: DreamOptions, where: str) -> Clips:
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
        fits = led.dtype.kind in "fiu" and led.shape == (len(shown), config.action_size) and _known(led, config)
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


def _recorded(episode: Any, start: Any, store: EpisodeStore, dream: DreamOptions, where: str) -> Start:
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
    return Start(clips, episode if wanted == WHOLE else None)
