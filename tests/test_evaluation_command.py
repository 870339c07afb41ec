"""`python -m lssvwm.worldmodel.evaluation` as a user runs it: the right files, and one line for bad input."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from lssvwm.worldmodel.checkpoint import load_checkpoint, save_checkpoint
from lssvwm.worldmodel.common.errors import InputError, MissingExtraError
from lssvwm.worldmodel.episodes import EpisodeStore
from lssvwm.worldmodel.evaluation import command, trial_for
from lssvwm.worldmodel.evaluation.command import evaluate
from lssvwm.worldmodel.evaluation.models import names_of
from lssvwm.worldmodel.evaluation.options import Options
from lssvwm.worldmodel.evaluation.protocols import running
from lssvwm.worldmodel.evaluation.protocols.clips import read_windows
from lssvwm.worldmodel.evaluation.protocols.rollout import rollout
from lssvwm.worldmodel.evaluation.protocols.running import windows_of
from lssvwm.worldmodel.evaluation.studies.memory_use import MemoryUse
from lssvwm.worldmodel.evaluation.studies.recovery import Recovery
from lssvwm.worldmodel.evaluation.studies.revisits import Revisits
from lssvwm.worldmodel.model import WorldModel
from lssvwm.worldmodel.reporting.video import BAR, MARGIN, REAL
from places import places_checkpoint, places_store
from rings import of_places
from runs import ROOT
from worlds import small_config

CONTEXT, HORIZON = 6, 5


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Episodes, and checkpoints of three models."""
    root = tmp_path_factory.mktemp("world")
    store = places_store(root / "episodes")
    places_checkpoint(root / "ours" / "world_model", store, 0, pose_size=1)
    places_checkpoint(root / "window" / "world_model", store, 1, pose_size=1, scan="none")
    places_checkpoint(root / "blind", store, 2)
    return root


def options(world: Path, out: Path, *models: str, **changes: Any) -> Options:
    settings: dict[str, Any] = {
        "checkpoints": tuple(world / model for model in models or ("ours/world_model", "window/world_model")),
        "episodes": world / "episodes",
        "out": out,
        "pose": ("place",),
        "context": CONTEXT,
        "horizon": HORIZON,
        "clips": 4,
        "steps": 1,
        "shown": 2,
        "device": "cpu",
        "progress": False,
    }
    return Options(**{**settings, **changes})


