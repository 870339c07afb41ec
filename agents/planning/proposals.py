"""What plans are drawn from: categorical for choices, normal within a box for other numbers, every step on its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from lssvwm.agents.dreamer.action_head import NetworkActions


def around(known: Tensor, actions: NetworkActions) -> Distribution:
    """The first distribution, around plans (N, H) or (N, H, A) as far as they say something."""
    if actions.num_actions:
        return Categorical.of(known, actions.num_actions)
    box = torch.tensor([actions.low, actions.high], device=known.device)
    if not actions.choices:
        return Gaussian.of(known, box)
    parts: list[Categorical | Gaussian] = []
    for number, choices in enumerate(actions.choices):
        own = known[..., number]
        if choices:
            parts.append(Categorical.of(torch.where(own.isnan(), -1, own).long(), choices))
        else:
            parts.append(Gaussian.of(own[..., None], box[:, number, None]))
    return Factored(tuple(parts))


class Distribution(Protocol):
    """Over plans, every step on its own. What a row draws follows from its own generator."""

    def draw(self, generators: Sequence[np.random.Generator], count: int) -> Tensor:
        """`count` plans for each row, (N, count, H) or (N, count, H, A)."""
        ...

    def fitted(self, elites: Tensor, momentum: float) -> Distribution:
        """Moved to plans (N, E, ...) that were good; `momentum` of it stays where it is."""
        ...

    def mode(self) -> Tensor:
        """The likeliest plans, (N, H) or (N, H, A)."""
        ...


@dataclass(frozen=True)
class Categorical:
    """Plans of discrete actions."""

    probs: Tensor  # (N, H, A)

    @classmethod
    def of(cls, known: Tensor, actions: int) -> Categorical:
        """Even where plans (N, H) are open; elsewhere half of the probability is on what they say."""
        even = torch.full((*known.shape, actions), 1 / actions, device=known.device)
        said = functional.one_hot(known.clamp(min=0), actions).to(even)
        return cls(torch.where(is_open(known)[..., None], even, (even + said) / 2))

    def beginning(self, allowed: Tensor) -> Categorical:
        """The same with a first action that is `allowed`, (N, A) bool."""
        first = self.probs[:, 0] * allowed
        return Categorical(torch.cat([(first / first.sum(-1, keepdim=True))[:, None], self.probs[:, 1:]], 1))

    def draw(self, generators: Sequence[np.random.Generator], count: int) -> Tensor:
        """By the inverse of the cumulative distribution, (N, count, H)."""
        rows, horizon, _ = self.probs.shape
        draws = np.stack([g.random((count, horizon), np.float32) for g in generators]).reshape(rows, count, horizon, 1)
        cumulative = self.probs.cumsum(-1)  # one without probability must not be drawn, even if rounding leaves a gap
        return ((cumulative / cumulative[..., -1:])[:, None] <= torch.from_numpy(draws).to(self.probs)).sum(-1)

    def fitted(self, elites: Tensor, momentum: float) -> Categorical:
        """How often each action is among the elites (N, E, H)."""
        frequencies = functional.one_hot(elites, self.probs.shape[-1]).to(self.probs).mean(1)
        return Categorical(momentum * self.probs + (1 - momentum) * frequencies)

    def mode(self) -> Tensor:
        """The likeliest action of each step, (N, H)."""
        return self.probs.argmax(-1)


@dataclass(frozen=True)
class Gaussian:
    """Plans of continuous actions in a box."""

    mean: Tensor  # (N, H, A)
    std: Tensor  # (N, H, A)
    box: Tensor  # (2, A), lowest and highest

    @classmethod
    def of(cls, known: Tensor, box: Tensor) -> Gaussian:
        """Around plans (N, H, A), around the middle where they are open; always as wide as at first, as in PETS."""
        mean = torch.where(is_open(known), box.mean(0), known)
        return cls(mean, ((box[1] - box[0]) / 2).expand_as(mean), box)

    def draw(self, generators: Sequence[np.random.Generator], count: int) -> Tensor:
        """Cut off at the sides of the box, (N, count, H, A)."""
        shape = (count, *self.mean.shape[1:])
        noise = torch.from_numpy(np.stack([g.standard_normal(shape, np.float32) for g in generators])).to(self.mean)
        return torch.clamp(self.mean[:, None] + self.std[:, None] * noise, *self.box)

    def fitted(self, elites: Tensor, momentum: float) -> Gaussian:
        """Mean and standard deviation of the elites (N, E, H, A)."""
        mean, std = elites.mean(1), elites.std(1, unbiased=False)
        return Gaussian(self.mean.lerp(mean, 1 - momentum), self.std.lerp(std, 1 - momentum), self.box)

    def mode(self) -> Tensor:
        """The mean, (N, H, A)."""
        return self.mean


@dataclass(frozen=True)
class Factored:
    """Plans of actions of several numbers, each drawn on its own."""

    parts: tuple[Categorical | Gaussian, ...]

    def draw(self, generators: Sequence[np.random.Generator], count: int) -> Tensor:
        """(N, count, H, A)."""
        return _joined([part.draw(generators, count) for part in self.parts], 3)

    def fitted(self, elites: Tensor, momentum: float) -> Factored:
        """Each to its number of the elites (N, E, H, A)."""
        columns = zip(self.parts, elites.split(1, -1), strict=True)
        return Factored(
            tuple(
                part.fitted(own[..., 0].long() if isinstance(part, Categorical) else own, momentum)
                for part, own in columns
            )
        )

    def mode(self) -> Tensor:
        """(N, H, A)."""
        return _joined([part.mode() for part in self.parts], 2)


def _joined(columns: Sequence[Tensor], dims: int) -> Tensor:
    return torch.cat([(one[..., None] if one.ndim == dims else one).float() for one in columns], -1)


def is_open(plans: Tensor) -> Tensor:
    """Which numbers of plans say nothing: -1, or NaN."""
    return plans.isnan() if plans.is_floating_point() else plans < 0
