"""The policy of the dreams in real play, and how it is judged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import lssvwm.agents.policies.world_model
from corridor import (
    ADVANCE,
    CORRIDOR,
    GOAL,
    ExactModel,
    Lenient,
    Script,
    agent_that_plays,
    play_corridor,
)
from lssvwm.agents.dreamer.actor_critic import ActorCritic, ActorCriticConfig, networks_for
from lssvwm.agents.dreamer.dreamer import STATE, Dreamer, DreamerConfig
from lssvwm.agents.evaluation import Evaluation, evaluate, imagined_returns
from lssvwm.agents.policies.world_model import WorldModelPolicy, load_agent
from lssvwm.agents.running import checks
from lssvwm.envs.factory import EnvConfig
from lssvwm.envs.policy import FrameArray, IntArray
from lssvwm.worldmodel.actions import ActionSpec, told
from lssvwm.worldmodel.checkpoint import read_state
from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.episodes import EpisodeStore
from lssvwm.worldmodel.model import WorldModel
from worlds import assert_same, generator, random_frames, random_model, small_config

OPTIMAL = (*ADVANCE, 0)
Frames = Mapping[int, FrameArray]


def exact(table: tuple[int, ...] = OPTIMAL, certainty: float = 50.0, model: Any = None) -> WorldModelPolicy:
    return WorldModelPolicy(model or ExactModel(), agent_that_plays(table, certainty))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def model() -> WorldModel:
    return random_model(small_config(), 0).float()


def random_agent(model: WorldModel) -> ActorCritic:
    torch.manual_seed(0)
    agent = ActorCritic(ActorCriticConfig(model.config.features, model.config.num_actions, hidden=16))
    torch.nn.init.normal_(agent.actor[-1].weight, std=0.3)
    return agent


class Watched(WorldModelPolicy):
    """Notes the actor's probabilities at every step."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.seen: list[torch.Tensor] = []
        inner = self.agent.policy

        def policy(features: torch.Tensor) -> Any:
            self.seen.append(features)
            return inner(features)

        self.agent.policy = policy  # type: ignore[method-assign]


def test_acts_on_what_it_sees_and_did_in_the_real_world() -> None:
    """The exact model refuses actions that did not lead to the frames: over many episodes in several rows."""
    episodes = play_corridor(exact(certainty=1.0), range(12), rows=3)
    assert len(episodes) == 12
    assert len({len(e.image) for e in episodes}) > 2
    for episode in play_corridor(exact(), range(5), rows=2):
        assert episode.action.tolist() == [-1, *ADVANCE]


def test_an_episode_depends_on_its_seed_alone() -> None:
    alone = {int(e.extras["seed"]): e for e in play_corridor(exact(certainty=0.5), range(8), rows=1)}
    among = {int(e.extras["seed"]): e for e in play_corridor(exact(certainty=0.5), range(8), rows=3)}
    assert len({e.action.tobytes() for e in alone.values()}) > 2
    for seed, episode in alone.items():
        assert episode.action.tolist() == among[seed].action.tolist()


def test_one_policy_plays_with_more_and_with_fewer_rows() -> None:
    policy = exact(certainty=0.5)
    for rows in (3, 1, 2, 4):
        again = play_corridor(policy, range(4), rows=rows)
        fresh = play_corridor(exact(certainty=0.5), range(4), rows=rows)
        assert [e.action.tolist() for e in again] == [e.action.tolist() for e in fresh]


def drive(policy: WorldModelPolicy, frames: FrameArray, seeds: list[int], restart: Mapping[int, int]) -> IntArray:
    """Feed frames (T, N, h, w, 3); row r begins again at time restart[r]. Returns actions (T, N)."""
    rows = frames.shape[1]
    policy.reset(np.arange(rows), np.array(seeds))
    actions = []
    for time, now in enumerate(frames):
        for row, when in restart.items():
            if when == time:
                policy.reset(np.array([row]), np.array([seeds[row] + 100]))
        actions.append(policy.act(now, {}))
    return np.stack(actions)


