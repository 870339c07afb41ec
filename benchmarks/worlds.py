"""Is any world recorded, learned and dreamt? One line for each in docs/worlds.md: `make worlds`.

Each is played by chance for a few short episodes, its smallest world model learns for 30 steps, and the package's own
checker drives the dream of that. This shows that they run, not that anything is learned. Every world has a process of
its own.
"""

from __future__ import annotations

import functools
import importlib
import multiprocessing as mp
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

# Before anything draws; no window is opened.
os.environ.setdefault("MUJOCO_GL", "osmesa")
os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
os.environ.setdefault("SDL_AUDIODRIVER", "dummy")

import gymnasium as gym
import numpy as np
import torch
import tyro
from gymnasium import spaces, wrappers

from lssvwm.agents.running.run import Learning
from lssvwm.agents.running.settings import LearnSettings, ModelOptions, TrainingOptions
from lssvwm.envs import check_vector_env, make
from lssvwm.envs.checker import ConformanceError, from_id
from lssvwm.worldmodel.common.errors import InputError, MissingExtraError
from lssvwm.worldmodel.training import HeadsConfig

DOCS = Path(__file__).parent.parent / "docs" / "worlds.md"
BEGIN, END = "<!-- begin: make worlds -->", "<!-- end: make worlds -->"
_TABLE = re.compile(f"{re.escape(BEGIN)}(.*){re.escape(END)}", re.DOTALL)
STEPS, EPISODES, LIMIT = 30, 3, 16


@dataclass(frozen=True)
class World:
    """name: in the table. env: its id. told: what else `LearnSettings` says of it."""

    name: str
    env: str
    told: dict[str, Any]


@dataclass(frozen=True)
class Line:
    """What became of a world. `fault`: why it is a failure of this package; `reason`: why it was not tried."""

    name: str
    observed: str = ""
    actions: str = ""
    frames: int = 0
    loss: float = 0.0
    seconds: float = 0.0
    fault: str = ""
    reason: str = ""

    def __str__(self) -> str:
        if self.reason or self.fault:
            outcome = " ".join((f"not tried: {self.reason}" if self.reason else f"**failed**: {self.fault}").split())
            return f"| {self.name} | {self.observed} | {self.actions} | | | {outcome} |"
        return (
            f"| {self.name} | {self.observed} | {self.actions} | {self.frames} | {self.loss:.2f} | keeps the contract |"
        )


Wrapping = Callable[[gym.Env[Any, Any]], gym.Env[Any, Any]]


