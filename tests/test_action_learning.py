"""Whatever learns to act, on actions of several numbers: distributions by a slow reference, and every algorithm."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor

from lssvwm.agents.dreamer.action_head import MAX_STD, MIN_STD, ActionHead
from lssvwm.agents.dreamer.actor_critic import ActorCriticConfig, networks_for
from lssvwm.agents.dreamer.distributions import Bounded, Factored
from lssvwm.agents.evaluation.runs import open_run
from lssvwm.agents.model_free.ppo import PPO, PPOConfig
from lssvwm.agents.model_free.sb3 import StableBaselines
from lssvwm.agents.planning.planner import PlanningConfig, PlanningPolicy
from lssvwm.agents.planning.proposals import around
from lssvwm.agents.policies.baselines import Exploring, RandomPolicy
from lssvwm.agents.running.environment import probe
from lssvwm.agents.running.loop import Loop
from lssvwm.agents.running.presets import PRESETS
from lssvwm.agents.running.settings import Algo, CloningOptions, DreamerOptions, PPOOptions, SB3Options, TrainingOptions
from lssvwm.envs.factory import make_vec
from lssvwm.envs.spaces.actions import shaped, spec_of
from lssvwm.worldmodel.actions import ActionPart
from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.episodes import EpisodeStore
from lssvwm.worldmodel.layers.memory import Memory
from lssvwm.worldmodel.model import Imagined
from lssvwm.worldmodel.training import HeadsConfig
from steering import SPACES, steering
from worlds import generator, random_model, small_config

MIXED = ActorCriticConfig(4, 0, low=(-1.0, 0.0, 0.0, -2.0), high=(1.0, 2.0, 1.0, 4.0), choices=(0, 3, 2, 0))


def test_parts_are_independent_and_their_logarithms_add_up() -> None:
    head = ActionHead(MIXED).double()
    assert (head.scores, head.told) == (2 + 3 + 2 + 2, 1 + 3 + 2 + 1)
    scores = torch.randn(5, 9, generator=generator(0), dtype=torch.float64)
    policy = head.policy(scores, 0.01)
    assert isinstance(policy, Factored)
    actions = policy.sample(generator(1))
    assert actions.shape == (5, 4)
    assert actions.dtype == torch.float32
    for row in range(5):
        own, done = scores[row], actions[row].double()
        total, entropy = 0.0, 0.0
        for column, choices, unit in ((0, 0, done[0]), (1, 3, None), (2, 2, None), (3, 0, (done[3] - 1) / 3)):
            begin = (0, 2, 5, 7)[column]
            if choices:
                chances = 0.99 * own[begin : begin + choices].softmax(0) + 0.01 / choices
                total += float(chances[int(done[column])].log())
                entropy -= float((chances * chances.log()).sum())
            else:
                assert unit is not None
                std = MIN_STD + (MAX_STD - MIN_STD) * torch.sigmoid(own[begin + 1] + 2)
                normal = torch.distributions.Normal(own[begin].tanh(), std)
                ends = torch.tensor([-1.0, 1.0], dtype=torch.float64)
                mass = normal.cdf(ends)[1] - normal.cdf(ends)[0]
                total += float(normal.log_prob(unit) - mass.log())
                at = torch.linspace(-1, 1, 20001, dtype=torch.float64)
                density = normal.log_prob(at).exp() / mass
                entropy -= float(torch.trapezoid(density * density.log(), at))
        assert float(policy.log_prob(actions)[row]) == pytest.approx(total, abs=1e-5)
        assert float(policy.entropy()[row]) == pytest.approx(entropy, abs=1e-5)


def test_draws_of_a_row_are_its_own_and_the_mode_is_the_likeliest() -> None:
    policy = ActionHead(MIXED).policy(torch.randn(6, 9, generator=generator(3)))
    drawn = torch.rand(6, policy.draws, generator=generator(4), dtype=torch.float64)
    together = policy.at(drawn)
    alone = ActionHead(MIXED).policy(torch.randn(6, 9, generator=generator(3))[2:3]).at(drawn[2:3])
    torch.testing.assert_close(together[2:3], alone)
    for column, choices in enumerate(MIXED.choices):
        values = together[:, column]
        assert choices == 0 or set(values.tolist()) <= set(range(choices))
    changed = drawn.clone()
    changed[:, 1] = 1 - changed[:, 1]
    assert torch.equal(policy.at(changed)[:, [0, 2, 3]], together[:, [0, 2, 3]])
    assert bool((policy.log_prob(policy.mode) >= policy.log_prob(together)).all())
    assert 0 < float(policy.spread().min()) <= float(policy.spread().max()) <= 1


def test_what_was_done_is_told_one_hot_and_from_minus_one_to_one() -> None:
    told = ActionHead(MIXED).tell(torch.tensor([[1.0, 2, 0, 4], [0.5, 0, 1, -2], [torch.nan] * 4]))
    assert told.tolist() == [[1, 0, 0, 1, 1, 0, 1], [0.5, 1, 0, 0, 0, 1, -1], [0] * 7]


def test_a_box_alone_is_the_bounded_normal_as_before() -> None:
    config = ActorCriticConfig(4, 0, low=(-1.0, 2.0), high=(1.0, 3.0))
    assert isinstance(ActionHead(config).policy(torch.zeros(1, 4)), Bounded)
    with pytest.raises(InputError, match="give as many of each"):
        replace(MIXED, choices=(0, 3))
    model = random_model(
        small_config(num_actions=0, action_size=1, action_parts=(ActionPart("multi-discrete", (1,), (5,)),)), 0
    )
    assert networks_for(model) == ActorCriticConfig(12, 0, low=(0.0,), high=(4.0,), choices=(5,))


def test_plans_of_choices_and_numbers_move_to_the_elites() -> None:
    known = torch.full((1, 2, 4), torch.nan)
    known[0, 1] = torch.tensor([0.5, 2, 1, 4])
    open_ = around(known, MIXED)
    drawn = open_.draw([np.random.default_rng(0)], 500)
    assert drawn.shape == (1, 500, 2, 4)
    assert set(drawn[..., 1].flatten().tolist()) == {0, 1, 2}
    assert (float(drawn[..., 3].min()), float(drawn[..., 3].max())) == (-2, 4)
    elites = torch.tensor([0.5, 1, 0, 3.0]).expand(1, 6, 2, 4)
    torch.testing.assert_close(open_.fitted(elites, 0.0).mode(), elites[:, 0])


@dataclass(frozen=True)
class GearConfig:
    features: int = 1
    num_actions: int = 0
    action_size: int = 2
    action_parts: tuple[ActionPart, ...] = spec_of(
        spaces.Dict({"gear": spaces.Discrete(3), "push": spaces.Box(-1, 1, (1,))}), "it"
    ).parts
    told: tuple[Any, ...] = ()


class GearModel:
    """A point on a line that moves by gear times push; being within 0.1 of 2 is worth 1, and nothing else."""

    device, config = torch.device("cpu"), GearConfig()

    def eval(self) -> GearModel:
        return self

    def empty(self, rows: int) -> Memory:
        return Memory((), torch.zeros(rows))

    def observe(self, frames: Tensor, actions: Tensor, memory: Memory) -> Any:
        at = memory.frames + actions[:, 0].prod(-1).nan_to_num(0.0)
        return type("Seen", (), {"features": at[:, None, None]})(), Memory((), at)

    def imagine(self, actions: Tensor, memory: Memory, **_: Any) -> Imagined:
        at = memory.frames + actions.prod(-1)
        reward = ((at - 2).abs() < 0.1).float()
        return Imagined(torch.zeros(len(at), 1, 1, 3).byte(), reward, reward * 0, at[:, None], Memory((), at))


def test_the_planner_chooses_gear_and_push() -> None:
    settings = PlanningConfig(candidates=192, elites=16, horizon=2, iterations=6, steps=1)
    policy = PlanningPolicy(GearModel(), settings)  # type: ignore[arg-type]
    policy.reset(np.arange(1), np.arange(1))
    actions = np.stack([policy.act(np.zeros((1, 8, 8, 3), np.uint8), {})[0] for _ in range(3)])
    assert set(actions[:, 0]) <= {0, 1, 2}
    np.testing.assert_allclose(actions.prod(1).cumsum(), 2, atol=0.11)  # at once, which takes the highest gear


SMALL = replace(
    PRESETS["smoke"],
    env="steering:Steering-v0",
    size=40,  # Stable-Baselines3's convolutions want as much
    actions=None,
    max_episode_steps=None,
    collect_episodes=3,
    num_envs=1,
    processes=False,
    world_steps=2,
    dreams=1,
    env_steps=24,
    dream_steps=4,
    dream_context=2,
    eval_episodes=1,
    model=replace(
        PRESETS["smoke"].model, patch=20, tiles=((1, 1),), dim=32, layers=1, features=16, state_size=4, head_dim=32
    ),
    training=TrainingOptions(batch=2, length=6, fit_frames=32),
    heads=HeadsConfig(steps=2, kept=20),
    dreamer=DreamerOptions(rows=4, horizon=3, context=2),
    ppo=PPOOptions(rows=2, steps=6, minibatches=1, epochs=1, hidden=8),
    sb3=SB3Options(rows=2, rollout=6, batch=6, epochs=1, hidden=8, buffer=16),
    planning=PlanningConfig(candidates=4, iterations=1, elites=2, horizon=2, steps=1),
    cloning=CloningOptions(steps=2, batch=8),
)


def settings_of(kind: str, **changes: Any) -> Any:
    return replace(SMALL, env_options=f'{{"kind": "{kind}"}}', **changes)


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Runs whose worlds have been learned."""
    runs = {}
    for kind in ("box", "dict"):
        runs[kind] = tmp_path_factory.mktemp(kind) / "run"
        loop = Loop(runs[kind], settings_of(kind), progress=False)
        loop.collect(0, loop.collector(0))
        loop.learn_world(0)
    return runs