def test_rows_do_not_feel_each_other_in_a_real_model(model: WorldModel) -> None:
    frames = random_frames(model.config, 9, 3, source=generator(5)).numpy()
    together = drive(WorldModelPolicy(model, random_agent(model)), frames, [7, 8, 9], {1: 4})
    assert len(np.unique(together)) == 3
    for row in range(3):
        restart = {0: 4} if row == 1 else {}
        alone = drive(WorldModelPolicy(model, random_agent(model)), frames[:, row : row + 1], [7 + row], restart)
        assert alone[:, 0].tolist() == together[:, row].tolist()


def test_a_reset_forgets_its_rows_and_no_others(model: WorldModel) -> None:
    frames = random_frames(model.config, 3, 3, source=generator(5)).numpy()
    policy = WorldModelPolicy(model, random_agent(model))
    drive(policy, frames, [1, 2, 3], {})
    before, led = policy.watcher.memory, policy.watcher.led_here.clone()
    policy.reset(np.array([1]), np.array([5]))
    others = torch.tensor([0, 2])
    assert_same(policy.watcher.memory.select(others), before.select(others))
    assert_same(policy.watcher.memory.select(torch.tensor([1])), model.empty(1))
    assert policy.watcher.led_here.tolist() == [led[0], -1, led[2]]


def test_real_play_shows_the_actor_what_a_dream_would(model: WorldModel) -> None:
    """Features frame by frame are those of the whole episode observed at once, a restarted row's included."""
    frames = random_frames(model.config, 10, 2, source=generator(6)).numpy()
    policy = Watched(model, random_agent(model))
    actions = torch.from_numpy(drive(policy, frames, [1, 2], {1: 6}))
    seen = torch.stack(policy.seen, 1)  # (2, T, F)
    for row, begin, end in ((0, 0, 10), (1, 0, 6), (1, 6, 10)):
        led = torch.cat([torch.tensor([-1]), actions[begin : end - 1, row]])
        with torch.no_grad():
            whole, _ = model.observe(torch.from_numpy(frames[None, begin:end, row]), led[None])
        torch.testing.assert_close(seen[row, begin:end], whole.features[0], atol=1e-4, rtol=0)


def test_what_it_returned_can_be_changed_freely(model: WorldModel) -> None:
    frames = random_frames(model.config, 2, 2, source=generator(5)).numpy()
    policy = WorldModelPolicy(model, random_agent(model))
    policy.reset(np.arange(2), np.array([1, 2]))
    actions = policy.act(frames[0], {})
    taken = actions.tolist()
    policy.reset(np.array([0]), np.array([3]))
    assert actions.tolist() == taken
    actions[:] = 99
    assert policy.watcher.led_here.tolist() == [-1, taken[1]]


def test_greedy_takes_the_most_likely_action() -> None:
    greedy = WorldModelPolicy(ExactModel(), agent_that_plays(OPTIMAL, 0.01), greedy=True)  # type: ignore[arg-type]
    (episode,) = play_corridor(greedy, [0])
    assert episode.action.tolist() == [-1, *ADVANCE]


def test_actions_come_as_often_as_the_actor_says(model: WorldModel) -> None:
    agent = random_agent(model)
    with torch.no_grad():
        agent.actor[-1].weight.zero_()
        agent.actor[-1].bias.copy_((torch.tensor([0.2, 0.3, 0.5]) - 0.01 / 3).log())  # less the even share
    policy = WorldModelPolicy(model, agent)
    rows = 2000
    policy.reset(np.arange(rows), np.arange(rows))
    frames = random_frames(model.config, 1, source=generator(0)).numpy().repeat(rows, 0)
    share = np.bincount(policy.act(frames, {}), minlength=3) / rows
    np.testing.assert_allclose(share, [0.2, 0.3, 0.5], atol=0.04)


@pytest.fixture(scope="module")
def continuous() -> WorldModel:
    return random_model(small_config(**told(ActionSpec.box((-1.0, 2.0), (1.0, 3.0)))), 0).float()


def continuous_agent(model: WorldModel) -> ActorCritic:
    torch.manual_seed(0)
    agent = ActorCritic(replace(networks_for(model), hidden=16))
    torch.nn.init.normal_(agent.actor[-1].weight, std=0.3)
    return agent


