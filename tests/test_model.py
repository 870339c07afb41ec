"""The world model that looks and dreams: what it remembers, what it must not mix up."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from lssvwm.worldmodel.layers.memory import Memory
from lssvwm.worldmodel.model import Imagined, WorldModel
from worlds import (
    assert_close,
    assert_same,
    generator,
    observe_in,
    random_actions,
    random_frames,
    random_model,
    small_config,
)

FRAMES = 11
CONFIGS = {
    f"{scan}, window {window}": small_config(scan=scan, window=window)
    for scan in ("blockwise", "whole-frame", "none")
    for window in (0, 1, 4)
} | {"path integration": small_config(path_integration=3), "dead reckoning": small_config(dead_reckoning=3)}


@pytest.fixture(params=CONFIGS)
def model(request: pytest.FixtureRequest) -> WorldModel:
    return random_model(CONFIGS[request.param], 0)


def video(model: WorldModel, rows: int, frames: int, seed: int = 1) -> tuple[Tensor, Tensor]:
    source = generator(seed)
    config = model.config
    return random_frames(config, rows, frames, source=source), random_actions(config, rows, frames, source=source)


def uneven(model: WorldModel, lengths: tuple[int, ...] = (1, 4, 7)) -> Memory:
    """Rows that have seen different numbers of frames."""
    memory = model.empty(len(lengths))
    frames, actions = video(model, len(lengths), max(lengths), seed=7)
    for row, length in enumerate(lengths):
        part = slice(row, row + 1)
        memory = memory.put(
            torch.tensor([row]), observe_in(model, frames[part, :length], actions[part, :length], [])[1]
        )
    return memory


@torch.no_grad()
def imagine(model: WorldModel, actions: Any, memory: Memory, seeds: Any, steps: int = 2, **more: Any) -> Imagined:
    """`seeds`: one number for all rows, or one generator per row."""
    source = generator(seeds) if isinstance(seeds, int) else seeds
    return model.imagine(torch.tensor(actions), memory, steps=steps, generator=source, **more)


@pytest.mark.parametrize("cuts", [[4], [1, 3, 9], list(range(1, FRAMES))], ids=["two", "four", "frame-by-frame"])
def test_whole_equals_segments(model: WorldModel, cuts: list[int]) -> None:
    frames, actions = video(model, 3, FRAMES)
    whole, memory = observe_in(model, frames, actions, [])
    parts, after = observe_in(model, frames, actions, cuts)
    assert_close(parts, whole)
    assert_close(after, memory)
    assert after.frames.tolist() == [FRAMES] * 3
    assert whole.features.shape == (3, FRAMES, model.config.features)
    assert whole.reward.shape == whole.termination.shape == (3, FRAMES)
    for value in (whole.features, whole.reward, whole.termination):
        assert float(value.std()) > 1e-2  # predictions that do not vary would be equal for nothing


def test_history_is_what_makes_segments_equal(model: WorldModel) -> None:
    """Looking at the second half with an empty memory says something else, unless the model has no memory."""
    frames, actions = video(model, 2, FRAMES)
    whole, _ = observe_in(model, frames, actions, [])
    later, _ = observe_in(model, frames[:, 5:], actions[:, 5:], [])
    forgets = model.config.scan == "none" and model.config.window == 0
    assert forgets == bool((later.features - whole.features[:, 5:]).abs().max() < 1e-6)


def test_a_frame_and_its_action_tell_nothing_to_earlier_frames(model: WorldModel) -> None:
    """The time-line: action t belongs to frame t. Both change what is read there, nothing before, and all rows else."""
    frames, actions = video(model, 2, FRAMES)
    before, _ = observe_in(model, frames, actions, [])
    row, time = 1, 5
    changed_frames, changed_actions = frames.clone(), actions.clone()
    changed_frames[row, time] = 255 - changed_frames[row, time]
    changed_actions[row, time] = (changed_actions[row, time] + 1) % 3
    for after, _ in (observe_in(model, changed_frames, actions, []), observe_in(model, frames, changed_actions, [])):
        differs = (after.features - before.features).abs().amax(-1) > 1e-6
        assert bool(differs[row, time])
        assert_same(after.features[0], before.features[0])
        assert_same(after.features[row, :time], before.features[row, :time])


@pytest.mark.parametrize("steps", [1, 3])
def test_row_of_a_batch_is_the_dream_alone(model: WorldModel, steps: int) -> None:
    """Rows of different age, each with its own generator, that pause and go on at different times."""
    rows, memory = 3, uneven(model)
    alone = [memory.select(torch.tensor([row])) for row in range(rows)]
    together = [generator(seed) for seed in (5, 6, 7)]
    own = [generator(seed) for seed in (5, 6, 7)]
    active = [[True, True, True], [True, False, True], [False, False, True], [False, True, True], [True, True, False]]
    actions = [[0, 1, 2], [2, 0, 1], [1, 1, 1], [0, 2, 0], [2, 1, 2]]
    for mask, choice in zip(active, actions, strict=True):
        paused, states = memory, [g.get_state() for g in together]
        out = imagine(model, choice, memory, together, steps, active=torch.tensor(mask))
        memory = out.memory
        for row in range(rows):
            mine = torch.tensor([row])
            if not mask[row]:
                assert_same(memory.select(mine), paused.select(mine))
                assert_same(together[row].get_state(), states[row])
                continue
            single = imagine(model, [choice[row]], alone[row], [own[row]], steps)
            alone[row] = single.memory
            assert_same(out.frame[row], single.frame[0])
            for name in ("reward", "termination", "features"):
                assert_close(getattr(out, name)[row], getattr(single, name)[0])
            assert_close(memory.select(mine), single.memory)
    assert memory.frames.tolist() == [1 + 3, 4 + 3, 7 + 4]


def test_without_a_mask_all_rows_are_active(model: WorldModel) -> None:
    memory = uneven(model)
    every = imagine(model, [0, 1, 2], memory, 0, active=torch.ones(3, dtype=torch.bool))
    default = imagine(model, [0, 1, 2], memory, 0)
    assert_same(default.memory, every.memory)
    assert_same(default.frame, every.frame)


def test_in_place_a_dream_is_the_same_and_uses_its_memory_up(model: WorldModel) -> None:
    kept, used, dreamt = uneven(model), uneven(model), []
    for memory, in_place in ((kept, False), (used, True)):
        for seed in range(3):
            imagined = imagine(model, [0, 1, 2], memory, seed, in_place=in_place)
            memory = imagined.memory
        dreamt.append({**vars(imagined), "memory": memory.state_dict()})
    assert_close(*dreamt)
    assert_same(kept, uneven(model))
    for layer, before in zip(memory.layers, used.layers, strict=True):
        if layer.scan is not None and before.scan is not None:
            assert layer.scan.state.data_ptr() == before.scan.state.data_ptr()


def test_not_in_place_where_a_row_rests(model: WorldModel) -> None:
    memory = uneven(model)
    active = torch.tensor([True, False, True])
    after = imagine(model, [0, 1, 2], memory, 0, active=active, in_place=True).memory
    assert_same(memory, uneven(model))
    assert_same(after, imagine(model, [0, 1, 2], memory, 0, active=active).memory)


@pytest.mark.parametrize("steps", [1, 4])
def test_a_dream_remembers_what_it_showed(model: WorldModel, steps: int) -> None:
    """Imagining a frame leaves the memory, features and predictions that observing that frame would."""
    memory = uneven(model)
    before = memory.clone()
    out = imagine(model, [2, 0, 1], memory, 3, steps)
    assert_same(memory, before)
    assert out.frame.shape == (3, 16, 8, 3)
    assert out.frame.dtype == torch.uint8
    seen, after = observe_in(model, out.frame[:, None], torch.tensor([[2], [0], [1]]), [], memory)
    assert_same(out.memory, after)
    for name in ("reward", "termination", "features"):
        assert_same(getattr(out, name), getattr(seen, name)[:, 0])
    assert out.memory.frames.tolist() == [2, 5, 8]


def test_every_denoising_step_starts_from_the_last_frame(model: WorldModel) -> None:
    """The sampler written down anew: K passes from the same memory, each from its level to the next."""
    steps, memory, actions = 3, uneven(model), torch.tensor([[0], [1], [2]])
    shape = (3, 1, model.config.tokens, model.config.latent_channels)
    x = torch.randn(shape, generator=generator(4), dtype=torch.float64)
    with torch.no_grad():
        for k in range(steps, 0, -1):
            level = torch.full((3, 1), k / steps, dtype=torch.float64)
            clean = model.denoise(model.backbone(x, level, actions, memory).tokens)
            x = x + (clean - x) / k  # the velocity (x - clean) / level, for a step of 1 / K
    out = imagine(model, [0, 1, 2], memory, 4, steps)
    assert int((out.frame.int() - model.tokenizer.decode(x)[:, 0].int()).abs().max()) <= 1
    assert float((out.frame != model.tokenizer.decode(x)[:, 0]).double().mean()) < 1e-3  # levels are float32


def test_every_frame_knows_its_level_of_noise(model: WorldModel) -> None:
    """Small and large changes of one frame's level are told apart there, and change nothing before it."""
    source = generator(0)
    latents = torch.randn(1, 6, 8, 6, generator=source, dtype=torch.float64)
    level = torch.full((1, 6), 0.5, dtype=torch.float64)
    actions = torch.zeros(1, 6, dtype=torch.int64)

    @torch.no_grad()
    def tokens(at: Tensor) -> Tensor:
        return model.backbone(latents, at, actions, model.empty(1)).tokens

    before = tokens(level)
    for value in (0.0, 0.49, 0.51, 1.0):
        changed = tokens(level.index_fill(1, torch.tensor([3]), value))
        assert_same(changed[:, :3], before[:, :3])
        assert (changed[:, 3] - before[:, 3]).abs().max() > 1e-2


