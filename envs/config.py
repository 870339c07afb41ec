"""Which environment, and how it is seen: as a value that survives JSON, and as options of a command line."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, get_type_hints

from lssvwm.worldmodel.common.errors import InputError, check_value


@dataclass(frozen=True)
class EnvConfig:
    """Which environment, and how the model sees it. Survives JSON: `EnvConfig.from_dict(json.loads(json.dumps(...)))`.

    id: a Gymnasium id; `module:id` imports `module` first, as in `gymnasium.make`.
    size: side of the frame in pixels (>= 1), or its height and width; None keeps the environment's frame.
    actions: which of the environment's discrete actions 0..n-1 to offer, renumbered 0..len-1 in this order; None offers
        all.
    extra_obs: ask the environment for its extra observations (Memory Maze, MiniGrid: position, heading, layout), found
        in `info`.
    max_episode_steps: truncate after so many steps; a shorter limit of the environment's own still holds.
    options: what else the environment is made with, as a JSON object: '{"actions": "vpt"}'.
    every: the agent acts at every n-th frame: its action is repeated, rewards are summed (`envs.repeating`).
    image_key: the entry of a dictionary observation that is the image, with dots where it is nested; None takes
        "image", or the only one of bytes.
    layouts: of a procedurally made world, the first and how many of its layouts (`envs.layouts`); None draws from all.
    from_render: show what the environment renders; what it observes is found in `info`, under `state`.
    """

    id: str
    size: int | tuple[int, int] | None = None
    actions: tuple[int, ...] | None = None
    extra_obs: bool = False
    max_episode_steps: int | None = None
    options: str = ""
    every: int = 1
    image_key: str | None = None
    from_render: bool = False
    layouts: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        sides = self.size if isinstance(self.size, tuple) else (self.size,)
        if not all(side is None or side >= 1 for side in sides) or (isinstance(self.size, tuple) and len(sides) != 2):
            raise InputError(f"EnvConfig.size is {self.size}: give a side of at least 1, height and width, or None")
        for name, value in (("max_episode_steps", self.max_episode_steps), ("every", self.every)):
            if value is not None and value < 1:
                raise InputError(f"EnvConfig.{name} is {value}: give a number of at least 1, or None")
        if self.actions is not None and (not self.actions or len(set(self.actions)) < len(self.actions)):
            raise InputError(
                f"EnvConfig.actions is {self.actions}: name at least one action, each once, or None for all"
            )
        if self.layouts is not None and (len(self.layouts) != 2 or self.layouts[0] < 0 or self.layouts[1] < 1):
            raise InputError(f"EnvConfig.layouts is {self.layouts}: give the first, 0 or more, and how many, 1 or more")
        self.arguments()

    def arguments(self) -> dict[str, Any]:
        """`options` as keyword arguments. Raises InputError for text that is no JSON object."""
        try:
            found = json.loads(self.options or "{}")
        except (json.JSONDecodeError, RecursionError) as error:
            raise InputError(f"EnvConfig.options is {self.options!r}: write a JSON object ({error})") from error
        if not isinstance(found, dict):
            raise InputError(f"EnvConfig.options is {self.options!r}: write a JSON object of keyword arguments")
        return found

    def to_dict(self) -> dict[str, Any]:
        """Plain types only, ready for JSON. `every` came later: where it is 1 it is left out."""
        plain = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}
        return {name: value for name, value in plain.items() if (name, value) != ("every", 1)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> EnvConfig:
        """Inverse of `to_dict`. Raises InputError for keys it does not know, and for values of another type."""
        if not isinstance(values, Mapping):
            raise InputError(f"environment config is {values!r:.80}: give an object with an 'id'")
        known = get_type_hints(cls)
        unknown = sorted(map(str, set(values) - set(known)))
        if unknown or "id" not in values:
            raise InputError(f"environment config has unknown keys {unknown} or no 'id': known keys are {[*known]}")
        told: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in values.items()
        }
        for name, value in told.items():
            check_value(f"EnvConfig.{name}", value, known[name])
        return cls(**told)


@dataclass(frozen=True)
class EnvOptions:
    """`EnvConfig` on a command line: commands inherit these options, one help line each."""

    env: str | None = None
    """Gymnasium id of the environment; `module:id` imports a module first."""
    size: int | tuple[int, int] | None = None
    """Side of the frames in pixels, or their height and width; None keeps the environment's own."""
    image_key: str | None = None
    """Entry of a dictionary observation that is the image, with dots where it is nested; None finds it."""
    from_render: bool = False
    """Show what the environment renders, where what it observes is no image; recordings keep that as extras."""
    actions: tuple[int, ...] | None = None
    """Which of the environment's discrete actions to use; None uses all."""
    layouts: tuple[int, int] | None = None
    """Of a procedurally made world, the first and how many of its layouts to record; None draws from all."""
    extra_obs: bool = False
    """Ask for the environment's extra observations; the oracle needs them, recordings keep them."""
    max_episode_steps: int | None = None
    """Truncate real episodes after so many steps; None keeps the environment's own limit."""
    env_options: str = ""
    """What else the environment is made with, as a JSON object: '{"actions": "vpt"}'."""
    every: int = 1
    """Act at every n-th frame of the environment only, repeating the action and adding up the rewards."""

    @property
    def env_config(self) -> EnvConfig:
        """The environment that is named. Raises InputError where none is."""
        if self.env is None:
            raise InputError("no environment is named: add --env ID")
        given = {name: getattr(self, name) for name in get_type_hints(EnvConfig) if name not in ("id", "options")}
        return EnvConfig(self.env, options=self.env_options, **given)
