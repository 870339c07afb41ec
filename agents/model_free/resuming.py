"""Rows of environments that can be left and taken up again at the same frame: by snapshot, or by playing it again."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from numpy.typing import NDArray
from torch import Tensor

from lssvwm.envs.dream import DreamState
from lssvwm.envs.spaces.actions import shaped, spec_of
from lssvwm.envs.spaces.masks import masks_of
from lssvwm.worldmodel.actions import ActionSpec
from lssvwm.worldmodel.common.errors import InputError

_log = logging.getLogger(__name__)

SEEDS = 1_000_000_000
"""Episodes are seeded below this; seeds from here on are kept for evaluation."""


class Moved(NamedTuple):
    """What a step brought; in the terms of the environment, but with flags and rewards on the host."""

    observations: Any  # (N, ...), array or tensor
    rewards: NDArray[np.float64]  # (N,)
    terminated: NDArray[np.bool_]  # (N,)
    truncated: NDArray[np.bool_]  # (N,)
    info: Mapping[str, Any]


class ResumableRows(Protocol):
    """N rows of which those that `ended` wait until `begin` starts new episodes in them."""

    ended: NDArray[np.bool_]

    def begin(self) -> tuple[Any, dict[str, Any]]:
        """Start new episodes in the rows that ended, at first in all; returns observations of all rows, and info."""
        ...

    def step(self, actions: Tensor) -> Moved:
        """Take one action, of (N,) or (N, A), in every row; none may have ended."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values from which `load_state_dict` goes on."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Bring fresh rows to where `state_dict` was taken; those that cannot be brought there have `ended`."""
        ...


@runtime_checkable
class Snapshots(Protocol):
    """Environments that can be saved at any moment, as dreams can."""

    def get_state(self) -> DreamState:
        """Everything that decides how the rows go on."""
        ...

    def set_state(self, state: DreamState) -> None:
        """Go on from there."""
        ...


def resumable(envs: VectorEnv[Any, Any, Any], seed: int) -> ResumableRows:
    """Rows of `envs`, all of whose episodes follow from `seed`.

    Raises InputError unless `envs` leaves ended rows alone (`AutoresetMode.DISABLED`).
    """
    mode = envs.metadata.get("autoreset_mode")
    if mode != AutoresetMode.DISABLED:
        raise InputError(
            f"learning needs environments that do not reset themselves, these have {mode}: make them with "
            'lssvwm.envs.make_vec, or dreams with autoreset_mode="Disabled"'
        )
    return SnapshotRows(envs, seed) if isinstance(envs, Snapshots) else ReplayedRows(envs, seed)


class SnapshotRows:
    """Rows of a dream.

    A snapshot is of one world. Where the world model has learned more since, or its episodes or the options of the
    dream are others, all rows begin anew, with other contexts than before.
    """

    def __init__(self, envs: VectorEnv[Any, Any, Any], seed: int) -> None:
        assert isinstance(envs, Snapshots)
        self.envs, self.snapshots, self.seed = envs, envs, seed
        self.space = spec_of(envs.single_action_space, _name(envs))
        self.ended = np.ones(envs.num_envs, np.bool_)
        self.worlds = 0  # in which all rows have begun
        self.begun = False

    def begin(self) -> tuple[Any, dict[str, Any]]:
        """Start new dreams where the last ones ended; each row draws its own."""
        result = self.envs.reset(options={"reset_mask": self.ended.copy()}) if self.begun else self._enter()
        self.ended = np.zeros_like(self.ended)
        return result

    def step(self, actions: Tensor) -> Moved:
        """Dream one frame further in every row."""
        moved = _moved(self.envs.step(_given(self.space, actions, tensors=True)))
        self.ended = moved.terminated | moved.truncated
        return moved

    def state_dict(self) -> dict[str, Any]:
        """The snapshot."""
        state = {"worlds": self.worlds, "begun": self.begun, "ended": torch.from_numpy(self.ended.copy())}
        if self.begun:
            snapshot = self.snapshots.get_state().copied()
            state |= {"tensors": dict(snapshot.tensors), "origin": dict(snapshot.origin)}
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from the snapshot if it is of this world."""
        self.worlds = state["worlds"]
        if not state["begun"]:
            return
        self.envs.reset(seed=self.seed)  # what world dreams are of, they tell only once they have begun
        if self.snapshots.get_state().origin == state["origin"]:
            # Snapshots are of the host, whatever device they were read to.
            tensors = {name: tensor.cpu() for name, tensor in state["tensors"].items()}
            self.snapshots.set_state(DreamState(tensors, state["origin"]))
            self.begun, self.ended = True, state["ended"].cpu().numpy()

    def _enter(self) -> tuple[Any, dict[str, Any]]:
        seed = episode_seed(self.seed, 0, self.worlds)
        self.worlds, self.begun = self.worlds + 1, True
        return self.envs.reset(seed=seed)


