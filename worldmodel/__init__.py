"""The learned simulator: a video world model that remembers. It knows neither environments nor policies.

Public names are loaded when they are first used: what only needs the errors, as the worker processes of environments
do, does not load torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lssvwm.worldmodel.common.lazy import lazily

if __name__ == "worldmodel":
    from lssvwm.legacy import rename

    rename(__name__)

if TYPE_CHECKING:
    from lssvwm.worldmodel.checkpoint import Checkpoint as Checkpoint
    from lssvwm.worldmodel.checkpoint import load_checkpoint as load_checkpoint
    from lssvwm.worldmodel.checkpoint import save_checkpoint as save_checkpoint
    from lssvwm.worldmodel.common.errors import InputError as InputError
    from lssvwm.worldmodel.common.errors import MissingExtraError as MissingExtraError
    from lssvwm.worldmodel.config import WorldModelConfig as WorldModelConfig
    from lssvwm.worldmodel.episodes import NO_ACTION as NO_ACTION
    from lssvwm.worldmodel.episodes import Clips as Clips
    from lssvwm.worldmodel.episodes import Episode as Episode
    from lssvwm.worldmodel.episodes import EpisodeStore as EpisodeStore
    from lssvwm.worldmodel.layers.memory import Memory as Memory
    from lssvwm.worldmodel.layers.runtime import Runtime as Runtime
    from lssvwm.worldmodel.model import Features as Features
    from lssvwm.worldmodel.model import Imagined as Imagined
    from lssvwm.worldmodel.model import Losses as Losses
    from lssvwm.worldmodel.model import WorldModel as WorldModel
    from lssvwm.worldmodel.presets import SIZES as SIZES
    from lssvwm.worldmodel.presets import variant as variant
    from lssvwm.worldmodel.sampling import Sampler as Sampler
    from lssvwm.worldmodel.sampling import Sampling as Sampling
    from lssvwm.worldmodel.training import Trainer as Trainer
    from lssvwm.worldmodel.training import TrainingConfig as TrainingConfig

_MODULES = {
    "checkpoint": ("Checkpoint", "load_checkpoint", "save_checkpoint"),
    "common.errors": ("InputError", "MissingExtraError"),
    "config": ("WorldModelConfig",),
    "episodes": ("NO_ACTION", "Clips", "Episode", "EpisodeStore"),
    "layers.memory": ("Memory",),
    "layers.runtime": ("Runtime",),
    "model": ("Features", "Imagined", "Losses", "WorldModel"),
    "presets": ("SIZES", "variant"),
    "sampling": ("Sampler", "Sampling"),
    "training": ("Trainer", "TrainingConfig"),
}
_EXPORTS = {name: f"lssvwm.worldmodel.{module}" for module, names in _MODULES.items() for name in names}

__all__ = sorted(_EXPORTS)

__getattr__, __dir__ = lazily(__name__, _EXPORTS)
