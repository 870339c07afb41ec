"""The player of MiniGrid's memory worlds: it sees the cue before it decides, and always decides rightly."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from lssvwm.agents.policies.minigrid import MemoryOracle, in_view
from lssvwm.envs.factory import EnvConfig, make, make_vec
from lssvwm.envs.policy import FrameArray, IntArray
from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.episodes import Episode
from vector_play import play

pytest.importorskip("minigrid")

WORLDS = [
    "MiniGrid-MemoryS7-v0",
    "MiniGrid-MemoryS9-v0",
    "MiniGrid-MemoryS11-v0",
    "MiniGrid-MemoryS13-v0",
    "MiniGrid-MemoryS13Random-v0",
    "MiniGrid-MemoryS17Random-v0",
]


def played(world: str, policy: MemoryOracle, seeds: range, rows: int = 4) -> list[Episode]:
    envs = make_vec(EnvConfig(world, actions=(0, 1, 2), extra_obs=True), rows, processes=False)
    try:
        episodes = list(play(envs, policy, seeds, extra_keys=("agent_pos", "agent_dir", "cells")))
    finally:
        envs.close()
    return sorted(episodes, key=lambda episode: int(episode.extras["seed"]))


@pytest.mark.parametrize("world", WORLDS)
def test_always_succeeds_and_has_seen_the_cue(world: str) -> None:
    episodes = played(world, MemoryOracle(3), range(100))
    assert len(episodes) == 100
    matching = set()
    for episode in episodes:
        assert episode.terminated[-1]
        assert episode.reward[-1] > 0.8
        positions, cells = episode.extras["agent_pos"], episode.extras["cells"]
        cue = np.argwhere(np.isin(cells[0], (5, 6)))[0]
        matching.add((int(cells[0][tuple(cue)]), bool(positions[-1][1] < positions[-2][1])))
        seen = [in_view(cue, p, d) for p, d in zip(positions, episode.extras["agent_dir"], strict=True)]
        # Beyond the room the two things to choose from come into view: from there on it must know.
        assert True in seen[: 1 + int(np.argmax(positions[:, 0] == positions[:, 0].max()))]
    assert len(matching) == 4  # both cues, on both sides


@pytest.mark.parametrize("world", ["MiniGrid-MemoryS7-v0", "MiniGrid-MemoryS13Random-v0"])
def test_what_it_takes_for_in_view_is_in_the_frame(world: str) -> None:
    """Wherever the agent can stand on this side of the things to choose from; and the code is that of what is shown."""
    env = make(EnvConfig(world, extra_obs=True))
    told = 0
    for seed in range(6):
        _, info = env.reset(seed=seed)
        state: Any = env.unwrapped
        cue, first, _ = np.argwhere(np.isin(info["cells"], (5, 6)))
        assert info["cells"][tuple(cue)] == {"key": 5, "ball": 6}[state.grid.get(*cue).type]
        assert len({int(info["cells"][tuple(c)]) for c in np.argwhere(np.isin(info["cells"], (5, 6)))[1:]}) == 2
        hallway = cue[1] + 1
        for x, y in np.argwhere(info["cells"] == 1).tolist():
            if x > first[0] or (y != hallway and (x > 3 or abs(y - hallway) > 1)):
                continue
            for state.agent_dir in range(4):
                state.agent_pos = (x, y)
                assert state.agent_sees(*cue) == in_view(cue, np.array([x, y]), state.dir_vec), (x, y, state.agent_dir)
                told += state.agent_sees(*cue)
    env.close()
    assert told > 50


def test_the_two_cues_look_different() -> None:
    env, looks = make(EnvConfig("MiniGrid-MemoryS7-v0", extra_obs=True)), {}
    for seed in range(40):
        frame, info = env.reset(seed=seed)
        if info["agent_pos"].tolist() == [1, 3]:  # the cue lies beside it
            looks.setdefault(int(info["cells"][1, 2]), set()).add(frame[48:, 16:24].tobytes())
    env.close()
    assert len(looks[5]) == len(looks[6]) == 1
    assert looks[5] != looks[6]


def test_a_collector_errs_as_often_as_asked_and_each_episode_by_its_seed_alone() -> None:
    episodes = played("MiniGrid-MemoryS7-v0", MemoryOracle(3, epsilon=0.1, wrong=0.5), range(100))
    assert all(episode.terminated[-1] for episode in episodes)
    success = np.mean([episode.reward[-1] > 0 for episode in episodes])
    assert 0.35 < success < 0.65
    again = played("MiniGrid-MemoryS7-v0", MemoryOracle(3, epsilon=0.1, wrong=0.5), range(10), rows=1)
    assert [e.action.tolist() for e in again] == [e.action.tolist() for e in episodes[:10]]
    strays = [played("MiniGrid-MemoryS7-v0", MemoryOracle(3, epsilon=e), range(20)) for e in (0.0, 0.5)]
    steps = [np.mean([len(episode.action) for episode in some]) for some in strays]
    assert steps[1] > 1.5 * steps[0]


def test_all_seven_actions_do_no_harm() -> None:
    envs = make_vec(EnvConfig("MiniGrid-MemoryS7-v0", extra_obs=True), 4, processes=False)
    episodes = list(play(envs, MemoryOracle(7, epsilon=0.2), range(20)))
    envs.close()
    assert all(episode.terminated[-1] for episode in episodes)
    assert max(int(episode.action.max()) for episode in episodes) > 2


def test_what_cannot_be_played_is_named() -> None:
    with pytest.raises(InputError, match=r"actions 0, 1 and 2, this environment has 2"):
        MemoryOracle(2)
    with pytest.raises(InputError, match=r"epsilon=1\.5 is a probability"):
        MemoryOracle(3, epsilon=1.5)
    frames: FrameArray = np.zeros((1, 8, 8, 3), np.uint8)
    rows: IntArray = np.zeros(1, np.int64)
    oracle = MemoryOracle(3)
    oracle.reset(rows, rows)
    with pytest.raises(InputError, match=r"'agent_pos' of every row.*extra_obs=True"):
        oracle.act(frames, {})
    info: Mapping[str, Any] = {
        "agent_pos": np.ones((1, 2)),
        "agent_dir": np.array([[1.0, 0.0]]),
        "cells": np.ones((1, 7, 7), np.uint8),
        **{f"_{key}": np.ones(1, np.bool_) for key in ("agent_pos", "agent_dir", "cells")},
    }
    with pytest.raises(InputError, match=r"MiniGrid-Memory worlds.*shows 0 keys and balls"):
        oracle.act(frames, info)
