"""Whether evaluated episodes began where recorded ones did: seeds that differ may begin alike."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from envs.factory import EnvConfig, is_minigrid, make, trusted
from envs.layouts import layout_of
from envs.provenance import listed
from worldmodel.episodes import EpisodeStore


@dataclass(frozen=True)
class Starts:
    """distinct: how many different starts the evaluated episodes have. recorded: the share, 0 to 1, of these episodes
    whose start a recorded episode has too; None where nothing was recorded, or it is not known with which seeds."""

    distinct: int
    recorded: float | None

    def __str__(self) -> str:
        share = "" if self.recorded is None else f", {self.recorded:.0%} of the episodes begin as a recorded one did"
        return f"{self.distinct} distinct starts{share}"


def starts(config: EnvConfig, seeds: Iterable[int], recorded: EpisodeStore | None) -> Starts | None:
    """Compare the starts of `seeds` in the world of `config` with those in `recorded`, by playing all resets again.

    None for worlds whose starts cannot be told apart: all but MiniGrid's, of which the whole grid, the agent's place
    and heading, and the mission make the start.
    """
    if not is_minigrid(config.id):
        return None
    evaluated = _starts(config, seeds)
    entries = [] if recorded is None else listed(recorded)
    by_config: dict[EnvConfig, list[int]] = {}
    for entry in entries:
        if entry.seed is None or entry.source is None:
            return Starts(len(set(evaluated)), None)
        world = trusted(EnvConfig.from_dict(entry.source["env"]), f"the recorded episode {entry.file}")
        by_config.setdefault(world, []).append(entry.seed)
    seen = {start for world, played in by_config.items() for start in _starts(world, played)}
    share = float(np.mean([start in seen for start in evaluated])) if entries else None
    return Starts(len(set(evaluated)), share)


def _starts(config: EnvConfig, seeds: Iterable[int]) -> list[bytes]:
    env = make(replace(config, extra_obs=False))
    found = []
    for seed in seeds:
        (env if config.layouts is not None else env.unwrapped).reset(seed=seed)  # without drawing, where that will do
        found.append(layout_of(env))
    env.close()
    return found
