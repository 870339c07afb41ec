"""What each of several processes does in test_distributed, and how they are started."""

from __future__ import annotations

import faulthandler
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent.parent))

import torch

from lssvwm.worldmodel.common import stepping
from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.episodes import EpisodeStore
from lssvwm.worldmodel.training import Trainer, TrainingConfig, processes
from lssvwm.worldmodel.training import trainer as trainer_module
from trainers import TRAINING, trainer
from worlds import random_model, small_config

BATCH = replace(TRAINING, batch=4)
# Muon makes small directions as large as others, where a last bit more or less shows.
EXACT = replace(BATCH, muon_lr=0.0, curriculum="5:2,7:1")
READING = replace(BATCH, workers=1, save_seconds=0.0)
CARRY = replace(READING, carry=0.9, length=3)
CARRIED: dict[str, dict[str, Any]] = {
    "scan": {"window": 2},
    "all frames": {"window": None},
    "dead reckoning": {"window": 2, "dead_reckoning": 2},
}
"""Models that carry their memory from clip to clip."""
PATIENCE = 400
"""Seconds until a process that hangs says where."""


def exact(source: EpisodeStore, out: Path, config: TrainingConfig) -> dict[str, Any]:
    """Train in float64: the gradient of every weight in the first step, then losses and weights after four."""
    model = random_model(small_config(), 0)
    model.tokenizer.fitted.fill_(True)
    trained = Trainer(model, source, config, out, world={})
    trained.model.train()
    trained.backward(trained.parts())
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    again = random_model(small_config(), 0)
    trained = Trainer(again, source, config, out, world={})
    trained.train(4, progress=False)
    figures = {f"{i}/{name}": value for i, record in enumerate(trained.recent) for name, value in record.items()}
    return {"gradients": gradients, "figures": figures, "weights": again.state_dict()}


def compare(source: EpisodeStore, out: Path) -> None:
    for accumulate in (1, 2):
        found = exact(source, out / f"exact-{accumulate}", replace(EXACT, accumulate=accumulate))
        if processes().main:
            torch.save(found, out / f"exact-{accumulate}.pt")
    single = trainer(source, out / "single", BATCH)
    single.train(4, progress=False)
    if not processes().main:
        trainer_module.save_checkpoint = None  # type: ignore[assignment]
    trainer(source, out / "whole", READING).train(6, progress=False)
    spoilt(source, out)
    refused = ""
    try:
        trainer(source, out / "refused", replace(BATCH, batch=6, accumulate=2))
    except InputError as error:
        refused = str(error)
    (out / f"refused-{os.environ['RANK']}").write_text(refused)
    interrupted(source, out)


def spoilt(source: EpisodeStore, out: Path) -> None:
    """In the second of three steps one process alone has a gradient that is not finite."""
    trained = trainer(source, out / "spoilt", BATCH)
    spoils = torch.tensor(torch.nan if os.environ["RANK"] == "1" else 1.0)
    hook = trained.model.backbone.position.register_hook(lambda g: g * spoils if trained.step == 1 else g)
    trained.train(3, progress=False)
    hook.remove()  # it would keep the connections
    weights = {name: value.clone() for name, value in trained.model.state_dict().items()}
    torch.save({"recent": trained.recent, "weights": weights}, out / f"spoilt-{os.environ['RANK']}.pt")


def interrupted(source: EpisodeStore, out: Path) -> None:
    """One process alone is told to stop."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    trained = trainer(source, out / "interrupted", BATCH)
    average = trained.update_average

    def tell() -> None:
        average()
        if trained.step == 3 and not processes().main:
            signal.raise_signal(signal.SIGTERM)

    trained.update_average = tell  # type: ignore[method-assign]
    stepping.ASKING = 0.0  # after every step
    try:
        trained.train(6, progress=False)
    except KeyboardInterrupt:
        (out / f"stopped-{os.environ['RANK']}").write_text(str(trained.step))


def killed(source: EpisodeStore, out: Path) -> None:
    trained = trainer(source, out / "killed", READING)
    average = trained.update_average

    def kill() -> None:
        if trained.step == 4:
            os.kill(os.getpid(), signal.SIGKILL)
        average()

    trained.update_average = kill  # type: ignore[method-assign]
    trained.train(6, progress=False)


def resumed(source: EpisodeStore, out: Path) -> None:
    again = trainer(source, out / "killed", replace(READING, workers=0), seed=1)
    assert again.step == 3
    again.train(6, progress=False)


def carrying(source: EpisodeStore, out: Path, config: TrainingConfig, name: str) -> Trainer:
    """In float64."""
    model = random_model(small_config(**CARRIED[name]), 0)
    model.tokenizer.fitted.fill_(True)
    return Trainer(model, source, config, out, world={})


def carried(source: EpisodeStore, out: Path) -> None:
    """Memory goes from clip to clip, and over a stop."""
    for name in CARRIED:
        for accumulate in (1, 2):
            config = replace(CARRY, accumulate=accumulate, muon_lr=0.0)
            carrying(source, out / f"{name}-{accumulate}", config, name).train(5, progress=False)
    trainer(source, out / "whole", CARRY).train(7, progress=False)
    trainer(source, out / "parts", CARRY).train(4, progress=False)
    trainer(source, out / "parts", CARRY, seed=1).train(7, progress=False)


def alone(source: EpisodeStore, out: Path) -> None:
    """One of the processes cannot read its clips: it says so, and the other one does not wait for it."""
    trained = trainer(source, out / "alone", replace(CARRY, workers=0))
    trained.train(2, progress=False)
    if os.environ["RANK"] == "1":
        trained.loader.clips = None  # type: ignore[assignment,method-assign]
        try:
            trained.train(4, progress=False)
        except TypeError:
            (out / "failed").write_text(str(trained.whole))
            os.kill(os.getpid(), signal.SIGKILL)
    trained.train(4, progress=False)


def together(what: str, store: Path, out: Path, count: int = 2) -> list[int]:
    """Run `what` in `count` processes that know of each other as torchrun tells them; returns their exit codes."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    shared = {"WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    started, errors = [], [out / f"{what}-errors-{rank}" for rank in range(count)]
    for rank, path in enumerate(errors):
        told = {name: str(value) for name, value in {**shared, "RANK": rank, "LOCAL_RANK": rank}.items()}
        env = {**os.environ, "OMP_NUM_THREADS": "1", **told}
        command = [sys.executable, __file__, what, str(store), str(out)]
        with path.open("w") as stderr:
            started.append(subprocess.Popen(command, env=env, stderr=stderr))
    try:  # when one is gone, the others would wait for it
        while None in (codes := [process.poll() for process in started]) and not any(codes):
            time.sleep(0.1)
    finally:
        for process in started:
            process.kill()
    codes = [process.wait() for process in started]
    assert set(codes) <= {0, -signal.SIGKILL}, "\n".join(path.read_text() for path in errors)
    return codes


if __name__ == "__main__":
    faulthandler.enable()
    faulthandler.dump_traceback_later(PATIENCE, exit=True)
    torch.set_num_threads(1)
    _, name, folder, results = sys.argv
    works = {"compare": compare, "killed": killed, "resumed": resumed, "carried": carried, "alone": alone}
    works[name](EpisodeStore(folder), Path(results))
    processes().leave()
    threads = {path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")}
    assert not any("gloo" in thread for thread in threads), threads
