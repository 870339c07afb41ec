"""The learned simulator as a Gymnasium environment. The world model predicts; the environment owns the rollout."""

from lssvwm.envs.dream.options import Beginning, ContextLength, Doubt, DreamOptions, Observation, Output, Terminate
from lssvwm.envs.dream.single import DreamEnv
from lssvwm.envs.dream.state import DreamState
from lssvwm.envs.dream.vector import DreamVectorEnv

__all__ = [
    "Beginning",
    "ContextLength",
    "Doubt",
    "DreamEnv",
    "DreamOptions",
    "DreamState",
    "DreamVectorEnv",
    "Observation",
    "Output",
    "Terminate",
]