def test_same_seed_same_dream(model: WorldModel) -> None:
    def dream(seed: int) -> list[Imagined]:
        memory, source, frames = uneven(model), generator(seed), []
        for action in ([0, 1, 2], [1, 1, 0], [2, 2, 2]):
            frames.append(model.imagine(torch.tensor(action), memory, steps=2, generator=source))
            memory = frames[-1].memory
        return frames

    with torch.no_grad():
        first, second, other = dream(1), dream(1), dream(2)
    for a, b in zip(first, second, strict=True):
        assert_same(a.frame, b.frame)
        assert_same(a.features, b.features)
        assert_same(a.memory, b.memory)
    assert all(bool((a.frame != b.frame).any()) for a, b in zip(first, other, strict=True))
    assert bool((first[0].frame != first[1].frame).any())  # noise is drawn anew for every frame


def test_global_generator_is_neither_read_nor_moved(model: WorldModel) -> None:
    memory, frames = uneven(model), []
    for seed in (0, 1):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            state = torch.get_rng_state()
            frames.append(imagine(model, [0, 1, 2], memory, 3).frame)
            frames.append(imagine(model, [0, 1, 2], memory, [generator(s) for s in range(3)]).frame)
            assert_same(torch.get_rng_state(), state)
    assert_same(frames[0], frames[2])
    assert_same(frames[1], frames[3])


