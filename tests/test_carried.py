"""Training that carries memory from clip to clip: what is remembered, what is learned from it, and exact resume."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.config import WorldModelConfig
from lssvwm.worldmodel.diffusion.noise import Draw
from lssvwm.worldmodel.episodes import Clips, EpisodeStore
from lssvwm.worldmodel.episodes.retrace import Retraced
from lssvwm.worldmodel.layers.memory import Memory
from lssvwm.worldmodel.model import Losses, WorldModel
from lssvwm.worldmodel.training import STATE, Trainer, TrainingConfig
from trainers import TRAINING, assert_same_state, trainer
from worlds import (
    assert_close,
    assert_same,
    generator,
    gradients,
    random_clips,
    random_model,
    small_config,
    small_store,
)

CLIP = 6
CONFIGS = {
    "default": small_config(),
    "all frames": small_config(window=None),
    "no scan": small_config(scan="none", window=3),
    "no attention": small_config(window=0),
    "chunks": small_config(chunk=2, window=2),
    "shortcut": small_config(shortcut=4, shortcut_share=1.0),
    "diffusion": small_config(forcing="diffusion"),
    "always a prefix": small_config(forcing="diffusion", context_prob=1.0),
    "shortcut, diffusion": small_config(forcing="diffusion", shortcut=4, shortcut_share=1.0),
}
CARRY = replace(TRAINING, carry=0.8, length=4)
STILL = replace(CARRY, muon_lr=0.0, adam_lr=0.0, batch=4)
"""Of which memory can be checked: weights stay."""


@pytest.fixture(params=CONFIGS)
def model(request: pytest.FixtureRequest) -> WorldModel:
    return random_model(CONFIGS[request.param], 0).train()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> EpisodeStore:
    return small_store(tmp_path_factory.mktemp("episodes"), episodes=6, shortest=17)


def part(clips: Clips, begin: int, end: int) -> Clips:
    """The same frames of every clip."""
    return clips.map(lambda value: value[:, begin:end])


def carried(model: WorldModel, clips: Clips, length: int = CLIP, drawn: Draw | None = None) -> Memory:
    """The memory that is carried over clips of `length` frames."""
    memory: Memory | None = None
    for begin in range(0, clips.mask.shape[1], length):
        each = part(clips, begin, begin + length)
        memory = model(each, drawn or model.draw(each, generator(begin)), None, memory, True).memory
    assert memory is not None
    return memory


# The model


def test_carried_over_clips_is_observed_at_once(model: WorldModel) -> None:
    """What noise the clips were trained on leaves no trace."""
    clips = random_clips(model.config, (24, 24, 24), 24, 1)
    memory = carried(model, clips)
    assert not any(tensor.requires_grad for tensor in memory.state_dict().values())
    assert memory.frames.tolist() == [24] * 3
    assert_close(memory, model.observe(clips.frames, clips.actions)[1])
    assert_close(carried(model, clips, 12), memory)


def test_memory_is_told_what_the_pass_that_learns_is(model: WorldModel) -> None:
    """Actions that are withheld are withheld from both: the model learns to remember without; poses are told."""
    config = replace(model.config, action_dropout=1.0, pose_size=2)
    clips = random_clips(config, (12, 12), 12, 1)
    clips = replace(clips, pose=torch.randn(2, 12, 2, generator=generator(5), dtype=torch.float64))
    posed = random_model(config, 0).train()
    untold = torch.full_like(clips.actions, -1)
    assert_close(carried(posed, clips), posed.observe(clips.frames, untold, pose=clips.pose)[1])


def joined(first: Draw, second: Draw) -> Draw:
    """The draw of clips whose first part is clean, told all, and teaches nothing."""
    clean = {
        "level": torch.zeros_like(first.level),
        "clean": torch.ones_like(first.clean),
        "noise": first.noise,
        "withheld": torch.zeros_like(first.withheld),
        "halvings": None if first.halvings is None else torch.full_like(first.halvings, 2),
    }
    both = {
        name: None if value is None else torch.cat([value, getattr(second, name)], 1) for name, value in clean.items()
    }
    return Draw(**both)  # type: ignore[arg-type]


def test_losses_are_those_of_the_second_part_of_a_clip(model: WorldModel) -> None:
    """Of clips twice as long whose first part is clean and masked: what a clip makes of the memory it begins from."""
    clips = random_clips(model.config, (12, 12, 9, 12), 12, 1)
    first, second = part(clips, 0, CLIP), part(clips, CLIP, 12)
    draws = [model.draw(each, generator(seed)) for seed, each in ((2, first), (3, second))]
    memory = model(first, draws[0], None, None, True).memory
    found = model(second, draws[1], None, memory)
    mask = clips.mask & (torch.arange(12) >= CLIP)
    expected = model(replace(clips, mask=mask), joined(*draws))
    assert_close(parts(found), parts(expected))
    assert found.memory is None
    alone = model(second, draws[1])
    for name, value in parts(alone).items():
        if model.config.scan == "none" and name != "diffusion":
            continue  # a window of three frames ends within the prefix for many of them
        assert float((value - parts(found)[name]).abs()) > 1e-6, name


def parts(losses: Losses) -> dict[str, Tensor]:
    return {name: getattr(losses, name).detach() for name in ("total", "diffusion", "reward", "termination")}


def test_gradients_end_at_the_clips_beginning(model: WorldModel) -> None:
    """They are those of a clip that begins from this memory as from a constant, and carrying on changes none."""
    clips = random_clips(model.config, (12, 12, 9, 12), 12, 1)
    memory, second = carried(model, part(clips, 0, CLIP)), part(clips, CLIP, 12)
    drawn = model.draw(second, generator(3))
    kept = memory.clone()
    found = [gradients(model, model(second, drawn, None, memory, carry).total) for carry in (False, True)]
    assert_same(found[1], found[0])
    assert_same(memory, kept)


def test_a_first_frame_has_an_action_and_a_reward(model: WorldModel) -> None:
    """In a clip that goes on; the first frame of an episode has neither."""
    clips = random_clips(model.config, (CLIP,) * 2, CLIP, 1)
    assert clips.actions[:, 0].tolist()[0] == -1
    drawn = replace(model.draw(clips, generator(0)), clean=torch.ones(2, CLIP, dtype=torch.bool))
    horizon = model.config.reward_horizon
    whole = sum(min(horizon, CLIP - t) for t in range(CLIP))
    assert int(model.counts(clips, drawn).reward) == 2 * whole - 1


def test_context_noise_is_declared(model: WorldModel) -> None:
    """Each row's clip enters memory noised to a level of its own, as `observe(noise=)` lets it."""
    noisy = random_model(replace(model.config, context_noise=0.3), 0).train()
    clips = random_clips(model.config, (CLIP,) * 3, CLIP, 1)
    drawn = noisy.draw(clips, generator(3))
    plain = model.draw(clips, generator(3))
    assert_same(drawn.level, plain.level) if not model.config.shortcut else None
    assert plain.context is None
    assert drawn.context is not None
    levels = noisy.draw(random_clips(model.config, (CLIP,) * 400, CLIP, 1), generator(1)).context
    assert levels is not None
    assert 0 <= float(levels.min()) < 0.01 < 0.29 < float(levels.max()) < 0.3
    memory = carried(noisy, clips, drawn=drawn)
    shape = tuple(drawn.noise.shape)
    noise = torch.randn(shape, generator=generator(9), dtype=torch.float64)
    again = carried(noisy, clips, drawn=replace(drawn, noise=noise))
    for row in range(3):
        level = float(drawn.context[row])
        _, observed = noisy.observe(clips.frames, clips.actions, noise=level, generator=generator(9))
        assert_close(again.select(slice(row, row + 1)), observed.select(slice(row, row + 1)))
    assert not torch.allclose(memory.layers[0].tensors()[1], again.layers[0].tensors()[1])
    same = parts(noisy(clips, drawn)) == parts(model(clips, replace(drawn, context=None)))
    assert same == (model.config.forcing == "diffusion")  # with teacher forcing it is what frames are denoised from


