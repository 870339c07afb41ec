"""The checker of vector environments: what keeps the contract passes, and every fault is found by its name."""

from __future__ import annotations

import functools
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from broken_envs import GALLERY, LIMIT, Broken, SingleWalk, Walk
from lssvwm.envs import EnvConfig, check_vector_env, make, make_vec
from lssvwm.envs.checker import CODES, ConformanceError, from_id, single_from_id
from lssvwm.envs.checker.__main__ import Options, check
from lssvwm.worldmodel.common.errors import InputError

MODES = list(AutoresetMode)
OUTPUTS = ["numpy", "torch"]
ROOT = Path(__file__).parent.parent


def about(notes: Any, *words: str) -> list[str]:
    return [str(note) for note in notes if any(word in str(note) for word in words)]


def test_an_environment_that_keeps_every_rule_passes_the_strict_check() -> None:
    report = check_vector_env(
        Walk, modes=MODES, outputs=OUTPUTS, steps=40, single=SingleWalk, max_episode_steps=LIMIT, strict=True
    )
    assert not report.violations
    assert {note.message for note in report.notes} == {
        "Gymnasium's wrappers take numpy arrays: they are not checked with tensors"
    }


@pytest.mark.parametrize("broken", GALLERY, ids=[f"{broken.code}-{broken.make.__name__}" for broken in GALLERY])
def test_a_fault_is_found_by_its_code(broken: Broken) -> None:
    with pytest.raises(ConformanceError) as caught:
        check_vector_env(broken.make, **{"steps": 40, "max_episode_steps": LIMIT, **broken.options})
    report = caught.value.report
    assert broken.code in report.codes, str(report)
    assert report.codes <= {broken.code, *broken.also}, str(report)
    for violation in report.violations:
        assert len(violation.message) > 30
        assert str(violation) in str(caught.value)


def test_there_is_a_fault_for_every_code() -> None:
    assert {broken.code for broken in GALLERY} == set(CODES)


STRICT = [broken for broken in GALLERY if broken.options.get("strict")]


@pytest.mark.parametrize("broken", STRICT, ids=[broken.make.__name__ for broken in STRICT])
def test_what_only_strict_asks_for_is_a_note_without_it(broken: Broken) -> None:
    report = check_vector_env(
        broken.make, **{"steps": 40, "max_episode_steps": LIMIT, **broken.options, "strict": False}
    )
    assert about(report.notes, f"[{broken.code}]")


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_the_environments_of_gymnasium_pass(mode: str) -> None:
    options: dict[str, Any] = {"vectorization_mode": mode, "max_episode_steps": 12}
    report = check_vector_env(
        functools.partial(from_id, "CartPole-v1", **options),
        modes=MODES,
        steps=60 if mode == "sync" else 24,
        single=single_from_id("CartPole-v1", max_episode_steps=12),
    )
    assert not about(report.notes, "end of episodes", "truncation", "independen", "single")


def test_a_vector_environment_of_its_own_passes() -> None:
    """CartPole's takes its random numbers from one generator for all rows and says so by refusing lists of seeds."""
    report = check_vector_env(functools.partial(from_id, "CartPole-v1", max_episode_steps=12))
    assert about(report.notes, "cannot be seeded one by one")
    assert about(report.notes, "[seed-list]")
    assert not about(report.notes, "end of episodes", "truncation")


def test_sync_without_copies_is_found_out() -> None:
    with pytest.raises(ConformanceError) as caught:
        check_vector_env(lambda num_envs: SyncVectorEnv([lambda: gym.make("CartPole-v1")] * num_envs, copy=False))
    assert caught.value.report.codes == {"aliasing"}


@pytest.mark.parametrize("env_id", ["FrozenLake-v1", "Blackjack-v1", "Pendulum-v1"])
def test_other_spaces_of_gymnasium_pass(env_id: str) -> None:
    check_vector_env(env_id, steps=60)


