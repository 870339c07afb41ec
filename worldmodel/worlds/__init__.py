"""Worlds that come with the package, and the one notation for a checkpoint: a folder, one of their names, or `hf://`.

Each is a folder here: config.json, model.safetensors, contexts.npz, card.json, README.md and, where there is one,
policy.safetensors; at most 16 MB, all together 40.
"""

from __future__ import annotations

from pathlib import Path

from lssvwm.worldmodel.common.errors import InputError

HUB = "hf:/"
"""How names of the hub begin; `Path` makes one stroke of the two in hf://."""

_HERE = Path(__file__).resolve().parent


def names() -> list[str]:
    """The worlds that come with the package."""
    return sorted(path.parent.name for path in _HERE.glob("*/config.json"))


def resolve(checkpoint: str | Path) -> Path:
    """The folder of a checkpoint: that folder, a world by its name, or hf://OWNER/NAME[@REVISION], which is fetched.

    A folder goes before a world of the same name. Raises InputError for what is neither, naming the known worlds.
    """
    text = str(checkpoint)
    if text.startswith(HUB):
        from lssvwm.worldmodel.hub.fetch import fetch

        return fetch(text)
    path = Path(checkpoint)
    if path.exists() or len(path.parts) != 1:
        return path
    if text in names():
        return _HERE / text
    raise InputError(
        f"{text} is neither a folder nor a world that comes with the package: choose one of {', '.join(names())}, "
        "name a folder made by train_wm.py or train_agent.py, or hf://OWNER/NAME"
    )