def test_continuous_rows_do_not_feel_each_other_and_stay_in_their_bounds(continuous: WorldModel) -> None:
    frames = random_frames(continuous.config, 9, 3, source=generator(5)).numpy()
    together = drive(WorldModelPolicy(continuous, continuous_agent(continuous)), frames, [7, 8, 9], {1: 4})
    assert together.shape == (9, 3, 2)
    assert together.dtype == np.float32
    assert (together >= [-1, 2]).all()
    assert (together <= [1, 3]).all()
    assert len(np.unique(together)) == together.size
    for row in range(3):
        policy = WorldModelPolicy(continuous, continuous_agent(continuous))
        alone = drive(policy, frames[:, row : row + 1], [7 + row], {0: 4} if row == 1 else {})
        np.testing.assert_allclose(alone[:, 0], together[:, row], atol=1e-5)


def test_what_continuous_actions_led_to_is_observed_with_them(continuous: WorldModel) -> None:
    frames = random_frames(continuous.config, 6, 1, source=generator(6)).numpy()
    policy = Watched(continuous, continuous_agent(continuous))
    actions = torch.from_numpy(drive(policy, frames, [1], {}))
    led = torch.cat([torch.full((1, 2), torch.nan), actions[:-1, 0]])
    with torch.no_grad():
        whole, _ = continuous.observe(torch.from_numpy(frames[None, :, 0]), led[None])
    torch.testing.assert_close(torch.stack(policy.seen, 1)[0], whole.features[0], atol=1e-4, rtol=0)


@pytest.mark.parametrize("greedy", [False, True])
def test_only_greedy_play_does_without_chance(continuous: WorldModel, greedy: bool) -> None:
    frames = random_frames(continuous.config, 4, 2, source=generator(5)).numpy()
    frames[:, 1] = frames[:, 0]
    policy = WorldModelPolicy(continuous, continuous_agent(continuous), greedy=greedy)
    actions = drive(policy, frames, [1, 2], {})
    assert (np.abs(actions[:, 0] - actions[:, 1]).max() < 1e-5) == greedy


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> EpisodeStore:
    store = EpisodeStore(tmp_path_factory.mktemp("episodes"), create=True)
    for episode in play_corridor(Script((1, 0, 0, 1)), range(3)):
        store.append(episode)
    return store


def test_a_saved_policy_is_loaded_as_it_was(store: EpisodeStore, tmp_path: Path) -> None:
    settings = DreamerConfig(rows=4, horizon=3, context=2)
    dreamer = Dreamer(ExactModel(), store, settings, tmp_path)  # type: ignore[arg-type]
    dreamer.train(2, progress=False)
    loaded = load_agent(tmp_path / STATE, ExactModel())  # type: ignore[arg-type]
    assert not loaded.training
    for name, tensor in dreamer.agent.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name


