"""Distributions over actions, discrete, continuous and of several parts, behind one interface."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, Self

import torch
from torch import Tensor


class ActionDistribution(Protocol):
    """What an actor makes of features (..., F). Actions are (...) int64 where discrete, (..., A) float32 otherwise."""

    @property
    def mode(self) -> Tensor:
        """The most likely action."""
        ...

    @property
    def draws(self) -> int:
        """Uniform numbers that one action takes, see `at`."""
        ...

    def log_prob(self, actions: Tensor) -> Tensor:
        """Logarithm of their probability, or of their density where each number runs from -1 to 1, (...)."""
        ...

    def entropy(self) -> Tensor:
        """In nats, of the same probability or density, (...)."""
        ...

    def divergence(self, other: Self) -> Tensor:
        """Kullback-Leibler divergence of this one from `other`, a distribution over the same actions, (...)."""
        ...

    def spread(self) -> Tensor:
        """Share of all actions that are in play, in (0, 1]: 1 where all are alike (the exponential of the entropy)."""
        ...

    def sample(self, generator: torch.Generator) -> Tensor:
        """One action for each row (B,), from the caller's generator."""
        ...

    def at(self, uniform: Tensor) -> Tensor:
        """The actions that uniform numbers (..., draws) in [0, 1) stand for: the inverse cumulative distribution.

        So a caller that draws a row's numbers from the row's own generator gets actions independent of other rows.
        """
        ...


@dataclass(frozen=True)
class Discrete:
    """One of n actions; `logits` (..., n) are log-probabilities."""

    logits: Tensor

    @classmethod
    def mixed(cls, scores: Tensor, unimix: float) -> Self:
        """Softmax of scores (..., n), with a share `unimix` of the even distribution (DreamerV3: 1 %).

        No action dies out then, and no probability ratio grows without limit.
        """
        logits = scores.log_softmax(-1)
        if unimix:
            logits = ((1 - unimix) * logits.exp() + unimix / scores.shape[-1]).log()
        return cls(logits)

    @property
    def probs(self) -> Tensor:
        """Probabilities (..., n)."""
        return self.logits.exp()

    @property
    def mode(self) -> Tensor:
        """The most likely action."""
        return self.logits.argmax(-1)

    @property
    def draws(self) -> int:
        """One number decides."""
        return 1

    def log_prob(self, actions: Tensor) -> Tensor:
        """(...) int64 -> (...)."""
        return self.logits.gather(-1, actions[..., None])[..., 0]

    def entropy(self) -> Tensor:
        """In nats, at most log n."""
        return -(self.probs * self.logits).sum(-1)

    def divergence(self, other: Discrete) -> Tensor:
        """In nats, (...)."""
        return (self.probs * (self.logits - other.logits)).sum(-1)

    def spread(self) -> Tensor:
        """Actions in play (perplexity), as a share of all n."""
        return self.entropy().exp() / self.logits.shape[-1]

    def sample(self, generator: torch.Generator) -> Tensor:
        """(B,) int64."""
        return torch.multinomial(self.probs, 1, generator=generator)[:, 0]

    def at(self, uniform: Tensor) -> Tensor:
        """(..., 1) -> (...) int64, never one without probability."""
        cumulative = self.probs.double().cumsum(-1)
        return (cumulative / cumulative[..., -1:] <= uniform.double()).sum(-1)


def masked(policy: ActionDistribution, allowed: Tensor | None) -> ActionDistribution:
    """`policy` over what is `allowed` (..., n) bool, at least one action each; None allows everything.

    Probabilities are those that it had, divided by their sum (Huang and Ontañón 2022); entropy and all else follow.
    """
    if allowed is None:
        return policy
    assert isinstance(policy, Discrete), type(policy)  # no others have masks
    # Not minus infinity: an entropy and its gradient would be NaN.
    lowest = torch.finfo(policy.logits.dtype).min
    return Discrete(policy.logits.masked_fill(~allowed, lowest).log_softmax(-1))


