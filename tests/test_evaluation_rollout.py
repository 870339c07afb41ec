"""Trials run: what the model is shown and told, independence of rows, and the curves that come out."""

from __future__ import annotations

import weakref
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.common.rng import row_generators
from lssvwm.worldmodel.episodes import Clips
from lssvwm.worldmodel.evaluation import evaluate_clips, judge_cold_start, judge_heads, judge_heads_on_real, rollout
from lssvwm.worldmodel.evaluation.metrics.heads import auroc
from lssvwm.worldmodel.evaluation.protocols.trials import Trial, make_trial
from places import LOOKS, Remembered, walk
from rings import Ring
from worlds import assert_close, assert_same, random_clips, random_model, small_config

CAP = 10 * np.log10(255**2 / 1e-3)
WALK = walk(list(range(3, 15)), [20, 21, 22, 21, 20, 19, 18, 17, 16, 15, 14, 13])


def curve(model: Any, protocol: Any, **settings: Any) -> Any:
    settings = {"context": 6, "horizon": 5, "steps": 2, **settings}
    return evaluate_clips(model, WALK, protocol=protocol, **settings)


def test_who_remembers_everything_retrieves_everything() -> None:
    for settings in ({}, {"rows": 1}):
        found = curve(Remembered(), "retrieval", **settings)
        np.testing.assert_allclose(found.psnr_by_clip, CAP)
        np.testing.assert_allclose(found.ssim_by_clip, 1)
        assert found.psnr.shape == found.ssim.shape == (5,)


def test_a_forgotten_frame_shows_where_it_is_missing() -> None:
    class Forgetful(Remembered):
        """Remembers nothing of what it is shown in the first three frames."""

        def observe(self, frames: Any, actions: Any, memory: Any = None, *, pose: Any = None) -> Any:
            return super().observe(frames[:, 3:], actions[:, 3:], memory, pose=pose)

    found = curve(Forgetful(), "retrieval")
    lost = [10 * np.log10(255**2 / error(place)) for place in (5, 4, 3)]
    np.testing.assert_allclose(found.psnr_by_clip[0], [CAP, CAP, *lost])


def error(place: int) -> float:
    """Mean squared error of black to a place."""
    return float(LOOKS[place].double().square().mean())


def test_new_places_are_known_only_where_the_truth_is_shown() -> None:
    alone, taught = (curve(Remembered(), protocol) for protocol in ("reasoning", "one-step"))
    new = [10 * np.log10(255**2 / error(place)) for place in range(9, 14)]
    np.testing.assert_allclose(alone.psnr_by_clip[0], new)
    np.testing.assert_allclose(taught.psnr_by_clip[0], new)  # always a place further: a teacher does not help
    back = walk([3, 4, 5, 6, 7, 6, 5, 4])
    found = [
        evaluate_clips(Remembered(), back, protocol=p, context=3, horizon=5, steps=1).psnr_by_clip[0] == CAP
        for p in ("reasoning", "one-step")
    ]
    assert [each.tolist() for each in found] == [
        [False, False, False, True, True],
        [False, False, True, True, True],
    ]


def test_dropped_frames_cannot_be_retrieved() -> None:
    asked = make_trial("retrieval", WALK, context=6, horizon=5)
    kept = asked.context.rows(slice(0, 1))
    gone = Clips(**{name: value[:, [0, 1, 3, 5]] for name, value in vars(kept).items() if value is not None})
    found = rollout(Remembered(), Trial(gone, asked.ahead.rows(slice(0, 1))), steps=1).frames
    assert [bool(frame.any()) for frame in found[0]] == [False, True, False, True, True]


def test_chunks_are_imagined_at_once() -> None:
    found = [curve(Remembered(chunk), "retrieval", context=9, horizon=6) for chunk in (1, 3)]
    np.testing.assert_array_equal(found[0].psnr_by_clip, found[1].psnr_by_clip)
    with pytest.raises(InputError, match="whole chunks of 3"):
        rollout(Remembered(3), make_trial("reasoning", WALK, context=6, horizon=5), steps=1)


