"""Players of the Minetest worlds that learn nothing: upper anchors, and recorders of what is worth remembering."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lssvwm.envs.minecraft.actions import TURN, ActionSet, action_set
from lssvwm.envs.minecraft.minetest.tasks import STAGES
from lssvwm.envs.policy import FrameArray, IntArray, Policy
from lssvwm.worldmodel.common.errors import InputError

_EYES, _REACH = 1.47, 3.7  # nodes: height of the eyes above the feet; how far the hand reaches, a little less
_AIM = np.deg2rad(TURN / 2)  # turning further would not come nearer
_PATIENCE = 90  # steps of digging: a log takes 28, by hand 70
_STONE_PICKAXE = len(STAGES) - 1  # the stage that makes it

OUT = (20, 100)
"""Steps that Retrace is walked out, at least and at most."""


@dataclass
class _Digger:
    """What a player who walks and digs remembers of an episode."""

    random: np.random.Generator
    position: NDArray[np.float64] | None = None
    walked: bool = False
    digging: int = 0  # steps at one node
    target: tuple[float, ...] = ()
    detour: list[str] = field(default_factory=list)  # what to do first, last one first

    def go_round(self) -> None:
        """Plan a way round whatever holds it."""
        turns = [str(self.random.choice(["left", "right"]))] * int(self.random.integers(2, 7))
        self.detour = ["jump"] * int(self.random.integers(6, 20)) + turns

    def walk(self, position: NDArray[np.float64]) -> str:
        """Forward, over or round what is in the way."""
        held = self.walked and self.position is not None and np.linalg.norm(position - self.position) < 0.02
        if held and self.random.random() < 0.1:
            self.go_round()
        return "jump" if held else "forward"

    def next(self, position: NDArray[np.float64], direction: NDArray[np.float64], target: NDArray[Any] | None) -> str:
        """The name of the action that brings it nearer to digging the node at `target`; None: look for one."""
        if self.detour:
            name = self.detour.pop()
        elif target is None:
            if self.random.random() < 0.05:
                self.go_round()
            name = self.walk(position)
        else:
            name = aim(position, direction, target) or self.walk(position)
        self.digging = (
            self.digging + 1 if name == "attack" and target is not None and tuple(target) == self.target else 0
        )
        if self.digging > _PATIENCE:
            self.go_round()
            self.digging = 0
        self.target = () if target is None else tuple(target)
        self.walked, self.position = name in ("forward", "jump"), position.copy()
        return name


def aim(position: NDArray[np.float64], direction: NDArray[np.float64], target: NDArray[np.float64]) -> str:
    """How to point at `target` and dig: left, right, up, down or attack; "" when it has to be walked to.

    position: (3,) of the feet. direction: (3,), the unit vector of the view. target: (3,), the middle of a node. All as
    in the extra observations of `MinetestEnv`.
    """
    away = target - position - np.array([0.0, _EYES, 0.0])
    level = float(np.hypot(away[0], away[2]))
    yaw = float(np.arctan2(away[0], away[2]) - np.arctan2(direction[0], direction[2]))
    yaw = (yaw + np.pi) % (2 * np.pi) - np.pi
    if level > 0.7 and abs(yaw) > _AIM:  # of what stands above one's head the direction means little
        return "right" if yaw > 0 else "left"
    if level > 1.0 and np.linalg.norm(away) > _REACH:
        return ""
    pitch = float(np.arctan2(-away[1], level) + np.arcsin(direction[1]))
    if abs(pitch) > _AIM:
        return "down" if pitch > 0 else "up"
    return "attack"


class Chopper:
    """Walks to the nearest log and chops it, in Treechop; wanders where it knows of none.

    Needs `agent_pos`, `agent_dir`, `target_pos` and `target_near` of every row in `info` (`extra_obs=True`).
    """

    _needs: tuple[str, ...] = ("agent_pos", "agent_dir", "target_pos", "target_near")

    def __init__(self, num_actions: int, actions: str = "treechop") -> None:
        self._set = _require_set(actions, num_actions)
        self._rows: dict[int, _Digger] = {}

    def reset(self, rows: IntArray, seeds: IntArray) -> None:
        """Start new episodes in `rows` from `seeds`."""
        for row, seed in zip(rows.tolist(), seeds.tolist(), strict=True):
            self._rows[row] = _Digger(np.random.default_rng(seed))

    def act(self, frames: FrameArray, info: Mapping[str, Any]) -> IntArray:
        """The next action of each of the N rows. Raises InputError when `info` lacks what it needs."""
        _require_info(info, self._needs)
        names = [self._next(row, {key: info[key][row] for key in self._needs}) for row in range(len(frames))]
        return np.array([self._set.index(name) for name in names], np.int64)

    def _next(self, row: int, seen: Mapping[str, Any]) -> str:
        target = seen["target_pos"] if seen["target_near"] else None
        return self._rows[row].next(seen["agent_pos"], seen["agent_dir"], target)


class Crafter(Chopper):
    """Goes through the stages of Craft: digs what is needed, and crafts as soon as it can.

    Needs `stage` and `inventory` besides what `Chopper` needs.
    """

    _needs = (*Chopper._needs, "stage", "inventory")

    def __init__(self, num_actions: int) -> None:
        super().__init__(num_actions, "craft")

    def _next(self, row: int, seen: Mapping[str, Any]) -> str:
        stage = int(seen["stage"])
        cobblestones = int(seen["inventory"][[name for name, _ in STAGES].index("cobblestone")])
        craft = STAGES[stage][0] if stage < len(STAGES) else ""
        if craft in self._set.names and (stage < _STONE_PICKAXE or cobblestones >= 3):
            return craft
        return super()._next(row, seen)


class Wanderer:
    """Walks on, with turns now and then, and jumps where something holds it, in Explore. Needs `agent_pos`."""

    def __init__(self, num_actions: int) -> None:
        self._set = _require_set("teco", num_actions)
        self._rows: dict[int, tuple[np.random.Generator, NDArray[np.float64], list[str]]] = {}

    def reset(self, rows: IntArray, seeds: IntArray) -> None:
        """Start new episodes in `rows` from `seeds`."""
        for row, seed in zip(rows.tolist(), seeds.tolist(), strict=True):
            self._rows[row] = (np.random.default_rng(seed), np.full(3, np.inf), [])

    def act(self, frames: FrameArray, info: Mapping[str, Any]) -> IntArray:
        """The next action of each of the N rows. Raises InputError when `info` lacks `agent_pos`."""
        _require_info(info, ("agent_pos",))
        names = [self._next(row, np.array(info["agent_pos"][row])) for row in range(len(frames))]
        return np.array([self._set.index(name) for name in names], np.int64)

    def _next(self, row: int, position: NDArray[np.float64]) -> str:
        random, before, plan = self._rows[row]
        if not plan:
            held = np.linalg.norm(position - before) < 0.5
            if held or random.random() < 0.2:
                turn = str(random.choice(["left", "right"]))
                plan += [turn] * int(random.integers(1, 7 if held else 3))
            # A jump of one step carries the walk that follows it onto the next node.
            plan += ["forward", "jump", *["forward"] * 8]
            plan.reverse()
            self._rows[row] = (random, position, plan)
        return plan.pop()


class _Planned:
    """Does what a plan drawn from the episode's seed says, and sees nothing."""

    def __init__(self, actions: str, num_actions: int, plan: Callable[[np.random.Generator], Iterator[str]]) -> None:
        self._set, self._plan = _require_set(actions, num_actions), plan
        self._plans: dict[int, Iterator[str]] = {}

    def reset(self, rows: IntArray, seeds: IntArray) -> None:
        """Start new episodes in `rows` from `seeds`."""
        for row, seed in zip(rows.tolist(), seeds.tolist(), strict=True):
            self._plans[row] = self._plan(np.random.default_rng(seed))

    def act(self, frames: FrameArray, info: Mapping[str, Any]) -> IntArray:
        """The next action of each of the N rows."""
        return np.array([self._set.index(next(self._plans[row])) for row in range(len(frames))], np.int64)


