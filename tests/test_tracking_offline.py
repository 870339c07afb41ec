"""Trackio and MLflow without network or server, read back. `make test-integrations` runs this where they are."""

from __future__ import annotations

import json
import os
import shutil
import signal
import tempfile
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

# Read when they are imported, and by the processes that train.
os.environ |= {"TRACKIO_DIR": tempfile.mkdtemp(), "MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}
trackio: Any = pytest.importorskip("trackio", reason="needs an environment with the extra `loggers`")
mlflow: Any = pytest.importorskip("mlflow", reason="needs an environment with the extra `loggers`")

from lssvwm.agents.report.clips import TAG  # noqa: E402
from lssvwm.agents.running.tracking import Tracking  # noqa: E402
from lssvwm.worldmodel.common.errors import InputError  # noqa: E402
from runs import TINY_WORLD, finish, stop  # noqa: E402
from worlds import small_store  # noqa: E402

LOSS = "world_model/loss"


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A world model that was learned by two processes, of which the first was interrupted."""
    folder = tmp_path_factory.mktemp("logged")
    small_store(folder / "episodes")
    out = folder / "run"
    told = (*TINY_WORLD, "--episodes", str(folder / "episodes"), "--model.patch", "4", "--model.latent-channels", "8")
    told = (*told, "--world-steps", "200", "--log", "tensorboard", "trackio", "mlflow", "--out", str(out))
    begun = out / "world_model" / "model.safetensors"
    assert stop("train_wm.py", *told, when=begun.exists, number=signal.SIGINT).returncode == 130
    assert begun.exists()
    finish("train_wm.py", *told, "--resume")
    return out


@pytest.fixture(scope="module")
def curves(logged: Path) -> EventAccumulator:
    """What TensorBoard has of it."""
    events = EventAccumulator(str(logged / "tensorboard" / "world_model"))
    events.Reload()
    return events


def test_trackio_has_one_run_of_both_processes(logged: Path, curves: EventAccumulator) -> None:
    from trackio.sqlite_storage import SQLiteStorage

    kept = json.loads((logged / "trackio.json").read_text())
    (run,) = [each for each in trackio.Api().runs(kept["project"]) if each.name == kept["name"]]
    assert run.config["model"]["dim"] == 32
    lines = SQLiteStorage.get_logs(kept["project"], kept["name"])
    losses = [(line["step"], line[LOSS]) for line in lines if LOSS in line]
    assert losses == [(event.step, pytest.approx(event.value)) for event in curves.Scalars(LOSS)]
    (clip,) = [line for line in lines if TAG in line]
    image = curves.Images(TAG)[-1]
    file = Path(os.environ["TRACKIO_DIR"]) / "media" / clip[TAG]["file_path"]
    assert (clip["step"], clip[TAG]["_type"]) == (image.step, "trackio.video")
    assert file.read_bytes() == image.encoded_image_string


def test_mlflow_has_one_run_of_both_processes(logged: Path, curves: EventAccumulator) -> None:
    client = mlflow.MlflowClient(f"sqlite:///{logged / 'mlflow' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("lssvwm")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_id == json.loads((logged / "mlflow.json").read_text())["id"]
    assert (run.info.run_name, run.info.status, run.data.params["model.dim"]) == ("run", "FINISHED", "32")
    points = [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, LOSS)]
    assert sorted(points) == [(event.step, pytest.approx(event.value)) for event in curves.Scalars(LOSS)]
    image = curves.Images(TAG)[-1]
    artifacts = logged / "mlflow" / "artifacts" / run.info.run_id / "artifacts"
    assert (artifacts / TAG / f"{image.step}.gif").read_bytes() == image.encoded_image_string
    assert json.loads((artifacts / "settings.json").read_text())["model"]["dim"] == 32


def test_a_run_that_its_store_has_not_is_said_before_any_work(logged: Path, tmp_path: Path) -> None:
    shutil.copy(logged / "mlflow.json", tmp_path)
    said = r"--log mlflow: .* set MLFLOW_TRACKING_URI as it was, or delete .*mlflow.json"
    with pytest.raises(InputError, match=said), Tracking(tmp_path, ("mlflow",), dict).open():
        pass


def test_what_trackio_refuses_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKIO_SERVER_URL", "http://127.0.0.1:9")
    said = "--log trackio: Self-hosted logging requires a write token"
    with pytest.raises(InputError, match=said), Tracking(tmp_path, ("trackio",), dict).open():
        pass
