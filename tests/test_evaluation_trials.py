"""What a model is asked and what it is compared with, on walks through places that are known by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.episodes import NO_ACTION, Clips
from lssvwm.worldmodel.episodes.retrace import Retraced, there_and_back
from lssvwm.worldmodel.evaluation.protocols.trials import CORRUPTED, Corruption, Protocol, make_trial
from places import LOOKS, Remembered, walk
from worlds import assert_same

WALK = walk([3, 4, 5, 6, 7, 6, 8, 9, 10, 11], [20, 21, 22, 21, 20, 19, 18, 17, 16, 15])


def places(clips: Clips) -> list[list[int]]:
    """Which places frames show; poses must say the same."""
    shown = (clips.frames[:, :, None] == LOOKS).all((-1, -2, -3)).long().argmax(-1)
    assert clips.pose is not None
    assert torch.equal(clips.pose[..., 0][clips.mask].long(), shown[clips.mask])
    return shown.tolist()


def trial(protocol: Protocol, context: int, horizon: int, **settings: Any) -> Any:
    return make_trial(protocol, WALK, context=context, horizon=horizon, **settings)


def test_reasoning_goes_on_with_what_was_recorded() -> None:
    asked = trial("reasoning", 6, 4)
    assert places(asked.context) == [[3, 4, 5, 6, 7, 6], [20, 21, 22, 21, 20, 19]]
    assert places(asked.ahead) == [[8, 9, 10, 11], [18, 17, 16, 15]]
    assert asked.ahead.actions.tolist() == [[0, 1, 2, 0]] * 2
    assert asked.ahead.rewards.tolist() == [[16, 17, 18, 19]] * 2
    assert asked.ahead.terminated.tolist() == [[False, False, False, True]] * 2
    assert not asked.teacher
    assert trial("one-step", 6, 4).teacher


def test_retrieval_plays_the_context_backwards_from_the_frame_before_its_last() -> None:
    asked = trial("retrieval", 6, 5)
    assert places(asked.context) == [[3, 4, 5, 6, 7, 6], [20, 21, 22, 21, 20, 19]]
    assert places(asked.ahead) == [[7, 6, 5, 4, 3], [20, 21, 22, 21, 20]]
    assert (asked.ahead.actions == NO_ACTION).all()
    assert not asked.ahead.rewards.any()
    assert not asked.ahead.terminated.any()
    assert asked.ahead.mask.all()
    assert places(trial("retrieval", 6, 2).ahead) == [[7, 6], [20, 21]]


def test_retrieval_is_the_way_back_of_a_retraced_clip() -> None:
    turned = there_and_back(WALK, torch.tensor([5, 5]))
    asked = trial("retrieval", 6, 4)
    for part, frames in ((asked.context, slice(0, 6)), (asked.ahead, slice(6, 10))):
        assert_same(vars(part), vars(turned.span(frames)))


def test_a_cold_start_has_no_context_and_begins_with_the_episode() -> None:
    asked = trial("cold-start", 6, 4)
    assert asked.context.mask.shape == (2, 0)
    assert places(asked.ahead) == [[3, 4, 5, 6], [20, 21, 22, 21]]
    assert asked.ahead.actions.tolist() == [[NO_ACTION, 1, 2, 0]] * 2


@pytest.mark.parametrize("protocol", CORRUPTED)
def test_a_corrupted_context_is_followed_by_the_same_truth(protocol: Protocol) -> None:
    clean, asked = trial("reasoning", 6, 4), trial(protocol, 6, 4)
    assert_same(vars(asked.ahead), vars(clean.ahead))
    assert asked.context.frames.shape != clean.context.frames.shape or (
        (asked.context.frames != clean.context.frames).float().mean() > 0.5
    )


def test_dropped_frames_are_missing_with_all_that_came_with_them() -> None:
    asked = trial("dropped", 6, 4, corruption=Corruption(drop=0.5), seed=1)
    for row, shown in enumerate(asked.context.rewards.tolist()):
        time = [0 if reward == 0 else int(reward) - 10 for reward in shown]
        assert len(time) == 3
        assert time == sorted(set(time))
        assert time[-1] == 5  # what comes next must follow from something
        assert places(asked.context)[row] == [places(WALK)[row][t] for t in time]
        assert asked.context.actions[row].tolist() == [WALK.actions[row, t].item() for t in time]
    rewards = [trial("dropped", 6, 4, corruption=Corruption(drop=0.5), seed=s).context.rewards for s in range(8)]
    assert len({tuple(map(tuple, each.tolist())) for each in rewards}) > 4
    assert any(not torch.equal(*each) for each in rewards)  # rows lose different frames


def test_jumped_frames_are_one_gap_in_the_middle() -> None:
    asked = trial("jumped", 6, 4, corruption=Corruption(gap=0.34))
    assert places(asked.context) == [[3, 4, 7, 6], [20, 21, 20, 19]]


def test_noise_has_the_strength_asked_for() -> None:
    many = walk(list(range(30)))
    asked = make_trial("noised", many, context=25, horizon=5, corruption=Corruption(noise=0.05), seed=3)
    middle = (many.frames[:, :25] > 60) & (many.frames[:, :25] < 195)  # where nothing is clamped
    error = (asked.context.frames.double() - many.frames[:, :25].double())[middle]
    assert error.std().item() == pytest.approx(0.05 * 255, rel=0.05)
    assert abs(error.mean().item()) < 0.5


def test_models_of_chunks_are_asked_in_chunks() -> None:
    for protocol in ("dropped", "jumped"):
        asked = trial(protocol, 6, 3, chunk=3, corruption=Corruption(drop=0.1, gap=0.1))
        assert asked.context.mask.shape == (2, 3)
    with pytest.raises(InputError, match="whole chunks of the 3 frames"):
        trial("reasoning", 6, 4, chunk=3)
    with pytest.raises(InputError, match="whole chunks of the 3 frames"):
        trial("reasoning", 5, 3, chunk=3)


@pytest.mark.parametrize(
    ("protocol", "context", "horizon", "clips", "message"),
    [
        ("reasoning", 6, 5, WALK, "reasoning needs clips of 11 frames, the shortest has 10"),
        ("reasoning", 6, 4, walk([1, 2, 3, 4, 5, 6, 7, 8, 9, 10], masked=1), "10 frames, the shortest has 9"),
        ("cold-start", 0, 11, WALK, "cold-start needs clips of 11 frames"),
        ("retrieval", 6, 6, WALK, "a context of 6 frames can be walked back 5 at most"),
        ("retrieval", 11, 3, WALK, "retrieval needs clips of 11 frames"),
        ("retrieval", 6, 3, Clips(*list(vars(WALK).values())[:5]), r"--pose agent_pos,agent_dir"),
        ("reasoning", 0, 3, WALK, "use the protocol cold-start"),
        ("reasoning", 3, 0, WALK, "the horizon at least one"),
        ("dropped", 1, 3, WALK, "a context of 1 frames is too short to take 1 away"),
    ],
)
def test_what_cannot_be_asked_is_said(
    protocol: Protocol, context: int, horizon: int, clips: Clips, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        make_trial(protocol, clips, context=context, horizon=horizon)


@pytest.mark.parametrize("values", [{"drop": 0.0}, {"gap": 1.0}, {"noise": 0.0}])
def test_corruptions_that_do_nothing_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(InputError, match=next(iter(values))):
        Corruption(**values)


# Clips that turn round


def test_there_and_back() -> None:
    turned = there_and_back(WALK, torch.tensor([2, 7]))
    assert places(turned) == [[3, 4, 5, 4, 3, 0, 0, 0, 0, 0], [20, 21, 22, 21, 20, 19, 18, 17, 18, 19]]
    assert turned.mask.sum(1).tolist() == [5, 10]
    assert not turned.frames[0, 5:].any()
    assert turned.actions.tolist() == [[-1, 1, 2, *[-1] * 7], [-1, 1, 2, 0, 1, 2, 0, 1, -1, -1]]
    assert turned.rewards.tolist() == [[0, 11, 12, *[0] * 7], [0, *range(11, 18), 0, 0]]
    assert not turned.terminated.any()


def test_turning_at_the_last_frame_changes_nothing() -> None:
    for clips in (WALK, walk(list(range(10)), masked=4)):
        same = there_and_back(clips, torch.full((len(clips.mask),), 9))
        assert_same(vars(same), vars(clips))


def test_the_terminal_frame_is_terminal_only_the_first_time() -> None:
    turned = there_and_back(walk([5, 6, 7, 8, 0, 0, 0], masked=3), torch.tensor([3]))
    assert places(turned)[0] == [5, 6, 7, 8, 7, 6, 5]
    assert turned.terminated[0].tolist() == [False, False, False, True, False, False, False]


def test_continuous_actions_have_their_own_none() -> None:
    clips = Clips(**{**vars(WALK), "actions": torch.rand(2, 10, 2)})
    turned = there_and_back(clips, torch.tensor([6, 6]))
    assert torch.equal(turned.actions[:, :7], clips.actions[:, :7])
    assert turned.actions[:, 7:].isnan().all()


@pytest.mark.parametrize("turn", [-1, 10, 8])
def test_a_turn_outside_the_clip_is_named(turn: int) -> None:
    clips = walk(list(range(10)), list(range(10)), masked=2)
    with pytest.raises(InputError, match=f"clip 1 ends before frame {turn}"):
        there_and_back(clips, torch.tensor([4, turn]))


class Walks:
    """A source of the same walk, cut to length; every other clip ends two frames early."""

    def sample(self, batch: int, length: int, generator: np.random.Generator) -> Clips:
        whole, cut = walk(list(range(length))), walk(list(range(length)), masked=2)
        return Clips.cat([cut if row % 2 else whole for row in range(batch)])


def turns_of(clips: Clips) -> list[int]:
    """The frame at which each clip turns, which is the highest place it shows."""
    assert clips.pose is not None
    return clips.pose[..., 0].amax(1).long().tolist()


def test_retraced_clips_turn_in_their_second_half_as_often_as_asked() -> None:
    length = 12
    clips = Retraced(Walks(), 0.5).sample(4000, length, np.random.default_rng(0))
    whole, cut = turns_of(clips)[::2], turns_of(clips)[1::2]
    assert 0.45 < np.mean([turn < length - 1 for turn in whole]) < 0.55
    assert set(whole) == {6, 7, 8, 9, 10, 11}
    assert set(cut) == {6, 7, 8, 9}  # the last frame there is
    back = clips.mask.sum(1).tolist()
    assert set(back[::2]) == {length}  # no frame wasted
    every = Retraced(Walks(), 1.0).sample(100, length, np.random.default_rng(0))
    assert max(turns_of(every)) < length - 1
    none = Retraced(Walks(), 0.0).sample(100, length, np.random.default_rng(0))
    assert_same(vars(none), vars(Walks().sample(100, length, np.random.default_rng(0))))


def test_retraced_clips_follow_from_the_generator() -> None:
    first, second = (Retraced(Walks()).sample(50, 9, np.random.default_rng(5)) for _ in range(2))
    assert_same(vars(first), vars(second))


def test_retracing_needs_poses_and_room() -> None:
    class Poseless(Walks):
        def sample(self, batch: int, length: int, generator: np.random.Generator) -> Clips:
            return Clips(*list(vars(super().sample(batch, length, generator)).values())[:5])

    with pytest.raises(InputError, match="pose"):
        Retraced(Poseless()).sample(2, 9, np.random.default_rng(0))
    with pytest.raises(InputError, match="length=2"):
        Retraced(Walks()).sample(2, 2, np.random.default_rng(0))
    with pytest.raises(InputError, match=r"share=1\.5"):
        Retraced(Walks(), 1.5)


def test_remembered_places_are_what_these_tests_take_them_for() -> None:
    model = Remembered()
    _, memory = model.observe(WALK.frames[:1, :3], WALK.actions[:1, :3])
    here: list[Tensor] = [
        model.imagine(torch.zeros(1, dtype=torch.int64), memory, pose=torch.tensor([[place]])).frame[0]
        for place in (4.0, 6.0)
    ]
    assert torch.equal(here[0], LOOKS[4])
    assert not here[1].any()
