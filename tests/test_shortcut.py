"""Large steps learn to arrive where two of half their size do, and nothing else changes."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.common.rng import row_generators
from lssvwm.worldmodel.config import WorldModelConfig
from lssvwm.worldmodel.diffusion.noise import Draw, add_noise, clean_from, euler_levels, euler_step
from lssvwm.worldmodel.diffusion.shortcut import Denoise, finest, halvings_of, two_half_steps, with_steps
from lssvwm.worldmodel.episodes import Clips
from lssvwm.worldmodel.model import WorldModel
from lssvwm.worldmodel.sampling import Sampler, Sampling, choose, named
from worlds import (
    assert_close,
    assert_same,
    generator,
    gradients,
    observe_in,
    random_actions,
    random_clips,
    random_frames,
    random_model,
    small_config,
)

FRAMES, LENGTHS = 7, (7, 7, 5, 7, 3, 7)
PLAIN = small_config()
TAUGHT = small_config(shortcut=4, shortcut_share=1.0)
STEP = "backbone.condition.step.weight"


def clips() -> Clips:
    return random_clips(PLAIN, LENGTHS, FRAMES, 1)


def stepless(model: WorldModel) -> WorldModel:
    """With an embedding of the steps as it begins."""
    with torch.no_grad():
        model.state_dict()[STEP].zero_()
    return model


def untaught(**changes: Any) -> tuple[WorldModel, WorldModel]:
    """A plain model, and the same under `shortcut` as training begins with it."""
    plain = random_model(replace(PLAIN, **changes), 0)
    taught = stepless(random_model(replace(plain.config, shortcut=4), 5))
    taught.load_state_dict({STEP: taught.state_dict()[STEP], **plain.state_dict()})
    return plain, taught


def drawn(config: WorldModelConfig, batch: int = 4000, frames: int = 8, seed: int = 0) -> Draw:
    like = torch.zeros((), dtype=torch.float64)
    level = torch.rand(batch, frames, generator=generator(9), dtype=torch.float64)
    clean = torch.arange(frames).expand(batch, frames) < 3
    nothing = torch.zeros(batch, frames, 1, 1)
    plain = Draw(level.masked_fill(clean, 0).to(like), clean, nothing, clean & False)
    return with_steps(plain, generator(seed), config)


# What is drawn


@pytest.mark.parametrize("shortcut", [2, 4, 16])
def test_noised_frames_of_taught_clips_stand_where_a_step_begins(shortcut: int) -> None:
    """Every size equally often, and of each every beginning, the level 1 of pure noise among them; never level 0."""
    found = drawn(small_config(shortcut=shortcut, shortcut_share=1.0))
    assert found.halvings is not None
    noised, sizes = ~found.clean, range(finest(shortcut) + 1)
    assert_same(found.level[found.clean], torch.zeros_like(found.level[found.clean]))
    assert bool((found.halvings[found.clean] == finest(shortcut)).all())
    for halvings in sizes:
        here = noised & (found.halvings == halvings)
        assert float(here.sum() / noised.sum()) == pytest.approx(1 / len(sizes), abs=0.02)
        starts = found.level[here] * 2**halvings
        counts = torch.bincount(starts.long(), minlength=2**halvings + 1)
        assert_same(starts, starts.round())
        assert int(counts[0]) == 0
        assert bool((counts[1:] > 0.6 * here.sum() / 2**halvings).all())


def test_sizes_and_levels_are_the_frames_own() -> None:
    """Those of a frame say nothing about those of the next; but a chunk, dreamt as one, has one of each."""
    found = drawn(TAUGHT)
    for value in (found.halvings, found.level):
        assert value is not None
        assert abs(float(torch.corrcoef(value[:, 4:6].double().T)[0, 1])) < 0.06
    joint = drawn(small_config(shortcut=4, shortcut_share=1.0, chunk=2, window=2))
    assert joint.halvings is not None
    for value in (joint.halvings, joint.level):
        assert_same(value[:, 4::2], value[:, 5::2])
    assert bool((joint.halvings[:, 4] != joint.halvings[:, 6]).any())


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_the_other_clips_are_as_they_were(share: float) -> None:
    """The share asked for, whole clips; all others keep their levels, under the finest step."""
    config = small_config(shortcut=4, shortcut_share=share)
    found, before = drawn(config), drawn(replace(config, shortcut_share=0.0))
    assert found.halvings is not None
    changed = (found.level != before.level).any(1)
    assert abs(float(changed.double().mean()) - share) <= 4 * math.sqrt(share * (1 - share) / 4000)
    assert bool((found.halvings[~changed] == 2).all())
    assert bool((found.level[~found.clean] > 0).all())


def test_a_model_that_is_taught_draws_what_a_plain_one_does() -> None:
    """What it draws besides comes after; so, too, with a generator for every row, whatever its neighbours do."""
    model, plain = random_model(replace(TAUGHT, shortcut_share=0.5), 0), random_model(PLAIN, 0)
    ours, theirs = model.draw(clips(), generator(3)), plain.draw(clips(), generator(3))
    for part in ("clean", "noise", "withheld"):
        assert_same(getattr(ours, part), getattr(theirs, part))
    assert theirs.halvings is None
    whole = model.draw(clips(), row_generators(3, 8, range(6), model.device))
    part = model.draw(clips().rows(slice(2, 5)), row_generators(3, 8, range(2, 5), model.device))
    for name, value in vars(part).items():
        if value is not None:
            assert_same(value, getattr(whole, name)[2:5])
    assert whole.halvings is not None
    taught = (whole.halvings < 2).any(1)
    assert bool(taught.any())
    assert not bool(taught.all())


# What is to be predicted


def test_two_half_steps_of_a_known_path() -> None:
    """Where frames are Gaussian, mean m and deviation s, the best prediction of x_0 is linear in x, and a step from
    level l to lower levels is that of x - m by factors known in closed form.
    """
    m, s = 0.7, 0.4

    def gain(level: float) -> float:  # E[x_0 - m | x] = gain * (x - (1 - level) * m)
        return (1 - level) * s**2 / ((1 - level) ** 2 * s**2 + level**2)

    def denoise(x: Tensor, level: Tensor, halvings: Tensor) -> Tensor:
        assert halvings.tolist() == [[2, 1, 2]]
        gains = torch.tensor([[gain(float(v)) for v in level[0]]], dtype=torch.float64)[..., None, None]
        return m + gains * (x - (1 - level[..., None, None]) * m)

    def slope(level: float) -> float:  # of the velocity (x - x_0) / level in x - (1 - level) * m
        return (1 - gain(level)) / level

    x = torch.randn(1, 3, 2, 2, generator=generator(0), dtype=torch.float64)
    level, halvings = torch.tensor([[0.5, 1.0, 0.25]], dtype=torch.float64), torch.tensor([[1, 0, 2]])
    found = two_half_steps(denoise, x, level, halvings, halvings < 2)
    for frame, (start, size) in enumerate([(0.5, 0.5), (1.0, 1.0)]):
        middle, end = start - size / 2, start - size
        off = x[0, frame] - (1 - start) * m  # the mean of what is at level l moves by itself: (1 - l) * m
        off = off * (1 - size / 2 * slope(start))
        off = off * (1 - size / 2 * slope(middle))
        arrived = off + (1 - end) * m
        assert_close(found[0, frame], arrived)  # both end at level 0, so x_0 is where they arrive
    quarter = two_half_steps(
        lambda x, level, halvings: denoise(x, level, torch.tensor([[2, 1, 2]])),
        x,
        torch.tensor([[1.0, 1.0, 0.25]], dtype=torch.float64),
        halvings,
        halvings < 2,
    )
    arrived = (x[0, 0]) * (1 - 0.25 * slope(1.0)) * (1 - 0.25 * slope(0.75)) + 0.5 * m
    assert_close(torch.lerp(quarter[0, 0], x[0, 0], 0.5), arrived)  # on the line from x to the x_0, half the way


def by_hand(model: WorldModel, given: Clips, told: Draw) -> list[Tensor]:
    """The loss of every noised frame within the mask, one clip, one frame and one step after the other."""
    config, errors = model.config, []
    latents = model.tokenizer.encode(given.frames)
    noised = add_noise(latents, told.level, told.noise)
    assert told.halvings is not None

    def walk(row: int, x: Tensor, levels: Tensor, halvings: Tensor) -> list[Tensor]:
        memory, predictions = model.empty(1), []
        for t in range(FRAMES):
            at = slice(t, t + 1)
            level = levels[None, at]
            action = given.actions[row : row + 1, at]
            tokens, _, after = model.backbone(x[None, at], level, action, memory, halvings=halvings[None, at])
            if config.forcing == "teacher":  # what is remembered is the frame itself
                after = model.backbone(latents[row : row + 1, at], torch.zeros_like(level), action, memory).memory
            memory = after
            predictions.append(clean_from(model.denoise(tokens), x[None, at], level, config.target)[0, 0])
        return predictions

    for row, length in enumerate(LENGTHS):
        levels, halvings = told.level[row], told.halvings[row]
        big = halvings < 2
        said = walk(row, noised[row], levels, halvings)
        x, middles = noised[row].clone(), levels.clone()
        for t, prediction in enumerate(walk(row, x, levels, halvings + big.long())):
            if big[t]:
                middles[t] = levels[t] - 0.5 ** (int(halvings[t]) + 1)
                x[t] = euler_step(noised[row, t], prediction, float(levels[t]), float(middles[t]))
        again = walk(row, x, middles, halvings + big.long())
        for t in range(length):
            if told.clean[row, t]:
                continue
            level, wanted = float(levels[t]), latents[row, t]
            if big[t]:
                size = 0.5 ** int(halvings[t])
                end = euler_step(x[t], again[t], float(middles[t]), level - size)
                wanted = noised[row, t] - level * (noised[row, t] - end) / size
            errors.append((said[t] - wanted).square().mean() / max(level, config.min_noise) ** 2)
    return errors


@pytest.mark.parametrize("target", ["x", "v"])
@pytest.mark.parametrize("forcing", ["teacher", "diffusion"])
@pytest.mark.parametrize("share", [0.5, 1.0])
def test_loss_by_hand(target: Any, forcing: Any, share: float) -> None:
    model = random_model(replace(TAUGHT, target=target, forcing=forcing, shortcut_share=share), 0)
    told = model.draw(clips(), generator(4))
    assert told.halvings is not None
    sizes = told.halvings[clips().mask & ~told.clean]
    assert {0, 1, 2} == set(sizes.tolist())
    with torch.no_grad():
        errors = by_hand(model, clips(), told)
        assert_close(model(clips(), told).diffusion, torch.stack(errors).mean())
    swapped = replace(told, halvings=torch.full_like(told.halvings, 2))
    assert not torch.isclose(model(clips(), swapped).diffusion, model(clips(), told).diffusion)


def test_gradients_flow_through_the_large_step_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """As when the predictions of both halves are constants."""
    model = random_model(TAUGHT, 0)
    told = model.draw(clips(), generator(3))
    found = gradients(model, model(clips(), told).total)
    kept: list[Tensor] = []

    def constants(denoise: Denoise, *args: Tensor) -> Tensor:
        with torch.no_grad():
            kept.append(two_half_steps(denoise, *args).clone())
        return kept[-1]

    monkeypatch.setattr("lssvwm.worldmodel.model.two_half_steps", constants)
    assert_close(gradients(model, model(clips(), told).total), found)
    assert not kept[0].requires_grad
    monkeypatch.setattr("lssvwm.worldmodel.model.two_half_steps", lambda *args: kept[0] + 1)
    assert not torch.allclose(gradients(model, model(clips(), told).total)["denoise.1.bias"], found["denoise.1.bias"])
    assert bool(found[STEP].any(1).all())


def test_only_taught_clips_cost_more(monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_model(replace(TAUGHT, shortcut_share=0.5), 0)
    told = model.draw(clips(), generator(3))
    assert told.halvings is not None
    rows, forward = [], type(model.backbone).forward

    def counted(backbone: Any, latents: Tensor, *args: Any, **options: Any) -> Any:
        rows.append(len(latents))
        return forward(backbone, latents, *args, **options)

    monkeypatch.setattr(type(model.backbone), "forward", counted)
    model(clips(), told)
    taught = int((told.halvings < 2).any(1).sum())
    assert 0 < taught < 6
    assert rows == [6, taught, taught]
    rows.clear()
    model(clips(), replace(told, halvings=torch.full_like(told.halvings, 2)))
    assert rows == [6]


def test_half_precision_loses_no_gradient() -> None:
    """Weights that are cast for passes without gradients must not serve the one with them."""
    model = random_model(replace(TAUGHT, forcing="diffusion", context_prob=1.0), 0).float()
    with torch.autocast("cpu", torch.bfloat16):
        losses = model.loss(replace(clips(), rewards=clips().rewards.float()), generator(3))
    for name, gradient in gradients(model, losses.total).items():
        assert bool(gradient.any()), name


# The model


def test_a_model_begins_as_the_plain_one_was() -> None:
    """Bit for bit: observed, dreamt in any number of steps, and in the loss of what is not taught."""
    plain, taught = untaught()
    source = generator(1)
    frames, actions = random_frames(PLAIN, 2, 5, source=source), random_actions(PLAIN, 2, 5, source=source)
    (seen, memory), (ours, our_memory) = observe_in(plain, frames, actions, []), observe_in(taught, frames, actions, [])
    assert_same(ours, seen)
    assert_same(our_memory, memory)
    for steps in (1, 2, 4, 5):
        with torch.no_grad():
            one, other = (
                model.imagine(torch.tensor([0, 1]), memory, steps=steps, generator=generator(2))
                for model in (plain, taught)
            )
        assert_same(other.memory, one.memory)
        assert_same(other.frame, one.frame)
    told = plain.draw(clips(), generator(3))
    finest_step = torch.full(told.level.shape, 2)
    assert_same(taught(clips(), replace(told, halvings=finest_step)), plain(clips(), told))


def test_a_new_model_has_no_preference() -> None:
    fresh = WorldModel(TAUGHT)
    assert fresh.state_dict()[STEP].shape == (3, TAUGHT.dim)
    assert not bool(fresh.state_dict()[STEP].any())
    assert STEP not in WorldModel(PLAIN).state_dict()


@pytest.mark.parametrize(("steps", "halvings"), [(1, 0), (2, 1), (4, 2), (5, 2), (8, 2), (9, 2)])
def test_dreams_are_told_their_steps(steps: int, halvings: int) -> None:
    """All denoising passes the size of their step, and the pass that commits the finest."""
    model, memory = random_model(TAUGHT, 0), random_model(TAUGHT, 0).empty(2)
    actions, noise = torch.tensor([[0], [1]]), torch.randn(2, 1, 8, 6, generator=generator(1), dtype=torch.float64)
    x = noise
    with torch.no_grad():
        for level, lower in pairwise(euler_levels(steps)):
            told = torch.full((2, 1), halvings)
            hidden = model.backbone(x, x.new_full((2, 1), level), actions, memory, halvings=told, advance=False)
            x = euler_step(x, model.denoise(hidden.tokens), level, lower)
        frames = model.denoised(noise, actions, memory, steps=steps)
        assert_same(frames, model.decode(x))
        dreamt = model.imagine(actions[:, 0], memory, steps=steps, generator=generator(1))
        shown = model.observe(dreamt.frame[:, None], actions, memory)[1]
    assert_same(dreamt.memory, shown)
    with torch.no_grad():
        model.state_dict()[STEP][halvings] += 1
        assert not torch.equal(model.denoised(noise, actions, memory, steps=steps), frames)
        assert torch.equal(model.observe(dreamt.frame[:, None], actions, memory)[1].frames, shown.frames)


def test_what_enters_memory_takes_the_finest_step() -> None:
    model = random_model(TAUGHT, 0)
    frames, actions = random_frames(PLAIN, 2, 5, source=generator(1)), torch.zeros(2, 5, dtype=torch.int64)
    before = observe_in(model, frames, actions, [])[0]
    with torch.no_grad():
        model.state_dict()[STEP][:2] += 1
        assert_same(observe_in(model, frames, actions, [])[0], before)
        model.state_dict()[STEP][2] += 1
        assert not torch.equal(observe_in(model, frames, actions, [])[0].features, before.features)


@pytest.mark.parametrize("steps", [3, 5, 6, 7])
def test_steps_that_were_not_taught(steps: int) -> None:
    """Refused before the dream begins, too."""
    model = random_model(replace(TAUGHT, shortcut=8), 0)
    message = rf"steps={steps}: this world model dreams in 1, 2, 4 steps, or in 8 or more"
    with pytest.raises(InputError, match=message):
        model.imagine(torch.tensor([0]), model.empty(1), steps=steps, generator=generator(0))
    with pytest.raises(InputError, match=message):
        Sampler(model, Sampling(steps=steps))
    assert halvings_of(steps, 0) is None


def test_sampling_of_a_taught_model() -> None:
    """One step unless told otherwise, and its own window even where speed is all that counts."""
    model = random_model(TAUGHT, 0)
    assert choose(model, 1) == Sampling(steps=1)
    assert choose(model, 1, steps=2) == Sampling(steps=2)
    assert named("realtime", model) == Sampling(steps=1)
    assert [Sampler(model, named(name, model)).sampling.steps for name in ("quality", "balanced")] == [8, 2]


# Settings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"shortcut": 1}, "shortcut=1: give a power of two"),
        ({"shortcut": 6}, "shortcut=6: give a power of two"),
        ({"shortcut": -4}, "shortcut=-4: give a power of two"),
        ({"shortcut_share": 1.5}, "shortcut_share=1.5: give a share"),
        ({"shortcut": 4, "target": "eps"}, "target='eps' with shortcut: .* use target='x' or 'v'"),
        ({"shortcut": 4, "weight": "eps"}, "weight='eps' with shortcut: .* use weight='velocity' or 'x'"),
        ({"shortcut": 4, "weight": "sigmoid"}, "weight='sigmoid' with shortcut"),
    ],
)
def test_settings_that_cannot_work(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        small_config(**settings)


def test_settings_travel_with_the_model() -> None:
    config = small_config(shortcut=8, shortcut_share=0.5)
    assert WorldModelConfig.from_dict(config.to_dict()) == config
    older = {name: value for name, value in PLAIN.to_dict().items() if not name.startswith("shortcut")}
    assert WorldModelConfig.from_dict(older) == PLAIN
