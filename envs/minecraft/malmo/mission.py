"""What a MissionInit document asks for, and the rewards that it promises for items.

The document is XML written by the client (`minerl`, from its `mission.xml.j2`). It is read with the standard library;
document types are refused, since entities are how small documents become large ones.
"""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from dataclasses import dataclass

from lssvwm.worldmodel.common.errors import InputError

MAX_SIDE = 4096
"""Largest video width and height in pixels."""

MAX_XML = 1 << 18
"""Longest document in characters; those of minerl 0.4.4 have up to 5,000."""

_NAMESPACE = {"m": "http://ProjectMalmo.microsoft.com"}
_SAME_REWARD = {"log2": "log"}  # Malmo pays acacia and dark oak (log2) like the other logs


class MissionError(InputError):
    """The mission cannot be understood, or asks for what is not there."""


@dataclass(frozen=True)
class ItemAmount:
    """So many of an item, by Minecraft's name."""

    type: str
    amount: int = 1


@dataclass(frozen=True)
class ItemReward:
    """`reward` for possessing `amount` of `item`.

    once: only the first time. exclude_loops: never twice for the same number possessed; else for every pick-up.
    """

    item: ItemAmount
    reward: float
    once: bool = False
    exclude_loops: bool = False


@dataclass(frozen=True)
class Mission:
    """A mission of one player.

    name: the environment's id, as `MineRLTreechop-v0`. uid: names the experiment, as the token repeats it.
    width, height: of the video, pixels. ticks: the time limit in ticks of `ms_per_tick`, None without one.
    handlers: names of the agent's handlers in the document: what it observes, may do, and is paid for.
    """

    name: str
    uid: str
    width: int
    height: int
    ms_per_tick: int = 50
    ticks: int | None = None
    start_inventory: tuple[ItemAmount, ...] = ()
    rewards: tuple[ItemReward, ...] = ()
    quit_items: tuple[ItemAmount, ...] = ()
    handlers: tuple[str, ...] = ()


def parse_mission(text: str) -> Mission:
    """The mission of a MissionInit document. Raises MissionError, naming what is missing, wrong or refused."""
    if len(text) > MAX_XML:
        raise MissionError(f"the mission has {len(text)} characters, more than {MAX_XML}")
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise MissionError("the mission has a document type or entities: these are refused, send plain elements")
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise MissionError(f"the mission is no XML: {error}") from error
    if root.tag != f"{{{_NAMESPACE['m']}}}MissionInit":
        raise MissionError(f"the mission's root is {root.tag}: MissionInit in Malmo's namespace is needed")
    agents = root.findall("m:Mission/m:AgentSection", _NAMESPACE)
    if len(agents) != 1:
        raise MissionError(f"the mission is for {len(agents)} agents: missions of one agent are supported")
    handlers = _one(agents[0], "m:AgentHandlers")
    video = _one(handlers, "m:VideoProducer")
    if video.get("want_depth", "false") != "false":
        raise MissionError("the mission wants depth: only RGB frames are supported, use include_depth=False")
    ms_per_tick = _number(_text(root, "m:Mission/m:ModSettings/m:MsPerTick"), "MsPerTick", 1, 10_000)
    limit = root.find("m:Mission/m:ServerSection/m:ServerHandlers/m:ServerQuitFromTimeUp", _NAMESPACE)
    return Mission(
        name=_text(root, "m:Mission/m:About/m:Summary"),
        uid=_text(root, "m:ExperimentUID"),
        width=_number(_text(video, "m:Width"), "Width", 1, MAX_SIDE),
        height=_number(_text(video, "m:Height"), "Height", 1, MAX_SIDE),
        ms_per_tick=ms_per_tick,
        ticks=None if limit is None else _ticks(_attribute(limit, "timeLimitMs"), ms_per_tick),
        start_inventory=tuple(
            ItemAmount(_attribute(item, "type"), _number(_attribute(item, "quantity"), "quantity", 0, 64))
            for item in agents[0].iterfind("m:AgentStart/m:Inventory/m:InventoryObject", _NAMESPACE)
        ),
        rewards=tuple(
            _reward(item, group)
            for group in handlers.iterfind("m:RewardForPossessingItem", _NAMESPACE)
            for item in group.iterfind("m:Item", _NAMESPACE)
        ),
        quit_items=tuple(
            _amount(item) for item in handlers.iterfind("m:AgentQuitFromPossessingItem/m:Item", _NAMESPACE)
        ),
        handlers=tuple(handler.tag.rpartition("}")[2] for handler in handlers),
    )


