"""Everything that can learn to act, through the same loop: in the dream and in the real environment."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lssvwm.agents.planning.planner import PlanningConfig
from lssvwm.agents.policies.baselines import Exploring, RandomPolicy
from lssvwm.agents.report import read_curves
from lssvwm.agents.running import algorithms
from lssvwm.agents.running.algorithms import check_algorithm
from lssvwm.agents.running.loop import Loop
from lssvwm.agents.running.presets import PRESETS
from lssvwm.agents.running.settings import (
    Algo,
    CloningOptions,
    DreamerOptions,
    LoopSettings,
    PPOOptions,
    SB3Options,
    TrainingOptions,
)
from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.episodes import EpisodeStore
from lssvwm.worldmodel.training import HeadsConfig

SMALL = replace(
    PRESETS["smoke"],
    collect_episodes=4,
    max_episode_steps=12,
    num_envs=2,
    world_steps=3,
    dreams=2,
    env_steps=32,
    dream_steps=6,
    dream_context=2,
    eval_episodes=2,
    model=replace(PRESETS["smoke"].model, dim=32, layers=1, features=16, state_size=4, head_dim=32),
    training=TrainingOptions(batch=2, length=8, fit_frames=32),
    heads=HeadsConfig(steps=4, kept=60),
    dreamer=DreamerOptions(rows=4, horizon=3, context=2),
    ppo=PPOOptions(rows=2, steps=8, minibatches=1, epochs=1, hidden=8),
    sb3=SB3Options(rows=2, rollout=8, batch=8, epochs=1, hidden=8, buffer=64),
    planning=PlanningConfig(candidates=4, iterations=1, elites=2, horizon=2, steps=1),
    cloning=CloningOptions(steps=3, batch=16),
)


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose world has been learned."""
    out = tmp_path_factory.mktemp("runs") / "learned"
    loop = Loop(out, SMALL, progress=False)
    loop.stage("0-collect", lambda: loop.collect(0, loop.collector(0)))
    loop.stage("0-world-model", lambda: loop.learn_world(0))
    return out


def run(out: Path, **changes: Any) -> dict[str, Any]:
    page = Loop(out, replace(SMALL, **changes), progress=False).run_to_report("the test")
    results: dict[str, Any] = json.loads((page.parent / "results.json").read_text())
    return results


def of_run(out: Path, algo: Algo, *, greedy: bool = True) -> Any:
    settings = replace(SMALL, algo=algo)
    checkpoint, contexts = Loop(out, settings, progress=False).where()
    return algorithms.learned(settings, out / "policy", checkpoint=checkpoint, contexts=contexts, greedy=greedy)


def check_rows_are_alone(out: Path, algo: Algo, side: int) -> None:
    """What a row does depends on its seed and its frames alone."""
    together, alone = (of_run(out, algo, greedy=False) for _ in range(2))
    frames = np.random.default_rng(0).integers(0, 256, (12, 3, side, side, 3)).astype(np.uint8)
    together.reset(np.arange(3), np.array([5, 6, 7]))
    alone.reset(np.array([0]), np.array([6]))
    acted = [together.act(each, {}) for each in frames]
    torch.manual_seed(0)  # whatever others draw
    assert [int(each[1]) for each in acted] == [int(alone.act(each[1:2], {})[0]) for each in frames]
    assert len({tuple(each.tolist()) for each in np.transpose(acted)}) == 3