@pytest.mark.parametrize("forcing", ["teacher", "diffusion"])
def test_half_precision_loses_no_gradient_and_carries_whole_numbers(forcing: str) -> None:
    """Autocast keeps the weights that it casts: those of the pass without gradients must not come first."""
    single = WorldModel(small_config(forcing=forcing)).train()
    single.tokenizer.fitted.fill_(True)
    clips = random_clips(single.config, (CLIP,) * 3, CLIP, 1)
    clips = replace(clips, rewards=clips.rewards.float())
    found = []
    for carry in (False, True):
        with torch.autocast("cpu", torch.bfloat16):
            losses = single(clips, single.draw(clips, generator(0)), None, None, carry)
        found.append(gradients(single, losses.total))
    assert_same(found[1], found[0])
    assert {t.dtype for t in losses.memory.state_dict().values()} == {torch.float32, torch.int64}
    again = model_after(single, clips, losses.memory)
    assert bool(torch.isfinite(again.total))


def model_after(model: WorldModel, clips: Clips, memory: Memory) -> Losses:
    with torch.autocast("cpu", torch.bfloat16):
        found: Losses = model(clips, model.draw(clips, generator(1)), None, memory, True)
    return found


# The training


def begun(store: EpisodeStore, out: Path, config: TrainingConfig, model: WorldModelConfig | None = None) -> Trainer:
    """In float64."""
    exact = random_model(model or small_config(), 0)
    return Trainer(exact, store, config, out, world={})


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("name", ["default", "all frames"])
def test_rows_remember_their_episodes(store: EpisodeStore, tmp_path: Path, name: str, accumulate: int) -> None:
    """Each what its row has read since it began anew, through clips of changing length."""
    config = replace(STILL, accumulate=accumulate, curriculum="4:5,6:4,3:1")
    trained = begun(store, tmp_path, config, CONFIGS[name])
    assert trained.carried is not None
    since: list[Any] = [None] * config.batch
    ages = []
    for step in range(12):
        for row, window in enumerate(trained.carried.clips.windows(step)):
            if not window.carried:
                since[row] = window.place
        start = trained.carried.start(step)
        parts = trained.parts()
        assert [one.memory is None for one in parts] == [start is None] * accumulate
        for row, place in enumerate(since):
            read = trained.carried.clips.windows(step)[row].place.frame - place.frame
            ages.append(read)
            if start is not None:
                assert int(start.frames[row]) == read
            if read:
                clips = store.clip(place, read)
                _, expected = trained.model.observe(clips.frames, clips.actions)
                assert_close(start.select(torch.tensor([row])), expected)
        trained.train(step + 1, progress=False)
    assert max(ages) > 12
    assert ages.count(0) > 5


