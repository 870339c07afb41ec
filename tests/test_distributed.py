"""Several processes train as one would: the same losses and weights, and the same again after a stop."""

from __future__ import annotations

import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from lssvwm.worldmodel.checkpoint import load_checkpoint
from lssvwm.worldmodel.episodes import EpisodeStore
from lssvwm.worldmodel.training import STATE
from runs import TINY_WORLD
from together import BATCH, CARRIED, CARRY, EXACT, carrying, exact, together
from trainers import assert_same_state, trainer
from worlds import assert_close, assert_same, small_store

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> EpisodeStore:
    return small_store(tmp_path_factory.mktemp("episodes"))


@pytest.fixture(scope="module")
def two(store: EpisodeStore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes found."""
    out = tmp_path_factory.mktemp("two")
    assert together("compare", store.root, out) == [0, 0]
    return out


@pytest.fixture(scope="module")
def one(store: EpisodeStore, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, torch.Tensor]]:
    """What one process finds."""
    return exact(store, tmp_path_factory.mktemp("one"), EXACT)


@pytest.mark.parametrize("accumulate", [2, 4])
def test_parts_of_a_step_change_nothing(
    store: EpisodeStore, tmp_path: Path, one: dict[str, dict[str, torch.Tensor]], accumulate: int
) -> None:
    """Nor the running figures of the read-out, in float64."""
    found = exact(store, tmp_path, replace(EXACT, accumulate=accumulate))
    for part, expected in one.items():
        assert found[part].keys() == expected.keys()
        assert_close(found[part], expected)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_two_processes_find_what_one_finds(two: Path, one: dict[str, dict[str, torch.Tensor]], accumulate: int) -> None:
    """Every gradient, what is logged, every weight and running figure, with the lengths of a curriculum."""
    found = torch.load(two / f"exact-{accumulate}.pt", weights_only=True)
    assert [int(one["figures"][f"{step}/length"]) for step in range(4)] == [5, 5, 7, 7]
    assert len(one["gradients"]) > 50
    for part, expected in one.items():
        assert found[part].keys() == expected.keys()
        assert_close(found[part], expected)


def test_in_single_precision_they_agree_too(store: EpisodeStore, two: Path, tmp_path: Path) -> None:
    alone = trainer(store, tmp_path, BATCH)
    alone.train(4, progress=False)
    for ours, theirs in zip(trainer(store, two / "single", BATCH).recent, alone.recent, strict=True):
        torch.testing.assert_close(ours["loss"], theirs["loss"], rtol=2e-3, atol=0)


def test_only_one_of_them_writes(two: Path) -> None:
    """The other one would have failed at it."""
    assert sorted(path.name for path in (two / "whole").iterdir()) == ["config.json", "model.safetensors", STATE]
    assert load_checkpoint(two / "whole").step == 6


def test_a_step_that_one_of_them_spoils_is_skipped_by_both(two: Path) -> None:
    ours, theirs = (torch.load(two / f"spoilt-{rank}.pt", weights_only=True) for rank in (0, 1))
    assert [record["skipped"] for record in ours["recent"]] == [0, 1, 0]
    assert ours["recent"] == theirs["recent"]
    assert_same(ours["weights"], theirs["weights"])
    assert all(bool(value.isfinite().all()) for value in ours["weights"].values())


def test_clips_that_do_not_come_apart_evenly(two: Path) -> None:
    for rank in (0, 1):
        assert (two / f"refused-{rank}").read_text() == (
            "batch=6 clips do not come apart evenly in 2 process(es) with accumulate=2: choose a multiple of 4"
        )


def test_both_stop_where_one_is_told_to(store: EpisodeStore, two: Path) -> None:
    assert [(two / f"stopped-{rank}").read_text() for rank in (0, 1)] == ["3", "3"]
    assert trainer(store, two / "interrupted", BATCH).step == 3


def test_killed_they_go_on_as_if_they_had_not_been(store: EpisodeStore, two: Path, tmp_path: Path) -> None:
    """Bit for bit, with another number of workers and from other first weights."""
    assert together("killed", store.root, tmp_path) == [-signal.SIGKILL] * 2
    assert together("resumed", store.root, tmp_path) == [0, 0]
    ours, theirs = (trainer(store, folder, BATCH) for folder in (tmp_path / "killed", two / "whole"))
    assert ours.step == 6
    assert_same_state(ours, theirs)


def test_two_processes_carry_what_one_carries(tmp_path: Path) -> None:
    """Losses, weights and every row's memory; any number of processes go on from what others saved."""
    store = small_store(tmp_path / "episodes", shortest=17)
    assert together("carried", store.root, tmp_path) == [0, 0]
    for name in CARRIED:
        for accumulate in (1, 2):
            both = tmp_path / f"{name}-{accumulate}"
            config = replace(CARRY, accumulate=accumulate, muon_lr=0.0)
            alone = carrying(store, tmp_path / f"one-{both.name}", config, name)
            alone.train(5, progress=False)
            found, expected = (torch.load(folder / STATE, weights_only=True) for folder in (both, alone.out))
            assert_close(found["model"], expected["model"])
            assert_close(losses(found), losses(expected))
            ours, theirs = found["carried"], expected["carried"]
            assert ours["places"] == theirs["places"]
            unfinished = [frame < store.frames_of(episode) for episode, frame in ours["places"]]
            assert any(unfinished)
            for entry, tensor in theirs["memory"].items():
                assert_close(ours["memory"][entry][unfinished], tensor[unfinished])
            again = carrying(store, both, config, name)
            for one in (alone, again):
                one.train(7, progress=False)
            assert_close(again.model.state_dict(), alone.model.state_dict())
    assert_same_state(trainer(store, tmp_path / "parts", CARRY), trainer(store, tmp_path / "whole", CARRY))


def losses(state: dict[str, Any]) -> torch.Tensor:
    """By step."""
    return torch.tensor([record["loss"] for record in state["recent"]], dtype=torch.float64)


def test_one_that_fails_alone_does_not_wait_to_save(store: EpisodeStore, tmp_path: Path) -> None:
    """What was saved before stays."""
    assert -signal.SIGKILL in together("alone", store.root, tmp_path)
    assert (tmp_path / "failed").read_text() == "False"
    assert trainer(store, tmp_path / "alone", replace(CARRY, workers=0)).step == 2


def test_torchrun_records_once_and_trains_in_two(tmp_path: Path) -> None:
    """The script as a user starts it, then again with `--resume` in one process."""
    out = tmp_path / "run"
    script = ("train_wm.py", *TINY_WORLD, "--collect-episodes", "4", "--world-steps", "3", "--out", str(out))
    launch = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    done = subprocess.run([sys.executable, *launch, *script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("world model:") == 1
    assert len(EpisodeStore(out / "episodes")) == 4
    assert (out / "commands.txt").read_text().count("train_wm.py") == 1
    assert load_checkpoint(out / "world_model").step == 3
    again = subprocess.run([sys.executable, *script, "--resume"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
