"""Action masks: recorded as they were, and no policy does what they forbid. The world here raises where one does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper
from sb3_contrib.common.maskable.utils import get_action_masks, is_masking_supported
from stable_baselines3.common.vec_env import VecMonitor
from torchrl.envs import ActionMask, TransformedEnv

from dreams import dream_folder, vec
from forbidding import COUNT, FORBIDDING, OBSERVED, forbidding
from lssvwm.agents.adapters import for_rllib, for_stable_baselines, for_torchrl
from lssvwm.agents.dreamer.actor_critic import ActorCritic, networks_for
from lssvwm.agents.dreamer.cloning import Cloner, CloningConfig
from lssvwm.agents.dreamer.distributions import Discrete, masked
from lssvwm.agents.evaluation import evaluate
from lssvwm.agents.model_free.ppo import PPO, PPOConfig
from lssvwm.agents.model_free.rollouts import replay
from lssvwm.agents.model_free.sb3 import StableBaselines
from lssvwm.agents.model_free.sb3_config import SB3Config
from lssvwm.agents.planning.planner import PlanningConfig, PlanningPolicy
from lssvwm.agents.policies.baselines import Exploring, RandomPolicy
from lssvwm.agents.policies.mixture import Mixture
from lssvwm.agents.policies.world_model import WorldModelPolicy
from lssvwm.envs.factory import EnvConfig, make, make_vec
from lssvwm.envs.policy import Policy
from lssvwm.envs.recording.provenance import FIRST_KEY, SEED_KEY
from lssvwm.envs.recording.recorder import record
from lssvwm.envs.spaces.actions import spec_of
from lssvwm.envs.spaces.masks import MASK_KEY, masks_of
from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.episodes import EpisodeStore
from lssvwm.worldmodel.model import WorldModel
from steering import SPACES
from worlds import random_model, small_config

PPO_CONFIG = PPOConfig(rows=3, steps=12, epochs=2, minibatches=2, hidden=8, lr=1e-2)


@pytest.fixture(scope="module")
def model() -> WorldModel:
    return random_model(small_config(num_actions=COUNT), 0).float()


def agent_of(model: WorldModel, bias: float = 0.0) -> ActorCritic:
    """A random actor that all but wants nothing except the first action where `bias` is large."""
    torch.manual_seed(0)
    agent = ActorCritic(networks_for(model, hidden=16))
    torch.nn.init.normal_(agent.actor[-1].weight, std=0.3)
    with torch.no_grad():
        agent.actor[-1].bias[0] += bias
    return agent


def recorded(out: Path, config: EnvConfig = FORBIDDING, policy: Policy | None = None, **told: Any) -> EpisodeStore:
    store = EpisodeStore(out, create=True)
    wanted: dict[str, Any] = {"episodes": 6, "num_envs": 3, "seed": 0, "processes": False, **told}
    record(config, store, policy or RandomPolicy(COUNT), progress=False, attempts=1, **wanted)
    return store


def test_a_masked_distribution_is_the_softmax_over_what_is_allowed() -> None:
    scores = torch.randn(50, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3
    scores.requires_grad_()
    allowed = torch.rand(50, 5, generator=torch.Generator().manual_seed(1)) < 0.5
    allowed[:, 2] |= ~allowed.any(1)
    policy = masked(Discrete.mixed(scores, 0.01), allowed)
    assert isinstance(policy, Discrete)
    for row in range(50):
        own = allowed[row]
        probs = 0.99 * scores[row].softmax(-1)[own] + 0.01 / 5
        probs = probs / probs.sum()
        entropy = -(probs * probs.log()).sum()
        torch.testing.assert_close(policy.probs[row][own], probs)
        torch.testing.assert_close(policy.logits[row][own], probs.log())
        torch.testing.assert_close(policy.entropy()[row], entropy)
        assert bool((policy.probs[row][~own] == 0).all())
    (gradient,) = torch.autograd.grad((policy.entropy() + policy.log_prob(policy.mode)).sum(), scores)
    assert bool(gradient.isfinite().all())
    assert bool((policy.divergence(policy) == 0).all())
    for uniform in (0.0, 0.3, 1 - 2**-53):
        drawn = policy.at(torch.full((50, 1), uniform, dtype=torch.float64))
        assert bool(allowed.gather(1, drawn[:, None]).all())
    assert bool(allowed.gather(1, policy.mode[:, None]).all())


def test_draws_end_with_the_last_action_that_is_allowed() -> None:
    """In single precision probabilities do not sum to one: what is left over belongs to no forbidden action."""
    scores = torch.randn(2000, 7, generator=torch.Generator().manual_seed(0))
    allowed = torch.tensor([False, True, True, True, True, True, False]).expand(2000, 7)
    policy = masked(Discrete.mixed(scores, 0.0), allowed)
    for uniform in (0.0, 1 - 2**-53):
        drawn = policy.at(torch.full((2000, 1), uniform, dtype=torch.float64))
        assert drawn.min() >= 1
        assert drawn.max() <= 5


def test_random_actions_are_even_among_the_allowed() -> None:
    policy, rows = RandomPolicy(COUNT), 3000
    policy.reset(np.arange(rows), np.arange(rows))
    mask = np.tile(np.array([1, 0, 1, 0], np.int8), (rows, 1))
    chosen = policy.act(np.zeros((rows, 8, 8, 3), np.uint8), {MASK_KEY: mask, "_action_mask": np.ones(rows, np.bool_)})
    shares = np.bincount(chosen, minlength=COUNT) / rows
    assert shares[[1, 3]].tolist() == [0, 0]
    assert shares[0] == pytest.approx(0.5, abs=0.04)
    policy.reset(np.arange(rows), np.arange(rows))
    partly = {MASK_KEY: mask, "_action_mask": np.arange(rows) < 10}
    assert set(policy.act(np.zeros((rows, 8, 8, 3), np.uint8), partly).tolist()) == {0, 1, 2, 3}


@pytest.mark.parametrize("world", [FORBIDDING, OBSERVED])
@pytest.mark.parametrize("offered", [None, (3, 1, 0, 2)])
def test_masks_are_recorded_beside_the_frames_that_they_follow(
    world: EnvConfig, offered: tuple[int, ...] | None, tmp_path: Path
) -> None:
    config = EnvConfig(world.id, actions=offered)
    store = recorded(tmp_path, config)
    env: Any = gym.make(FORBIDDING.id).unwrapped
    for name in store.names:
        episode = store.read(name)
        masks = episode.extras[MASK_KEY]
        assert masks.dtype == np.int8
        assert masks.shape == (len(episode.image), COUNT)
        assert masks[np.arange(len(masks) - 1), episode.action[1:]].all()
        assert not masks[-1].any()
        env.reset(seed=int(episode.extras[SEED_KEY]))
        for action, mask in zip([*episode.action[1:], None], masks, strict=True):
            assert mask.tolist() == env.mask[list(offered or range(COUNT))].tolist()
            if action is not None:
                env.step(5 + (offered or range(COUNT))[action])


def test_pieces_and_processes_record_masks_too(tmp_path: Path) -> None:
    whole = recorded(tmp_path / "whole", episodes=2)
    pieces = recorded(tmp_path / "pieces", episodes=2, num_envs=2, processes=True, piece_frames=3)
    joined: dict[int, list[Any]] = {}
    for episode in sorted(map(pieces.read, pieces.names), key=lambda one: int(one.extras[FIRST_KEY])):
        known = joined.setdefault(int(episode.extras[SEED_KEY]), [])
        known[-1:] = episode.extras[MASK_KEY].tolist()  # the first frame is the last of the piece before
    assert len(pieces) > 2
    assert joined == {int(e.extras[SEED_KEY]): e.extras[MASK_KEY].tolist() for e in map(whole.read, whole.names)}


@pytest.mark.parametrize("world", [FORBIDDING, OBSERVED])
def test_a_repeated_action_stops_where_it_is_forbidden(world: EnvConfig, tmp_path: Path) -> None:
    store = recorded(tmp_path, EnvConfig(world.id, every=3))
    lengths = [len(store.read(name).image) - 1 for name in store.names]
    assert max(lengths) > 2  # of 6 steps at most, by threes


def test_masks_of_other_actions_are_not_read(tmp_path: Path) -> None:
    env = gym.make("Steering-v0", kind="choices")
    masks = (np.ones(3, np.int8), np.ones(5, np.int8))
    gym.register("Masked-v0", lambda: Told(env, {MASK_KEY: masks}))
    policy = RandomPolicy(spec_of(SPACES["choices"], "it"))
    store = recorded(tmp_path, EnvConfig("Masked-v0"), policy, episodes=1)
    assert MASK_KEY not in store.read(store.names[0]).extras


class Told(gym.Wrapper[Any, Any, Any, Any]):
    """Says `more` in info."""

    def __init__(self, env: gym.Env[Any, Any], more: dict[str, Any]) -> None:
        super().__init__(env)
        self.more = more

    def reset(self, **told: Any) -> tuple[Any, dict[str, Any]]:
        frame, info = self.env.reset(**told)
        return frame, {**info, **self.more}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        *result, info = self.env.step(action)
        return *result, {**info, **self.more}  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("nothing", r'gave info\["action_mask"\] that allows none of 4 actions'),
        ("shape", r'gave info\["action_mask"\] int8 \(5,\): want one number for each of 4 actions'),
        ("values", r'gave info\["action_mask"\] \[2, 2, 2, 2\]: want 1'),
        ("text", r'gave info\["action_mask"\] <U3 \(4,\)'),
        ("first", r'info\["action_mask"\] with some frames'),
        ("later", r'info\["action_mask"\] with some frames'),
    ],
)
def test_a_faulty_mask_is_named(fault: str, message: str, tmp_path: Path) -> None:
    env = make(forbidding(fault))
    with pytest.raises(InputError, match=message):  # noqa: PT012
        env.reset(seed=0)
        env.step(np.int64(0))
    with pytest.raises(InputError, match="action_mask"):
        recorded(tmp_path, forbidding(fault), episodes=1)


def test_the_actions_that_are_offered_may_all_be_forbidden() -> None:
    env = make(EnvConfig(FORBIDDING.id, actions=(2,)))
    with pytest.raises(InputError, match="allows none of 1 actions"):  # noqa: PT012
        for seed in range(10):
            env.reset(seed=seed)


def test_masks_of_other_vector_environments_are_looked_at() -> None:
    told = {MASK_KEY: np.array([[1, 0], [0, 0]]), "_action_mask": np.array([True, True])}
    with pytest.raises(InputError, match=r"row 1 has .* allows none of 2"):
        masks_of(told, 2, 2)
    found = masks_of(told, 2, 2, ended=np.array([False, True]))
    assert found is not None
    assert found.tolist() == [[True, False], [True, True]]


def random(model: WorldModel) -> Policy:
    return RandomPolicy(COUNT)


def exploring(model: WorldModel) -> Policy:
    return Exploring(dreamt(model), RandomPolicy(COUNT), 0.5)


def mixture(model: WorldModel) -> Policy:
    return Mixture([dreamt(model), RandomPolicy(COUNT)], [0.5, 0.5])


def dreamt(model: WorldModel) -> Policy:
    return WorldModelPolicy(model, agent_of(model, bias=3.0))


def greedy(model: WorldModel) -> Policy:
    return WorldModelPolicy(model, agent_of(model), greedy=True)


def planning(model: WorldModel, **changes: Any) -> Policy:
    brief = PlanningConfig(**{"candidates": 6, "elites": 2, "iterations": 2, "horizon": 3, "steps": 1, **changes})
    return PlanningPolicy(model, brief)


def planning_mode(model: WorldModel) -> Policy:
    return planning(model, execute="mean", momentum=0.5)


def shooting(model: WorldModel) -> Policy:
    return planning(model, method="shooting")


@pytest.mark.parametrize("make_policy", [random, exploring, mixture, dreamt, greedy, planning, planning_mode, shooting])
def test_no_policy_does_what_is_forbidden(make_policy: Callable[[WorldModel], Policy], model: WorldModel) -> None:
    judged = evaluate(
        "it", FORBIDDING, make_policy(model), episodes=8, seed=0, num_envs=3, processes=False, progress=False
    )
    assert len(set(judged.evaluation.lengths)) > 2  # rows begin and end at different times


def test_a_clone_of_masked_episodes_plays_for_real(model: WorldModel, tmp_path: Path) -> None:
    store = recorded(tmp_path / "episodes")
    cloner = Cloner(model, store, CloningConfig(batch=8, rows=2), tmp_path / "policy")
    cloner.train(2, progress=False)
    evaluate("it", FORBIDDING, cloner.policy(), episodes=8, seed=0, num_envs=3, processes=False, progress=False)


def learner(out: Path) -> PPO:
    return PPO(make_vec(FORBIDDING, PPO_CONFIG.rows, processes=False), PPO_CONFIG, out)


def test_ppo_learns_from_probabilities_among_the_allowed(tmp_path: Path) -> None:
    subject = learner(tmp_path)
    for _ in range(2):
        rollout = subject.collector.collect(PPO_CONFIG.steps, subject.generator)
        assert rollout.allowed is not None
        assert rollout.allowed.shape == (PPO_CONFIG.steps, PPO_CONFIG.rows, COUNT)
        assert bool(rollout.allowed.gather(2, rollout.actions[..., None]).all())
        assert not bool(rollout.allowed.all())
        states = replay(subject.agent, rollout, torch.arange(PPO_CONFIG.rows))
        probs = subject.agent.judge(states, rollout.allowed).policy.log_prob(rollout.actions)
        torch.testing.assert_close(probs, rollout.log_probs, rtol=1e-4, atol=1e-5)
        alone = rollout.allowed.sum(-1) == 1
        assert alone.any()
        assert bool((rollout.log_probs[alone] == 0).all())
    figures = subject.learn(rollout)
    assert all(bool(value.isfinite()) for value in figures.values())
    assert float(figures["entropy"]) < rollout.allowed.sum(-1).log().mean() + 1e-5  # of four actions it would be more


def test_ppo_goes_on_with_the_masks_where_it_stood_and_plays(tmp_path: Path) -> None:
    through = learner(tmp_path / "through")
    through.train(3, progress=False)
    first = learner(tmp_path / "parts")
    first.train(1, progress=False)
    second = learner(tmp_path / "parts")
    assert second.collector.allowed is not None
    second.train(3, progress=False)
    for ours, theirs in zip(through.agent.parameters(), second.agent.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    for policy in (second.policy(), second.policy(greedy=True)):
        evaluate("it", FORBIDDING, policy, episodes=8, seed=0, num_envs=3, processes=False, progress=False)


SB3 = SB3Config(rows=3, rollout=16, batch=16, epochs=1)


def same_step(config: EnvConfig = FORBIDDING) -> VectorEnv[Any, Any, Any]:
    return make_vec(config, SB3.rows, processes=False, autoreset_mode=AutoresetMode.SAME_STEP)


def bigger(config: EnvConfig = FORBIDDING) -> VectorEnv[Any, Any, Any]:
    """As large as Stable-Baselines3's network wants frames."""
    return same_step(replace(config, size=36))


