"""What is cloned may be recorded apart: the world model never learns from it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lssvwm.agents.dreamer.cloning import Cloner, CloningConfig, watch
from lssvwm.agents.evaluation.runs import load_policy
from lssvwm.agents.policies.baselines import Exploring, RandomPolicy
from lssvwm.agents.running.loop import Loop
from lssvwm.agents.running.run import SEEDS_PER_RUN, recorded_in, seeds_of
from lssvwm.envs.factory import EnvConfig
from lssvwm.envs.recording.provenance import listed
from lssvwm.envs.recording.recorder import record
from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.common.stepping import Figures
from lssvwm.worldmodel.episodes import EpisodeStore
from lssvwm.worldmodel.episodes.data import INTENDED_KEY
from test_algorithms import SMALL
from trainers import assert_same_state, flat
from worlds import random_model, small_config

SHOWN = replace(SMALL, extra_obs=True, demonstrator="oracle", demonstrations=3, explore=0.2)


def seeds(folder: Path) -> set[int | None]:
    return {entry.seed for entry in listed(EpisodeStore(folder))}


@pytest.mark.parametrize("changes", [{"algo": "clone", "rounds": 2}, {"clone": True}])
def test_the_world_model_learns_from_others_than_the_clone(
    changes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cloned: list[Path] = []
    prepare = Cloner.prepare

    def noted(cloner: Cloner) -> None:
        cloned.append(cloner.store.root)
        prepare(cloner)

    monkeypatch.setattr(Cloner, "prepare", noted)
    settings = replace(SHOWN, **changes)
    loop = Loop(tmp_path, settings, progress=False)
    stages = loop.run()
    assert list(stages) == loop.stage_names()
    demonstrations = tmp_path / "demonstrations"
    assert set(cloned) == {demonstrations}
    assert len(EpisodeStore(demonstrations)) == stages["demonstrations"]["episodes"] == 3
    recorded = settings.rounds * SMALL.collect_episodes
    assert stages[f"{settings.rounds - 1}-world-model"]["episodes"] == recorded
    assert [seeds(tmp_path / "episodes"), seeds(demonstrations)] == [set(each) for each in seeds_of(settings)]
    grown = seeds_of(replace(settings, rounds=100))
    assert grown[1] == seeds_of(settings)[1] == range(SEEDS_PER_RUN - 3, SEEDS_PER_RUN)
    assert grown[0].stop <= grown[1].start
    assert {store.root.name for store in recorded_in(tmp_path)} == {"episodes", "demonstrations"}
    stores = recorded_in(tmp_path)
    assert loop.real_steps(settings.rounds - 1) == sum(store.frames - len(store) for store in stores)
    given = Loop(tmp_path / "given", replace(settings, rounds=1, world_model=tmp_path / "world_model"), progress=False)
    assert given.round(0)["demonstrations"]["steps"] == given.real_steps(0) > 0


def test_an_interrupted_demonstration_goes_on(tmp_path: Path) -> None:
    whole, parts = (Loop(tmp_path / name, replace(SHOWN, clone=True), progress=False) for name in ("whole", "parts"))
    policies = whole.demonstrator(), parts.demonstrator()
    assert policies[0] is not None
    assert policies[1] is not None
    whole.demonstrate(policies[0])
    store = EpisodeStore(tmp_path / "parts" / "demonstrations", create=True)
    parts.record(store, policies[1], 1, SEEDS_PER_RUN - 3)
    assert parts.demonstrate(policies[1])["skipped"] == 1
    first, second = (EpisodeStore(tmp_path / name / "demonstrations") for name in ("whole", "parts"))
    totals = [sorted(float(s.read(name).reward.sum()) for name in s.names) for s in (first, second)]
    assert totals[0] == totals[1]
    assert len(totals[0]) == 3


def test_interrupted_while_it_clones_a_run_goes_on_as_if_it_had_not_been(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, parts = (Loop(tmp_path / name, replace(SHOWN, clone=True), progress=False) for name in ("whole", "parts"))
    whole.run()
    step, taken = Cloner.train_step, []

    def interrupted(cloner: Cloner) -> Figures:
        taken.append(cloner.step)
        if len(taken) == 2:
            raise KeyboardInterrupt
        return step(cloner)

    with monkeypatch.context() as patched:
        patched.setattr(Cloner, "train_step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            parts.run()
    assert taken == [0, 1]
    Loop(tmp_path / "parts", parts.settings, progress=False).run()
    for name in ("policy/policy.pt", "best/policy/policy.pt"):
        first, second = (flat(torch.load(tmp_path / run / name, weights_only=True)) for run in ("whole", "parts"))
        episodes = {key for key in first if key.startswith("/contexts/episodes")}  # whose names are drawn anew
        assert_same_state(*({key: found[key] for key in found.keys() - episodes} for found in (first, second)))
    load_policy(tmp_path / "parts" / "best").reset(np.arange(2), np.arange(2))
    assert not (tmp_path / "parts" / "best" / "demonstrations").exists()


def test_who_demonstrates_is_checked_before_anything_is_written(tmp_path: Path) -> None:
    for changes, message in (
        ({}, r"--demonstrator oracle plays what is cloned: add --clone, or --algo clone"),
        ({"clone": True, "extra_obs": False}, r"--demonstrator oracle plays .* add --extra-obs"),
        ({"clone": True, "demonstrator": "nobody"}, "there is no policy 'nobody'"),
        ({"clone": True, "demonstrations": 0}, "demonstrations is 0: use 1 or more"),
    ):
        with pytest.raises(InputError, match=message):
            Loop(tmp_path, replace(SHOWN, **changes), progress=False)
    assert not any(tmp_path.iterdir())


class Always:
    """Means to turn right whatever it sees."""

    def reset(self, rows: Any, seeds: Any) -> None:
        pass

    def act(self, frames: Any, info: Any) -> Any:
        return np.ones(len(frames), np.int64)


@pytest.fixture
def disturbed(tmp_path: Path) -> EpisodeStore:
    """Two players of which half of what they do is drawn at random, in pieces of six frames."""
    config = EnvConfig("MiniGrid-MemoryS7-v0", size=28, actions=(0, 1, 2), max_episode_steps=20)
    store = EpisodeStore(tmp_path / "disturbed", create=True)
    policy = Exploring(Always(), RandomPolicy(3), 0.5)
    record(config, store, policy, episodes=4, num_envs=2, seed=3, processes=False, piece_frames=6, progress=False)
    return store


def test_recordings_keep_what_was_meant_beside_what_was_done(disturbed: EpisodeStore) -> None:
    assert len(disturbed) > 4, "there are no pieces"
    done = np.concatenate([disturbed.read(name).action[1:] for name in disturbed.names])
    assert 0.2 < np.mean(done != 1) < 0.5  # a third of what is drawn is what was meant
    for name in disturbed.names:
        meant = disturbed.read(name).extras[INTENDED_KEY]
        assert meant.dtype == np.int64
        assert meant.tolist() == [-1, *[1] * (len(meant) - 1)]


def test_what_was_meant_is_cloned_and_what_was_done_is_seen(disturbed: EpisodeStore, tmp_path: Path) -> None:
    model = random_model(small_config(height=28, width=28, patch=14, num_actions=3), 1)
    lessons = watch(model, disturbed, disturbed.names, CloningConfig())
    assert lessons.actions.unique().tolist() == [1]
    plain = EpisodeStore(tmp_path / "plain", create=True)
    for episode in map(disturbed.read, disturbed.names):
        extras = {key: value for key, value in episode.extras.items() if key != INTENDED_KEY}
        plain.append(replace(episode, extras=extras))
    others = watch(model, plain, plain.names, CloningConfig())
    assert others.actions.unique().tolist() == [0, 1, 2]
    assert torch.equal(others.features, lessons.features)


@pytest.mark.parametrize("meant", [[-1, 3, 0], [-1, -1, 0], [-1, 0]])
def test_what_cannot_have_been_meant_is_named(meant: list[int], disturbed: EpisodeStore, tmp_path: Path) -> None:
    store = EpisodeStore(tmp_path / "wrong", create=True)
    episode = disturbed.read(disturbed.names[0]).beginning(3)
    store.append(replace(episode, extras={INTENDED_KEY: np.array(meant)}))
    model = random_model(small_config(height=28, width=28, patch=14, num_actions=3), 1)
    with pytest.raises(InputError, match=r"'intended_action' has to be as 'action', \(3,\), of 3 actions"):
        watch(model, store, store.names, CloningConfig())
