"""The worked examples of additions, examples/extending: short, run as a newcomer runs them, and what they add is held
to the promises that what is shipped is held to.
"""

from __future__ import annotations

import ast
import json
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

import test_forcing
import test_model
from lssvwm.agents.evaluation.runs import open_run
from lssvwm.agents.running.settings import ALGORITHMS
from lssvwm.agents.running.trackers import TRACKERS
from lssvwm.worldmodel.checkpoint import load_checkpoint, save_checkpoint
from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.registry import MIXERS, TOKENIZERS
from runs import ROOT
from worlds import generator, random_frames, random_model, small_config

EXAMPLES = sorted((ROOT / "examples" / "extending").glob("*.py"))
TINY = (
    *("--no-progress", "--no-processes", "--num-envs", "2", "--collect-episodes", "6", "--world-steps", "3"),
    *("--model.dim", "32", "--model.layers", "1", "--model.features", "16", "--model.state-size", "4"),
    *("--model.head-dim", "32", "--training.batch", "2", "--training.length", "8", "--training.fit-frames", "64"),
    *("--heads.steps", "4", "--heads.kept", "60", "--heads.observed", "100"),
)


def run(name: str, *args: str) -> dict[str, Any]:
    """`python examples/extending/NAME.py ARGS`, in this process; returns what it defines."""
    script = ROOT / "examples" / "extending" / f"{name}.py"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [str(script), *args])
        return runpy.run_path(str(script), run_name="__main__")


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """What a test adds is gone after it."""
    registries: tuple[dict[str, Any], ...] = (MIXERS, TOKENIZERS, ALGORITHMS, TRACKERS)
    before = [dict(registry) for registry in registries]
    yield
    for registry, kept in zip(registries, before, strict=True):
        registry.clear()
        registry.update(kept)


@pytest.fixture(scope="module")
def lamps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of the example that adds an environment, in which others learn."""
    out = tmp_path_factory.mktemp("lamps") / "run"
    run("environment", str(out), *TINY)
    return out


def code_lines(path: Path) -> int:
    """Lines with code: neither blank nor of comments or docstrings."""
    text = path.read_text()
    told: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            told |= set(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    lines = enumerate(text.splitlines(), 1)
    return sum(bool(line.strip()) and not line.strip().startswith("#") and i not in told for i, line in lines)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_it_is_short_run_below_and_found_from_the_tour(path: Path) -> None:
    assert code_lines(path) <= 40
    assert f"python examples/extending/{path.name}" in path.read_text()
    assert f"`examples/extending/{path.name}`" in (ROOT / "docs" / "architecture.md").read_text()
    assert f'run("{path.stem}"' in Path(__file__).read_text()


def test_an_environment_is_recorded_learned_and_dreamt(lamps: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = load_checkpoint(lamps / "world_model")
    assert checkpoint.world["env"]["id"] == "Lamps-v0"
    assert (checkpoint.model.config.height, checkpoint.model.config.width) == (16, 48)
    assert json.loads((lamps / "stages" / "0-collect.json").read_text())["episodes"] == 6
    dream = gym.make("lssvwm:lssvwm/Dream-v0", checkpoint=lamps / "world_model")
    assert dream.reset(seed=0)[0].shape == (16, 48, 3)
    gym.make("Lamps-v0").reset(seed=0)


def test_a_mixer_keeps_what_the_scan_promises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    run("mixer")
    furthest = float(capsys.readouterr().out.split("differ by ")[1].split()[0])
    assert furthest < 1e-12
    config = small_config(scan="averages")
    model = random_model(config, 0)
    test_model.test_whole_equals_segments(model, [1, 3, 9])
    for chunk in (1, 2):
        monkeypatch.setitem(test_forcing.CASES, "added", {"scan": "averages", "chunk": chunk, "window": 2})
        test_forcing.test_training_computes_what_a_dream_computes("added")

    save_checkpoint(tmp_path, model.float(), world={}, step=0)
    assert load_checkpoint(tmp_path).model.config == config
    MIXERS.clear()
    with pytest.raises(InputError, match=r"scan='averages': give one of .*run what adds it to MIXERS first"):
        load_checkpoint(tmp_path)


def test_a_tokenizer_trains_and_dreams(lamps: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    settings = ("--episodes", str(lamps / "episodes"), "--model.patch", "8")
    run("tokenizer", str(out), *TINY, *settings, "--model.latent-channels", "48")
    model = load_checkpoint(out / "world_model").model
    frames = torch.from_numpy(gym.make("Lamps-v0").reset(seed=3)[0])[None]
    latents = model.encode(frames)
    assert latents.shape == (1, 12, 48)
    assert float((model.decode(latents).int() - frames.int()).abs().float().mean()) < 8
    dream = gym.make("lssvwm:lssvwm/Dream-v0", checkpoint=out / "world_model")
    dream.reset(seed=0)
    assert dream.step(1)[0].shape == (16, 48, 3)

    TOKENIZERS.clear()
    with pytest.raises(InputError, match=r"tokenizer='cosines': give one of .*run what adds it to TOKENIZERS first"):
        load_checkpoint(out / "world_model")


def test_all_frequencies_are_the_frame(capsys: pytest.CaptureFixture[str]) -> None:
    """The transform is orthogonal: with every coefficient kept, frames come back bit for bit."""
    TOKENIZERS["cosines"] = object  # to name it in a config
    config = small_config(tokenizer="cosines", latent_channels=48)
    made = runpy.run_path(str(ROOT / "examples" / "extending" / "tokenizer.py"))["Cosines"](config)
    frames = random_frames(config, 3, 2, source=generator(0))
    made.fit(frames[0])
    assert torch.equal(made.decode(made.encode(frames)), frames)
    assert float(made.encode(frames[0]).std()) == pytest.approx(1, abs=0.1)


def test_an_algorithm_goes_through_the_loop(lamps: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    world = ("--world-model", str(lamps / "world_model"), "--no-processes", "--no-progress", "--eval-episodes", "2")
    run("algorithm", str(out), *world, "--dreams", "4")
    told = {path.stem: json.loads(path.read_text()) for path in (out / "stages").iterdir()}
    assert told["0-evaluation"]["name"] == "trained in dreams"
    assert len(told["0-evaluation"]["imagined_returns"]) == 2
    state = torch.load(out / "policy" / "search.pt", weights_only=True)
    assert state["step"] == told["0-policy"]["until"] == 4
    assert state["best"] == told["0-policy"]["best"] > 0
    assert (out / "report" / "index.html").exists()

    assert open_run(out).settings.algo == "search"
    ALGORITHMS.clear()
    with pytest.raises(InputError, match=r"settings.json: algo='search': give one of .*run what adds it to ALGORITHMS"):
        open_run(out)


def test_a_logger_gets_what_a_run_tracks(lamps: Path, tmp_path: Path) -> None:
    out, settings = tmp_path / "run", ("--episodes", str(lamps / "episodes"), "--model.patch", "8")
    made = run("logger", str(out), *TINY, *settings, "--model.latent-channels", "32", "--world-steps", "40")
    lines = [line.split(",") for line in (out / "csv" / "world_model.csv").read_text().splitlines()]
    assert [int(step) for step, tag, _ in lines if tag == "world_model/loss"] == [20, 40]
    assert np.isfinite([float(value) for *_, value in lines]).all()
    assert list((out / "csv").glob("*.gif"))
    assert list((out / "tensorboard").iterdir())
    made["Csv"](out, {}).part("world_model", 25).close()  # it goes on after step 25
    assert {line.split(",")[0] for line in (out / "csv" / "world_model.csv").read_text().splitlines()} == {"20"}
