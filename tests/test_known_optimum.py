"""The classic bug of this field is that losses fall and the policy does not improve.

Where the optimum is known by hand and the world model is exact, learning in dreams has to reach it; and with any of
the mistakes that are easily made on the time-line it must not, or these tests could not find them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import lssvwm.agents.dreamer.dreamer
from corridor import GOAL, ExactModel, play_corridor
from exact_worlds import CodeWorld, CueWorld, ForgetfulWorld, LongCueWorld, TargetWorld
from lssvwm.agents.dreamer.actor_critic import ActorCritic
from lssvwm.agents.dreamer.dreamer import Dreamer, DreamerConfig
from lssvwm.agents.dreamer.imagination import Dreams
from lssvwm.agents.policies.baselines import RandomPolicy
from lssvwm.worldmodel.episodes import EpisodeStore

Change = Callable[[Dreams], Dreams]
DISCOUNT = 0.9
BATCHES = 25
"""With four epochs each; what is right needs no more, and what is wrong gets no less."""


def dreamer(world: Any, source: Any, out: Path, change: Change | None = None, **settings: Any) -> Dreamer:
    """A dreamer whose every batch of dreams goes through `change`."""

    class Changed(Dreamer):
        def dream(self) -> Dreams:
            dreams = super().dream()
            return change(dreams) if change else dreams

    common: dict[str, Any] = {"rows": 64, "horizon": 6, "context": 1, "discount": DISCOUNT, "entropy": 1e-3, "lr": 5e-3}
    if not isinstance(source, EpisodeStore):
        common["contexts"] = "window"  # of one frame
    return Changed(world, source, DreamerConfig(**{**common, **settings}), out)


def later(values: Tensor) -> Tensor:
    """Each entry one step later; the last comes first."""
    return values.roll(1, 1)


def earlier(values: Tensor) -> Tensor:
    return values.roll(-1, 1)


MISTAKES: dict[str, Change] = {
    "rewards late": lambda d: replace(d, rewards=later(d.rewards)),
    "rewards early": lambda d: replace(d, rewards=earlier(d.rewards)),
    "actions late": lambda d: replace(d, actions=later(d.actions), log_probs=later(d.log_probs)),
    "actions early": lambda d: replace(d, actions=earlier(d.actions), log_probs=earlier(d.log_probs)),
    "features late": lambda d: replace(d, features=later(d.features)),
    "features early": lambda d: replace(d, features=earlier(d.features)),
    "no ends": lambda d: replace(d, terminations=torch.zeros_like(d.terminations)),
    "ends early": lambda d: replace(d, terminations=earlier(d.terminations)),
}


CUES = torch.arange(CueWorld.CUES)


@torch.no_grad()
def expected_return(agent: ActorCritic, world: CueWorld) -> float:
    """Exact: how probable the named action is when it is asked for, over all cues."""
    asked = torch.stack([CUES, torch.full_like(CUES, world.WALK)], 1)
    return float(agent.policy(world.look(asked)).log_prob(CUES).exp().mean())


@pytest.mark.parametrize("ended", [0.0, 0.01])
@pytest.mark.parametrize("epochs", [1, 4])
def test_what_was_seen_once_decides_much_later(tmp_path: Path, epochs: int, ended: float) -> None:
    world = CueWorld()
    subject = dreamer(world, world, tmp_path, epochs=epochs, ended=ended)
    assert expected_return(subject.agent, world) == pytest.approx(1 / CueWorld.CUES)
    subject.train(BATCHES * 4 // epochs, progress=False)
    assert expected_return(subject.agent, world) > 0.95


@torch.no_grad()
def expected_code(agent: ActorCritic) -> float:
    """The same where the action is the cue's two digits."""
    asked = torch.stack([CUES, torch.full_like(CUES, CodeWorld.WALK)], 1)
    digits = torch.stack([CUES // 2, CUES % 2], 1).float()
    return float(agent.policy(CodeWorld().look(asked)).log_prob(digits).exp().mean())


def test_an_action_of_several_choices_is_put_together_right(tmp_path: Path) -> None:
    """Each has a head of its own, and only all of them right are rewarded."""
    subject = dreamer(CodeWorld(), CodeWorld(), tmp_path / "right")
    assert expected_code(subject.agent) == pytest.approx(1 / CueWorld.CUES)
    subject.train(BATCHES, progress=False)
    assert expected_code(subject.agent) > 0.95
    swapped = dreamer(CodeWorld(), CodeWorld(), tmp_path / "swapped", lambda d: replace(d, actions=d.actions.flip(-1)))
    swapped.train(BATCHES, progress=False)
    assert expected_code(swapped.agent) < 0.8


@pytest.mark.parametrize("walk", [40, 100])
def test_what_was_seen_long_before_the_dream_decides(tmp_path: Path, walk: int) -> None:
    """Further back than a dream and what is read before it are long, so only rows that remember more can learn it.

    Three seeds came to 0.956 to 0.979; 1 / 4 is chance.
    """
    world = LongCueWorld(walk)
    store = world.record(EpisodeStore(tmp_path / "episodes", create=True), 20)
    settings = DreamerConfig(rows=32, horizon=10)
    subject = Dreamer(world, store, settings, tmp_path / "policy")  # type: ignore[arg-type]
    subject.train(100, progress=False)
    assert world.right(subject.agent) > 0.9


@pytest.mark.parametrize("reward", [0.01, 1.0, 100.0])
def test_the_same_entropy_weight_serves_rewards_of_every_size(tmp_path: Path, reward: float) -> None:
    """All came to 0.985; where the spread of returns never counts for less than 1, the smallest ended at 0.46."""
    world = LongCueWorld(3, reward)
    store = world.record(EpisodeStore(tmp_path / "episodes", create=True), 20)
    subject = Dreamer(world, store, DreamerConfig(rows=32, horizon=6), tmp_path / "policy")  # type: ignore[arg-type]
    assert subject.config.entropy == 1e-2
    subject.train(20, progress=False)
    assert world.right(subject.agent) > 0.9


def test_windows_show_nothing_of_what_was_seen_before(tmp_path: Path) -> None:
    """The test above would notice rows that forget: this is how it would fail."""
    world = LongCueWorld(40)
    store = world.record(EpisodeStore(tmp_path / "episodes", create=True), 20)
    forgetful = DreamerConfig(rows=32, horizon=10, contexts="window")
    subject = Dreamer(world, store, forgetful, tmp_path / "policy")  # type: ignore[arg-type]
    subject.train(40, progress=False)
    assert world.right(subject.agent) == pytest.approx(1 / world.CUES, abs=0.05)


@pytest.mark.parametrize("mistake", MISTAKES)
def test_every_mistake_is_found_out(tmp_path: Path, mistake: str) -> None:
    subject = dreamer(CueWorld(), CueWorld(), tmp_path, MISTAKES[mistake], ended=0.0)
    subject.train(BATCHES, progress=False)
    assert expected_return(subject.agent, CueWorld()) < 0.6


def test_steps_after_the_end_that_count_are_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lssvwm.agents.dreamer.dreamer, "continuation_weights", torch.ones_like)
    subject = dreamer(CueWorld(), CueWorld(), tmp_path, ended=0.0)
    subject.train(BATCHES, progress=False)
    assert expected_return(subject.agent, CueWorld()) < 0.6


def test_without_memory_nothing_better_than_chance_is_learned(tmp_path: Path) -> None:
    world = ForgetfulWorld()
    subject = dreamer(world, world, tmp_path)
    report = subject.train(BATCHES, progress=False)
    assert expected_return(subject.agent, world) == pytest.approx(1 / world.CUES, abs=1e-6)
    assert report["imagined_return"] == pytest.approx(1 / world.CUES, abs=0.1)


def test_the_policy_of_the_dreams_is_perfect_in_the_real_world(tmp_path: Path) -> None:
    store = EpisodeStore(tmp_path / "episodes", create=True)
    for episode in play_corridor(RandomPolicy(2), range(20), rows=4):
        store.append(episode)
    subject = dreamer(ExactModel(), store, tmp_path, context=4)
    subject.train(60, progress=False)
    for episode in play_corridor(subject.policy(greedy=True), range(3), rows=3):
        assert episode.reward.sum() == 1
        assert len(episode.image) == GOAL + 1  # not one step more than it takes


@torch.no_grad()
def shortfall(agent: ActorCritic, world: TargetWorld) -> float:
    """How much return the most likely actions lose against the best ones, in three steps from random states."""
    start = torch.rand(512, 4, generator=torch.Generator().manual_seed(5))
    totals = []
    for act in (world.best, lambda state: agent.policy(world.look(state)).mode):
        state, total = start, torch.zeros(512)
        for _ in range(3):
            after = torch.cat([state[:, :2] + act(state), state[:, 2:]], 1)
            total -= (after[:, :2] - after[:, 2:]).abs().sum(1)
            state = after
        totals.append(total.mean())
    return float(totals[0] - totals[1])


CONTINUOUS: dict[str, Any] = {"rows": 128, "horizon": 3, "discount": 0.5}


def test_continuous_actions_reach_the_target(tmp_path: Path) -> None:
    world = TargetWorld()
    subject = dreamer(world, world, tmp_path, **CONTINUOUS)
    assert shortfall(subject.agent, world) > 1.5
    subject.train(75, progress=False)
    assert shortfall(subject.agent, world) < 0.2


def test_a_mistake_with_continuous_actions_is_found_out(tmp_path: Path) -> None:
    world = TargetWorld()
    subject = dreamer(world, world, tmp_path, MISTAKES["actions late"], **CONTINUOUS)
    subject.train(75, progress=False)
    assert shortfall(subject.agent, world) > 0.8
