"""`lssvwm record`, also `python -m lssvwm.agents.record`: play a policy in a real environment and keep the episodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import tyro

from lssvwm.agents.policies.mixture import named_collector
from lssvwm.envs.config import EnvOptions
from lssvwm.envs.recording.recorder import record
from lssvwm.worldmodel.common.command_line import run_main, started_as
from lssvwm.worldmodel.episodes import EpisodeStore

INTERRUPTED = "interrupted; whole episodes are kept: the same command goes on"


@dataclass(frozen=True)
class Options(EnvOptions):
    """Play a policy in a real environment and write the episodes; what is there already is not played again."""

    env: str = field()
    """Gymnasium id of the environment; `module:id` imports a module first."""
    out: Path = field(kw_only=True)
    """Folder of episodes."""
    episodes: int = 100
    """Episodes, on the seeds from --seed on."""
    seed: int = 0
    """First seed. Give other ones than a run that trains: run s records from s million on."""
    policy: str = "random"
    """Who plays: random, scripted, seeker or oracle; or several by shares of the episodes: scripted:0.5,random:0.5."""
    max_frames: int | None = None
    """Begin no episode once there are so many frames: for worlds whose episodes are long, or never end."""
    num_envs: int = 2
    """Environments played at once."""
    timeout: float = 1000.0
    """Seconds for one reset or step, after which an environment is replaced."""
    attempts: int = 3
    """How often a seed whose environment fails is tried."""
    processes: bool = True
    """Play each of them in a process of its own: for slow ones."""
    progress: bool = True
    """Show a progress bar."""


def main(args: Sequence[str] | None = None) -> None:
    """Parse the command line, play, and say what was recorded."""
    o = tyro.cli(Options, args=args, prog=started_as("lssvwm.agents.record"))
    policy = named_collector(o.policy, o.env_config, "--policy")
    store = EpisodeStore(o.out, create=True)
    summary = record(
        o.env_config,
        store,
        policy,
        episodes=o.episodes,
        num_envs=o.num_envs,
        processes=o.processes,
        seed=o.seed,
        max_frames=o.max_frames,
        timeout=o.timeout,
        attempts=o.attempts,
        progress=o.progress,
    )
    print(f"{summary.episodes} episodes, {summary.frames} frames, mean return {summary.mean_return:.3g}: {o.out}")


if __name__ == "__main__":
    run_main(main, INTERRUPTED)
