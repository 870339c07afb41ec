"""Write a folder of episodes as a Minari dataset: `lssvwm export STORE --to FOLDER --id NAME-v0`.

The dataset then lies in FOLDER/NAME-v0; `minari.load_dataset("NAME-v0")` finds it with MINARI_DATASETS_PATH=FOLDER.
Frames are stored exactly, not as JPEG, unless asked. One episode is in memory at a time.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro
from gymnasium import spaces
from tqdm import tqdm

from lssvwm.envs.recorded.formats.minari import PACKAGES
from lssvwm.worldmodel.common.command_line import run_main, started_as
from lssvwm.worldmodel.common.errors import InputError, require
from lssvwm.worldmodel.episodes import EpisodeStore

_ID = re.compile(r"[-\w]+(/[-\w]+)*-v\d+")


@dataclass(frozen=True)
class ExportOptions:
    """Write a folder of episodes as a Minari dataset."""

    store: Annotated[Path, tyro.conf.Positional]
    """Folder of episodes."""
    to: Path
    """Folder of Minari datasets."""
    id: str
    """Name of the dataset, NAME-vVERSION."""
    storage: Literal["hdf5", "arrow", "parquet"] = "hdf5"
    """How Minari stores it."""
    jpeg: bool = False
    """Store frames as JPEG: smaller, and not the same frames any more."""
    progress: bool = True
    """Show a progress bar."""


def export(options: ExportOptions) -> Path:
    """Write the dataset and return its folder.

    Entry k of its actions, rewards and flags is what led to and came with frame k + 1. Extras that are numbers with an
    entry per frame become infos, an extra `seed` the episode's seed; others are left out.

    Raises InputError where the store is empty or has no actions, for a name that Minari would not take, and where the
    dataset is there already; MissingExtraError without the package. What was written is removed when anything fails.
    """
    minari = require("minari", "minari", "Minari datasets")
    require(PACKAGES[options.storage], "minari", f"Minari datasets stored as {options.storage}")
    storages = require("minari.dataset.minari_storage", "minari", "Minari datasets")
    store = EpisodeStore(options.store, cache_bytes=0)
    if not _ID.fullmatch(options.id):
        raise InputError(f"--id {options.id} is no name of a Minari dataset: use one like maze/random-v0")
    folder = options.to / options.id
    if folder.exists():
        raise InputError(f"{folder} is there already: choose another --id, or delete it")
    frames = spaces.Box(0, 255, (*store.image_shape, 3), np.uint8)
    actions = _action_space(store)
    folder.mkdir(parents=True)
    complete = False
    try:
        data = folder / "data"
        storage = storages.MinariStorage.new(
            data, frames, actions, data_format=options.storage, jpeg_encoding=options.jpeg
        )
        storage.update_metadata({"dataset_id": options.id, "minari_version": minari.__version__})
        storage.update_episodes(_buffers(store, progress=options.progress))
        complete = True
    finally:
        if not complete:
            shutil.rmtree(folder)
    return folder


def _action_space(store: EpisodeStore) -> spaces.Space[Any]:
    if store.action_size:
        return spaces.Box(-np.inf, np.inf, (store.action_size,), np.float32)
    if store.max_action < 0:
        raise InputError(f"{store.root} holds videos without actions, which Minari has no datasets of")
    return spaces.Discrete(store.max_action + 1)


def _buffers(store: EpisodeStore, *, progress: bool) -> Iterator[Any]:
    buffer = require("minari.data_collector", "minari", "Minari datasets").EpisodeBuffer
    for name in tqdm(store.names, unit="episode", disable=not progress):
        episode = store.read(name)
        if (episode.action[1:] < 0).all() and not store.action_size:
            raise InputError(f"{store.root / name} is a video without actions: export a folder without such")
        length = len(episode.image)
        numbers = {key: value for key, value in episode.extras.items() if value.dtype.kind in "biuf"}
        seed = numbers.get("seed")
        per_frame = {key: value for key, value in numbers.items() if value.shape[:1] == (length,)}
        yield buffer(
            seed=int(seed) if seed is not None and seed.ndim == 0 else None,
            observations=episode.image,
            actions=episode.action[1:],
            rewards=episode.reward[1:],
            terminations=episode.terminated[1:],
            truncations=episode.truncated[1:],
            # Arrays of one dimension cannot be read back from Arrow with minari 0.5.4, lists can.
            infos={key: list(value) if value.ndim == 1 else value for key, value in per_frame.items()} or None,
        )


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line."""
    options = tyro.cli(ExportOptions, args=args, prog=started_as("lssvwm.envs.recorded.export"))
    folder = export(options)
    print(f"{options.id}: {len(EpisodeStore(options.store))} episodes in {folder}")


if __name__ == "__main__":
    run_main(main)
