"""Whether evaluated episodes began where recorded ones did: seeds that differ may begin alike."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from lssvwm.envs.factory import EnvConfig, is_minigrid, make, trusted
from lssvwm.envs.layouts import layout_of
from lssvwm.envs.recording.provenance import Source, listed
from lssvwm.worldmodel.checkpoint import read_json, taking_up
from lssvwm.worldmodel.common.atomic import write_json
from lssvwm.worldmodel.episodes import EpisodeStore

STARTS = "starts.json"
"""Beside recorded episodes, the starts that are known: by world and versions, then by seed."""


@dataclass(frozen=True)
class Starts:
    """distinct: how many different starts the evaluated episodes have. recorded: the share, 0 to 1, of these episodes
    whose start a recorded episode has too; None where nothing was recorded, or it is not known with which seeds."""

    distinct: int
    recorded: float | None

    def __str__(self) -> str:
        share = "" if self.recorded is None else f", {self.recorded:.0%} of the episodes begin as a recorded one did"
        return f"{self.distinct} distinct starts{share}"


def starts(config: EnvConfig, seeds: Iterable[int], *recorded: EpisodeStore) -> Starts | None:
    """Compare the starts of `seeds` in the world of `config` with those in `recorded`, by playing all resets again.

    Each is played once: what follows from world, seed and versions is kept in `starts.json` in the first folder.
    None for worlds whose starts cannot be told apart: all but MiniGrid's, of which the whole grid, the agent's place
    and heading, and the mission make the start.
    """
    if not is_minigrid(config.id):
        return None
    known = _Known(recorded[0].root / STARTS if recorded else None)
    evaluated = known.starts(config, seeds)
    entries = [entry for store in recorded for entry in listed(store)]
    by_config: dict[EnvConfig, list[int]] = {}
    for entry in entries:
        if entry.seed is None or entry.source is None:
            return Starts(len(set(evaluated)), None)
        world = trusted(EnvConfig.from_dict(entry.source["env"]), f"the recorded episode {entry.file}")
        by_config.setdefault(world, []).append(entry.seed)
    seen = {start for world, played in by_config.items() for start in known.starts(world, played)}
    known.keep()
    share = float(np.mean([start in seen for start in evaluated])) if entries else None
    return Starts(len(set(evaluated)), share)


class _Known:
    """Starts by world and seed, read from beside the episodes and kept there."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.found: dict[str, dict[str, str]] = {}
        self.new = False
        if self.path is not None and self.path.is_file():
            with taking_up(self.path):
                for world, each in read_json(self.path, "a folder of recorded episodes").items():
                    self.found[world] = {str(int(seed)): bytes.fromhex(start).hex() for seed, start in each.items()}

    def starts(self, config: EnvConfig, seeds: Iterable[int]) -> list[str]:
        """The start of each seed, as a hash of all that distinguishes it."""
        source = Source.of(replace(config, extra_obs=False, max_episode_steps=None), None)
        known = self.found.setdefault(json.dumps([source.env, source.versions], sort_keys=True), {})
        wanted = list(map(str, seeds))
        if missing := [seed for seed in dict.fromkeys(wanted) if seed not in known]:
            env = make(replace(config, extra_obs=False))
            for seed in missing:
                # Without drawing, where that will do.
                (env if config.layouts is not None else env.unwrapped).reset(seed=int(seed))
                known[seed] = hashlib.blake2b(layout_of(env), digest_size=16).hexdigest()
            env.close()
            self.new = True
        return [known[seed] for seed in wanted]

    def keep(self) -> None:
        """Write what is new, where that can be: it is a cache, and the folder may be another's."""
        if self.path is not None and self.new:
            with contextlib.suppress(OSError):
                write_json(self.path, self.found)
