"""The same neutral ground for every test: one thread, software rendering, no GPU, no network."""

from __future__ import annotations

import os

# Before the first import of torch or dm_control; worker processes inherit these.
os.environ.setdefault("MUJOCO_GL", "osmesa")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("SDL_VIDEODRIVER", "dummy")

import pytest
import torch

torch.set_num_threads(1)  # spinning threads make small models 50 times slower on a shared machine


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Without a GPU, tests marked `gpu` cannot run: say so instead of failing."""
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
