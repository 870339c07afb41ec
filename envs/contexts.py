"""Where dreams begin: the real episodes that a checkpoint names or carries, checked against it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lssvwm.worldmodel.actions import actions_of
from lssvwm.worldmodel.checkpoint import Checkpoint
from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.episodes import EpisodeStore
from lssvwm.worldmodel.episodes.packed import CONTEXTS


def contexts_of(checkpoint: Checkpoint) -> Path:
    """The episodes in which dreams of a checkpoint begin: the folder that it names, else the file that it carries.

    Where both are there the folder is taken, which holds more of them. Raises InputError where neither is.
    """
    folder, carried = checkpoint.episodes, checkpoint.path / CONTEXTS
    if folder is not None and folder.is_dir():
        return folder
    if carried.is_file():
        return carried
    missing = "names no folder of episodes" if folder is None else f"names the episodes {folder}, which are not there"
    raise InputError(f"{checkpoint.path} {missing}, and carries no {CONTEXTS}: give contexts=FOLDER")


def episodes_folder(checkpoint: Checkpoint) -> Path:
    """The folder of episodes that a checkpoint was trained on. Raises InputError where it is not there."""
    folder = checkpoint.episodes
    if folder is None or not folder.is_dir():
        raise InputError(f"the episodes that {checkpoint.path} was trained on ({folder}) are not there")
    return folder


def check_world(checkpoint: Checkpoint, store: EpisodeStore) -> None:
    """Raise an InputError unless model, real environment and contexts agree in frame size and action space."""
    config = checkpoint.model.config
    actions = actions_of(config)
    unfit = {
        "is told a pose, which no action determines": config.pose_size > 0,
        f"dreams {config.chunk} frames at once, but an agent chooses every action": config.chunk > 1,
        "is told no actions": not actions.parts,
    }
    for reason in (reason for reason, holds in unfit.items() if holds):
        raise InputError(f"{checkpoint.path} is no environment: it {reason}; train a world model without that")
    if not actions.bounded:
        raise InputError(
            f"{checkpoint.path} is no environment: it has learned from {actions}; train it with --env besides "
            "--episodes, whose action space says what they are"
        )
    if config.told:
        store.gather(np.array([0]), np.array([0]), 1)  # says what the episodes lack
    count = checkpoint.world.get("num_actions", config.num_actions)
    if count != config.num_actions:
        raise InputError(
            f"{checkpoint.path} models {config.num_actions} actions, but its environment has {count}: train it again"
        )
    if store.image_shape != (config.height, config.width):
        raise InputError(
            f"contexts show frames of {store.image_shape}, {checkpoint.path} models {(config.height, config.width)}: "
            "record them at the model's size, or choose other contexts"
        )
    if store.action_size != actions.size:
        raise InputError(
            f"contexts hold actions of {store.action_size} numbers (0: discrete), {checkpoint.path} models {actions}: "
            "they come from another action space"
        )
    if store.max_action >= config.num_actions > 0:
        raise InputError(
            f"contexts hold action {store.max_action}, {checkpoint.path} models {actions}: they come from another "
            "action space"
        )


def check_length(store: EpisodeStore, context_length: int) -> None:
    """Raise an InputError unless `store` has an episode that goes on after `context_length` frames."""
    if store.lengths.max() <= context_length:
        raise InputError(
            f"contexts of {context_length} frames need an episode of {context_length + 1} or more, but the longest in "
            f"{store.root} has {store.lengths.max()}: set a smaller context_length, or choose other contexts"
        )
