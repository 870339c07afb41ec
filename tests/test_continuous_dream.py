"""Somebody else's algorithm, trained in the dream of a learned continuous world, beats chance in the real one."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from lssvwm.agents.running.loop import Loop
from lssvwm.agents.running.presets import PRESETS
from lssvwm.agents.running.settings import TrainingOptions
from lssvwm.worldmodel.training import HeadsConfig
from runs import ROOT

WORLD = replace(
    PRESETS["smoke"],
    env="steering:Steering-v0",
    actions=None,
    max_episode_steps=None,
    collect_episodes=120,
    num_envs=4,
    processes=False,
    world_steps=400,
    model=replace(
        PRESETS["smoke"].model,
        patch=8,
        tiles=((1, 1),),
        dim=64,
        layers=2,
        features=32,
        state_size=4,
        head_dim=32,
        latent_channels=8,
    ),
    training=TrainingOptions(batch=8, length=8, fit_frames=256),
    heads=HeadsConfig(steps=300, kept=1200),
)


@pytest.mark.slow
def test_sac_learns_to_steer_in_the_dream(tmp_path: Path) -> None:
    """Measured once: 1.9 [1.1, 2.6] against -6.9 [-8.3, -5.5] over 60 real episodes, in 43 s of one CPU."""
    loop = Loop(tmp_path, WORLD, progress=False)
    loop.collect(0, loop.collector(0))
    loop.learn_world(0)
    spec = importlib.util.spec_from_file_location("example_sb3_sac_slow", ROOT / "examples" / "sb3_sac.py")
    assert spec is not None
    assert spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = example
    spec.loader.exec_module(example)
    few = {"total_timesteps": 2400, "num_envs": 8, "horizon": 10, "gradient_steps": 2, "eval_episodes": 60}
    verdict = example.main(example.Args(checkpoint=tmp_path / "world_model", **few))
    assert verdict.beats_random
    assert verdict.policy.mean > 0 > verdict.random.mean
