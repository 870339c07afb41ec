"""The Memory Maze offline data sets: one `.npz` per trajectory of 1001 frames.

Layout, from the data section of the README of https://github.com/jurgisp/memory-maze (MIT): every array has a time
dimension of T + 1; `image` (T + 1, 64, 64, 3) uint8, `action` (T + 1, 6) one-hot, "last action", `reward` (T + 1,)
"last reward", and maze_layout, agent_pos, agent_dir, targets_pos, targets_vec, target_pos, target_vec, target_color. It
is this project's own time-line already, so nothing is shifted; row 0 of `action` is a filler.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from lssvwm.envs.recorded.interface import ReadOptions, Source, sources_of
from lssvwm.envs.recorded.segments import Track, cut
from lssvwm.worldmodel.episodes import Episode
from lssvwm.worldmodel.episodes.data import FPS_KEY
from lssvwm.worldmodel.episodes.files import read_episode, read_header

FPS = 4.0
"""Actions per second of Memory Maze."""


class MemoryMaze:
    """Trajectories of a scripted policy in Memory Maze 9x9 and 15x15. They end by the time limit."""

    name = "memory-maze"
    files = "*.npz with image, action, reward"
    minecraft = False

    def find(self, folder: Path) -> list[Source]:
        """Every .npz file."""
        return sources_of(folder, folder.rglob("*.npz"))

    def read(self, source: Source, options: ReadOptions) -> Iterator[Episode]:
        """The trajectory; everything besides frames, actions and rewards becomes extras under its own key."""
        read_header(source.path)  # it tells what is missing
        episode = read_episode(source.path)
        track = Track(episode.action, episode.reward, episode.terminated, episode.extras)
        yield from cut(episode.image, track, source.name, options, float(episode.extras.get(FPS_KEY, FPS)))
