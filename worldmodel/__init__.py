"""The learned simulator: a video world model that remembers. It knows neither environments nor policies."""

from worldmodel.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from worldmodel.config import WorldModelConfig
from worldmodel.episodes import NO_ACTION, Clips, Episode, EpisodeStore
from worldmodel.errors import InputError, MissingExtraError
from worldmodel.memory import Memory
from worldmodel.model import Features, Imagined, Losses, WorldModel
from worldmodel.presets import SIZES, variant
from worldmodel.runtime import Runtime
from worldmodel.sampling import Sampler, Sampling
from worldmodel.training import Trainer, TrainingConfig

__version__ = "0.1.0"

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