def test_training_goes_on_from_what_was_carried(store: EpisodeStore, tmp_path: Path) -> None:
    """The losses of the step are those of its clips from that memory, whatever the parts it is computed in."""
    found = []
    for accumulate in (1, 2, 4):
        trained = begun(store, tmp_path / str(accumulate), replace(CARRY, batch=4, accumulate=accumulate))
        trained.train(6, progress=False)
        found.append({**trained.model.state_dict(), "loss": torch.tensor(trained.recent[-1]["loss"])})
    assert_close(found[1], found[0])
    assert_close(found[2], found[0])
    plain = begun(store, tmp_path / "plain", replace(CARRY, batch=4, carry=0.0))
    plain.train(6, progress=False)
    assert plain.recent[-1]["loss"] != pytest.approx(float(found[0]["loss"]), rel=1e-3)


@pytest.mark.parametrize("name", ["default", "all frames"])
def test_it_goes_on_in_the_middle_of_episodes(store: EpisodeStore, tmp_path: Path, name: str) -> None:
    """Bit for bit, from other first weights, with workers or without, and after lengths have changed."""
    config = replace(CARRY, curriculum="4:3,5:9")
    whole = trainer(store, tmp_path / "whole", config, CONFIGS[name])
    whole.train(9, progress=False)
    assert whole.carried is not None
    expected = whole.carried.state_dict(9)
    assert expected["memory"] is not None
    for stop, workers in ((1, 0), (5, 2), (9, 1)):
        seed = 0 if stop == 1 else stop
        again = trainer(store, tmp_path / "parts", replace(config, workers=workers), CONFIGS[name], seed=seed)
        again.train(stop, progress=False)
    stopped = trainer(store, tmp_path / "parts", config, CONFIGS[name], seed=9)
    assert_same_state(stopped, whole)
    assert stopped.carried is not None
    found = stopped.carried.state_dict(9)
    assert found["places"] == expected["places"]
    assert_same(found["memory"], expected["memory"])
    assert stopped.train(11, progress=False) == whole.train(11, progress=False)


