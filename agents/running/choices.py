"""What can be chosen to learn, and where."""

from __future__ import annotations

from typing import Literal

Algo = Literal[
    "dreamer",
    "ppo",
    "plan",
    "clone",
    "sb3-ppo",
    "sb3-maskable-ppo",
    "sb3-recurrent-ppo",
    "sb3-dqn",
    "sb3-sac",
    "sb3-td3",
]
Place = Literal["dream", "real"]
