"""Models of the presets' sizes with first weights, and episodes of noise: what they show costs nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from benchmarks.gpu.sheet import Setting
from lssvwm.agents.running.environment import Probe
from lssvwm.agents.running.presets import PRESETS
from lssvwm.worldmodel import Episode, EpisodeStore, WorldModel, WorldModelConfig
from lssvwm.worldmodel.actions import ActionSpec
from lssvwm.worldmodel.common.precision import use_policy
from lssvwm.worldmodel.common.rng import weights_from

ACTIONS = 6
TINY = WorldModelConfig(
    height=16,
    width=16,
    num_actions=ACTIONS,
    patch=8,
    latent_channels=8,
    dim=32,
    layers=2,
    heads=2,
    tiles=((1, 1), (2, 2)),
    window=2,
    state_size=16,
    head_dim=16,
    features=16,
)
"""What a rehearsal computes with."""


def config_of(name: str, setting: Setting) -> WorldModelConfig:
    """The world model of a preset for frames of its size and six actions. Latents are those of patches, also where the
    preset trains an autoencoder: of as many numbers, so that the layers cost the same.
    """
    if setting.rehearse:
        return TINY
    settings = PRESETS[name]
    side = settings.size or 64
    return replace(settings.model, tokenizer="patches").of_world(Probe((side, side), ActionSpec.discrete(ACTIONS)))


def model_of(config: WorldModelConfig, setting: Setting) -> WorldModel:
    """A model whose output is not zero, as that of new layers is, on the device."""
    use_policy()
    with weights_from(0):
        model = WorldModel(config)
        for layer in model.backbone.layers:
            torch.nn.init.normal_(layer.modulation.weight, std=0.02)
    model.tokenizer.fit(torch.randint(256, (256, config.height, config.width, 3), dtype=torch.uint8))
    return model.to(setting.device).eval()


def noise_episodes(folder: Path, config: WorldModelConfig, length: int, count: int = 8) -> EpisodeStore:
    """Episodes of noise in a folder that is made when missing."""
    source, store = np.random.default_rng(0), EpisodeStore(folder, create=True)
    for _ in range(count - len(store)):
        last = np.arange(length) == length - 1
        store.append(
            Episode(
                image=source.integers(256, size=(length, config.height, config.width, 3), dtype=np.uint8),
                action=np.concatenate([[-1], source.integers(config.num_actions, size=length - 1)]),
                reward=np.zeros(length, np.float32),
                terminated=last,
                truncated=np.zeros_like(last),
            )
        )
    return store
