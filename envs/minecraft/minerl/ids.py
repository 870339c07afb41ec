"""The MineRL tasks that have an id here, and which versions of `minerl` have them."""

from __future__ import annotations

from dataclasses import dataclass

_OLD, _NEW = "0.4.4", "1.0.x"


@dataclass(frozen=True)
class Task:
    """One task: its id in MineRL, and the versions that have it ("0.4.4" is on PyPI, "1.0.x" on GitHub only)."""

    env_id: str
    versions: tuple[str, ...]


def _task(name: str, *versions: str) -> tuple[str, Task]:
    return name, Task(f"MineRL{name}-v0", versions)


TASKS: dict[str, Task] = dict(
    [
        *(
            _task(name, _OLD, _NEW)
            for name in (
                "Treechop",
                "Navigate",
                "NavigateDense",
                "NavigateExtreme",
                "NavigateExtremeDense",
                "BasaltFindCave",
                "BasaltMakeWaterfall",
                "BasaltCreateVillageAnimalPen",
                "BasaltBuildVillageHouse",
            )
        ),
        *(
            _task(name, _OLD)
            for name in ("ObtainDiamond", "ObtainDiamondDense", "ObtainIronPickaxe", "ObtainIronPickaxeDense")
        ),
        _task("ObtainDiamondShovel", _NEW),
    ]
)
"""By the name in the middle of the id: `lssvwm/MineRL-<name>-v0` plays `MineRL<name>-v0`."""
