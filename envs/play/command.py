"""The command: a checkpoint in, a page out.

python -m lssvwm.envs.play CHECKPOINT --real recorded
"""

from __future__ import annotations

import importlib
import webbrowser
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from lssvwm.envs.dream.options import UncertaintyKind
from lssvwm.envs.policy import Policy
from lssvwm.worldmodel.actions import actions_of
from lssvwm.worldmodel.checkpoint import Checkpoint, device_of
from lssvwm.worldmodel.common.errors import InputError, require

if TYPE_CHECKING:
    from lssvwm.envs.play.game import Game

LoadPolicy = Callable[[Checkpoint, str], Policy]
"""Makes the policy that a text on the command line names, to play in a checkpoint's world."""


@dataclass(frozen=True)
class PlayOptions:
    """Play a dream in the browser, beside the real world where it is installed."""

    checkpoint: tyro.conf.Positional[str]
    """A world model: its folder, the name of a world that comes with the package, or hf://OWNER/NAME."""
    real: str | None = None
    """The real world beside it: a Gymnasium id, or 'recorded' for the one that the checkpoint was recorded in."""
    policy: str | None = None
    """Who can take over: MODULE:FUNCTION, or MODULE:FUNCTION=TEXT; FUNCTION(checkpoint, TEXT) returns a policy. In
    `lssvwm play` also a run, a packed world, random, scripted, or none; by default what belongs to the checkpoint."""
    contexts: Path | None = None
    """Folder of recorded episodes in which dreams begin, or a contexts.npz; None takes the checkpoint's own."""
    past: int = 64
    """Recorded frames that both worlds have behind them at most when play begins."""
    steps: int | None = None
    """Denoising steps per frame; None takes the model's usual number. The page can change it."""
    uncertainty: UncertaintyKind = "heads"
    """What the meter of uncertainty measures (docs/uncertainty.md). The page can change it."""
    speed: float = 8.0
    """Frames per second, at most. The page can change it."""
    seed: int = 0
    """Decides the contexts, and all chance of the dreams."""
    out: Path = Path("runs/play")
    """Folder for what is saved, and for the token of the address."""
    host: str = "127.0.0.1"
    """Where to listen. Whoever reaches another address than this and knows the token can play."""
    port: int = 8077
    """0 takes any that is free."""
    allow_hosts: tuple[str, ...] = ()
    """Further names by which a browser reaches this machine."""
    browser: bool = True
    """Open the page in a browser."""
    device: str = "cpu"
    """Where to dream: cpu, cuda, or auto for CUDA where there is one."""


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line until it is interrupted."""
    play(tyro.cli(PlayOptions, args=args), by_name)


def play(options: PlayOptions, load_policy: LoadPolicy) -> None:
    """Open the game and serve its page. Whatever is wrong with `options` is found before the page is served."""
    for module in ("starlette", "uvicorn", "websockets"):
        require(module, "play", "games in a browser")
    from lssvwm.envs.play import server
    from lssvwm.envs.play.messages import SPEEDS
    from lssvwm.envs.play.session import Session

    if not SPEEDS[0] <= options.speed <= SPEEDS[1] or options.past < 1 or options.seed < 0:
        raise InputError(
            f"--speed {options.speed}, --past {options.past}, --seed {options.seed}: give a speed of {SPEEDS[0]} to "
            f"{SPEEDS[1]:.0f} frames per second, a past of 1 frame or more and a seed of 0 or more"
        )
    listening = server.bind(options.host, options.port)
    with listening:
        port = listening.getsockname()[1]
        token = server.kept_token(options.out)
        thread = ThreadPoolExecutor(1, thread_name_prefix="game")  # what renders may be bound to the one that made it
        game = thread.submit(open_game, options, load_policy).result()
        session = Session(game, thread, hello_of(options, game), options.speed)
        app = server.make_app(session, token, server.hosts_of(options.host, port, options.allow_hosts))
        address = server.address_of(options.host, port, token)

        def ready() -> None:
            print(f"Play at {address}", flush=True)
            if options.browser:
                webbrowser.open(address)

        server.Server(app, ready).run(sockets=[listening])


def open_game(options: PlayOptions, load_policy: LoadPolicy) -> Game:
    """Load the world, the real one, and the policy."""
    from lssvwm.envs.dream.world import open_world
    from lssvwm.envs.play.dream_side import DreamSide
    from lssvwm.envs.play.game import Game
    from lssvwm.envs.play.policy import PolicyPlayer
    from lssvwm.envs.play.real_side import RealSide, known_keys, real_config

    world = open_world(
        options.checkpoint,
        options.contexts,
        str(device_of(options.device)),
        context_length="all",
        rows=1,
        steps=options.steps,
        profile=None,
        target_fps=None,
    )
    checkpoint = world.checkpoint
    if not checkpoint.model.config.num_actions:
        raise InputError(
            f"{checkpoint.path} takes {actions_of(checkpoint.model.config)}, and keys stand for discrete actions: play "
            "a world that has those"
        )
    real = None if options.real is None else RealSide(real_config(options.real, checkpoint), checkpoint.model.config)
    policy = None if options.policy is None else PolicyPlayer(load_policy(checkpoint, options.policy), options.policy)
    return Game(
        world.store,
        DreamSide(world, options.uncertainty),
        real,
        policy,
        known_keys(checkpoint, real),
        seed=options.seed,
        past=options.past,
        out=options.out,
    )


def by_name(checkpoint: Checkpoint, text: str) -> Policy:
    """The policy that MODULE:FUNCTION=TEXT makes."""
    path, _, argument = text.partition("=")
    module, _, name = path.partition(":")
    if not name or not all(part.isidentifier() for part in (*module.split("."), name)):
        raise InputError(f"--policy {text}: write MODULE:FUNCTION or MODULE:FUNCTION=TEXT")
    try:
        make: LoadPolicy = getattr(importlib.import_module(module), name)
    except (ModuleNotFoundError, AttributeError) as error:
        raise InputError(f"--policy {text}: there is no such function ({error})") from error
    return make(checkpoint, argument)


def hello_of(options: PlayOptions, game: Game) -> dict[str, Any]:
    """What a page is told first."""
    from lssvwm.envs.play.real_side import recorded_config

    checkpoint = game.dream.world.checkpoint
    named = recorded_config(checkpoint)
    return {
        "world": str(options.checkpoint if named is None else named.id).rpartition(":")[2].removeprefix("lssvwm/"),
        "checkpoint": str(options.checkpoint),
        "trained": checkpoint.step,
        "real": None if game.real is None else game.real.config.id,
        "policy": None if game.policy is None else game.policy.name,
        "actions": [{"action": one.action, "label": one.label, "chords": one.chords} for one in game.keys.bindings],
        "steps": game.dream.choices,
    }
