"""What the environment and its MineRL worker say to each other: typed messages as JSON, frames in shared memory.

The worker runs in another interpreter and loads this file by its path, so it uses the standard library alone and
nothing newer than Python 3.8. A message is a length (4 bytes, big endian) and that many bytes of UTF-8 JSON. Requests
and replies strictly alternate, so shared memory for one frame is enough: with the reply `Observed` it stands there.
"""

from __future__ import annotations

import json
import socket
import struct
import time
from dataclasses import asdict, dataclass, fields
from typing import Any

_LENGTH = struct.Struct("!I")
_MAX_BYTES = 1 << 24  # no message comes near; a length beyond is not of this protocol


class Broken(Exception):  # noqa: N818 (it is no error of the code that meets it)
    """The other side is gone, silent for too long, or speaks something else. The message says which."""


@dataclass(frozen=True)
class Entry:
    """One entry of a dictionary of observations or actions.

    kind: "number" is an array of `shape` within `low` and `high`, "choice" one of the texts in `choices`.
    """

    kind: str
    shape: tuple[int, ...] = ()
    low: float = 0.0
    high: float = 0.0
    integer: bool = False
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Make:
    """First request: make the environment `env_id`. With `port` play on the Malmo server that listens there."""

    env_id: str
    port: int | None = None


@dataclass(frozen=True)
class Reset:
    """Start an episode in the world of this seed."""

    seed: int


@dataclass(frozen=True)
class Step:
    """Act for one tick. Entries of the action that are missing are those of the no-op."""

    action: dict[str, Any]


@dataclass(frozen=True)
class Close:
    """Last request: close the environment and end. It has no reply."""


@dataclass(frozen=True)
class Ready:
    """Reply to `Make`: versions, the frame's (height, width), and the other entries by flat name ("compass.angle")."""

    minerl: str
    gym: str
    frame: tuple[int, int]
    observation: dict[str, Entry]
    action: dict[str, Entry]
    max_episode_steps: int | None


@dataclass(frozen=True)
class Observed:
    """Reply to `Reset` and `Step`: the frame stands in shared memory, here is everything else.

    `over_time`: the episode is `done` because its time is up, not because of what happened in it.
    """

    values: dict[str, Any]
    reward: float = 0.0
    done: bool = False
    over_time: bool = False


@dataclass(frozen=True)
class Failed:
    """Reply to any request: why it cannot be answered. `unusable` if another try cannot help."""

    reason: str
    unusable: bool = False


_KINDS = {kind.__name__: kind for kind in (Make, Reset, Step, Close, Ready, Observed, Failed)}


def encode(message: Any) -> bytes:
    """The bytes of a message, its length in front."""
    payload = json.dumps({"kind": type(message).__name__, **asdict(message)}).encode()
    return _LENGTH.pack(len(payload)) + payload


def decode(payload: bytes) -> Any:
    """The message in these bytes, without its length. Raises Broken if there is none."""
    try:
        values = json.loads(payload)
        kind = _KINDS[values.pop("kind")]
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise Broken(f"not a message: {payload[:80]!r}") from error
    if set(values) != {entry.name for entry in fields(kind)}:
        raise Broken(f"a message {kind.__name__} with the entries {sorted(values)}")
    if kind is Ready:
        values["frame"] = tuple(values["frame"])
        for space in ("observation", "action"):
            values[space] = {name: _entry(entry) for name, entry in values[space].items()}
    return kind(**values)


def send(channel: socket.socket, message: Any) -> None:
    """Send a message. Raises Broken if nobody is there."""
    try:
        channel.sendall(encode(message))
    except OSError as error:
        raise Broken(f"the other side has ended ({error})") from error


def receive(channel: socket.socket, timeout: float | None) -> Any:
    """The next message, at most `timeout` seconds from now; None waits for ever. Raises Broken."""
    deadline = None if timeout is None else time.monotonic() + timeout
    (length,) = _LENGTH.unpack(_read(channel, _LENGTH.size, deadline))
    if length > _MAX_BYTES:
        raise Broken(f"a message of {length} bytes")
    return decode(_read(channel, length, deadline))


def _read(channel: socket.socket, count: int, deadline: float | None) -> bytes:
    data = b""
    while len(data) < count:
        try:
            channel.settimeout(None if deadline is None else max(deadline - time.monotonic(), 1e-3))
            piece = channel.recv(count - len(data))
        except socket.timeout as error:  # noqa: UP041 (TimeoutError is another class before Python 3.10)
            raise Broken("no answer in time") from error
        except OSError as error:
            raise Broken(f"the other side has ended ({error})") from error
        if not piece:
            raise Broken("the other side has ended")
        data += piece
    return data


def _entry(values: dict[str, Any]) -> Entry:
    return Entry(**{**values, "shape": tuple(values["shape"]), "choices": tuple(values["choices"])})
