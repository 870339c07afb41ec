"""Planning finds the known optimum of exact worlds, discrete and continuous, and no row feels another."""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from corridor import ADVANCE, GOAL, ExactModel, play_corridor, show
from lssvwm.agents.dreamer.actor_critic import ActorCritic, ActorCriticConfig
from lssvwm.agents.planning.planner import Planner, PlanningConfig, PlanningPolicy, dream_values
from lssvwm.agents.planning.proposals import Categorical, Gaussian
from lssvwm.envs.policy import FrameArray
from lssvwm.worldmodel.actions import ActionPart, ActionSpec
from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.layers.memory import Memory
from lssvwm.worldmodel.model import Imagined, WorldModel
from worlds import generator, random_frames, random_model, small_config

SMALL: dict[str, Any] = {"candidates": 48, "iterations": 3, "elites": 6, "horizon": 6, "discount": 0.9, "steps": 1}


def config(**changes: Any) -> PlanningConfig:
    return PlanningConfig(**{**SMALL, **changes})


def planner(model: Any = None, **changes: Any) -> PlanningPolicy:
    return Planner(ExactModel(beyond=1.0) if model is None else model, config(**changes)).policy()


BRIEF: dict[str, Any] = {"candidates": 6, "elites": 2, "iterations": 2, "horizon": 3}
"""For learned worlds, where every dream takes time."""


@pytest.fixture(scope="module")
def model() -> WorldModel:
    return random_model(small_config(), 0).float()


def dream(model: Any, plans: list[list[int]], cell: int = 0, critic: ActorCritic | None = None, **changes: Any) -> Any:
    """Values of plans in the corridor, from `cell`."""
    settings = config(horizon=len(plans[0]), **changes)
    chances = np.zeros((1, settings.particles), np.int64)
    memory = Memory((), torch.tensor([cell]))
    return dream_values(model, memory, torch.tensor([plans]), chances, settings, critic)[0]


def test_values_are_the_discounted_rewards_while_the_episode_lasts() -> None:
    """The exact model rewards what it dreams past the goal: none of that counts."""
    back = [1 - action for action in ADVANCE]
    plans = [[*ADVANCE, 0, 1], [back[0], *ADVANCE, 0], [1, back[1], *ADVANCE], [back[0]] * 6]
    torch.testing.assert_close(dream(ExactModel(beyond=1.0), plans), torch.tensor([0.9**3, 0.9**4, 0.9**5, 0.0]))
    torch.testing.assert_close(dream(ExactModel(), [[1, 0]], cell=3), torch.tensor([1.0]))


def test_a_critic_stands_for_what_comes_after_the_horizon() -> None:
    critic = ActorCritic(ActorCriticConfig(GOAL + 1, 2, layers=0))
    critic.value = lambda features: features @ torch.tensor([0.9**3, 0.9**2, 0.9, 1.0, 100.0])  # type: ignore[method-assign]
    # To cell 2, to 0 and to 1. What it says of the goal counts for nothing, since the episode ends there.
    plans = [[1, 0], [1, 1], [0, 1]]
    torch.testing.assert_close(dream(ExactModel(), plans, critic=critic), 0.9**2 * torch.tensor([0.9, 0.9**3, 0.9**2]))
    torch.testing.assert_close(dream(ExactModel(), [[1, 1]], cell=3, critic=critic), torch.tensor([1.0]))
    far = planner(horizon=2, iterations=1)
    blind, seeing = (play_corridor(p, range(3)) for p in (far, PlanningPolicy(ExactModel(), far.config, critic=critic)))  # type: ignore[arg-type]
    assert all(episode.action.tolist() == [-1, *ADVANCE] for episode in seeing)
    assert any(episode.action.tolist() != [-1, *ADVANCE] for episode in blind)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"warm_start": False},
        {"execute": "mean"},
        {"method": "shooting"},
        {"max_rows": 7, "particles": 3},
    ],
)
def test_plays_the_known_optimum(changes: dict[str, Any]) -> None:
    for episode in play_corridor(planner(**changes), range(6), rows=3):
        assert episode.action.tolist() == [-1, *ADVANCE]
        assert episode.terminated[-1]


@pytest.mark.parametrize("method", ["cem", "shooting"])
def test_a_plan_is_gone_on_with_unless_something_better_is_found(model: WorldModel, method: str) -> None:
    """With one candidate there is nothing else: what was planned at first is done, and not without warm start."""
    settings = {"method": method, "candidates": 1, "elites": 1, "iterations": 1, "horizon": 6}
    frames = random_frames(model.config, 6, 4, source=generator(4)).numpy()
    first, warm, afresh = planner(model, **settings), planner(model, **settings), planner(model, **settings)
    first.reset(np.arange(4), np.arange(4))
    first.watcher.see(frames[0])
    plans = first.plan(torch.full((4, 6), -1))
    np.testing.assert_array_equal(drive(warm, frames, [0, 1, 2, 3]), plans.T)
    afresh.config = config(**{**settings, "warm_start": False})
    assert (drive(afresh, frames, [0, 1, 2, 3]) != plans.T.numpy()).any()


