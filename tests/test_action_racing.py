"""Real environments with other actions than discrete ones: CarRacing, and the dictionary of MineRL and Minetest."""

from __future__ import annotations

from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

from dreams import ID
from lssvwm.agents.policies.baselines import RandomPolicy
from lssvwm.agents.running.environment import probe
from lssvwm.envs.factory import EnvConfig
from lssvwm.envs.minecraft.actions import BUTTONS, dict_action_space, full_action
from lssvwm.envs.recorded.formats.minerl_actions import VECTOR
from lssvwm.envs.recording.recorder import record
from lssvwm.envs.spaces.actions import shaped, space_of, spec_of
from lssvwm.worldmodel.actions import told
from lssvwm.worldmodel.checkpoint import save_checkpoint
from lssvwm.worldmodel.episodes import EpisodeStore
from worlds import random_model, small_config


def test_car_racing_is_recorded_and_dreamt(tmp_path: Path) -> None:
    pytest.importorskip("Box2D")
    config = EnvConfig("CarRacing-v3", size=16, max_episode_steps=6)
    actions = probe(config).actions
    store = EpisodeStore(tmp_path / "episodes", create=True)
    record(config, store, RandomPolicy(actions), episodes=1, num_envs=1, seed=0, processes=False, progress=False)
    action = store.read(store.names[0]).action
    assert action.shape == (7, 3)
    assert (action[1:] >= [-1, 0, 0]).all()
    assert (action[1:] <= 1).all()
    model = random_model(small_config(width=16, **told(actions)), 0).float()
    save_checkpoint(tmp_path / "model", model, world={"episodes": "../episodes", "env": config.to_dict()}, step=0)
    env = gym.make(ID, checkpoint=str(tmp_path / "model"), context_length=3)
    assert env.action_space == gym.spaces.Box(np.float32([-1, 0, 0]), np.float32([1, 1, 1]))
    env.reset(seed=0)
    assert env.step(env.action_space.sample())[0].shape == (16, 16, 3)


def test_the_dictionary_of_minecraft_is_an_action() -> None:
    """Drawn, told to a model as numbers, and taken by the world again."""
    space = dict_action_space()
    actions = spec_of(space, "Minecraft")
    assert actions.size == len(BUTTONS) + 2
    assert actions.choices.count(2) == len(BUTTONS)
    names = [name for part in actions.parts for name in ((part.key,) if part.choices else ("pitch", "yaw"))]
    assert tuple(names) == VECTOR  # so recordings of people that were converted as vectors are of this space
    assert space_of(actions) == space
    policy = RandomPolicy(actions)
    policy.reset(np.arange(1), np.arange(1))
    drawn = policy.act(np.zeros((1, 8, 8, 3), np.uint8), {})[0]
    one = shaped(actions, drawn)
    assert space.contains(one)
    pressed = full_action(one)
    assert pressed["forward"] == one["forward"]
    model = random_model(small_config(**told(actions)), 0)
    assert model.backbone.condition.choices.weight.shape == (2 * len(BUTTONS), 32)
