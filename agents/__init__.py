"""Agents: policies for real and learned environments, learning in dreams, evaluation.

Public names are loaded when they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lssvwm.worldmodel.common.lazy import lazily

if __name__ == "agents":
    from lssvwm.legacy import rename

    rename(__name__)

if TYPE_CHECKING:
    from lssvwm.agents.evaluation.runs import load_policy as load_policy

_EXPORTS = {"load_policy": "lssvwm.agents.evaluation.runs"}

__all__ = ["load_policy"]

__getattr__, __dir__ = lazily(__name__, _EXPORTS)
