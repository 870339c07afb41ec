"""PPO reaches known optima through memory, bootstraps and forgets where it must, and continues exactly."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

import lssvwm.agents.model_free.rollouts
from corridor import ADVANCE, CORRIDOR, GOAL, follow, outcomes, play_corridor, read, show
from dreams import dream_folder, vec
from exact_worlds import LongCueWorld
from lssvwm.agents.model_free.ppo import PPO, STATE, PPOConfig
from lssvwm.agents.model_free.recurrent import RecurrentPolicy, load_net
from lssvwm.agents.model_free.resuming import SEEDS, ResumableRows, episode_seed, resumable
from lssvwm.agents.model_free.rollouts import Rollout, generalised_advantages, replay
from lssvwm.envs.dream import DreamVectorEnv
from lssvwm.envs.factory import EnvConfig, make_vec
from lssvwm.worldmodel.checkpoint import load_checkpoint, save_checkpoint
from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.episodes import NO_ACTION, EpisodeStore
from recall import DELAY, RECALL, Hinted
from vector_play import play
from worlds import generator

SMALL: dict[str, Any] = {"rows": 4, "steps": 16, "epochs": 2, "minibatches": 2, "hidden": 16, "lr": 3e-3}
MINIGRID = EnvConfig("MiniGrid-MemoryS7-v0", actions=(0, 1, 2), max_episode_steps=9)
DISCOUNT = 0.9
LASTING = {"terminate": "never"}


def config(**changes: Any) -> PPOConfig:
    return PPOConfig(**{**SMALL, **changes})


def in_real(world: EnvConfig, out: Path, **changes: Any) -> PPO:
    wanted = config(**changes)
    return PPO(make_vec(world, wanted.rows, processes=False), wanted, out)


def dreaming(folder: Path, out: Path, *, options: dict[str, Any] | None = None, **changes: Any) -> PPO:
    wanted = config(**{"rows": 3, "minibatches": 2, **changes})
    settings = {"autoreset_mode": "Disabled", "context_info": True, "max_episode_steps": 5, **(options or {})}
    return PPO(vec(folder, wanted.rows, **settings), wanted, out)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return dream_folder(tmp_path_factory.mktemp("dream"))


def test_advantages_by_hand() -> None:
    """Discount 1/2, lambda 1/2. The first row ends in its second step; the second goes on out of sight, worth 8."""
    rewards = torch.tensor([[1.0, 0.0], [2.0, 0.0], [4.0, 1.0]])
    values = torch.tensor([[0.0, 2.0], [1.0, 4.0], [2.0, 0.0]])
    next_values = torch.tensor([[1.0, 4.0], [6.0, 0.0], [0.0, 8.0]])  # the end was a truncation, seen as worth 6
    ended = torch.tensor([[False, False], [True, False], [True, False]])
    # Row 0: deltas 1.5, 4, 2. Row 1: deltas 0, -4, 5.
    wanted = torch.tensor([[1.5 + 4 / 4, 0 + (-4 + 5 / 4) / 4], [4.0, -4 + 5 / 4], [2.0, 5.0]])
    assert torch.equal(generalised_advantages(rewards, values, next_values, ended, 0.5, 0.5), wanted)


@torch.no_grad()
def by_hand(subject: PPO, rollout: Rollout) -> tuple[Tensor, Tensor]:
    """Values, and those of the frames that actions led to, in the corridor: one frame and one row after the other."""
    net = subject.agent
    steps, rows = rollout.actions.shape
    values, nexts = torch.zeros(steps, rows), torch.zeros(steps, rows)
    for row in range(rows):
        state = rollout.state[row : row + 1]
        for t in range(steps):
            first = bool(rollout.started[t, row])
            led = torch.tensor([NO_ACTION]) if first else rollout.actions[t - 1 : t, row]
            if t == 0 and not first:
                led = rollout.led_here[:1, row]
            state = net(rollout.observations[t, row][None], led, net.empty(1) if first else state)
            values[t, row] = net.judge(state).values[0]
            action = rollout.actions[t, row][None]
            cell = follow(read(rollout.observations[t, row])[None], action)
            after = net.judge(net(show(cell), action, state)).values[0]
            nexts[t, row] = 0.0 if int(cell) == GOAL else after
    return values, nexts


def test_a_rollout_bootstraps_what_was_cut_and_nothing_that_ended(tmp_path: Path) -> None:
    """Truncation after 12 steps, termination in the goal, and the end of the rollout, against a plain calculation."""
    subject = in_real(CORRIDOR, tmp_path, steps=30)
    for _ in range(2):  # the second goes on in the middle of episodes
        rollout = subject.collector.collect(30, subject.generator)
        values, nexts = by_hand(subject, rollout)
        torch.testing.assert_close(rollout.values, values, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(rollout.next_values, nexts, rtol=1e-4, atol=1e-5)
    won = (rollout.rewards == 1) & rollout.ended
    assert won.any()
    assert (rollout.ended & ~won).any()
    assert not rollout.started[0].all()
    assert bool((rollout.next_values[won] == 0).all())
    assert bool((rollout.next_values[~won] != 0).all())


@pytest.mark.parametrize("where", ["real", "dream", "whole past"])
def test_learning_sees_exactly_what_was_played(where: str, folder: Path, tmp_path: Path) -> None:
    """Replayed with the same weights, whole or in parts, every probability is what it was: contexts, resets and all."""
    if where == "real":
        subject = in_real(CORRIDOR, tmp_path, steps=30)
    else:
        past = {"context_length": "all"} if where == "whole past" else {}
        subject = dreaming(folder, tmp_path, steps=30, options=past, burn_in=2)
    for _ in range(2):
        rollout = subject.collector.collect(30, subject.generator)
        assert rollout.started[1:].any()
        assert (rollout.contexts is not None) == (where != "real")
        if rollout.contexts is not None:
            assert rollout.contexts.known.shape[1] == 2  # of those before the observation
            assert rollout.contexts.known.all() == (where == "dream")
            assert bool(rollout.contexts.state.any()) == (where == "whole past")
        for rows in (torch.arange(subject.config.rows), torch.tensor([2, 0])):
            policy, values = subject.agent.judge(replay(subject.agent, rollout, rows))
            probs = policy.log_prob(rollout.actions[:, rows])
            torch.testing.assert_close(probs, rollout.log_probs[:, rows], rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(values, rollout.values[:, rows], rtol=1e-4, atol=1e-5)


def test_a_minibatch_may_hold_only_contexts_of_one_frame(folder: Path, tmp_path: Path) -> None:
    subject = dreaming(folder, tmp_path, steps=12, burn_in=2)
    rollout = subject.collector.collect(12, subject.generator)
    assert rollout.contexts is not None
    assert not rollout.contexts.state.any()
    short = replace(rollout.contexts, known=torch.zeros_like(rollout.contexts.known))
    states, alone = (
        replay(subject.agent, replace(rollout, contexts=contexts), torch.tensor([1, 0])) for contexts in (short, None)
    )
    assert torch.equal(states, alone)
    assert not torch.equal(states, replay(subject.agent, rollout, torch.tensor([1, 0])))


def test_no_gradient_passes_from_an_episode_to_the_one_before(tmp_path: Path) -> None:
    subject = in_real(CORRIDOR, tmp_path, steps=30, rows=1, minibatches=1)
    rollout = subject.collector.collect(30, subject.generator)
    begin = int(rollout.started[1:, 0].nonzero()[0]) + 1
    inputs = rollout.observations.float().requires_grad_()
    states = replay(subject.agent, Rollout(**{**vars(rollout), "observations": inputs}), torch.tensor([0]))
    (touched,) = torch.autograd.grad(states[begin:].sum(), inputs)
    assert bool((touched[:begin] == 0).all())
    assert bool((touched[begin] != 0).any())


def test_reaches_the_optimum_of_the_corridor_and_its_values(tmp_path: Path) -> None:
    subject = in_real(CORRIDOR, tmp_path, rows=16, steps=24, hidden=32, discount=DISCOUNT, entropy=1e-3)
    report = subject.train(25, progress=False)
    assert report["success_rate"] > 0.9
    for cells, actions, rewards in outcomes(play_corridor(subject.policy(greedy=True), range(3), rows=2)):
        assert cells == [0, 1, 2, 3, 4]
        assert actions[1:].tolist() == list(ADVANCE)
        assert rewards.tolist() == [0, 0, 0, 0, 1]
    rollout = subject.collector.collect(24, subject.generator)
    cells = read(rollout.observations)
    for cell in range(GOAL):
        value = float(rollout.values[cells == cell].mean())
        assert value == pytest.approx(DISCOUNT ** (GOAL - 1 - cell), abs=0.08)


def test_remembers_the_first_frame_until_it_matters(tmp_path: Path) -> None:
    subject = in_real(RECALL, tmp_path, rows=16, minibatches=1, steps=4 * DELAY, hidden=32)
    report = subject.train(50, progress=False)
    assert report["success_rate"] > 0.95
    assert report["episodic_length"] == DELAY
    envs = make_vec(RECALL, 4, processes=False)
    won = [episode.reward.sum() for episode in play(envs, load(tmp_path), range(40))]
    forgetful = [episode.reward.sum() for episode in play(envs, Forgetful(load_net(tmp_path / STATE)), range(40))]
    assert np.mean(won) > 0.95
    assert np.mean(forgetful) < 0.8


def load(out: Path) -> RecurrentPolicy:
    return RecurrentPolicy(load_net(out / STATE))


class Forgetful(RecurrentPolicy):
    def act(self, frames: Any, info: Any) -> Any:
        self.state = self.net.empty(len(frames))
        return super().act(frames, info)


def test_a_context_ends_before_the_first_observation(tmp_path: Path) -> None:
    """Its last frame is the observation, to which its last action led; other rows' entries are not read."""
    subject = PPO(Hinted(4), config(), tmp_path)
    rollout = subject.collector.collect(3, subject.generator)
    assert rollout.contexts is not None
    assert bool((rollout.led_here == 1).all())
    assert rollout.contexts.led_here.tolist() == [[-1, 0]] * 12
    assert set(zip(rollout.contexts.time.tolist(), rollout.contexts.row.tolist(), strict=True)) == {
        (t, row) for t in range(3) for row in range(4)
    }
    levels = rollout.contexts.observations[..., 0, 0, 0]  # (12, 2)
    assert levels[:, 1].tolist() == [100] * 12
    won = rollout.actions.flatten() == (levels[:, 0] > 100)  # episodes of one step: contexts are in their order
    assert torch.equal(rollout.rewards.flatten() == 1, won)


