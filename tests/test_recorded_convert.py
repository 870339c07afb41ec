"""Whole folders: every recording once and whole, whatever is broken or interrupted."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

import recordings
from lssvwm.envs.recorded import FORMATS, Broken, ReadOptions, Source, Summary, convert, recording
from lssvwm.envs.recorded.__main__ import INTERRUPTED, main
from lssvwm.envs.recorded.journal import JOURNAL, opened
from lssvwm.envs.recorded.segments import Track, cut, led_here
from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.episodes import Episode, EpisodeStore
from recordings import STEPS, frames_of, places, seen
from runs import start

DMLAB = FORMATS["teco-dmlab"]
SMALL = ReadOptions(size=16)
FRAMES = len(STEPS) + 1


@pytest.fixture
def three(tmp_path: Path) -> Path:
    """A folder of three recordings: two of them in files whose names differ in what no file name may hold."""
    for name in ("train/0.npz", "train_0.npz", "z.npz"):
        recordings.teco_dmlab(tmp_path / "from" / name)
    return tmp_path / "from"


def sources(store: Path) -> list[str]:
    """The source of every episode."""
    episodes = EpisodeStore(store)
    return sorted(str(episodes.read(name).extras["source"]) for name in episodes.names)


def contents(store: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in store.iterdir()}


def test_every_recording_becomes_episodes(three: Path, tmp_path: Path) -> None:
    summary = convert(DMLAB, three, tmp_path / "to", SMALL, progress=False)
    assert summary == Summary(3, 0, 3, (), 3, 3 * FRAMES, summary.seconds)
    assert sources(tmp_path / "to") == ["train/0.npz", "train_0.npz", "z.npz"]
    store = EpisodeStore(tmp_path / "to")
    assert store.image_shape == (16, 16)
    assert store.max_action == 2
    assert "3 recordings: 3 converted, 0 done before, 0 skipped\n3 episodes with 63 frames" in str(summary)


def test_done_recordings_are_left_as_they_are(three: Path, tmp_path: Path) -> None:
    store = tmp_path / "to"
    convert(DMLAB, three, store, SMALL, limit=2, progress=False)
    before = contents(store)
    assert len(sources(store)) == 2
    summary = convert(DMLAB, three, store, SMALL, progress=False)
    assert (summary.before, summary.converted, summary.episodes) == (2, 1, 1)
    after = contents(store)
    assert {name: after[name] for name in before if name != JOURNAL} == {
        name: data for name, data in before.items() if name != JOURNAL
    }
    again = convert(DMLAB, three, store, SMALL, progress=False)
    assert (again.before, again.converted, again.frames) == (3, 0, 0)
    assert contents(store) == after


def test_broken_recordings_are_named_and_skipped(three: Path, tmp_path: Path) -> None:
    store, broken = tmp_path / "to", three / "train_0.npz"
    whole = broken.read_bytes()
    broken.write_bytes(whole[: len(whole) // 2])
    recordings.write_npz(three / "short.npz", video=frames_of(places()), actions=np.array(STEPS))
    summary = convert(DMLAB, three, store, SMALL, progress=False)
    assert [one.source for one in summary.broken] == ["short.npz", "train_0.npz"]
    assert "21 frames" in summary.broken[0].reason
    assert "train_0.npz cannot be read" in summary.broken[1].reason
    assert f"  skipped {summary.broken[1].source}: {summary.broken[1].reason}" in str(summary)
    assert sources(store) == ["train/0.npz", "z.npz"]
    broken.write_bytes(whole)
    summary = convert(DMLAB, three, store, SMALL, progress=False)
    assert (summary.before, summary.converted, len(summary.broken)) == (2, 1, 1)
    assert sources(store) == ["train/0.npz", "train_0.npz", "z.npz"]


def test_nothing_of_a_recording_that_breaks_off_stays(tmp_path: Path) -> None:
    recordings.teco_minecraft(tmp_path / "from" / "a.mp4")
    recordings.write_npz(tmp_path / "from" / "a.npz", actions=np.zeros(FRAMES + 5, np.int32))
    pieces = FORMATS["teco-minecraft"].read(
        FORMATS["teco-minecraft"].find(tmp_path / "from")[0], ReadOptions(size=16, max_frames=5)
    )
    assert len(next(pieces).image) == 5  # what comes first is whole; the end of the video tells
    options = ReadOptions(size=16, max_frames=5)
    summary = convert(FORMATS["teco-minecraft"], tmp_path / "from", tmp_path / "to", options, progress=False)
    assert (len(summary.broken), summary.episodes) == (1, 0)
    assert [path.name for path in (tmp_path / "to").iterdir()] == [JOURNAL]


def test_strict_stops_at_the_first_broken_one(three: Path, tmp_path: Path) -> None:
    (three / "train_0.npz").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"train_0\.npz cannot be read"):
        convert(DMLAB, three, tmp_path / "to", SMALL, strict=True, progress=False)
    assert sources(tmp_path / "to") == ["train/0.npz"]


def pressed() -> None:
    """Ctrl-C in the process that converts, while the one that reads is at work."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    assert parent.pid is not None
    os.kill(parent.pid, signal.SIGINT)
    time.sleep(60)