@pytest.fixture(scope="module")
def finished(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the command leaves, run in a process of its own."""
    out = tmp_path_factory.mktemp("out") / "evaluation"
    args = ["ours/world_model", "window/world_model", "--episodes", "episodes", "--out", str(out), "--pose", "place"]
    sizes = ["--context", str(CONTEXT), "--horizon", str(HORIZON), "--clips", "4", "--steps", "1", "--shown", "2"]
    asked = ["--protocols", "retrieval", "cold-start", "jumped", "--probe", "colors", "--no-progress"]
    (out.parent / "printed").write_text(run(world, *args, *sizes, *asked).stdout)
    return out


def run(folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "lssvwm.worldmodel.evaluation", *args]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)


def test_everything_is_written(finished: Path) -> None:
    protocols = ("reasoning", "retrieval", "cold-start", "jumped")  # jumped is compared with reasoning
    expected = {f"{kind}-{p}" for p in protocols for kind in ("drift", "grid", "strip")}
    expected |= {"results", "report", "memory", "probes"}
    assert {path.stem for path in finished.iterdir()} == expected
    results = json.loads((finished / "results.json").read_text())
    assert results["options"]["seed"] == 0
    assert results["command"].startswith("python -m lssvwm.worldmodel.evaluation ours/world_model")
    assert set(results["versions"]) == {"python", "lssvwm", "torch", "numpy", "torchmetrics"}
    assert set(results["models"]) == {"ours", "window"}
    assert results["models"]["window"]["config"]["scan"] == "none"
    assert 0 <= results["models"]["ours"]["heads_on_real_frames"]["termination_accuracy"] <= 1
    assert list(results["protocols"]) == ["reasoning", "retrieval", "cold-start", "jumped"]
    for name in ("reasoning", "retrieval", "jumped"):
        assert list(results["protocols"][name]) == ["ours", "window", "last frame held"]
        for figures in results["protocols"][name].values():
            for metric in ("psnr", "ssim"):
                curve = figures[metric]["by_distance"]
                assert [len(curve[part]) for part in ("mean", "low", "high")] == [HORIZON] * 3
                assert list(figures[metric]["by_log_distance"]) == ["1", "2", "3-4", "5"]
                assert figures[metric]["by_log_distance"]["3-4"]["mean"] == pytest.approx(np.mean(curve["mean"][2:4]))
                assert figures[metric]["mean"] == pytest.approx(np.mean(curve["mean"]))
                assert figures[metric]["low"] <= figures[metric]["mean"] <= figures[metric]["high"]
    clean, gap = (results["protocols"][name]["ours"] for name in ("reasoning", "jumped"))
    assert gap["loss"]["psnr"]["mean"] == pytest.approx(clean["psnr"]["mean"] - gap["psnr"]["mean"])
    assert "heads" in clean
    assert list(results["protocols"]["cold-start"]["real frames"]) == ["nearest"]
    probes = {(p["target"], p["reading"], p["kind"]) for p in results["probes"]["ours"]}
    assert len(probes) == 3 * 2
    assert {p["reading"] for p in results["probes"]["window"]} == {"features"}


def test_the_table_names_every_model_and_the_base_rates(finished: Path) -> None:
    printed = (finished.parent / "printed").read_text()
    results = json.loads((finished / "results.json").read_text())
    lines = [re.split(r"\s*\|\s*", line)[1:-1] for line in printed.splitlines()]
    figures = results["protocols"]["retrieval"]["window"]["psnr"]
    ends = [f"{each['mean']:.2f}" for each in figures["by_log_distance"].values()]
    interval = f"{figures['low']:.2f} to {figures['high']:.2f}"
    expected = ["retrieval", "window", "psnr", str(figures["episodes"]), "4", f"{figures['mean']:.2f}", interval, *ends]
    assert expected in lines
    assert "last frame held" in printed
    assert "base rate" in printed


def test_the_page_says_what_every_table_is_of(finished: Path) -> None:
    page = (finished / "report.md").read_text()
    for words in (
        "python -m lssvwm.worldmodel.evaluation ours/world_model",
        "ours (step 0), window (step 0); 6 episodes of up to 30 frames",
        f"Context {CONTEXT}, horizon {HORIZON} frames, 1 denoising steps",
        "95 % intervals (Student's t) over the episodes",
        "## Use of memory",
        "2 model(s), 6 of 6 episodes",
        "three fifths of the episodes train the probe",
    ):
        assert words in page
    pictures = re.findall(r"!\[.*?\]\((.*?)\)", page)
    assert set(pictures) == {path.name for path in finished.glob("*.png") if not path.name.startswith("strip")}


def test_no_more_clips_are_held_than_are_computed_at_once(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []

    def noted(store: EpisodeStore, windows: Any) -> Any:
        sizes.append(len(windows.episodes))
        return read_windows(store, windows)

    for module in (running, command):
        monkeypatch.setattr(module, "read_windows", noted)
    protocols = ("one-step", "noised")
    settings = {"protocols": protocols, "clips": 5, "studies": (), "fvd": None}
    found = [
        evaluate(options(world, tmp_path, "blind", shown=3, rows=rows, **settings))["protocols"] for rows in (2, 5)
    ]
    assert max(sizes[: len(sizes) // 2]) <= 3
    for protocol in protocols:
        for name in ("blind", "last frame held"):
            few, many = (each[protocol][name] for each in found)
            assert few["psnr"]["by_distance"]["mean"] == pytest.approx(many["psnr"]["by_distance"]["mean"], rel=1e-3)
    heads = [each["one-step"]["blind"]["heads"]["reward_rmse"] for each in found]
    assert heads[0] == pytest.approx(heads[1], rel=1e-3)


def decoded(path: Path) -> np.ndarray[Any, Any]:
    with av.open(str(path)) as container:
        shown = [f.reformat(format="rgb24", src_colorspace="ITU709").to_ndarray() for f in container.decode(video=0)]
    return np.stack(shown)


def test_the_video_shows_truth_and_models_and_marks_the_context(world: Path, finished: Path) -> None:
    asked = options(world, finished)
    store = EpisodeStore(world / "episodes", pose=("place",))
    clips = read_windows(store, windows_of(asked, "retrieval", store))
    video = decoded(finished / "grid-retrieval.mp4")
    assert len(video) == CONTEXT + HORIZON
    columns = [clips.frames[:, [*range(CONTEXT), *range(CONTEXT - 2, CONTEXT - 2 - HORIZON, -1)]]]
    for name in ("ours", "window"):
        model = load_checkpoint(world / name / "world_model").model
        trial = trial_for(model, clips, "retrieval", context=CONTEXT, horizon=HORIZON)
        imagined = rollout(model, trial, steps=1, seed=0).frames
        columns.append(torch.cat([clips.frames[:, :CONTEXT], imagined], 1))
    scale = round(224 / 18)
    height, width = 18 * scale, 10 * scale
    row = height + BAR + 2 * MARGIN
    for clip in range(2):
        for column, frames in enumerate(columns):
            top, left = clip * row + MARGIN + BAR, MARGIN + column * (width + 8)
            panel = video[:, top : top + height, left : left + width]
            inside = panel[:, scale // 2 :: scale, scale // 2 :: scale]  # the middle of every pixel
            error = np.abs(inside[:, 1:-1, 1:-1].astype(int) - frames[clip].numpy().astype(int))
            assert error.mean() < 6, (clip, column)
            border = np.abs(inside[:, 0].astype(int) - REAL).max((1, 2)) < 40
            assert border.tolist() == [True] * CONTEXT + [False] * HORIZON


def test_plots_and_stills_are_pictures(finished: Path) -> None:
    for path in finished.glob("*.png"):
        pixels = np.asarray(Image.open(path).convert("RGB"))
        assert pixels.shape[0] > 100
        assert pixels.std() > 10


def test_the_same_command_gives_the_same_figures(world: Path, tmp_path: Path) -> None:
    def figures(**changes: Any) -> Any:
        found = evaluate(options(world, tmp_path, "blind", protocols=("one-step",), shown=0, **changes))
        return found["protocols"]["one-step"]["blind"]

    first = figures()
    assert figures() == first
    assert figures(rows=1)["psnr"]["mean"] == pytest.approx(first["psnr"]["mean"], rel=1e-3)
    assert figures(seed=1)["psnr"] != first["psnr"]
    assert not list(tmp_path.glob("grid-*"))


class Brightness(nn.Module):
    def forward(
        self, x: torch.Tensor, rescale: bool = False, resize: bool = False, return_features: bool = False
    ) -> torch.Tensor:
        return x.mean((2, 3, 4))


def test_fvd_is_measured_when_a_network_is_given(world: Path, tmp_path: Path) -> None:
    torch.jit.script(Brightness()).save(str(tmp_path / "network.pt"))
    asked = options(world, tmp_path, "blind", fvd=tmp_path / "network.pt", shown=0, horizon=10)
    figures = evaluate(asked)["protocols"]["reasoning"]
    assert figures["blind"]["fvd"] > 0
    assert "fvd" not in figures["last frame held"]


def test_names_tell_checkpoints_apart() -> None:
    def names(*paths: str) -> list[str]:
        return names_of([Path(path) for path in paths])

    assert names("runs/a/world_model") == ["world_model"]
    assert names("runs/a/world_model", "runs/b/world_model") == ["a", "b"]
    assert names("/a/x/m", "/b/x/m") == ["a", "b"]
    assert names("/a/x", "/b/y") == ["x", "y"]
    assert names("/p/a/x", "/p/a/y", "/p/b/x") == ["/p/a/x", "/p/a/y", "/p/b/x"]
    with pytest.raises(InputError, match="named twice"):
        names("a/b", "a/../a/b")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"episodes": Path("absent")}, "episode folder absent does not exist"),
        ({"checkpoints": ()}, "name at least one checkpoint"),
        ({"checkpoints": (Path("absent"),)}, "absent is neither a folder nor a world that comes with the package"),
        ({"pose": ()}, r"told a pose of 1 numbers, --pose \(none\) has 0"),
        ({"pose": ("place", "colors")}, "told a pose of 1 numbers, --pose place colors has 3"),
        ({"pose": ("walls",)}, "'walls' is asked for as pose"),
        ({"context": 40}, r"clips of 45 frames \(context and horizon together\) are asked for, but the longest"),
        ({"clips": 0}, "--clips 0: give at least 1"),
        ({"steps": 0}, "--steps 0: give at least 1"),
        ({"lpips": Path("absent.pth")}, r"absent\.pth does not exist"),
        ({"fvd": Path("absent.pt")}, r"absent\.pt does not exist"),
        ({"probe": ("walls",)}, "no extra 'walls' to probe for"),
        ({"probe_reads": 0}, "--probe-reads 0: give at least 1"),
        ({"protocols": (), "memory": MemoryUse(ages=(90,))}, "--memory.ages 90"),
        ({"device": "abacus"}, "--device abacus: use cpu, cuda or auto"),
    ],
)
def test_bad_input_is_named(world: Path, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        evaluate(options(world, tmp_path, **{"shown": 0, **changes}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"studies": ("memory", "palindrome")}, "does not say which actions undo which"),
        ({"studies": ("memory", "recovery"), "recovery": Recovery(frames=50)}, "clips of 61 frames"),
        ({"studies": ("memory", "revisits"), "revisits": Revisits(last=1000)}, "no frame of 0 episodes looks like one"),
        ({"studies": ("memory", "actions"), "horizon": 60}, "clips of 66 frames"),
        ({"protocols": ("reasoning", "retrieval")}, "not told it: train one with --pose"),
        ({"protocols": ("reasoning", "cold-start"), "clips": 1}, "use 2 --clips or more"),
        ({"protocols": ("reasoning",), "probe": ("colors", "walls")}, "no extra 'walls' to probe for"),
        ({"protocols": ("reasoning",), "probe": ("colors",), "probe_given": ("walls",)}, "no extra 'walls'"),
    ],
)
def test_what_is_lacking_is_said_before_anything_is_judged(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], message: str
) -> None:
    for name in ("study", "run_protocol", "probed"):
        monkeypatch.setattr(command, name, None)  # a call would be a TypeError
    with pytest.raises(InputError, match=message):
        evaluate(options(world, tmp_path / "out", "blind", **{"shown": 0, "protocols": (), **changes}))
    assert not (tmp_path / "out").exists()


def test_videos_want_a_package_before_anything_is_judged(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "av", None)  # type: ignore[arg-type]
    with pytest.raises(MissingExtraError, match=r"--shown 0 writes none\) need the package 'av'.*lssvwm\[evaluation\]"):
        evaluate(options(world, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_models_of_other_worlds_are_refused(world: Path, tmp_path: Path) -> None:
    for changes, message in (
        ({"height": 8}, r"dreams frames of \(8, 8\)"),
        ({"num_actions": 0, "action_size": 2}, r"takes actions of 2 numbers \(0: discrete ones\)"),
    ):
        model = WorldModel(small_config(**changes))
        save_checkpoint(tmp_path / "model", model, world={}, step=0)
        with pytest.raises(InputError, match=message):
            evaluate(options(world, tmp_path / "out", checkpoints=(tmp_path / "model",)))
    with pytest.raises(InputError, match="not told it: train one with --pose"):
        evaluate(options(world, tmp_path / "out", "blind", protocols=("retrieval",)))


def test_the_command_says_bad_input_in_one_line(world: Path) -> None:
    refused = run(world, "blind", "--episodes", "absent", "--out", "out")
    assert refused.returncode == 2
    assert refused.stdout == ""
    assert refused.stderr.startswith("error: episode folder absent does not exist")
    assert len(refused.stderr.strip().splitlines()) == 1


def test_videos_without_actions_are_judged(tmp_path: Path) -> None:
    """What free-form video can be asked: continuation by distance, use of memory, return to a view, recovery."""
    store = EpisodeStore(tmp_path / "videos", create=True)
    for places in ([*range(12), 2, 3, 20, 21, 22, 23], [*range(14, 2, -1), 12, 11, 24, 25, 26, 27]):
        store.append(of_places(places))
    places_checkpoint(tmp_path / "video", store, num_actions=0)
    asked = options(
        tmp_path,
        tmp_path / "out",
        "video",
        episodes=tmp_path / "videos",
        pose=(),
        shown=1,
        studies=("memory", "revisits", "recovery"),
        memory=MemoryUse(last=4),
        revisits=Revisits(last=4, alike=60),
        recovery=Recovery(frames=2, last=4),
    )
    found = evaluate(asked)
    assert list(found["protocols"]["reasoning"]["video"]) == ["psnr", "ssim", "heads"]
    assert list(found["studies"]) == ["memory", "revisits", "recovery"]
    assert found["studies"]["revisits"]["video"]["returned to"]["frames"] == 4
    for study, message in (("actions", "no action only"), ("palindrome", "a model that is told one action per frame")):
        with pytest.raises(InputError, match=message):
            evaluate(replace(asked, studies=(study,), protocols=()))
