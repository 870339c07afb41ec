"""Training a world model on recorded episodes: one device or many, exact resume."""

from worldmodel.episodes.loader import ClipSource
from worldmodel.training.config import MAY_CHANGE, TrainingConfig, check_same
from worldmodel.training.curriculum import Curriculum
from worldmodel.training.distill import distilled
from worldmodel.training.heads import HeadsConfig, fit_heads
from worldmodel.training.optimizers import make_optimizers, rate
from worldmodel.training.processes import Processes, processes
from worldmodel.training.trainer import STATE, Trainer

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
