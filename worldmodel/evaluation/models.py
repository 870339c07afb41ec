"""The models to judge: checkpoints, the names they go by, and the episodes as each of them wants them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lssvwm.worldmodel.checkpoint import Checkpoint, load_checkpoint
from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.episodes import EpisodeStore


@dataclass(frozen=True)
class Model:
    """A checkpoint under the name that it has in tables and plots, and the episodes as it wants them."""

    name: str
    checkpoint: Checkpoint
    store: EpisodeStore


def load_models(
    checkpoints: Sequence[Path], episodes: Path, pose: Sequence[str], device: torch.device | str
) -> list[Model]:
    """Load every checkpoint, and open the episodes with the pose that it is told: extras `pose`, or those it names.

    `InputError` where a checkpoint cannot be used, or not with these episodes.
    """
    if not checkpoints:
        raise InputError("name at least one checkpoint folder, made by train_wm.py or train_agent.py")
    models: list[Model] = []
    stores: dict[tuple[Any, ...], EpisodeStore] = {}  # shared, as each keeps the episodes that it has read
    for name, path in zip(names_of(checkpoints), checkpoints, strict=True):
        loaded = load_checkpoint(path, device)
        config = loaded.model.config
        keys = (tuple(pose) or tuple(loaded.world.get("pose", ()))) if config.pose_size else ()
        wanted = (keys, config.told)
        if wanted not in stores:
            stores[wanted] = EpisodeStore(episodes, pose=keys, told=config.told, strict=True)
        store = stores[wanted]
        if store.image_shape != (config.height, config.width):
            raise InputError(
                f"{path} dreams frames of {(config.height, config.width)}, {episodes} has {store.image_shape}: "
                "name episodes of its world"
            )
        if store.pose_size != config.pose_size:
            raise InputError(
                f"{path} is told a pose of {config.pose_size} numbers, --pose {' '.join(keys) or '(none)'} has "
                f"{store.pose_size}: name the extras that it was trained with"
            )
        if store.action_size != config.action_size:
            raise InputError(
                f"{path} takes actions of {config.action_size} numbers (0: discrete ones), {episodes} has "
                f"{store.action_size}: name episodes of its world"
            )
        models.append(Model(name, loaded, store))
    return models


def names_of(paths: Sequence[Path]) -> list[str]:
    """Short names that tell paths apart: the first part, from the end, in which all differ; else the whole paths."""
    whole = [path.resolve() for path in paths]
    for depth in range(1, min(len(path.parts) for path in whole)):
        names = [path.parts[-depth] for path in whole]
        if len(set(names)) == len(names):
            return names
    if len(set(whole)) < len(whole):
        raise InputError("the same checkpoint is named twice")
    return [str(path) for path in paths]


def describe(model: Model) -> dict[str, Any]:
    """What a model is, for the record."""
    loaded = model.checkpoint
    return {
        "path": loaded.path,
        "step": loaded.step,
        "parameters": sum(parameter.numel() for parameter in loaded.model.parameters()),
        "config": loaded.model.config.to_dict(),
    }
