"""Learning in dreams reaches the known optimum, fails where the time-line is broken, and continues exactly."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from corridor import ADVANCE, GOAL, ExactModel, StaleModel, agent_that_plays, play_corridor
from lssvwm.agents.dreamer.actor_critic import ActorCritic, continuation_weights, lambda_returns
from lssvwm.agents.dreamer.dreamer import STATE, Dreamer, DreamerConfig
from lssvwm.agents.dreamer.imagination import dream, replayed_returns
from lssvwm.agents.dreamer.streaming import Past, StreamingContexts
from lssvwm.agents.policies.baselines import RandomPolicy
from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.episodes import EpisodeStore
from lssvwm.worldmodel.sampling import Sampler, Sampling
from worlds import random_model, small_config

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
    assert report["rewarded"] > 0.9
    assert report["explained_variance"] > 0.5


def test_features_that_lag_by_one_step_are_found_out(store: EpisodeStore, tmp_path: Path) -> None:
    """The test above would notice a broken time-line: with this one it would fail."""
    subject = dreamer(store, tmp_path, StaleModel())
    subject.train(90, progress=False)
    assert float(right_action(subject.agent).min()) < 0.7
    assert float(value_errors(subject.agent).max()) > 0.15


def test_what_holds_the_critic_back_from_rewards_that_are_several_dreams_away(
    store: EpisodeStore, tmp_path: Path
) -> None:
    """Dreams of two steps: the first cell learns of the goal through others."""

    def reached(name: str, **changes: Any) -> float:
        subject = dreamer(store, tmp_path / name, horizon=2, replay_value=0.0, **changes)
        subject.train(30, progress=False)
        return 1 - float((subject.agent.value(torch.eye(GOAL + 1)[0], slow=False) - VALUES[0]).abs() / VALUES[0])

    held, itself, free = (
        reached("held"),
        reached("itself", slow_target=False),
        reached("free", slow_target=False, slow_weight=0.0),
    )
    assert held < 0.3 < itself < 0.6
    assert free > 0.9


def test_one_epoch_is_the_plain_policy_gradient(store: EpisodeStore, tmp_path: Path) -> None:
    subject = dreamer(store, tmp_path, epochs=1, clip=1e9, entropy=0.02, replay_value=0.0)
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
    counts = weights > 0
    torch.testing.assert_close(policy.log_prob(dreams.actions)[counts], dreams.log_probs[counts])
    advantages = returns - values[:, :-1]
    assert float(agent.return_scale) <= 1  # a spread of less than 1 is not enlarged, so that advantages keep their size
    gain = policy.log_prob(dreams.actions) * advantages + config.entropy * policy.entropy()
    log_critic = agent.critic(features).log_softmax(-1)
    critic = -((agent.twohot.encode(returns) + slow) * log_critic).sum(-1)
    wanted = torch.autograd.grad((weights * (critic - gain)).mean(), trained)
    before = [p.detach().clone() for p in trained]
    subject.learn(dreams)
    for old, new, gradient in zip(before, trained, wanted, strict=True):
        torch.testing.assert_close(old - new.detach(), gradient, rtol=1e-4, atol=1e-6)
    assert max(float(g.abs().max()) for g in wanted) > 1e-3


def test_gradients_of_actor_and_critic_are_clipped_apart(store: EpisodeStore, tmp_path: Path) -> None:
    """A critic that is far off takes nothing from the actor's step."""

    def actor_step(scale: float) -> Tensor:
        subject = dreamer(store, tmp_path, epochs=1, clip=1e-3)
        actor = list(subject.agent.actor.parameters())
        subject.optimizer = torch.optim.SGD([*actor, *subject.agent.critic.parameters()], lr=1.0)  # type: ignore[assignment]
        dreams = subject.dream()
        dreams.rewards.normal_(generator=torch.Generator().manual_seed(0)).mul_(scale)
        before = nn.utils.parameters_to_vector(actor).clone()
        subject.learn(dreams)
        return (nn.utils.parameters_to_vector(actor) - before).detach()

    for scale in (1.0, 100.0):
        assert float(actor_step(scale).norm()) == pytest.approx(1e-3, rel=1e-2)


