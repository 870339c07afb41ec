"""Where recorded episodes come from: world, policy, seed and versions, in each file and in one list beside them."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from lssvwm import __version__
from lssvwm.envs.factory import EnvConfig
from lssvwm.envs.policy import policy_name
from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.episodes import Episode, EpisodeStore

SEED_KEY = "seed"
"""The extra that says which seed an episode was reset with; a recording that is started again skips those it finds."""
SOURCE_KEY = "recording"
"""The extra with the world, the policy and the versions of an episode, as JSON."""
FIRST_KEY, MORE_KEY = "first_frame", "goes_on"
"""Extras of the pieces of an episode that was cut: where in it the piece begins, and whether another follows."""
LIST = "recorded.jsonl"
"""Beside the episodes, one line of JSON for each, so that they need not be opened to know what is there."""


@dataclass(frozen=True)
class Source:
    """What made an episode, besides its seed."""

    env: dict[str, Any]  # EnvConfig.to_dict
    policy: str
    versions: dict[str, str]

    @classmethod
    def of(cls, config: EnvConfig, policy: object) -> Source:
        """The source of what `policy` plays now in the world of `config`."""
        versions = {"lssvwm": __version__, "gymnasium": gym.__version__}
        entry = getattr(gym.registry.get(config.id.rpartition(":")[2]), "entry_point", None)
        package = entry.partition(".")[0].partition(":")[0] if isinstance(entry, str) else ""
        if package not in ("", "lssvwm", "gymnasium"):
            try:
                versions[package] = metadata.version(package)
            except metadata.PackageNotFoundError:
                versions[package] = str(getattr(sys.modules.get(package), "__version__", "unknown"))
        return cls(json.loads(json.dumps(config.to_dict())), policy_name(policy), versions)


@dataclass(frozen=True)
class Entry:
    """A line of the list: one file of the store. Without a seed, it was not recorded here."""

    file: str
    frames: int
    seed: int | None
    total: float
    first: int = 0
    more: bool = False
    source: dict[str, Any] | None = None  # None where an earlier version recorded it


def entry_of(file: str, arrays: Mapping[str, NDArray[Any]]) -> Entry:
    """The line for a file with the arrays `reward`, and those extras that tell its source, as far as it has them."""
    text = arrays.get(SOURCE_KEY)
    return Entry(
        file,
        len(arrays["reward"]),
        int(arrays[SEED_KEY]) if SEED_KEY in arrays and arrays[SEED_KEY].ndim == 0 else None,
        float(arrays["reward"].sum()),
        int(arrays.get(FIRST_KEY, np.int64(0))),
        bool(arrays.get(MORE_KEY, np.bool_(False))),
        None if text is None else json.loads(str(text)),
    )


def told(episode: Episode, source: Source, *, first: int = 0, more: bool = False) -> Episode:
    """The episode with its source in its extras."""
    extras = dict(episode.extras) | {SOURCE_KEY: np.array(json.dumps(asdict(source), sort_keys=True))}
    if first or more:
        extras |= {FIRST_KEY: np.array(first, np.int64), MORE_KEY: np.array(more)}
    return Episode(episode.image, episode.action, episode.reward, episode.terminated, episode.truncated, extras)


def add_line(root: Path, entry: Entry) -> None:
    """Add a line to the list of the folder `root`."""
    with (root / LIST).open("a+b") as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(max(end - 1, 0))
        cut_off = file.read(1) not in (b"", b"\n")  # by the death of who wrote it
        file.write(b"\n" * cut_off + json.dumps(asdict(entry)).encode() + b"\n")


def listed(store: EpisodeStore) -> list[Entry]:
    """A line for each file of `store`, from the list as far as it goes; what is missing there is added if it can be."""
    known: dict[str, Entry] = {}
    path = store.root / LIST
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            entry = Entry(**json.loads(line))
        except (json.JSONDecodeError, TypeError):
            continue  # half a line of a process that was killed; the file itself tells
        known[entry.file] = entry
    for name in store.names:
        if name not in known:
            keys = ("reward", SEED_KEY, SOURCE_KEY, FIRST_KEY, MORE_KEY)
            known[name] = entry_of(name, store.read_arrays(name, keys))
            with contextlib.suppress(OSError):  # it is a cache: a packed file and a folder to read have none
                add_line(store.root, known[name])
    return [known[name] for name in store.names]


def check_same_world(entries: list[Entry], source: Source, store: EpisodeStore, wanted: range) -> None:
    """Raise InputError where `store` has episodes of another world, or of `wanted` seeds played otherwise."""
    now = asdict(source)
    for entry in entries:
        if entry.source is None:
            continue
        before = entry.source
        where = f"{store.root / entry.file} "
        if _name(before) != _name(now):
            raise InputError(
                f"{where}is an episode of {before['env']['id']}, not of {now['env']['id']}: record into another folder "
                "(--out)"
            )
        if entry.seed in wanted:
            was = {**EnvConfig("").to_dict(), **before["env"], "id": _name(before), "policy": before["policy"]}
            is_now = {**now["env"], "id": _name(now), "policy": now["policy"]}
            if was["policy"] == now["policy"].partition("(")[0]:  # earlier versions kept the class alone
                was["policy"] = now["policy"]
            if changed := sorted(key for key in was.keys() | is_now.keys() if was.get(key) != is_now.get(key)):
                key = changed[0]
                raise InputError(
                    f"{where}has seed {entry.seed}, recorded with {key}={was.get(key)}, not {is_now.get(key)}: "
                    "give other seeds, or record into another folder"
                )


def _name(source: Mapping[str, Any]) -> str:
    """The world's name: the module before a colon says only what to import first."""
    return str(source["env"]["id"]).rpartition(":")[2]