@pytest.mark.parametrize(
    ("kind", "algo"),
    [
        *((kind, algo) for kind in ("box", "dict") for algo in ("dreamer", "clone", "ppo", "plan")),
        *(("box", algo) for algo in ("sb3-ppo", "sb3-sac", "sb3-td3")),
    ],
)
def test_each_learns_in_dreams_and_plays_for_real(
    learned: dict[str, Path], tmp_path: Path, kind: str, algo: Algo
) -> None:
    shutil.copytree(learned[kind], tmp_path / "run")
    loop = Loop(tmp_path / "run", settings_of(kind, algo=algo, explore=0.5), progress=False)
    loop.learn_policy(0)
    figures = loop.judge("judged", "it", loop.collector(1))  # some actions are random
    assert len(figures["returns"]) == 1
    loop.imagined(loop.learned(), horizon=2)
    episode = EpisodeStore(tmp_path / "run" / "examples" / "judged").read(
        EpisodeStore(tmp_path / "run" / "examples" / "judged").names[0]
    )
    actions = probe(settings_of(kind).env_config).actions
    assert episode.action.shape[1] == actions.size
    assert all(SPACES[kind].contains(shaped(actions, one)) for one in episode.action[1:])


@pytest.mark.parametrize(
    ("kind", "algo", "message"),
    [
        ("box", "sb3-dqn", "sb3-dqn takes actions in a Discrete.*choose sb3-ppo, sb3-recurrent-ppo, sb3-sac, sb3-td3"),
        ("dict", "sb3-sac", "takes actions in a Box, this environment has Dict.*choose --algo dreamer or ppo"),
    ],
)
def test_algorithms_for_other_actions_are_refused(
    learned: dict[str, Path], kind: str, algo: Algo, message: str
) -> None:
    loop = Loop(learned[kind], settings_of(kind, algo=algo), progress=False)
    with pytest.raises(InputError, match=message):
        loop.learn_policy(0)


