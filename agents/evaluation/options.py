"""What the command can be asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from lssvwm.agents.evaluation.comparison.curves import Metric
from lssvwm.agents.running.run import EVALUATION_SEEDS


@dataclass(frozen=True)
class Options:
    """Judge what runs have learned, and policies beside it, on the same real episodes; compare how methods learned."""

    runs: tyro.conf.Positional[tuple[str, ...]] = ()
    """Folders of runs (train_agent.py --out). Runs that differ in their seed alone are one method; NAME=RUN,RUN names
    a method and its runs."""
    out: Path = Path("evaluation")
    """Folder for results.json, report.md, plots, and a folder for each policy with its episodes and videos."""
    policies: tuple[str, ...] = ()
    """Policies that learn nothing, played beside: random, scripted, seeker, oracle. Random and oracle are anchors."""
    compare: tuple[str, ...] = ()
    """NAME=RUN,RUN,... for each method: plots what the evaluations during training were, over real steps and
    wall-clock, with bands over the runs. Nothing is played for this."""
    metric: Metric = "success"
    """What is compared."""
    threshold: float = 0.9
    """Level of the metric for which steps and time are counted."""
    env: str | None = None
    """Gymnasium id of the environment to play; None takes that of the runs."""
    size: int | tuple[int, int] | None = None
    """Side, or height and width, of the frames in pixels; None takes that of the runs."""
    actions: tuple[int, ...] | None = None
    """Which of the environment's discrete actions to use; None takes those of the runs."""
    from_render: bool = False
    """Show what the environment renders; runs do as they were told."""
    max_episode_steps: int | None = None
    """Truncate episodes after so many steps; None takes the runs' limit."""
    env_options: str | None = None
    """What else the environment is made with, as a JSON object; None takes that of the runs."""
    every: int | None = None
    """Act at every n-th frame of the environment only; None takes that of the runs."""
    image_key: str | None = None
    """Entry of a dictionary observation that is the image; None takes that of the runs, or finds it."""
    layouts: tuple[int, int] | None = None
    """The first and how many of the layouts to play, of a procedurally made world; None takes those of the runs'
    evaluations."""
    episodes: int = 100
    """Real episodes for each policy, on the seeds from --seed on, the same for all."""
    seed: int = EVALUATION_SEEDS
    """First seed. Runs record on smaller ones."""
    imagined: int | None = None
    """Dreams for the imagined return of a policy; None takes as many as real episodes, 0 none."""
    greedy: bool = False
    """Play the most likely action of what was learned, instead of drawing one as in training."""
    num_envs: int | None = None
    """Environments played at once; None: one for each core, at least 2, or 64 with --no-processes. Figures do not
    depend on it, but for what rounding makes of a learned policy."""
    processes: bool = True
    """Play each of them in a process of its own: for slow ones."""
    videos: bool = True
    """Write videos of each policy's best, median and worst episode."""
    device: str = "auto"
    """Where policies and dreams are computed: cpu, cuda, or auto for CUDA where there is one."""
    progress: bool = True
    """Show progress bars."""