class Onlooker(_Planned):
    """Looks at the scene of LookAway, turns away, waits, turns back: again and again, by `look_away_plan`."""

    def __init__(self, num_actions: int) -> None:
        super().__init__("turns", num_actions, look_away_plan)


class Returner(_Planned):
    """Walks out along the lane of Retrace and comes back, by `retrace_plan`."""

    def __init__(self, num_actions: int, steps: tuple[int, int] = OUT) -> None:
        super().__init__("walk", num_actions, functools.partial(retrace_plan, steps=steps))


def look_away_plan(random: np.random.Generator) -> Iterator[str]:
    """Actions of "turns" without end, in rounds: see for 1 to 8 steps, turn by 30 to 180 degrees to one side, in half
    of the rounds also up or down by 15 or 30 degrees, wait for 0 to 12 steps, and undo the turns one by one.
    """
    opposite = {"left": "right", "right": "left", "up": "down", "down": "up"}
    while True:
        yield from ["noop"] * int(random.integers(1, 9))
        away = [str(random.choice(["left", "right"]))] * int(random.integers(2, 13))
        if random.random() < 0.5:
            away += [str(random.choice(["up", "down"]))] * int(random.integers(1, 3))
        yield from away
        yield from ["noop"] * int(random.integers(0, 13))
        yield from [opposite[turn] for turn in reversed(away)]


