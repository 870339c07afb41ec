"""Small world models in which every parameter matters, frames and clips to try them on, and how to compare."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from lssvwm.worldmodel.config import WorldModelConfig
from lssvwm.worldmodel.episodes import NO_ACTION, Clips, Episode, EpisodeStore
from lssvwm.worldmodel.layers.dead_reckoning import DeadReckoning
from lssvwm.worldmodel.layers.memory import Memory
from lssvwm.worldmodel.model import Features, WorldModel

M = TypeVar("M", bound=torch.nn.Module)
TOLERANCE = {"rtol": 1e-9, "atol": 1e-9}


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def small_config(**changes: Any) -> WorldModelConfig:
    """Frames of 16 x 8 pixels, 4 x 2 tokens: not square, so that mixing up rows and columns shows."""
    settings: dict[str, Any] = {
        "height": 16,
        "width": 8,
        "num_actions": 3,
        "patch": 4,
        "latent_channels": 6,
        "dim": 32,
        "layers": 2,
        "heads": 2,
        "tiles": ((2, 1), (1, 1)),
        "window": 2,
        "state_size": 4,
        "head_dim": 16,
        "features": 12,
        "reward_horizon": 3,
    }
    return WorldModelConfig(**{**settings, **changes})


def randomised(build: Callable[[], M], seed: int) -> M:
    """What `build` returns, in float64, with random values for all parameters: the seed decides all of them.

    Those that start at zero or one would make many equalities trivial.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = build().double()
    source = generator(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            noise = torch.randn(parameter.shape, generator=source, dtype=torch.float64)
            if parameter.ndim > 1:
                parameter.copy_(noise * parameter[0].numel() ** -0.5)
            else:
                parameter.add_(0.3 * noise)
    return module


def random_model(config: WorldModelConfig, seed: int) -> WorldModel:
    """A float64 model with all parameters random and its tokenizer fitted to random frames."""
    model = randomised(lambda: WorldModel(config), seed).eval()
    source = generator(seed)
    model.tokenizer.fit(random_frames(config, 64, source=source))
    model.readout.standardise.mean.normal_(generator=source)
    model.readout.standardise.variance.uniform_(0.5, 2, generator=source)
    if isinstance(model.backbone.path, DeadReckoning):
        model.backbone.path.moves.normal_(generator=source)
    return model


def random_frames(config: WorldModelConfig, *lead: int, source: torch.Generator) -> Tensor:
    """Frames (*lead, h, w, 3) uint8 of patches in one colour each, with some noise."""
    coarse = torch.rand(*lead, *config.grid, 3, generator=source)
    coarse = coarse.repeat_interleave(config.patch, -3).repeat_interleave(config.patch, -2)
    fine = torch.rand(*lead, config.height, config.width, 3, generator=source)
    return (255 * (0.8 * coarse + 0.2 * fine)).to(torch.uint8)


def random_actions(config: WorldModelConfig, *shape: int, source: torch.Generator, begin: bool = True) -> Tensor:
    """Actions (B, T) int64; with `begin` frame 0 is the first of its episode."""
    actions = torch.randint(config.num_actions, shape, generator=source)
    if begin:
        actions[:, 0] = NO_ACTION
    return actions


def random_clips(config: WorldModelConfig, lengths: Sequence[int], frames: int, seed: int) -> Clips:
    """One clip of `frames` frames per entry of `lengths`, masked from there on; every other begins its episode.

    Frames, actions and rewards past the mask are random too. Floats are float64, as the models.
    """
    source, rows = generator(seed), len(lengths)
    actions = torch.randint(config.num_actions, (rows, frames), generator=source)
    actions[::2, 0] = NO_ACTION
    ends = torch.tensor(lengths)
    return Clips(
        frames=random_frames(config, rows, frames, source=source),
        actions=actions,
        rewards=torch.randn(rows, frames, generator=source, dtype=torch.float64),
        terminated=torch.rand(rows, frames, generator=source) < 0.4,
        mask=torch.arange(frames) < ends[:, None],
    )


@torch.no_grad()
def observe_in(
    model: WorldModel, frames: Tensor, actions: Tensor, cuts: Sequence[int], memory: Memory | None = None
) -> tuple[Features, Memory]:
    """`observe` in the segments between `cuts`, the features put together again."""
    parts = []
    for begin, end in pairwise([0, *cuts, frames.shape[1]]):
        seen, memory = model.observe(frames[:, begin:end], actions[:, begin:end], memory)
        parts.append(seen)
    assert memory is not None
    return Features(*(torch.cat([getattr(p, name) for p in parts], 1) for name in Features.__annotations__)), memory


def assert_close(actual: Any, expected: Any) -> None:
    """Equal up to float64 rounding: tensors, memories, features."""
    for name, tensor in named(expected).items():
        torch.testing.assert_close(named(actual)[name], tensor, **TOLERANCE, msg=lambda text, n=name: f"{n}: {text}")


def assert_same(actual: Any, expected: Any) -> None:
    """Equal bit for bit: tensors, memories, features, gradients by name; absent where the other is."""
    for name, tensor in named(expected).items():
        found = named(actual)[name]
        assert found is None if tensor is None else torch.equal(found, tensor), name


def named(value: Any) -> Mapping[str, Tensor]:
    if isinstance(value, Tensor):
        return {"value": value}
    if isinstance(value, Memory):
        return value.state_dict()
    if isinstance(value, Mapping):
        return value
    parts = {name: getattr(value, name) for name in type(value).__annotations__}
    return {name: part for name, part in parts.items() if part is not None}


def small_store(root: Path, episodes: int = 4, shortest: int = 6) -> EpisodeStore:
    """Episodes of 6 to 9 frames, written to `root`, the same ones every time; every other one terminates."""
    store, config = EpisodeStore(root, create=True), small_config()
    for number in range(episodes):
        frames = shortest + number % 4
        source, last = generator(number), torch.arange(frames) == frames - 1
        actions = random_actions(config, 1, frames, source=source)[0]
        episode = Episode(
            image=random_frames(config, frames, source=source).numpy(),
            action=actions.numpy(),
            reward=torch.where(torch.arange(frames) > 0, actions.float() - 1, 0.0).numpy(),
            terminated=(last & (number % 2 == 0)).numpy(),
            truncated=(last & (number % 2 == 1)).numpy(),
        )
        store.append(episode)
    return store


def gradients(model: torch.nn.Module, loss: Tensor) -> dict[str, Tensor]:
    """Gradients of `loss` by parameter name; zeros where it does not reach."""
    names, parameters = zip(*model.named_parameters(), strict=True)
    found = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
    return dict(zip(names, found, strict=True))
