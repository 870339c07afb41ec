"""Play by hand, and hand over to what a run has learned: `python -m agents.play RUN/world_model`.

As `python -m envs.play`, which knows no policies; here `--policy` names a run of train_agent.py, random, scripted or
none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import tyro

from agents.algorithms import learned
from agents.cli import SETTINGS
from agents.evaluation.runs import open_run
from agents.policies import make_policy, needs_map
from envs.contexts import contexts_of
from envs.play.command import PlayOptions, by_name, play
from envs.policy import Policy
from worldmodel.checkpoint import Checkpoint, load_checkpoint
from worldmodel.command_line import run_main
from worldmodel.episodes import EpisodeStore
from worldmodel.errors import InputError

NOBODY = "none"
"""For --policy: leave the policy of the checkpoint's own run alone."""


def policy_of(checkpoint: Checkpoint, text: str) -> Policy:
    """The policy of the run in folder `text`, a named one, or MODULE:FUNCTION=TEXT, to play in this world.

    Raises InputError for one that plays other frames or actions, or by a map, which no dream shows.
    """
    if Path(text).is_dir():
        return _of_run(checkpoint, Path(text))
    if ":" in text:
        return by_name(checkpoint, text)
    env = str((checkpoint.world.get("env") or {}).get("id", ""))
    policy = make_policy(text, checkpoint.model.config.num_actions, env)
    if needs_map(text, env):
        raise InputError(f"--policy {text} plays {env} by its map, which a dream does not show: name a run, or random")
    return policy


def _of_run(checkpoint: Checkpoint, folder: Path) -> Policy:
    run = open_run(folder)
    settings, files, model = run.settings, folder / "policy", checkpoint.model
    if settings.place == "real":
        return learned(settings, files, checkpoint=None, contexts=None, greedy=False)
    own = checkpoint
    if checkpoint.path.resolve() != run.world_model.resolve():
        own = load_checkpoint(run.world_model, model.device)
    shapes = [(one.height, one.width, one.num_actions) for one in (own.model.config, model.config)]
    if shapes[0] != shapes[1]:
        raise InputError(
            f"{folder} learned with frames of {shapes[0][:2]} and {shapes[0][2]} actions, {checkpoint.path} has "
            f"{shapes[1][:2]} and {shapes[1][2]}: name a run of the same world"
        )
    contexts = EpisodeStore(settings.contexts or contexts_of(own))
    return learned(settings, files, checkpoint=own, contexts=contexts, greedy=False)


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line until it is interrupted; without --policy, that of the checkpoint's own run plays."""
    options = tyro.cli(PlayOptions, args=args)
    run = Path(options.checkpoint).resolve().parent
    if options.policy is None and (run / "policy").is_dir() and (run / SETTINGS).is_file():
        options = replace(options, policy=str(run))
    play(replace(options, policy=None) if options.policy == NOBODY else options, policy_of)


if __name__ == "__main__":
    run_main(main)
