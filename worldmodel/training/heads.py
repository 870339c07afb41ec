"""Fit what reads rewards and ends to all that was recorded, with the layers as they are.

In the clips of the world model's training, the frames that decide are rare: a reward or an end stands in one frame of
hundreds (and with diffusion forcing is read only where it falls into a clean prefix). Heads that see a handful of them
per hundred steps do not find what depends on memory, such as whether the object in front is the one that was shown long
ago. Here whole episodes are observed once, and the heads are fitted to what the layers made of them, rare frames as
often as common ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from lssvwm.worldmodel.common.errors import InputError, check_fields, check_least
from lssvwm.worldmodel.common.gradients import Skipping
from lssvwm.worldmodel.common.progress import counted
from lssvwm.worldmodel.episodes import Clips, EpisodeStore
from lssvwm.worldmodel.episodes.data import led_here
from lssvwm.worldmodel.heads import future_rewards
from lssvwm.worldmodel.layers.memory import Memory
from lssvwm.worldmodel.model import WorldModel

ROWS, SEGMENT = 16, 64
"""Episodes that are observed at once, and how many frames of each in one call."""


@dataclass(frozen=True)
class HeadsConfig:
    """How the heads are fitted after the world model's training."""

    steps: int = 1500
    """Gradient steps on frames of all kinds alike; 0 leaves the heads as joint training left them."""
    calibration: int = 500
    """Gradient steps after those in which every frame counts as often as it was recorded: what looks like an event once
    in a hundred times is then worth a hundredth of it, and not a half."""
    batch: int = 192
    """Frames per step, a third of each kind: with an event, shortly before one, and all others."""
    observed: int = 200_000
    """Most frames that are observed; of a larger store, so many frames of episodes drawn at random."""
    dreamt: int = 0
    """Frames that the world model dreams on along the recorded actions after every 64 that it has observed. Heads are
    fitted to them too, and told what was recorded there: what looks like a reward in dreams and is none for real, or
    comes by luck, is then worth what it was worth. 0: real frames alone."""
    kept: int = 20_000
    """Most real frames that the heads are fitted to; dreamt ones come on top. Each takes 4 bytes times the width of the
    read-out's input."""
    dropout: float = 0.5
    """Share of the read-out's inputs that is left out in every step, for each frame another: a few hundred events are
    soon known by heart."""
    lr: float = 1e-3
    """Learning rate of AdamW."""
    weight_decay: float = 0.1
    """Weight decay of AdamW."""

    def __post_init__(self) -> None:
        check_fields(self, "heads.")
        check_least(self, 0, "steps", "dreamt", prefix="heads.")
        if not 0 <= self.dropout < 1:
            raise InputError(f"heads.dropout={self.dropout}: give a share from 0 to below 1")
        for name in ("batch", "observed", "kept"):
            if getattr(self, name) < 3:
                raise InputError(f"heads.{name}={getattr(self, name)}: give at least 3, one for each kind of frame")


@dataclass(frozen=True)
class Examples:
    """n frames: what the read-out was given there, and what is to be read. R rewards ahead of each."""

    inputs: Tensor  # (n, I)
    rewards: Tensor  # (n, R)
    exists: Tensor  # (n, R) bool
    terminated: Tensor  # (n,) bool
    kind: Tensor  # (n,) 2: the frame itself has a reward or an end, 1: one of the R - 1 frames after it, 0: neither
    weight: Tensor  # (n,) how many recorded frames it stands for

    @classmethod
    def cat(cls, parts: list[Examples]) -> Examples:
        """All of them."""
        names = ("inputs", "rewards", "exists", "terminated", "kind", "weight")
        return cls(*(torch.cat([getattr(part, name) for part in parts]) for name in names))


def fit_heads(
    model: WorldModel,
    store: EpisodeStore,
    config: HeadsConfig,
    *,
    seed: int,
    progress: bool = True,
    between: Callable[[], None] = lambda: None,
) -> dict[str, float]:
    """Fit the read-out's last layer and the heads of `model` in place; returns their losses at the end.

    `between` is called where the work may be interrupted; `model` is then as it was.
    """
    if not config.steps:
        return {}
    examples = collect(model, store, config, np.random.default_rng((seed, 0)), progress=progress, between=between)
    examples = Examples(**{name: value.to(model.device) for name, value in vars(examples).items()})
    before = {name: value.clone() for name, value in model.state_dict().items()}
    learnt = [parameter for part in model.heads for parameter in part.parameters()]
    fixed = [p.requires_grad for p in learnt]
    try:
        return _fit(model, examples, config, torch.Generator().manual_seed(seed), progress, between)
    except BaseException:
        model.load_state_dict(before)
        raise
    finally:
        for parameter, required in zip(learnt, fixed, strict=True):
            parameter.grad = None
            parameter.requires_grad_(required)


