"""The whole loop on the real Memory Maze: record, learn a few steps, dream, act, judge, report."""

from __future__ import annotations

import json
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

from lssvwm.agents.running.loop import Loop
from lssvwm.agents.running.settings import DreamerOptions, LoopSettings, ModelOptions, TrainingOptions
from lssvwm.worldmodel.episodes import EpisodeStore

STEPS = 30


@pytest.mark.timeout(900)
def test_the_loop_runs_on_the_real_maze(tmp_path: Path) -> None:
    settings = LoopSettings(
        env="lssvwm/MemoryMaze-9x9-v0",
        max_episode_steps=STEPS,
        extra_obs=True,
        collector="oracle",
        collect_episodes=2,
        num_envs=1,
        processes=False,
        world_steps=12,
        dreams=3,
        eval_episodes=2,
        model=ModelOptions(patch=16, dim=32, layers=2, heads=2, window=2, features=32, state_size=8, head_dim=32),
        training=TrainingOptions(batch=2, length=12),
        dreamer=DreamerOptions(rows=4, horizon=3, context=4),
    )
    page = Loop(tmp_path, settings, progress=False).run_to_report("the test")
    results = json.loads((page.parent / "results.json").read_text())
    stages = results["stages"]
    assert stages["0-collect"]["frames"] == 2 * (STEPS + 1)
    assert np.isfinite(stages["0-world-model"]["loss"])
    assert stages["0-evaluation"]["lengths"] == [STEPS, STEPS]
    assert len(results["stages"]["0-evaluation"]["imagined_returns"]) == 2

    store = EpisodeStore(tmp_path / "episodes")
    episode = store.read(store.names[0])
    assert episode.image.shape == (STEPS + 1, 64, 64, 3)
    assert set(episode.extras) >= {"agent_pos", "agent_dir", "maze_layout", "target_pos", "seed"}
    assert episode.truncated[-1]
    assert not episode.terminated.any()
    moved = np.abs(np.diff(episode.extras["agent_pos"], axis=0)).sum()
    assert moved > 1, "the oracle stands still"

    dream = gym.make("lssvwm:lssvwm/Dream-v0", checkpoint=str(tmp_path / "world_model"), context_length=4)
    frame, _ = dream.reset(seed=0)
    real = {image.tobytes() for name in store.names for image in store.read(name).image}
    assert frame.tobytes() in real, "a dream begins with a real frame"
    frame, reward, _, truncated, _ = dream.step(dream.action_space.sample())
    assert dream.observation_space.contains(frame)
    assert np.isfinite(reward)
    assert not truncated