@pytest.mark.parametrize("hints", [True, False])
def test_learns_what_only_the_context_shows(hints: bool, tmp_path: Path) -> None:
    """Gradients reach the context, or the memory of it would stay what it was at first."""
    wanted = config(rows=16, minibatches=1, hidden=32)
    report = PPO(Hinted(16, hints=hints), wanted, tmp_path).train(25, progress=False)
    assert (report["success_rate"] > 0.95) if hints else (report["success_rate"] < 0.75)


@torch.no_grad()
def test_a_dream_begins_with_what_the_network_makes_of_its_whole_past(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever part of it gradients reach, and in whatever pieces the rest is watched."""
    monkeypatch.setattr(lssvwm.agents.model_free.rollouts, "WATCHED", 2)
    subject = dreaming(folder, tmp_path, options={"context_length": "all"}, burn_in=2)
    collector, net = subject.collector, subject.agent
    collector._begin(0, torch.ones(3, dtype=torch.bool))
    envs = vec(folder, 3, autoreset_mode="Disabled", context_info=True, context_length="all")
    _, info = envs.reset(seed=episode_seed(0, 0, 0))
    for row, length in enumerate(info["context_length"].tolist()):
        frames, actions = (torch.as_tensor(info[key][row, -length:]) for key in ("context_frames", "context_actions"))
        state = net.empty(1)
        for frame, action in zip(frames[:-1], actions[:-1], strict=True):
            state = net(frame[None], action[None], state)
        torch.testing.assert_close(collector.state[row], state[0])
        assert int(collector.led_here[row]) == int(actions[-1])


@pytest.mark.slow
@pytest.mark.parametrize("walk", [40, 100])
def test_what_was_seen_long_before_the_dream_decides(walk: int, tmp_path: Path) -> None:
    """On features of a world model that remembers, in dreams that have read their whole past."""
    world = LongCueWorld(walk)
    store = world.record(EpisodeStore(tmp_path / "episodes", create=True), 40)
    settings = PPOConfig(lr=1e-3)

    def envs(rows: int, **options: Any) -> DreamVectorEnv:
        told = {"autoreset_mode": "Disabled", "context_length": "all", "observation": "features", **options}
        return world.dreams(store, rows, **told)

    subject = PPO(envs(settings.rows, start=0.25, max_episode_steps=64), settings, tmp_path / "policy")
    subject.train(100, progress=False)
    judge, policy = envs(100, start="episode", max_episode_steps=None), subject.policy(greedy=True)
    shown, _ = judge.reset(seed=5)
    policy.reset(np.arange(100), np.arange(100))
    for _ in range(walk + 1):
        shown, reward, terminated, _, _ = judge.step(policy.act(shown, {}))
    assert terminated.all()
    assert reward.mean() > 0.95


def state_of(subject: PPO) -> dict[str, Tensor]:
    optimizer = subject.optimizer.state_dict()["state"]
    collector = subject.collector
    return {
        **subject.agent.state_dict(),
        **{f"{i}.{name}": torch.as_tensor(v) for i, entry in optimizer.items() for name, v in entry.items()},
        "generator": subject.generator.get_state(),
        "state": collector.state,
        "observations": torch.as_tensor(collector.observations),
        "led_here": collector.led_here,
        "now": torch.tensor(collector.finished.now),
        "past": torch.tensor(collector.finished.past),
    }


def assert_same_future(actual: PPO, expected: PPO) -> None:
    found = state_of(actual)
    for name, tensor in state_of(expected).items():
        assert torch.equal(found[name], tensor), name
    rollouts = [subject.collector.collect(12, subject.generator) for subject in (actual, expected)]
    assert torch.equal(rollouts[0].observations, rollouts[1].observations)
    assert torch.equal(rollouts[0].actions, rollouts[1].actions)


@pytest.mark.parametrize("where", ["real", "frame", "features"])
def test_stopped_and_continued_is_the_same_as_never_stopped(where: str, folder: Path, tmp_path: Path) -> None:
    """Bit for bit, in the middle of episodes, whatever the state of the global random numbers."""

    def make(name: str) -> PPO:
        if where == "real":
            return in_real(MINIGRID, tmp_path / name)
        return dreaming(folder, tmp_path / name, options={"observation": where})

    whole = make("whole")
    whole_report = whole.train(4, progress=False)
    torch.manual_seed(1)
    make("parts").train(2, progress=False)
    torch.manual_seed(2)
    continued = make("parts")
    assert continued.step == 2
    assert not continued.collector.rows.ended.all()
    assert continued.train(4, progress=False) == whole_report
    assert_same_future(continued, whole)


def test_goes_on_in_a_world_that_has_learned_more(tmp_path: Path) -> None:
    """Its dreams begin anew, from other contexts; the policy is the one that was learned."""
    folder = dream_folder(tmp_path)
    before = dreaming(folder, tmp_path / "out", steps=3, options=LASTING)
    before.train(1, progress=False)
    first = before.collector.finished.now.copy()
    assert (first[:, 1] == 3).all()
    model = load_checkpoint(folder / "model").model
    save_checkpoint(folder / "model", model, world={"num_actions": 3, "episodes": "../episodes"}, step=1)
    after = dreaming(folder, tmp_path / "out", steps=3, options=LASTING)
    assert after.step == 1
    assert all(torch.equal(a, b) for a, b in zip(after.agent.parameters(), before.agent.parameters(), strict=True))
    assert after.collector.rows.ended.all()
    rollout = after.collector.collect(3, after.generator)
    assert rollout.started[0].all()
    assert (after.collector.finished.now[:, 1] == 3).all()
    afresh = dreaming(folder, tmp_path / "other", steps=3, options=LASTING)
    assert not torch.equal(rollout.observations[0], afresh.collector.collect(3, afresh.generator).observations[0])


def test_continues_where_every_row_stood(tmp_path: Path) -> None:
    """Rows at different moments of their episodes, some of which have just ended."""
    rows = resumable(make_vec(CORRIDOR, 4, processes=False), seed=0)
    chance, seen = generator(0), set()
    for _ in range(40):
        if rows.ended.any():
            rows.begin()
        rows.step(torch.randint(2, (4,), generator=chance))
        ended = int(rows.ended.sum())
        if ended in seen:
            continue
        seen.add(ended)
        again = resumable(make_vec(CORRIDOR, 4, processes=False), seed=0)
        again.load_state_dict(rows.state_dict())
        assert np.array_equal(again.ended, rows.ended)
        for at in (again, rows):
            if at.ended.any():
                at.begin()
        moved, same = (at.step(torch.ones(4, dtype=torch.int64)) for at in (rows, again))
        assert np.array_equal(moved.observations, same.observations)
        assert np.array_equal(again.ended, rows.ended)
    assert {0, 1, 2} <= seen


def test_episodes_have_seeds_of_their_own_below_those_of_evaluation() -> None:
    seeds = {episode_seed(seed, row, number) for seed in range(3) for row in range(20) for number in range(20)}
    assert len(seeds) == 1200
    assert max(seeds) < SEEDS
    assert max(seeds) > SEEDS // 2


def test_arrays_and_tensors_teach_the_same(folder: Path, tmp_path: Path) -> None:
    subjects = [dreaming(folder, tmp_path / kind, options={"output": kind}) for kind in ("numpy", "torch")]
    reports = [subject.train(2, progress=False) for subject in subjects]
    assert reports[0] == reports[1]
    hinted = [PPO(Hinted(4, as_tensors=kind), config(), tmp_path / str(kind)) for kind in (False, True)]
    reports = [subject.train(2, progress=False) for subject in hinted]
    assert reports[0] == reports[1]


def test_the_seed_decides_everything(tmp_path: Path) -> None:
    first, again, other = (in_real(CORRIDOR, tmp_path / str(i), seed=seed) for i, seed in enumerate([0, 0, 1]))
    reports = [subject.train(2, progress=False) for subject in (first, again, other)]
    assert reports[0] == reports[1] != reports[2]


class Restless(gym.Env[Any, Any]):
    """Shows something new in every episode that begins with seed 0, and counts its steps."""

    observation_space = gym.spaces.Box(0, 255, (8, 8, 3), np.uint8)
    action_space = gym.spaces.Discrete(2)
    count = 0

    def __init__(self, length: int = 1000, *, repeats: bool = False) -> None:
        self.length, self.repeats = length, repeats

    def reset(self, **_: Any) -> Any:
        Restless.count += not self.repeats
        self.shown, self.now = 0 if self.repeats else Restless.count % 256, 0
        return self._image(), {}

    def step(self, action: Any) -> Any:
        self.now += 1
        return self._image(), 1.0, self.now == self.length, False, {}

    def _image(self) -> Any:
        return np.full((8, 8, 3), self.shown, np.uint8)


def test_rows_whose_episodes_do_not_repeat_begin_new_ones(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The others go on."""

    def make() -> PPO:
        worlds = [lambda row=row: Restless(repeats=row in (1, 3)) for row in range(4)]
        return PPO(SyncVectorEnv(worlds, autoreset_mode=AutoresetMode.DISABLED), config(), tmp_path)

    before = make()
    before.train(1, progress=False)
    again = make()
    assert "2 of 4 rows begin new ones" in caplog.text
    assert again.collector.rows.ended.tolist() == [True, False, True, False]
    assert again.collector.finished.now[:, 0].tolist() == [0, 16, 0, 16]
    rollout = again.collector.collect(2, again.generator)
    assert rollout.started[0].tolist() == [True, False, True, False]
    assert again.train(2, progress=False)["entropy"] > 0


@pytest.mark.parametrize("sooner", [2, 3])
def test_a_row_whose_episode_ends_sooner_begins_a_new_one(sooner: int, caplog: pytest.LogCaptureFixture) -> None:
    def rows(*lengths: int) -> ResumableRows:
        worlds = [lambda length=length: Restless(length, repeats=True) for length in lengths]
        return resumable(SyncVectorEnv(worlds, autoreset_mode=AutoresetMode.DISABLED), seed=0)

    before, again = rows(9, 9), rows(sooner, 9)
    before.begin()
    for _ in range(3):
        before.step(torch.zeros(2, dtype=torch.int64))
    again.load_state_dict(before.state_dict())
    assert again.ended.tolist() == [True, False]
    assert "1 of 2 rows" in caplog.text


def test_goes_on_where_all_rows_had_ended(tmp_path: Path) -> None:
    def make() -> PPO:
        worlds = [lambda: Restless(16)] * 4
        return PPO(SyncVectorEnv(worlds, autoreset_mode=AutoresetMode.DISABLED), config(), tmp_path)

    before = make()
    before.train(1, progress=False)
    assert before.collector.rows.ended.all()
    assert make().train(2, progress=False)["entropy"] > 0


def test_another_configuration_is_refused_by_name(tmp_path: Path) -> None:
    in_real(CORRIDOR, tmp_path).train(1, progress=False)
    with pytest.raises(InputError, match=r"ppo\.pt.*lr \(0\.003 there, 0\.1 here\)"):
        in_real(CORRIDOR, tmp_path, lr=0.1)
    with pytest.raises(InputError, match=r"num_actions \(2 there, 3 here\)"):
        in_real(MINIGRID, tmp_path)
    assert in_real(CORRIDOR, tmp_path, save_seconds=1.0).step == 1


class Shown(Hinted):
    """Any spaces and mode."""

    def __init__(self, seen: gym.Space[Any], acted: gym.Space[Any], mode: AutoresetMode) -> None:
        super().__init__(4)
        self.single_observation_space, self.single_action_space = seen, acted  # type: ignore[assignment]
        self.metadata = {"autoreset_mode": mode}


FRAMES, TWO, OFF = gym.spaces.Box(0, 255, (8, 8, 3), np.uint8), gym.spaces.Discrete(2), AutoresetMode.DISABLED


@pytest.mark.parametrize(
    ("seen", "acted", "mode", "message"),
    [
        (FRAMES, gym.spaces.Box(-np.inf, np.inf, (2,)), OFF, "finite bounds"),
        (FRAMES, gym.spaces.Discrete(2, start=1), OFF, "begin at 0"),
        (gym.spaces.Dict(frame=FRAMES), TWO, OFF, "choose one part"),
        (gym.spaces.Box(0, 1, (8, 8, 3)), TWO, OFF, "uint8"),
        (gym.spaces.Box(0, 255, (3, 8, 8), np.uint8), TWO, OFF, r"frames \(h, w, 3\)"),
        (gym.spaces.Box(0, 255, (4, 4, 3), np.uint8), TWO, OFF, "at least 8 pixels"),
        (FRAMES, TWO, AutoresetMode.NEXT_STEP, "do not reset themselves"),
    ],
)
def test_environments_that_cannot_teach_are_refused(
    seen: Any, acted: Any, mode: AutoresetMode, message: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        PPO(Shown(seen, acted, mode), config(), tmp_path)


def test_counts_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"rows is 4, but there are 2 environments"):
        PPO(Hinted(2), config(), tmp_path)
    with pytest.raises(InputError, match=r"minibatches is 5"):
        config(minibatches=5)
    with pytest.raises(InputError, match=r"steps=0: give at least 1"):
        config(steps=0)


def test_curves_have_the_names_and_the_steps_of_the_field(tmp_path: Path) -> None:
    subject = in_real(CORRIDOR, tmp_path)
    with SummaryWriter(str(tmp_path / "curves")) as subject.writer:
        subject.train(3, progress=False)
    curves = EventAccumulator(str(tmp_path / "curves"))
    curves.Reload()
    names = {"policy_loss", "value_loss", "entropy", "approx_kl", "clipfrac", "explained_variance"}
    charts = {"episodic_return", "episodic_length", "success_rate", "SPS"}
    assert set(curves.Tags()["scalars"]) == {f"losses/{n}" for n in names} | {f"charts/{n}" for n in charts}
    assert [event.step for event in curves.Scalars("losses/entropy")] == [64, 128, 192]


def test_figures_of_episodes_are_absent_before_one_has_ended(tmp_path: Path) -> None:
    report = in_real(CORRIDOR, tmp_path, steps=3).train(1, progress=False)
    assert "entropy" in report
    assert "episodic_return" not in report


def test_what_a_row_plays_depends_on_its_seed_alone(tmp_path: Path) -> None:
    subject = in_real(CORRIDOR, tmp_path)
    subject.train(3, progress=False)

    def played(policy: RecurrentPolicy, rows: int) -> dict[int, list[int]]:
        return {int(e.extras["seed"]): e.action.tolist() for e in play_corridor(policy, range(7), rows=rows)}

    alone = played(subject.policy(), 1)
    assert len({tuple(actions) for actions in alone.values()}) > 1
    assert played(subject.policy(), 3) == alone
    assert played(load(tmp_path), 2) == alone
    with pytest.raises(InputError, match=r"reads observations \(16, 16, 3\), it was given \(8, 8, 3\)"):
        list(play(make_vec(RECALL, 1, processes=False), subject.policy(), [0]))
    with pytest.raises(InputError, match=r"train a policy"):
        load_net(tmp_path / "none" / STATE)