def test_ppo_in_the_real_world_goes_on_where_it_stood(tmp_path: Path) -> None:
    def ppo(out: Path) -> PPO:
        envs = make_vec(replace(steering("dict"), size=8), 2, processes=False)
        return PPO(envs, PPOConfig(rows=2, steps=7, minibatches=1, epochs=1, hidden=8), out)

    whole = ppo(tmp_path / "whole")
    whole.train(3, progress=False)
    ppo(tmp_path / "parts").train(1, progress=False)
    parts = ppo(tmp_path / "parts")
    parts.train(3, progress=False)
    for name, tensor in whole.agent.state_dict().items():
        assert torch.equal(parts.agent.state_dict()[name], tensor), name


def test_exploring_replaces_whole_actions() -> None:
    actions = probe(steering("dict")).actions

    class Still(RandomPolicy):
        def act(self, frames: Any, info: Any) -> Any:
            return np.zeros((len(frames), 5), np.float32)

    policy = Exploring(Still(actions), RandomPolicy(actions), 0.3)
    policy.reset(np.arange(400), np.arange(400))
    done = policy.act(np.zeros((400, 1, 1, 3), np.uint8), {})
    assert 0.2 < (done[:, 0] != 0).mean() < 0.4
    np.testing.assert_array_equal(done[:, 0] != 0, done[:, 1] != 0)


