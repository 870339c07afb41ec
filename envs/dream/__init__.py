"""The learned simulator as a Gymnasium environment. The world model predicts; the environment owns the rollout."""

from lssvwm.envs.dream.options import (
    ContextLength,
    ContextStart,
    DreamOptions,
    Observation,
    Output,
    Terminate,
    UncertaintyKind,
)
from lssvwm.envs.dream.single import DreamEnv
from lssvwm.envs.dream.state import DreamState
from lssvwm.envs.dream.vector import DreamVectorEnv

Beginning, Doubt = ContextStart, UncertaintyKind
"""What `ContextStart` and `UncertaintyKind` were called before."""

__all__ = [
    "Beginning",
    "ContextLength",
    "ContextStart",
    "Doubt",
    "DreamEnv",
    "DreamOptions",
    "DreamState",
    "DreamVectorEnv",
    "Observation",
    "Output",
    "Terminate",
    "UncertaintyKind",
]
