"""The round that earned most is kept, and can be judged as a run when later ones have taken its place."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from dreams import dream_folder
from lssvwm.agents.dreamer.dreamer import Dreamer, DreamerConfig
from lssvwm.agents.evaluation.runs import open_run
from lssvwm.agents.running.best import best_round, keep
from lssvwm.agents.running.presets import PRESETS
from lssvwm.agents.running.settings_file import to_json
from lssvwm.envs.contexts import contexts_of
from lssvwm.worldmodel.checkpoint import load_checkpoint, save_checkpoint
from lssvwm.worldmodel.episodes import EpisodeStore
from lssvwm.worldmodel.episodes.packed import CONTEXTS, PackConfig, pack


def test_the_first_of_the_highest_means_is_the_best() -> None:
    assert best_round([[1.0, 3.0], [4.0, 0.0], [0.0, 4.0]]) == 0
    assert best_round([[1.0, 3.0], [9.0, 0.0], [0.0, 4.0]]) == 1


@pytest.fixture
def run(tmp_path: Path) -> Path:
    out = dream_folder(tmp_path / "run")
    checkpoint = load_checkpoint(out / "model")
    save_checkpoint(
        out / "world_model", checkpoint.model, world={**checkpoint.world, "episodes": "../episodes"}, step=7
    )
    train(out, 1)
    return out


def train(out: Path, until: int) -> None:
    model = load_checkpoint(out / "world_model").model
    told = DreamerConfig(rows=2, horizon=2, context=2, hidden=8)
    Dreamer(model, EpisodeStore(out / "episodes"), told, out / "policy").train(until, progress=False)


def test_it_stays_as_it_was_when_training_goes_on(run: Path) -> None:
    settings = to_json(PRESETS["smoke"])
    keep(run, settings, 0, {"return": {"mean": 1.0}})
    kept = {path: path.read_bytes() for path in sorted((run / "best").rglob("*")) if path.is_file()}
    names = {str(path.relative_to(run / "best")) for path in kept}
    assert names >= {"best.json", "settings.json", "policy/policy.pt", "world_model/model.safetensors"}
    train(run, 3)
    checkpoint = load_checkpoint(run / "world_model")
    with torch.no_grad():
        checkpoint.model.backbone.position.add_(1)
    save_checkpoint(run / "world_model", checkpoint.model, world=checkpoint.world, step=9)
    assert {path: path.read_bytes() for path in kept} == kept
    assert (run / "policy" / "policy.pt").read_bytes() != kept[run / "best" / "policy" / "policy.pt"]
    best = load_checkpoint(run / "best" / "world_model")
    assert best.step == 7
    assert contexts_of(best) == (run / "episodes").resolve()
    assert open_run(run / "best").world_model == run / "best" / "world_model"
    assert json.loads((run / "best" / "best.json").read_text()) == {"round": 0, "return": {"mean": 1.0}}


def test_a_copy_of_it_dreams_elsewhere(run: Path, tmp_path: Path) -> None:
    pack(run / "world_model" / CONTEXTS, EpisodeStore(run / "episodes"), PackConfig(episodes=1))
    keep(run, to_json(PRESETS["smoke"]), 0, {})
    copied = shutil.copytree(run / "best", tmp_path / "elsewhere" / "best")
    shutil.rmtree(run)
    carried = contexts_of(load_checkpoint(copied / "world_model"))
    assert carried == copied / "world_model" / CONTEXTS
    assert len(EpisodeStore(carried)) == 1


def test_a_better_round_takes_its_place(run: Path) -> None:
    keep(run, to_json(PRESETS["smoke"]), 0, {})
    train(run, 2)
    (run / ".best").mkdir()  # of one that was killed
    keep(run, to_json(PRESETS["smoke"]), 1, {})
    assert json.loads((run / "best" / "best.json").read_text()) == {"round": 1}
    assert (run / "best" / "policy" / "policy.pt").read_bytes() == (run / "policy" / "policy.pt").read_bytes()
    assert not (run / ".best").exists()