def test_what_else_a_policy_file_holds_stays_off_the_device_of_the_model(
    store: EpisodeStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Dreamer(ExactModel(), store, DreamerConfig(rows=2, horizon=1), tmp_path).save()  # type: ignore[arg-type]
    asked: list[torch.device] = []

    def noting(path: Path, device: torch.device) -> dict[str, Any]:
        asked.append(device)
        return read_state(path, device)

    monkeypatch.setattr(lssvwm.agents.policies.world_model, "read_state", noting)
    model = ExactModel()
    model.device = torch.device("meta")
    agent = load_agent(tmp_path / STATE, model)  # type: ignore[arg-type]
    assert asked == [torch.device("cpu")]
    assert {parameter.device.type for parameter in agent.parameters()} == {"meta"}


def test_a_policy_that_cannot_be_used_is_refused(store: EpisodeStore, tmp_path: Path, model: WorldModel) -> None:
    with pytest.raises(InputError, match=r"missing\.pt does not exist: train a policy"):
        load_agent(tmp_path / "missing.pt", model)
    Dreamer(ExactModel(), store, DreamerConfig(rows=2, horizon=1), tmp_path).save()  # type: ignore[arg-type]
    with pytest.raises(
        InputError, match=r"reads features=5, num_actions=2, the world model has features=12, num_actions=3"
    ):
        load_agent(tmp_path / STATE, model)
    continuous = random_model(small_config(**told(ActionSpec.box((-1.0, 0.0), (1.0, 1.0)))), 0)
    with pytest.raises(InputError, match=r"num_actions=2, the world model has features=12, low=\(-1\.0, 0\.0\)"):
        load_agent(tmp_path / STATE, continuous)
    cut = tmp_path / "cut.pt"
    cut.write_bytes((tmp_path / STATE).read_bytes()[:1000])
    with pytest.raises(InputError, match=r"cut\.pt cannot be read"):
        load_agent(cut, model)


@pytest.mark.parametrize(
    ("actions", "config", "expected"),
    [
        ((1, 0, 0, 1), CORRIDOR, (1.0, 4, True)),
        ((1, 0, 1, 0, 0, 1), CORRIDOR, (1.0, 6, True)),
        ((0,), CORRIDOR, (0.0, 12, False)),
        ((1, 0, 0, 1), EnvConfig("Corridor-v0", max_episode_steps=3), (0.0, 3, False)),
        ((1, 0, 0, 1), EnvConfig("Corridor-v0", max_episode_steps=4), (1.0, 4, True)),
    ],
)
def test_evaluation_by_hand(actions: tuple[int, ...], config: EnvConfig, expected: tuple[float, int, bool]) -> None:
    judged = evaluate(
        "script", config, Script(actions), episodes=3, seed=100, num_envs=1, processes=False, progress=False
    )
    value, steps, success = expected
    assert judged.evaluation == Evaluation("script", (100, 101, 102), (value,) * 3, (steps,) * 3, (success,) * 3)
    assert len(judged.example.image) == steps + 1


def test_evaluation_keeps_the_order_of_the_seeds_whoever_ends_first() -> None:
    """In several processes, with episodes of different lengths."""
    one = evaluate(
        "p", CORRIDOR, exact(certainty=0.5), episodes=6, seed=3, num_envs=1, processes=False, progress=False
    ).evaluation
    shared = exact(certainty=0.5, model=Lenient())
    two = evaluate("p", CORRIDOR, shared, episodes=6, seed=3, num_envs=2, progress=False).evaluation
    assert one == two
    assert one.seeds == (3, 4, 5, 6, 7, 8)
    assert len(set(one.lengths)) > 1
    assert Evaluation.from_dict(one.to_dict()) == one


def test_the_policy_of_the_exact_model_is_judged_as_perfect() -> None:
    evaluation = evaluate(
        "best", CORRIDOR, exact(), episodes=4, seed=0, num_envs=1, processes=False, progress=False
    ).evaluation
    assert evaluation.returns == (1.0,) * 4
    assert evaluation.lengths == (GOAL,) * 4


def returns_in_dreams(store: EpisodeStore, table: tuple[int, ...], horizon: int, certainty: float = 50.0) -> Any:
    return imagined_returns(
        ExactModel(beyond=7.0),  # type: ignore[arg-type]
        agent_that_plays(table, certainty),
        store,
        episodes=5,
        horizon=horizon,
        steps=1,
        seed=0,
        rows=2,  # in three parts
    )


def test_imagined_returns_in_the_exact_model_are_the_real_ones(store: EpisodeStore) -> None:
    """The goal takes four steps; what is dreamed past it, 7 at each step, does not count."""
    assert returns_in_dreams(store, OPTIMAL, horizon=4) == (1.0,) * 5
    assert returns_in_dreams(store, OPTIMAL, horizon=9) == (1.0,) * 5
    assert returns_in_dreams(store, OPTIMAL, horizon=3) == (0.0,) * 5
    assert returns_in_dreams(store, (1, 1, 1, 1, 1), horizon=9) == (0.0,) * 5


def test_a_dream_that_ended_earns_nothing_while_others_go_on(store: EpisodeStore) -> None:
    returns = [returns_in_dreams(store, OPTIMAL, horizon, certainty=1.0) for horizon in (4, 8, 30)]
    arrived = [sum(values) for values in returns]
    assert {value for values in returns for value in values} == {0.0, 1.0}
    assert 0 < arrived[1] < 5
    assert arrived[0] <= arrived[1] <= arrived[2]


def test_no_more_rows_are_judged_at_once_than_fit(model: WorldModel, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = WorldModelPolicy(model, ActorCritic(networks_for(model)))
    each = model.empty(1).nbytes
    for there, rows in ((4 * each, 1), (12 * each, 3), (10**12, 64), (1, 1)):
        monkeypatch.setattr(checks, "memory_of", lambda device, there=there: there)
        assert checks.fitting(64, policy) == rows
    assert checks.fitting(64, Script((1, 0))) == 64
