"""The report over HTTP: the page to browsers of this machine, and nothing else of it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path

import pytest

from lssvwm.agents.report.__main__ import main
from lssvwm.agents.report.serve import HOST, server
from lssvwm.worldmodel.common.errors import InputError


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a report, and things beside it that are nobody's business."""
    folder = tmp_path_factory.mktemp("run")
    report = folder / "report"
    (report / "inner").mkdir(parents=True)
    (report / "index.html").write_text("<h1>what it has learned</h1>")
    (report / ".index.html.123").write_text("half a page")
    (report / "inner" / "film.mp4").write_bytes(b"film")
    (folder / "settings.json").write_text("secret")
    (report / "link.json").symlink_to(folder / "settings.json")
    (report / "up").symlink_to(folder)
    return folder


@pytest.fixture(scope="module")
def port(run: Path) -> Iterator[int]:
    with server(run / "report", 0) as serving:
        thread = threading.Thread(target=serving.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield serving.server_port
        serving.shutdown()
        thread.join()


def ask(port: int, path: str, method: str = "GET", host: str | None = None) -> tuple[HTTPResponse, bytes]:
    connection = HTTPConnection(HOST, port, timeout=10)
    connection.request(method, path, headers={"Host": host or f"{HOST}:{port}"})
    response = connection.getresponse()
    return response, response.read()


def test_the_page_and_its_files_are_served_as_they_are_now(port: int, run: Path) -> None:
    response, page = ask(port, "/")
    assert (response.status, page) == (200, b"<h1>what it has learned</h1>")
    assert response.headers["Content-Type"] == "text/html"
    assert response.headers["Cache-Control"] == "no-store"
    assert ask(port, "/inner/film.mp4", host=f"localhost:{port}")[1] == b"film"
    (run / "report" / "index.html").write_text("<h1>more</h1>")
    assert ask(port, "/index.html?again")[1] == b"<h1>more</h1>"
    (run / "report" / "index.html").write_text("<h1>what it has learned</h1>")
    assert ask(port, "/", "HEAD")[1] == b""


@pytest.mark.parametrize(
    "path",
    [
        *("/../settings.json", "/%2e%2e/settings.json", "/inner/../../settings.json", "//etc/passwd", "/none"),
        *("/link.json", "/up/settings.json", "/inner/", "/.index.html.123"),
    ],
)
def test_nothing_else_is(port: int, path: str) -> None:
    for method in ("GET", "HEAD"):
        response, said = ask(port, path, method)
        assert response.status == 404
        assert b"secret" not in said
        assert b"film" not in said


def test_only_browsers_of_this_machine_that_ask_for_it_by_its_address(port: int) -> None:
    assert ask(port, "/", host=f"elsewhere.org:{port}")[0].status == 403
    assert ask(port, "/", "POST")[0].status == 501
    with server(Path(), 0) as other:
        assert other.socket.getsockname()[0] == "127.0.0.1"


def test_the_command(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([str(run)])
    assert capsys.readouterr().out == f"{run / 'report' / 'index.html'}\n"
    with pytest.raises(InputError, match=r"report/index.html does not exist: name the folder of a run"):
        main([str(tmp_path), "--serve"])
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        taken.listen()
        busy = taken.getsockname()[1]
        with pytest.raises(
            InputError, match=rf"--port {busy} cannot be used \(Address already in use\): choose another"
        ):
            main([str(run), "--serve", "--port", str(busy)])
    with pytest.raises(InputError, match="--port 70000 is no port"):
        main([str(run), "--serve", "--port", "70000"])


def test_it_serves_until_it_is_interrupted(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(self: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("http.server.ThreadingHTTPServer.serve_forever", interrupted)
    main([str(run), "--serve"])
    address = capsys.readouterr().out
    assert address.startswith(f"http://{HOST}:")
    assert address.endswith("/ until Ctrl-C\n")
