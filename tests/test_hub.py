"""The hub: a run pushed, pulled and dreamt in, by the real client against a small server that speaks its interface."""

from __future__ import annotations

import io
import json
import os
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("huggingface_hub")
import gymnasium as gym
from huggingface_hub import constants

from dreams import ID
from hub_stub import Hub, serving
from lssvwm.agents.running.cli import LearnOptions, LoopOptions, parse
from lssvwm.worldmodel.checkpoint import load_checkpoint
from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.episodes import EpisodeStore
from lssvwm.worldmodel.episodes.files import write_episode
from lssvwm.worldmodel.hub.__main__ import main
from lssvwm.worldmodel.hub.client import Repo
from lssvwm.worldmodel.worlds import resolve
from packing import finished_run
from runs import ROOT

NAME = "someone/corridors"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished_run(tmp_path_factory.mktemp("run"))


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The client of this process talks to the stand-in; what it fetches is in `tmp_path`."""
    with serving() as stub:
        for name, value in {
            "ENDPOINT": stub.address,
            "HUGGINGFACE_CO_URL_TEMPLATE": stub.address + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_OFFLINE": False,
            "HF_HUB_DISABLE_XET": True,
            "HF_HUB_CACHE": str(tmp_path / "cache"),
        }.items():
            monkeypatch.setattr(constants, name, value)
        monkeypatch.setenv("HF_TOKEN", "hf_token")
        yield stub


@pytest.fixture
def pushed(hub: Hub, run: Path, capsys: pytest.CaptureFixture[str]) -> Hub:
    main(["push", str(run), NAME, "--about", "A corridor."])
    assert capsys.readouterr().out.strip() == f"{hub.address}/{NAME}"
    return hub


def test_a_pushed_run_is_a_world_for_everybody(pushed: Hub, run: Path) -> None:
    files = pushed.repos["models", NAME]
    world = {"config.json", "model.safetensors", "contexts.npz", "policy.safetensors", "card.json", "README.md"}
    assert set(files) == world | {"report/index.html"}
    assert pushed.commits == [len(files)], "all at once"
    assert files["README.md"].startswith(b"---\nlicense: mit\nlibrary_name: lssvwm\n")
    assert f'checkpoint="hf://{NAME}"'.encode() in files["README.md"]
    found, own = load_checkpoint(f"hf://{NAME}"), load_checkpoint(run / "world_model")
    for name, tensor in own.model.state_dict().items():
        assert tensor.equal(found.model.state_dict()[name]), name
    env = gym.make(ID, checkpoint=f"hf://{NAME}", context_length=3)
    frame, _ = env.reset(seed=0)
    assert frame.shape == (own.model.config.height, own.model.config.width, 3)
    env.close()


def test_only_safe_files_are_fetched_and_once(pushed: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = resolve(f"hf://{NAME}")
    assert not (folder / "report").exists()
    assert resolve(Path(f"hf://{NAME}")) == folder, "a path has one stroke less"
    asked = [request for request in pushed.requests if "/resolve/" in request and request.startswith("GET")]
    assert len(asked) == len(set(asked))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert resolve(f"hf://{NAME}") == folder, "without network"
    with pytest.raises(InputError, match=r"not reached, and someone/else was not fetched before"):
        resolve("hf://someone/else")


def test_pull_in_a_process_of_its_own(pushed: Hub, tmp_path: Path) -> None:
    to = tmp_path / "pulled"
    variables = {"HF_ENDPOINT": pushed.address, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
    env = {**os.environ, **variables, "HF_HOME": str(tmp_path / "home")}
    command = [sys.executable, "-m", "lssvwm.worldmodel.hub", "pull", NAME, str(to)]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in to.iterdir()) == sorted(
        set(pushed.repos["models", NAME]) - {"report/index.html"}
    )
    assert not any(path.is_symlink() for path in to.iterdir())
    with pytest.raises(InputError, match=r"pulled is there already: delete it, or name another folder"):
        main(["pull", NAME, str(to)])


def test_a_world_of_the_hub_imports_nothing(pushed: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "planted.py").write_text("raise SystemExit('planted')")
    monkeypatch.syspath_prepend(tmp_path)
    files = pushed.repos["models", NAME]
    meta = json.loads(files["config.json"])
    meta["world"]["env"] = {"id": "planted:World-v0"}
    files["config.json"] = json.dumps(meta).encode()
    for option, kind in (("--world-model", LoopOptions), ("--distill", LearnOptions)):
        with pytest.raises(InputError, match="would run the module 'planted'"):
            parse(kind, [option, f"hf://{NAME}", "--out", str(tmp_path / "run")])


def test_a_revision_is_pinned(pushed: Hub) -> None:
    files = pushed.repos["models", NAME]
    sha = pushed.sha(files)
    assert load_checkpoint(f"hf://{NAME}@{sha}").path.name == sha
    with pytest.raises(InputError, match=r"someone/corridors has no revision v9: name a branch"):
        resolve(f"hf://{NAME}@v9")


def test_episodes_as_a_data_set(
    hub: Hub, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lssvwm.worldmodel.hub.push._AT_ONCE", 4)
    store = EpisodeStore(run / "episodes")
    main(["push-episodes", str(run / "episodes"), NAME])
    files = hub.repos["datasets", NAME]
    assert set(files) == {"README.md", *(f"episodes/{name}" for name in store.names)}
    assert f"{len(store)} episodes, {store.frames} frames".encode() in files["README.md"]
    first = next(iter(store.names))
    del files[f"episodes/{first}"]
    commits = len(hub.commits)
    main(["push-episodes", str(run / "episodes"), NAME])
    assert hub.commits[commits:] == [1, 1], "what is there already is not sent again"
    old = write_episode(tmp_path, store.read(first), name="old.npz")
    files |= {"episodes/old.npz": old.read_bytes(), "episodes/below/other.episode": b"", "episodes/.hidden.npz": b""}
    main(["pull-episodes", NAME, str(tmp_path / "episodes")])
    found = EpisodeStore(tmp_path / "episodes", strict=True)
    assert found.names == (*store.names, "old.npz"), "today's files and those of before, and no others"
    assert all(np.array_equal(found.read(name).image, store.read(name).image) for name in store.names)
    main(["pull-episodes", NAME, str(tmp_path / "episodes")])
    assert capsys.readouterr().out.strip().endswith(": 0 new episodes")


def test_a_packed_file_is_no_data_set(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"contexts\.npz is a packed file: name the folder of episodes"):
        main(["push-episodes", str(resolve("minigrid-memory-s7") / "contexts.npz"), NAME])


def bomb() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("0000/image.npy", b"")
        archive.getinfo("0000/image.npy").file_size = 3_000_000_000
    return file.getvalue()


WORLD = {"config.json": b"{}", "model.safetensors": b"", "contexts.npz": b"no zip"}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (None, r"the hub has no someone/bad, or it is private: check the name"),
        ({}, r"someone/bad is no world of this package, it lacks config\.json, model\.safetensors"),
        ({**WORLD, "sub/model.pkl": pickle.dumps(1)}, r"holds pickles \(sub/model\.pkl\)"),
        ({**WORLD, "pytorch_model.bin": b""}, r"holds pickles \(pytorch_model\.bin\)"),
        (WORLD, r"contexts\.npz of someone/bad is damaged"),
        (
            {"config.json": b'{"world": {"episodes": "/home/me/episodes"}}', "model.safetensors": b""},
            r"config\.json of someone/bad names the episodes '/home/me/episodes', .* pushes the run with `lssvwm push`",
        ),
        ({**WORLD, "contexts.npz": bomb()}, r"would take 3,000,000,000 bytes"),
    ],
)
def test_what_is_no_world_is_refused(hub: Hub, files: dict[str, bytes] | None, message: str) -> None:
    if files is not None:
        hub.repos["models", "someone/bad"] = files
    with pytest.raises(InputError, match=message) as refused:
        load_checkpoint("hf://someone/bad")
    assert "\n" not in str(refused.value)
    assert not any(".pkl" in request or ".bin" in request for request in hub.requests)


@pytest.mark.parametrize("name", ["hf://someone", "hf://a/b/c", "hf://a/b@", "hf://", "hf:///x", "hf://a b/c"])
def test_bad_names(name: str) -> None:
    with pytest.raises(InputError, match="is no name on the hub"):
        resolve(name)


def test_names_that_only_the_hub_refuses(hub: Hub) -> None:
    with pytest.raises(InputError, match=r"'a--b/c' is no name on the hub"):
        resolve("hf://a--b/c")


def test_names_are_read_with_and_without_their_beginning() -> None:
    assert Repo.parse("hf://a/b") == Repo.parse("hf:/a/b") == Repo.parse("a/b") == Repo("a/b")
    assert Repo.parse("hf://a/b-1.0@refs/pr/3") == Repo("a/b-1.0", "refs/pr/3")


@pytest.mark.parametrize(
    ("status", "message"), [(403, r"does not allow this on someone/corridors \(403\)"), (500, r"refuses .* \(500\)")]
)
def test_a_hub_that_refuses(hub: Hub, run: Path, status: int, message: str) -> None:
    hub.refuse = status
    with pytest.raises(InputError, match=message):
        main(["push", str(run), NAME])


def test_a_hub_that_is_not_there(hub: Hub, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(InputError, match=r"the hub is not reached for someone/corridors"):
        main(["push", str(run), NAME])
    with pytest.raises(InputError, match=r"the hub is not reached, and someone/corridors was not fetched before"):
        resolve(f"hf://{NAME}")


def test_what_is_no_data_set_is_refused(hub: Hub, tmp_path: Path) -> None:
    hub.repos["datasets", NAME] = {"data.csv": b"", "episodes/../../x.npz": b""}
    with pytest.raises(InputError, match=r"no data set of episodes"):
        main(["pull-episodes", NAME, str(tmp_path / "episodes")])
    assert not (tmp_path / "episodes").exists()