def test_too_short_a_horizon_finds_nothing() -> None:
    """It is the dream that finds the way: the same search fails where it cannot see the goal."""
    episodes = play_corridor(planner(horizon=1), range(6))
    assert np.mean([episode.action.tolist() == [-1, *ADVANCE] for episode in episodes]) < 0.5


def test_an_episode_depends_on_its_seed_alone() -> None:
    """With one random candidate each, the actions are chance: of the row's own seed, whoever plays beside it."""
    lost = {"horizon": 2, "candidates": 1, "elites": 1}
    alone = {int(e.extras["seed"]): e for e in play_corridor(planner(**lost), range(8))}
    among = {int(e.extras["seed"]): e for e in play_corridor(planner(**lost), range(8), rows=3)}
    assert len({episode.action.tobytes() for episode in alone.values()}) > 4
    assert {s: e.action.tolist() for s, e in alone.items()} == {s: e.action.tolist() for s, e in among.items()}


def drive(policy: PlanningPolicy, frames: FrameArray, seeds: list[int]) -> Any:
    """Feed frames (T, N, h, w, 3); row 1 of three begins again at time 2. Returns actions (T, N)."""
    rows = frames.shape[1]
    policy.reset(np.arange(rows), np.array(seeds))
    actions = []
    for time, now in enumerate(frames):
        if time == 2 and rows == 3:
            policy.reset(np.array([1]), np.array([50]))
        actions.append(policy.act(now, {}))
    return np.stack(actions)


def test_in_a_learned_world_rows_and_parts_make_no_difference(model: WorldModel) -> None:
    frames = random_frames(model.config, 5, 3, source=generator(1)).numpy()
    together = drive(planner(model, **BRIEF), frames, [1, 2, 3])
    assert together.dtype == np.int64
    assert len(np.unique(together)) > 1
    np.testing.assert_array_equal(together, drive(planner(model, **BRIEF), frames, [1, 2, 3]))
    np.testing.assert_array_equal(together, drive(planner(model, max_rows=7, **BRIEF), frames, [1, 2, 3]))
    assert (together != drive(planner(model, **BRIEF), frames, [4, 5, 6])).any()
    for row in (0, 2):
        alone = drive(planner(model, **BRIEF), frames[:, row : row + 1], [row + 1])
        assert alone[:, 0].tolist() == together[:, row].tolist()
    begun_again = drive(planner(model, **BRIEF), frames[2:, 1:2], [50])
    assert begun_again[:, 0].tolist() == together[2:, 1].tolist()


def test_what_was_dreamt_leaves_no_trace_in_the_memory_of_what_was_seen(model: WorldModel) -> None:
    frames = random_frames(model.config, 4, 2, source=generator(2)).numpy()
    policy = planner(model, **BRIEF)
    actions = torch.from_numpy(drive(policy, frames, [1, 2]))
    led = torch.cat([torch.full((1, 2), -1), actions[:-1]]).T
    with torch.no_grad():
        _, whole = model.observe(torch.from_numpy(frames).transpose(0, 1), led)
    for name, tensor in whole.state_dict().items():
        torch.testing.assert_close(policy.watcher.memory.state_dict()[name], tensor, atol=1e-4, rtol=1e-4)
    np.testing.assert_array_equal(policy.watcher.memory.frames, [4, 4])


def test_candidates_of_a_row_meet_the_same_chance_and_particles_average_over_it(model: WorldModel) -> None:
    frames = random_frames(model.config, 2, 1, source=generator(3))
    with torch.no_grad():
        _, memory = model.observe(frames, torch.full((2, 1), -1))
        plans = torch.tensor([[0, 1, 2]] * 2)[None].expand(2, 2, 3)
        chances = np.array([[1, 2, 3], [4, 5, 6]])
        one, two, three = (dream_values(model, memory, plans, chances[:, [i]], config(**BRIEF)) for i in range(3))
        together = dream_values(model, memory, plans, chances, config(**BRIEF))
    torch.testing.assert_close(one[:, 0], one[:, 1])
    assert (one[:, 0] - two[:, 0]).abs().min() > 1e-5
    torch.testing.assert_close(together, (one + two + three) / 3)


@dataclass(frozen=True)
class LineConfig:
    features: int = 1
    num_actions: int = 0
    action_size: int = 1
    action_parts: tuple[ActionPart, ...] = ActionSpec.box((-1.0,), (3.0,)).parts
    told: tuple[Any, ...] = ()


