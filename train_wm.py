"""Record a real world and train a world model on it, or train on episodes that are there already.

Several devices train together: `accelerate launch train_wm.py ...` or `torchrun --nproc-per-node N train_wm.py ...`.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

from lssvwm.worldmodel.common.command_line import RESUMABLE as INTERRUPTED
from lssvwm.worldmodel.common.command_line import run_main

# All else is imported below: processes of environments read this file again, and need nothing of it.


def main(args: Sequence[str] | None = None) -> None:
    """Parse the command line, record where needed, and train."""
    from lssvwm.agents.running.cli import LearnOptions, claimed, parse
    from lssvwm.agents.running.run import Learning
    from lssvwm.worldmodel.training import processes

    options, together = parse(LearnOptions, args), processes()
    run = Learning(options.out, options, progress=options.progress and together.main)
    run.model_config()
    collector = None if options.episodes else run.first_collector()
    together.wait()  # what is in the folder has been read by all
    main = together.main
    with run.tracking.open() if main else nullcontext(), claimed(options) if main else nullcontext():
        with together.main_first():
            if collector is not None:
                run.stage("0-collect", lambda: run.collect(0, collector))
        figures = run.stage("0-world-model", lambda: run.learn_world(0))
    if together.main:
        print(f"world model: {options.out / 'world_model'} after {figures['steps']} steps, loss {figures['loss']:.4f}")


if __name__ == "__main__":
    run_main(main, INTERRUPTED)