def _fit(
    model: WorldModel,
    examples: Examples,
    config: HeadsConfig,
    generator: torch.Generator,
    progress: bool,
    between: Callable[[], None],
) -> dict[str, float]:
    readout = model.readout
    share = (examples.weight / examples.weight.sum())[:, None]
    readout.standardise.mean.copy_((share * examples.inputs).sum(0))
    spread = (examples.inputs - readout.standardise.mean).square()
    readout.standardise.variance.copy_((share * spread).sum(0))
    learnt = [parameter for part in model.heads for parameter in part.parameters()]
    optimizer = torch.optim.AdamW(learnt, lr=config.lr, weight_decay=config.weight_decay)
    groups = [group for kind in range(3) if len(group := torch.nonzero(examples.kind == kind)[:, 0])]
    # How much more often a frame was recorded than it is drawn.
    drawn = torch.stack([(examples.kind == kind).sum() for kind in range(3)]).clamp(min=1)
    counts = examples.weight * drawn[examples.kind]
    counts = counts / torch.stack([counts[group].mean() for group in groups]).mean()
    recent: list[Tensor] = []
    skipping = Skipping("lower heads.lr")
    with torch.enable_grad():
        for parameter in learnt:
            parameter.requires_grad_(True)
        for step in counted(range(config.steps + config.calibration), "heads", "step", show=progress):
            between()
            skipping.check()
            rows = torch.cat([draw(group, config.batch // len(groups), generator) for group in groups])
            inputs = readout.standardise(examples.inputs[rows])
            stays = torch.rand(inputs.shape, generator=generator) >= config.dropout
            features = readout.mix(inputs * stays.to(inputs) / (1 - config.dropout))
            logits = model.reward_head(features).unflatten(-1, (examples.rewards.shape[1], -1))
            weight = counts[rows] if step >= config.steps else torch.ones_like(counts[rows])
            losses = torch.where(examples.exists[rows], model.twohot.loss(logits, examples.rewards[rows]), 0.0).sum(-1)
            reward = (weight * losses).mean()
            ended = examples.terminated[rows].to(features.dtype)
            termination = functional.binary_cross_entropy_with_logits(
                model.termination_head(features)[:, 0], ended, weight
            )
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(reward + termination)
            if skipping.usable(nn.utils.clip_grad_norm_(learnt, 1.0)):
                optimizer.step()
                recent = [*recent[-99:], torch.stack([reward, termination]).detach()]
    if not recent:
        raise InputError("no step of fitting the heads had a finite gradient: lower heads.lr")
    reward, termination = torch.stack(recent).mean(0).tolist()
    return {"heads_reward": reward, "heads_termination": termination, "heads_frames": float(len(examples.kind))}


def draw(group: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """`count` entries of `group`, with repetition."""
    return group[torch.randint(len(group), (count,), generator=generator).to(group.device)]


@torch.no_grad()
def collect(
    model: WorldModel,
    store: EpisodeStore,
    config: HeadsConfig,
    generator: np.random.Generator,
    *,
    progress: bool = False,
    between: Callable[[], None] = lambda: None,
) -> Examples:
    """Observe whole episodes and keep what the read-out is given, at most `kept` frames, a third of each kind.

    With `dreamt`, dreams along the recorded actions branch off between segments, the first of which is of any length.
    """
    if config.dreamt and model.config.chunk > 1:
        raise InputError(f"heads.dreamt={config.dreamt} dreams frame by frame, this model in chunks: give 0")
    drawn = generator.permutation(len(store))
    drawn = drawn[: max(1, int(np.searchsorted(store.lengths[drawn].cumsum(), config.observed, side="right")))]
    kinds = {row: kinds_of(store, int(row), model.config.reward_horizon) for row in drawn}
    counts = np.bincount(np.concatenate(list(kinds.values())), minlength=3)
    rates = np.minimum(1.0, config.kept / 3 / np.maximum(counts, 1))
    kept = {row: generator.random(len(kind)) < rates[kind] for row, kind in kinds.items()}
    found: list[Examples] = []
    was_training = model.training
    model.eval()
    try:
        # Rows of like length waste no frames on padding.
        order = drawn[np.argsort(store.lengths[drawn], kind="stable")]
        for at in counted(range(0, len(order), ROWS), "frames for the heads", "batch", show=progress):
            found.extend(_observed(model, store, order[at : at + ROWS], config, generator, kinds, kept, rates, between))
    finally:
        model.train(was_training)
    return Examples.cat(found)


def _observed(
    model: WorldModel,
    store: EpisodeStore,
    rows: NDArray[np.int64],
    config: HeadsConfig,
    generator: np.random.Generator,
    kinds: dict[int, NDArray[np.int64]],
    kept: dict[int, NDArray[np.bool_]],
    rates: NDArray[np.float64],
    between: Callable[[], None],
) -> Iterator[Examples]:
    chunk = model.config.chunk  # memory is written by whole ones
    longest, segment = -(-int(store.lengths[rows].max()) // chunk) * chunk, max(1, SEGMENT // chunk) * chunk
    clips = store.gather(rows, np.zeros(len(rows), np.int64), longest)
    if chunk > 1:  # frames of a chunk see each other: what fills up the last one must not tell that nothing follows
        for row, frames in enumerate(store.lengths[rows].tolist()):
            clips.frames[row, frames:] = clips.frames[row, frames - 1]
    exists = clips.mask & led_here(clips.actions)
    ahead = future_rewards(clips.rewards, exists, model.config.reward_horizon)
    kind, keep = (torch.zeros(clips.mask.shape, dtype=t) for t in (torch.int64, torch.bool))
    for i, row in enumerate(rows):
        kind[i, : len(kinds[row])] = torch.from_numpy(kinds[row])
        keep[i, : len(kept[row])] = torch.from_numpy(kept[row])

    def told(inputs: Tensor, part: slice, chosen: Tensor) -> Examples:
        return Examples(
            inputs.cpu()[chosen],
            ahead.rewards[:, part][chosen],
            ahead.exists[:, part][chosen],
            clips.terminated[:, part][chosen],
            kind[:, part][chosen],
            torch.from_numpy(1 / rates)[kind[:, part][chosen]].to(inputs.dtype),
        )

    ends = np.arange(segment, longest + segment, segment)
    if config.dreamt:
        ends = np.append(np.arange(generator.integers(1, min(SEGMENT, longest)), longest, SEGMENT), longest)
    memory, begin = None, 0
    for end in ends.tolist():
        between()
        part = slice(begin, end)
        here = clips.span(part).to(model.device)
        seen, memory = model.observe(here.frames, here.actions, memory, pose=model.told_pose(here), **here.goals)
        yield told(seen.inputs, part, keep[:, part])
        begin = end
        part = slice(end, min(end + config.dreamt, longest))
        if config.dreamt and part.start < part.stop:
            between()
            drawn = torch.from_numpy(generator.random(kind[:, part].shape) < rates[kind[:, part].numpy()])
            yield told(_dreamt(model, clips, part, memory, generator), part, drawn & clips.mask[:, part])


def _dreamt(model: WorldModel, clips: Clips, part: slice, memory: Memory, generator: np.random.Generator) -> Tensor:
    """What the read-out is given in dreams from `memory` along the recorded actions of `part`, (B, n, I)."""
    noise, inputs = torch.Generator(model.device).manual_seed(int(generator.integers(2**63))), []
    for at in range(part.start, part.stop):
        pose = model.told_pose(clips)
        pose = None if pose is None else pose[:, at].to(model.device)
        imagined = model.imagine(clips.actions[:, at].to(model.device), memory, generator=noise, pose=pose)
        assert imagined.inputs is not None
        inputs.append(imagined.inputs)
        memory = imagined.memory
    return torch.stack(inputs, 1)


def kinds_of(store: EpisodeStore, row: int, horizon: int) -> NDArray[np.int64]:
    """The kind of every frame of an episode, as in `Examples`, (T + 1,)."""
    arrays = store.read_arrays(store.names[row], ("reward", "terminated"))  # not the frames
    event = (arrays["reward"] != 0) | arrays.get("terminated", False)
    soon = np.lib.stride_tricks.sliding_window_view(np.pad(event, (0, horizon - 1)), horizon).any(1)
    return np.asarray(event.astype(np.int64) + soon)
