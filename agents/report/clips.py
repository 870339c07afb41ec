"""A recorded episode beside the dream of it, to look at while a world model learns."""

from __future__ import annotations

from lssvwm.worldmodel.episodes import EpisodeStore
from lssvwm.worldmodel.evaluation import dream_along
from lssvwm.worldmodel.model import WorldModel
from lssvwm.worldmodel.reporting.video import Panel, Pixels, montage

TAG = "world_model/dream_beside_truth"
CONTEXT, DREAMT = 8, 24
"""Frames that are seen before the dream begins, and frames of it, at most."""


def dream_beside_truth(model: WorldModel, store: EpisodeStore) -> Pixels | None:
    """The longest of the first ten episodes, real and dreamt from its beginning: uint8 (T, h, w, 3).

    It draws from generators of its own. None where there is nothing to dream: all are shorter than two chunks, or the
    model is told a pose.
    """
    chunk = model.config.chunk
    episode = store.read(store.names[int(store.lengths[:10].argmax())])
    chunks = min(len(episode.image), CONTEXT + DREAMT) // chunk  # frames are dreamt in whole ones
    if chunks < 2 or model.config.pose_size:
        return None
    shown = episode.beginning(chunks * chunk)
    context = max(1, min(CONTEXT // chunk, chunks // 2)) * chunk
    dreamt = dream_along(model, shown, context=context, steps=None)
    return montage([Panel("real", shown.image), Panel(f"dream from frame {dreamt.context}", dreamt.frames)])
