"""The dream passes the checker of vector environments, in every mode and with every output."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
from gymnasium.vector import AutoresetMode

from dreams import ID, dream_folder
from lssvwm.envs import DreamVectorEnv, check_vector_env
from lssvwm.envs.checker import from_id, single_from_id

MODES = list(AutoresetMode)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return dream_folder(tmp_path_factory.mktemp("run"))


def options(folder: Path, **more: Any) -> dict[str, Any]:
    return {"checkpoint": str(folder / "model"), "context_length": 3, "max_episode_steps": 4, "steps": 1, **more}


def test_the_dream_passes_in_all_modes_and_outputs(folder: Path) -> None:
    given = options(folder, terminate="sample")
    report = check_vector_env(
        functools.partial(from_id, ID, **given),
        modes=MODES,
        outputs=["numpy", "torch"],
        steps=10,
        single=single_from_id(ID, **given),
        snapshots=True,
        pickling=True,
        strict=True,
    )
    assert {note.message for note in report.notes} <= {
        "Gymnasium's wrappers take numpy arrays: they are not checked with tensors"
    }


NEXT_STEP, SAME_STEP, DISABLED = MODES


@pytest.mark.parametrize(
    ("mode", "more"),
    [
        (NEXT_STEP, {"observation": "features"}),
        (SAME_STEP, {"observation": "both", "channels_first": True, "stagger": True}),
        (DISABLED, {"context_info": True, "uncertainty": "heads"}),
        (SAME_STEP, {"uncertainty": "draws", "truncate_above": 0.5, "output": "torch"}),
        (NEXT_STEP, {"prefetch": False, "max_episode_steps": None, "terminate": "never"}),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else value.name,
)
def test_its_options_pass_too(folder: Path, mode: AutoresetMode, more: dict[str, Any]) -> None:
    """One pixel that batches of other sizes round the other way moves features by more than it moves frames."""
    given = options(folder, **more)
    check_vector_env(
        functools.partial(DreamVectorEnv, **given),
        modes=[mode],
        steps=10,
        max_episode_steps=given["max_episode_steps"],
        snapshots=True,
        strict=True,
        tolerance=1e-2 if "observation" in more else 1e-4,
    )


def test_single_dreams_side_by_side_pass(folder: Path) -> None:
    check_vector_env(
        functools.partial(from_id, ID, vectorization_mode="sync", **options(folder)),
        modes=[NEXT_STEP],
        num_envs=2,
        steps=10,
        single=functools.partial(gym.make, ID, **options(folder)),
    )
