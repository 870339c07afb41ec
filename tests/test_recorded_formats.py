"""Every published format: what led to which frame, in files whose frames show it."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import recordings
from lssvwm.envs.minecraft.actions import BUTTONS, action_set
from lssvwm.envs.recorded import FORMATS, ReadOptions
from lssvwm.envs.recorded.formats.minerl_actions import VECTOR
from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.episodes import NO_ACTION, Episode
from lssvwm.worldmodel.episodes.data import check_episode
from recordings import STEPS, frames_of, places, seen, vpt_line

SMALL = ReadOptions(size=16)
FORWARD, ATTACK, YAW = VECTOR.index("forward"), VECTOR.index("attack"), VECTOR.index("yaw")
TREECHOP = action_set("treechop")
AS_TREECHOP = [TREECHOP.index(name) for name in ("noop", "forward", "right")]
"""The nearest of `treechop` for the world's three actions: of attack with a turn of 15 degrees, the turn."""


def read(name: str, folder: Path, options: ReadOptions = SMALL) -> list[Episode]:
    """All episodes of all recordings, each checked as the store checks them."""
    found = FORMATS[name].find(folder)
    episodes = [episode for source in found for episode in FORMATS[name].read(source, options)]
    for episode in episodes:
        check_episode(episode, name)
    return episodes


def one(name: str, folder: Path, options: ReadOptions = SMALL) -> Episode:
    (episode,) = read(name, folder, options)
    return episode


def fails(name: str, folder: Path, match: str, options: ReadOptions = SMALL) -> None:
    with pytest.raises(InputError, match=match):
        read(name, folder, options)


def make(name: str, folder: Path) -> None:
    """The world in format `name`."""
    makers: dict[str, Callable[[], None]] = {
        "memory-maze": lambda: recordings.memory_maze(folder / "a.npz"),
        "teco-dmlab": lambda: recordings.teco_dmlab(folder / "train" / "0" / "a.npz"),
        "teco-minecraft": lambda: recordings.teco_minecraft(folder / "train" / "0" / "a.mp4"),
        "minerl": lambda: recordings.minerl(folder / "MineRLTreechop-v0" / "v3_some_one-1"),
        "vpt": lambda: recordings.vpt(folder / "7.0" / "some-one.mp4"),
    }
    makers[name]()


NUMBERED = ("memory-maze", "teco-dmlab", "teco-minecraft")
PLAYED = ("minerl", "vpt")


def moves(episode: Episode) -> list[int]:
    """What the frames say was done between them."""
    return np.diff(seen(episode.image)).tolist()


def done(episode: Episode) -> list[int]:
    """The world's actions as the episode has them, those of frames 1 to T."""
    taken = episode.action[1:]
    if taken.ndim == 1:
        return taken.tolist()
    return [2 if row[ATTACK] else int(row[FORWARD]) for row in taken]


@pytest.mark.parametrize("name", [*NUMBERED, *PLAYED])
def test_an_action_stands_beside_the_frame_it_led_to(name: str, tmp_path: Path) -> None:
    make(name, tmp_path)
    episode = one(name, tmp_path)
    assert episode.image.shape == (len(STEPS) + 1, 16, 16, 3)
    assert done(episode) == moves(episode) == list(STEPS)
    assert episode.truncated[-1]
    assert not episode.terminated.any()


@pytest.mark.parametrize("name", [*NUMBERED, *PLAYED])
def test_pieces_lose_no_step_and_repeat_none(name: str, tmp_path: Path) -> None:
    make(name, tmp_path)
    pieces = read(name, tmp_path, ReadOptions(size=16, max_frames=8))
    assert [len(piece.image) for piece in pieces] == [8, 8, 7]
    assert [int(piece.extras["first_frame"]) for piece in pieces] == [0, 7, 14]
    assert [action for piece in pieces for action in done(piece)] == list(STEPS)
    for before, after in pairwise(pieces):
        assert (before.image[-1] == after.image[0]).all()
    assert [moves(piece) for piece in pieces] == [done(piece) for piece in pieces]
    assert all(piece.truncated[-1] for piece in pieces)