@dataclass
class Interrupted:
    """Reads as DMLab's, but somebody presses Ctrl-C in the middle of the second recording."""

    name: str = "teco-dmlab"
    files: str = "*.npz"
    minecraft: bool = False
    reads: list[str] = field(default_factory=list)

    def find(self, folder: Path) -> list[Source]:
        return DMLAB.find(folder)

    def read(self, source: Source, options: ReadOptions) -> Iterator[Episode]:
        self.reads.append(source.name)
        for piece in DMLAB.read(source, options):
            yield piece
            if len(self.reads) == 2:
                pressed()


def test_an_interruption_loses_one_recording(three: Path, tmp_path: Path) -> None:
    options, store, interrupted = ReadOptions(size=16, max_frames=8), tmp_path / "to", Interrupted()
    with pytest.raises(KeyboardInterrupt):
        convert(interrupted, three, store, options, progress=False)
    assert sources(store) == ["train/0.npz"] * 3
    summary = convert(DMLAB, three, store, options, progress=False)
    assert (summary.before, summary.converted, summary.episodes) == (1, 2, 6)
    assert sources(store) == ["train/0.npz"] * 3 + ["train_0.npz"] * 3 + ["z.npz"] * 3


def test_ctrl_c_while_the_process_that_reads_begins_is_told_in_a_line(three: Path, tmp_path: Path) -> None:
    process = start("-c", BEGINS, str(three), str(tmp_path / "to"))
    _, errors = process.communicate(timeout=120)
    assert (process.returncode, errors.count("\n")) == (130, 1), errors
    assert INTERRUPTED in errors


BEGINS = """
import os, signal, sys, threading
from lssvwm.envs.recorded.__main__ import INTERRUPTED, main
from lssvwm.worldmodel.common.command_line import run_main
sys.argv = ["convert", "teco-dmlab", sys.argv[1], "--to", sys.argv[2], "--size", "16", "--no-progress"]
os.setpgid(0, 0)  # as a shell does, and Ctrl-C goes to all of a group
threading.Timer(0.3, os.killpg, (0, signal.SIGINT)).start()
run_main(main, INTERRUPTED)
"""


def test_a_killed_conversion_goes_on(tmp_path: Path) -> None:
    folder, store = tmp_path / "from", tmp_path / "to"
    for i in range(12):
        recordings.write_video(folder / f"{i:02d}.mp4", frames_of(np.arange(40) % 40, 64, 64))
    command = (
        "-m",
        "lssvwm.envs.recorded",
        "videos",
        str(folder),
        "--to",
        str(store),
        "--size",
        "32",
        "--max-frames",
        "10",
    )
    process = start(*command, "--no-progress")
    journal = store / JOURNAL
    while process.poll() is None and (not journal.exists() or journal.read_bytes().count(b"\n") < 4):
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL, errors
    options = ReadOptions(size=32, max_frames=10)
    summary = convert(FORMATS["videos"], folder, store, options, progress=False)
    assert 3 <= summary.before < 12
    assert summary.before + summary.converted == 12
    assert sources(store) == [f"{i:02d}.mp4" for i in range(12) for _ in range(5)]
    shown = EpisodeStore(store)
    assert seen(shown.read(shown.names[1]).image).tolist() == list(range(9, 19))


def test_half_a_line_of_the_journal_is_not_believed(three: Path, tmp_path: Path) -> None:
    store = tmp_path / "to"
    convert(DMLAB, three, store, SMALL, progress=False)
    journal = store / JOURNAL
    whole = journal.read_bytes()
    journal.write_bytes(whole[:-10])
    summary = convert(DMLAB, three, store, SMALL, progress=False)
    assert (summary.before, summary.converted) == (2, 1)
    assert journal.read_bytes() == whole
    assert len(sources(store)) == 3
    journal.write_bytes(b"{\n" + whole)
    with pytest.raises(InputError, match="is damaged"):
        convert(DMLAB, three, store, SMALL, progress=False)


