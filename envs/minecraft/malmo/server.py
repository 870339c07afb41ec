"""The server: one thread, loopback only, one mission at a time.

The protocol has no message for errors. What cannot be done is logged with the reason and the connection is closed,
which `minerl` reports at once: `reset` raises, `step` ends the episode with `info["error"]`.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import selectors
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from lssvwm.envs.minecraft.malmo import messages
from lssvwm.envs.minecraft.malmo.messages import ProtocolError, Token
from lssvwm.envs.minecraft.malmo.mission import Mission, parse_mission
from lssvwm.envs.minecraft.malmo.world import Observation, World, WorldError
from lssvwm.worldmodel.common.errors import InputError

HOST = "127.0.0.1"
"""The only address that is listened on."""

DEFAULT_PORT = 9000
"""Where `minerl` starts to look for servers."""

SEND_TIMEOUT = 60.0
"""Seconds after which a client that does not read is given up; the others are served meanwhile."""

MAX_CONNECTIONS = 8
"""More than these at once are turned away."""

_CHUNK = 1 << 16

logger = logging.getLogger(__name__)


@dataclass
class _Episode:
    """A running mission: what was last seen, and how far it is."""

    mission: Mission
    observation: Observation
    ticks: int = 0
    done: bool = False


@dataclass(eq=False)
class _Connection:
    """One client: what was received of the next message, and its mission."""

    socket: socket.socket
    received: bytearray = field(default_factory=bytearray)
    unsent: bytearray = field(default_factory=bytearray)
    give_up: float = 0.0  # when the client that does not read `unsent` is
    greeted: bool = False
    xml: str | None = None  # a mission that waits for its token
    episode: _Episode | None = None


class MalmoServer:
    """Serves `world` to `minerl` clients on 127.0.0.1:`port`; port 0 takes a free one, see `port`.

    While a mission runs, other clients that bring one are told to ask again; it ends with Quit, with the next mission
    of the same client, and with the connection. The world is kept for the next mission and closed with the server.

    Raises InputError when the port cannot be had.
    """

    def __init__(self, world: World, port: int = DEFAULT_PORT) -> None:
        self._world = world
        self._connections: list[_Connection] = []
        self._stopped = False
        self._closed = False
        self._listener = _listen(port)
        self.port: int = self._listener.getsockname()[1]
        self._wake, self._woken = socket.socketpair()
        self._wake.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ, self._accept)
        self._selector.register(self._woken, selectors.EVENT_READ, lambda: self._woken.recv(_CHUNK))

    def serve(self) -> None:
        """Serve until `stop` or a client's Exit; returns with everything closed, the world too."""
        try:
            while not self._stopped:
                for key, _ in self._selector.select(self._patience()):
                    ready: Callable[[], object] = key.data
                    ready()
                for slow in [each for each in self._connections if each.unsent and each.give_up < time.monotonic()]:
                    logger.error("connection closed: the client has read nothing for %g seconds", SEND_TIMEOUT)
                    self._drop(slow)
        finally:
            self.close()

    def stop(self) -> None:
        """Make `serve` return after the message it is at. May be called from signal handlers and other threads."""
        self._stopped = True
        with contextlib.suppress(OSError):  # awake already, or closed
            self._wake.send(b"\0")

    def close(self) -> None:
        """Close connections, port and world. Twice is once."""
        if self._closed:
            return
        self._closed = self._stopped = True
        for connection in list(self._connections):
            self._drop(connection)
        self._selector.close()
        for end in (self._listener, self._wake, self._woken):
            end.close()
        self._world.close()

    def _patience(self) -> float | None:
        """Seconds until the next client that does not read is given up; None where all do."""
        ends = [each.give_up for each in self._connections if each.unsent]
        return max(0.0, min(ends) - time.monotonic()) if ends else None

    def _accept(self) -> None:
        try:
            client, _ = self._listener.accept()
        except (ConnectionError, BlockingIOError):
            return  # gone before it was accepted
        if len(self._connections) >= MAX_CONNECTIONS:
            logger.error("a connection was turned away: %d are open, close one", len(self._connections))
            client.close()
            return
        client.setblocking(False)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection = _Connection(client)
        self._connections.append(connection)
        self._selector.register(client, selectors.EVENT_READ, lambda: self._ready(connection))

    def _ready(self, connection: _Connection) -> None:
        """Go on with what is unsent; only a client that has read all of it is listened to."""
        if connection not in self._connections:
            return  # dropped since it was found ready
        if connection.unsent:
            self._flush(connection)
            if not connection.unsent:
                self._answer_received(connection)
        else:
            self._receive(connection)

    def _receive(self, connection: _Connection) -> None:
        try:
            chunk = connection.socket.recv(_CHUNK)
        except BlockingIOError:
            return
        except OSError as error:
            logger.error("connection lost: %s", error)
            chunk = b""
        if not chunk:
            self._drop(connection)
        connection.received += chunk
        self._answer_received(connection)

    def _answer_received(self, connection: _Connection) -> None:
        try:
            while (
                connection in self._connections
                and not connection.unsent
                and (data := messages.take(connection.received)) is not None
            ):
                self._answer(connection, data)
        except (InputError, WorldError) as error:
            logger.error("connection closed: %s", error)
            self._drop(connection)

    def _answer(self, connection: _Connection, data: bytes) -> None:
        if connection.xml is not None:
            xml, connection.xml = connection.xml, None
            self._send(connection, messages.acknowledged(self._begin(connection, xml, messages.parse_token(data))))
            return
        message = messages.parse(data)
        if not connection.greeted:
            if not isinstance(message, messages.Hello):
                raise ProtocolError(f"{type(message).__name__} came before the greeting <MalmoEnv{messages.VERSION}/>")
            connection.greeted = True
            return
        match message:
            case messages.MissionInit(xml):
                connection.xml = xml
            case messages.Peek():
                self._send(connection, messages.peeked(_running(connection, "Peek").observation))
            case messages.StepClient():
                self._send(connection, self._step(_running(connection, "StepClient"), message))
            case messages.StepServer():
                pass
            case messages.Quit():
                connection.episode = None
                self._send(connection, messages.acknowledged(True))
            case messages.Exit():
                self._send(connection, messages.acknowledged(True))
                self.stop()
            case messages.Disconnect():
                self._drop(connection)
            case messages.Hello():
                raise ProtocolError("a second greeting came")

    def _begin(self, connection: _Connection, xml: str, token: Token) -> bool:
        """Begin the mission; False while another client's is running."""
        mission = parse_mission(xml)
        if mission.uid != token.uid:
            raise ProtocolError(f"the token is for experiment {token.uid!r}, the mission for {mission.uid!r}")
        if any(other.episode is not None and other is not connection for other in self._connections):
            logger.warning("%s has to wait: another client's mission is running", mission.name)
            return False
        connection.episode = None
        observation = _checked(self._world.reset(mission, token.seed), mission)
        connection.episode = _Episode(mission, observation)
        logger.info("%s begins, %dx%d, seed %s", mission.name, mission.width, mission.height, token.seed)
        return True

    def _step(self, episode: _Episode, message: messages.StepClient) -> bytes:
        reward = 0.0
        if not episode.done:  # a step too many is answered like the last one, without reward, as Malmo does
            observation, reward, done = self._world.step(message.action)
            episode.observation = _checked(observation, episode.mission)
            episode.ticks += 1
            limit = episode.mission.ticks
            episode.done = done or (limit is not None and episode.ticks >= limit)
        return messages.stepped(episode.observation, reward, episode.done, message.with_info)

    def _send(self, connection: _Connection, answer: bytes) -> None:
        connection.unsent += answer
        connection.give_up = time.monotonic() + SEND_TIMEOUT
        self._flush(connection)

    def _flush(self, connection: _Connection) -> None:
        """Send what the client takes now, and wait for it to take the rest."""
        try:
            while connection.unsent and (sent := connection.socket.send(connection.unsent)):
                del connection.unsent[:sent]
                connection.give_up = time.monotonic() + SEND_TIMEOUT
        except BlockingIOError:
            pass  # it is asked again when the client has read
        except OSError as error:
            logger.error("connection lost: %s", error)
            self._drop(connection)
            return
        wanted = selectors.EVENT_WRITE if connection.unsent else selectors.EVENT_READ
        self._selector.modify(connection.socket, wanted, self._selector.get_key(connection.socket).data)

    def _drop(self, connection: _Connection) -> None:
        if connection in self._connections:
            self._connections.remove(connection)
            self._selector.unregister(connection.socket)
            connection.socket.close()


def _running(connection: _Connection, message: str) -> _Episode:
    if connection.episode is None:
        raise ProtocolError(f"{message} came without a running mission: send MissionInit and its token first")
    return connection.episode


def _checked(observation: Observation, mission: Mission) -> Observation:
    shape = (mission.height, mission.width, 3)
    if observation.frame.shape != shape or observation.frame.dtype != "uint8":
        raise WorldError(
            f"the world showed {observation.frame.shape} {observation.frame.dtype}, the mission wants {shape} uint8"
        )
    return observation


def _listen(port: int) -> socket.socket:
    if not 0 <= port <= 65535:
        raise InputError(f"port {port} does not exist: choose one of 1..65535, or 0 for any that is free")
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        # A port whose last connections are still fading may be taken at once; one that is listened on may not.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((HOST, port))
        listener.listen(MAX_CONNECTIONS)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise InputError(
                f"port {port} of {HOST} is in use: stop the server that has it, or choose another with --port"
            ) from error
        if error.errno == errno.EACCES:
            raise InputError(f"port {port} is not allowed to you: choose one above 1023 with --port") from error
        raise
    return listener
