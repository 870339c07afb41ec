"""What of a run's settings its world model, or the machine, does not bear: said before anything is done."""

from __future__ import annotations

import os

import torch

from lssvwm.agents.running.settings import LoopSettings
from lssvwm.worldmodel import WorldModel, WorldModelConfig
from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.diffusion.shortcut import halvings_of


def check_rows(rows: int, config: WorldModelConfig, device: torch.device) -> None:
    """Raise InputError where `rows` dreams of a world model of `config` do not fit a device.

    While a batch is dreamt there are three copies of their memory (`dreamer.streaming`), beside everything else.
    """
    with torch.device("meta"):
        each = 3 * WorldModel(config).empty(1).nbytes
    if (there := memory_of(device)) < rows * each:
        raise InputError(
            f"{rows} dreams at once need {rows * each / 1e9:.1f} GB for what they remember, and {device} has "
            f"{there / 1e9:.1f}: --dreamer.rows {max(1, int(0.7 * there / each))}, or a smaller model"
        )


def memory_of(device: torch.device) -> int:
    """Bytes that a GPU, or this machine, has in all."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def check_steps(settings: LoopSettings, config: WorldModelConfig) -> None:
    """Raise InputError for numbers of denoising steps that a world model of `config` does not learn to take."""
    for steps in (settings.dreamer.steps, settings.planning.steps):
        halvings_of(steps or config.usual_steps, config.shortcut)
