"""Training a world model on recorded episodes: one device or many, exact resume."""

from lssvwm.worldmodel.episodes.loader import ClipSource
from lssvwm.worldmodel.training.config import MAY_CHANGE, TrainingConfig, check_same
from lssvwm.worldmodel.training.curriculum import Curriculum
from lssvwm.worldmodel.training.distill import distilled
from lssvwm.worldmodel.training.heads import HeadsConfig, fit_heads
from lssvwm.worldmodel.training.optimizers import make_optimizers, rate
from lssvwm.worldmodel.training.processes import Processes, processes
from lssvwm.worldmodel.training.trainer import STATE, Trainer

__all__ = [
    "MAY_CHANGE",
    "STATE",
    "ClipSource",
    "Curriculum",
    "HeadsConfig",
    "Processes",
    "Trainer",
    "TrainingConfig",
    "check_same",
    "distilled",
    "fit_heads",
    "make_optimizers",
    "processes",
    "rate",
]
