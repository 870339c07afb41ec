"""Which key is which action, and what the actions are called: for whoever plays by hand."""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym

DIGITS = string.digits + string.ascii_lowercase
"""Keys of actions that nobody gave a key: 0 to 9, then the letters."""

_ARROWS = {"ArrowUp": 273, "ArrowDown": 274, "ArrowRight": 275, "ArrowLeft": 276}  # of pygame 1, as some worlds have
_ARROWS_2 = {"ArrowRight": 1 << 30 | 79, "ArrowLeft": 1 << 30 | 80, "ArrowDown": 1 << 30 | 81, "ArrowUp": 1 << 30 | 82}
_BY_CODE = {code: name for table in (_ARROWS, _ARROWS_2) for name, code in table.items()}


@dataclass(frozen=True)
class Binding:
    """An action, what it is called, and the keys that, held together, mean it; any of `chords` does.

    Keys are named as browsers name them (`KeyboardEvent.key`): "a", " ", "ArrowUp".
    """

    action: int
    label: str
    chords: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Keys:
    """The keys of a world; `idle` is the action that does nothing, None where every action does something."""

    bindings: tuple[Binding, ...]
    idle: int | None = None

    def offering(self, actions: Sequence[int] | None) -> Keys:
        """The same where only `actions` are offered, renumbered in this order (`EnvConfig.actions`)."""
        if actions is None:
            return self
        known = {binding.action: binding for binding in self.bindings}
        kept = [Binding(new, known[old].label, known[old].chords) for new, old in enumerate(actions) if old in known]
        return Keys(tuple(kept), actions.index(self.idle) if self.idle in actions else None)

    def completed(self, count: int) -> Keys:
        """The bindings of all of `count` actions; those without a key get the next digits and letters that are free."""
        known = {binding.action: binding for binding in self.bindings if binding.action < count}
        taken = {key for binding in known.values() for chord in binding.chords for key in chord}
        free = iter(key for key in DIGITS if key not in taken)
        for action in range(count):
            if action not in known:
                key = next(free, None)
                known[action] = Binding(action, f"action {action}", () if key is None else ((key,),))
        idle = self.idle if self.idle is not None and self.idle < count else None
        return Keys(tuple(known[action] for action in range(count)), idle)


def _keys(idle: int | None, *rows: tuple[str, str]) -> Keys:
    """Rows of a label and its chords: "w,ArrowUp" are two keys, "w+a" is one chord of two."""
    chords = [tuple(tuple(chord.split("+")) for chord in text.split(",") if chord) for _, text in rows]
    return Keys(tuple(Binding(action, row[0], chords[action]) for action, row in enumerate(rows)), idle)


MEMORY_MAZE = _keys(
    0,
    ("wait", "s"),
    ("forward", "w,ArrowUp"),
    ("left", "a,ArrowLeft"),
    ("right", "d,ArrowRight"),
    ("forward left", "w+a,ArrowUp+ArrowLeft,q"),
    ("forward right", "w+d,ArrowUp+ArrowRight,e"),
)
MINIGRID = _keys(
    None,
    ("turn left", "a,ArrowLeft"),
    ("turn right", "d,ArrowRight"),
    ("forward", "w,ArrowUp"),
    ("pick up", "p"),
    ("drop", "o"),
    ("open", " "),
    ("done", "x"),
)

_AROUND = (("left", "a,ArrowLeft"), ("right", "d,ArrowRight"))
_WALK = (("wait", ""), ("forward", "w,ArrowUp"), ("back", "s,ArrowDown"), *_AROUND)
MINETEST_TURNS = _keys(0, ("wait", ""), *_AROUND, ("up", "w,ArrowUp"), ("down", "s,ArrowDown"))
MINETEST_WALK = _keys(0, *_WALK)
MINETEST_TREECHOP = _keys(0, *_WALK, ("up", "r"), ("down", "f"), ("attack", "x"), ("jump", " "), ("chop", "c"))

_WORLDS: Mapping[str, Keys] = {
    "lssvwm/Minetest-LookAway-": MINETEST_TURNS,
    "lssvwm/Minetest-Retrace-": MINETEST_WALK,
    "lssvwm/Minetest-Treechop-": MINETEST_TREECHOP,
    "lssvwm/MemoryMaze-": MEMORY_MAZE,
    "lssvwm/MiniGrid-": MINIGRID,
    "MiniGrid-": MINIGRID,
    "BabyAI-": MINIGRID,
}


def keys_of(
    env_id: str, count: int, actions: Sequence[int] | None = None, env: gym.Env[Any, Any] | None = None
) -> Keys:
    """The keys of a world with `count` actions.

    They come from the environment itself (`get_keys_to_action`, as `gymnasium.utils.play` asks for it) where there is
    `env`, from what is known of worlds by name, and are digits and letters otherwise. `actions` are those offered of
    the world's own.
    """
    found = next((keys for name, keys in _WORLDS.items() if env_id.rpartition(":")[2].startswith(name)), Keys(()))
    if len(found.bindings) < count:
        found = Keys(())  # a set of actions that is not the world's usual one
    if env is not None and env.has_wrapper_attr("get_keys_to_action"):
        found = _told(env.get_wrapper_attr("get_keys_to_action")(), found)
    return found.offering(actions).completed(count)


def _told(table: Mapping[Any, int], known: Keys) -> Keys:
    """What an environment tells: keys, codes of keys, or tuples of either; names of actions as far as known."""
    labels = {binding.action: binding.label for binding in known.bindings}
    chords: dict[int, list[tuple[str, ...]]] = {}
    idle = known.idle
    for keys, action in table.items():
        chord = tuple(_name(key) for key in (keys if isinstance(keys, tuple | list) else (keys,)))
        if chord in ((), ("NOOP",)):
            idle = int(action)  # what the environment takes when no key is down
        else:
            chords.setdefault(int(action), []).append(chord)
    if idle is not None:
        chords.setdefault(idle, [])
    bindings = (Binding(a, labels.get(a, f"action {a}"), tuple(found)) for a, found in sorted(chords.items()))
    return Keys(tuple(bindings), idle)


def _name(key: str | int) -> str:
    if isinstance(key, str):
        return key
    return _BY_CODE.get(key) or (chr(key) if 32 <= key < 127 else str(key))


def to_gymnasium(keys: Keys) -> dict[tuple[int, ...], int]:
    """`keys` as `gymnasium.utils.play` wants them: codes of pygame."""
    return {
        tuple(_ARROWS_2.get(key) or ord(key) for key in chord): binding.action
        for binding in keys.bindings
        for chord in binding.chords
    }