def test_interrupted_it_goes_on_alike(store: EpisodeStore, tmp_path: Path) -> None:
    whole = trainer(store, tmp_path / "whole", CARRY)
    whole.train(7, progress=False)
    first = trainer(store, tmp_path / "parts", CARRY)
    average = first.update_average

    def tell() -> None:
        average()
        if first.step == 4:
            signal.raise_signal(signal.SIGINT)

    first.update_average = tell  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        first.train(7, progress=False)
    again = trainer(store, tmp_path / "parts", CARRY, seed=1)
    assert again.step == 4
    again.train(7, progress=False)
    assert_same_state(again, whole)


def test_what_was_skipped_is_forgotten(store: EpisodeStore, tmp_path: Path) -> None:
    """Memory after a step without a finite gradient may hold anything."""
    trained = trainer(store, tmp_path, replace(CARRY, carry=1.0))
    trained.train(3, progress=False)
    assert trained.carried is not None
    assert trained.carried.start(3) is not None
    backward = trained.backward

    def spoilt(parts: Sequence[Any]) -> Losses:
        losses = backward(list(parts))
        trained.model.backbone.position.grad.view(-1)[0] = torch.nan
        return losses

    trained.backward = spoilt  # type: ignore[method-assign,assignment]
    trained.train(4, progress=False)
    assert trained.recent[-1]["skipped"] == 1
    assert trained.carried.start(4) is None
    trained.backward = backward  # type: ignore[method-assign]
    trained.train(6, progress=False)
    assert trained.recent[-1]["skipped"] == 0


def test_episodes_within_a_clip_cost_no_second_pass(
    store: EpisodeStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is carried where no row goes on."""
    calls: list[bool] = []
    forward = WorldModel.forward

    def noted(self: WorldModel, clips: Clips, drawn: Draw, counts: Any, memory: Any, carry: bool) -> Losses:
        calls.append(carry)
        return forward(self, clips, drawn, counts, memory, carry)

    monkeypatch.setattr(WorldModel, "forward", noted)
    trainer(store, tmp_path / "a", replace(CARRY, length=20, carry=1.0)).train(3, progress=False)
    assert calls == [False] * 3
    trainer(store, tmp_path / "b", replace(CARRY, carry=1.0)).train(3, progress=False)
    assert calls[3:] == [True] * 3


def test_a_state_that_carries_something_else_is_named(store: EpisodeStore, tmp_path: Path) -> None:
    trainer(store, tmp_path / "a", CARRY).train(3, progress=False)
    state = torch.load(tmp_path / "a" / STATE, weights_only=True)
    with pytest.raises(InputError, match=r"carry \(0\.8 there, 0\.5 here\)"):
        trainer(store, tmp_path / "a", replace(CARRY, carry=0.5))
    memory = {name: tensor for name, tensor in state["carried"]["memory"].items() if "layers.0" not in name}
    (tmp_path / "b").mkdir()
    for damaged in ({"memory": memory}, {"places": state["carried"]["places"][:1]}, {"places": 3}):
        torch.save({**state, "carried": {**state["carried"], **damaged}}, tmp_path / "b" / STATE)
        with pytest.raises(InputError, match=r"memory snapshot|training\.pt cannot be read"):
            trainer(store, tmp_path / "b", CARRY)


def test_settings_that_cannot_work(store: EpisodeStore, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"carry=1\.5: give a share of the clips"):
        TrainingConfig(carry=1.5)
    with pytest.raises(InputError, match=r"context_noise=1\.0: give a noise level"):
        small_config(context_noise=1.0)
    with pytest.raises(InputError, match=r"carry=0\.8 reads on through whole episodes, which Retraced does not"):
        trainer(Retraced(store), tmp_path, CARRY)