@pytest.mark.parametrize(
    "algo", ["dreamer", "clone", "ppo", "plan", "sb3-ppo", "sb3-maskable-ppo", "sb3-recurrent-ppo", "sb3-dqn"]
)
def test_each_learns_in_dreams_and_is_judged_for_real(learned: Path, tmp_path: Path, algo: Algo) -> None:
    shutil.copytree(learned, tmp_path / "run")
    results = run(tmp_path / "run", algo=algo)
    judged = results["stages"]["0-evaluation"]
    assert len(judged["returns"]) == len(judged["imagined_returns"]) == 2
    gap = np.mean(judged["imagined_returns"]) - np.mean(judged["returns"])
    assert judged["imagined_minus_real"]["mean"] == pytest.approx(gap)
    assert results["imagined_minus_real"] == {"0": judged["imagined_minus_real"]}
    assert judged["name"] == {"plan": "plans in dreams", "clone": "cloned"}.get(algo, "trained in dreams")
    assert results["exploitation_gap"] is not None
    first, second = Loop(tmp_path / "run", replace(SMALL, algo=algo), progress=False).outcome().splitlines()
    assert first.startswith(f"{judged['name']}: real return {np.mean(judged['returns']):.2f} (")
    assert second.startswith("random: real return ")
    note = {"plan": "planned in dreams at every step", "clone": "cloned from what was recorded"}
    page = (tmp_path / "run" / "report" / "index.html").read_text()
    assert note.get(algo, "trained only in imagination") + ", judged for real" in page
    if algo in ("sb3-ppo", "sb3-dqn"):
        logged = read_curves(tmp_path / "run" / "tensorboard" / "policy")
        assert set(logged) >= {"rollout/ep_len_mean", *(("train/loss",) if algo == "sb3-ppo" else ())}
    frames = {"dreamer": 2 * 4 * 3, "plan": None, "clone": None}.get(algo, 32)
    assert results["stages"]["0-policy"].get("imagined_frames") == frames
    assert run(tmp_path / "run", algo=algo)["stages"] == results["stages"]
    if algo == "plan":
        with pytest.raises(InputError, match=r"no most likely action: no --greedy"):
            of_run(tmp_path / "run", algo)
    else:
        assert of_run(tmp_path / "run", algo).greedy
    if algo in ("sb3-ppo", "sb3-recurrent-ppo"):
        check_rows_are_alone(
            tmp_path / "run", algo, Loop(tmp_path / "run", SMALL, progress=False).world().model.config.height
        )


@pytest.mark.parametrize("algo", ["ppo", "sb3-ppo"])
def test_some_learn_in_the_real_environment_without_a_world_model(tmp_path: Path, algo: Algo) -> None:
    results = run(tmp_path, algo=algo, place="real", rounds=2)
    assert set(results["stages"]) == {"0-policy", "random", "0-evaluation", "1-policy", "1-evaluation"}
    assert results["stages"]["1-policy"]["real_steps"] == 64
    assert results["stages"]["1-evaluation"]["name"] == "trained in the real environment"
    assert results["imagined_return"] is None
    assert not (tmp_path / "world_model").exists()
    page = (tmp_path / "report" / "index.html").read_text()
    assert "Return in its own dreams" not in page
    assert "a real episode" in page


def test_the_dreamer_starts_from_what_was_recorded(learned: Path, tmp_path: Path) -> None:
    policies = []
    for clone in (False, True):
        out = tmp_path / str(clone)
        shutil.copytree(learned, out)
        loop = Loop(out, replace(SMALL, clone=clone, cloning=CloningOptions(steps=20, batch=16)), progress=False)
        loop.learn_policy(0)
        with loop.algorithm() as dreamer:
            policies.append(dreamer.policy().agent.state_dict())
        assert (out / "policy" / "cloning.pt").exists() == clone
        assert (out / "tensorboard" / "cloning").exists() == clone
    assert any(not np.array_equal(policies[0][name], policies[1][name]) for name in policies[0])
    assert "cloning/actor" in read_curves(out / "tensorboard" / "cloning")