def test_the_critic_learns_from_real_rewards_what_is_worked_out_by_hand(store: EpisodeStore, tmp_path: Path) -> None:
    """Discount 1/2, lambda 1/2; the slow critic says 2 everywhere. Row 0 read 3 frames and goes on in a dream worth 8,
    row 1 read 2, the last one before a real end with reward 4."""
    subject = dreamer(store, tmp_path, discount=0.5, lam=0.5, epochs=1, clip=1e9, slow_weight=0.0, rows=2)
    agent = subject.agent
    with torch.no_grad():
        agent.slow_critic[-1].bias.copy_((agent.twohot.encode(torch.tensor([2.0]))[0] + 1e-30).log())
    past = Past(
        features=torch.randn(2, 3, GOAL + 1, generator=torch.Generator().manual_seed(0)),
        rewards=torch.tensor([[9.0, 1.0, 3.0], [9.0, 9.0, 5.0]]),
        mask=torch.tensor([[True, True, True], [False, True, True]]),
        beyond=torch.tensor([7.0, 4.0]),
        ended=torch.tensor([False, True]),
    )
    returns = replayed_returns(agent.value(past.features[:, :-1]), past, torch.tensor([8.0, 8.0]), 0.5, 0.5)
    # Row 0: 3 + 8 / 2 = 7 at frame 1, 1 + (2 / 2 + 7 / 2) / 2 = 3.25 at frame 0. Row 1: 5 + 4 / 2.
    torch.testing.assert_close(returns[0], torch.tensor([3.25, 7.0]), rtol=0, atol=1e-3)
    assert float(returns[1, 1]) == pytest.approx(7.0)

    def critic_gradients(weight: float) -> Tensor:
        learner = dreamer(store, tmp_path, epochs=1, clip=1e9, slow_weight=0.0, replay_value=weight, rows=2)
        learner.agent.load_state_dict(agent.state_dict())
        critic = list(learner.agent.critic.parameters())
        learner.optimizer = torch.optim.SGD(critic, lr=1.0)  # type: ignore[assignment]
        dreams = replace(learner.dream(), past=replace(past, rewards=past.rewards.clone()))
        rows = {
            name: getattr(dreams, name)[:2] for name in ("features", "actions", "log_probs", "rewards", "terminations")
        }
        before = nn.utils.parameters_to_vector(critic).clone()
        learner.learn(replace(dreams, **rows))
        return before - nn.utils.parameters_to_vector(critic).detach()

    with_replay, without = critic_gradients(0.3), critic_gradients(0.0)
    dreams = dreamer(store, tmp_path, rows=2).dream()  # the same once more
    continues = DISCOUNT * (1 - dreams.terminations)
    first = lambda_returns(dreams.rewards, continues, agent.value(dreams.features), 0.95)[:, 0]
    targets = replayed_returns(agent.value(past.features[:, :-1]), past, first, DISCOUNT, 0.95)
    losses = agent.twohot.loss(agent.critic(past.features[:, :-1]), targets)
    loss = 0.3 * (losses[0, 0] + losses[0, 1] + losses[1, 1]) / 3  # row 1 has no frame 0
    wanted = torch.autograd.grad(loss, list(agent.critic.parameters()))
    torch.testing.assert_close(with_replay - without, nn.utils.parameters_to_vector(wanted), rtol=1e-3, atol=1e-5)


