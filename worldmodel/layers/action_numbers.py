"""Actions as numbers: those of vectors told apart, real ones and choices, and all of them as features that add up."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from lssvwm.worldmodel.actions import actions_of
from lssvwm.worldmodel.config import WorldModelConfig


class ActionNumbers(nn.Module):
    """Which numbers of an action are real and which are choices; of a discrete action none are."""

    real: Tensor
    chosen: Tensor
    sizes: Tensor
    offsets: Tensor
    middle: Tensor
    reach: Tensor

    def __init__(self, config: WorldModelConfig) -> None:
        super().__init__()
        vector = actions_of(config)
        real = [i for i, n in enumerate(vector.choices) if not n] if config.action_size else []
        chosen = [i for i, n in enumerate(vector.choices) if n] if config.action_size else []
        sizes = [vector.choices[i] for i in chosen]
        box = [(vector.low[i], vector.high[i]) if vector.bounded else (-1.0, 1.0) for i in real]
        self.counts = len(real), len(chosen)
        self.alternatives = sum(sizes)
        """Of all choices together."""
        self.discrete = config.num_actions
        self.width = config.num_actions or len(real) + sum(sizes)
        """Of `features`."""
        for name, values in {
            "real": torch.tensor(real, dtype=torch.int64),
            "chosen": torch.tensor(chosen, dtype=torch.int64),
            "sizes": torch.tensor(sizes, dtype=torch.int64),
            "offsets": torch.tensor(sizes, dtype=torch.int64).cumsum(0) - torch.tensor(sizes, dtype=torch.int64),
            "middle": torch.tensor([(low + high) / 2 for low, high in box], dtype=torch.float32),
            "reach": torch.tensor([(high - low) / 2 for low, high in box], dtype=torch.float32),
        }.items():
            self.register_buffer(name, values, persistent=False)

    def reals(self, actions: Tensor) -> Tensor:
        """(..., A) -> (..., R), from -1 to 1 within the bounds."""
        return (actions.index_select(-1, self.real) - self.middle) / self.reach

    def choices(self, actions: Tensor) -> Tensor:
        """(..., A) -> (..., K) int64, counted through all alternatives of all choices."""
        return actions.index_select(-1, self.chosen).long() + self.offsets

    def beyond(self, actions: Tensor) -> bool:
        """Whether any choice is none of its alternatives; NaN, which is no action, may be."""
        chosen = actions.index_select(-1, self.chosen)
        return bool((((chosen != chosen.floor()) | (chosen < 0) | (chosen >= self.sizes)) & ~chosen.isnan()).any())

    def known(self, actions: Tensor) -> Tensor:
        """Whether there is an action, (B, T, 1)."""
        return actions[..., None] >= 0 if self.discrete else ~actions.isnan().any(-1, keepdim=True)

    def features(self, actions: Tensor) -> Tensor:
        """Actions (B, T) or (B, T, A) as numbers (B, T, F): 1 for every choice that was made, and the reals; 0 for no
        action.
        """
        if self.discrete:
            return functional.one_hot(actions + 1, self.discrete + 1)[..., 1:]
        known = self.known(actions)
        given = torch.where(known, actions, 0)
        chosen = functional.one_hot(self.choices(given), max(1, self.alternatives)).sum(-2)[..., : self.alternatives]
        reals = self.reals(given)
        return torch.where(known, torch.cat([reals, chosen.to(reals)], -1), 0)
