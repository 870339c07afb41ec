"""Recorded episodes: the Episode, the folder that holds them, and clips sampled from it."""

from lssvwm.worldmodel.episodes.data import NO_ACTION, Clips, Episode
from lssvwm.worldmodel.episodes.store import EpisodeStore

__all__ = ["NO_ACTION", "Clips", "Episode", "EpisodeStore"]
