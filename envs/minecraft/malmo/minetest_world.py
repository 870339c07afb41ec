"""Minetest as a `World`: the missions that one of its tasks can play, in Minecraft's names."""

from __future__ import annotations

from typing import Any

import numpy as np

from lssvwm.envs.minecraft.actions import BUTTONS, Action
from lssvwm.envs.minecraft.malmo.mission import Mission, MissionError, Possessions
from lssvwm.envs.minecraft.malmo.world import ItemStack, Observation, Step, WorldError
from lssvwm.envs.minecraft.minetest.engine import EngineError
from lssvwm.envs.minecraft.minetest.env import MinetestEnv
from lssvwm.envs.minecraft.minetest.tasks import find_task

TASK = "treechop"
MISSION = "MineRLTreechop-v0"
"""The one mission that is played, and the task that plays it."""

LOGS = {
    "default:tree": ItemStack("log", metadata=0),
    "default:pine_tree": ItemStack("log", metadata=1),
    "default:aspen_tree": ItemStack("log", metadata=2),
    "default:jungletree": ItemStack("log", metadata=3),
    "default:acacia_tree": ItemStack("log2", metadata=0),
}
"""Minetest's trunks as Minecraft 1.11 names and numbers its own: oak, spruce, birch, jungle; acacia."""

_HANDLERS = frozenset(
    (
        "VideoProducer",
        "HumanLevelCommands",
        "CameraCommands",
        "RewardForPossessingItem",
        "AgentQuitFromPossessingItem",
        "ObservationFromFullInventory",
        # Every mission of minerl has these three; none of its observations or actions depends on them.
        "FileBasedPerformanceProducer",
        "ObservationFromDamage",
        "PauseCommand",
    )
)


class MinetestWorld:
    """`World` on `MinetestEnv`'s Treechop, rendered at the mission's video size.

    The engine runs from the first mission until `close`; a mission of another size starts another. map_seed: of the
    terrain (>= 0); the seed of a mission chooses the place, the trees and the view.

    The inventory shows the logs alone. Rewards and the end are the mission's, counted on what is in the inventory.
    """

    def __init__(self, map_seed: int = 0) -> None:
        self._map_seed = map_seed
        self._items = [LOGS[item] for item in find_task(TASK).items]
        self._env: MinetestEnv | None = None
        self._size = (0, 0)

    def reset(self, mission: Mission, seed: int | None) -> Observation:
        """Begin `mission`. Raises MissionError when Minetest cannot play it, InputError when it cannot be started."""
        _check(mission)
        size = (mission.width, mission.height)
        if self._env is None or self._size != size:
            self.close()
            self._env, self._size = self._make(size), size
        self._possessions = Possessions(mission)
        try:
            # Java's seeds have a sign, Gymnasium's have none.
            observed, _ = self._env.reset(seed=None if seed is None else seed % 2**64)
        except EngineError as error:
            raise WorldError(str(error)) from error
        self._counts = observed["inventory"]
        return self._show(observed)

    def step(self, action: Action) -> Step:
        """Play one tick. Raises WorldError when the engine crashed or hangs."""
        assert self._env is not None, "step before reset"
        observed, _, terminated, _, info = self._env.step(_full(action))
        if "error" in info:
            raise WorldError(info["error"])
        changes: dict[str, int] = {}
        for stack, change in zip(self._items, observed["inventory"] - self._counts, strict=True):
            changes[stack.type] = changes.get(stack.type, 0) + int(change)
        self._counts = observed["inventory"]
        reward = self._possessions.change(changes)
        return Step(self._show(observed), reward, terminated or self._possessions.complete)

    def close(self) -> None:
        """Stop the engine."""
        if self._env is not None:
            self._env.close()
            self._env = None

    def _make(self, size: tuple[int, int]) -> MinetestEnv:
        return MinetestEnv(TASK, size=size, actions="dict", world_seed=self._map_seed, extra_obs=True)

    def _show(self, observed: dict[str, Any]) -> Observation:
        stacks = [
            ItemStack(stack.type, int(count), stack.metadata)
            for stack, count in zip(self._items, observed["inventory"], strict=True)
            if count
        ]
        return Observation(observed["image"], tuple(stacks))


def _check(mission: Mission) -> None:
    if mission.name != MISSION:
        raise MissionError(f"Minetest cannot play {mission.name}: it plays {MISSION}")
    unknown = sorted(set(mission.handlers) - _HANDLERS)
    if unknown:
        raise MissionError(f"Minetest's {MISSION} has no {', '.join(unknown)}: leave them out of the mission")
    start = [(item.type, item.amount) for item in mission.start_inventory]
    if start != [("iron_axe", 1)]:
        raise MissionError(f"the mission starts with {start}: in Minetest's {MISSION} one starts with one iron_axe")
    others = sorted({item.type for item in (*mission.quit_items, *(rule.item for rule in mission.rewards))} - {"log"})
    if others:
        raise MissionError(f"the mission counts {', '.join(others)}: in Minetest's {MISSION} there are only logs")
    if mission.ms_per_tick != 50:
        raise MissionError(f"the mission has ticks of {mission.ms_per_tick} ms: Minetest's have 50")


def _full(action: Action) -> dict[str, Any]:
    unknown = sorted(key for key in set(action) - {*BUTTONS, "camera"} if action[key] != "none")
    if unknown:
        raise MissionError(f"the commands {', '.join(unknown)} are not of {MISSION}")
    camera = np.array(action.get("camera", (0.0, 0.0)), np.float32)
    return {**{button: action.get(button, 0) for button in BUTTONS}, "camera": camera}