class LineModel:
    """A point on a line that moves by the action, in [-1, 3]; being within 0.25 of 5 is worth 1, and nothing else.

    Frames tell nothing: the memory knows where the point is from the actions alone.
    """

    device = torch.device("cpu")
    config = LineConfig()

    def eval(self) -> LineModel:
        return self

    def empty(self, rows: int) -> Memory:
        return Memory((), torch.zeros(rows))

    def observe(self, frames: Tensor, actions: Tensor, memory: Memory) -> tuple[Any, Memory]:
        at = memory.frames + actions[:, 0, 0].nan_to_num(0.0)
        return SimpleNamespace(features=at[:, None, None]), Memory((), at)

    def imagine(self, actions: Tensor, memory: Memory, **settings: Any) -> Imagined:
        assert bool(((actions >= -1) & (actions <= 3)).all())
        at = memory.frames + actions[:, 0]
        reward = torch.exp(-((at - 5) ** 2))
        return Imagined(show(at.long() * 0), reward, reward * 0, at[:, None], Memory((), at))


@pytest.mark.parametrize(
    "changes", [{}, {"execute": "mean"}, {"method": "shooting", "candidates": 512}, {"warm_start": False}]
)
def test_continuous_actions_reach_the_known_optimum(changes: dict[str, Any]) -> None:
    """The fastest way from 0 to 5 with steps of at most 3 takes two, and then it stays there."""
    settings = config(**{"candidates": 128, "elites": 16, "horizon": 3, "iterations": 6, **changes})
    policy = PlanningPolicy(LineModel(), settings)  # type: ignore[arg-type]
    policy.reset(np.arange(2), np.arange(2))
    frames: FrameArray = np.zeros((2, 16, 16, 3), np.uint8)
    actions = np.stack([policy.act(frames, {}) for _ in range(5)])
    assert actions.dtype == np.float32
    assert actions.shape == (5, 2, 1)
    at = actions[..., 0].cumsum(0)
    np.testing.assert_allclose(at[1:], 5, atol=0.6 if settings.method == "shooting" else 0.25)


def test_distributions_move_to_the_elites() -> None:
    even = Categorical.of(torch.tensor([[-1, 2]]), 4)
    torch.testing.assert_close(even.probs[0], torch.tensor([[0.25] * 4, [0.125, 0.125, 0.625, 0.125]]))
    moved = even.fitted(torch.tensor([[[3, 2], [3, 0]]]), 0.2)
    torch.testing.assert_close(moved.probs[0, 0], torch.tensor([0.05, 0.05, 0.05, 0.85]))
    torch.testing.assert_close(moved.probs[0, 1], torch.tensor([0.425, 0.025, 0.525, 0.025]))
    assert moved.mode().tolist() == [[3, 2]]
    drawn = moved.draw([np.random.default_rng(0)], 4000)
    share = torch.nn.functional.one_hot(drawn, 4).float().mean(1)
    torch.testing.assert_close(share, moved.probs, atol=0.03, rtol=0)

    box = torch.tensor([[-1.0], [3.0]])
    wide = Gaussian.of(torch.tensor([[[torch.nan], [2.0]]]), box)
    assert wide.mean[0, :, 0].tolist() == [1.0, 2.0]
    assert wide.std[0, :, 0].tolist() == [2.0, 2.0]
    narrow = wide.fitted(torch.tensor([[[[1.0], [0.0]], [[3.0], [0.0]]]]), 0.5)
    assert narrow.mean[0, :, 0].tolist() == [1.5, 1.0]
    assert narrow.std[0, :, 0].tolist() == [1.5, 1.0]
    drawn = narrow.draw([np.random.default_rng(0)], 4000)
    assert (drawn.min(), drawn.max()) == (-1, 3)
    torch.testing.assert_close(drawn[0, :, 1, 0].mean(), torch.tensor(1.0), atol=0.05, rtol=0)


def test_there_is_nothing_to_train() -> None:
    assert Planner(ExactModel(), config()).train(10, progress=False) == {}  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "mppi"}, r"method is 'mppi': choose one of \('cem', 'shooting'\)"),
        ({"execute": "worst"}, r"execute is 'worst'"),
        ({"horizon": 0}, r"horizon=0: give at least 1"),
        ({"elites": 49}, r"elites=49 of candidates=48: choose fewer"),
        ({"momentum": 1.0}, r"momentum=1\.0"),
        ({"discount": 0.0}, r"discount=0\.0"),
        ({"method": "shooting", "execute": "mean"}, r"execute='mean' is for method='cem'"),
    ],
)
def test_what_cannot_be_planned_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        config(**changes)


def test_a_critic_of_another_world_and_unknown_bounds_are_refused() -> None:
    critic = ActorCritic(ActorCriticConfig(7, 2))
    with pytest.raises(InputError, match=r"critic reads 7 features, the world model has 5"):
        Planner(ExactModel(), config(), critic=critic)  # type: ignore[arg-type]
    model = LineModel()
    model.config = replace(model.config, action_parts=())
    with pytest.raises(InputError, match=r"1 numbers without known bounds.*train it with --env"):
        Planner(model, config())  # type: ignore[arg-type]
    policy = planner()
    with pytest.raises(ValueError, match=r"1 frames for 0 rows: reset every row"):
        policy.act(np.zeros((1, 16, 16, 3), np.uint8), {})
