"""Cloning does what the recorded episodes did, for real, and starts dreams from there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from corridor import ADVANCE, GOAL, ExactModel, play_corridor
from lssvwm.agents.dreamer.actor_critic import ActorCritic
from lssvwm.agents.dreamer.cloning import STATE, Cloner, CloningConfig, best_episodes, discounted_returns, watch
from lssvwm.agents.dreamer.dreamer import Dreamer, DreamerConfig
from lssvwm.agents.policies.baselines import RandomPolicy
from lssvwm.agents.policies.minigrid import MemoryOracle
from lssvwm.agents.policies.world_model import load_agent
from lssvwm.envs.factory import EnvConfig, make_vec
from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.config import WorldModelConfig
from lssvwm.worldmodel.episodes import Episode, EpisodeStore
from lssvwm.worldmodel.model import WorldModel
from vector_play import play
from worlds import random_model, randomised, small_config, small_store

SETTINGS: dict[str, Any] = {"batch": 64, "lr": 1e-2, "rows": 1, "discount": 0.9}
"""One row at a time: the exact model refuses the padding of shorter episodes."""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> EpisodeStore:
    """Random play in the corridor: about a third reaches the goal, few in the shortest way."""
    return filled(tmp_path_factory.mktemp("random"), play_corridor(RandomPolicy(2), range(60), rows=4))


def filled(root: Path, episodes: list[Episode]) -> EpisodeStore:
    store = EpisodeStore(root, create=True)
    for episode in episodes:
        store.append(episode)
    return store


def cloner(store: EpisodeStore, out: Path, model: Any = None, **changes: Any) -> Cloner:
    return Cloner(model or ExactModel(), store, CloningConfig(**{**SETTINGS, **changes}), out)


def test_an_actor_learns_how_often_each_action_was_taken(store: EpisodeStore, tmp_path: Path) -> None:
    """Maximum likelihood, of the action after the frame: by cell, the shares that were counted."""
    counts = torch.zeros(GOAL, 2)
    for name in store.names:
        episode = store.read(name)
        cells = torch.from_numpy(episode.image[:-1, 0, ::3, 0].argmax(-1).copy())
        counts.index_put_((cells, torch.from_numpy(episode.action[1:].copy())), torch.ones(()), accumulate=True)
    assert counts.min() > 10
    subject = cloner(store, tmp_path, entropy=0.0, critic=False, batch=512)
    subject.train(60, progress=False)
    with torch.no_grad():
        learned = subject.agent.policy(torch.eye(GOAL + 1)[:GOAL]).log_prob(torch.ones(GOAL, dtype=torch.int64)).exp()
    torch.testing.assert_close(learned, counts[:, 1] / counts.sum(1), atol=0.06, rtol=0)


def test_what_succeeded_by_accident_is_cloned_into_a_policy(store: EpisodeStore, tmp_path: Path) -> None:
    """Played on seeds of its own, and with a loss that fell: both, since either can be had without the other."""
    assert np.mean([float(store.read(name).reward.sum()) for name in store.names]) < 0.6
    successes = [e for e in map(store.read, store.names) if e.reward.sum() > 0]
    shortest = filled(tmp_path / "best", [e for e in successes if len(e.image) <= GOAL + 3])
    subject = cloner(shortest, tmp_path / "clone")
    first = subject.train(1, progress=False)
    subject.recent = []
    last = subject.train(150, progress=False)
    assert last["actor"] < 0.8 * first["actor"]
    assert last["critic"] < 0.5 * first["critic"]
    for episode in play_corridor(subject.policy(greedy=True), range(100, 103)):
        assert episode.action.tolist() == [-1, *ADVANCE]


def test_the_best_are_chosen_by_their_return(store: EpisodeStore) -> None:
    returns = {name: float(store.read(name).reward.sum()) for name in store.names}
    count = sum(returns[name] > 0 for name in store.names)
    assert 3 < count < 50
    chosen = best_episodes(store, count / 60)
    assert len(chosen) == count
    assert all(returns[name] > 0 for name in chosen)
    assert best_episodes(store, None) == list(store.names)
    assert len(best_episodes(store, 1e-9)) == 1


def test_returns_are_of_what_came_after(store: EpisodeStore) -> None:
    np.testing.assert_allclose(discounted_returns(np.array([0.0, 1.0, 0.0, 2.0]), 0.5), [0.75, 1.5, 1.0, 2.0])
    lessons = watch(ExactModel(), store, store.names, CloningConfig(**SETTINGS))  # type: ignore[arg-type]
    checked = 0
    episodes = sorted(map(store.read, store.names), key=lambda e: len(e.image))
    for number, episode in enumerate(episodes):
        mine, steps = lessons.episode == number, len(episode.image) - 1
        assert lessons.actions[mine].tolist() == episode.action[1:].tolist()
        cells = episode.image[:, 0, ::3, 0].argmax(-1)
        assert lessons.features[mine].argmax(-1).tolist() == cells[:-1].tolist()
        assert lessons.last[number].argmax() == cells[-1]
        away = 0.9 ** torch.arange(steps, 0, -1).float()
        if episode.terminated[-1]:
            torch.testing.assert_close(lessons.returns[mine], away / 0.9)
            assert not lessons.beyond[mine].any()
        else:
            torch.testing.assert_close(lessons.beyond[mine], away)
            assert not lessons.returns[mine].any()
        checked += bool(episode.terminated[-1])
    assert 0 < checked < len(episodes)


def test_a_truncated_recording_goes_on_in_the_critic(tmp_path: Path) -> None:
    """One of two episodes is cut off just before the goal: the values are those of the whole way none the less."""
    whole = play_corridor(Optimal(), [0])[0]
    cut = Episode(
        image=whole.image[:-1],
        action=whole.action[:-1],
        reward=whole.reward[:-1],
        terminated=np.zeros(GOAL, np.bool_),
        truncated=np.arange(GOAL) == GOAL - 1,
    )
    subject = cloner(filled(tmp_path / "episodes", [whole, cut]), tmp_path / "clone")
    subject.train(200, progress=False)
    with torch.no_grad():
        values = subject.agent.value(torch.eye(GOAL + 1)[:GOAL])
    torch.testing.assert_close(values, torch.tensor([0.9**3, 0.9**2, 0.9, 1.0]), atol=0.08, rtol=0)


class Optimal:
    """Takes the shortest way."""

    def reset(self, rows: Any, seeds: Any) -> None:
        self.step = -1

    def act(self, frames: Any, info: Any) -> Any:
        self.step += 1
        return np.array([ADVANCE[self.step]])


def test_watching_does_not_depend_on_rows_and_segments(tmp_path: Path) -> None:
    """Padding, and where the segments are cut, leave no trace in the features."""
    model = random_model(small_config(), 0)
    store = small_store(tmp_path)
    one = watch(model, store, store.names, CloningConfig(rows=1, length=100))
    for rows, length in ((3, 100), (4, 2), (2, 3)):
        other = watch(model, store, store.names, CloningConfig(rows=rows, length=length))
        for name in type(one).__annotations__:
            torch.testing.assert_close(getattr(other, name), getattr(one, name), atol=1e-6, rtol=1e-6)


def state_of(subject: Cloner) -> dict[str, Tensor]:
    optimizer = subject.optimizer.state_dict()["state"]
    moments = {f"{i}.{name}": torch.as_tensor(v) for i, entry in optimizer.items() for name, v in entry.items()}
    return {**subject.agent.state_dict(), **moments}


def test_stopped_and_continued_is_the_same_as_never_stopped(store: EpisodeStore, tmp_path: Path) -> None:
    whole = cloner(store, tmp_path / "whole")
    torch.manual_seed(1)
    cloner(store, tmp_path / "parts").train(3, progress=False)
    torch.manual_seed(2)
    continued = cloner(store, tmp_path / "parts", save_seconds=7)
    assert continued.step == 3
    assert whole.train(6, progress=False) == continued.train(6, progress=False)
    expected, actual = state_of(whole), state_of(continued)
    assert actual.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(actual[name], tensor), name
    other = cloner(store, tmp_path / "other", seed=1)
    assert not torch.equal(other.agent.actor[0].weight, cloner(store, tmp_path / "same").agent.actor[0].weight)


def test_what_answers_best_is_kept_and_what_is_asked_is_not_cloned(tmp_path: Path) -> None:
    """Actions at random follow from nothing: whoever knows them by heart answers worse than one who guesses."""
    store, model = small_store(tmp_path / "few", episodes=20), random_model(small_config(), 0)
    config = CloningConfig(steps=200, batch=64, lr=1e-2, entropy=0.0, critic=False)
    subject = Cloner(model, store, config, tmp_path / "clone")
    figures = subject.train(150, progress=False)
    assert subject.lessons is not None
    assert subject.questions is not None
    counts = [len(part.actions) for part in (subject.lessons, subject.questions)]
    assert sum(counts) == int((store.lengths - 1).sum())
    assert len(subject.questions.last) == 2
    asked = subject.questions

    def surprise(agent: ActorCritic) -> float:
        with torch.no_grad():
            return -float(agent.policy(asked.features).log_prob(asked.actions).mean())

    assert figures["actor"] < 0.5
    assert surprise(subject.chosen) == pytest.approx(subject.lowest)
    assert surprise(subject.agent) > subject.lowest + 0.5
    assert subject.lowest < 1.5
    again = Cloner(model, store, config, tmp_path / "clone")
    for one, other in ((subject.agent, again.agent), (subject.chosen, again.chosen)):
        assert all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())
    again.train(200, progress=False)
    kept = again.chosen
    again.train(201, progress=False)  # the next round goes on from what was kept
    gone = [(a - b).abs().max() for a, b in zip(again.agent.actor.parameters(), kept.actor.parameters(), strict=True)]
    assert 0 < max(gone) <= 1.1 * config.lr  # a first step of Adam
    assert np.isfinite(again.answered)
    whole = Cloner(model, store, replace(config, held_out=0.0), tmp_path / "whole")
    assert "held_out" not in whole.train(3, progress=False)
    assert whole.chosen is not whole.agent


def test_another_configuration_is_refused_by_name(store: EpisodeStore, tmp_path: Path) -> None:
    cloner(store, tmp_path).train(1, progress=False)
    with pytest.raises(InputError, match=r"cloning\.pt.*best \(None there, 0\.5 here\)"):
        cloner(store, tmp_path, best=0.5)
    for changes, message in (
        ({"best": 0.0}, r"best=0\.0 is a share"),
        ({"batch": 0}, r"batch=0: give at least 1"),
        ({"discount": 1.5}, r"discount=1\.5"),
        ({"held_out": 1.0}, r"held_out=1\.0 is a share"),
    ):
        with pytest.raises(InputError, match=message):
            CloningConfig(**changes)
    with pytest.raises(InputError, match=r"no episodes to clone"):
        cloner(EpisodeStore(tmp_path / "none", create=True), tmp_path / "new").train(1, progress=False)


def test_the_clone_is_read_as_any_policy(store: EpisodeStore, tmp_path: Path) -> None:
    subject = cloner(store, tmp_path)
    subject.train(5, progress=False)
    loaded = load_agent(tmp_path / STATE, ExactModel())  # type: ignore[arg-type]
    for name, tensor in subject.chosen.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    before = subject.policy()
    subject.train(6, progress=False)
    assert torch.equal(before.agent.actor[0].weight, loaded.actor[0].weight)


def test_dreams_go_on_from_the_clone(store: EpisodeStore, tmp_path: Path) -> None:
    """The networks are those of a `Dreamer` of the same world model, weight by weight."""
    cloner(store, tmp_path, critic=False).train(5, progress=False)
    dreamer = Dreamer(ExactModel(), store, DreamerConfig(rows=4, horizon=2, context=4), tmp_path / "policy")  # type: ignore[arg-type]
    clone = load_agent(tmp_path / STATE, ExactModel())  # type: ignore[arg-type]
    assert clone.config == dreamer.agent.config
    dreamer.agent.load_state_dict(clone.state_dict())
    dreamer.train(1, progress=False)


def test_an_oracle_of_a_memory_world_is_cloned(tmp_path: Path) -> None:
    """From frames that show the cue at first and not later, watched by a model of random weights, which forgets little.

    It does what the oracle did on episodes that it was not told, and succeeds on seeds that were never recorded.
    """
    pytest.importorskip("minigrid")
    envs = make_vec(EnvConfig("MiniGrid-MemoryS7-v0", actions=(0, 1, 2), extra_obs=True), 8, processes=False)
    store = filled(tmp_path / "told", list(play(envs, MemoryOracle(3), range(100))))
    others = filled(tmp_path / "held_out", list(play(envs, MemoryOracle(3), range(500, 530))))
    sizes: dict[str, Any] = {"patch": 28, "latent_channels": 64, "whitening": 0.75, "dim": 64, "layers": 1}
    config = WorldModelConfig(56, 56, 3, features=256, state_size=16, **sizes)
    model = randomised(lambda: WorldModel(config), 0).float().eval()
    model.tokenizer.fit(torch.from_numpy(np.concatenate([store.read(name).image for name in store.names])))
    subject = Cloner(model, store, CloningConfig(batch=256, lr=3e-3, rows=40, critic=False), tmp_path / "clone")
    subject.train(450, progress=False)
    held_out = watch(model, others, others.names, subject.config)
    with torch.no_grad():
        agreement = (subject.agent.policy(held_out.features).mode == held_out.actions).float().mean()
    played = list(play(envs, subject.policy(greedy=True), range(1000, 1030)))
    envs.close()
    assert agreement > 0.97
    assert np.mean([episode.reward[-1] > 0 for episode in played]) > 0.9
