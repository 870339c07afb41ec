"""What is learned from where: which frames carry which loss, and what must not leak into it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from lssvwm.worldmodel.config import WorldModelConfig
from lssvwm.worldmodel.diffusion.noise import Draw, add_noise
from lssvwm.worldmodel.episodes import NO_ACTION, Clips
from lssvwm.worldmodel.model import Losses, WorldModel, future_rewards, masked_sum
from worlds import (
    assert_close,
    assert_same,
    generator,
    gradients,
    observe_in,
    random_clips,
    random_model,
    small_config,
)

FRAMES, LENGTHS = 9, (9, 9, 6, 4, 8, 1)
CONFIG = small_config(forcing="diffusion")
ALWAYS, NEVER = replace(CONFIG, context_prob=1.0), replace(CONFIG, context_prob=0.0)
PARTS = ("total", "diffusion", "reward", "termination")


def clips(seed: int = 1) -> Clips:
    return random_clips(CONFIG, LENGTHS, FRAMES, seed)


def loss(config: WorldModelConfig, given: Clips, seed: int = 3) -> tuple[WorldModel, Losses]:
    model = random_model(config, 0)
    return model, model.loss(given, generator(seed))


def clean_frames(config: WorldModelConfig, seed: int = 3) -> Tensor:
    """Which frames of the batch above the loss leaves clean."""
    return random_model(config, 0).draw(clips(), generator(seed)).clean


@pytest.mark.parametrize("weight", [1.0, 2.5])
def test_total_is_the_weighted_sum(weight: float) -> None:
    _, losses = loss(replace(CONFIG, reward_weight=weight), clips())
    assert all(float(getattr(losses, part).detach()) > 0.01 for part in PARTS)
    assert all(getattr(losses, part).ndim == 0 for part in PARTS)
    assert_close(losses.total, losses.diffusion + weight * losses.reward + losses.termination)
    assert_same(losses.reward, loss(CONFIG, clips())[1].reward)


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("config", [CONFIG, ALWAYS, NEVER], ids=["half", "always", "never"])
def test_what_lies_past_the_mask_does_not_count(config: WorldModelConfig, training: bool) -> None:
    """Neither for the losses nor for any gradient nor for what is measured of features, whatever it holds."""
    one, other = clips(1), clips(2)
    past = ~one.mask
    mixed = Clips(
        frames=torch.where(past[..., None, None, None], other.frames, one.frames),
        actions=torch.where(past, 2 - one.actions.clamp(min=0), one.actions),
        rewards=torch.where(past, 1e6, one.rewards),
        terminated=one.terminated ^ past,
        mask=one.mask,
    )
    models = [random_model(config, 0).train(training) for _ in range(2)]
    found, expected = (model.loss(given, generator(3)) for model, given in zip(models, (mixed, one), strict=True))
    assert_close(found, expected)
    ours, theirs = gradients(models[0], found.total), gradients(models[1], expected.total)
    assert_close(ours, theirs)
    measured = random_model(config, 0).readout.standardise.mean
    for model in models:
        model.readout.standardise.update()
    assert_close(models[0].state_dict(), models[1].state_dict())
    assert torch.equal(models[0].readout.standardise.mean, measured) != (training and config.context_prob > 0)
    assert max(float(g.abs().max()) for g in theirs.values()) > 1e-2


@pytest.mark.parametrize("config", [CONFIG, ALWAYS, NEVER], ids=["half", "always", "never"])
def test_what_lies_within_the_mask_counts(config: WorldModelConfig) -> None:
    """The counterpart: flipping what the mask keeps changes each loss that can see it."""
    one = clips()
    _, before = loss(config, one)
    _, frames = loss(config, replace(one, frames=255 - one.frames))
    _, rewards = loss(config, replace(one, rewards=one.rewards + 1))
    _, ends = loss(config, replace(one, terminated=~one.terminated))
    assert float((frames.diffusion - before.diffusion).detach().abs()) > 1e-3
    read = config.context_prob > 0
    assert (float((rewards.reward - before.reward).detach().abs()) > 1e-3) == read
    assert (float((ends.termination - before.termination).detach().abs()) > 1e-3) == read
    assert_same(rewards.diffusion, before.diffusion)
    assert_same(ends.reward, before.reward)


def test_without_a_clean_prefix_the_heads_learn_nothing() -> None:
    model, losses = loss(NEVER, clips())
    assert float(losses.reward.detach()) == 0
    assert float(losses.termination.detach()) == 0
    found = gradients(model, losses.total)
    for name, gradient in found.items():
        assert bool(gradient.any()) != name.startswith(("readout.", "reward_head.", "termination_head.")), name


def test_heads_are_trained_where_they_are_read() -> None:
    """Their losses are those of what `observe` says about the clean frames, which it has seen alone."""
    given, (model, losses) = clips(), loss(ALWAYS, clips())
    clean = clean_frames(ALWAYS) & given.mask
    assert 10 < int(clean.sum()) < int(given.mask.sum())
    ends, rewards = [], []
    for row in range(len(LENGTHS)):
        part, count = slice(row, row + 1), int(clean[row].sum())
        seen, _ = observe_in(model, given.frames[part, :count], given.actions[part, :count], [])
        logits = model.reward_head(seen.features).unflatten(-1, (CONFIG.reward_horizon, -1))
        assert_close(seen.reward, model.twohot.mean(logits[:, :, 0]))
        for t in range(count):
            said, happened = seen.termination[0, t], bool(given.terminated[row, t])
            ends.append(-torch.log(said if happened else 1 - said))
            for j in range(CONFIG.reward_horizon):
                if t + j < LENGTHS[row] and given.actions[row, t + j] != NO_ACTION:
                    rewards.append(model.twohot.loss(logits[0, t, j], given.rewards[row, t + j]))
    assert_close(losses.termination, torch.stack(ends).mean())
    assert_close(losses.reward, torch.stack(rewards).mean())


def test_diffusion_loss_by_hand() -> None:
    """Each noised frame, after the frames before it as noisy as they were drawn: the velocity error, floored."""
    given, (model, losses) = clips(), loss(CONFIG, clips())
    drawn = model.draw(given, generator(3))
    level, clean = drawn.level, drawn.clean
    latents = model.tokenizer.encode(given.frames)
    noised = add_noise(latents, level, drawn.noise)
    assert bool(clean.any())
    assert bool((level[~clean] < CONFIG.min_noise).any())
    errors = []
    with torch.no_grad():
        for row, length in enumerate(LENGTHS):
            memory, part = model.empty(1), slice(row, row + 1)
            for t in range(length):
                at = slice(t, t + 1)
                tokens, _, memory = model.backbone(noised[part, at], level[part, at], given.actions[part, at], memory)
                if not clean[row, t]:
                    error = (model.denoise(tokens)[0, 0] - latents[row, t]).square().mean()
                    errors.append(error / max(float(level[row, t]), CONFIG.min_noise) ** 2)
    assert_close(losses.diffusion, torch.stack(errors).mean())


@pytest.mark.parametrize("part", ["reward", "termination"])
def test_heads_reach_back_into_memory(part: str) -> None:
    """Their losses train the backbone too, so that features carry what will matter."""
    model, losses = loss(ALWAYS, clips())
    found = gradients(model, getattr(losses, part))
    for name, gradient in found.items():
        unused = name.startswith(("denoise.", "reward_head." if part == "termination" else "termination_head."))
        assert bool(gradient.any()) != unused, name


def test_the_generator_decides() -> None:
    model = random_model(CONFIG, 0)
    first, again, other = (model.loss(clips(), generator(seed)).total for seed in (3, 3, 4))
    assert_same(first, again)
    assert not torch.equal(first, other)


def test_clips_as_they_are_recorded() -> None:
    """Rewards are float32 in episodes, whatever the precision of the model."""
    given = clips()
    single = replace(given, rewards=given.rewards.float())
    _, found = loss(CONFIG, single)
    _, expected = loss(CONFIG, replace(given, rewards=single.rewards.double()))
    assert_close(found, expected)


def test_a_masked_batch_costs_nothing() -> None:
    """Nothing is divided by zero where no frame counts."""
    given = replace(clips(), mask=torch.zeros(len(LENGTHS), FRAMES, dtype=torch.bool))
    model, losses = loss(CONFIG, given)
    assert float(losses.total.detach()) == 0
    assert not any(bool(g.any()) for g in gradients(model, losses.total).values())


@pytest.mark.parametrize("horizon", [1, 2, 3, 6])
def test_future_rewards_by_hand(horizon: int) -> None:
    """Two rows of five frames; the second begins an episode and ends after three frames."""
    rewards = torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0], [10.0, 20.0, 30.0, 40.0, 50.0]])
    exists = torch.tensor([[True] * 5, [False, True, True, False, False]])
    found = future_rewards(rewards, exists, horizon)
    assert found.rewards.shape == found.exists.shape == (2, 5, horizon)
    for b in range(2):
        for t in range(5):
            for j in range(horizon):
                there = t + j < 5 and bool(exists[b, t + j])
                assert bool(found.exists[b, t, j]) == there
                if there:
                    assert found.rewards[b, t, j] == rewards[b, t + j]


def test_masked_sum_does_not_look_at_the_rest() -> None:
    values = torch.tensor([1.0, torch.nan, torch.inf])
    assert float(masked_sum(values, torch.tensor([True, False, False]))) == 1.0


@pytest.mark.parametrize("cut", [1, 3, 5])
def test_parts_of_a_batch_add_up(cut: int) -> None:
    """With the counts of the whole batch: losses and gradients, though the parts hold different numbers of frames."""
    model = random_model(CONFIG, 0)
    given, drawn = clips(), model.draw(clips(), generator(3))
    counts = model.counts(given, drawn)
    whole = model(given, drawn)
    parts = []
    for rows in (slice(0, cut), slice(cut, None)):
        of_rows = Draw(drawn.level[rows], drawn.clean[rows], drawn.noise[rows], drawn.withheld[rows])
        parts.append(model(given.rows(rows), of_rows, counts))
    for name in PARTS:
        assert_close(getattr(whole, name), sum(getattr(part, name) for part in parts))
    assert_close(gradients(model, whole.total), gradients(model, parts[0].total + parts[1].total))


@pytest.mark.parametrize("target", ["x", "v", "eps"])
@pytest.mark.parametrize("weight", ["velocity", "x", "eps", "sigmoid"])
def test_every_target_under_every_weight(target: str, weight: str) -> None:
    """Finite losses and gradients, and another loss for each: nothing is ignored."""
    config = replace(CONFIG, target=target, weight=weight, context_prob=0.5)
    model, losses = loss(config, clips())
    assert all(bool(g.isfinite().all()) for g in gradients(model, losses.total).values())
    _, plain = loss(CONFIG, clips())
    same = (target, weight) == (CONFIG.target, CONFIG.weight)
    assert bool(torch.isclose(losses.diffusion, plain.diffusion)) == same


def test_cross_entropy_of_termination_does_not_overflow() -> None:
    """A model that is certain and wrong: the loss is large, not infinite."""
    model = random_model(ALWAYS, 0)
    with torch.no_grad():
        model.termination_head[-1].bias.fill_(1e4)
    given = clips()
    losses = model.loss(replace(given, terminated=torch.zeros_like(given.terminated)), generator(3))
    assert 1e3 < float(losses.termination.detach()) < 1e5
    with torch.no_grad():
        seen, _ = model.observe(given.frames, given.actions)
    assert_close(seen.termination, torch.ones_like(seen.termination))
    assert functional.binary_cross_entropy(seen.termination, torch.ones_like(seen.termination)) == 0
