"""`Walk`, a small vector environment that keeps every rule, and a gallery of others that break one each."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

NEXT_STEP, SAME_STEP, DISABLED = AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP, AutoresetMode.DISABLED
LIMIT = 5


class Walk(VectorEnv):
    """Every row walks a line by noisy steps: terminated beyond 3, truncated after `max_episode_steps`."""

    metadata: dict[str, Any] = {"autoreset_mode": NEXT_STEP}  # noqa: RUF012

    def __init__(
        self,
        num_envs: int = 3,
        *,
        autoreset_mode: AutoresetMode = NEXT_STEP,
        output: str = "numpy",
        max_episode_steps: int = LIMIT,
    ) -> None:
        self.num_envs, self.output, self.limit = num_envs, output, max_episode_steps
        self.mode = self.autoreset_mode = AutoresetMode(autoreset_mode)
        self.metadata = {**type(self).metadata, "autoreset_mode": self.mode}
        self.single_observation_space = gym.spaces.Box(-100, 100, (2,), np.float32)
        self.single_action_space = gym.spaces.Discrete(3)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.place = np.zeros((num_envs, 2), np.float32)  # position and last noise
        self.clock = np.zeros(num_envs, np.int64)
        self.done = np.zeros(num_envs, bool)
        self.draws = [np.random.default_rng() for _ in range(num_envs)]

    # What the broken ones change.

    def seed_rows(self, seed: Any, mask: Any) -> None:
        seeds = [seed + row for row in range(self.num_envs)] if isinstance(seed, int) else seed
        for row in np.flatnonzero(mask):
            if seeds is not None and seeds[row] is not None:
                self.draws[row] = np.random.default_rng(seeds[row])

    def begin(self, mask: Any) -> None:
        self.place = self.place.copy()
        for row in np.flatnonzero(mask):
            self.place[row] = self.draws[row].random(2)
        self.clock = np.where(mask, 0, self.clock)
        self.done = self.done & ~mask

    def move(self, actions: Any, mask: Any) -> None:
        self.place = self.place.copy()
        for row in np.flatnonzero(mask):
            noise = self.draws[row].normal()
            self.place[row] = self.place[row, 0] + actions[row] - 1 + noise, noise
        self.clock = self.clock + mask

    def ends(self, mask: Any) -> tuple[Any, Any]:
        terminated = (np.abs(self.place[:, 0]) > 3) & mask
        return terminated, (self.clock >= self.limit) & mask & ~terminated

    def observe(self) -> Any:
        return self.place.copy()

    def reward(self, mask: Any) -> Any:
        return np.where(mask, self.place[:, 0], 0).astype(np.float64)

    def info(self, mask: Any) -> dict[str, Any]:
        return {"clock": self.clock.copy(), "_clock": mask.copy()}

    def final(self, observation: Any, info: dict[str, Any], done: Any) -> dict[str, Any]:
        final_obs = np.full(self.num_envs, None, dtype=object)
        for row in np.flatnonzero(done):
            final_obs[row] = observation[row].copy()
        if self.output == "torch":
            final_obs = observation.copy()
        return {
            **info,
            "final_obs": final_obs,
            "_final_obs": done.copy(),
            "final_info": info,
            "_final_info": done.copy(),
        }

    # The rest.

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        mask = (options or {}).get("reset_mask", np.ones(self.num_envs, bool))
        self.seed_rows(seed, mask)
        self.begin(mask)
        return self.out(self.observe()), self.out(self.info(mask))

    def step(self, actions: Any, *, mask: Any = None) -> Any:
        if self.closed:
            raise gym.error.ClosedEnvironmentError("step after close")
        mask = np.ones(self.num_envs, bool) if mask is None else mask
        if self.mode is DISABLED and (self.done & mask).any():
            raise gym.error.ResetNeeded("finished rows")
        begun = self.done & mask
        moved = mask & ~begun
        self.move(np.asarray(actions), moved)
        terminated, truncated = self.ends(moved)
        reward, info, over = self.reward(moved), self.info(moved), terminated | truncated
        if self.mode is SAME_STEP and over.any():
            info = self.final(self.observe(), info, over)
            self.begin(over)
        elif begun.any():
            self.begin(begun)
        if self.mode is not SAME_STEP:
            self.done = self.done | over
        return self.out(self.observe()), *map(self.out, (reward, terminated.copy(), truncated.copy())), self.out(info)

    def out(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {key: self.out(part) for key, part in value.items()}
        return torch.from_numpy(value) if self.output == "torch" and value.dtype != object else value

    def get_state(self) -> Any:
        return copy.deepcopy((self.place, self.clock, self.done, self.draws))

    def set_state(self, state: Any) -> None:
        self.place, self.clock, self.done, self.draws = copy.deepcopy(state)

    def __getstate__(self) -> dict[str, Any]:
        return dict(vars(self))


class SingleWalk(gym.Env):
    def __init__(self, push: float = 0.0) -> None:
        self.row = Walk(1, autoreset_mode=DISABLED)
        self.observation_space, self.action_space = self.row.single_observation_space, self.row.single_action_space
        self.push = push

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        return self.row.reset(seed=seed)[0][0], {}

    def step(self, action: Any) -> Any:
        observation, reward, terminated, truncated, _ = self.row.step(np.array([action]))
        return observation[0], float(reward[0]) + self.push, bool(terminated[0]), bool(truncated[0]), {}


@dataclass(frozen=True)
class Broken:
    """The code that `make` has to be found by, and the arguments of the check that shows it."""

    code: str
    make: Callable[..., Any]
    options: dict[str, Any] = field(default_factory=dict)
    also: tuple[str, ...] = ()  # codes that the same fault cannot but show too


GALLERY: list[Broken] = []


def breaks(code: str, *also: str, **options: Any) -> Callable[[type], type]:
    def keep(make: type) -> type:
        GALLERY.append(Broken(code, make, options, also))
        return make

    return keep


class Given(VectorEnv):
    """A `Walk` behind a class whose attributes may be missing."""

    def __init__(self, **options: Any) -> None:
        self.walk = Walk(**options)
        self.num_envs = self.walk.num_envs
        self.observation_space, self.action_space = self.walk.observation_space, self.walk.action_space

    def reset(self, **options: Any) -> Any:
        return self.walk.reset(**options)

    def step(self, actions: Any) -> Any:
        return self.walk.step(actions)


GALLERY.append(Broken("interface", Given))


@breaks("interface")
class OneRowLess(Walk):
    def __init__(self, num_envs: int = 3, **options: Any) -> None:
        super().__init__(num_envs - 1, **options)


@breaks("spaces")
class SingleActionSpace(Walk):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.action_space = self.single_action_space


@breaks("autoreset-mode")
class ModeAsText(Walk):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.metadata["autoreset_mode"] = "NextStep"


@breaks("autoreset-mode", modes=[SAME_STEP])
class DeafToModes(Walk):
    def __init__(self, num_envs: int = 3, autoreset_mode: Any = None) -> None:
        super().__init__(num_envs, autoreset_mode=autoreset_mode)
        self.metadata["autoreset_mode"] = NEXT_STEP


@breaks("metadata", modes=[NEXT_STEP, SAME_STEP], strict=True)
class SharedMetadata(Walk):
    common: dict[str, Any] = {}  # noqa: RUF012

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.common.update(self.metadata)
        self.metadata = self.common


@breaks("metadata", strict=True)
class NoModeAttribute(Walk):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        del self.autoreset_mode


@breaks("raises")
class Breaks(Walk):
    def move(self, actions: Any, mask: Any) -> None:
        raise KeyError("position")


@breaks("raises")
class ThreeResults(Walk):
    def step(self, actions: Any) -> Any:
        return super().step(actions)[:3]


@breaks("output", outputs=["torch"])
class RewardsLeaveTheDevice(Walk):
    def step(self, actions: Any) -> Any:
        observation, reward, *rest = super().step(actions)
        return observation, reward.numpy(), *rest


@breaks("output", outputs=["torch"])
class GradientsStay(Walk):
    def step(self, actions: Any) -> Any:
        observation, *rest = super().step(actions)
        return observation.requires_grad_(), *rest


@breaks("observation")
class DoublePrecision(Walk):
    def observe(self) -> Any:
        return self.place.astype(np.float64)


@breaks("observation")
class OutOfBounds(Walk):
    def observe(self) -> Any:
        return self.place + 1000


@breaks("observation")
class RowsLast(Walk):
    def observe(self) -> Any:
        return self.place.T.copy()


@breaks("reward")
class WholeRewards(Walk):
    def reward(self, mask: Any) -> Any:
        return super().reward(mask).astype(np.int64)


@breaks("reward")
class ColumnOfRewards(Walk):
    def reward(self, mask: Any) -> Any:
        return super().reward(mask)[:, None]


@breaks("flags")
class FlagsAsNumbers(Walk):
    def step(self, actions: Any) -> Any:
        observation, reward, terminated, truncated, info = super().step(actions)
        return observation, reward, terminated.astype(int), truncated, info


@breaks("info")
class InfoOfRows(Walk):
    def info(self, mask: Any) -> Any:
        return [{"clock": clock} for clock in self.clock]

    def final(self, observation: Any, info: Any, done: Any) -> Any:
        return info

    def out(self, value: Any) -> Any:
        return value if isinstance(value, list) else super().out(value)


@breaks("info")
class NoMask(Walk):
    def info(self, mask: Any) -> dict[str, Any]:
        return {"clock": self.clock.copy()}


@breaks("info", wrappers=False)
class InfoOfAll(Walk):
    def info(self, mask: Any) -> dict[str, Any]:
        return {"clock": np.array(self.clock.sum()), "_clock": mask.copy()}


@breaks("info-dtype", strict=True)
class TextInInfo(Walk):
    def info(self, mask: Any) -> dict[str, Any]:
        return {"mission": np.full(self.num_envs, "walk", dtype=object), "_mission": mask.copy()}


@breaks("seed")
class IgnoresSeeds(Walk):
    def seed_rows(self, seed: Any, mask: Any) -> None:
        pass


@breaks("seed")
class SameEpisodeForever(Walk):
    last = 0

    def seed_rows(self, seed: Any, mask: Any) -> None:
        self.last = seed if isinstance(seed, int) else self.last
        super().seed_rows(self.last, mask)


@breaks("seed")
class ForgetsTheStream(Walk):
    def seed_rows(self, seed: Any, mask: Any) -> None:
        super().seed_rows(np.random.default_rng().integers(2**31, size=self.num_envs) if seed is None else seed, mask)


@breaks("seed-rows")
class OneSeedForAll(Walk):
    def seed_rows(self, seed: Any, mask: Any) -> None:
        super().seed_rows([seed] * self.num_envs if isinstance(seed, int) else seed, mask)


@breaks("seed-list", strict=True)
class OtherSeedsThanSaid(Walk):
    def seed_rows(self, seed: Any, mask: Any) -> None:
        super().seed_rows(10 + seed if isinstance(seed, int) else seed, mask)


@breaks("crosstalk", single=SingleWalk)
class SharedGenerator(Walk):
    def seed_rows(self, seed: Any, mask: Any) -> None:
        super().seed_rows(seed, mask)
        if seed is not None:
            self.draws = [self.draws[0]] * self.num_envs


@breaks("single", single=SingleWalk)
class Faster(Walk):
    def move(self, actions: Any, mask: Any) -> None:
        super().move(2 * actions, mask)


@breaks("single", single=lambda: SingleWalk(push=0.5))
class AsItShouldBe(Walk):
    pass


@breaks("agreement", modes=[NEXT_STEP, SAME_STEP])
class AnotherWorldInAnotherMode(Walk):
    def move(self, actions: Any, mask: Any) -> None:
        super().move(actions * (1 + (self.mode is SAME_STEP)), mask)


@breaks("next-step")
class ActsWhileResetting(Walk):
    def step(self, actions: Any) -> Any:
        begun = self.done.copy()
        result = super().step(actions)
        result[0][begun, 0] += actions[begun]
        self.place[begun, 0] += actions[begun]
        return result


@breaks("next-step")
class PaysForResetting(Walk):
    def step(self, actions: Any, **options: Any) -> Any:
        begun = self.done.copy()
        result = super().step(actions, **options)
        result[1][begun] += 1
        return result


@breaks("next-step", "final-obs", "time-limit")
class ResetsAtOnce(Walk):
    """Says NEXT_STEP and does SAME_STEP."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.mode = SAME_STEP