class Rich(gym.Env[Any, Any]):
    """Dictionaries in and out."""

    def __init__(self) -> None:
        box = gym.spaces.Box(-9, 9, (2,), np.float32)
        self.observation_space = gym.spaces.Dict(place=box, parts=gym.spaces.Tuple((box, gym.spaces.Discrete(4))))
        self.action_space = gym.spaces.Dict(push=gym.spaces.Box(-1, 1, (2,), np.float32), jump=gym.spaces.Discrete(2))

    def _observe(self) -> Any:
        return {"place": self.place.copy(), "parts": (-self.place, np.int64(self.clock))}

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.place, self.clock = self.np_random.random(2).astype(np.float32), 0
        return self._observe(), {}

    def step(self, action: Any) -> Any:
        self.place, self.clock = np.clip(self.place + action["push"], -9, 9), self.clock + 1
        return self._observe(), float(action["jump"]), False, self.clock == 3, {"clock": self.clock}


@pytest.mark.parametrize("mode", MODES)
def test_dictionaries_and_tuples_pass(mode: AutoresetMode) -> None:
    check_vector_env(
        lambda num_envs, autoreset_mode: SyncVectorEnv([Rich] * num_envs, autoreset_mode=autoreset_mode),
        modes=[mode],
        steps=12,
        single=Rich,
        max_episode_steps=3,
    )


@pytest.mark.parametrize("processes", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_real_environments_pass(processes: bool) -> None:
    pytest.importorskip("minigrid")
    config = EnvConfig("MiniGrid-MemoryS7-v0", actions=(0, 1, 2), extra_obs=True, max_episode_steps=4)
    report = check_vector_env(
        lambda num_envs: make_vec(config, num_envs, processes=processes),
        num_envs=2 if processes else 3,
        steps=12,
        single=lambda: make(config),
        max_episode_steps=4,
    )
    assert not about(report.notes, "end of episodes", "truncation", "single", "[options]")


def test_what_was_not_seen_is_noted() -> None:
    report = check_vector_env(functools.partial(Walk, max_episode_steps=50), steps=2, num_envs=1)
    for words in ("no episode ended within 2 steps", "one row has no neighbours", "no single environment was given"):
        assert about(report.notes, words), str(report)


def test_arguments_that_make_no_sense_are_refused() -> None:
    with pytest.raises(InputError, match="num_envs=0"):
        check_vector_env(Walk, num_envs=0)
    with pytest.raises(InputError, match=r"modes=\['bad'\]: choose of NextStep, SameStep, Disabled"):
        check_vector_env(Walk, modes=["bad"])  # type: ignore[list-item]


def test_the_command_reports_and_says_how_it_went(capsys: pytest.CaptureFixture[str]) -> None:
    assert check(Options("CartPole-v1", num_envs=2, kwargs='{"max_episode_steps": 9}', steps=20)) == 0
    assert capsys.readouterr().out.startswith("CartPole-v1: 0 violations, ")
    assert check(Options("CartPole-v1", modes=("Disabled",), vectorization_mode="sync", strict=True, steps=20)) == 1
    assert "violation [options]" in capsys.readouterr().out
    for wrong in ("9", "{"):
        with pytest.raises(InputError, match=f"--kwargs '{wrong}' is no JSON"):
            check(Options("CartPole-v1", kwargs=wrong))


def test_the_command_line() -> None:
    run = [sys.executable, "-m", "lssvwm.envs.checker", "CartPoole-v1", "--num-envs", "2", "--modes", "NextStep"]
    result = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert result.stderr.startswith("error: ")
    assert "CartPoole" in result.stderr
    with pytest.raises(InputError, match="names the module 'no_such_module', which cannot be found"):
        check(Options("no_such_module:CartPole-v1"))


def test_the_page_lists_every_code() -> None:
    page = (ROOT / "docs" / "checker.md").read_text()
    for code, rule in CODES.items():
        assert f"| `{code}` | {rule[0].upper()}{rule[1:]} |" in page
