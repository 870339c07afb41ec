"""Frames per second from the recording to the dream, and recordings and videos that are thinned."""

from __future__ import annotations

import math
import struct
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

import recordings
from dreams import ID, dream_folder, vec
from lssvwm.envs.factory import EnvConfig, make
from lssvwm.envs.recorded import FORMATS, ReadOptions, convert
from lssvwm.envs.recorded.frames import decoded, rate_of, shrunk
from lssvwm.envs.recorded.segments import Track, thinned
from lssvwm.envs.recording.recorder import record
from lssvwm.worldmodel.checkpoint import load_checkpoint, save_checkpoint
from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.episodes import Episode, EpisodeStore
from lssvwm.worldmodel.episodes.files import write_episode
from recordings import STEPS, frames_of, places, seen, write_video
from test_episodes import episode
from test_recording import Uniform


def read(name: str, folder: Path, **options: Any) -> list[Episode]:
    recording = FORMATS[name]
    options = {"size": 16, **options}
    return [e for source in recording.find(folder) for e in recording.read(source, ReadOptions(**options))]


# The rate


class Slow(gym.Env[Any, Any]):
    metadata = {"render_modes": ["rgb_array"], "render_fps": 7}  # noqa: RUF012
    observation_space = spaces.Box(0, 255, (8, 8, 3), np.uint8)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.time = 0
        return np.zeros((8, 8, 3), np.uint8), {}

    def step(self, action: Any) -> Any:
        self.time += 1
        return np.full((8, 8, 3), self.time, np.uint8), float(self.time), self.time == 4, False, {}


def test_recordings_know_the_rate_of_their_world(tmp_path: Path) -> None:
    gym.register("tests/Slow-v0", Slow)
    try:
        store = EpisodeStore(tmp_path, create=True)
        assert store.fps is None
        record(
            EnvConfig("tests/Slow-v0"),
            store,
            Uniform(2),
            episodes=2,
            num_envs=1,
            seed=0,
            processes=False,
            progress=False,
        )
    finally:
        gym.registry.pop("tests/Slow-v0")
    assert store.fps == 7
    assert {float(store.read(name).extras["fps"]) for name in store.names} == {7.0}


@pytest.mark.parametrize(("told", "fps"), [(4.0, 4.0), (20, 20), (None, 10), ("fast", 10), (True, 10), (math.inf, 10)])
def test_dreams_show_the_rate_of_the_world(tmp_path: Path, told: Any, fps: float) -> None:
    run = dream_folder(tmp_path)
    loaded = load_checkpoint(run / "model")
    save_checkpoint(run / "model", loaded.model, world={**loaded.world, "fps": told}, step=0)
    assert vec(run).metadata["render_fps"] == fps
    assert gym.make(ID, checkpoint=str(run / "model"), context_length=3).metadata["render_fps"] == fps


def test_converted_play_knows_its_rate(tmp_path: Path) -> None:
    recordings.memory_maze(tmp_path / "maze" / "a.npz")
    recordings.vpt(tmp_path / "vpt" / "a.mp4")
    write_video(tmp_path / "videos" / "a.mp4", frames_of(places()))
    for name, every, fps in (("memory-maze", 1, 4.0), ("vpt", 1, 20.0), ("vpt", 4, 5.0), ("videos", 2, 10.0)):
        options = {"every": every, "actions": "recorded"}
        folder = tmp_path / name.removeprefix("memory-")
        assert {float(episode.extras["fps"]) for episode in read(name, folder, **options)} == {fps}


# Every n-th frame


def test_an_agent_that_acts_at_every_third_frame(tmp_path: Path) -> None:
    gym.register("tests/Slow-v0", Slow)
    try:
        config = EnvConfig("tests/Slow-v0", every=3)
        env = make(config)
        env.reset(seed=0)
        frame, reward, terminated, _, _ = env.step(np.int64(1))
        assert (int(frame[0, 0, 0]), reward, terminated) == (3, 6.0, False)
        frame, reward, terminated, _, _ = env.step(np.int64(1))
        assert (int(frame[0, 0, 0]), reward, terminated) == (4, 4.0, True)  # the episode ended within the step
        store = EpisodeStore(tmp_path, create=True)
        how: dict[str, Any] = {"num_envs": 1, "seed": 0, "processes": False, "progress": False}
        record(config, store, Uniform(2), episodes=1, **how)
        with pytest.raises(InputError, match="has seed 0, recorded with every=3, not None"):
            record(EnvConfig("tests/Slow-v0"), store, Uniform(2), episodes=1, **how)
    finally:
        gym.registry.pop("tests/Slow-v0")
    assert store.fps == pytest.approx(7 / 3)
    assert store.read(store.names[0]).reward.tolist() == [0, 6, 4]
    assert "every" not in EnvConfig("x").to_dict()  # recordings of before stay what they were
    assert EnvConfig.from_dict(config.to_dict()) == config
    with pytest.raises(InputError, match=r"EnvConfig.every is 0"):
        EnvConfig("x", every=0)


