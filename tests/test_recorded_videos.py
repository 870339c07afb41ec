"""Decoding, making smaller, and free-form video."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lssvwm.envs.recorded import FORMATS, ReadOptions
from lssvwm.envs.recorded.frames import decoded, shrunk
from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.episodes import NO_ACTION
from lssvwm.worldmodel.reporting.video import write_mp4
from recordings import frames_of, places, seen, write_video

QUARTERS = np.array([[(250, 20, 20), (20, 240, 20)], [(30, 30, 230), (240, 240, 30)]], np.uint8)


def test_shrinking_takes_the_mean_over_the_area() -> None:
    random = np.random.default_rng(0)
    frame = random.integers(0, 256, (24, 48, 3), dtype=np.uint8)
    mean = frame.reshape(8, 3, 8, 6, 3).mean(axis=(1, 3))
    assert np.abs(shrunk(frame, 8, "x").astype(float) - mean).max() < 1
    assert (shrunk(frame[:8, :8], 8, "x") == frame[:8, :8]).all()
    with pytest.raises(InputError, match="clip has frames of 24 x 48, smaller than 32"):
        shrunk(frame, 32, "clip")


def test_frames_are_upright_and_in_colour(tmp_path: Path) -> None:
    frames = np.repeat(QUARTERS.repeat(40, 0).repeat(64, 1)[None], 3, 0)
    write_mp4(tmp_path / "a.mp4", frames, 20)
    image = next(FORMATS["videos"].read(FORMATS["videos"].find(tmp_path)[0], ReadOptions(size=2))).image
    assert np.abs(image.astype(int) - QUARTERS.astype(int)).max() < 8


def test_videos_without_actions(tmp_path: Path) -> None:
    write_video(tmp_path / "b" / "x.mkv", frames_of(places()))
    write_video(tmp_path / "a.MP4", frames_of(places()))
    (tmp_path / "readme.txt").write_text("nothing to see")
    videos = FORMATS["videos"]
    assert [source.name for source in videos.find(tmp_path)] == ["a.MP4", "b/x.mkv"]
    pieces = list(videos.read(videos.find(tmp_path)[0], ReadOptions(size=16, max_frames=8)))
    assert [len(piece.image) for piece in pieces] == [8, 8, 7]
    assert all((piece.action == NO_ACTION).all() and not piece.reward.any() for piece in pieces)
    assert seen(pieces[1].image).tolist() == places()[7:15].tolist()


def test_only_what_is_asked_for_is_decoded(tmp_path: Path) -> None:
    """Streaming: the first piece of a long video comes without the rest, which here cannot be decoded."""
    path = tmp_path / "a.mp4"
    noise = np.random.default_rng(0).integers(0, 256, (120, 64, 64, 3), dtype=np.uint8)
    write_video(path, noise)
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 20_000] = bytes(20_000)
    path.write_bytes(data)
    videos = FORMATS["videos"]
    pieces = videos.read(videos.find(tmp_path)[0], ReadOptions(size=16, max_frames=10))
    assert len(next(pieces).image) == 10
    with pytest.raises(InputError, match=r"a\.mp4"):
        list(pieces)


def test_damaged_videos_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    frames = np.random.default_rng(0).integers(0, 256, (60, 64, 64, 3), dtype=np.uint8)
    write_mp4(path, frames, 20)
    whole = path.read_bytes()
    assert len(list(decoded(path, whole=True))) == 60
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"a\.mp4.*(cut off|cannot be decoded)"):
        list(decoded(path, whole=True))
    path.write_bytes(b"no video at all" * 100)
    with pytest.raises(InputError, match=r"a\.mp4 cannot be decoded after 0 frames"):
        list(decoded(path))
    with pytest.raises(InputError, match=r"missing\.mp4 cannot be decoded"):
        list(decoded(tmp_path / "missing.mp4"))


def test_a_video_of_one_frame_is_no_episode(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", frames_of([0]))
    videos = FORMATS["videos"]
    with pytest.raises(InputError, match=r"a\.mp4 has 1 frames"):
        list(videos.read(videos.find(tmp_path)[0], ReadOptions(size=16)))


def test_without_the_package_it_says_what_to_install(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", frames_of(places()))
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "av.py").write_text("raise ModuleNotFoundError(\"No module named 'av'\", name='av')")
    words = ["-m", "lssvwm.envs.recorded", "videos", tmp_path, "--to", tmp_path / "out", "--no-progress"]
    paths = os.pathsep.join(filter(None, (str(tmp_path / "lib"), os.environ.get("PYTHONPATH"))))
    env = {**os.environ, "PYTHONPATH": paths}
    run = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False, env=env)
    assert run.returncode == 2
    assert run.stderr.startswith("error: ")
    assert run.stderr.count("\n") == 1
    assert "recorded videos need the package 'av'" in run.stderr
    assert "pip install 'lssvwm[video]'" in run.stderr
