"""A small dream of the corridor to play, and its page served from a thread."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from corridor import CORRIDOR, Script, play_corridor
from lssvwm.envs.play.command import LoadPolicy, PlayOptions, by_name, hello_of, open_game
from lssvwm.envs.play.game import Game
from lssvwm.envs.play.server import Server, bind, hosts_of, kept_token, make_app
from lssvwm.envs.play.session import Session
from lssvwm.worldmodel.checkpoint import save_checkpoint
from lssvwm.worldmodel.episodes import EpisodeStore
from worlds import random_model, small_config


def corridor_run(folder: Path, *, ends: bool = False) -> Path:
    """A world model with random weights that dreams the corridor, and episodes of it: 13 frames that end by time."""
    store = EpisodeStore(folder / "episodes", create=True)
    for episode in play_corridor(Script([1, 0, 1, 1, 0, 1, 1]), [3, 4]):
        store.append(episode)
    model = random_model(small_config(height=16, width=16, num_actions=2), 0).float()
    with torch.no_grad():
        model.reward_head[-1].weight.mul_(0.01)
        model.termination_head[-1].weight.zero_()
        model.termination_head[-1].bias.fill_(30.0 if ends else -30.0)
    world = {"num_actions": 2, "episodes": "../episodes", "env": CORRIDOR.to_dict()}
    save_checkpoint(folder / "model", model, world=world, step=7)
    return folder / "model"


def script(checkpoint: Any, text: str) -> Script:
    """A policy for `--policy`."""
    return Script([int(letter) for letter in text])


def options_of(checkpoint: Path, **changes: Any) -> PlayOptions:
    out = checkpoint.parent / "out"
    return PlayOptions(
        checkpoint, **{"real": "recorded", "out": out, "browser": False, "port": 0, "past": 6, **changes}
    )


def game_of(checkpoint: Path, **changes: Any) -> Game:
    return open_game(options_of(checkpoint, **changes), by_name)


class Served:
    """A page at `url`, and the session behind it."""

    def __init__(self, options: PlayOptions, load_policy: LoadPolicy = by_name, port: int = 0) -> None:
        self.listening = bind(options.host, port)
        self.port = self.listening.getsockname()[1]
        thread = ThreadPoolExecutor(1)
        game = thread.submit(open_game, options, load_policy).result()
        self.session = Session(game, thread, hello_of(options, game), options.speed)
        token = kept_token(options.out)
        self.url = f"http://127.0.0.1:{self.port}/{token}/"
        ready = threading.Event()
        self._server = Server(make_app(self.session, token, hosts_of(options.host, self.port, ())), ready.set)
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self.listening]})
        self._thread.start()
        assert ready.wait(20)

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(20)
        self.listening.close()
        assert not self._thread.is_alive()


@contextlib.contextmanager
def served(options: PlayOptions, **more: Any) -> Iterator[Served]:
    page = Served(options, **more)
    try:
        yield page
    finally:
        page.stop()


class Client:
    """Talks to the socket as a page does."""

    def __init__(self, page: Served, **more: Any) -> None:
        from websockets.sync.client import connect

        url = page.url.replace("http", "ws") + "socket"
        # Without a limit of the queue, or one that is not read could not be closed.
        told = {"origin": f"http://127.0.0.1:{page.port}", "max_size": None, "max_queue": None, **more}
        self._open = contextlib.ExitStack()
        self.socket = self._open.enter_context(connect(url, **told))
        self.pictures = [0, 0]

    def say(self, do: str, value: Any = None, **more: Any) -> None:
        self.socket.send(json.dumps({"do": do, "value": value, **more}))

    def until(self, wanted: Callable[[dict[str, Any]], bool], timeout: float = 10) -> dict[str, Any]:
        """The first message that is wanted; pictures are counted by side."""
        while True:
            message = self.socket.recv(timeout)
            if isinstance(message, bytes):
                self.pictures[message[0]] += 1
            elif wanted(told := json.loads(message)):
                return told

    def state(self, wanted: Callable[[dict[str, Any]], bool] = lambda state: True) -> dict[str, Any]:
        return self.until(lambda told: told["type"] == "state" and wanted(told))

    def error(self) -> str:
        return str(self.until(lambda told: told["type"] == "error")["text"])

    def close(self) -> None:
        self._open.close()