def _mapped(change: Callable[[Any], Any]) -> Wrapping:
    """A wrapper that changes what is observed, and its space."""

    def wrap(env: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
        assert isinstance(env.observation_space, spaces.Box)
        low = change(env.observation_space.low)
        space = spaces.Box(low, change(env.observation_space.high), low.shape, low.dtype)
        return wrappers.TransformObservation(env, change, space)

    return wrap


def _nested(env: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
    space = spaces.Dict(views=spaces.Dict(front=env.observation_space), reward=spaces.Box(0, 1, (2,)))
    return wrappers.TransformObservation(
        env, lambda image: {"views": {"front": image}, "reward": np.zeros(2, np.float32)}, space
    )


WRAPPERS: dict[str, Wrapping] = {
    "GrayscaleObservation": wrappers.GrayscaleObservation,
    "GrayscaleObservation(keep_dim)": lambda env: wrappers.GrayscaleObservation(env, keep_dim=True),
    "GrayscaleObservation, FrameStackObservation(4)": lambda env: wrappers.FrameStackObservation(
        wrappers.GrayscaleObservation(env), 4
    ),
    "FrameStackObservation(3)": lambda env: wrappers.FrameStackObservation(env, 3),
    # Of bytes, Gymnasium's own rescaling makes nothing but zeros.
    "DtypeObservation, RescaleObservation(0, 1)": lambda env: wrappers.RescaleObservation(
        wrappers.DtypeObservation(env, np.float32), np.float32(0), np.float32(1)
    ),
    "channels first": _mapped(lambda image: np.moveaxis(image, -1, 0)),
    "RGBA": _mapped(lambda image: np.concatenate([image, image[..., :1]], axis=-1)),
    "nested dictionary": _nested,
}
"""Put around Pong."""


def _wrapped(name: str, **options: Any) -> gym.Env[Any, Any]:
    return WRAPPERS[name](gym.make("ale_py:ALE/Pong-v5", **options))


def _around_pong() -> list[World]:
    worlds = []
    for number, name in enumerate(WRAPPERS):
        gym.register(f"worlds/Pong{number}-v0", functools.partial(_wrapped, name))
        worlds.append(World(f"Pong, {name}", f"worlds/Pong{number}-v0", {}))
    return worlds


RENDERED = {"from_render": True}
GREY, RAM = ({"env_options": f'{{"obs_type": "{kind}"}}'} for kind in ("grayscale", "ram"))
WORLDS = [
    World("MiniGrid-MemoryS7-v0", "MiniGrid-MemoryS7-v0", {}),
    World("lssvwm/MiniGrid-Carpet-v0", "lssvwm/MiniGrid-Carpet-v0", {"extra_obs": True}),
    World("BabyAI-GoToRedBall-v0", "BabyAI-GoToRedBall-v0", {}),
    World("lssvwm/MemoryMaze-9x9-v0", "lssvwm/MemoryMaze-9x9-v0", {"extra_obs": True}),
    World("lssvwm/Minetest-LookAway-v0", "lssvwm/Minetest-LookAway-v0", {}),
    World("lssvwm/Crafter-v0", "lssvwm/Crafter-v0", {"extra_obs": True}),
    World("ale_py:ALE/Pong-v5", "ale_py:ALE/Pong-v5", {}),
    World("ale_py:ALE/Breakout-v5, grey", "ale_py:ALE/Breakout-v5", GREY),
    World("ale_py:ALE/Seaquest-v5, rendered", "ale_py:ALE/Seaquest-v5", {**RAM, **RENDERED}),
    *_around_pong(),
    World("VizdoomBasic-v1", "vizdoom.gymnasium_wrapper:VizdoomBasic-v1", {}),
    World("VizdoomBasic-MultiBinary-v1", "vizdoom.gymnasium_wrapper:VizdoomBasic-MultiBinary-v1", {}),
    World("miniworld:MiniWorld-Hallway-v0", "miniworld:MiniWorld-Hallway-v0", {}),
    World("CarRacing-v3, discrete", "CarRacing-v3", {"env_options": '{"continuous": false}'}),
    World("CarRacing-v3", "CarRacing-v3", {}),
    World("LunarLander-v3, rendered", "LunarLander-v3", RENDERED),
    World("CartPole-v1, rendered", "CartPole-v1", {**RENDERED, "size": (32, 48)}),
    World("FrozenLake-v1, rendered", "FrozenLake-v1", RENDERED),
    World("Pendulum-v1, rendered", "Pendulum-v1", RENDERED),
    World("HalfCheetah-v5, rendered", "HalfCheetah-v5", RENDERED),
    World("lssvwm/Control-cartpole-swingup-v0", "lssvwm/Control-cartpole-swingup-v0", {}),
    World("lssvwm/Control-walker-walk-v0", "lssvwm/Control-walker-walk-v0", {"extra_obs": True}),
    World("procgen-coinrun-v0", "procgen-coinrun-v0", {}),
]  # fmt: skip


def settings_of(world: World) -> LearnSettings:
    """The smallest world model, and few short episodes."""
    return LearnSettings(
        env=world.env,
        **{"size": 32, **world.told},
        max_episode_steps=LIMIT,
        collect_episodes=EPISODES,
        num_envs=1,
        processes=False,
        world_steps=STEPS,
        model=ModelOptions(
            patch=8,
            dim=32,
            layers=1,
            latent_channels=16,
            features=16,
            state_size=4,
            head_dim=16,
            tiles=((2, 2), (1, 1)),
        ),
        training=TrainingOptions(batch=2, length=8, fit_frames=32),
        heads=HeadsConfig(steps=10, kept=64, observed=64),
    )


def tried(world: World, folder: Path) -> Line:
    """Record, learn, dream and check."""
    began, line = time.process_time(), functools.partial(Line, world.name)
    settings = settings_of(world)
    try:
        env = make(settings.env_config)
    except (InputError, MissingExtraError) as error:
        return line(reason=str(error))
    line = functools.partial(line, observed=env.get_wrapper_attr("shown"), actions=_told(env.action_space))
    env.close()
    run = Learning(folder, settings, progress=False)
    recorded = run.collect(0, run.first_collector())
    learned = run.learn_world(0)
    dream = functools.partial(
        from_id, "lssvwm:lssvwm/Dream-v0", checkpoint=str(folder / "world_model"), context_length=2, max_episode_steps=4
    )
    try:
        check_vector_env(dream, num_envs=2, steps=10)
    except ConformanceError as error:
        return line(fault=str(error))
    seconds = time.process_time() - began
    return line(frames=recorded["frames"], loss=learned["loss"], seconds=seconds)


def apart(world: World) -> Line:
    """`tried` in a process of its own, which may die."""
    ours, theirs = mp.Pipe(duplex=False)
    process = mp.get_context("fork").Process(target=_try, args=(world, theirs))
    process.start()
    theirs.close()
    try:
        line: Line = ours.recv()
    except EOFError:
        process.join()
        line = Line(world.name, fault=f"its process ended with status {process.exitcode}")
    process.join()
    return line


def _try(world: World, answer: Connection) -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        try:
            answer.send(tried(world, Path(folder)))
        except Exception as error:
            answer.send(Line(world.name, fault=f"{type(error).__name__}: {error}"))


def _told(space: spaces.Space[Any]) -> str:
    return str(int(space.n)) if isinstance(space, spaces.Discrete) else str(space)


def rows_of(text: str) -> dict[str, str]:
    """The rows of the table in the page `text`, by the names of the worlds."""
    found = _TABLE.search(text)
    if not found:
        raise InputError(f"{DOCS} has no lines '{BEGIN}' and '{END}' for the table to stand between")
    rows = [row for row in found[1].splitlines() if row.startswith("| ")][1:]
    return {row.split(" | ")[0].removeprefix("| "): row for row in rows}


def written(text: str, line: Line) -> str:
    """The page `text` with the row of `line` in its table, in the order of `WORLDS`; others stay."""
    rows = {**rows_of(text), line.name: str(line)}
    order = [world.name for world in WORLDS if world.name in rows]
    head = f"| world | observed | actions | recorded frames | loss after {STEPS} steps | dream |\n"
    table = f"{head}|---|---|---|---|---|---|\n" + "".join(f"{rows[name]}\n" for name in order)
    return _TABLE.sub(lambda _: f"{BEGIN}\n{table}{END}", text)


@dataclass(frozen=True)
class Options:
    """Try all worlds that are installed, and write the table of docs/worlds.md."""

    only: str = ""
    """Try those whose names have this in them."""
    missing: bool = False
    """Try those that the table has not yet, after an interruption."""


def main(options: Options) -> int:
    """The exit status: 1 where a world failed."""
    importlib.import_module("torch._dynamo")  # takes seconds, and every process would do it again
    there = rows_of(DOCS.read_text()) if options.missing else {}
    failed = 0
    for world in WORLDS:
        if options.only in world.name and world.name not in there:
            line = apart(world)
            failed += bool(line.fault)
            print(f"{line}  {line.seconds:.1f} CPU s", flush=True)
            DOCS.write_text(written(DOCS.read_text(), line))
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options)))
