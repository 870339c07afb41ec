"""Bad input of every kind that was once let through, or ended in a traceback: one sentence for each instead."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

import recordings
from lssvwm.envs.factory import DiscreteActions, EnvConfig, FrameObservation, make, make_vec, trusted
from lssvwm.envs.minecraft.minerl import client
from lssvwm.envs.policy import FrameArray
from lssvwm.envs.recorded import FORMATS, ReadOptions, convert
from lssvwm.envs.vector import _overlay
from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.episodes import EpisodeStore
from lssvwm.worldmodel.episodes.files import read_episode, read_header

KEYS = EnvConfig("MiniGrid-MemoryS7-v0", actions=(0, 1, 2))


@pytest.mark.parametrize("action", [-1, 3, 2.9, True, np.bool_(True), None, "1", np.float64(1), np.array([1])])
def test_actions_that_are_none_are_refused(action: Any) -> None:
    env = make(KEYS)
    env.reset(seed=0)
    with pytest.raises(gym.error.InvalidAction, match=r"has actions 0\.\.2, got"):
        env.step(action)
    for good in (1, np.int64(2), np.uint8(0), np.array(1)):
        env.step(good)  # type: ignore[arg-type]
    env.close()


class Reusing(gym.Env[Any, np.int64]):
    """Writes every frame into the same array, and observes something under a name that episodes have."""

    def __init__(self) -> None:
        self.frame = np.zeros((8, 8, 3), np.uint8)
        entry = spaces.Box(-1, 1, (), np.float32)
        self.observation_space = spaces.Dict(
            {"image": spaces.Box(0, 255, (8, 8, 3), np.uint8), "action": entry, "seed": entry, "a/b": entry}
        )
        self.action_space = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return self.observe(0), {}

    def step(self, action: np.int64) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return self.observe(int(self.frame[0, 0, 0]) + 1), 0.0, False, False, {}

    def observe(self, number: int) -> dict[str, Any]:
        self.frame[:] = number
        return {"image": self.frame, "action": 0.25, "seed": 0.5, "a/b": 0.75}


def test_frames_are_not_the_environments_own_and_names_not_those_of_episodes() -> None:
    env = DiscreteActions(FrameObservation(Reusing()))
    first, info = env.reset(seed=0)
    second = env.step(np.int64(0))[0]
    assert (first[0, 0, 0], second[0, 0, 0]) == (0, 1)
    assert env.get_wrapper_attr("extra_keys") == ("a.b", "obs_action", "obs_seed")
    assert [float(info[key]) for key in ("obs_action", "obs_seed", "a.b")] == [0.25, 0.5, 0.75]


def test_infos_are_the_callers_own() -> None:
    envs = make_vec(KEYS, 2, processes=False)
    info = envs.reset(seed=[0, 1])[1]
    before = info["direction"].copy()
    info["direction"][:] = 99
    info = envs.reset(seed=[2, 3], options={"reset_mask": [True, False]})[1]  # type: ignore[list-item]
    assert info["direction"][1] == before[1]
    envs.close()


@pytest.mark.parametrize(("asked", "steps"), [(None, 20), (40, 20), (7, 7)])
def test_the_shorter_limit_holds(asked: int | None, steps: int) -> None:
    gym.register("Limited-v0", entry_point=Still, max_episode_steps=20)
    env = make(EnvConfig("Limited-v0", max_episode_steps=asked))
    env.reset(seed=0)
    count = 1
    while not env.step(np.int64(0))[3]:
        count += 1
    assert count == steps
    del gym.registry["Limited-v0"]


class Still(gym.Env[FrameArray, np.int64]):
    observation_space = spaces.Box(0, 255, (8, 8, 3), np.uint8)
    action_space = spaces.Discrete(2)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[FrameArray, dict[str, Any]]:
        return np.zeros((8, 8, 3), np.uint8), {}

    def step(self, action: np.int64) -> tuple[FrameArray, float, bool, bool, dict[str, Any]]:
        return np.zeros((8, 8, 3), np.uint8), 0.0, False, False, {}


@pytest.mark.parametrize("name", ["../../x.py:foo", ".envs:Foo-v0", "a b:Foo-v0"])
def test_ids_that_name_no_module(name: str) -> None:
    with pytest.raises(InputError, match="names no module before the colon"):
        make(EnvConfig(name))


def test_a_file_cannot_have_a_module_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "evilmod.py").write_text("raise SystemExit('it ran')")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(InputError, match=r"checkpoint names .* 'evilmod:Foo-v0', .* run the module 'evilmod'"):
        trusted(EnvConfig("evilmod:Foo-v0"), "checkpoint")
    assert "evilmod" not in sys.modules
    for known in ("CartPole-v1", "lssvwm:lssvwm/MemoryMaze-9x9-v0", f"{__name__}:Foo-v0"):
        assert trusted(EnvConfig(known), "checkpoint").id == known


def test_a_file_cannot_have_a_program_run() -> None:
    config = EnvConfig("lssvwm/MineRL-Treechop-v0", options='{"python": "./run"}')
    with pytest.raises(InputError, match=r"checkpoint names .* the option python, which is a program to run"):
        trusted(config, "checkpoint")


def test_infos_of_rows_that_go_on_keep_their_values() -> None:
    """Whatever dtype the rows have that begin anew."""
    kept, both = np.array([True, False]), np.array([True, True])
    before = {"d": np.array([3.9, 1.5]), "_d": both, "s": np.array(["abcdef", "x"]), "_s": both, "o": [1], "n": 3}
    after = {"d": np.array([0, 0]), "_d": ~kept, "s": np.array(["", "y"]), "_s": ~kept}
    found = _overlay(before, after, kept)
    assert (found["d"].tolist(), found["s"].tolist()) == ([3.9, 0.0], ["abcdef", "y"])
    assert found["_d"].all()
    assert "o" not in found


def test_the_name_of_before_imports_no_package_of_others(tmp_path: Path) -> None:
    """In a folder that has an `envs` of its own, as an installed package is used."""
    (tmp_path / "envs.py").write_text("raise SystemExit('it ran')")
    (tmp_path / "lssvwm").symlink_to(Path(__file__).parent.parent / "lssvwm")
    code = (
        "from lssvwm.envs.factory import EnvConfig, find_spec, trusted\n"
        "print(find_spec(trusted(EnvConfig('envs:lssvwm/MemoryMaze-9x9-v0'), 'a checkpoint').id).id)\n"
        "trusted(EnvConfig('envs:Foo-v0'), 'a checkpoint')"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout == "lssvwm/MemoryMaze-9x9-v0\n", done.stderr
    assert "making it would run the module 'envs'" in done.stderr.splitlines()[-1]


def whole(path: Path, **more: Any) -> None:
    frames = np.zeros((5, 8, 8, 3), np.uint8)
    arrays = {"image": frames, "action": np.array([-1, 0, 0, 0, 0]), "reward": np.zeros(5, np.float32)}
    np.savez_compressed(path, **(arrays | more))


@pytest.mark.parametrize("key", ["extra", "action"])
def test_a_small_file_does_not_fill_the_memory(tmp_path: Path, key: str) -> None:
    path = tmp_path / "bomb.npz"
    whole(path)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            if name != f"{key}.npy":
                archive.writestr(name, content)
        with archive.open(f"{key}.npy", "w") as member:  # zeros
            header = {"descr": "<i8", "fortran_order": False, "shape": (5, 1 << 22)}
            np.lib.format.write_array_header_1_0(member, header)
            for _ in range(5 * 4):
                member.write(bytes(1 << 23))
    assert path.stat().st_size < 200_000
    with pytest.raises(InputError, match=f"'{key}' would take 1677.* bytes"):
        read_header(path) if key == "action" else read_episode(path)


def odd_files(folder: Path) -> dict[str, Path]:
    """Files that are no episodes, each of another kind."""
    made = {name: folder / f"{name}.npz" for name in ("folder", "link", "encrypted", "method", "cut")}
    made["folder"].mkdir()
    made["link"].symlink_to(folder / "nowhere")
    for name, offset, value in (("encrypted", 8, 1), ("method", 10, 99)):  # in the zip directory's first entry
        whole(made[name])
        content = bytearray(made[name].read_bytes())
        content[content.index(b"PK\x01\x02") + offset] = value
        if name == "encrypted":
            content[6] |= 1
        made[name].write_bytes(content)
    whole(made["cut"])
    made["cut"].write_bytes(made["cut"].read_bytes()[:-100])
    return made


@pytest.mark.parametrize("name", ["folder", "link", "encrypted", "method", "cut"])
def test_odd_files_in_a_store_are_named(tmp_path: Path, name: str) -> None:
    path = odd_files(tmp_path)[name]
    for read in (read_header, read_episode):
        with pytest.raises(InputError, match=f"{name}.npz"):
            read(path)
    alone = tmp_path / "store"
    alone.mkdir()
    os.rename(path, alone / path.name)
    with pytest.raises(InputError, match=f"{name}.npz"):
        EpisodeStore(alone)


def broken_mazes(folder: Path) -> None:
    recordings.memory_maze(folder / "whole.npz")
    recordings.write_npz(folder / "no_image.npz", action=np.zeros(3, int), reward=np.zeros(3))
    recordings.write_npz(folder / "flat.npz", image=np.uint8(3), action=np.zeros(3, int), reward=np.zeros(3))
    recordings.write_npz(
        folder / "words.npz",
        image=np.zeros((3, 8, 8, 3), np.uint8),
        action=np.zeros(3, int),
        reward=np.array(["a"] * 3),
    )
    (folder / "folder.npz").mkdir()


def broken_treechops(folder: Path) -> None:
    recordings.minerl(folder / "MineRLTreechop-v0" / "whole")
    changes: dict[str, Any] = {
        "many": {"true_video_frame_count": "many"},
        "huge": {"true_video_frame_count": 10**30},
        "list": [1],
    }
    for name, change in changes.items():
        recordings.minerl(folder / "MineRLTreechop-v0" / name)
        path = folder / "MineRLTreechop-v0" / name / "metadata.json"
        path.write_text(json.dumps(change if isinstance(change, list) else json.loads(path.read_text()) | change))
    arrays: dict[str, dict[str, Any]] = {
        "flat_reward": {"reward": np.float64(1)},
        "words_reward": {"reward": np.array(["a", "b"])},
        "words_camera": {"action$camera": np.array([["a", "b"]] * 20)},
        "nan_camera": {"action$camera": np.full((20, 2), np.nan)},
    }
    for name, change in arrays.items():
        recordings.minerl(folder / "MineRLTreechop-v0" / name)
        path = folder / "MineRLTreechop-v0" / name / "rendered.npz"
        with np.load(path) as found:
            recordings.write_npz(path, **({key: found[key] for key in found} | change))


def broken_vpt(folder: Path) -> None:
    recordings.vpt(folder / "whole.mp4")
    lines = folder.joinpath("whole.jsonl").read_text().splitlines()
    for name, dx in {
        "nan": "NaN",
        "infinite": "1e400",
        "digits": "9" * 400,
        "deep": "[" * 100_000 + "]" * 100_000,
    }.items():
        recordings.vpt(folder / f"{name}.mp4")
        told = json.loads(lines[3])
        told["mouse"]["dx"] = "HERE"
        told["mouse"]["x"] = "HERE"
        told["isGuiOpen"] = True
        text = json.dumps(told).replace('"HERE"', dx)
        (folder / f"{name}.jsonl").write_text("\n".join([*lines[:3], text, *lines[4:]]))
    recordings.vpt(folder / "folder.mp4")
    (folder / "folder.jsonl").unlink()
    (folder / "folder.jsonl").mkdir()


@pytest.mark.parametrize(
    ("kind", "write", "actions"),
    [
        ("memory-maze", broken_mazes, "recorded"),
        ("minerl", broken_treechops, "treechop"),
        ("minerl", broken_treechops, "recorded"),
        ("vpt", broken_vpt, "treechop"),
        ("vpt", broken_vpt, "recorded"),
    ],
)
def test_one_broken_recording_does_not_end_a_conversion(tmp_path: Path, kind: str, write: Any, actions: str) -> None:
    folder = tmp_path / "from"
    folder.mkdir()
    write(folder)
    options = ReadOptions(size=16, actions=actions)
    done = convert(FORMATS[kind], folder, tmp_path / "to", options, progress=False)
    assert done.converted == 1
    names = {source.name for source in FORMATS[kind].find(folder)}
    fine = {name for name in names if "whole" in name or ("nan_camera" in name and actions == "none")}
    assert {broken.source for broken in done.broken} == names - fine
    assert len(EpisodeStore(tmp_path / "to")) == 1
    with pytest.raises(InputError):
        convert(FORMATS[kind], folder, tmp_path / "strict", options, strict=True, progress=False)


def test_a_full_disk_is_no_broken_recording(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object, **options: object) -> Path:
        raise OSError(28, "No space left on device")

    recordings.memory_maze(tmp_path / "from" / "whole.npz")
    monkeypatch.setattr(sys.modules["lssvwm.envs.recorded.convert"], "write_episode", full)
    with pytest.raises(OSError, match="No space left"):
        convert(FORMATS["memory-maze"], tmp_path / "from", tmp_path / "to", ReadOptions(size=16), progress=False)


def test_an_interpreter_in_the_current_folder_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python = tmp_path / ".venv-minerl" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text("#!/bin/sh\n")
    python.chmod(0o755)
    monkeypatch.delenv(client.PYTHON_VARIABLE, raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(client, "_HERE", tmp_path / "a" / "b" / "c" / "d")
    with pytest.raises(InputError, match=r"there is none at .*/a/\.venv-minerl/bin/python"):
        client.find_python(None)
    assert client.find_python(str(python)) == python
