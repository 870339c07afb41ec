"""What the server needs of a world: `World`, and what a world shows and says, in Minecraft's names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

from lssvwm.envs.minecraft.actions import Action
from lssvwm.envs.minecraft.malmo.mission import Mission
from lssvwm.envs.policy import FrameArray


class WorldError(RuntimeError):
    """The world cannot start or go on. The message says why; the episode is over."""


@dataclass(frozen=True)
class ItemStack:
    """Items in one slot. type: Minecraft's name without `minecraft:`; metadata: its number of the variant, 0..15."""

    type: str
    quantity: int = 1
    metadata: int = 0


@dataclass(frozen=True)
class Observation:
    """What the player sees and has.

    frame: (height, width, 3) uint8 RGB, the first row at the top, at the mission's video size.
    inventory: the slots that hold something. equipped: what is in the hand.
    compass: degrees by which the target lies right of the view, -180..180; None where there is no target.
    """

    frame: FrameArray
    inventory: tuple[ItemStack, ...] = ()
    equipped: ItemStack | None = None
    compass: float | None = None


class Step(NamedTuple):
    """One tick: what the player sees after it, the reward for it, and whether the mission is over."""

    observation: Observation
    reward: float
    done: bool


class World(Protocol):
    """A world in which missions are played, one after the other. The server calls it from one thread."""

    def reset(self, mission: Mission, seed: int | None) -> Observation:
        """Begin `mission`; `seed` fixes what is random in it. Ends the mission before, if one was running.

        Raises InputError for a mission that this world cannot play, and WorldError when it cannot start.
        """
        ...

    def step(self, action: Action) -> Step:
        """Play one tick of 50 ms with `action`, as `messages.parse_commands` makes it.

        Raises InputError for commands that the world has no use for, and WorldError when it has broken down; the next
        `reset` mends it.
        """
        ...

    def close(self) -> None:
        """Give up processes and files."""
        ...