def test_stable_baselines_is_told_the_masks_of_the_observations() -> None:
    plain, adapted = same_step(), VecMonitor(for_stable_baselines(same_step()))
    _, info = plain.reset(seed=[5, 6, 7])
    adapted.seed(5)
    adapted.reset()
    ends = 0
    for _ in range(20):
        allowed = masks_of(info, 3, COUNT)
        assert allowed is not None
        assert get_action_masks(adapted).tolist() == allowed.tolist()
        assert adapted.env_method("action_masks", indices=[2])[0].tolist() == allowed[2].tolist()
        actions = allowed.argmax(1)
        *_, terminated, _, info = plain.step(actions)
        adapted.step(actions)
        ends += int(terminated.sum())
    assert ends


def test_maskable_ppo_does_nothing_that_is_forbidden(tmp_path: Path) -> None:
    """Neither while it learns, nor played; the world raises. Plain PPO, which knows no masks, does."""
    subject = StableBaselines("sb3-maskable-ppo", bigger(), SB3, tmp_path)
    subject.train(96, progress=False)
    again = StableBaselines("sb3-maskable-ppo", bigger(), SB3, tmp_path)
    assert again.logged == 96
    world = replace(FORBIDDING, size=36)
    for greedy in (True, False):
        policy = again.policy(greedy=greedy)
        evaluate("it", world, policy, episodes=8, seed=0, num_envs=3, processes=False, progress=False)
    with pytest.raises(AssertionError, match="is forbidden by"):
        StableBaselines("sb3-ppo", bigger(), SB3, tmp_path / "plain").train(96, progress=False)