@breaks("final-obs", modes=[SAME_STEP])
class FinalIsFirst(Walk):
    def step(self, actions: Any) -> Any:
        observation, *rest, info = super().step(actions)
        for row in np.flatnonzero(info.get("_final_obs", [])):
            info["final_obs"][row] = observation[row].copy()
        return observation, *rest, info


@breaks("final-obs", modes=[SAME_STEP])
class NoFinal(Walk):
    def final(self, observation: Any, info: dict[str, Any], done: Any) -> dict[str, Any]:
        final = super().final(observation, info, done)
        return {key: value for key, value in final.items() if "obs" not in key}


@breaks("final-obs", "masked-step", modes=[SAME_STEP])
class FinalOfAll(Walk):
    def final(self, observation: Any, info: dict[str, Any], done: Any) -> dict[str, Any]:
        return {**super().final(observation, info, done), "_final_obs": np.ones(self.num_envs, bool)}


@breaks("final-info", modes=[SAME_STEP])
class NoFinalInfo(Walk):
    def final(self, observation: Any, info: dict[str, Any], done: Any) -> dict[str, Any]:
        final = super().final(observation, info, done)
        return {key: value for key, value in final.items() if "final_info" not in key}


@breaks("finished-row", modes=[DISABLED], strict=True)
class WalksOn(Walk):
    def step(self, actions: Any, *, mask: Any = None) -> Any:
        self.done = np.zeros_like(self.done)
        return super().step(actions, mask=mask)


