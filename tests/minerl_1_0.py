"""A stand-in for `minerl` 1.0.2, which is on GitHub only: the spaces that it publishes, behind the old `gym` interface.

It knows no Minecraft; what it shows and does stands in its docstrings. `install` makes it the `minerl` of an
interpreter: this file is imported there as that package, so it needs nothing but gym and numpy.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

BUTTONS = (
    ["ESC", "attack", "back", "drop", "forward"]
    + [f"hotbar.{slot}" for slot in range(1, 10)]
    + ["inventory", "jump", "left", "pickItem", "right", "sneak", "sprint", "swapHands", "use"]
)
ITEMS = ["diamond", "diamond_shovel", "dirt", "stick"]
LIMIT = 12  # 3600 and more in truth; a test should not take minutes


def install(folder: Path, python: Path) -> Path:
    """An interpreter in `folder` that is `python` with this file as its `minerl`."""
    package = folder / "packages" / "minerl"
    package.mkdir(parents=True)
    shutil.copy(__file__, package / "__init__.py")
    about = folder / "packages" / "minerl-1.0.2.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: minerl\nVersion: 1.0.2\n")
    command = folder / "python"
    command.write_text(
        f"#!{python}\nimport runpy, sys\nsys.path.insert(0, {str(package.parent)!r})\nassert sys.argv[1] == '-I'\n"
        "sys.argv = sys.argv[2:]\nrunpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    command.chmod(0o755)
    return command


def _register() -> None:
    import gym
    import numpy as np

    class Dict(gym.spaces.Dict):
        def no_op(self) -> dict[str, Any]:
            return {name: 0 * space.sample() for name, space in self.spaces.items()}

    buttons = {name: gym.spaces.Discrete(2) for name in BUTTONS}
    actions = Dict({**buttons, "camera": gym.spaces.Box(-180.0, 180.0, (2,), np.float32)})

    class Game(gym.Env):
        """Red is the tick, in the left half only; green the seed; blue the yaw. Every press of `use` is a diamond.

        `pickItem` stands for a broken connection: a random observation, and the end.
        """

        action_space = actions

        def __init__(self, inventory: bool, ends_on_esc: bool) -> None:
            parts = {"pov": gym.spaces.Box(0, 255, (360, 640, 3), np.uint8)}
            if inventory:
                counts = {item: gym.spaces.Box(0, 2304, (), np.int64) for item in ITEMS}
                parts["inventory"] = gym.spaces.Dict(counts)
            self.observation_space = gym.spaces.Dict(parts)
            self.ends_on_esc = ends_on_esc
            self.world = None

        def seed(self, seed: int | None = None) -> None:
            self.world = seed

        def reset(self) -> Any:
            assert self.world is not None, "no seed for this episode"
            self.green, self.world = self.world, None
            self.ticks, self.yaw, self.diamonds = 0, 0.0, 0
            return self.observe()

        def step(self, action: Any) -> Any:
            assert list(action) == list(self.action_space.spaces), "the action is not complete"
            assert action in self.action_space, action
            if action["pickItem"]:
                return self.observation_space.sample(), 0, True, {"error": "Connection timed out!"}
            self.ticks += 1
            self.yaw += float(action["camera"][1])
            self.diamonds += int(action["use"])
            done = bool(self.ends_on_esc and action["ESC"])
            return self.observe(), float(action["use"]), done, {}

        def observe(self) -> Any:
            pov = np.zeros((360, 640, 3), np.uint8)
            pov[:, :320, 0], pov[:, :, 1], pov[:, :, 2] = self.ticks, self.green % 256, int(self.yaw) % 256
            if "inventory" not in self.observation_space.spaces:
                return {"pov": pov}
            counts = {item: np.array(self.diamonds * (item == "diamond")) for item in ITEMS}
            return {"pov": pov, "inventory": counts}

    def register(name: str, **kwargs: bool) -> None:
        gym.register(f"MineRL{name}-v0", entry_point=lambda: Game(**kwargs), max_episode_steps=LIMIT)

    for task in ("FindCave", "MakeWaterfall", "CreateVillageAnimalPen", "BuildVillageHouse"):
        register(f"Basalt{task}", inventory=False, ends_on_esc=True)
    register("ObtainDiamondShovel", inventory=True, ends_on_esc=False)


if __name__ == "minerl":
    sys.modules.setdefault("minerl", sys.modules[__name__])
    _register()
