"""Agents: policies for real and learned environments, learning in dreams, evaluation.

Public names are loaded when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if __name__ == "agents":
    from lssvwm.legacy import rename

    rename(__name__)

if TYPE_CHECKING:
    from lssvwm.agents.evaluation.runs import load_policy as load_policy

_EXPORTS = {"load_policy": "lssvwm.agents.evaluation.runs"}

__all__ = ["load_policy"]


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(importlib.import_module(_EXPORTS[name]), name)