@breaks("partial-reset", "crosstalk", "time-limit", "masked-step", modes=[DISABLED])
class ResetsAll(Walk):
    def begin(self, mask: Any) -> None:
        super().begin(np.ones_like(mask))


@breaks("crosstalk", "time-limit", modes=[DISABLED])
class ResetsClocks(Walk):
    def begin(self, mask: Any) -> None:
        super().begin(mask)
        self.clock = np.zeros_like(self.clock)


@breaks("partial-reset", modes=[DISABLED])
class SeedsAllRows(Walk):
    def seed_rows(self, seed: Any, mask: Any) -> None:
        if isinstance(seed, list):
            self.draws = [np.random.default_rng(one) for one in seed]
        super().seed_rows(seed, mask)


@breaks("partial-reset", modes=[DISABLED])
class ResetsInfo(Walk):
    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        observation, _ = super().reset(seed=seed, options=options)
        return observation, {"clock": np.zeros_like(self.clock), "_clock": np.ones(self.num_envs, bool)}


@breaks("partial-reset", modes=[DISABLED])
class SeedIgnoredInPartialResets(Walk):
    def seed_rows(self, seed: Any, mask: Any) -> None:
        super().seed_rows(seed if mask.all() else None, mask)


@breaks("options", modes=[DISABLED], strict=True, wrappers=False)
class TakesOptions(Walk):
    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        mask = (options or {}).pop("reset_mask", np.ones(self.num_envs, bool))
        return super().reset(seed=seed, options={"reset_mask": mask})