def test_a_piece_that_ends_with_the_recording_is_the_last(tmp_path: Path) -> None:
    make("teco-dmlab", tmp_path)
    frames = len(STEPS) + 1
    assert [len(p.image) for p in read("teco-dmlab", tmp_path, ReadOptions(size=16, max_frames=frames))] == [frames]
    assert [len(p.image) for p in read("teco-dmlab", tmp_path, ReadOptions(size=16, max_frames=11))] == [11, 11]


@pytest.mark.parametrize("name", [*NUMBERED, *PLAYED])
def test_actions_can_be_left_out(name: str, tmp_path: Path) -> None:
    make(name, tmp_path)
    episode = one(name, tmp_path, ReadOptions(size=16, actions="none"))
    assert (episode.action == NO_ACTION).all()
    assert moves(episode) == list(STEPS)


@pytest.mark.parametrize("name", PLAYED)
def test_played_actions_become_the_nearest_of_a_set(name: str, tmp_path: Path) -> None:
    make(name, tmp_path)
    episode = one(name, tmp_path, ReadOptions(size=16, actions="treechop"))
    assert episode.action[1:].tolist() == [AS_TREECHOP[action] for action in STEPS]


@pytest.mark.parametrize("name", PLAYED)
def test_vectors_hold_every_button_and_the_camera(name: str, tmp_path: Path) -> None:
    make(name, tmp_path)
    action = one(name, tmp_path).action
    assert action.shape == (len(STEPS) + 1, len(BUTTONS) + 2)
    assert action.dtype == np.float32
    assert np.isnan(action[0]).all()
    assert action[1:, YAW].tolist() == [15.0 if step == 2 else 0.0 for step in STEPS]
    others = np.delete(action[1:], [FORWARD, ATTACK, YAW], axis=1)
    assert not others.any()


def test_memory_maze_keeps_rewards_and_extras(tmp_path: Path) -> None:
    make("memory-maze", tmp_path)
    episode = one("memory-maze", tmp_path)
    assert (episode.reward[1:] * 2).tolist() == list(STEPS)
    assert episode.extras["agent_pos"][:, 0].tolist() == places().tolist()
    assert episode.extras["maze_layout"].shape == (len(STEPS) + 1, 9, 9)
    assert str(episode.extras["source"]) == "a.npz"
    second = read("memory-maze", tmp_path, ReadOptions(size=16, max_frames=8))[1]
    assert second.extras["agent_pos"][:, 0].tolist() == places()[7:15].tolist()
    assert second.reward[0] == 0
    assert (second.reward[1:] * 2).tolist() == list(STEPS[7:14])


def test_minerl_skips_what_the_video_shows_before_the_stream(tmp_path: Path) -> None:
    recordings.minerl(tmp_path / "a", ahead=0)
    recordings.minerl(tmp_path / "b", ahead=7)
    without, with_more = read("minerl", tmp_path)
    assert seen(without.image).tolist() == seen(with_more.image).tolist() == places().tolist()


def test_minerl_keeps_rewards_observations_and_choices(tmp_path: Path) -> None:
    make("minerl", tmp_path)
    episode = one("minerl", tmp_path)
    assert episode.reward.tolist() == [0, *STEPS]
    assert episode.extras["compass.angle"].tolist() == places().tolist()
    assert episode.extras["inventory.dirt"].tolist() == (100 - places()).tolist()
    assert episode.extras["action.place"].tolist() == ["", *("dirt" if step == 2 else "none" for step in STEPS)]


def test_minerl_ends_of_itself_where_the_task_was_done(tmp_path: Path) -> None:
    recordings.minerl(tmp_path / "a", success=True)
    first, *_, last = read("minerl", tmp_path, ReadOptions(size=16, max_frames=8))
    assert last.terminated[-1]
    assert not last.truncated.any()
    assert first.truncated[-1]
    assert not first.terminated.any()