def test_thinned_by_hand() -> None:
    nan = np.full((1, 2), np.nan)
    action = np.concatenate((nan, np.arange(14.0).reshape(7, 2))).astype(np.float32)
    extras = {"place": np.arange(8), "layout": np.ones((3, 3))}
    track = Track(action, np.arange(8, dtype=np.float32), np.zeros(8, bool), extras)
    thin, kept = thinned(track, 3, "x")
    assert kept.tolist() == [0, 3, 6]
    assert np.isnan(thin.action[0]).all()
    assert thin.action[1:].tolist() == [[2, 3], [8, 9]]  # means
    assert thin.reward.tolist() == [0, 6, 15]
    assert thin.extras["place"].tolist() == [0, 3, 6]
    assert thin.extras["layout"].shape == (3, 3)
    ending = Track(action, track.reward, np.arange(8) == 7, extras)
    thin, kept = thinned(ending, 3, "x")
    assert kept.tolist() == [0, 3, 6, 7]  # the end is not lost
    assert thin.terminated.tolist() == [False, False, False, True]
    assert thin.reward.tolist() == [0, 6, 15, 7]
    assert thin.action[3].tolist() == [12, 13]
    with pytest.raises(InputError, match="x has 8 frames, of which --every 9 keeps 1"):
        thinned(track, 9, "x")


def test_buttons_and_turns_of_thinned_play(tmp_path: Path) -> None:
    recordings.minerl(tmp_path / "MineRLTreechop-v0" / "a")
    (whole,) = read("minerl", tmp_path)
    (thin,) = read("minerl", tmp_path, every=3)
    steps = len(STEPS) // 3
    assert seen(thin.image).tolist() == places()[::3].tolist()
    groups = whole.action[1 : 1 + 3 * steps].reshape(steps, 3, -1)
    assert np.array_equal(thin.action[1:, :-2], groups[:, :, :-2].max(1))
    assert np.allclose(thin.action[1:, -2:], groups[:, :, -2:].sum(1))
    assert np.array_equal(thin.reward[1:], whole.reward[1 : 1 + 3 * steps].reshape(steps, 3).sum(1))
    assert thin.extras["compass.angle"].tolist() == places()[::3].tolist()
    numbered = read("minerl", tmp_path, every=3, actions="treechop")[0].action
    assert numbered.shape == (steps + 1,)
    assert numbered[1:].min() >= 0
    first, second = read("minerl", tmp_path, every=3, max_frames=4)[:2]
    assert np.array_equal(np.concatenate((first.image, second.image[1:])), thin.image[:7])
    assert [int(piece.extras["first_frame"]) for piece in (first, second)] == [0, 9]


def test_vpt_is_thinned_alike(tmp_path: Path) -> None:
    recordings.vpt(tmp_path / "a.mp4")
    (whole,), (thin,) = read("vpt", tmp_path), read("vpt", tmp_path, every=7)
    assert len(thin.image) == 3
    groups = whole.action[1:15].reshape(2, 7, -1)
    assert np.array_equal(thin.action[1:, :-2], groups[:, :, :-2].max(1))
    assert np.allclose(thin.action[1:, -2:], groups[:, :, -2:].sum(1))


def test_numbered_actions_are_not_mixed_up(tmp_path: Path) -> None:
    recordings.memory_maze(tmp_path / "mixed" / "a.npz")
    with pytest.raises(InputError, match=r"a.npz has different numbered actions before frame 2, .*--actions none"):
        read("memory-maze", tmp_path / "mixed", every=2)
    (untold,) = read("memory-maze", tmp_path / "mixed", every=2, actions="none")
    assert (untold.action == -1).all()
    recordings.memory_maze(tmp_path / "held" / "a.npz", np.repeat([0, 2, 1], 4).tolist())
    (held,) = read("memory-maze", tmp_path / "held", every=4)
    assert held.action.tolist() == [-1, 0, 2, 1]
    assert held.reward.tolist() == [0, 0, 4, 2]
    done = convert(
        FORMATS["memory-maze"], tmp_path / "mixed", tmp_path / "to", ReadOptions(16, every=2), progress=False
    )
    assert "different numbered actions" in done.broken[0].reason


def test_a_conversion_of_before_goes_on(tmp_path: Path) -> None:
    """Its journal knows nothing of options that came later; with another value of them it is another conversion."""
    recordings.memory_maze(tmp_path / "from" / "a.npz")
    told = ReadOptions(16).told()
    assert not told.keys() & {"every", "fps", "fit"}
    convert(FORMATS["memory-maze"], tmp_path / "from", tmp_path / "to", ReadOptions(16), progress=False)
    with pytest.raises(InputError, match="was converted with fit=None, not crop"):
        convert(FORMATS["memory-maze"], tmp_path / "from", tmp_path / "to", ReadOptions(16, fit="crop"), progress=False)