def test_a_folder_of_episodes_has_one_origin(three: Path, tmp_path: Path) -> None:
    store = tmp_path / "to"
    convert(DMLAB, three, store, SMALL, progress=False)
    with pytest.raises(InputError, match="was converted with size=16, not 8"):
        convert(DMLAB, three, store, replace(SMALL, size=8), progress=False)
    with pytest.raises(InputError, match="was converted with format=teco-dmlab, not memory-maze"):
        convert(FORMATS["memory-maze"], three, store, SMALL, progress=False)
    other = tmp_path / "other"
    recordings.teco_dmlab(other / "z.npz")
    with pytest.raises(InputError, match="was converted with from="):
        convert(DMLAB, other, store, SMALL, progress=False)
    (store / JOURNAL).unlink()
    with pytest.raises(InputError, match="holds episodes that were not converted"):
        convert(DMLAB, three, store, SMALL, progress=False)


def test_one_conversion_at_a_time(three: Path, tmp_path: Path) -> None:
    with opened(tmp_path / "to", {"format": "any"}), pytest.raises(InputError, match="another process converts"):
        convert(DMLAB, three, tmp_path / "to", SMALL, progress=False)


@dataclass
class Mixed(Interrupted):
    """The last recording has actions of two numbers."""

    def read(self, source: Source, options: ReadOptions) -> Iterator[Episode]:
        if source.name != "z.npz":
            yield from DMLAB.read(source, options)
        else:
            actions = led_here(np.ones((len(STEPS), 2)))
            track = Track(actions, np.zeros(FRAMES, np.float32), np.zeros(FRAMES, np.bool_))
            yield from cut(frames_of(places()), track, source.name, options)


def test_recordings_with_other_actions_are_not_mixed(three: Path, tmp_path: Path) -> None:
    summary = convert(Mixed(), three, tmp_path / "to", SMALL, progress=False)
    assert [one.source for one in summary.broken] == ["z.npz"]
    assert "actions of 2 numbers" in summary.broken[0].reason
    assert sources(tmp_path / "to") == ["train/0.npz", "train_0.npz"]


def test_what_cannot_be_converted(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="empty holds nothing of the format 'teco-dmlab', which is"):
        convert(DMLAB, tmp_path / "empty", tmp_path / "to", SMALL)
    with pytest.raises(InputError, match="missing does not exist"):
        convert(DMLAB, tmp_path / "missing", tmp_path / "to", SMALL)
    with pytest.raises(InputError, match="has actions of its own: leave out --actions vpt"):
        convert(DMLAB, tmp_path / "empty", tmp_path / "to", ReadOptions(actions="vpt"))
    with pytest.raises(InputError, match="limit is 0"):
        convert(DMLAB, tmp_path / "empty", tmp_path / "to", SMALL, limit=0)
    with pytest.raises(InputError, match="no format 'atari': choose one of memory-maze, teco-dmlab"):
        recording("atari")
    for wrong in ({"size": 0}, {"max_frames": 1}, {"actions": "all"}):
        with pytest.raises(InputError, match=next(iter(wrong))):
            ReadOptions(**wrong)  # type: ignore[arg-type]
    assert not (tmp_path / "to").exists()


def run(monkeypatch: pytest.MonkeyPatch, *args: object) -> int:
    monkeypatch.setattr(sys, "argv", ["lssvwm.envs.recorded", *map(str, args), "--no-progress"])
    return main()


def test_command_tells_skipped_recordings_by_its_status(
    three: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ("teco-dmlab", three, "--to", tmp_path / "to", "--size", 16)
    assert run(monkeypatch, *command) == 0
    assert "3 converted, 0 done before, 0 skipped" in capsys.readouterr().out
    (three / "a.npz").write_bytes(b"nothing")
    assert run(monkeypatch, *command) == 3
    assert "skipped a.npz: " in capsys.readouterr().out
    with pytest.raises(InputError, match=r"a\.npz"):
        run(monkeypatch, *command, "--strict")


def test_command_names_every_format(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["lssvwm.envs.recorded", "--help"])
    with pytest.raises(SystemExit):
        main()
    usage = capsys.readouterr().out
    assert all(name in usage for name in FORMATS)


def test_broken_is_told_apart_by_name() -> None:
    summary = Summary(2, 0, 1, (Broken("a.mp4", "it is cut off"),), 1, 10, 0.0)
    assert str(summary).splitlines()[-1] == "  skipped a.mp4: it is cut off"


def test_what_a_file_says_in_lines_is_told_in_one(tmp_path: Path) -> None:
    recordings.write_npz(tmp_path / "from" / "a.npz", **{"a\nb": np.zeros(2)})
    options = ReadOptions(size=16)
    (broken,) = convert(FORMATS["teco-dmlab"], tmp_path / "from", tmp_path / "to", options, progress=False).broken
    assert broken.reason == f"{tmp_path / 'from' / 'a.npz'} has no actions, video, only a b: another format?"
    with pytest.raises(InputError, match=r"only a b: another"):
        convert(FORMATS["teco-dmlab"], tmp_path / "from", tmp_path / "to", options, strict=True, progress=False)
