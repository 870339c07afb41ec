"""Teacher forcing: training computes, for every frame of a clip at once, exactly what a dream computes there."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from lssvwm.worldmodel.config import WorldModelConfig
from lssvwm.worldmodel.config_parts import MAMBA2
from lssvwm.worldmodel.diffusion.forcing import Past, streams
from lssvwm.worldmodel.diffusion.noise import add_noise, clean_from
from lssvwm.worldmodel.layers.fused import convolve
from lssvwm.worldmodel.layers.scan import scan_sequential
from lssvwm.worldmodel.layers.teacher_forcing import convolve_copies, deinterleaved, interleaved, scan_copies
from lssvwm.worldmodel.layers.windows import KeyValues, Window, attend_sdpa, visible
from lssvwm.worldmodel.model import WorldModel, future_rewards
from worlds import assert_close, generator, random_clips, random_model, small_config

FRAMES = 6
CASES: dict[str, dict[str, Any]] = {
    "default": {},
    "Mamba-2": {"mixer": MAMBA2},
    "one frame in the window": {"window": 1},
    "whole frames, no attention": {"scan": "whole-frame", "window": 0},
    "all frames, no scan": {"scan": "none", "window": None},
    "chunks": {"chunk": 2, "window": 2, "tiles": ((2, 1), (1, 1))},
    "wide convolution": {"conv": 6},
    "velocity": {"target": "v"},
    "shortcut": {"shortcut": 4},
    "path integration": {"path_integration": 3},
    "dead reckoning": {"dead_reckoning": 2},
    "dead reckoning, chunks": {"dead_reckoning": 3, "chunk": 2, "window": 2},
    "path integration, chunks": {"path_integration": 3, "chunk": 2, "window": 2},
}


def teacher(**changes: Any) -> WorldModelConfig:
    return replace(small_config(), forcing="teacher", **changes)


@torch.no_grad()
def as_in_a_dream(model: WorldModel, clips: Any, noised: Tensor, level: Tensor, halvings: Tensor | None) -> Any:
    """Chunk by chunk: denoise from the memory so far, then let the clean frames enter it."""
    chunk, memory = model.config.chunk, model.empty(len(noised))
    latents, predicted, features = model.encode(clips.frames), [], []
    for begin in range(0, noised.shape[1], chunk):
        now = slice(begin, begin + chunk)
        told = {"halvings": None if halvings is None else halvings[:, now], "advance": False}
        x, at, actions = noised[:, now], level[:, now], clips.actions[:, now]
        hidden = model.backbone(x, at, actions, memory, **told)
        predicted.append(clean_from(model.denoise(hidden.tokens), x, at, model.config.target))
        hidden = model.backbone(latents[:, now], torch.zeros_like(at), actions, memory)
        features.append(model.readout(hidden.tokens, hidden.recall))
        memory = hidden.memory
    return torch.cat(predicted, 1), torch.cat(features, 1)


@pytest.mark.parametrize("name", CASES)
def test_training_computes_what_a_dream_computes(name: str) -> None:
    config = teacher(**CASES[name])
    model, clips = random_model(config, 0), random_clips(config, [FRAMES] * 3, FRAMES, 1)
    drawn = model.draw(clips, generator(2))
    latents = model.encode(clips.frames)
    noised = add_noise(latents, drawn.level, drawn.noise)
    with torch.no_grad():
        past = Past(latents, torch.zeros_like(drawn.level), clips.actions, None, model.empty(3))
        found = streams(model.backbone, config, noised, drawn.level, drawn.halvings, past, carry=True)
        features = model.readout(found.clean, found.recall)
        predicted = clean_from(model.denoise(found.noised), noised, drawn.level, config.target)
    dreamt, observed = as_in_a_dream(model, clips, noised, drawn.level, drawn.halvings)
    assert_close(predicted, dreamt)
    assert_close(features, observed)
    seen, memory = model.observe(clips.frames, clips.actions)
    assert_close(features, seen.features)
    assert found.memory is not None
    assert_close(found.memory, memory)
    assert (predicted[:, 1:] - predicted[:, :1]).abs().max() > 0.1


def test_every_frame_carries_every_loss() -> None:
    """The losses by hand, from what a dream computes: all frames of the mask, and no others."""
    config, lengths = teacher(reward_weight=2.0), (6, 4, 1)
    model, clips = random_model(config, 0), random_clips(teacher(), lengths, FRAMES, 1)
    drawn = model.draw(clips, generator(2))
    assert not bool(drawn.clean.any())
    assert float(drawn.level.min()) > 0
    found = model(clips, drawn)
    noised = add_noise(model.encode(clips.frames), drawn.level, drawn.noise)
    predicted, features = as_in_a_dream(model, clips, noised, drawn.level, None)
    error = (predicted - model.encode(clips.frames)).square().mean((-1, -2)) / drawn.level.clamp(min=0.25) ** 2
    assert_close(found.diffusion.detach(), error[clips.mask].mean())
    ended = model.termination_head(features)[..., 0].sigmoid()
    right = torch.where(clips.terminated, ended, 1 - ended)[clips.mask]
    assert_close(found.termination.detach(), -right.log().mean())
    ahead = future_rewards(clips.rewards, clips.mask & (clips.actions >= 0), config.reward_horizon)
    logits = model.reward_head(features).unflatten(-1, (config.reward_horizon, -1))
    losses = model.twohot.loss(logits, ahead.rewards)[clips.mask[..., None] & ahead.exists]
    assert_close(found.reward.detach(), losses.mean())
    assert_close(found.total, found.diffusion + 2 * found.reward + found.termination)


@pytest.mark.parametrize("recompute", [False, True])
def test_gradients_reach_into_the_clean_frames(recompute: bool) -> None:
    """A noised frame learns what to keep of the frames before it, and no frame of the ones after it."""
    config = teacher()
    model, clips = random_model(config, 0), random_clips(config, [FRAMES], FRAMES, 1)
    model.backbone.recompute = recompute
    latents = model.encode(clips.frames).requires_grad_()
    level = torch.full((1, FRAMES), 0.5, dtype=torch.float64)
    noised = torch.randn(latents.shape, generator=generator(3), dtype=torch.float64)
    past = Past(latents, torch.zeros_like(level), clips.actions, None, model.empty(1))
    found = streams(model.backbone, config, noised, level, None, past)
    (gradient,) = torch.autograd.grad(found.noised[:, 3].square().sum(), latents)
    assert bool((gradient[:, :3].abs().amax((-1, -2)) > 1e-6).all())
    assert float(gradient[:, 3:].abs().max()) == 0


@pytest.mark.parametrize("piece", [1, 2, 5])
def test_interleaved_and_back(piece: int) -> None:
    one, other = torch.arange(20).reshape(2, 10), -torch.arange(20).reshape(2, 10)
    both = interleaved(one, other, piece)
    assert both[0, : 2 * piece].tolist() == [*range(piece), *(-i for i in range(piece))]
    assert torch.equal(torch.stack(deinterleaved(both, piece)), torch.stack([one, other]))


@pytest.mark.parametrize("piece", [1, 2, 3, 8])
def test_noised_pieces_continue_clean_ones(piece: int) -> None:
    """The convolution and the scan of each noised piece, by hand after the clean tokens before it."""
    source, count, width = generator(0), 3, 4

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=source, dtype=torch.float64)

    length = count * piece
    past, weight, bias = normal(2, width - 1, 5), normal(5, width), normal(5)
    noised, clean = normal(2, length, 5), normal(2, length, 5)
    found = convolve_copies(past, deinterleaved(interleaved(noised, clean, piece), piece), weight, bias, piece)
    assert_close(found.clean, convolve(past, clean, weight, bias))
    h, p, n = 2, 3, 4
    x, dt, B, C = normal(2, 2 * length, h, p), normal(2, 2 * length, h).exp(), *normal(2, 2, 2 * length, n)
    A, state = -normal(h).exp(), normal(2, n, h, p)
    scanned = scan_copies(x, dt, A, B, C, state, piece=piece)
    ours, parts = deinterleaved(scanned.y, piece), [deinterleaved(v, piece) for v in (x, dt, B, C)]
    for begin in range(0, length, piece):
        before = torch.cat([past, clean[:, :begin]], 1)[:, -(width - 1) :]
        now = slice(begin, begin + piece)
        assert_close(found.noised[:, now], convolve(before, noised[:, now], weight, bias))
        noised_now, clean_now = ([half[i][:, now] for half in parts] for i in (0, 1))
        x_, dt_, B_, C_ = noised_now
        assert_close(ours.noised[:, now], scan_sequential(x_, dt_, A, B_, C_, None, state).y)
        x_, dt_, B_, C_ = clean_now
        y, state = scan_sequential(x_, dt_, A, B_, C_, None, state)
        assert_close(ours.clean[:, now], y)
    assert_close(scanned.state, state)


@pytest.mark.parametrize("block", [None, 2, 4])
@pytest.mark.parametrize("rule", [Window(2, 1), Window(4, 2), Window(None, 1), Window(0, 2)])
def test_noised_frames_attend_to_themselves_and_to_clean_ones_before(rule: Window, block: int | None) -> None:
    source, past, frames, tokens = generator(0), 4, 8, 3

    def normal(count: int) -> Tensor:
        return torch.randn(2, count, tokens, 2, 8, generator=source, dtype=torch.float64)

    q, keys, values, own = normal(frames), normal(past + frames), normal(past + frames), KeyValues(normal(8), normal(8))
    seen = torch.tensor([4, 2])
    found = attend_sdpa(q, keys, values, seen, rule, own=own, block=block)
    first, end = visible(rule, past, frames, q.device)
    for row, absent in enumerate((0, 2)):
        for t in range(frames):
            start = int(end[t]) - rule.chunk
            near = range(max(int(first[t]), absent), start)
            mine = slice(start - past, start - past + rule.chunk)
            k, v = (torch.cat([a[row, list(near)], b[row, mine]]) for a, b in zip((keys, values), own, strict=True))
            scores = torch.einsum("shd,kthd->hskt", q[row, t], k) / 8**0.5
            weights = scores.flatten(2).softmax(-1).view_as(scores)
            assert_close(found[row, t], torch.einsum("hskt,kthd->shd", weights, v))
