"""The page and its socket over HTTP: whoever knows the token, on this host, from this page and no other."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import secrets
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lssvwm.envs.play.messages import MAX_BYTES
from lssvwm.envs.play.session import Session
from lssvwm.worldmodel.common.errors import InputError

PAGE = Path(__file__).parent / "page"
_LOCAL = ("127.0.0.1", "localhost", "[::1]")
_EVERYWHERE = ("0.0.0.0", "[::]")
_HEADERS = {
    "content-security-policy": "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}


class Guard:
    """Lets through what is addressed to one of `hosts` (host:port) and comes from a page of the same, if from any.

    A page elsewhere can make a browser connect to 127.0.0.1: its `Origin` gives it away, or the name by which it got
    there (`Host`).
    """

    def __init__(self, app: ASGIApp, hosts: frozenset[str]) -> None:
        self._app, self._hosts = app, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or hand on."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        refused = self._refused(Headers(scope=scope), scope["type"] == "websocket")
        if refused and scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008, "reason": refused})  # before accept: 403
        elif refused:
            await PlainTextResponse(f"{refused}\n", 403)(scope, receive, send)
        else:
            await self._app(scope, receive, _with_headers(send) if scope["type"] == "http" else send)

    def _refused(self, headers: Headers, needs_origin: bool) -> str:
        host, origin = headers.get("host", ""), headers.get("origin")
        if host not in self._hosts:
            return "Refused: this server does not answer to that name; use the address that it printed."
        if (origin is not None or needs_origin) and origin != f"http://{host}":
            return "Refused: another page may not use this server."
        return ""


def _with_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            added = [(name.encode(), value.encode()) for name, value in _HEADERS.items()]
            message = {**message, "headers": [*message.get("headers", []), *added]}
        await send(message)

    return sending


def make_app(session: Session, token: str, hosts: frozenset[str]) -> ASGIApp:
    """Everything lies below `/TOKEN/`; whatever else is asked for does not exist."""

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        await session.open()
        clock = asyncio.create_task(session.run())
        try:
            yield
        finally:
            clock.cancel()
            await session.close()

    routes = [
        WebSocketRoute(f"/{token}/socket", session.attend),
        Mount(f"/{token}", StaticFiles(directory=PAGE, html=True)),
    ]
    return Guard(Starlette(routes=routes, lifespan=lifespan), hosts)


def bind(host: str, port: int) -> socket.socket:
    """A listening socket. Raises InputError for a port that is taken, and a host that is not this machine's."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        listening.listen()
    except (OSError, OverflowError) as error:
        listening.close()
        if getattr(error, "errno", None) == errno.EADDRINUSE:
            raise InputError(
                f"port {port} of {host} is taken: give --port N, or --port 0 for any that is free"
            ) from error
        raise InputError(f"cannot listen on {host} port {port} ({error}): give another --host or --port") from error
    return listening


def hosts_of(host: str, port: int, others: tuple[str, ...]) -> frozenset[str]:
    """The `Host` headers that are answered, `others` without a port."""
    names = {f"[{host}]" if ":" in host else host, *others}
    if names & {*_LOCAL, *_EVERYWHERE}:
        names |= set(_LOCAL)
    return frozenset({f"{name}:{port}" for name in names} | (names if port == 80 else set()))


def address_of(host: str, port: int, token: str) -> str:
    """What to open in a browser on this machine."""
    name = f"[{host}]" if ":" in host else host
    return f"http://{'127.0.0.1' if name in _EVERYWHERE else name}:{port}/{token}/"


def kept_token(folder: Path) -> str:
    """The token in `folder/token`, made at the first call: a page that is open finds a server that starts again."""
    path = folder / "token"
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        os.write(descriptor, secrets.token_urlsafe(24).encode())
        os.close(descriptor)
    token = path.read_text().strip()
    if len(token) < 16 or not set(token) <= set("-_0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"):
        raise InputError(f"{path} holds no token: delete it, and a new one is made")
    return token


class Server(uvicorn.Server):
    """Serves `app` on a socket (`run(sockets=[...])`) until interrupted; `ready` is called when pages are answered."""

    def __init__(self, app: ASGIApp, ready: Callable[[], None]) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                log_level="warning",
                ws="websockets-sansio",
                ws_max_size=MAX_BYTES,
                ws_per_message_deflate=False,  # pictures are compressed
                timeout_graceful_shutdown=2,
                server_header=False,
            )
        )
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's."""
        await super().startup(sockets)
        if self.started:
            self._ready()
