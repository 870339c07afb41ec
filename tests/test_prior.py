"""What a policy that starts from cloning is held to, and how large its networks are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from corridor import ADVANCE, GOAL, ExactModel, play_corridor
from lssvwm.agents.dreamer.actor_critic import ActorCritic
from lssvwm.agents.dreamer.dreamer import Dreamer, DreamerConfig
from lssvwm.agents.dreamer.streaming import Past
from lssvwm.agents.policies.baselines import RandomPolicy
from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.common.rng import weights_from
from lssvwm.worldmodel.episodes import EpisodeStore

SETTINGS = DreamerConfig(rows=16, horizon=6, context=4, discount=0.9, entropy=3e-3, lr=5e-3, hidden=32)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> EpisodeStore:
    store = EpisodeStore(tmp_path_factory.mktemp("episodes"), create=True)
    for episode in play_corridor(RandomPolicy(2), range(10), rows=5):
        store.append(episode)
    return store


def dreamer(store: EpisodeStore, out: Path, *, start: bool = True, **changes: Any) -> Dreamer:
    """A dreamer that starts from a clone which takes action 0 with probability 0.7 in every cell."""
    subject = Dreamer(ExactModel(), store, replace(SETTINGS, **changes), out)  # type: ignore[arg-type]
    if start and subject.step == 0:
        with weights_from(1), torch.no_grad():
            clone = ActorCritic(subject.agent.config)
            clone.actor[-1].bias[0] = 0.85
        subject.start_from(clone)
    return subject


@torch.no_grad()
def right_action(subject: Dreamer) -> Tensor:
    """Probability of the action that advances, by cell."""
    return subject.agent.policy(torch.eye(GOAL + 1)[:GOAL]).probs.gather(1, torch.tensor(ADVANCE)[:, None])[:, 0]


def weights(subject: Dreamer) -> Tensor:
    return nn.utils.parameters_to_vector(subject.agent.parameters())


def test_a_large_weight_keeps_the_policy_where_it_was_cloned_and_a_small_one_lets_it_learn(
    store: EpisodeStore, tmp_path: Path
) -> None:
    held, free = dreamer(store, tmp_path / "held", clone_kl=100.0), dreamer(store, tmp_path / "free", clone_kl=0.01)
    began = right_action(held)
    assert began.tolist() == pytest.approx([0.3, 0.7, 0.7, 0.3], abs=0.01)
    figures = [subject.train(25, progress=False) for subject in (held, free)]
    torch.testing.assert_close(right_action(held), began, atol=0.05, rtol=0)
    assert figures[0]["clone_kl"] < 0.01 < figures[1]["clone_kl"]
    assert float(right_action(free).min()) > 0.8


def test_without_a_weight_nothing_is_different(store: EpisodeStore, tmp_path: Path) -> None:
    """Bit for bit what merely begins with the clone's networks becomes; a weight of almost nothing is not."""
    usual = dreamer(store, tmp_path / "usual", start=False)
    usual.agent.load_state_dict(dreamer(store, tmp_path / "other").agent.state_dict())
    zero, some = dreamer(store, tmp_path / "zero"), dreamer(store, tmp_path / "some", clone_kl=0.1)
    reports = [subject.train(3, progress=False) for subject in (usual, zero, some)]
    assert torch.equal(weights(zero), weights(usual))
    assert reports[0] == reports[1]
    assert not torch.equal(weights(some), weights(usual))


def test_the_weight_halves_as_it_is_told(store: EpisodeStore, tmp_path: Path) -> None:
    subject = dreamer(store, tmp_path, clone_kl=0.8, clone_kl_half=2)
    held = []
    for until in (0, 2, 4):
        subject.train(until, progress=False)
        held.append(subject.clone_weight)
    assert held == pytest.approx([0.8, 0.4, 0.2])
    assert dreamer(store, tmp_path / "fixed", clone_kl=0.8).clone_weight == 0.8


def test_stopped_and_continued_it_is_held_to_the_same(store: EpisodeStore, tmp_path: Path) -> None:
    told: dict[str, Any] = {"clone_kl": 1.0, "clone_kl_half": 3}
    whole = dreamer(store, tmp_path / "whole", **told)
    dreamer(store, tmp_path / "parts", **told).train(2, progress=False)
    parts = dreamer(store, tmp_path / "parts", start=False, **told)
    assert whole.train(4, progress=False) == parts.train(4, progress=False)
    assert torch.equal(weights(whole), weights(parts))
    assert torch.equal(whole.reward_unit, parts.reward_unit)


def test_there_has_to_be_something_to_hold_to(store: EpisodeStore, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"clone_kl=1\.0 holds a policy to what it was cloned from"):
        dreamer(store, tmp_path, start=False, clone_kl=1.0).train(1, progress=False)


def test_networks_are_as_large_as_they_are_told_to_be(store: EpisodeStore, tmp_path: Path) -> None:
    subject = dreamer(store, tmp_path, hidden=24, layers=3)
    for part in (subject.agent.actor, subject.agent.critic):
        widths = [layer.out_features for layer in part if isinstance(layer, nn.Linear)]
        assert widths[:-1] == [24, 24, 24]


def test_the_largest_reward_is_of_frames_that_were_read_and_of_what_came_next() -> None:
    nothing, seen = torch.zeros(2), torch.tensor([[9.0, 0.1], [0.2, -0.3]])
    past = Past(torch.zeros(2, 2, 1), seen, torch.tensor([[False, True], [True, True]]), nothing, nothing.bool())
    assert float(past.largest_reward) == pytest.approx(0.3)  # 9 stands before a row's first frame
    assert float(replace(past, beyond=torch.tensor([0.0, -0.5])).largest_reward) == 0.5
