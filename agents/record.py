"""`lssvwm record`, also `python -m lssvwm.agents.record`: play a policy in a real environment and keep the episodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import tyro

from lssvwm.agents.policies.mixture import named_collector
from lssvwm.envs.factory import EnvConfig
from lssvwm.envs.recording.recorder import record
from lssvwm.worldmodel.common.command_line import run_main, started_as
from lssvwm.worldmodel.episodes import EpisodeStore

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
    """Who plays: random, scripted or oracle; or several by shares of the episodes: scripted:0.5,random:0.5."""
    size: int | tuple[int, int] | None = None
    """Side of the frames in pixels, or their height and width; None keeps the environment's own."""
    image_key: str | None = None
    """Entry of a dictionary observation that is the image, with dots where it is nested; None finds it."""
    from_render: bool = False
    """Show what the environment renders, where what it observes is no image; that is kept as extras."""
    actions: tuple[int, ...] | None = None
    """Which of the environment's discrete actions to use; None uses all."""
    layouts: tuple[int, int] | None = None
    """Of a procedurally made world, the first and how many of its layouts to record; None draws from all."""
    extra_obs: bool = False
    """Keep the environment's extra observations; the oracle needs them."""
    max_episode_steps: int | None = None
    """Truncate episodes after so many steps; None keeps the environment's own limit."""
    env_options: str = ""
    """What else the environment is made with, as a JSON object."""
    every: int = 1
    """Act at every n-th frame of the environment only, repeating the action and adding up the rewards."""
    num_envs: int = 2
    """Environments played at once."""
    processes: bool = True
    """Play each of them in a process of its own: for slow ones."""
    progress: bool = True
    """Show a progress bar."""


def main(args: Sequence[str] | None = None) -> None:
    """Parse the command line, play, and say what was recorded."""
    o = tyro.cli(Options, args=args, prog=started_as("lssvwm.agents.record"))
    given = {field.name: getattr(o, field.name) for field in fields(EnvConfig) if hasattr(o, field.name)}
    config = EnvConfig(o.env, options=o.env_options, **given)
    policy = named_collector(o.policy, config, "--policy")
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
