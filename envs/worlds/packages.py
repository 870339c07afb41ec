"""Packages of worlds that register their ids only when they are imported."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass


@dataclass(frozen=True)
class Package:
    """ids: how its ids begin. module: what registers them. install: what `pip install` takes."""

    ids: tuple[str, ...]
    module: str
    install: str

    def hint(self, name: str) -> str:
        """What to do so that the id `name` is known."""
        here = importlib.util.find_spec(self.module.partition(".")[0]) is not None
        install = "" if here else f", after `pip install '{self.install}'`"
        return f"import the package that registers it: '{self.module}:{name}'{install}"


@dataclass(frozen=True)
class Unusable:
    """A package that cannot be had, and why."""

    ids: tuple[str, ...]
    reason: str

    def hint(self, name: str) -> str:
        """Why there is no `name`."""
        return self.reason


PACKAGES: tuple[Package | Unusable, ...] = (
    Package(("ALE/",), "ale_py", "lssvwm[worlds]"),
    Package(("Vizdoom",), "vizdoom.gymnasium_wrapper", "lssvwm[worlds]"),
    Package(("MiniWorld-",), "miniworld", "lssvwm[worlds]"),
    Package(("highway-", "parking-", "intersection-", "roundabout-", "racetrack-"), "highway_env", "highway-env"),
    Package(
        ("Fetch", "HandReach", "PointMaze", "AntMaze", "Adroit", "FrankaKitchen"),
        "gymnasium_robotics",
        "gymnasium-robotics",
    ),
    Unusable(("procgen", "Procgen"), "Procgen has wheels for Python up to 3.10 only, and registers with the old gym"),
)
