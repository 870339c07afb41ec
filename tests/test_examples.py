"""The example scripts as a user runs them: in a dream of a real MiniGrid world, for a few steps."""

from __future__ import annotations

import ast
import importlib.util
import re
import sys
from pathlib import Path

import pytest
import torch
import tyro

from lssvwm.agents.policies.baselines import RandomPolicy
from lssvwm.agents.running.environment import probe
from lssvwm.envs import EnvConfig
from lssvwm.envs.recording.recorder import record
from lssvwm.worldmodel.actions import told
from lssvwm.worldmodel.checkpoint import save_checkpoint
from lssvwm.worldmodel.episodes import EpisodeStore
from runs import ROOT
from steering import steering
from worlds import random_model, small_config

EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
ELSEWHERE = {"rllib_ppo.py", "tianshou_dqn.py"}  # make test-integrations


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A world model of a real environment, with random weights, and episodes of that environment."""
    folder = tmp_path_factory.mktemp("world")
    env = EnvConfig("MiniGrid-MemoryS7-v0", actions=(0, 1, 2), max_episode_steps=12)
    store = EpisodeStore(folder / "episodes", create=True)
    record(env, store, RandomPolicy(3), episodes=8, num_envs=4, seed=0, processes=False, progress=False)
    model = random_model(small_config(height=56, width=56, patch=14), 0).float()
    with torch.no_grad():
        model.reward_head[-1].weight.mul_(0.01)
    world = {"num_actions": 3, "episodes": "../episodes", "env": env.to_dict()}
    save_checkpoint(folder / "model", model, world=world, step=0)
    return folder / "model"


def run(script: str, model: Path, *args: str) -> None:
    """Run `python examples/script ARGS`, in this process."""
    spec = importlib.util.spec_from_file_location(f"example_{Path(script).stem}", ROOT / "examples" / script)
    assert spec is not None
    assert spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = example  # where dataclasses look for the names in their annotations
    spec.loader.exec_module(example)
    given = ["--checkpoint", str(model), "--num-envs", "4", "--horizon", "6", *args]
    example.main(tyro.cli(example.Args, args=given))


@pytest.mark.parametrize(
    ("script", "steps", "args"),
    [
        ("sb3_ppo.py", 256, ()),
        ("sb3_ppo.py", 256, ("--observation", "features")),
        ("sb3_recurrent_ppo.py", 256, ("--observation", "features")),
        ("sb3_dqn.py", 600, ()),
    ],
)
def test_stable_baselines_ends_in_the_real_environment(
    script: str, steps: int, args: tuple[str, ...], model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(script, model, "--total-timesteps", str(steps), "--eval-episodes", "5", *args)
    told = capsys.readouterr().out
    trained = re.findall(r"total_timesteps +\| (\d+)", told)
    assert int(trained[-1]) >= steps - 30  # the last line of a log may come before the last step
    number = r"(-?\d+\.\d+) \[-?\d+\.\d+, -?\d+\.\d+\]"
    found = re.search(
        rf"^real environment, mean return of 5 episodes: policy {number}, random {number}$", told, re.MULTILINE
    )
    assert found
    assert all(0.0 <= float(mean) <= 1.0 for mean in found.groups())


@pytest.mark.parametrize("algorithm", ["sac", "td3"])
def test_continuous_actions_end_in_the_real_environment(
    algorithm: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    actions = probe(steering("box")).actions
    store = EpisodeStore(tmp_path / "episodes", create=True)
    record(
        steering("box"), store, RandomPolicy(actions), episodes=2, num_envs=1, seed=0, processes=False, progress=False
    )
    model = random_model(small_config(**told(actions)), 0).float()
    world = {"episodes": "../episodes", "env": steering("box").to_dict()}
    save_checkpoint(tmp_path / "model", model, world=world, step=0)
    run("sb3_sac.py", tmp_path / "model", "--algorithm", algorithm, "--total-timesteps", "300", "--eval-episodes", "4")
    assert re.search(r"^real environment, mean return of 4 episodes: policy ", capsys.readouterr().out, re.MULTILINE)


@pytest.mark.parametrize("observation", ["frame", "features"])
def test_cleanrl_ppo(observation: str, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("cleanrl_ppo.py", model, "--total-timesteps", "512", "--observation", observation)
    told = capsys.readouterr().out
    steps = re.findall(r"^(\d+) steps, dreamt return (-?\d+\.\d+), \d+ steps/s$", told, re.MULTILINE)
    assert [int(number) for number, _ in steps] == [256, 512]


def test_torchrl_collector(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("torchrl_collector.py", model, "--total-timesteps", "512")
    told = capsys.readouterr().out
    steps = re.findall(r"^(\d+) steps, mean dreamt return (-?\d+\.\d+)$", told, re.MULTILINE)
    assert [int(number) for number, _ in steps] == [256, 512]


def test_every_example_is_run_and_says_how() -> None:
    here = ast.unparse(ast.parse(Path(__file__).read_text()))
    makefile = (ROOT / "Makefile").read_text()
    assert {path.name for path in EXAMPLES} >= ELSEWHERE
    for path in EXAMPLES:
        assert f"python examples/{path.name} --checkpoint" in path.read_text()
        if path.name in ELSEWHERE:
            assert path.name.split("_")[0] in makefile
        else:
            assert f"'{path.name}'" in here