def test_a_dream_forbids_nothing(tmp_path: Path) -> None:
    dreams = for_stable_baselines(vec(dream_folder(tmp_path), rows=2, autoreset_mode="SameStep"))
    dreams.reset()
    assert get_action_masks(dreams).tolist() == [[True] * 3] * 2


def test_other_spaces_have_no_masks() -> None:
    adapted = for_stable_baselines(same_step())
    assert is_masking_supported(adapted)
    adapted.action_space = gym.spaces.MultiBinary(2)
    assert not is_masking_supported(adapted)


class Tensors(VectorWrapper[Any, Any, Any, Any]):
    """A real world with torch output, as `for_torchrl` wants it."""

    output, device = "torch", torch.device("cpu")

    def reset(self, **asked: Any) -> Any:
        frames, info = self.env.reset(**asked)
        return torch.as_tensor(frames), info

    def step(self, actions: Any) -> Any:
        *told, info = self.env.step(np.asarray(actions))
        return *map(torch.as_tensor, told), info


def test_torchrl_is_told_masks_and_does_nothing_forbidden() -> None:
    env = for_torchrl(Tensors(make_vec(FORBIDDING, 3, processes=False)), masks=True)
    assert env.observation_spec[MASK_KEY].shape == (3, COUNT)
    masked_env = TransformedEnv(env, ActionMask())
    masked_env.set_seed(0)
    rollout = masked_env.rollout(30, break_when_any_done=False)  # the world raises where one is forbidden
    assert rollout["next", "done"].sum() > 3  # rows begin anew, each for itself
    allowed = rollout[MASK_KEY]
    assert allowed.dtype == torch.bool
    assert allowed.gather(-1, rollout["action"][..., None]).all()
    assert 0.2 < allowed.float().mean() < 0.8
    plain = for_torchrl(Tensors(make_vec(FORBIDDING, 3, processes=False)))
    plain.set_seed(0)
    with pytest.raises(AssertionError, match="is forbidden"):
        plain.rollout(30, break_when_any_done=False)


