"""Between a network and the actions of a world: scores become a distribution, and what was done becomes an input."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from lssvwm.agents.dreamer.distributions import ActionDistribution, Bounded, Discrete, Factored
from lssvwm.envs.spaces.masks import masks_of
from lssvwm.worldmodel.actions import ActionSpec
from lssvwm.worldmodel.common.errors import InputError

MIN_STD, MAX_STD = 0.1, 1.0
"""Limits of a continuous action's standard deviation, where its box runs from -1 to 1 (DreamerV3, `actor.minstd`)."""


class NetworkActions(Protocol):
    """What a network's configuration says about actions, see `ActorCriticConfig`."""

    @property
    def num_actions(self) -> int:
        """Discrete actions; 0 where an action is a vector."""
        ...

    @property
    def low(self) -> tuple[float, ...]:
        """The lowest value of each number of a vector."""
        ...

    @property
    def high(self) -> tuple[float, ...]:
        """The highest."""
        ...

    @property
    def choices(self) -> tuple[int, ...]:
        """From how many each number chooses, 0 where it lies between its bounds; () where all do."""
        ...


def network_actions(actions: ActionSpec) -> dict[str, Any]:
    """What a network's configuration is to say of `actions`. Raises InputError where their bounds are not known."""
    if actions.count:
        return {"num_actions": actions.count}
    if not actions.bounded:
        raise InputError(
            f"the world model has learned from {actions}, so nobody knows what a policy may do: train it with --env "
            "besides --episodes, whose action space says what they are"
        )
    choices = actions.choices if any(actions.choices) else ()
    return {"num_actions": 0, "low": actions.low, "high": actions.high, "choices": choices}


def check_actions(config: NetworkActions) -> None:
    """Raise an InputError unless `config` describes actions."""
    low, high, choices = config.low, config.high, config.choices
    if bool(config.num_actions) == bool(low):
        raise InputError(
            f"num_actions={config.num_actions}, low={low}: give the number of discrete actions, or the bounds of the "
            "numbers of others"
        )
    if len(low) != len(high) or len(choices) not in (0, len(low)):
        raise InputError(f"low={low}, high={high}, choices={choices}: give as many of each")
    for first, last, count in zip(low, high, choices or (0,) * len(low), strict=True):
        if count < 0 or not (-math.inf < first < last < math.inf or count):
            raise InputError(f"low={low}, high={high}: give finite bounds, low below high, of equal number")


def allowed_in(
    info: Mapping[str, Any], rows: int, config: NetworkActions, device: torch.device, ended: Any = False
) -> Tensor | None:
    """What the masks in `info` allow in each of `rows` (`envs.spaces.masks`), (rows, n) bool; None without masks."""
    allowed = masks_of(info, rows, config.num_actions, ended) if config.num_actions else None
    return None if allowed is None else torch.from_numpy(allowed).to(device)


class ActionHead(nn.Module):
    """Reads scores (..., `scores`) as a distribution over actions, and tells actions as numbers (..., `told`).

    It has no weights. A head for each choice; numbers between bounds are two scores each, for mean and width.
    """

    low: Tensor
    high: Tensor

    def __init__(self, config: NetworkActions) -> None:
        super().__init__()
        self.count = config.num_actions
        self._runs: list[tuple[int, int]] = []  # choices (0: none), and numbers of the vector
        for choices in config.choices or (0,) * len(config.low):
            if not choices and self._runs and not self._runs[-1][0]:
                self._runs[-1] = (0, self._runs[-1][1] + 1)
            else:
                self._runs.append((choices, 1))
        self._numbers = [numbers for _, numbers in self._runs]
        self._widths = [choices or 2 * numbers for choices, numbers in self._runs]
        self.scores = self.count or sum(self._widths)
        self.told = self.count or sum(choices or numbers for choices, numbers in self._runs)
        for name, values in (("low", config.low), ("high", config.high)):
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32), persistent=False)

    def policy(self, scores: Tensor, unimix: float = 0.0) -> ActionDistribution:
        """The distribution; `unimix` is the share of the even one in every choice."""
        if self.count:
            return Discrete.mixed(scores, unimix)
        parts: list[Discrete | Bounded] = []
        boxes = zip(self.low.split(self._numbers), self.high.split(self._numbers), strict=True)
        for (choices, _), own, (low, high) in zip(self._runs, scores.split(self._widths, -1), boxes, strict=True):
            if choices:
                parts.append(Discrete.mixed(own, unimix))
            else:
                mean, width = own.chunk(2, -1)
                # Two more, so that a new agent tries almost the whole box (DreamerV3's bounded normal).
                std = MIN_STD + (MAX_STD - MIN_STD) * torch.sigmoid(width + 2)
                parts.append(Bounded(mean.tanh(), std, low, high))
        return parts[0] if len(parts) == 1 and isinstance(parts[0], Bounded) else Factored(parts)

    def tell(self, actions: Tensor) -> Tensor:
        """Actions (...) or (..., A) as inputs: choices one-hot, other numbers from -1 to 1; "none" is all zero."""
        if self.count:
            return _one_hot(actions, self.count)
        unit = (2 * (actions - self.low) / (self.high - self.low) - 1).nan_to_num(0.0)
        known = torch.where(actions.isnan(), -1, actions)
        columns = zip(self._runs, unit.split(self._numbers, -1), known.split(self._numbers, -1), strict=True)
        told = [_one_hot(own[..., 0].long(), choices) if choices else box for (choices, _), box, own in columns]
        return torch.cat([part.to(unit.dtype) for part in told], -1)


def _one_hot(numbers: Tensor, count: int) -> Tensor:
    """(...) -> (..., count), all zero for -1."""
    return functional.one_hot(numbers + 1, count + 1)[..., 1:]
