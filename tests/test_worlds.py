"""`make worlds` on a few worlds: what it writes, and that it tells what runs from what does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from benchmarks import worlds
from benchmarks.worlds import BEGIN, END, Line, World, apart, rows_of, tried, written
from lssvwm.worldmodel.common.errors import InputError


def test_a_world_is_recorded_learned_and_dreamt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worlds, "STEPS", 2)
    line = tried(World("grey", "MiniGrid-Empty-5x5-v0", {"size": (32, 48)}), tmp_path)
    assert (line.fault, line.reason, line.actions) == ("", "", "7")
    assert line.observed == "'image', uint8 (56, 56, 3)"
    assert 3 * 2 <= line.frames <= 3 * 17
    assert line.loss > 0


def test_what_is_not_there_is_not_tried(tmp_path: Path) -> None:
    line = tried(World("gone", "procgen-coinrun-v0", {}), tmp_path)
    assert "Procgen has wheels for Python up to 3.10 only" in line.reason
    assert str(line) == f"| gone |  |  | | | not tried: {line.reason} |"


class Faulty(gym.Env[Any, Any]):
    observation_space = gym.spaces.Box(0, 255, (32, 32, 3), np.uint8)
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        raise RuntimeError("out of order")


def test_a_failure_is_told() -> None:
    gym.register("worlds/Faulty-v0", Faulty)
    line = apart(World("faulty", "worlds/Faulty-v0", {}))
    del gym.registry["worlds/Faulty-v0"]
    assert "out of order" in line.fault
    assert "**failed**" in str(line)


@pytest.mark.parametrize("name", sorted(worlds.WRAPPERS))
def test_all_wrappers_around_pong_can_be_made(name: str) -> None:
    pytest.importorskip("ale_py")
    world = next(world for world in worlds.WORLDS if world.name == f"Pong, {name}")
    env = worlds.make(worlds.settings_of(world).env_config)
    frame, _ = env.reset(seed=0)
    assert frame.shape == (32, 32, 3)
    assert frame.std() > 1
    env.close()


def test_rows_of_the_page_are_replaced_one_by_one() -> None:
    second, first = (world.name for world in worlds.WORLDS[:2])
    page = f"before\n{BEGIN}\n{END}\nafter"
    for name, loss in ((first, 0.5), (second, 1.0), (first, 0.25)):
        page = written(page, Line(name, "b", "2", frames=9, loss=loss))
    table = page.removeprefix(f"before\n{BEGIN}\n").removesuffix(f"{END}\nafter")
    assert table.splitlines()[2:] == [
        f"| {second} | b | 2 | 9 | 1.00 | keeps the contract |",
        f"| {first} | b | 2 | 9 | 0.25 | keeps the contract |",
    ]
    assert list(rows_of(page)) == [second, first]
    with pytest.raises(InputError, match="has no lines"):
        written("before", Line(first))