def test_a_long_context_is_shown_in_segments() -> None:
    long = walk(list(range(32)) * 5)
    model = Remembered(chunk=7)
    rollout(model, make_trial("reasoning", long, context=140, horizon=7), steps=1)
    assert model.shown == [56, 56, 28]


def test_no_memory_is_kept_but_the_last() -> None:
    class Counted(Ring):
        made: ClassVar[list[weakref.ref[Any]]] = []

        def imagine(self, *args: Any, **settings: Any) -> Any:
            assert sum(ref() is not None for ref in self.made) <= 2
            new = super().imagine(*args, **settings)
            self.made.append(weakref.ref(new.memory))
            return new

    clips = Clips(*list(vars(walk(list(range(32)) * 4)).values())[:5])
    found = rollout(Counted(), make_trial("reasoning", clips, context=8, horizon=120), steps=1)
    assert found.frames.shape[1] == len(Counted.made) == 120


def test_what_is_not_defined_is_refused() -> None:
    with pytest.raises(InputError, match="not told it: train one with --pose"):
        curve(Remembered(pose_size=0), "retrieval")
    with pytest.raises(InputError, match="name the extras"):
        evaluate_clips(
            Remembered(), Clips(*list(vars(WALK).values())[:5]), protocol="reasoning", context=3, horizon=3, steps=1
        )
    with pytest.raises(InputError, match="judge_cold_start"):
        curve(Remembered(), "cold-start")


# The world model itself


