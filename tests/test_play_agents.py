"""Handing over to what a run has learned: `python -m lssvwm.agents.play`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lssvwm.agents import play as agents_play
from lssvwm.agents.dreamer.actor_critic import ActorCritic, ActorCriticConfig
from lssvwm.agents.play import policy_of
from lssvwm.agents.running.algorithms import LEARNERS
from lssvwm.agents.running.cli import LoopOptions, claimed, parse
from lssvwm.envs.play.command import PlayOptions, open_game
from lssvwm.worldmodel.checkpoint import load_checkpoint
from lssvwm.worldmodel.common.errors import InputError
from plays import corridor_run, options_of


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a policy that takes action 1 whatever it sees."""
    folder = tmp_path_factory.mktemp("run")
    with claimed(parse(LoopOptions, ["--preset", "smoke", "--env", "corridor:Corridor-v0", "--out", str(folder)])):
        pass
    checkpoint = load_checkpoint(corridor_run(folder))
    (folder / "model").rename(folder / "world_model")
    agent = ActorCritic(ActorCriticConfig(checkpoint.model.config.features, 2, layers=1, unimix=0.0))
    with torch.no_grad():
        agent.actor[-1].weight.zero_()
        agent.actor[-1].bias.copy_(torch.tensor([-50.0, 50.0]))
    (folder / "policy").mkdir()
    state = {"networks": asdict(agent.config), "agent": agent.state_dict()}
    torch.save(state, folder / "policy" / LEARNERS["dreamer"])
    return folder


def test_a_run_plays(run: Path) -> None:
    game = open_game(options_of(run / "world_model", policy=str(run)), policy_of)
    game.step(0)
    for _ in range(3):
        game.step(None)
    assert game.dream_trajectory.actions[-4:] == [0, 1, 1, 1]


def test_its_memory_is_that_of_the_dream(run: Path) -> None:
    """It has read the past, what was played by hand, and what the dream showed, with the actions that led there."""
    game = open_game(options_of(run / "world_model", policy=str(run)), policy_of)
    game.step(0)
    game.step(None)
    assert game.policy is not None
    watcher: Any = game.policy._policy.watcher  # type: ignore[attr-defined]
    frames = torch.from_numpy(np.stack(game.dream_trajectory.frames[:-1]))[None]
    actions = torch.tensor(game.dream_trajectory.actions[:-1])[None]
    _, memory = watcher.model.observe(frames, actions)
    for name, tensor in memory.state_dict().items():
        torch.testing.assert_close(watcher.memory.state_dict()[name], tensor, rtol=1e-4, atol=1e-4)


def test_which_policy_plays(run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[PlayOptions] = []
    monkeypatch.setattr(agents_play, "play", lambda options, load: asked.append(options))
    agents_play.main([str(run / "world_model")])
    agents_play.main([str(run / "world_model"), "--policy", "none"])
    agents_play.main([str(corridor_run(tmp_path))])
    assert [options.policy for options in asked] == [str(run.resolve()), None, None]


def test_a_world_that_comes_with_the_package_brings_its_policy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[PlayOptions] = []
    monkeypatch.setattr(agents_play, "play", lambda options, load: asked.append(options))
    agents_play.main(["minigrid-memory-s7", "--out", str(tmp_path)])
    assert asked[0].policy == "minigrid-memory-s7"
    game = open_game(asked[0], policy_of)
    taken = len(game.dream_trajectory.actions)
    for _ in range(2):
        game.step(None)
    assert len(game.dream_trajectory.actions) == taken + 2
    without = corridor_run(tmp_path / "without")
    with pytest.raises(InputError, match=r"comes without a policy \(policy\.safetensors\): name a run"):
        policy_of(load_checkpoint(without), str(without))
    with pytest.raises(InputError, match="name a policy of the same world"):
        policy_of(load_checkpoint(without), "minigrid-memory-s7")


def test_policies_by_name(run: Path, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(run / "world_model")
    policy = policy_of(checkpoint, "random")
    policy.reset(np.array([0]), np.array([1]))
    assert int(policy.act(np.zeros((1, 16, 16, 3), np.uint8), {})[0]) in (0, 1)
    assert policy_of(checkpoint, "plays:script=1").actions == [1]  # type: ignore[attr-defined]
    with pytest.raises(InputError, match="no policy 'nobody'"):
        policy_of(checkpoint, "nobody")
    with pytest.raises(InputError, match=r"settings\.json does not exist"):
        policy_of(checkpoint, str(tmp_path))