def retrace_plan(random: np.random.Generator, steps: tuple[int, int] = OUT) -> Iterator[str]:
    """Actions of "walk": see for 1 to 8 steps, walk out, stop, come back as far, and then stay.

    steps: how many it walks out, at least and at most.

    Half of the episodes come back walking backwards, the others turn round before and after.
    """
    yield from ["noop"] * int(random.integers(1, 9))
    out = int(random.integers(*steps, endpoint=True))
    # Before it changes its way it has to come to rest, or it would not come back to where it was: about ten steps.
    rest = ["noop"] * int(random.integers(10, 17))
    yield from ["forward"] * out + rest
    if random.random() < 0.5:
        yield from ["back"] * out + rest
    else:
        turn = [str(random.choice(["left", "right"]))] * round(180 / TURN)
        yield from turn + ["forward"] * out + rest + turn
    yield from itertools.repeat("noop")


SCRIPTED: Mapping[str, Callable[[int], Policy]] = {
    "lssvwm/Minetest-Treechop-v0": Chopper,
    "lssvwm/Minetest-Explore-v0": Wanderer,
    "lssvwm/Minetest-LookAway-v0": Onlooker,
    "lssvwm/Minetest-Retrace-v0": Returner,
    "lssvwm/Minetest-Craft-v0": Crafter,
}
"""The scripted policy of each Minetest world, made from the number of its actions."""

NEED_EXTRAS = frozenset(f"lssvwm/Minetest-{task}-v0" for task in ("Treechop", "Explore", "Craft"))
"""The worlds whose scripted policy sees more than the frame (`extra_obs=True`)."""


def _require_set(name: str, num_actions: int) -> ActionSet:
    actions = action_set(name)
    if num_actions != len(actions):
        raise InputError(
            f"this policy plays the {len(actions)} actions of the set '{name}', this environment has {num_actions}: "
            "choose 'random', or leave EnvConfig.actions at None"
        )
    return actions


def _require_info(info: Mapping[str, Any], keys: tuple[str, ...]) -> None:
    for key in keys:
        if key not in info or not np.all(info[f"_{key}"]):
            raise InputError(
                f"this policy needs '{key}' of every row in info: make a Minetest environment with extra_obs=True"
            )