@breaks("aliasing", "mutation")
class OneBuffer(Walk):
    def observe(self) -> Any:
        self.buffer = getattr(self, "buffer", self.place.copy())
        self.buffer[...] = self.place
        return self.buffer


@breaks("aliasing", outputs=["torch"])
class TwoBuffers(Walk):
    """As a CUDA graph would give them back."""

    def observe(self) -> Any:
        self.buffers = list(reversed(getattr(self, "buffers", [self.place.copy(), self.place.copy()])))
        self.buffers[0][...] = self.place
        return self.buffers[0]


@breaks("mutation")
class GivesItsStateAway(Walk):
    def observe(self) -> Any:
        return self.place


@breaks("mutation", "next-step", "snapshot")
class KeepsActions(Walk):
    """The action of a step counts on the next one: by then the caller may have overwritten it."""

    kept: Any = None

    def reset(self, **options: Any) -> Any:
        self.kept = np.zeros(self.num_envs, np.int64)
        return super().reset(**options)

    def step(self, actions: Any) -> Any:
        before, self.kept = self.kept, actions
        return super().step(before)


@breaks("read-only", strict=True)
class ReadOnly(Walk):
    def observe(self) -> Any:
        observation = self.place.copy()
        observation.flags.writeable = False
        return observation


@breaks("actions")
class ClipsActionsInPlace(Walk):
    def step(self, actions: Any) -> Any:
        np.minimum(actions, 1, out=actions)
        return super().step(actions)