@dataclass(frozen=True)
class Bounded:
    """A normal distribution truncated to a box, each number on its own (DreamerV2, appendix; DreamerV3 clips instead).

    Everything about it has a closed form, the entropy too, which squashing by tanh would take away. `mean` and `std`
    (..., A) are in units in which the box runs from -1 to 1; means inside it keep the mass there far from zero.
    """

    mean: Tensor
    std: Tensor
    low: Tensor  # (A,), of the box
    high: Tensor

    @property
    def mode(self) -> Tensor:
        """The mean before truncation, where the density is highest."""
        return self._in_box(self.mean)

    @property
    def draws(self) -> int:
        """A number for each of the action's."""
        return self.mean.shape[-1]

    def log_prob(self, actions: Tensor) -> Tensor:
        """(..., A) -> (...)."""
        unit = (2 * (actions - self.low) / (self.high - self.low) - 1).clamp(-1, 1)
        z = (unit - self.mean) / self.std
        return (_log_density(z) - self.std.log() - self._mass.log()).sum(-1)

    def entropy(self) -> Tensor:
        """In nats, at most A log 2; a narrow distribution has a negative one."""
        first, last, mass = self._first, self._last, self._mass
        edges = (first * _log_density(first).exp() - last * _log_density(last).exp()) / (2 * mass)
        return (0.5 * math.log(2 * math.pi * math.e) + self.std.log() + mass.log() + edges).sum(-1)

    def divergence(self, other: Bounded) -> Tensor:
        """In nats, (...), by mean and variance of the truncated distribution."""
        first, last = _log_density(self._first).exp(), _log_density(self._last).exp()
        shift = (first - last) / self._mass
        variance = self.std.square() * (1 + (self._first * first - self._last * last) / self._mass - shift.square())
        square = variance + (self.mean + self.std * shift - other.mean).square()
        constant = other.std.log() + 0.5 * math.log(2 * math.pi) + other._mass.log()
        return (square / (2 * other.std.square()) + constant).sum(-1) - self.entropy()

    def spread(self) -> Tensor:
        """Width in play, as a share of the box's side, in the geometric mean over the A numbers."""
        return (self.entropy() / self.draws).exp() / 2

    def sample(self, generator: torch.Generator) -> Tensor:
        """(B, A) float32."""
        return self.at(torch.rand(self.mean.shape, generator=generator, dtype=torch.float64, device=self.mean.device))

    def at(self, uniform: Tensor) -> Tensor:
        """(..., A) -> (..., A) float32, inside the box."""
        # In single precision the last draws of a million would all land on the upper edge.
        first, last = torch.special.ndtr(self._first.double()), torch.special.ndtr(self._last.double())
        z: Tensor = torch.special.ndtri(torch.lerp(first, last, uniform.double()))
        return self._in_box((self.mean + self.std * z).clamp(-1, 1))

    @property
    def _first(self) -> Tensor:
        return (-1 - self.mean) / self.std

    @property
    def _last(self) -> Tensor:
        return (1 - self.mean) / self.std

    @property
    def _mass(self) -> Tensor:
        mass: Tensor = torch.special.ndtr(self._last) - torch.special.ndtr(self._first)
        return mass

    def _in_box(self, unit: Tensor) -> Tensor:
        actions = torch.lerp(self.low.to(unit), self.high.to(unit), (unit + 1) / 2).to(self.low.dtype)
        return torch.minimum(torch.maximum(actions, self.low), self.high)  # rounding must not lead out of it


@dataclass(frozen=True)
class Factored:
    """Parts of an action that are chosen independently: what each `Discrete` and each `Bounded` gives, side by side."""

    parts: Sequence[Discrete | Bounded]

    @property
    def mode(self) -> Tensor:
        """(..., A) float32."""
        return self._joined([part.mode for part in self.parts])

    @property
    def draws(self) -> int:
        """As many as the action has numbers."""
        return sum(part.draws for part in self.parts)

    def log_prob(self, actions: Tensor) -> Tensor:
        """(..., A) -> (...), the sum over the parts."""
        columns = zip(self.parts, self._split(actions), strict=True)
        return torch.stack([part.log_prob(_own(part, column)) for part, column in columns]).sum(0)

    def entropy(self) -> Tensor:
        """In nats, the sum over the parts."""
        return torch.stack([part.entropy() for part in self.parts]).sum(0)

    def divergence(self, other: Factored) -> Tensor:
        """In nats, (...), the sum over the parts."""
        pairs = zip(self.parts, other.parts, strict=True)
        return torch.stack([ours.divergence(theirs) for ours, theirs in pairs]).sum(0)  # type: ignore[arg-type]

    def spread(self) -> Tensor:
        """In the geometric mean over the numbers of the action."""
        logs = torch.stack([part.draws * part.spread().log() for part in self.parts])
        return (logs.sum(0) / self.draws).exp()

    def sample(self, generator: torch.Generator) -> Tensor:
        """(B, A) float32."""
        return self._joined([part.sample(generator) for part in self.parts])

    def at(self, uniform: Tensor) -> Tensor:
        """(..., A) -> (..., A) float32."""
        return self._joined([part.at(drawn) for part, drawn in zip(self.parts, self._split(uniform), strict=True)])

    def _split(self, values: Tensor) -> Sequence[Tensor]:
        split: Sequence[Tensor] = values.split([part.draws for part in self.parts], -1)
        return split

    def _joined(self, made: Sequence[Tensor]) -> Tensor:
        columns = zip(self.parts, made, strict=True)
        return torch.cat([(one if isinstance(part, Bounded) else one[..., None]).float() for part, one in columns], -1)


def _own(part: Discrete | Bounded, column: Tensor) -> Tensor:
    """Columns of an action as `part` has them."""
    return column if isinstance(part, Bounded) else column[..., 0].long()


def _log_density(z: Tensor) -> Tensor:
    """Of the standard normal distribution."""
    return -0.5 * (z.square() + math.log(2 * math.pi))
