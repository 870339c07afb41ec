"""What the memory benchmark of Minetest asks for, and the section that it makes of its runs."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from benchmarks.minetest_memory.judging import Result, Scores, last_sights, mean_frame, score
from benchmarks.minetest_memory.report import write_section
from benchmarks.minetest_memory.sights import bands, gaps, turning_points, windows_of_return
from benchmarks.minetest_memory.tasks import OUT, POSE, STEPS, TASKS
from lssvwm.agents.policies.minetest import retrace_plan
from lssvwm.envs.minecraft.actions import action_set
from lssvwm.worldmodel import EpisodeStore
from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.episodes import Episode

TURN = np.deg2rad(15)


def headings(*turns: float) -> np.ndarray:
    """One clip of poses at one place, by headings in units of a turn."""
    return np.stack([pose(8.0, turn * TURN, 0.0) for turn in turns])[None]


def pose(z: float, yaw: float, pitch: float) -> np.ndarray:
    view = [np.sin(yaw) * np.cos(pitch), -np.sin(pitch), np.cos(yaw) * np.cos(pitch)]
    return np.array([8.0, 1.0, z, *view])


def places(*z: float) -> np.ndarray:
    return np.stack([pose(where, 0.0, 0.0) for where in z])[None]


@pytest.mark.parametrize(
    ("poses", "context", "ago"),
    [
        (headings(0, 1, 2, 2, 1, 0, -1), 4, [3, 5, 0]),  # away, a wait, back, and past the beginning
        (headings(0, 0, 1, 0), 3, [2]),  # the last of two sights counts
        (headings(0, 1, 2, 3, 3), 3, [0, 0]),  # what comes after the context shows nothing
        (headings(12, 11, 11, -12), 3, [3]),  # half a circle to the left is half a circle to the right
        (places(0.0, 0.2, 0.4, 0.27, 0.09), 3, [2, 4]),  # the nearest place that was seen
        (places(0.0, 0.2, 0.4, 0.55), 3, [0]),
    ],
)
def test_gaps_by_hand(poses: np.ndarray, context: int, ago: list[int]) -> None:
    assert gaps(poses, context)[0].tolist() == ago


def test_a_tilted_head_sees_another_view() -> None:
    looks = np.stack([pose(8.0, 0.0, 0.0), pose(8.0, 0.0, 0.0), pose(8.0, 0.0, TURN)])[None]
    assert gaps(looks, 2)[0].tolist() == [0]


def test_bands_share_out_all_frames() -> None:
    found = bands(np.array([[0, 1, 20, 21, 35]]), 20)
    assert [each[0].tolist() for each in found] == [
        [False, False, False, True, True],
        [False, True, True, False, False],
        [True, False, False, False, False],
    ]


def test_turning_points_by_hand() -> None:
    #                  frame  0  1  2  3  4  5  6  7  8  9
    actions = np.array([-1, 0, 1, 1, 0, 0, 2, 2, 0, 2])
    assert turning_points(actions).tolist() == [5]
    assert turning_points(np.array([-1, 1, 3, 4, 2])).tolist() == [1, 2, 3]
    assert turning_points(np.array([-1, 0, 0, 1])).tolist() == []


def episode(actions: list[int]) -> Episode:
    """An episode of LookAway at 8x8 pixels, whose frames tell where it looks."""
    count = len(actions) + 1
    looks = np.concatenate([[0], np.cumsum([{1: -1, 2: 1}.get(action, 0) for action in actions])])
    poses = headings(*looks)[0]
    return Episode(
        image=np.broadcast_to(looks.astype(np.uint8)[:, None, None, None] + 100, (count, 8, 8, 3)).copy(),
        action=np.array([-1, *actions], np.int64),
        reward=np.zeros(count, np.float32),
        terminated=np.zeros(count, np.bool_),
        truncated=np.arange(count) == count - 1,
        extras={"agent_pos": poses[:, :3], "agent_dir": poses[:, 3:]},
    )


def test_clips_end_their_context_where_most_comes_back_from_afar(tmp_path: Path) -> None:
    writing = EpisodeStore(tmp_path, create=True)
    # A short look away, then one of four turns with a wait; and an episode that never turns round.
    writing.append(episode([0] * 8 + [2, 1, 0, 0, 2, 2, 2, 2, 0, 0, 1, 1, 1, 1, 0, 0]))
    writing.append(episode([2] * 16))
    store = EpisodeStore(tmp_path, pose=POSE)
    windows = windows_of_return(store, context=8, horizon=4, reach=5)
    assert windows.episodes.tolist() == [0]
    assert windows.starts.tolist() == [11]  # frame 18, the last of the wait, is the last of the context
    clips = store.gather(*windows)
    assert clips.pose is not None
    ago = gaps(clips.pose.double().numpy(), 8)
    assert ago[0].tolist() == [4, 6, 8, 10]
    shown = last_sights(clips.frames.numpy(), ago, 8)
    assert np.array_equal(shown, clips.frames[:, 8:].numpy())


def test_mean_frame(tmp_path: Path) -> None:
    store = EpisodeStore(tmp_path, create=True)
    store.append(episode([2, 2]))  # 100, 101, 102
    store.append(episode([1, 0, 0, 0]))  # 100, 99, 99, 99, 99
    assert np.unique(mean_frame(store)).tolist() == [100]


def test_walks_come_back_within_an_episode() -> None:
    names = action_set("walk").names
    turned = 0
    for seed in range(40):
        plan = list(itertools.islice(retrace_plan(np.random.default_rng(seed), OUT), STEPS))
        assert set(plan) <= set(names)
        out = plan.index("forward")
        walked = next(k for k in itertools.count(out) if plan[k] != "forward") - out
        assert 12 <= walked <= 24
        if "back" in plan:
            assert plan.count("back") == plan.count("forward") == walked
        else:
            turned += 1
    assert 10 <= turned <= 30


def test_policies_play_the_actions_of_their_worlds() -> None:
    for task in TASKS.values():
        policy = task.player(len(action_set(task.actions)))
        policy.reset(np.array([0, 1]), np.array([3, 4]))
        acted = np.array([policy.act(np.zeros((2, 8, 8, 3), np.uint8), {}) for _ in range(STEPS)])
        assert acted.min() == 0
        assert 0 < acted.max() < len(action_set(task.actions))


def result() -> Result:
    """Two clips of four frames; seeds lie 1 dB apart, and the window knows 10 dB less of what is beyond its reach."""
    ago = np.array([[2, 6, 8, 0], [3, 5, 9, 0]])
    truth = np.random.default_rng(0).integers(256, size=(2, 4, 16, 16, 3)).astype(np.uint8)
    ours = np.stack([np.full((2, 4), 30.0 + seed) for seed in range(3)])
    window = np.where(ago > 4, ours - 10, ours)
    runs = [{"parameters": 473_000, "steps": 700, "cpu_seconds": 9.6, "config": {"layers": 4}}] * 3
    return Result(
        ago=ago,
        reach=4,
        runs={"lssvwm": runs, "causal-window": runs},
        models={"lssvwm": Scores(ours, ours / 100), "causal-window": Scores(window, window / 100)},
        references={
            "mean frame": score([np.full_like(truth, 128)], truth),
            "last frame, repeated": score([np.full_like(truth, 0)], truth),
            "through the tokenizer": score([truth], truth),
        },
        truth=truth,
        imagined={"lssvwm": truth, "causal-window": truth},
    )


def test_section(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- minetest-memory: begin -->\nold\n<!-- minetest-memory: end -->\nafter\n")
    write_section(page, {"LookAway": result()})
    lines = page.read_text().splitlines()
    assert (lines[0], lines[-1]) == ("before", "after")
    assert "old" not in lines
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith("| ")]
    # Three seeds, 1 apart: deviation 1, half interval 4.303 / sqrt(3).
    assert rows[1] == ["lssvwm", "31.0 ± 2.5", "0.310 ± 0.025", "31.0 ± 2.5", "31.0 ± 2.5", ""]
    assert rows[2] == ["causal-window", "21.0 ± 2.5", "0.210 ± 0.025", "31.0 ± 2.5", "31.0 ± 2.5", "10.0 ± 0.0 dB"]
    assert rows[5] == ["*through the tokenizer*", "78.1", "1.000", "78.1", "78.1", ""]
    assert {path.name for path in tmp_path.glob("*.png")} == {"page-minetest-curves.png", "page-minetest-lookaway.png"}


def test_a_page_without_the_markers_is_named(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("nothing\n")
    with pytest.raises(InputError, match="minetest-memory: begin"):
        write_section(page, {"LookAway": result()})