@breaks("time-limit")
class LimitIsTheEnd(Walk):
    def ends(self, mask: Any) -> tuple[Any, Any]:
        return (self.clock >= self.limit) & mask, np.zeros_like(mask)


@breaks("time-limit")
class OneStepTooMany(Walk):
    def ends(self, mask: Any) -> tuple[Any, Any]:
        terminated = (np.abs(self.place[:, 0]) > 3) & mask
        return terminated, (self.clock > self.limit) & mask & ~terminated


@breaks("snapshot", pickling=False)
class ForgetsRandomNumbers(Walk):
    def set_state(self, state: Any) -> None:
        self.place, self.clock, self.done, _ = copy.deepcopy(state)


@breaks("snapshot", pickling=False)
class StateLivesOn(Walk):
    def get_state(self) -> Any:
        return self.place, self.clock, self.done, self.draws

    def set_state(self, state: Any) -> None:
        self.place, self.clock, self.done, self.draws = state


@breaks("snapshot", snapshots=True)
class NoSnapshots(Walk):
    get_state = set_state = None


@breaks("masked-step")
class ClocksRunOn(Walk):
    def move(self, actions: Any, mask: Any) -> None:
        super().move(actions, mask)
        self.clock = self.clock + ~mask


@breaks("masked-step")
class AllRowsMove(Walk):
    def step(self, actions: Any, *, mask: Any = None) -> Any:
        return super().step(actions)


@breaks("pickle")
class LosesItsPlace(Walk):
    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, place=np.zeros_like(state["place"]))


@breaks("pickle", pickling=True)
class CannotBePickled(Walk):
    def __getstate__(self) -> dict[str, Any]:
        raise TypeError("cannot pickle a simulator")


@breaks("wrapper")
class TakesTheNameEpisode(Walk):
    def info(self, mask: Any) -> dict[str, Any]:
        return {"episode": self.clock.copy(), "_episode": mask.copy()}


@breaks("close")
class ClosesOnce(Walk):
    def close(self, **options: Any) -> None:
        if self.closed:
            raise gym.error.ClosedEnvironmentError("closed already")
        super().close(**options)


@breaks("close", strict=True)
class OpenForever(Walk):
    def close(self, **options: Any) -> None:
        pass
