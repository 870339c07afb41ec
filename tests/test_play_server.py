"""The page's server: who may talk to it, what it says to nonsense, and that it costs nothing while nobody plays."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
from websockets.exceptions import ConnectionClosed, InvalidStatus

from lssvwm.envs.play import session as session_module
from lssvwm.envs.play.command import by_name, play
from lssvwm.envs.play.server import address_of, hosts_of, kept_token
from lssvwm.worldmodel.common.errors import InputError
from plays import Client, Served, corridor_run, options_of, served


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    checkpoint = corridor_run(tmp_path_factory.mktemp("run"))
    with served(options_of(checkpoint, speed=60.0, policy="plays:script=01")) as page:
        yield page


@pytest.fixture
def client(page: Served) -> Iterator[Client]:
    client = Client(page)
    client.state(lambda state: state["drives"])  # the one before may be leaving still
    client.say("begin", 0)
    client.state(lambda state: state["number"] == 0 and state["dream"]["played"] == 0)
    yield client
    client.close()


def test_keys_move_both(client: Client) -> None:
    before = list(client.pictures)
    client.say("hold", 1, id=5)
    state = client.state(lambda state: state["dream"]["played"] >= 3)
    client.say("hold", None)
    assert state["real"]["played"] >= 3
    assert client.pictures[0] > before[0]
    assert client.pictures[1] > before[1]


def test_a_tap_is_one_step_and_its_picture_says_so(client: Client) -> None:
    client.say("hold", 1, id=9)
    client.say("hold", None)
    assert client.state(lambda state: state["answer"] == 9)["dream"]["played"] == 1
    time.sleep(0.1)
    client.say("pause", True)
    assert client.state(lambda state: state["paused"])["dream"]["played"] == 1


def test_paused_each_press_is_a_step(client: Client) -> None:
    client.say("pause", True)
    client.say("hold", 0)  # and kept down
    client.state(lambda state: state["dream"]["played"] == 1)
    time.sleep(0.1)
    client.say("step", 1)
    assert client.state(lambda state: state["dream"]["played"] > 1)["dream"]["played"] == 2
    client.say("hold", None)
    client.say("step")
    assert "each key press is one step" in client.error()


def test_snapshot_policy_settings_and_saving(client: Client) -> None:
    client.say("step", 1)
    client.state(lambda state: state["dream"]["played"] == 1)
    client.say("keep")
    client.state(lambda state: state["kept"] == 1)
    client.say("policy", True)
    client.state(lambda state: state["policy"] and state["dream"]["played"] >= 3)
    client.say("hold", 0)  # whoever presses a key takes over
    client.say("hold", None)
    client.state(lambda state: not state["policy"])
    client.say("back")
    state = client.state(lambda state: state["dream"]["played"] == 1)
    assert state["real"]["apart"]
    client.say("steps", 4)
    client.say("uncertainty", "draws")
    client.say("speed", 30)
    client.state(lambda s: (s["dream"]["steps"], s["dream"]["kind"], s["speed"]) == (4, "draws", 30))
    client.say("save", "episode")
    assert "Saved" in client.until(lambda told: told["type"] == "notice")["text"]
    client.say("steps", 2)
    client.say("speed", 60)


@pytest.mark.parametrize("text", ["w", '{"do": "fly"}', '{"do": "hold", "value": 99}', b"\x00\x01"])
def test_nonsense_is_answered_and_the_game_goes_on(client: Client, text: Any) -> None:
    client.socket.send(text)
    said = client.error()
    assert any(words in said for words in ("no JSON", "no order", "cannot be", "not binary"))
    client.say("step", 1)
    client.state(lambda state: state["dream"]["played"] == 1)


def flood(client: Client) -> None:
    """Ten megabytes; the server may hang up in the middle."""
    client.socket.send("x" * 10_000_000)
    client.state(lambda state: False)


def test_too_long_and_too_fast_end_the_connection_alone(page: Served) -> None:
    client = Client(page)
    client.state()
    client.socket.send("x" * 10_000)
    with pytest.raises(ConnectionClosed) as closed:
        client.state(lambda state: False)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1009
    client = Client(page)
    client.state()
    with pytest.raises(ConnectionClosed):
        flood(client)
    client = Client(page)
    client.state()
    with contextlib.suppress(ConnectionClosed):
        for _ in range(2000):
            client.say("hold", None)
    with pytest.raises(ConnectionClosed) as closed:
        client.state(lambda state: False)
    assert closed.value.rcvd is not None
    assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (1008, session_module.TOO_FAST)
    client = Client(page)
    client.state(lambda state: state["drives"])
    client.close()


def test_a_game_that_fails_is_said_and_goes_on(page: Served, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(action: Any) -> None:
        raise RuntimeError("the engine died")

    with monkeypatch.context() as patched:
        patched.setattr(page.session.game, "step", fails)
        client.say("step", 1)
        assert client.error() == "RuntimeError: the engine died"
    client.say("step", 1)
    client.state(lambda state: state["dream"]["played"] == 1)


def test_one_drives_and_others_watch(page: Served, client: Client) -> None:
    other = Client(page)
    assert not other.state()["drives"]
    other.say("hold", 1)
    assert "another page drives" in other.error()
    client.say("step", 1)
    other.state(lambda state: state["dream"]["played"] == 1)
    assert other.pictures[1] > 1
    other.say("take")
    other.state(lambda state: state["drives"])
    client.state(lambda state: not state["drives"])
    other.close()
    client.state(lambda state: state["drives"])


def test_only_so_many_pages(page: Served) -> None:
    clients = [Client(page) for _ in range(session_module.SEATS)]
    clients[-1].state()
    last = Client(page)
    with pytest.raises(ConnectionClosed) as closed:
        last.state()
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.reason == session_module.FULL
    for client in clients:
        client.close()


def test_nothing_is_computed_while_nobody_plays(page: Served, client: Client) -> None:
    """Paused, waiting for a key, or without a page."""

    def steps_in_a_moment() -> tuple[int, float]:
        time.sleep(0.1)
        before, spent = page.session.steps_taken, time.process_time()
        time.sleep(0.5)
        return page.session.steps_taken - before, time.process_time() - spent

    client.say("idle", 0)
    client.say("step", 0)
    client.say("pause", False)
    assert steps_in_a_moment()[0] > 0  # it runs on by itself
    client.say("begin", 0)
    client.say("pause", True)
    steps, spent = steps_in_a_moment()
    assert steps == 0
    assert spent < 0.1
    client.say("pause", False)
    client.say("idle", None)
    client.say("begin", 0)
    assert steps_in_a_moment()[0] == 0  # waiting
    client.say("hold", 1)
    client.state(lambda state: state["dream"]["played"] > 0)
    client.close()
    steps, spent = steps_in_a_moment()
    assert steps == 0
    assert spent < 0.1


def test_it_pauses_when_the_player_has_left(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_module, "PATIENCE", 0.05)
    client.say("idle", 0)
    client.say("hold", 1)
    client.say("hold", None)
    assert "nobody pressed a key" in client.until(lambda told: told["type"] == "notice")["text"]
    client.say("idle", None)


@pytest.mark.parametrize("origin", [None, "http://evil.example", "https://127.0.0.1", "null"])
def test_other_origins_cannot_drive(page: Served, origin: Any) -> None:
    with pytest.raises(InvalidStatus) as refused:
        Client(page, origin=origin)
    assert refused.value.response.status_code == 403


def ask(page: Served, path: str, **headers: str) -> tuple[int, str, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", page.port, timeout=10)
    connection.request("GET", path, headers=headers)
    answer = connection.getresponse()
    return answer.status, answer.read().decode(), answer.headers


def test_other_hosts_and_tokens_are_refused(page: Served) -> None:
    path = page.url.partition(str(page.port))[2]
    status, text, headers = ask(page, path)
    assert (status, "<title>" in text) == (200, True)
    assert "default-src 'self'" in headers["content-security-policy"]
    assert headers["referrer-policy"] == "no-referrer"
    assert ask(page, path, host=f"evil.example:{page.port}")[0] == 403
    assert ask(page, path, origin="http://evil.example")[0] == 403
    assert ask(page, path, host=f"localhost:{page.port}")[0] == 200
    for wrong in ("/", "/app.js", "/wrong/", path + "../../session.py", path + "%2e%2e/session.py"):
        assert ask(page, wrong)[0] == 404
    with pytest.raises(InvalidStatus):
        Client(Elsewhere(page.url[:-2] + "/", page.port))  # type: ignore[arg-type]


class Elsewhere:
    def __init__(self, url: str, port: int) -> None:
        self.url, self.port = url, port


def test_nothing_comes_from_elsewhere() -> None:
    import lssvwm.envs.play.server

    for file in lssvwm.envs.play.server.PAGE.iterdir():
        text = file.read_text().replace("http://www.w3.org/2000/svg", "")
        assert "http://" not in text
        assert "https://" not in text
        assert "//cdn" not in text


def test_the_token_is_kept_and_nobody_elses(tmp_path: Path) -> None:
    token = kept_token(tmp_path / "out")
    assert len(token) >= 32
    assert kept_token(tmp_path / "out") == token
    assert (tmp_path / "out" / "token").stat().st_mode & 0o777 == 0o600
    (tmp_path / "out" / "token").write_text("../x")
    with pytest.raises(InputError, match="delete it"):
        kept_token(tmp_path / "out")


def test_hosts() -> None:
    assert hosts_of("127.0.0.1", 5, ()) == {"127.0.0.1:5", "localhost:5", "[::1]:5"}
    assert hosts_of("192.168.0.7", 5, ("box",)) == {"192.168.0.7:5", "box:5"}
    assert "[::1]:5" in hosts_of("::1", 5, ())
    assert hosts_of("0.0.0.0", 5, ("box",)) == {"0.0.0.0:5", "127.0.0.1:5", "localhost:5", "[::1]:5", "box:5"}
    assert address_of("0.0.0.0", 5, "t") == "http://127.0.0.1:5/t/"
    assert address_of("::1", 5, "t") == "http://[::1]:5/t/"


def test_a_busy_port_and_no_contexts_are_one_line(tmp_path: Path) -> None:
    checkpoint = corridor_run(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = busy.getsockname()[1]
        with pytest.raises(InputError, match=f"port {port} of 127.0.0.1 is taken: give --port"):
            play(options_of(checkpoint, port=port), by_name)
    config = json.loads((checkpoint / "config.json").read_text())
    del config["world"]["episodes"]
    (checkpoint / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"and carries no contexts\.npz: give contexts=FOLDER"):
        play(options_of(checkpoint), by_name)
