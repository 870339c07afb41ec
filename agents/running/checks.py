"""What of a run's settings its world model, or the machine, does not bear: said before anything is done."""

from __future__ import annotations

import os

import torch

from lssvwm.agents.dreamer.dreamer import DreamerConfig
from lssvwm.agents.policies.world_model import WorldModelPolicy
from lssvwm.agents.running.settings import LoopSettings
from lssvwm.envs.policy import Policy
from lssvwm.worldmodel import WorldModel, WorldModelConfig
from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.diffusion.shortcut import halvings_of
from lssvwm.worldmodel.training.curriculum import Curriculum
from lssvwm.worldmodel.uncertainty import LEFT_OUT


def check_stages(stages: Curriculum, steps: int) -> None:
    """Raise InputError where a training of so many steps never comes to the last stage of its curriculum."""
    if (begins := stages.begin_of_last) >= steps:
        raise InputError(
            f"the last stage of --curriculum begins at step {begins}, and the world model is trained for {steps}: give "
            "more --world-steps, or fewer stages"
        )


def check_rows(dreamer: DreamerConfig, config: WorldModelConfig, device: torch.device) -> None:
    """Raise InputError where the dreams of a batch, of a world model of `config`, do not fit a device.

    While a batch is dreamt there are three copies of their memory, two without readers (`dreamer.streaming`), beside
    everything else.
    """
    rows, copies = dreamer.rows, 3 if dreamer.contexts == "stream" else 2
    with torch.device("meta"):
        each = copies * WorldModel(config).empty(1).nbytes
    if (there := memory_of(device)) < rows * each:
        raise InputError(
            f"{rows} dreams at once need {rows * each / 1e9:.1f} GB for what they remember, and {device} has "
            f"{there / 1e9:.1f}: --dreamer.rows {max(1, int(0.7 * there / each))}, or a smaller model"
        )


def fitting(rows: int, policy: Policy) -> int:
    """So many rows, or as many as half of the device holds what `policy` remembers of, where it has a world model."""
    if not isinstance(policy, WorldModelPolicy):
        return rows
    each = 2 * policy.model.empty(1).nbytes  # the new memory stands beside the old
    return max(1, min(rows, memory_of(policy.model.device) // 2 // each))


def memory_of(device: torch.device) -> int:
    """Bytes that a GPU, or this machine, has in all."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def check_dropout(settings: LoopSettings) -> None:
    """Raise InputError where `--dreamer.pessimism` would ask heads that have never seen masks like its own."""
    dreamer, dropout = settings.dreamer, settings.heads.dropout
    masks = settings.algo == "dreamer" and dreamer.pessimism > 0 and dreamer.pessimism_over == "masks"
    if masks and settings.world_model is None and settings.heads.steps and dropout != LEFT_OUT:
        raise InputError(
            f"--heads.dropout {dropout}: --dreamer.pessimism leaves out {LEFT_OUT:.0%} of what the heads read, "
            f"and tells nothing of heads fitted otherwise: {LEFT_OUT}, or --dreamer.pessimism-over draws"
        )


def check_steps(settings: LoopSettings, config: WorldModelConfig) -> None:
    """Raise InputError for numbers of denoising steps that a world model of `config` does not learn to take."""
    for steps in (settings.dreamer.steps, settings.planning.steps):
        halvings_of(steps or config.usual_steps, config.shortcut)