def test_minerl_reads_obfuscated_actions_as_they_are(tmp_path: Path) -> None:
    make("minerl", tmp_path)
    (rendered,) = tmp_path.rglob("rendered.npz")
    vectors = np.stack([np.full(64, step / 10) for step in STEPS])
    recordings.write_npz(rendered, **{"reward": np.zeros(len(STEPS)), "action$vector": vectors})
    assert one("minerl", tmp_path).action[1:] == pytest.approx(vectors)
    fails("minerl", tmp_path, "obfuscated.*leave out --actions vpt", ReadOptions(size=16, actions="vpt"))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda a: a.pop("reward"), "has no reward"),
        (lambda a: a.pop("action$camera"), r"no action\$camera"),
        (lambda a: a.update({"action$jump": a["action$jump"][:-1]}), r"'action\$jump' has shape \(19,\), but 20"),
        (lambda a: a.update({"action$jump": a["action$jump"] + 2}), r"action\$jump must be 0 or 1"),
        (lambda a: a.update({"observation$compass$angle": np.zeros(3)}), r"compass\$angle' has shape \(3,\), but 21"),
        (lambda a: a.update({"action$place": np.array(["none", 1] * 10, object)}), r"'action\$place' cannot.*Object"),
        (lambda a: [a.update({key: np.append(v, v[:1], 0)}) for key, v in a.items()], "21 frames, but .* 21 steps"),
    ],
)
def test_minerl_arrays_that_do_not_fit(tmp_path: Path, change: Callable[[dict[str, Any]], Any], match: str) -> None:
    recordings.minerl(tmp_path, ahead=0)
    with np.load(tmp_path / "rendered.npz") as archive:
        arrays = dict(archive)
    change(arrays)
    recordings.write_npz(tmp_path / "rendered.npz", **arrays)
    fails("minerl", tmp_path, match)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("{", "is no JSON"),
        ('{"success": true}', "has no 'true_video_frame_count'"),
        ('{"success": true, "true_video_frame_count": 40}', "recorded for 21"),
        (None, "metadata.json is missing"),
    ],
)
def test_minerl_metadata_that_does_not_fit(tmp_path: Path, text: str | None, match: str) -> None:
    recordings.minerl(tmp_path)
    (tmp_path / "metadata.json").unlink()
    if text is not None:
        (tmp_path / "metadata.json").write_text(text)
    fails("minerl", tmp_path, match)


@pytest.mark.parametrize("missing", ["recording.mp4", "rendered.npz"])
def test_minerl_names_a_missing_file(tmp_path: Path, missing: str) -> None:
    recordings.minerl(tmp_path)
    (tmp_path / missing).unlink()
    fails("minerl", tmp_path, missing)


def test_teco_names_what_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    video = frames_of(places())
    recordings.write_npz(path, video=video, actions=np.array(STEPS))
    fails("teco-dmlab", tmp_path, r"\(20,\), but 21 frames")
    recordings.write_npz(path, video=video.astype(np.float32), actions=np.array([0, *STEPS]))
    fails("teco-dmlab", tmp_path, "'video' must be uint8")
    recordings.write_npz(path, video=video, actions=np.array([0, *STEPS], object))
    fails("teco-dmlab", tmp_path, "'actions' cannot be read.*Object arrays")
    recordings.write_npz(path, video=video)
    fails("teco-dmlab", tmp_path, "has no actions, only video")
    path.write_bytes(path.read_bytes()[:-100])
    fails("teco-dmlab", tmp_path, "a.npz cannot be read")


@pytest.mark.parametrize("change", [1, -1])
def test_a_video_and_actions_of_different_length(tmp_path: Path, change: int) -> None:
    make("teco-minecraft", tmp_path)
    (path,) = tmp_path.rglob("*.npz")
    recordings.write_npz(path, actions=np.zeros(len(STEPS) + 1 + change, np.int32))
    fails("teco-minecraft", tmp_path, "21 frames.*recorded for 22" if change > 0 else "more frames than the 20")
    path.unlink()
    fails("teco-minecraft", tmp_path, r"a\.npz cannot be read")


def vpt_actions(folder: Path, lines: list[dict[str, Any]], options: ReadOptions = SMALL) -> dict[str, list[float]]:
    """What is pressed on the way to frames 1, 2, ..., of every button and angle that is ever used."""
    recordings.vpt(folder / "a.mp4", lines, frames_of(np.zeros(len(lines), np.int64), 180, 320))
    action = one("vpt", folder, options).action
    return {name: column.tolist() for name, column in zip(VECTOR, action[1:].T, strict=True) if column.any()}


