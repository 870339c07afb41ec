"""Several policies record by turns, and whoever records may try other actions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lssvwm.agents.policies.baselines import Exploring, RandomPolicy
from lssvwm.agents.policies.mixture import Mixture, parts_of
from lssvwm.agents.running.loop import Loop
from lssvwm.agents.running.presets import PRESETS
from lssvwm.envs.recording.provenance import listed
from lssvwm.envs.recording.recorder import record
from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.episodes import EpisodeStore


class Always:
    """One action; keeps what it is told."""

    def __init__(self, action: int) -> None:
        self.action, self.told = action, np.zeros(0)

    def reset(self, rows: Any, seeds: Any) -> None: ...

    def act(self, frames: Any, info: Any) -> Any:
        return np.full(len(frames), self.action, np.int64)

    def took(self, actions: Any) -> None:
        self.told = actions


def test_collectors_are_read_with_their_shares() -> None:
    assert parts_of("random") == (("random", 1.0),)
    assert parts_of("oracle:3, random:1") == (("oracle", 0.75), ("random", 0.25))
    for wrong in ("oracle,random", "oracle:0,random:1", ":1", "oracle:much", "oracle:inf,random:1", "oracle:-1"):
        with pytest.raises(InputError, match=r"give one policy, or several with their shares"):
            parts_of(wrong)


@pytest.mark.parametrize("begin", [0, 1_000_000, 1_000_000_007])
def test_consecutive_episodes_are_shared_as_wanted(begin: int) -> None:
    rows, policies = np.arange(20), [Always(0), Always(1), Always(2)]
    policy = Mixture(policies, [0.5, 0.3, 0.2])
    policy.reset(rows, begin + rows)
    frames = np.zeros((20, 4, 4, 3), np.uint8)
    actions = policy.act(frames, {})
    assert (abs(np.bincount(actions, minlength=3) - [10, 6, 4]) <= 1).all()
    assert np.array_equal(policies[0].told, actions)
    assert np.array_equal(policy.act(frames, {}), actions)  # an episode is played by one to its end
    policy.reset(rows[::-1].copy(), begin + rows)
    assert np.array_equal(policy.act(frames, {}), actions[::-1])  # by its seed, not its row


SMALL = replace(PRESETS["smoke"], max_episode_steps=12, extra_obs=True, collect_episodes=3, num_envs=2)


def test_the_first_round_is_recorded_by_a_mixture_and_explores(tmp_path: Path) -> None:
    loop = Loop(tmp_path, replace(SMALL, collector="oracle:0.5,random:0.5", explore=0.2), progress=False)
    policy = loop.collector(0)
    assert isinstance(policy, Exploring)
    mixed, other = policy._policies
    assert isinstance(mixed, Mixture)
    assert isinstance(other, RandomPolicy)
    assert [type(each).__name__ for each in mixed._policies] == ["MemoryOracle", "RandomPolicy"]
    loop.collect(0, policy)
    plain = Loop(tmp_path / "plain", SMALL, progress=False).collector(0)
    assert isinstance(plain, RandomPolicy)


def test_a_first_round_that_began_without_exploring_ends_so(tmp_path: Path) -> None:
    """As versions that knew no `--explore` there left it."""
    loop = Loop(tmp_path, replace(SMALL, explore=0.5), progress=False)
    store = EpisodeStore(tmp_path / "episodes", create=True)
    plain, config = loop.random(), loop.settings.env_config
    record(config, store, plain, episodes=2, num_envs=1, seed=0, processes=False, progress=False)
    assert loop.collect(0, loop.first_collector())["skipped"] == 2

    def players() -> dict[int | None, str]:
        return {entry.seed: entry.source["policy"] for entry in listed(EpisodeStore(store.root)) if entry.source}

    assert players() == dict.fromkeys(range(3), "RandomPolicy")
    loop.collect(1, loop.exploring(plain))
    assert players() == dict.fromkeys(range(3), "RandomPolicy") | dict.fromkeys(
        range(3, 6), "Exploring(RandomPolicy, RandomPolicy:0.5)"
    )


def test_every_part_is_checked_before_anything_is_written(tmp_path: Path) -> None:
    for changes, message in (
        ({"collector": "random:1,nobody:1"}, "there is no policy 'nobody'"),
        ({"collector": "random:1,oracle:1", "extra_obs": False}, "--collector oracle plays .* add --extra-obs"),
        ({"explore": 1.5}, r"explore=1\.5"),
    ):
        with pytest.raises(InputError, match=message):
            Loop(tmp_path, replace(SMALL, **changes), progress=False)
    assert not any(tmp_path.iterdir())
