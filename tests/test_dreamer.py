"""Learning in dreams reaches the known optimum, fails where the time-line is broken, and continues exactly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from agents.actor_critic import ActorCritic, continuation_weights, lambda_returns
from agents.dreamer import STATE, Dreamer, DreamerConfig
from agents.policies import RandomPolicy
from corridor import ADVANCE, GOAL, ExactModel, StaleModel, play_corridor
from worldmodel.episodes import EpisodeStore
from worldmodel.errors import InputError

SETTINGS: dict[str, Any] = {
    "rows": 32,
    "horizon": 8,
    "context": 4,
    "discount": 0.9,
    "entropy": 3e-3,
    "lr": 3e-3,
}
DISCOUNT = 0.9
VALUES = torch.tensor([DISCOUNT**3, DISCOUNT**2, DISCOUNT, 1.0])
"""Of the cells before the goal, under the optimal policy: the reward comes with the goal."""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> EpisodeStore:
    store = EpisodeStore(tmp_path_factory.mktemp("episodes"), create=True)
    for episode in play_corridor(RandomPolicy(2), range(20), rows=4):
        store.append(episode)
    return store


def dreamer(store: EpisodeStore, out: Path, model: ExactModel | None = None, **changes: Any) -> Dreamer:
    model = ExactModel() if model is None else model
    return Dreamer(model, store, DreamerConfig(**{**SETTINGS, **changes}), out)  # type: ignore[arg-type]


@torch.no_grad()
def right_action(agent: ActorCritic) -> Tensor:
    """Probability of the action that advances, by cell."""
    return agent.policy(torch.eye(GOAL + 1)[:GOAL]).probs.gather(1, torch.tensor(ADVANCE)[:, None])[:, 0]


@torch.no_grad()
def value_errors(agent: ActorCritic) -> Tensor:
    return (agent.value(torch.eye(GOAL + 1)[:GOAL]) - VALUES).abs()


@pytest.mark.parametrize("epochs", [1, 4])
def test_learns_the_optimal_policy_and_its_values(store: EpisodeStore, tmp_path: Path, epochs: int) -> None:
    subject = dreamer(store, tmp_path, epochs=epochs)
    assert right_action(subject.agent).tolist() == [0.5] * 4
    report = subject.train(360 // epochs, progress=False)
    assert float(right_action(subject.agent).min()) > 0.9
    assert float(value_errors(subject.agent).max()) < 0.08
    assert report["imagined_return"] > 0.9


def test_features_that_lag_by_one_step_are_found_out(store: EpisodeStore, tmp_path: Path) -> None:
    """The test above would notice a broken time-line: with this one it would fail."""
    subject = dreamer(store, tmp_path, StaleModel())
    subject.train(90, progress=False)
    assert float(right_action(subject.agent).min()) < 0.7
    assert float(value_errors(subject.agent).max()) > 0.15


def test_one_epoch_is_the_plain_policy_gradient(store: EpisodeStore, tmp_path: Path) -> None:
    subject = dreamer(store, tmp_path, epochs=1, clip=1e9, entropy=0.02)
    subject.train_step()  # away from the even policy, where much is symmetric
    agent, config = subject.agent, subject.config
    trained = [*agent.actor.parameters(), *agent.critic.parameters()]
    dreams = subject.dream()
    subject.optimizer = torch.optim.SGD(trained, lr=1.0)  # type: ignore[assignment]
    with torch.no_grad():
        continues = config.discount * (1 - dreams.terminations)
        values, slow = agent.value(dreams.features), agent.slow_critic(dreams.features[:, :-1]).softmax(-1)
        returns = lambda_returns(dreams.rewards, continues, values, config.lam)
        weights = continuation_weights(continues)
    features = dreams.features[:, :-1]
    policy = agent.policy(features)
    torch.testing.assert_close(policy.log_prob(dreams.actions), dreams.log_probs)
    advantages = returns - values[:, :-1]
    assert float(agent.return_scale) <= 1  # so that advantages keep their size
    gain = policy.log_prob(dreams.actions) * advantages + config.entropy * policy.entropy()
    log_critic = agent.critic(features).log_softmax(-1)
    critic = -((agent.twohot.encode(returns) + slow) * log_critic).sum(-1)
    wanted = torch.autograd.grad((weights * (critic - gain)).mean(), trained)
    before = [p.detach().clone() for p in trained]
    subject.learn(dreams)
    for old, new, gradient in zip(before, trained, wanted, strict=True):
        torch.testing.assert_close(old - new.detach(), gradient, rtol=1e-4, atol=1e-6)
    assert max(float(g.abs().max()) for g in wanted) > 1e-3


def test_further_epochs_stop_where_the_ratio_is_clipped(store: EpisodeStore, tmp_path: Path) -> None:
    """Actions that have become much more likely, and were good, are not pushed any further."""
    subject = dreamer(store, tmp_path, epochs=1, entropy=0.0, slow_weight=0.0)
    dreams = subject.dream()
    dreams.log_probs.fill_(-10.0)  # as if nearly impossible when taken
    dreams.rewards.fill_(1.0)  # every advantage is positive
    before = nn.utils.parameters_to_vector(subject.agent.actor.parameters()).clone()
    subject.learn(dreams)
    assert torch.equal(nn.utils.parameters_to_vector(subject.agent.actor.parameters()), before)


def state_of(subject: Dreamer) -> dict[str, Tensor]:
    optimizer = subject.optimizer.state_dict()["state"]
    return {
        **subject.agent.state_dict(),
        **{f"{i}.{name}": torch.as_tensor(v) for i, entry in optimizer.items() for name, v in entry.items()},
        "generator": subject.noise_generator.get_state(),
    }


def test_stopped_and_continued_is_the_same_as_never_stopped(store: EpisodeStore, tmp_path: Path) -> None:
    """Bit for bit, whatever the state of the global random numbers."""
    whole = dreamer(store, tmp_path / "whole")
    torch.manual_seed(1)
    dreamer(store, tmp_path / "parts").train(3, progress=False)
    torch.manual_seed(2)
    continued = dreamer(store, tmp_path / "parts")
    assert continued.step == 3
    whole_report, report = whole.train(6, progress=False), continued.train(6, progress=False)
    expected, actual = state_of(whole), state_of(continued)
    assert actual.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(actual[name], tensor), name
    assert continued.data_generator.random() == whole.data_generator.random()
    assert report == whole_report


def test_the_seed_decides_everything(store: EpisodeStore, tmp_path: Path) -> None:
    torch.manual_seed(1)
    first = dreamer(store, tmp_path / "first")
    torch.manual_seed(2)
    again, other = dreamer(store, tmp_path / "again"), dreamer(store, tmp_path / "other", seed=1)
    vectors = [nn.utils.parameters_to_vector(s.agent.parameters()) for s in (first, again, other)]
    assert torch.equal(vectors[0], vectors[1])
    assert not torch.equal(vectors[0], vectors[2])
    assert torch.equal(first.dream().actions, again.dream().actions)
    assert float(torch.rand(())) == float(torch.rand((), generator=torch.Generator().manual_seed(2)))


def test_nothing_left_to_train_reports_what_was(store: EpisodeStore, tmp_path: Path) -> None:
    subject = dreamer(store, tmp_path)
    assert subject.train(0, progress=False) == {}
    report = subject.train(2, progress=False)
    assert subject.train(2, progress=False) == report
    again = dreamer(store, tmp_path)
    assert again.train(1, progress=False) == report
    assert again.step == 2


def test_another_configuration_is_refused_by_name(store: EpisodeStore, tmp_path: Path) -> None:
    dreamer(store, tmp_path).train(1, progress=False)
    with pytest.raises(InputError, match=r"policy\.pt.*discount \(0\.9 there, 0\.8 here\)"):
        dreamer(store, tmp_path, discount=0.8)
    assert dreamer(store, tmp_path, save_seconds=1.0).step == 1

    class Wider(ExactModel):
        config = type("Config", (), {"features": GOAL + 2, "num_actions": 3})()

    with pytest.raises(InputError, match=r"features \(5 there, 6 here\), num_actions \(2 there, 3 here\)"):
        dreamer(store, tmp_path, Wider())


def test_saves_at_intervals_and_leaves_one_whole_file(store: EpisodeStore, tmp_path: Path) -> None:
    subject = dreamer(store, tmp_path, save_seconds=0.0)
    subject.train(2, progress=False)
    assert [path.name for path in tmp_path.iterdir()] == [STATE]
    assert torch.load(tmp_path / STATE, weights_only=True)["step"] == 2


def test_contexts_have_all_lengths_and_half_begin_an_episode(store: EpisodeStore, tmp_path: Path) -> None:
    asked: list[tuple[int, str]] = []

    class Noting:
        def sample_contexts(self, batch: int, length: int, generator: np.random.Generator, *, start: Any) -> Any:
            asked.append((length, start))
            return store.sample_contexts(batch, length, generator, start=start)

    subject = Dreamer(ExactModel(), Noting(), DreamerConfig(**{**SETTINGS, "horizon": 1}), tmp_path)  # type: ignore[arg-type]
    for _ in range(60):
        subject.dream()
    assert {length for length, _ in asked} == {1, 2, 3, 4}
    assert 15 < sum(start == "episode" for _, start in asked) < 45
