"""What is cloned may be recorded apart: the world model never learns from it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lssvwm.agents.dreamer.cloning import Cloner
from lssvwm.agents.evaluation.runs import load_policy
from lssvwm.agents.running.loop import Loop
from lssvwm.agents.running.run import SEEDS_PER_RUN, recorded_in, seeds_of
from lssvwm.envs.recording.provenance import listed
from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.common.stepping import Figures
from lssvwm.worldmodel.episodes import EpisodeStore
from test_algorithms import SMALL
from trainers import assert_same_state, flat

SHOWN = replace(SMALL, extra_obs=True, demonstrator="oracle", demonstrations=3, explore=0.2)


def seeds(folder: Path) -> set[int | None]:
    return {entry.seed for entry in listed(EpisodeStore(folder))}


@pytest.mark.parametrize("changes", [{"algo": "clone", "rounds": 2}, {"clone": True}])
def test_the_world_model_learns_from_others_than_the_clone(
    changes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cloned: list[Path] = []
    prepare = Cloner.prepare

    def noted(cloner: Cloner) -> None:
        cloned.append(cloner.store.root)
        prepare(cloner)

    monkeypatch.setattr(Cloner, "prepare", noted)
    settings = replace(SHOWN, **changes)
    loop = Loop(tmp_path, settings, progress=False)
    stages = loop.run()
    assert list(stages) == loop.stage_names()
    demonstrations = tmp_path / "demonstrations"
    assert set(cloned) == {demonstrations}
    assert len(EpisodeStore(demonstrations)) == stages["demonstrations"]["episodes"] == 3
    recorded = settings.rounds * SMALL.collect_episodes
    assert stages[f"{settings.rounds - 1}-world-model"]["episodes"] == recorded
    assert [seeds(tmp_path / "episodes"), seeds(demonstrations)] == [set(each) for each in seeds_of(settings)]
    grown = seeds_of(replace(settings, rounds=100))
    assert grown[1] == seeds_of(settings)[1] == range(SEEDS_PER_RUN - 3, SEEDS_PER_RUN)
    assert grown[0].stop <= grown[1].start
    assert {store.root.name for store in recorded_in(tmp_path)} == {"episodes", "demonstrations"}
    stores = recorded_in(tmp_path)
    assert loop.real_steps(settings.rounds - 1) == sum(store.frames - len(store) for store in stores)
    given = Loop(tmp_path / "given", replace(settings, rounds=1, world_model=tmp_path / "world_model"), progress=False)
    assert given.round(0)["demonstrations"]["steps"] == given.real_steps(0) > 0


def test_an_interrupted_demonstration_goes_on(tmp_path: Path) -> None:
    whole, parts = (Loop(tmp_path / name, replace(SHOWN, clone=True), progress=False) for name in ("whole", "parts"))
    policies = whole.demonstrator(), parts.demonstrator()
    assert policies[0] is not None
    assert policies[1] is not None
    whole.demonstrate(policies[0])
    store = EpisodeStore(tmp_path / "parts" / "demonstrations", create=True)
    parts.record(store, policies[1], 1, SEEDS_PER_RUN - 3)
    assert parts.demonstrate(policies[1])["skipped"] == 1
    first, second = (EpisodeStore(tmp_path / name / "demonstrations") for name in ("whole", "parts"))
    totals = [sorted(float(s.read(name).reward.sum()) for name in s.names) for s in (first, second)]
    assert totals[0] == totals[1]
    assert len(totals[0]) == 3


def test_interrupted_while_it_clones_a_run_goes_on_as_if_it_had_not_been(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, parts = (Loop(tmp_path / name, replace(SHOWN, clone=True), progress=False) for name in ("whole", "parts"))
    whole.run()
    step, taken = Cloner.train_step, []

    def interrupted(cloner: Cloner) -> Figures:
        taken.append(cloner.step)
        if len(taken) == 2:
            raise KeyboardInterrupt
        return step(cloner)

    with monkeypatch.context() as patched:
        patched.setattr(Cloner, "train_step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            parts.run()
    assert taken == [0, 1]
    Loop(tmp_path / "parts", parts.settings, progress=False).run()
    for name in ("policy/policy.pt", "best/policy/policy.pt"):
        first, second = (flat(torch.load(tmp_path / run / name, weights_only=True)) for run in ("whole", "parts"))
        episodes = {key for key in first if key.startswith("/contexts/episodes")}  # whose names are drawn anew
        assert_same_state(*({key: found[key] for key in found.keys() - episodes} for found in (first, second)))
    load_policy(tmp_path / "parts" / "best").reset(np.arange(2), np.arange(2))
    assert not (tmp_path / "parts" / "best" / "demonstrations").exists()


def test_who_demonstrates_is_checked_before_anything_is_written(tmp_path: Path) -> None:
    for changes, message in (
        ({}, r"--demonstrator oracle plays what is cloned: add --clone, or --algo clone"),
        ({"clone": True, "extra_obs": False}, r"--demonstrator oracle plays .* add --extra-obs"),
        ({"clone": True, "demonstrator": "nobody"}, "there is no policy 'nobody'"),
        ({"clone": True, "demonstrations": 0}, "demonstrations is 0: use 1 or more"),
    ):
        with pytest.raises(InputError, match=message):
            Loop(tmp_path, replace(SHOWN, **changes), progress=False)
    assert not any(tmp_path.iterdir())
