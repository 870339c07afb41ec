"""`lssvwm record`, also `python -m agents.record`: play a policy in a real environment and keep the episodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from agents.policies import make_policy, needs_map
from agents.probe import probe
from envs.factory import EnvConfig
from envs.recording import record
from worldmodel.command_line import run_main, started_as
from worldmodel.episodes import EpisodeStore
from worldmodel.errors import InputError

INTERRUPTED = "interrupted; whole episodes are kept: the same command goes on"


@dataclass(frozen=True)
class Options:
    """Play a policy in a real environment and write the episodes; what is there already is not played again."""

    env: str
    """Gymnasium id of the environment; `module:id` imports a module first."""
    out: Path
    """Folder of episodes."""
    episodes: int = 100
    """Episodes, on the seeds from --seed on."""
    seed: int = 0
    """First seed. Give other ones than a run that trains: run s records from s million on."""
    policy: str = "random"
    """Who plays: random, scripted or oracle."""
    size: int | None = None
    """Side of the frames in pixels; None keeps the environment's own."""
    actions: tuple[int, ...] | None = None
    """Which of the environment's discrete actions to use; None uses all."""
    extra_obs: bool = False
    """Keep the environment's extra observations; the oracle needs them."""
    max_episode_steps: int | None = None
    """Truncate episodes after so many steps; None keeps the environment's own limit."""
    env_options: str = ""
    """What else the environment is made with, as a JSON object."""
    num_envs: int = 2
    """Environments played at once."""
    processes: bool = True
    """Play each of them in a process of its own: for slow ones."""
    progress: bool = True
    """Show a progress bar."""


def main(args: Sequence[str] | None = None) -> None:
    """Parse the command line, play, and say what was recorded."""
    o = tyro.cli(Options, args=args, prog=started_as("agents.record"))
    config = EnvConfig(o.env, o.size, o.actions, o.extra_obs, o.max_episode_steps, o.env_options)
    if needs_map(o.policy, o.env) and not o.extra_obs:
        raise InputError(f"--policy {o.policy} plays {o.env} by more than its frames: add --extra-obs")
    policy = make_policy(o.policy, probe(config).actions, o.env)
    store = EpisodeStore(o.out, create=True)
    summary = record(
        config,
        store,
        policy,
        episodes=o.episodes,
        num_envs=o.num_envs,
        processes=o.processes,
        seed=o.seed,
        progress=o.progress,
    )
    print(f"{summary.episodes} episodes, {summary.frames} frames, mean return {summary.mean_return:.3g}: {o.out}")


if __name__ == "__main__":
    run_main(main, INTERRUPTED)