def test_vpt_camera_keeps_fractions_of_a_degree(tmp_path: Path) -> None:
    lines = [vpt_line(mouse={"dx": 1.0, "dy": -3.0}), vpt_line(mouse={"dx": -2.5}), vpt_line()]
    assert vpt_actions(tmp_path, lines) == {
        "yaw": pytest.approx([0.15, -0.375]),
        "pitch": pytest.approx([-0.45, 0.0]),
    }


def test_vpt_attack_that_was_stuck_from_the_beginning_is_left_out(tmp_path: Path) -> None:
    held = {"buttons": [0], "newButtons": []}
    fresh = {"buttons": [0], "newButtons": [0]}
    lines = [vpt_line(mouse=mouse) for mouse in (fresh, held, held, fresh, held, held)]
    assert vpt_actions(tmp_path, lines) == {"attack": [0, 0, 0, 1, 1]}
    lines = [vpt_line(mouse=mouse) for mouse in (held, held, fresh, held)]
    assert vpt_actions(tmp_path, lines) == {"attack": [1, 1, 1]}


def test_vpt_scroll_wheel_presses_the_slot(tmp_path: Path) -> None:
    lines = [vpt_line(hotbar=slot) for slot in (4, 4, 6, 6, 0, 0)]
    assert vpt_actions(tmp_path, lines) == {"hotbar.7": [0, 0, 1, 0, 0], "hotbar.1": [0, 0, 0, 0, 1]}


def test_vpt_keys_and_mouse_buttons(tmp_path: Path) -> None:
    keys = ["w", "s", "a", "d", "q", "e", "f", "space", "left.shift", "left.control", "escape", "3", "f5"]
    pressed = {"keys": [f"key.keyboard.{key}" for key in keys], "newKeys": [], "chars": ""}
    lines = [vpt_line(keyboard=pressed, mouse={"buttons": [1, 2, 3]}), vpt_line()]
    names = {"forward", "back", "left", "right", "drop", "inventory", "swapHands", "jump", "sneak", "sprint", "ESC"}
    assert vpt_actions(tmp_path, lines) == {name: [1.0] for name in names | {"hotbar.3", "use", "pickItem"}}


def test_vpt_mouse_in_menus_of_old_recorders(tmp_path: Path) -> None:
    lines = [vpt_line(mouse={"dx": 10.0}, isGuiOpen=gui) for gui in (False, True, True)]
    assert vpt_actions(tmp_path / "6.9", lines) == {"yaw": pytest.approx([1.5, 3.0])}
    assert vpt_actions(tmp_path / "9.1", lines) == {"yaw": pytest.approx([1.5, 1.5])}


def test_vpt_null_actions_can_be_left_out(tmp_path: Path) -> None:
    make("vpt", tmp_path)
    kept = [step for step in STEPS if step]  # the last line does nothing, and so its frame goes
    episode = one("vpt", tmp_path, ReadOptions(size=16, drop_null=True))
    assert done(episode) == kept[:-1]
    assert moves(episode) == kept[:-1]
    lines = [vpt_line() for _ in range(4)]
    recordings.vpt(next(tmp_path.rglob("*.mp4")), lines, frames_of(np.zeros(4, np.int64), 180, 320))
    fails("vpt", tmp_path, "something is done in less than 2", ReadOptions(size=16, drop_null=True))


def test_vpt_draws_the_cursor_while_a_menu_is_open(tmp_path: Path) -> None:
    lines = [vpt_line(isGuiOpen=gui, mouse={"x": 300.0, "y": 500.0}) for gui in (False, True, True)]
    recordings.vpt(tmp_path / "a.mp4", lines, np.full((3, 360, 640, 3), 128, np.uint8))
    episode = one("vpt", tmp_path, ReadOptions(size=360))
    assert episode.extras["gui"].tolist() == [False, True, True]
    assert np.ptp(episode.image[0].astype(int)) < 10
    rows, columns = np.nonzero(np.abs(episode.image[1].mean(axis=2) - 128) > 20)
    assert (rows.min(), rows.max()) == (250, 250 + 15)  # the frame is 360 rows of a window of 720 ...
    assert (columns.min(), columns.max()) == (84, 89)  # ... and squeezed from 640 columns to 360
    assert (episode.image[1] > 200).any()
    plain = one("vpt", tmp_path, ReadOptions(size=360, cursor=False))
    assert np.ptp(plain.image[1].astype(int)) < 10


