"""Where both worlds begin: after the context, a recorded past that the dream reads and the real world plays again."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lssvwm.envs.recording.provenance import FIRST_KEY, SEED_KEY
from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.episodes import Clips, EpisodeStore


@dataclass(frozen=True)
class PlayContext:
    """The first C frames of a recorded episode."""

    number: int
    """Which of the contexts that follow from the session's seed."""
    episode: str
    clips: Clips  # (1, C, ...)
    seed: int | None
    """What the real world was reset with; None where the recording does not tell it."""

    @property
    def frames(self) -> int:
        """C, at least 1."""
        return self.clips.frames.shape[1]


def choose_context(store: EpisodeStore, number: int, *, seed: int, longest: int) -> PlayContext:
    """Context `number`: an episode and a moment in it, before which lie at most `longest` frames and half of it.

    Depends on nothing else. At least half of what may be read is, and episodes are drawn in proportion to it.
    """
    if longest < 1 or number < 0:
        raise InputError(f"a past of {longest} frames, context {number}: give at least 1 frame, and 0 or more")
    generator = np.random.default_rng((seed, number))
    most = np.clip(store.lengths // 2, 1, longest)
    row = int(generator.choice(len(store), p=most / most.sum()))
    frames = 1 + int(generator.integers(most[row] // 2, most[row]))
    name = store.names[row]
    told = store.read_arrays(name, (SEED_KEY, FIRST_KEY))
    known = SEED_KEY in told and told[SEED_KEY].ndim == 0 and int(told.get(FIRST_KEY, np.int64(0))) == 0
    clips = store.gather(np.array([row]), np.array([0]), frames)
    return PlayContext(number, name, clips, int(told[SEED_KEY]) if known else None)
