"""The data sets of TECO (Yan et al. 2023, https://arxiv.org/abs/2210.02396): DMLab and Minecraft.

Layout, from `teco/data.py` of https://github.com/wilson1yan/teco: `SPLIT/*/*.npz` with `video` (T + 1, h, w, 3) uint8
and `actions` (T + 1,) integers for DMLab; `SPLIT/*/*.mp4` for Minecraft, `actions` in the .npz of the same name.

Time-line: `actions[t]` led to frame t, and `actions[0]` is a filler. So the authors' collector writes them
(`collect.py` of https://github.com/wilson1yan/collect-minecraft: 0 beside the frame of the reset, then every action
beside the frame of its step), and so their model reads them (`teco/models/teco.py`: `actions[:, 1:]` beside the frames
before). Nothing is shifted. In Minecraft the collector numbers actions from 1: forward with a jump, left, right. There
are no rewards, and all trajectories are cut off.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lssvwm.envs.recorded.arrays import read_npz, whole_numbers
from lssvwm.envs.recorded.frames import Frame, decoded
from lssvwm.envs.recorded.interface import ReadOptions, Source, sources_of
from lssvwm.envs.recorded.segments import Track, cut, led_here
from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.episodes import Episode


class TecoDMLab:
    """Random walks in mazes of DMLab, 300 frames of 64 x 64."""

    name = "teco-dmlab"
    files = "*.npz with video, actions"
    minecraft = False

    def find(self, folder: Path) -> list[Source]:
        """Every .npz file."""
        return sources_of(folder, folder.rglob("*.npz"))

    def read(self, source: Source, options: ReadOptions) -> Iterator[Episode]:
        """The trajectory."""
        arrays = read_npz(source.path, ("video", "actions"), lambda key: False)
        video = arrays["video"]
        if video.dtype != np.uint8 or video.ndim != 4 or video.shape[3] != 3:
            raise InputError(f"{source.path}: 'video' must be uint8 (T, h, w, 3), got {video.dtype} {video.shape}")
        actions = whole_numbers(arrays["actions"], len(video), str(source.path))
        yield from _episodes(video, actions, source, options)


class TecoMinecraft:
    """Random walks in Minecraft, 300 frames of 128 x 128."""

    name = "teco-minecraft"
    files = "*.mp4, each with an .npz of actions"
    minecraft = False  # its actions are numbered already

    def find(self, folder: Path) -> list[Source]:
        """Every .mp4 file."""
        return sources_of(folder, folder.rglob("*.mp4"))

    def read(self, source: Source, options: ReadOptions) -> Iterator[Episode]:
        """The trajectory."""
        path = source.path.with_suffix(".npz")
        actions = read_npz(path, ("actions",), lambda key: False)["actions"]
        actions = whole_numbers(actions, actions.size, str(path))
        yield from _episodes(decoded(source.path), actions, source, options)


def _episodes(
    frames: Iterable[Frame], actions: NDArray[Any], source: Source, options: ReadOptions
) -> Iterator[Episode]:
    length = len(actions)
    track = Track(led_here(actions[1:]), np.zeros(length, np.float32), np.zeros(length, np.bool_))
    yield from cut(frames, track, source.name, options)
