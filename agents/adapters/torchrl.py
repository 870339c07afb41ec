"""A vector environment with torch output as an `EnvBase` of TorchRL; `agents.adapters` is the way in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import VectorEnv
from tensordict import TensorDict, TensorDictBase
from torch import Tensor
from torchrl.data import Binary, Bounded, Categorical, Composite, MultiCategorical, TensorSpec, Unbounded
from torchrl.envs import EnvBase

from lssvwm.agents.adapters.needs import count_of, device_of, told_masks
from lssvwm.envs.spaces.actions import spec_of
from lssvwm.envs.spaces.masks import MASK_KEY
from lssvwm.worldmodel.common.errors import InputError

_FLAGS = ("done", "terminated", "truncated")


class TorchRLEnv(EnvBase):  # type: ignore[misc]
    """N rows as one batch-locked environment; nothing but masks and flags leaves the device."""

    def __init__(self, envs: VectorEnv[Any, Any, Any], *, masks: bool = False) -> None:
        device = device_of(envs)
        super().__init__(device=device, batch_size=torch.Size([envs.num_envs]))
        self.envs = envs
        rows = envs.num_envs
        self.observation_spec = Composite(
            {key: _spec(space, rows, device) for key, space in _named(envs.single_observation_space).items()},
            shape=(rows,),
        )
        self._count = count_of(envs) if masks else 0
        if masks:
            self._allowed = np.ones((rows, self._count), np.bool_)
            self.observation_spec[MASK_KEY] = Binary(
                self._count, shape=(rows, self._count), dtype=torch.bool, device=device
            )
        self.action_spec = _action_spec(envs.single_action_space, rows, device)
        self.reward_spec = Unbounded((rows, 1), dtype=torch.float32, device=device)
        flag = Categorical(2, shape=(rows, 1), dtype=torch.bool, device=device)
        self.full_done_spec = Composite({key: flag.clone() for key in _FLAGS}, shape=(rows,))
        self._seeds: list[int | None] = [None] * rows

    def _reset(self, tensordict: TensorDictBase | None = None, **kwargs: Any) -> TensorDictBase:
        chosen = None if tensordict is None else tensordict.get("_reset", None)
        mask = np.ones(self.envs.num_envs, bool) if chosen is None else _mask(chosen)
        seeds: Any = [seed if reset else None for seed, reset in zip(self._seeds, mask, strict=True)]
        options = None if mask.all() else {"reset_mask": mask}  # a reset of all rows may stagger them
        observations, info = self.envs.reset(seed=seeds, options=options)
        self._seeds = [None if reset else seed for seed, reset in zip(self._seeds, mask, strict=True)]
        fresh = torch.zeros(self.envs.num_envs, 1, dtype=torch.bool, device=self.device)
        masks = self._masks(info, mask, False)
        return self._told(observations, {key: fresh.clone() for key in _FLAGS} | masks)

    def _step(self, tensordict: TensorDictBase) -> TensorDictBase:
        stepped = tensordict.get("_step", None)
        # TorchRL leaves finished rows in the batch until all have ended; a dream refuses to go on in them.
        options = {} if stepped is None else {"mask": _mask(stepped)}
        observations, reward, terminated, truncated, info = self.envs.step(tensordict["action"], **options)
        flags = {"done": terminated | truncated, "terminated": terminated, "truncated": truncated}
        told = {"reward": reward.float()[:, None], **{key: flag[:, None] for key, flag in flags.items()}}
        masks = self._masks(info, options.get("mask", True), flags["done"].cpu().numpy())
        return self._told(observations, told | masks)

    def _masks(self, info: Mapping[str, Any], rows: Any, ended: Any) -> dict[str, Tensor]:
        """What may follow in each row; where nothing was done in it, what was said before."""
        if not self._count:
            return {}
        told = told_masks(info, self.envs.num_envs, self._count, ended)
        self._allowed = np.where(np.reshape(rows, (-1, 1)), told, self._allowed)
        return {MASK_KEY: torch.from_numpy(self._allowed)}

    def _set_seed(self, seed: int | None) -> None:
        """Row i gets `seed + i` when it is reset next."""
        self._seeds = [None if seed is None else seed + row for row in range(self.envs.num_envs)]

    def close(self, **kwargs: Any) -> None:
        """Close the environments."""
        self.envs.close()
        super().close(**kwargs)

    def _told(self, observations: Any, rest: Mapping[str, Tensor]) -> TensorDictBase:
        told: TensorDictBase = TensorDict(
            {**_named(observations), **rest}, batch_size=self.batch_size, device=self.device
        )
        return told


def _named(value: Any) -> dict[str, Any]:
    """A space, or observations (N, ...), by the keys under which TorchRL knows them."""
    if isinstance(value, Mapping):
        return dict(value)
    # Frames have more dimensions than features; observations have that of the rows besides.
    dims = value.ndim - 1 if isinstance(value, Tensor) else len(value.shape)
    return {"pixels" if dims == 3 else "observation": value}


def _spec(space: spaces.Space[Any], rows: int, device: torch.device) -> TensorSpec:
    if not isinstance(space, spaces.Box):
        raise InputError(f"the adapter for TorchRL knows Box observations, these environments have {space}")
    shape = (rows, *space.shape)
    if space.dtype == np.uint8:
        return Bounded(0, 255, shape=shape, dtype=torch.uint8, device=device)
    return Unbounded(shape, dtype=torch.float32, device=device)


def _action_spec(space: spaces.Space[Any], rows: int, device: torch.device) -> TensorSpec:
    actions = spec_of(space, "the environment for TorchRL")
    if actions.named:
        raise InputError(f"the adapter for TorchRL knows no dictionaries of actions, these environments have {space}")
    part = actions.parts[0]
    shared: dict[str, Any] = {"dtype": getattr(torch, part.dtype), "device": device}
    if part.kind == "box":
        low, high = (
            torch.tensor(bound).reshape(part.shape).expand(rows, *part.shape) for bound in (part.low, part.high)
        )
        return Bounded(low.to(device), high.to(device), shape=(rows, *part.shape), **shared)
    if part.kind == "discrete":
        return Categorical(part.choices[0], shape=(rows,), **shared)
    choices = torch.tensor(part.choices).reshape(part.shape)
    return MultiCategorical(choices, shape=(rows, *part.shape), **shared)


def _mask(chosen: Tensor) -> np.ndarray[Any, np.dtype[np.bool_]]:
    return chosen.reshape(-1).cpu().numpy()
