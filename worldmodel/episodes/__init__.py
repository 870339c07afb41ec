"""Recorded episodes: the Episode, the folder that holds them, and clips sampled from it."""

from worldmodel.episodes.data import NO_ACTION, Clips, Episode
from worldmodel.episodes.store import EpisodeStore

__all__ = ["NO_ACTION", "Clips", "Episode", "EpisodeStore"]
