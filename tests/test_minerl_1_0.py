"""The adapter with the spaces that minerl 1.0.2 publishes; that version itself is not on PyPI and was not run."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import numpy as np
import pytest

from lssvwm.envs.minecraft.minerl import protocol
from lssvwm.envs.minecraft.minerl.client import find_python
from lssvwm.envs.minecraft.minerl.env import MineRLEnv
from lssvwm.worldmodel.common.errors import InputError
from minerl_1_0 import BUTTONS, ITEMS, LIMIT, install


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(install(tmp_path_factory.mktemp("minerl"), find_python(None)))


@pytest.fixture(scope="module")
def cave(python: str) -> Iterator[MineRLEnv]:
    env = MineRLEnv("BasaltFindCave", python=python, actions="dict", extra_obs=True, size=None)
    yield env
    env.close()


def test_spaces_and_full_actions(cave: MineRLEnv) -> None:
    assert (cave.about.minerl, cave.about.frame, cave.about.max_episode_steps) == ("1.0.2", (360, 640), LIMIT)
    assert set(cave.action_space.spaces) == {*BUTTONS, "camera"}  # type: ignore[attr-defined]
    assert list(cave.observation_space.spaces) == ["image"]  # type: ignore[attr-defined]
    observation, _ = cave.reset(seed=200)
    assert observation["image"][100, 300].tolist() == [0, 200, 0]
    observation, *rest = cave.step({"hotbar.3": 1, "camera": np.array([0.0, 90.0]), "swapHands": True})
    assert observation["image"][359, 639].tolist() == [0, 200, 90]
    assert rest == [0.0, False, False, {}]
    with pytest.raises(InputError, match="knows ESC, attack"):
        cave.step({"hotbar.10": 1})


def test_esc_terminates_basalt_and_time_truncates(cave: MineRLEnv) -> None:
    cave.reset(seed=1)
    ends = [cave.step({"forward": 1})[2:4] for _ in range(LIMIT)]
    assert ends == [(False, False)] * (LIMIT - 1) + [(False, True)]
    cave.reset(seed=1)
    assert cave.step({"ESC": 1})[2:] == (True, False, {})


def test_a_random_observation_is_not_data(cave: MineRLEnv) -> None:
    cave.reset(seed=1)
    last, *_ = cave.step({})
    observation, reward, terminated, truncated, info = cave.step({"pickItem": 1})
    np.testing.assert_array_equal(observation["image"], last["image"])
    assert (reward, terminated, truncated) == (0.0, False, True)
    assert "lost its Minecraft: Connection timed out!" in info["error"]
    assert cave.reset(seed=2)[0]["image"][0, 0].tolist() == [0, 2, 0]


def test_vpt_actions_inventory_and_size(python: str) -> None:
    env = MineRLEnv("ObtainDiamondShovel", python=python, actions="vpt", extra_obs=True, size=3)
    assert env.unused_buttons == ()
    assert env.items == tuple(ITEMS)
    env.reset(seed=30)
    use = env.action_names.index("use")
    observation, reward, *_ = env.step(np.int64(use))
    assert reward == 1.0
    assert observation["inventory"].tolist() == [1, 0, 0, 0]
    for _ in range(5):
        observation, *_ = env.step(np.int64(use))
    # Red is 6 in the left half: of the middle column that is one half, so its mean is 3.
    assert observation["image"][:, :, 0].tolist() == [[6, 3, 0]] * 3
    assert (observation["image"][:, :, 1:] == [30, 0]).all()
    env.close()
    env = MineRLEnv("ObtainDiamondShovel", python=python, actions="dict")
    env.reset(seed=1)
    assert env.step({"ESC": 1})[2:] == (False, False, {})
    env.close()


def test_buttons_that_are_not_there_are_named() -> None:
    env = MineRLEnv(actions="vpt")
    assert env.about.minerl == "0.4.4"
    assert env.unused_buttons == ("drop", *(f"hotbar.{slot}" for slot in range(1, 10)), "inventory", "use")
    env.close()


def test_messages() -> None:
    ours, theirs = socket.socketpair()
    entry = protocol.Entry("number", (2,), -180.0, float("inf"))
    ready = protocol.Ready(
        "1.0.2", "0.23.1", (2, 3), {"a.b": entry}, {"c": protocol.Entry("choice", choices=("x",))}, 5
    )
    for message in (protocol.Step({"camera": [0.5, 1.0], "craft": "x"}), ready, protocol.Observed({"a": 1}, 2.0, True)):
        protocol.send(ours, message)
        assert protocol.receive(theirs, 5) == message
    for payload in (b"[]", b"{", b'{"kind": "Nothing"}', b'{"kind": "Reset"}', b'{"kind": "Reset", "seed": 1, "x": 2}'):
        with pytest.raises(protocol.Broken, match="a message"):
            protocol.decode(payload)
    ours.sendall(b"\xff\xff\xff\xff")
    with pytest.raises(protocol.Broken, match="4294967295 bytes"):
        protocol.receive(theirs, 5)
    with pytest.raises(protocol.Broken, match="no answer in time"):
        protocol.receive(theirs, 0.01)
    ours.close()
    with pytest.raises(protocol.Broken, match="has ended"):
        protocol.receive(theirs, 5)
    theirs.close()
