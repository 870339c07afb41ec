"""Runs, checkpoints and episodes that earlier versions have written are read, dreamt and resumed (tests/data)."""

from __future__ import annotations

import json
import tarfile
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch

from lssvwm.agents.running.cli import LoopOptions, parse
from lssvwm.agents.running.loop import Loop
from lssvwm.envs import DreamVectorEnv
from lssvwm.worldmodel.checkpoint import read_state
from lssvwm.worldmodel.episodes import EpisodeStore
from runs import ROOT

HERE = ROOT / "tests" / "data" / "before_the_move"
_TOLD = json.loads((HERE / "expected.json").read_text())
EPISODES, EXPECTED = _TOLD["episodes"], _TOLD["stages"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("before")
    with tarfile.open(HERE / "runs.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.mark.parametrize("folder", EPISODES)
def test_episodes_are_read_bit_for_bit(folder: str, runs: Path) -> None:
    store = EpisodeStore(runs / folder)
    for name, arrays in EPISODES[folder].items():
        read = store.read(name).arrays()
        assert {key: sha256(array.tobytes()).hexdigest() for key, array in read.items()} == arrays
    assert set(store.names) == set(EPISODES[folder])
    assert {Path(name).suffix for name in store.names} == {".npz" if folder == "older" else ".episode"}


@pytest.mark.parametrize("contexts", ["episodes", "world_model/contexts.npz"])
def test_a_checkpoint_dreams_what_it_did(contexts: str, runs: Path) -> None:
    expected = np.load(HERE / "dream.npz")
    frames, rewards = (expected[f"{contexts}/{part}"] for part in ("frames", "rewards"))
    model = runs / "world" / "world_model"
    env = DreamVectorEnv(2, checkpoint=model, contexts=runs / "world" / contexts, context_length=3)
    begin = env.reset(seed=0)[0]
    steps = [env.step(np.array([t % 3, 2])) for t in range(8)]
    found = np.stack([begin, *(step[0] for step in steps)])
    # Another processor rounds in another way: by a level, in pixels that lie between two.
    assert np.abs(found.astype(int) - frames).max() <= 2
    np.testing.assert_allclose(np.stack([step[1] for step in steps]), rewards, atol=1e-4)
    assert np.ptp(frames, axis=0).max() > 20  # it is no still image


def test_an_interrupted_run_goes_on_to_its_end(runs: Path) -> None:
    """As `train_agent.py --resume` does, but for the report."""
    out = runs / "agent"
    assert 40 < read_state(out / "world_model" / "training.pt", torch.device("cpu"), "step")["step"] < 80
    options = parse(LoopOptions, ["--out", str(out), "--resume", "--no-progress"])
    Loop(out, options, progress=False).run()
    told = {path.stem: json.loads(path.read_text()) for path in (out / "stages").iterdir()}
    assert told.keys() == EXPECTED.keys()
    # On the machine that made them all figures are the same, bit for bit; another processor rounds in another way.
    for key in ("steps", "frames", "loss", "heads_reward"):
        assert told["1-world-model"][key] == pytest.approx(EXPECTED["1-world-model"][key], rel=1e-2), key
    assert told["1-policy"]["entropy"] == pytest.approx(EXPECTED["1-policy"]["entropy"], rel=1e-2)
