"""Layouts are divided as asked, and evaluations tell whether they began where recordings did."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import lssvwm.agents.evaluation.starts as of_evaluations
from lssvwm.agents.evaluation.command import Options, config_of
from lssvwm.agents.evaluation.runs import TrainedRun
from lssvwm.agents.evaluation.starts import Starts, starts
from lssvwm.agents.policies.baselines import RandomPolicy
from lssvwm.agents.running.settings import LoopSettings
from lssvwm.agents.running.settings_file import from_json, to_json
from lssvwm.envs.factory import EnvConfig, make
from lssvwm.envs.layouts import Layouts, layout_of
from lssvwm.envs.recording.recorder import record
from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.episodes import EpisodeStore

MEMORY = "MiniGrid-MemoryS7-v0"
"""Has 16 layouts."""


def drawn(config: EnvConfig, seeds: range) -> list[Any]:
    env = make(config)
    found = []
    for seed in seeds:
        env.reset(seed=seed)
        found.append(layout_of(env))
    env.close()
    return found


def test_two_ranges_have_no_layout_in_common_and_together_all() -> None:
    some, others = (set(drawn(EnvConfig(MEMORY, layouts=layouts), range(60))) for layouts in ((0, 12), (12, 4)))
    assert (len(some), len(others)) == (12, 4)
    assert not some & others
    assert some | others == set(drawn(EnvConfig(MEMORY), range(200)))


def test_layouts_follow_from_the_seed() -> None:
    config = EnvConfig(MEMORY, layouts=(3, 9))
    assert drawn(config, range(20)) == drawn(config, range(20))
    env = make(config)
    runs = []
    for _ in range(2):
        env.reset(seed=5)
        runs.append([env.reset()[0] for _ in range(6)])
    assert np.array_equal(*runs)
    assert len({frame.tobytes() for frame in runs[0]}) > 1


def test_a_world_without_so_many_layouts_says_so() -> None:
    with pytest.raises(InputError, match=r"MemoryEnv has 16 layouts in .* seeds, layouts ask for 17"):
        make(EnvConfig(MEMORY, layouts=(16, 1))).reset(seed=0)
    for layouts in ((-1, 3), (0, 0), (1,)):
        with pytest.raises(InputError, match="layouts"):
            EnvConfig(MEMORY, layouts=layouts)  # type: ignore[arg-type]


class Numbered(gym.Env[Any, Any]):
    observation_space = gym.spaces.Box(0, 255, (2, 2, 3), np.uint8)
    action_space = gym.spaces.Discrete(2)
    given: tuple[int | None, dict[str, Any] | None] = (None, None)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self.given = seed, options
        return self.observation_space.low, {}


class Maze(Numbered):
    maze_seed = None


def test_other_worlds_take_the_number_as_their_seed_and_mazes_for_their_walls() -> None:
    other, maze = Layouts(Numbered(), 100, 3), Layouts(Maze(), 100, 3)
    numbers, walls, seeds = set(), set(), set()
    for seed in range(30):
        other.reset(seed=seed)
        numbers.add(other.unwrapped.given[0])  # type: ignore[attr-defined]
        maze.reset(seed=seed, options={"a": 1})
        inner, options = maze.unwrapped.given  # type: ignore[attr-defined]
        walls.add(options["maze_seed"])
        seeds.add(inner)
        assert options["a"] == 1
    assert numbers == walls == {100, 101, 102}
    assert len(seeds) == 30


def test_memory_maze_changes_its_walls_at_reset() -> None:
    env = gym.make("lssvwm:lssvwm/MemoryMaze-9x9-v0", extra_obs=True)

    def layout(seed: int | None, walls: int) -> Any:
        return env.reset(seed=seed, options={"maze_seed": walls})[0]["maze_layout"]

    first = layout(0, 7)
    assert not np.array_equal(layout(None, 8), first)
    assert np.array_equal(layout(None, 7), first)
    with pytest.raises(InputError, match="maze_seed -1"):
        layout(0, -1)
    env.close()


def test_evaluations_tell_whether_starts_were_recorded(tmp_path: Path) -> None:
    def recorded(name: str, layouts: tuple[int, int]) -> EpisodeStore:
        store = EpisodeStore(tmp_path / name, create=True)
        config = EnvConfig(MEMORY, max_episode_steps=1, layouts=layouts)
        record(config, store, RandomPolicy(7), episodes=40, num_envs=1, seed=0, processes=False, progress=False)
        return store

    config, held_out, seeds = EnvConfig(MEMORY), EnvConfig(MEMORY, layouts=(12, 4)), range(1000, 1100)
    train = recorded("train", (0, 12))
    assert starts(held_out, seeds, train) == Starts(4, 0.0)
    assert starts(EnvConfig(MEMORY, layouts=(0, 12)), seeds, train) == Starts(12, 1.0)
    found = starts(config, seeds, train)
    assert found is not None
    assert found.distinct == 16
    known = set(drawn(EnvConfig(MEMORY, layouts=(0, 12)), range(60)))
    assert found.recorded == np.mean([layout in known for layout in drawn(config, seeds)])
    assert 0.5 < found.recorded < 1
    assert str(Starts(16, 0.75)) == "16 distinct starts, 75% of the episodes begin as a recorded one did"
    assert starts(config, seeds) == Starts(16, None)
    assert starts(EnvConfig("CartPole-v1"), seeds) is None


def test_starts_that_are_known_are_not_played_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, store = EnvConfig(MEMORY, max_episode_steps=1), EpisodeStore(tmp_path, create=True)

    def recorded(seed: int) -> None:
        record(config, store, RandomPolicy(7), episodes=3, num_envs=1, seed=seed, processes=False, progress=False)

    played: list[EnvConfig] = []

    def noted(config: EnvConfig) -> Any:
        played.append(config)
        return make(config)

    monkeypatch.setattr(of_evaluations, "make", noted)
    recorded(0)
    first = starts(config, range(100, 104), store)
    assert len(played) == 2, "those of the evaluation, and those of the recording"
    assert starts(config, range(100, 104), store) == first
    assert len(played) == 2
    recorded(100)
    assert starts(config, range(100, 103), store) == Starts(len({*drawn(config, range(100, 103))}), 1.0)
    assert len(played) == 2, "an evaluation has played the new ones"
    recorded(200)
    starts(config, range(100, 103), store)
    assert len(played) == 3
    monkeypatch.setattr(metadata, "version", lambda name: "another")
    starts(config, range(100, 103), store)
    assert len(played) == 5, "another version may begin otherwise"
    (tmp_path / "starts.json").write_text('{"a": {"x": 1}}')
    with pytest.raises(InputError, match=r"starts.json cannot be read .* delete it"):
        starts(config, range(2), store)


def test_a_recording_that_names_an_unknown_module_runs_none_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The world is read from the episodes, which may come from anywhere."""
    (tmp_path / "planted.py").write_text("raise SystemExit('planted code was run')")
    monkeypatch.syspath_prepend(tmp_path)
    config, store = EnvConfig(MEMORY, max_episode_steps=1), EpisodeStore(tmp_path / "store", create=True)
    record(config, store, RandomPolicy(7), episodes=1, num_envs=1, seed=0, processes=False, progress=False)
    lines = store.root / "recorded.jsonl"
    lines.write_text(lines.read_text().replace(f'"{MEMORY}"', f'"planted:{MEMORY}"'))
    with pytest.raises(InputError, match="making it would run the module 'planted'"):
        starts(config, range(2), store)


def test_policies_are_judged_in_the_layouts_that_were_asked_for() -> None:
    settings = LoopSettings(layouts=(0, 12), eval_layouts=(12, 4))
    assert (settings.env_config.layouts, settings.eval_config.layouts) == ((0, 12), (12, 4))
    assert LoopSettings(layouts=(0, 12)).eval_config.layouts == (0, 12)
    assert from_json(LoopSettings, to_json(settings), Path("x")) == settings
    run = TrainedRun(Path("x"), settings)
    assert config_of(Options(), [run]).layouts == (12, 4)
    assert config_of(Options(layouts=(2, 3)), [run]).layouts == (2, 3)
    assert config_of(Options(env="MiniGrid-MemoryS11-v0"), [run]).layouts is None