@pytest.mark.parametrize("options", [{"every": 0}, {"fps": 0.0}, {"fps": math.nan}, {"fit": "stretch"}], ids=str)
def test_options_that_make_no_sense(options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(options))):
        ReadOptions(**options)


# Videos


def test_frames_per_second_of_a_video(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", frames_of(places()))  # 20 a second
    assert rate_of(tmp_path / "a.mp4") == 20
    (ten,) = read("videos", tmp_path, fps=10)
    assert seen(ten.image).tolist() == places()[::2].tolist()
    (eight,) = read("videos", tmp_path, fps=8.0)
    assert seen(eight.image).tolist() == places()[[0, 3, 5, 8, 10, 13, 15, 18, 20]].tolist()
    assert float(eight.extras["fps"]) == 8
    assert seen(read("videos", tmp_path, fps=20)[0].image).tolist() == places().tolist()
    with pytest.raises(InputError, match=r"a.mp4 has 20 frames per second, less than --fps 25"):
        read("videos", tmp_path, fps=25)
    with pytest.raises(InputError, match="--fps is for videos without actions: thin 'vpt' with --every"):
        convert(FORMATS["vpt"], tmp_path, tmp_path / "to", ReadOptions(16, fps=5), progress=False)


def test_a_rate_that_varies_counts_by_time(tmp_path: Path) -> None:
    at = [0, 1, 2, 3, 10, 20, 21, 30]  # twentieths of a second
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        stream = container.add_stream("libx264", rate=20)
        stream.width = stream.height = 32
        stream.pix_fmt, stream.options = "yuv420p", {"crf": "5"}
        for place, frame in zip(at, frames_of(range(len(at))), strict=True):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            picture.pts, picture.time_base = place, Fraction(1, 20)
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    shown = [round((frame.mean() - 20) / 5) for frame in decoded(tmp_path / "a.mkv", fps=2)]
    assert shown == [0, 4, 5, 7]


def corners(frame: Any) -> list[list[int]]:
    """The colour that is strongest in each corner: 0 red, 1 green, 2 blue."""
    h, w = frame.shape[0] // 4, frame.shape[1] // 4
    return [[int(frame[y, x].argmax()) for x in (w, -w)] for y in (h, -h)]


@pytest.mark.parametrize(
    ("matrix", "turned"),
    [
        ((1, 0, 0, 1), [[0, 1], [2, 0]]),
        ((0, 1, -1, 0), [[2, 0], [0, 1]]),  # as phones held upright write it: shown turned to the right
        ((-1, 0, 0, -1), [[0, 2], [1, 0]]),
        ((0, -1, 1, 0), [[1, 0], [0, 2]]),
    ],
)
def test_a_video_is_turned_as_players_turn_it(tmp_path: Path, matrix: tuple[int, ...], turned: Any) -> None:
    colors = np.array([[(250, 0, 0), (0, 250, 0)], [(0, 0, 250), (250, 0, 0)]], np.uint8)
    frames = np.repeat(colors.repeat(32, 0).repeat(48, 1)[None], 3, 0)
    path = tmp_path / "a.mp4"
    write_video(path, frames)
    content = bytearray(path.read_bytes())
    a, b, c, d = matrix
    values = [a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30]
    struct.pack_into(">9i", content, content.index(b"tkhd") + 44, *values)
    path.write_bytes(content)
    (frame, *_) = decoded(path)
    assert frame.shape[:2] == ((64, 96) if a else (96, 64))
    assert corners(frame) == turned


def test_a_change_of_size_is_an_error(tmp_path: Path) -> None:
    parts = []
    for height in (32, 64):
        write_video(tmp_path / f"{height}.h264", frames_of(places()[:5], height, 64))
        parts.append((tmp_path / f"{height}.h264").read_bytes())
    (tmp_path / "both.h264").write_bytes(b"".join(parts))
    with pytest.raises(InputError, match=r"both.h264 changes from 32 x 64 to 64 x 64 at frame 5: split it there"):
        list(decoded(tmp_path / "both.h264"))


def test_cropping_keeps_the_middle() -> None:
    frame = np.zeros((16, 48, 3), np.uint8)
    frame[:, 16:32] = 200
    assert (shrunk(frame, 8, "x", "crop") == 200).all()
    assert not (shrunk(frame, 8, "x") == 200).all()
    tall = frame.transpose(1, 0, 2)
    assert (shrunk(tall, 16, "x", "crop") == 200).all()
    with pytest.raises(InputError, match="x has frames of 16 x 16, smaller than 17"):
        shrunk(frame, 17, "x", "crop")


def test_a_damaged_first_file_leaves_the_rate_of_the_next(tmp_path: Path) -> None:
    for name, fps in (("a", 3), ("b", 7)):
        write_episode(tmp_path, replace(episode(5), extras={"fps": np.array(fps)}), name=f"{name}.episode")
    store = EpisodeStore(tmp_path)
    (tmp_path / "a.episode").write_bytes(b"gone bad")
    assert store.fps == 7
    (tmp_path / "b.episode").unlink()
    assert store.fps is None