def clips_and_model(**changes: Any) -> tuple[Clips, Any]:
    config = small_config(**changes)
    clips = random_clips(config, [9] * 5, 9, 3)
    if config.pose_size:
        pose = torch.randn(5, 9, config.pose_size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        clips = Clips(**{**vars(clips), "pose": pose})
    return clips, random_model(config, 2)


@pytest.mark.parametrize("changes", [{}, {"pose_size": 2}, {"chunk": 3, "window": 3}])
@torch.no_grad()
def test_a_row_does_not_depend_on_how_many_are_computed_at_once(changes: dict[str, Any]) -> None:
    clips, model = clips_and_model(**changes)
    asked = make_trial("reasoning", clips, context=6, horizon=3, chunk=model.config.chunk)
    whole, parts = (rollout(model, asked, steps=2, seed=4, rows=rows) for rows in (5, 2))
    assert torch.equal(whole.frames, parts.frames)
    for name in ("rewards", "terminations", "features", "memory"):
        assert_close(getattr(whole, name), getattr(parts, name))
    other = rollout(model, asked, steps=2, seed=5)
    assert not torch.equal(whole.frames, other.frames)
    assert len({frame.numpy().tobytes() for frame in whole.frames[:, 0]}) == 5


@torch.no_grad()
def test_rollout_is_observe_and_imagine() -> None:
    clips, model = clips_and_model()
    row = clips.rows(slice(1, 2))
    for teacher, protocol in ((False, "reasoning"), (True, "one-step")):
        asked = make_trial(protocol, row, context=6, horizon=3)  # type: ignore[arg-type]
        found = rollout(model, asked, steps=2, seed=4)
        (source,) = row_generators(4, 0, range(1), model.device)
        _, memory = model.observe(row.frames[:, :6], row.actions[:, :6])
        for t in range(6, 9):
            new = model.imagine(row.actions[:, t], memory, steps=2, generator=[source])
            assert_same(
                {"frame": found.frames[:, t - 6], "reward": found.rewards[:, t - 6], "f": found.features[:, t - 6]},
                {"frame": new.frame, "reward": new.reward, "f": new.features},
            )
            shown = (row.frames[:, t : t + 1], row.actions[:, t : t + 1])
            memory = model.observe(*shown, memory)[1] if teacher else new.memory
        assert_same(found.memory, memory)


@torch.no_grad()
def test_a_cold_start_begins_from_empty_memory() -> None:
    clips, model = clips_and_model()
    asked = make_trial("cold-start", clips, context=0, horizon=2)
    found = rollout(model, asked, steps=1, seed=1)
    sources = row_generators(1, 0, range(5), model.device)
    first = model.imagine(clips.actions[:, 0], model.empty(5), steps=1, generator=sources)
    assert torch.equal(found.frames[:, 0], first.frame)


def test_a_cold_start_is_judged_by_the_frames_of_other_clips() -> None:
    real = walk([1, 2, 3], [4, 5, 6])
    shown = torch.stack([LOOKS[torch.tensor([4, 1, 6])], LOOKS[torch.tensor([1, 6, 2])]])
    judged = judge_cold_start(shown, real, np.arange(2))
    assert judged.nearest is not None
    assert (judged.nearest == CAP).tolist() == [[True, False, True], [True, False, True]]
    nearest = min(float((LOOKS[1].double() - LOOKS[p].double()).square().mean()) for p in (4, 5, 6))
    assert judged.nearest[0, 1] == pytest.approx(10 * np.log10(255**2 / nearest))
    with pytest.raises(InputError, match="2 clips or more"):
        judge_cold_start(LOOKS[None, :3], real.rows(slice(0, 1)), np.arange(1))


# Heads


def test_heads_are_judged_beside_their_base_rates() -> None:
    clips = walk([1, 2, 3, 4, 5], masked=1)
    truth = Clips(**{**vars(clips), "rewards": torch.tensor([[0.0, 0, 1, 0, 9]])})
    rewards = torch.tensor([[7.0, 0.5, 0.25, 0.0, 9]])  # frame 0 has no reward, frame 4 does not exist
    found = judge_heads(rewards, torch.tensor([[0.9, 0.1, 0.2, 0.6, 0.0]]), truth)
    assert found.reward_rmse == pytest.approx(((0.5**2 + 0.75**2) / 3) ** 0.5)
    assert found.reward_rmse_of_mean == pytest.approx((2 / 9) ** 0.5)
    assert found.rewarded_share == pytest.approx(1 / 3)
    assert found.reward_auroc == pytest.approx(0.5)  # above one of the two without
    assert found.termination_accuracy == pytest.approx(3 / 4)
    assert found.termination_accuracy_of_constant == pytest.approx(3 / 4)
    assert found.termination_auroc == pytest.approx(2 / 3)
    assert found.terminal_share == pytest.approx(1 / 4)


def test_where_one_kind_is_missing_there_is_no_auroc() -> None:
    asked = make_trial("retrieval", WALK, context=6, horizon=5)
    found = judge_heads(torch.zeros(2, 5), torch.zeros(2, 5), asked.ahead)
    assert found.to_dict() == {
        "reward_rmse": None,
        "reward_rmse_of_mean": None,
        "reward_auroc": None,
        "rewarded_share": None,
        "termination_accuracy": 1.0,
        "termination_accuracy_of_constant": 1.0,
        "termination_auroc": None,
        "terminal_share": 0.0,
    }


@pytest.mark.parametrize(
    ("scores", "expected"),
    [([3.0, 5.0, -1.0, 40.0], 1.0), ([40.0, 30.0, 90.0, 20.0], 0.0), ([1.0, 1.0, 1.0, 1.0], 0.5)],
)
def test_auroc_counts_pairs_whatever_the_scale(scores: list[float], expected: float) -> None:
    assert auroc(torch.tensor(scores), torch.tensor([False, True, False, True])) == pytest.approx(expected)


@torch.no_grad()
def test_heads_on_real_frames_are_those_of_observing_them() -> None:
    clips, model = clips_and_model()
    seen, _ = model.observe(clips.frames, clips.actions)
    expected = judge_heads(seen.reward, seen.termination, clips).to_dict()
    assert judge_heads_on_real(model, [clips.rows(slice(0, 2)), clips.rows(slice(2, 5))]).to_dict() == pytest.approx(
        expected
    )