def test_rllib_is_told_masks_in_its_observations() -> None:
    def world(rows: int) -> VectorEnv[Any, Any, Any]:
        return make_vec(FORBIDDING, rows, processes=False, autoreset_mode=AutoresetMode.NEXT_STEP)

    envs, plain = for_rllib(world, masks=True)({"num_envs": 3}), world(3)
    told, _ = envs.reset(seed=1)
    _, info = plain.reset(seed=1)
    random = np.random.default_rng(0)
    ended = np.zeros(3, np.bool_)
    for _ in range(20):
        assert told in envs.observation_space
        assert set(told) == {MASK_KEY, "observations"}
        wanted = np.where(ended[:, None], 1, np.stack(info[MASK_KEY]))
        assert np.array_equal(told[MASK_KEY], wanted)
        actions = np.array([random.choice(np.flatnonzero(row)) for row in told[MASK_KEY]])
        told = envs.step(actions)[0]
        _, _, terminated, truncated, info = plain.step(actions)
        ended = terminated | truncated


def test_masks_that_are_not_there_are_not_made_up(tmp_path: Path) -> None:
    folder = dream_folder(tmp_path)
    with pytest.raises(InputError, match="leave out masks=True"):
        for_rllib(lambda rows: vec(folder, rows), masks=True)({"num_envs": 2}).reset()
    env = for_torchrl(vec(folder, 2, autoreset_mode="Disabled", output="torch"), masks=True)
    with pytest.raises(InputError, match="leave out masks=True"):
        env.reset()
    with pytest.raises(InputError, match="masks are of Discrete actions"):
        for_rllib(lambda rows: gym.make_vec("Pendulum-v1", rows), masks=True)({"num_envs": 2})
