"""The learned simulator: a video world model that remembers. It knows neither environments nor policies.

Public names are loaded when they are first used: what only needs the errors, as the worker processes of environments
do, does not load torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from worldmodel.checkpoint import Checkpoint as Checkpoint
    from worldmodel.checkpoint import load_checkpoint as load_checkpoint
    from worldmodel.checkpoint import save_checkpoint as save_checkpoint
    from worldmodel.config import WorldModelConfig as WorldModelConfig
    from worldmodel.episodes import NO_ACTION as NO_ACTION
    from worldmodel.episodes import Clips as Clips
    from worldmodel.episodes import Episode as Episode
    from worldmodel.episodes import EpisodeStore as EpisodeStore
    from worldmodel.errors import InputError as InputError
    from worldmodel.errors import MissingExtraError as MissingExtraError
    from worldmodel.memory import Memory as Memory
    from worldmodel.model import Features as Features
    from worldmodel.model import Imagined as Imagined
    from worldmodel.model import Losses as Losses
    from worldmodel.model import WorldModel as WorldModel
    from worldmodel.presets import SIZES as SIZES
    from worldmodel.presets import variant as variant
    from worldmodel.runtime import Runtime as Runtime
    from worldmodel.sampling import Sampler as Sampler
    from worldmodel.sampling import Sampling as Sampling
    from worldmodel.training import Trainer as Trainer
    from worldmodel.training import TrainingConfig as TrainingConfig

__version__ = "0.1.0"

_EXPORTS = {
    "Checkpoint": "worldmodel.checkpoint",
    "load_checkpoint": "worldmodel.checkpoint",
    "save_checkpoint": "worldmodel.checkpoint",
    "WorldModelConfig": "worldmodel.config",
    "NO_ACTION": "worldmodel.episodes",
    "Clips": "worldmodel.episodes",
    "Episode": "worldmodel.episodes",
    "EpisodeStore": "worldmodel.episodes",
    "InputError": "worldmodel.errors",
    "MissingExtraError": "worldmodel.errors",
    "Memory": "worldmodel.memory",
    "Features": "worldmodel.model",
    "Imagined": "worldmodel.model",
    "Losses": "worldmodel.model",
    "WorldModel": "worldmodel.model",
    "SIZES": "worldmodel.presets",
    "variant": "worldmodel.presets",
    "Runtime": "worldmodel.runtime",
    "Sampler": "worldmodel.sampling",
    "Sampling": "worldmodel.sampling",
    "Trainer": "worldmodel.training",
    "TrainingConfig": "worldmodel.training",
}

__all__ = [
    "NO_ACTION",
    "SIZES",
    "Checkpoint",
    "Clips",
    "Episode",
    "EpisodeStore",
    "Features",
    "Imagined",
    "InputError",
    "Losses",
    "Memory",
    "MissingExtraError",
    "Runtime",
    "Sampler",
    "Sampling",
    "Trainer",
    "TrainingConfig",
    "WorldModel",
    "WorldModelConfig",
    "load_checkpoint",
    "save_checkpoint",
    "variant",
]


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'worldmodel' has no attribute '{name}'")
    return getattr(importlib.import_module(_EXPORTS[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_EXPORTS])
