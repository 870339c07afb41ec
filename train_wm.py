"""Record a real world and train a world model on it, or train on episodes that are there already."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from agents.cli import main_with, parse
from agents.loop import Run
from agents.settings import WorldSettings


@dataclass(frozen=True)
class Options(WorldSettings):
    """Record a real world and train a world model on it, or train on episodes that are there already."""

    out: Path = Path("runs/world")
    """Folder of the run: episodes, world model and curves."""
    preset: str = "default"
    """Where the defaults of all other options come from: default, demo, smoke or memory-maze."""
    episodes: Path | None = None
    """Folder of recorded episodes to train on; nothing is recorded then."""
    resume: bool = False
    """Continue the run in --out where it stopped; its settings are the defaults."""
    progress: bool = True
    """Show progress bars."""


def main() -> None:
    """Parse the command line, record where needed, and train."""
    options = parse(Options)
    run = Run(options.out, options, progress=options.progress)
    if options.episodes is None:
        run.stage("0-collect", lambda: run.collect(0, run.first_collector()))
    figures = run.stage("0-world-model", lambda: run.learn_world(0, options.episodes))
    print(f"world model: {options.out / 'world_model'} after {figures['steps']} steps, loss {figures['loss']:.4f}")


if __name__ == "__main__":
    main_with(main)
