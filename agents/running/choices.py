"""What can be chosen to learn, and where."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

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

ALGORITHMS: dict[str, Callable[..., Any]] = {}
"""Algorithms that others add, by what --algo calls them (docs/architecture.md): what makes an `algorithms.Algorithm`
from the `LoopSettings`, the folder that holds its state, the `Checkpoint` of the world model, and the `EpisodeStore` in
which dreams begin. In each round it trains until `--dreams` more."""