def test_the_weight_of_sacs_entropy_outlasts_a_round(learned: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(learned["box"], tmp_path / "run")
    loop = Loop(tmp_path / "run", settings_of("box", algo="sb3-sac"), progress=False)
    with loop.algorithm() as learner:
        assert isinstance(learner, StableBaselines)
        learner.model.log_ent_coef.data.fill_(-3.0)
        learner.save()
    with loop.algorithm() as learner:
        assert isinstance(learner, StableBaselines)
        assert float(learner.model.log_ent_coef.detach()) == -3.0


def test_all_that_a_dreamer_may_be_told_goes_with_any_action(tmp_path: Path) -> None:
    """A mixture that explores records; cloned, held near the clone and pessimistic, it goes on for a second round."""
    kind = "dict"
    dreamer = replace(SMALL.dreamer, clone_kl=0.5, clone_kl_half=1, pessimism=1.0, pessimism_over="draws")
    told = {"collector": "random:0.5,random:0.5", "explore": 0.3, "clone": True, "dreamer": dreamer}
    Loop(tmp_path, settings_of(kind, **told), progress=False).run()
    stages = Loop(tmp_path, settings_of(kind, **told, rounds=2), progress=False).run()
    assert stages["1-policy"]["batches"] == 2
    assert stages["1-policy"]["clone_kl"] >= 0
    best = open_run(tmp_path / "best")
    policy = best.learned(settings_of(kind).env_config, torch.device("cpu"), greedy=True).policy
    policy.reset(np.arange(2), np.arange(2))
    assert policy.act(np.zeros((2, 40, 40, 3), np.uint8), {}).shape == (2, probe(steering(kind)).actions.size)


def test_a_plan_ends_only_in_rows_where_something_else_was_done() -> None:
    policy = PlanningPolicy(GearModel(), PlanningConfig(candidates=4, elites=2, horizon=3, steps=1))  # type: ignore[arg-type]
    policy.reset(np.arange(2), np.arange(2))
    done = policy.act(np.zeros((2, 8, 8, 3), np.uint8), {})
    done[1, 1] += 0.5
    policy.took(done)
    assert set(policy._left) == {0}
