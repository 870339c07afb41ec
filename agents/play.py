"""Play by hand, and hand over to what a run has learned: `python -m lssvwm.agents.play RUN/world_model`.

As `lssvwm.envs.play`, which knows no policies; here `--policy` names a run of train_agent.py, a packed world that
has one, random, scripted or none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import tyro

from lssvwm.agents.evaluation.runs import open_run
from lssvwm.agents.policies.baselines import make_policy, needs_map
from lssvwm.agents.policies.world_model import WorldModelPolicy, load_agent
from lssvwm.agents.running.algorithms import learned
from lssvwm.agents.running.cli import SETTINGS
from lssvwm.envs.contexts import contexts_of
from lssvwm.envs.play.command import PlayOptions, by_name, play
from lssvwm.envs.policy import Policy
from lssvwm.worldmodel.checkpoint import CONFIG, Checkpoint, load_checkpoint
from lssvwm.worldmodel.common.command_line import run_main
from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.episodes import EpisodeStore
from lssvwm.worldmodel.worlds import HUB, names, resolve
from lssvwm.worldmodel.worlds.policy import POLICY

NOBODY = "none"
"""For --policy: leave the policy that belongs to the checkpoint alone."""


def policy_of(checkpoint: Checkpoint, text: str) -> Policy:
    """The policy of the run or packed world `text`, a named one, or MODULE:FUNCTION=TEXT, to play in this world.

    Raises InputError for one that plays other frames or actions, or by a map, which no dream shows.
    """
    if text in names() or text.startswith(HUB) or Path(text).is_dir():
        folder = resolve(text)
        return _of_world(checkpoint, folder) if (folder / CONFIG).is_file() else _of_run(checkpoint, folder)
    if ":" in text:
        return by_name(checkpoint, text)
    env = str((checkpoint.world.get("env") or {}).get("id", ""))
    policy = make_policy(text, checkpoint.model.config.num_actions, env)
    if needs_map(text, env):
        raise InputError(f"--policy {text} plays {env} by its map, which a dream does not show: name a run, or random")
    return policy


def _of_run(checkpoint: Checkpoint, folder: Path) -> Policy:
    run = open_run(folder)
    settings, files = run.settings, folder / "policy"
    if settings.place == "real":
        return learned(settings, files, checkpoint=None, contexts=None, greedy=False)
    own = _watching(checkpoint, run.world_model)
    contexts = EpisodeStore(settings.contexts or contexts_of(own), told=own.model.config.told)
    return learned(settings, files, checkpoint=own, contexts=contexts, greedy=False)


def _of_world(checkpoint: Checkpoint, folder: Path) -> Policy:
    if not (folder / POLICY).is_file():
        raise InputError(f"{folder} comes without a policy ({POLICY}): name a run, random, or none")
    model = _watching(checkpoint, folder).model
    return WorldModelPolicy(model, load_agent(folder / POLICY, model))


def _watching(checkpoint: Checkpoint, folder: Path) -> Checkpoint:
    """The world model in `folder`, whose features a policy reads: `checkpoint` itself, or one of the same world."""
    model = checkpoint.model
    if checkpoint.path.resolve() == folder.resolve():
        return checkpoint
    own = load_checkpoint(folder, model.device)
    shapes = [(one.height, one.width, one.num_actions) for one in (own.model.config, model.config)]
    if shapes[0] != shapes[1]:
        raise InputError(
            f"{folder} learned with frames of {shapes[0][:2]} and {shapes[0][2]} actions, {checkpoint.path} has "
            f"{shapes[1][:2]} and {shapes[1][2]}: name a policy of the same world"
        )
    return own


def _belonging_to(checkpoint: str) -> str | None:
    """What `--policy` names the policy of a packed world by, or of the run that the checkpoint is a part of."""
    folder = resolve(checkpoint)
    if (folder / POLICY).is_file():
        return checkpoint
    run = folder.resolve().parent
    return str(run) if (run / "policy").is_dir() and (run / SETTINGS).is_file() else None


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line until it is interrupted; without --policy, the one that belongs to the checkpoint plays."""
    options = tyro.cli(PlayOptions, args=args)
    if options.policy is None:
        options = replace(options, policy=_belonging_to(options.checkpoint))
    play(replace(options, policy=None) if options.policy == NOBODY else options, policy_of)


if __name__ == "__main__":
    run_main(main)