def test_vpt_cursor_at_the_edge(tmp_path: Path) -> None:
    at = [(1279.0, 719.0), (-5.0, 2000.0)]
    lines = [vpt_line(isGuiOpen=True, mouse={"x": x, "y": y}) for x, y in at]
    recordings.vpt(tmp_path / "a.mp4", lines, np.full((2, 180, 320, 3), 128, np.uint8))
    corner, outside = one("vpt", tmp_path, ReadOptions(size=180)).image
    assert corner[-1, -1].max() < 110
    assert np.ptp(outside.astype(int)) < 10


def test_vpt_says_where_the_player_stood(tmp_path: Path) -> None:
    make("vpt", tmp_path)
    episode = one("vpt", tmp_path)
    assert episode.extras["agent_pos"].tolist() == [[x, 64.0, -2.0 * x] for x in places()]
    assert episode.extras["agent_dir"][0] == pytest.approx([-1.0, 0.0, 0.0])  # yaw 90 looks west


def test_vpt_without_positions_as_in_basalt(tmp_path: Path) -> None:
    kept = ("mouse", "keyboard", "isGuiOpen", "hotbar")
    lines = [{key: vpt_line(1)[key] for key in kept} for _ in range(5)]
    assert vpt_actions(tmp_path, lines) == {"forward": [1.0] * 4}
    assert set(one("vpt", tmp_path).extras) == {"gui", "fps", "source", "first_frame"}


@pytest.mark.parametrize(
    ("line", "match"),
    [
        ({key: value for key, value in vpt_line().items() if key != "hotbar"}, "line 3 has no 'hotbar'"),
        ({key: value for key, value in vpt_line().items() if key != "mouse"}, "line 3 has no 'mouse'"),
        ({key: value for key, value in vpt_line().items() if key != "xpos"}, "line 3 has no 'xpos'"),
        ({**vpt_line(), "mouse": None}, "line 3 has a field of another kind"),
        ({**vpt_line(), "mouse": {**vpt_line()["mouse"], "dx": "far"}}, "line 3 has a field of another kind"),
    ],
)
def test_vpt_names_the_line_and_the_field(tmp_path: Path, line: dict[str, Any], match: str) -> None:
    lines = [vpt_line(), vpt_line(), line, vpt_line()]
    recordings.vpt(tmp_path / "a.mp4", lines, frames_of(np.zeros(4, np.int64), 180, 320))
    fails("vpt", tmp_path, match)


def test_vpt_files_that_do_not_belong_together(tmp_path: Path) -> None:
    make("vpt", tmp_path)
    (path,) = tmp_path.rglob("*.jsonl")
    text = path.read_text().splitlines()
    path.write_text("\n".join(text[:-1]))
    fails("vpt", tmp_path, "more frames than the 20 lines")
    path.write_text("\n".join([*text, text[-1]]))
    fails("vpt", tmp_path, "has 21 frames, but its .jsonl 22 lines")
    path.write_text("\n".join(text)[:-30])
    fails("vpt", tmp_path, "line 21 is no JSON")
    path.unlink()
    fails("vpt", tmp_path, "jsonl is missing")
    path.write_text("\n".join(text))
    path.with_suffix(".mp4").unlink()
    fails("vpt", tmp_path, "cannot be decoded after 0 frames")


def test_other_files_beside_recordings_are_left_alone(tmp_path: Path) -> None:
    make("vpt", tmp_path)
    (tmp_path / "7.0" / "some-one-options.json").write_text(json.dumps({}))
    (tmp_path / "7.0" / "some-one.zip").write_bytes(b"a world")
    assert [source.name for source in FORMATS["vpt"].find(tmp_path)] == ["7.0/some-one.mp4"]