def test_ratios_follow_what_was_recorded(learned: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    loop = Loop(out, replace(SMALL, train_ratio=1.0, dream_ratio=0.5), progress=False)
    shutil.copytree(learned / "episodes", out / "episodes")
    frames = EpisodeStore(out / "episodes").frames
    assert loop.learn_world(0)["steps"] == frames // (2 * 8)
    assert loop.learn_policy(0)["batches"] == int(0.5 * frames) // (4 * 3)


def test_later_rounds_may_train_the_world_model_for_fewer_steps(learned: Path, tmp_path: Path) -> None:
    settings = replace(SMALL, rounds=3, world_steps=3, later_world_steps=1)
    assert settings.all_world_steps == 5
    loop = Loop(tmp_path / "run", settings, progress=False)
    shutil.copytree(learned / "episodes", tmp_path / "run" / "episodes")
    assert [loop.learn_world(round_)["steps"] for round_ in range(3)] == [3, 4, 5]
    logged = read_curves(tmp_path / "run" / "tensorboard" / "world_model")
    assert logged["heads/reward"].steps == (3, 4, 5)
    assert replace(settings, later_world_steps=None).all_world_steps == 9


def test_long_episodes_in_short_clips_without_carried_memory_are_worth_a_word(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for carry in (0.0, 0.5):
        settings = replace(SMALL, training=replace(SMALL.training, length=1, carry=carry), heads=HeadsConfig(steps=0))
        loop = Loop(tmp_path / str(carry), settings, progress=False)
        loop.collect(0, loop.collector(0))
        caplog.clear()
        loop.learn_world(0)
        assert ("--training.carry 0.95" in caplog.text) == (carry == 0)


def test_a_round_records_frames_not_episodes_where_it_is_told_so(tmp_path: Path) -> None:
    loop = Loop(tmp_path, replace(SMALL, collect_episodes=50, collect_frames=40), progress=False)
    recorded = loop.collect(0, loop.collector(0))
    assert 40 <= recorded["frames"] < 40 + 13
    assert recorded["episodes"] < 10


def test_exploring_takes_a_share_of_other_actions_and_tells_the_policy() -> None:
    class Still:
        """Always 0; keeps what it was told."""

        def __init__(self) -> None:
            self.done: list[Any] = []

        def reset(self, rows: Any, seeds: Any) -> None: ...

        def act(self, frames: Any, info: Any) -> Any:
            return np.zeros(len(frames), np.int64)

        def took(self, actions: Any) -> None:
            self.done.append(actions)

    still = Still()
    policy = Exploring(still, RandomPolicy(3), 0.3)
    rows = np.arange(200)
    policy.reset(rows, rows)
    frames = np.zeros((200, 4, 4, 3), np.uint8)
    actions = np.stack([policy.act(frames, {}) for _ in range(20)])
    assert np.mean(actions != 0) == pytest.approx(0.3 * 2 / 3, abs=0.02)
    assert np.array_equal(np.stack(still.done), actions)
    policy.reset(rows[::-1].copy(), rows)
    assert np.array_equal(policy.act(frames, {}), actions[0][::-1])
    with pytest.raises(InputError, match=r"explore=1\.5"):
        Exploring(still, RandomPolicy(3), 1.5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"algo": "sarsa"}, "algo='sarsa': give one of .'dreamer', 'ppo'"),
        ({"place": "mars"}, "--in mars: choose dream or real"),
        ({"algo": "ppo", "dream_start": 2.0}, "start=2.0: choose any"),
        ({"algo": "sb3-ppo", "dream_context": 0}, "context_length=.*give a number of at least 1"),
        ({"place": "real"}, "--algo dreamer needs a world model to learn in: leave out --in real"),
        ({"place": "real", "algo": "ppo", "world_model": Path("somewhere")}, "leave out --world-model"),
        ({"clone": True, "algo": "ppo"}, "--clone starts the policy of --algo dreamer"),
        ({"dreamer": DreamerOptions(clone_kl=1.0)}, "--dreamer.clone-kl 1.0 holds a policy .* add --clone"),
    ],
)
def test_what_cannot_learn_there_is_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_algorithm(replace(LoopSettings(), **settings))


def test_a_decay_does_not_go_with_a_ratio(tmp_path: Path) -> None:
    training = replace(SMALL.training, decay=0.5)
    with pytest.raises(InputError, match="decay has to know all steps"):
        Loop(tmp_path, replace(SMALL, train_ratio=1.0, training=training), progress=False)


def test_steps_that_the_world_model_will_not_have_learned_are_named_before_anything_is_done(tmp_path: Path) -> None:
    model, dreamer = replace(SMALL.model, shortcut=4), replace(SMALL.dreamer, steps=3)
    with pytest.raises(InputError, match=r"steps=3: this world model dreams in 1, 2 steps, or in 4 or more"):
        Loop(tmp_path, replace(SMALL, model=model, dreamer=dreamer), progress=False)
    Loop(tmp_path, replace(SMALL, model=model, dreamer=replace(dreamer, steps=None)), progress=False)