class ReplayedRows:
    """Rows of real environments, which cannot be saved, only played again: seed by seed and action by action.

    Each row seeds its episodes from a stream of its own, so an episode does not depend on when the others ended.
    """

    def __init__(self, envs: VectorEnv[Any, Any, Any], seed: int) -> None:
        self.envs, self.seed = envs, seed
        self.ended = np.ones(envs.num_envs, np.bool_)
        self.episodes = np.zeros(envs.num_envs, np.int64)  # begun by each row
        self.space = spec_of(envs.single_action_space, _name(envs))
        self.actions: list[list[Tensor]] = [[] for _ in range(envs.num_envs)]  # since each row's episode began
        self.last: Any = None

    def begin(self) -> tuple[Any, dict[str, Any]]:
        """Start the next episode of every row that ended."""
        self.episodes = self.episodes + self.ended
        for row in np.flatnonzero(self.ended):
            self.actions[row] = []
        observations, info = self._reset(self.ended)
        self.ended = np.zeros_like(self.ended)
        return observations, info

    def step(self, actions: Tensor) -> Moved:
        """Take one action in every row."""
        for past, action in zip(self.actions, actions.cpu().clone(), strict=True):
            past.append(action)
        moved = self._step(actions)
        self.ended = moved.terminated | moved.truncated
        return moved

    def state_dict(self) -> dict[str, Any]:
        """How many episodes each row has begun, and what it did in the one that it is in."""
        played = [[] if ended else past for ended, past in zip(self.ended, self.actions, strict=True)]
        return {
            "ended": torch.from_numpy(self.ended.copy()),
            "episodes": torch.from_numpy(self.episodes.copy()),
            "lengths": torch.tensor([len(past) for past in played]),
            "actions": torch.stack([action for past in played for action in past] or self._idle({}))[
                : sum(map(len, played))
            ],
            "last": None if self.last is None else torch.as_tensor(self.last).cpu().clone(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Play every row's episode again up to where it stood.

        Rows that come to another observation begin new episodes, with a warning: rendering, as Minetest's, may differ
        by a few pixels, and some worlds are not decided by seed and actions at all.
        """
        self.episodes = state["episodes"].cpu().numpy()
        lengths = state["lengths"].cpu().numpy()
        self.actions = [list(part.cpu()) for part in state["actions"].split(lengths.tolist())]
        # All rows take every step together: short episodes begin later, and until then play what nobody keeps.
        free, info = np.ones(len(lengths), np.bool_), dict[str, Any]()
        early = np.zeros_like(free)
        for left in range(int(lengths.max()), 0, -1):
            begins = free | (lengths == left)
            if begins.any():
                info = self._reset(begins)[1]
            played = zip(self.actions, self._idle(info), strict=True)
            moved = self._step(torch.stack([past[-left] if len(past) >= left else idle for past, idle in played]))
            free, info = moved.terminated | moved.truncated, dict(moved.info)
            early |= free & (lengths >= left)
        self.ended = state["ended"].cpu().numpy()
        if state["last"] is not None and not self.ended.all():
            elsewhere = ~self.ended & (early | self._differ(state["last"].cpu()))
            if elsewhere.any():
                _log.warning(
                    "%s did not come to the same observations when its episodes were played again: "
                    "%d of %d rows begin new ones",
                    *(_name(self.envs), elsewhere.sum(), len(elsewhere)),
                )
            self.ended = self.ended | elsewhere

    def _reset(self, mask: NDArray[np.bool_]) -> tuple[Any, dict[str, Any]]:
        seeds: Any = [episode_seed(self.seed, row, int(number)) for row, number in enumerate(self.episodes)]
        self.last, info = self.envs.reset(seed=seeds, options={"reset_mask": mask.copy()})
        return self.last, info

    def _step(self, actions: Tensor) -> Moved:
        moved = _moved(self.envs.step(_given(self.space, actions, tensors=isinstance(self.last, Tensor))))
        self.last = moved.observations
        return moved

    def _idle(self, info: Mapping[str, Any]) -> list[Tensor]:
        """Some action for each row, which `info` allows."""
        rows = len(self.ended)
        allowed = masks_of(info, rows, self.space.count) if self.space.count else None
        if allowed is not None:
            return list(torch.from_numpy(allowed.argmax(1)))
        return [torch.tensor(self.space.low if self.space.size else 0)] * rows

    def _differ(self, wanted: Tensor) -> NDArray[np.bool_]:
        """Rows whose last observation is another; features may carry the rounding of a forward pass."""
        found = torch.as_tensor(self.last).cpu().double().flatten(1)
        close = torch.isclose(found, wanted.double().flatten(1), rtol=1e-3, atol=1e-3)
        return ~close.all(1).numpy()


def episode_seed(seed: int, row: int, number: int) -> int:
    """The seed of a row's episode: far from all others, and below those kept for evaluation."""
    word = np.random.SeedSequence([seed, row, number]).generate_state(1, np.uint64)[0]
    return int(word % SEEDS)


def _given(space: ActionSpec, actions: Tensor, *, tensors: bool) -> Any:
    """What the network chose, as environments take it."""
    is_space = space.count or [(part.kind, part.dtype, len(part.shape)) for part in space.parts] == [
        ("box", "float32", 1)
    ]
    if tensors and is_space and not space.named:
        return actions
    return shaped(space, actions.cpu().numpy())


def _moved(result: tuple[Any, Any, Any, Any, dict[str, Any]]) -> Moved:
    observations, rewards, terminated, truncated, info = result
    return Moved(
        observations,
        torch.as_tensor(rewards).cpu().numpy().astype(np.float64),
        torch.as_tensor(terminated).cpu().numpy().astype(np.bool_),
        torch.as_tensor(truncated).cpu().numpy().astype(np.bool_),
        info,
    )


def _name(envs: VectorEnv[Any, Any, Any]) -> str:
    return envs.spec.id if envs.spec is not None else type(envs).__name__
