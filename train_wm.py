"""Record a real world and train a world model on it, or train on episodes that are there already."""

from __future__ import annotations

from agents.cli import LearnOptions, begin, main_with, parse
from agents.loop import Run


def main() -> None:
    """Parse the command line, record where needed, and train."""
    options = parse(LearnOptions)
    run = Run(options.out, options, episodes=options.episodes, progress=options.progress)
    run.model_config()
    collector = None if options.episodes else run.first_collector()
    begin(options)
    if collector is not None:
        run.stage("0-collect", lambda: run.collect(0, collector))
    figures = run.stage("0-world-model", lambda: run.learn_world(0))
    print(f"world model: {options.out / 'world_model'} after {figures['steps']} steps, loss {figures['loss']:.4f}")


if __name__ == "__main__":
    main_with(main)