def test_without_a_weight_real_rewards_teach_nothing(store: EpisodeStore, tmp_path: Path) -> None:
    def learned(rewards: float, weight: float) -> Tensor:
        subject = dreamer(store, tmp_path, replay_value=weight)
        while (dreams := subject.dream()).past.mask.shape[1] < 2:
            pass
        subject.learn(replace(dreams, past=replace(dreams.past, rewards=dreams.past.rewards + rewards)))
        return nn.utils.parameters_to_vector(subject.agent.critic.parameters())

    assert torch.equal(learned(0.0, 0.0), learned(5.0, 0.0))
    assert not torch.equal(learned(0.0, 0.3), learned(5.0, 0.3))


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
        "entropy weight": subject.entropy_weight,
        **subject.agent.state_dict(),
        **{f"{i}.{name}": torch.as_tensor(v) for i, entry in optimizer.items() for name, v in entry.items()},
        "generator": subject.noise_generator.get_state(),
    }


@pytest.mark.parametrize("reset_every", [0, 2, 3])
def test_stopped_and_continued_is_the_same_as_never_stopped(
    store: EpisodeStore, tmp_path: Path, reset_every: int
) -> None:
    """Bit for bit, whatever the state of the global random numbers."""
    told: dict[str, Any] = {"target_spread": 0.6, "reset_every": reset_every}
    whole = dreamer(store, tmp_path / "whole", **told)
    torch.manual_seed(1)
    dreamer(store, tmp_path / "parts", **told).train(3, progress=False)
    torch.manual_seed(2)
    continued = dreamer(store, tmp_path / "parts", **told)
    assert continued.step == 3
    whole_report, report = whole.train(6, progress=False), continued.train(6, progress=False)
    expected, actual = state_of(whole), state_of(continued)
    assert actual.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(actual[name], tensor), name
    assert continued.data_generator.random() == whole.data_generator.random()
    assert report == whole_report


def test_networks_begin_anew_where_they_are_told_to(store: EpisodeStore, tmp_path: Path) -> None:
    """Not before the next batch is learned from: what stands between two rounds is what has been learned."""
    subject = dreamer(store, tmp_path, reset_every=2, target_spread=0.6, lr=0.0)
    first = nn.utils.parameters_to_vector(subject.agent.parameters())
    subject.train(2, progress=False)
    assert torch.equal(nn.utils.parameters_to_vector(subject.agent.parameters()), first)
    assert subject.entropy_weight != subject.config.entropy
    adapted = subject.entropy_weight.clone()
    subject.train(3, progress=False)
    second = nn.utils.parameters_to_vector(subject.agent.parameters())
    assert not torch.equal(second, first)
    assert subject.entropy_weight != adapted
    subject.train(4, progress=False)
    assert torch.equal(nn.utils.parameters_to_vector(subject.agent.parameters()), second)


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
        config = type("Config", (), {"features": GOAL + 2, "num_actions": 3, "action_size": 0, "action_parts": ()})()

    with pytest.raises(InputError, match=r"features \(5 there, 6 here\), num_actions \(2 there, 3 here\)"):
        dreamer(store, tmp_path, Wider())


def test_saves_at_intervals_and_leaves_one_whole_file(store: EpisodeStore, tmp_path: Path) -> None:
    subject = dreamer(store, tmp_path, save_seconds=0.0)
    subject.train(2, progress=False)
    assert [path.name for path in tmp_path.iterdir()] == [STATE]
    assert torch.load(tmp_path / STATE, weights_only=True)["step"] == 2


def test_windows_have_all_lengths_and_half_begin_an_episode(store: EpisodeStore, tmp_path: Path) -> None:
    asked: list[tuple[int, str]] = []

    class Noting(EpisodeStore):
        def sample_contexts(self, batch: int, length: int, generator: np.random.Generator, *, start: Any) -> Any:
            asked.append((length, start))
            return super().sample_contexts(batch, length, generator, start=start)

    subject = dreamer(Noting(store.root), tmp_path, horizon=1, contexts="window")
    for _ in range(60):
        subject.dream()
    assert {length for length, _ in asked} == {1, 2, 3, 4}
    assert 15 < sum(start == "episode" for _, start in asked) < 45