class Possessions:
    """Counts the items of one episode and says what they earn, as Malmo's RewardForPossessingItem does.

    Counts begin at zero: what the player starts with earns nothing.
    """

    def __init__(self, mission: Mission) -> None:
        self._mission = mission
        self._held: dict[str, int] = {}
        self._most: dict[str, int] = {}

    def change(self, changes: Mapping[str, int]) -> float:
        """The reward for `changes`, items to what came (> 0) and went (< 0) in one tick."""
        reward = 0.0
        for item, count in _merged(changes).items():
            held = self._held.get(item, 0)
            most = self._most.get(item, 0)
            if count > 0:
                reward += sum(
                    _earned(rule, held, most, count) for rule in self._mission.rewards if rule.item.type == item
                )
            self._held[item] = held + count
            self._most[item] = max(most, held + count)
        return reward

    @property
    def complete(self) -> bool:
        """Whether the player has what ends the mission."""
        return any(self._held.get(item.type, 0) >= item.amount for item in self._mission.quit_items)


def _earned(rule: ItemReward, held: int, most: int, count: int) -> float:
    amount = rule.item.amount
    if rule.once:
        return rule.reward if most < amount <= held + count else 0.0
    if rule.exclude_loops:
        return rule.reward * max(0, (held + count) // amount - most // amount)
    return rule.reward * (count // amount)


def _merged(changes: Mapping[str, int]) -> dict[str, int]:
    merged: dict[str, int] = {}
    for item, count in changes.items():
        name = _SAME_REWARD.get(item, item)
        merged[name] = merged.get(name, 0) + count
    return merged


def _reward(item: ElementTree.Element, group: ElementTree.Element) -> ItemReward:
    return ItemReward(
        item=_amount(item),
        reward=_decimal(_attribute(item, "reward"), "reward"),
        once=_flag(group, "sparse"),
        exclude_loops=_flag(group, "excludeLoops"),
    )


def _amount(item: ElementTree.Element) -> ItemAmount:
    kind = _attribute(item, "type")
    return ItemAmount(_SAME_REWARD.get(kind, kind), _number(item.get("amount", "1"), "amount", 1, 1 << 20))


def _ticks(limit: str, ms_per_tick: int) -> int:
    return max(1, int(_decimal(limit, "timeLimitMs")) // ms_per_tick)


def _one(parent: ElementTree.Element, path: str) -> ElementTree.Element:
    found = parent.findall(path, _NAMESPACE)
    if len(found) != 1:
        raise MissionError(f"the mission has {len(found)} elements {path.replace('m:', '')}: one is needed")
    return found[0]


def _text(parent: ElementTree.Element, path: str) -> str:
    text = (_one(parent, path).text or "").strip()
    if not text:
        raise MissionError(f"the mission's element {path.replace('m:', '')} is empty")
    return text


def _attribute(element: ElementTree.Element, name: str) -> str:
    value = element.get(name)
    if value is None:
        raise MissionError(f"the mission's element {element.tag.rpartition('}')[2]} has no '{name}'")
    return value


def _number(text: str, name: str, low: int, high: int) -> int:
    value = int(text) if text.isascii() and text.isdigit() and len(text) < 20 else -1
    if not low <= value <= high:
        raise MissionError(f"the mission's {name} is {text[:40]!r}: a whole number {low}..{high} is needed")
    return value


def _decimal(text: str, name: str) -> float:
    try:
        value = float(text)
    except ValueError as error:
        raise MissionError(f"the mission's {name} is {text[:40]!r}: a number is needed") from error
    if not abs(value) < 1e12:  # also refuses nan
        raise MissionError(f"the mission's {name} is {text[:40]!r}: a number below 1e12 is needed")
    return value


def _flag(element: ElementTree.Element, name: str) -> bool:
    text = element.get(name, "false")
    if text not in ("true", "false"):
        raise MissionError(f"the mission's {name} is {text[:40]!r}: true or false is needed")
    return text == "true"