def test_actions_and_history_lead_to_other_frames(model: WorldModel) -> None:
    memory = uneven(model)
    frame = imagine(model, [0, 0, 0], memory, 3).frame
    assert all(bool((imagine(model, [a] * 3, memory, 3).frame != frame).any()) for a in (1, 2))
    blank = imagine(model, [0, 0, 0], model.empty(3), 3).frame
    forgets = model.config.scan == "none" and model.config.window == 0
    assert forgets != bool((blank != frame).any())


def test_resetting_a_row_leaves_the_others_alone(model: WorldModel) -> None:
    """Bit for bit, over several frames after the reset, with one generator per row."""

    def dreams(reset: bool) -> list[Imagined]:
        memory, sources, frames = uneven(model), [generator(s) for s in range(3)], []
        for time, action in enumerate(([0, 1, 2], [1, 2, 0], [2, 0, 1], [0, 0, 0])):
            if reset and time == 1:
                memory = memory.put(torch.tensor([1]), uneven(model, (5,)))
                sources[1] = generator(99)
            frames.append(imagine(model, action, memory, sources))
            memory = frames[-1].memory
        return frames

    others = torch.tensor([0, 2])
    for a, b in zip(dreams(reset=True), dreams(reset=False), strict=True):
        assert_same(a.memory.select(others), b.memory.select(others))
        for name in ("frame", "reward", "termination", "features"):
            assert_same(getattr(a, name)[others], getattr(b, name)[others])
    assert bool((a.frame[1] != b.frame[1]).any())


def test_memory_of_a_long_dream_stays_small(model: WorldModel) -> None:
    memory = uneven(model)
    sizes = {memory.nbytes}
    for time in range(20):
        memory = imagine(model, [time % 3] * 3, memory, time, steps=1).memory
        sizes.add(memory.nbytes)
    assert len(sizes) == 1
    assert memory.frames.tolist() == [21, 24, 27]


@pytest.mark.parametrize(
    ("scan", "window", "reaches"), [("blockwise", 1, True), ("whole-frame", 0, True), ("none", 1, False)]
)
def test_gradient_reaches_the_first_frame_of_a_long_clip(scan: Any, window: int, reaches: bool) -> None:
    """Two layers of window 1 see two frames back; what lies further back is remembered by the scan alone."""
    model = random_model(small_config(scan=scan, window=window), 0)
    latents = torch.randn(1, 40, 8, 6, generator=generator(0), dtype=torch.float64, requires_grad=True)
    _, actions = video(model, 1, 40)
    hidden = model.backbone(latents, torch.zeros(1, 40, dtype=torch.float64), actions, model.empty(1)).tokens
    weight = torch.randn(hidden[:, -1].shape, generator=generator(1), dtype=torch.float64)
    (gradient,) = torch.autograd.grad((hidden[:, -1] * weight).sum(), latents)
    reach = gradient.abs().amax((0, 2, 3))
    assert bool(reach[-1] > 1e-3)
    if reaches:
        assert bool((reach > 1e-9).all())
    else:
        assert bool((reach[37:] > 1e-3).all())
        assert not bool(reach[:37].any())


def test_looking_and_dreaming_keep_no_graph() -> None:
    """Or a loop would hold on to every frame that it ever saw."""
    model = random_model(small_config(), 0)
    seen, memory = model.observe(*video(model, 2, 3))
    dreamt = model.imagine(torch.tensor([0, 1]), memory, steps=1, generator=generator(0))
    told = (seen.features, seen.reward, seen.termination, dreamt.features, dreamt.reward, dreamt.termination)
    kept = (*told, *memory.state_dict().values(), *dreamt.memory.state_dict().values())
    assert not any(value.requires_grad for value in kept)
