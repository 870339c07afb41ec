"""Where dreams can start: from a prefix that is noised, or from nothing; and how far they trust themselves."""

from __future__ import annotations

import pytest
import torch

from lssvwm.worldmodel.common.rng import row_generators
from lssvwm.worldmodel.diffusion.noise import add_noise
from lssvwm.worldmodel.model import WorldModel
from worlds import assert_close, assert_same, generator, random_actions, random_frames, random_model, small_config

ROWS, FRAMES = 3, 5


@pytest.fixture
def model() -> WorldModel:
    return random_model(small_config(), 0)


def dream(model: WorldModel, frames: int, **options: float) -> torch.Tensor:
    """Frames (B, T, h, w, 3) from nothing."""
    memory, source, seen = model.empty(ROWS), generator(2), []
    for t in range(frames):
        actions = torch.full((ROWS,), -1 if t == 0 else 1)
        with torch.no_grad():
            imagined = model.imagine(actions, memory, steps=2, generator=source, **options)
        memory = imagined.memory
        seen.append(imagined.frame)
    return torch.stack(seen, 1)


def test_cold_start(model: WorldModel) -> None:
    """From empty memory a dream begins with a frame that no action led to, and goes on."""
    frames = dream(model, FRAMES)
    assert frames.shape == (ROWS, FRAMES, 16, 8, 3)
    assert len({frame.numpy().tobytes() for frame in frames.flatten(0, 1)}) == ROWS * FRAMES


@pytest.mark.parametrize("level", [0.1, 0.7])
def test_noised_prefix_by_hand(model: WorldModel, level: float) -> None:
    source = generator(1)
    frames = random_frames(model.config, ROWS, FRAMES, source=source)
    actions = random_actions(model.config, ROWS, FRAMES, source=source)
    with torch.no_grad():
        seen, memory = model.observe(frames, actions, noise=level, generator=generator(4))
        latents = model.tokenizer.encode(frames)
        noise = torch.randn(latents.shape, generator=generator(4), dtype=torch.float64)
        levels = torch.full((ROWS, FRAMES), level, dtype=torch.float64)
        hidden = model.backbone(add_noise(latents, levels, noise), levels, actions, model.empty(ROWS))
        clean, _ = model.observe(frames, actions)
    assert_close(memory, hidden.memory)
    assert float((seen.features - clean.features).abs().max()) > 1e-2


def test_noised_prefix_row_by_row(model: WorldModel) -> None:
    source, cpu = generator(1), torch.device("cpu")
    frames = random_frames(model.config, ROWS, FRAMES, source=source)
    actions = random_actions(model.config, ROWS, FRAMES, source=source)
    with torch.no_grad():
        _, all_rows = model.observe(frames, actions, noise=0.3, generator=row_generators(0, 0, range(ROWS), cpu))
        alone = row_generators(0, 0, range(1, 2), cpu)
        _, one = model.observe(frames[1:2], actions[1:2], noise=0.3, generator=alone)
    assert_close(one, all_rows.select(torch.tensor([1])))


@pytest.mark.parametrize(("level", "source"), [(0.5, None), (1.0, 0), (-0.1, 0)])
def test_prefix_that_cannot_be_noised(model: WorldModel, level: float, source: int | None) -> None:
    frames = random_frames(model.config, 1, 2, source=generator(1))
    with pytest.raises(ValueError, match="a level between 0 and 1, and a generator"):
        model.observe(
            frames,
            torch.zeros(1, 2, dtype=torch.int64),
            noise=level,
            generator=None if source is None else generator(0),
        )


def test_stabilised_frames_are_declared_noisy(model: WorldModel) -> None:
    """The frame itself is the same; the memory of it is that of the level that it is declared to have."""
    with torch.no_grad():
        actions = torch.ones(ROWS, dtype=torch.int64)
        plain = model.imagine(actions, model.empty(ROWS), steps=2, generator=generator(2))
        declared = model.imagine(actions, model.empty(ROWS), steps=2, generator=generator(2), stabilise=0.2)
        latents = model.tokenizer.encode(plain.frame[:, None])
        level = torch.full((ROWS, 1), 0.2, dtype=torch.float64)
        hidden = model.backbone(latents, level, actions[:, None], model.empty(ROWS))
    assert_same(declared.frame, plain.frame)
    assert_close(declared.memory, hidden.memory)
    assert not torch.equal(dream(model, 3)[:, 2], dream(model, 3, stabilise=0.5)[:, 2])


@pytest.mark.parametrize("level", [-0.1, 1.0])
def test_no_such_stabilising_level(model: WorldModel, level: float) -> None:
    with pytest.raises(ValueError, match=f"stabilise={level}"):
        dream(model, 1, stabilise=level)


def test_chunks_are_dreamt_whole() -> None:
    """Two frames at once; in memory as observed, and each of them depends on the action of the other."""
    model = random_model(small_config(chunk=2, window=2), 0)
    source = generator(1)
    frames = random_frames(model.config, ROWS, 4, source=source)
    actions = random_actions(model.config, ROWS, 6, source=source)
    with torch.no_grad():
        _, memory = model.observe(frames, actions[:, :4])
        dreamt = model.imagine(actions[:, 4:], memory, steps=2, generator=generator(3))
        _, observed = model.observe(dreamt.frame, actions[:, 4:], memory)
        other = actions[:, 4:].clone()
        other[:, 1] = (other[:, 1] + 1) % 3
        changed = model.imagine(other, memory, steps=2, generator=generator(3))
    assert dreamt.frame.shape == (ROWS, 2, 16, 8, 3)
    assert dreamt.reward.shape == dreamt.termination.shape == (ROWS, 2)
    assert_same(observed, dreamt.memory)
    assert not torch.equal(changed.frame[:, 0], dreamt.frame[:, 0])
    with pytest.raises(ValueError, match=r"\(B, 2\)"):
        model.imagine(actions[:, 4], memory, steps=1, generator=generator(3))


@pytest.mark.parametrize("target", ["v", "eps"])
def test_other_targets_dream_too(target: str) -> None:
    model = random_model(small_config(target=target), 0)
    frames = dream(model, 2)
    assert len({frame.numpy().tobytes() for frame in frames.flatten(0, 1)}) == 2 * ROWS