def test_a_step_that_failed_is_done_again_with_the_same_result(
    store: EpisodeStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the rows have read on already when it fails."""
    whole, subject = dreamer(store, tmp_path / "whole"), dreamer(store, tmp_path / "failed")
    for each in (whole, subject):
        each.train(2, progress=False)
    with monkeypatch.context() as patched:
        patched.setattr(ExactModel, "imagine", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            subject.train(3, progress=False)
    again = dreamer(store, tmp_path / "failed")
    for each in (whole, subject, again):
        each.train(4, progress=False)
    for name, tensor in state_of(whole).items():
        assert torch.equal(state_of(subject)[name], tensor), name
        assert torch.equal(state_of(again)[name], tensor), name


@pytest.mark.parametrize("target", [0.6, 0.9])
def test_the_entropy_weight_keeps_the_wanted_share_of_actions_in_play(
    store: EpisodeStore, tmp_path: Path, target: float
) -> None:
    """From a weight that is far too high or far too low; the fixed one misses both."""
    start = {0.6: 0.3, 0.9: 0.02}[target]
    subject = dreamer(store, tmp_path, target_spread=target, entropy=start, lr=5e-3, rows=16)
    subject.train(80, progress=False)
    subject.recent = subject.recent[-20:]
    report = subject.train(100, progress=False)
    assert report["spread"] == pytest.approx(target, abs=0.12)
    assert (float(subject.entropy_weight) < start) == (target == 0.6)


def test_a_fixed_entropy_weight_stays(store: EpisodeStore, tmp_path: Path) -> None:
    subject = dreamer(store, tmp_path)
    subject.train(2, progress=False)
    assert float(subject.entropy_weight) == pytest.approx(SETTINGS["entropy"])


def test_dreams_that_ended_are_not_followed(store: EpisodeStore, tmp_path: Path) -> None:
    """What was dreamed before stays the same; the model is asked for fewer rows, and not at all when none goes on."""

    class Counting(ExactModel):
        asked: list[int]

        def imagine(self, actions: Tensor, memory: Any, **options: Any) -> Any:
            self.asked.append(len(actions))
            return super().imagine(actions, memory, **options)

    models = [Counting(beyond=7.0), Counting(beyond=7.0)]
    dreams = []
    for model, ended in zip(models, (0.0, 0.01), strict=True):
        model.asked = []
        subject = dreamer(store, tmp_path, model, ended=ended, horizon=30)
        subject.agent = agent_that_plays((*ADVANCE, 0))
        dreams.append(subject.dream())
    assert models[0].asked == [32] * 30
    assert models[1].asked == sorted(models[1].asked, reverse=True)
    assert len(models[1].asked) <= GOAL
    followed, cut = dreams
    begun = continuation_weights(1 - followed.terminations) > 0
    assert torch.equal(continuation_weights(1 - cut.terminations) > 0, begun)
    for name in ("actions", "log_probs", "rewards", "terminations"):
        kept, full = getattr(cut, name), getattr(followed, name)
        torch.testing.assert_close(kept[begun], full[begun], msg=name)
        assert not kept[~begun].any()
    assert torch.equal(cut.features[:, 1:][begun], followed.features[:, 1:][begun])


def test_dreams_that_ended_may_stay_without_weight(store: EpisodeStore) -> None:
    """As on devices on which shapes that change would cost more than what they save."""
    found = []
    for drop in (True, False):
        contexts = StreamingContexts(store, 32, 4, 0.5).next(ExactModel(), np.random.default_rng(0))  # type: ignore[arg-type]
        sampler = Sampler(ExactModel(beyond=7.0), Sampling(1))  # type: ignore[arg-type]
        agent, noise = agent_that_plays((*ADVANCE, 0)), torch.Generator().manual_seed(0)
        found.append(dream(sampler, agent, contexts, horizon=8, ended=0.01, generator=noise, drop=drop))
    weights = [continuation_weights(1 - dreams.terminations) for dreams in found]
    assert torch.equal(*weights)
    assert not bool(weights[0][:, -1].any())
    for name in ("actions", "log_probs", "rewards", "terminations"):
        dropped, stayed = (getattr(dreams, name)[weights[0] > 0] for dreams in found)
        torch.testing.assert_close(dropped, stayed, msg=name)


def test_learns_on_in_a_world_model_that_has_changed(store: EpisodeStore, tmp_path: Path) -> None:
    """The first model's goal is worth nothing, so nothing is learned; then it is corrected."""

    class Worthless(ExactModel):
        def imagine(self, actions: Tensor, memory: Any, **options: Any) -> Any:
            right = super().imagine(actions, memory, **options)
            return replace(right, reward=torch.zeros_like(right.reward))

    subject = dreamer(store, tmp_path, Worthless())
    subject.train(5, progress=False)
    assert float(right_action(subject.agent).min()) < 0.7
    subject.use(ExactModel(), store)  # type: ignore[arg-type]
    subject.train(95, progress=False)
    assert subject.step == 95
    assert float(right_action(subject.agent).min()) > 0.9


def test_portions_with_a_reloaded_model_are_the_same_as_one_run(store: EpisodeStore, tmp_path: Path) -> None:
    whole, parts = dreamer(store, tmp_path / "whole"), dreamer(store, tmp_path / "parts")
    whole.train(4, progress=False)
    for until in range(1, 5):
        parts.use(ExactModel(), EpisodeStore(store.root))  # type: ignore[arg-type]
        parts.train(until, progress=False)
    for name, tensor in state_of(whole).items():
        assert torch.equal(state_of(parts)[name], tensor), name


def test_a_world_model_of_another_kind_is_refused(store: EpisodeStore, tmp_path: Path) -> None:
    subject = dreamer(store, tmp_path)
    with pytest.raises(
        InputError, match=r"reads features=5, num_actions=2, the world model has features=12, num_actions=3"
    ):
        subject.use(random_model(small_config(), 0), store)
    continuous = random_model(small_config(num_actions=0, action_size=2), 0)
    with pytest.raises(InputError, match=r"2 numbers without known bounds"):
        Dreamer(continuous, store, DreamerConfig(), tmp_path / "other")


def test_a_model_that_was_trained_in_between_dreams_in_evaluation_mode(store: EpisodeStore, tmp_path: Path) -> None:
    model = random_model(small_config(), 0)
    subject = Dreamer(model, store, DreamerConfig(), tmp_path)
    model.train()
    subject.prepare()
    assert not model.training


def test_the_policy_is_a_copy_that_later_training_does_not_change(store: EpisodeStore, tmp_path: Path) -> None:
    subject = dreamer(store, tmp_path)
    subject.train(1, progress=False)
    policy = subject.policy(greedy=True)
    assert policy.greedy
    before = nn.utils.parameters_to_vector(policy.agent.parameters()).clone()
    assert torch.equal(before, nn.utils.parameters_to_vector(subject.agent.parameters()))
    subject.train(2, progress=False)
    assert torch.equal(before, nn.utils.parameters_to_vector(policy.agent.parameters()))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rows": 0}, "rows=0"),
        ({"horizon": 0}, "horizon=0"),
        ({"epochs": 0}, "epochs=0"),
        ({"discount": 1.1}, r"discount=1\.1"),
        ({"lam": -0.1}, r"lam=-0\.1"),
        ({"entropy": -1.0}, r"entropy=-1\.0"),
        ({"entropy": 0.0, "target_spread": 0.5}, r"entropy=0\.0"),
        ({"target_spread": 1.0}, r"target_spread=1\.0"),
        ({"ended": 1.0}, r"ended=1\.0"),
        ({"replay_value": -0.1}, r"replay_value=-0\.1"),
        ({"reset_every": -1}, "reset_every=-1"),
        ({"clone_kl": -1.0}, r"clone_kl=-1\.0"),
        ({"clone_kl_half": -1}, "clone_kl_half=-1"),
        ({"clone_kl": 1.0, "reset_every": 5}, "reset_every=5 would forget"),
        ({"hidden": 0}, "hidden=0"),
        ({"contexts": "all"}, "contexts='all': choose stream or window"),
    ],
)
def test_settings_that_make_no_sense_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        DreamerConfig(**changes)
