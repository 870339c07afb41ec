"""The messages of the Malmo-env protocol 0.37.0: bytes to typed messages, and answers to bytes.

Every message is its length, 4 bytes big-endian, and so many bytes. A step's observation is three messages: the frame
(RGB, bottom row first), reward and flags, and a JSON object. Source: `minerl` 0.4.4, `minerl/env/_multiagent.py` and
its `MalmoEnvServer.java`.
"""

from __future__ import annotations

import json
import math
import re
import struct
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lssvwm.envs.minecraft.actions import BUTTONS, Action
from lssvwm.envs.minecraft.malmo.world import ItemStack, Observation
from lssvwm.worldmodel.common.errors import InputError

VERSION = "0.37.0"
"""Of the protocol, as `minerl` 0.4.4 greets with it."""

MAX_MESSAGE = 1 << 20
"""Longest message in bytes that is read; minerl's longest are missions of some 5,000."""

_ITEM_VERBS = {
    "place": "place",
    "equip": "equip",
    "craft": "craft",
    "craftNearby": "nearbyCraft",
    "smeltNearby": "nearbySmelt",
}
_STEP = re.compile(r"<StepClient([0-3])>(.*)</StepClient\1 ?>", re.DOTALL)
_ITEM = re.compile(r"[a-z0-9_]+(#[0-9?]{1,2})?")


class ProtocolError(InputError):
    """The peer sent what the protocol does not have. The connection is closed."""


@dataclass(frozen=True)
class Hello:
    """The first message of a connection. No answer."""


@dataclass(frozen=True)
class MissionInit:
    """A mission's document; the token follows as a message of its own. The answer says whether it has begun."""

    xml: str


@dataclass(frozen=True)
class Peek:
    """Asks for the first observation of a mission."""


@dataclass(frozen=True)
class StepClient:
    """One tick with `action`. The JSON object is sent only `with_info`."""

    action: Action
    with_info: bool


@dataclass(frozen=True)
class StepServer:
    """Minecraft's server moves separately from its client; ours moves in the step. No answer."""


@dataclass(frozen=True)
class Quit:
    """Ends the mission, if one runs."""


@dataclass(frozen=True)
class Disconnect:
    """Ends the connection. No answer."""


@dataclass(frozen=True)
class Exit:
    """Ends the server."""


Message = Hello | MissionInit | Peek | StepClient | StepServer | Quit | Disconnect | Exit

_PLAIN: dict[str, Message] = {
    f"<MalmoEnv{VERSION}/>": Hello(),
    "<Peek/>": Peek(),
    "<StepServer></StepServer>": StepServer(),
    "<Quit/>": Quit(),
    "<Disconnect/>": Disconnect(),
    "<Exit>NOW</Exit>": Exit(),
}


@dataclass(frozen=True)
class Token:
    """What comes with a mission: `uid:role:resets:agents:synchronous[:seed]`."""

    uid: str
    seed: int | None


def take(buffer: bytearray) -> bytes | None:
    """Cut the first whole message out of what was received; None while it is incomplete.

    Raises ProtocolError for a message longer than MAX_MESSAGE, as soon as its length is known.
    """
    if len(buffer) < 4:
        return None
    (length,) = struct.unpack_from("!I", buffer)
    if length > MAX_MESSAGE:
        raise ProtocolError(f"a message of {length} bytes was announced, more than {MAX_MESSAGE}")
    if len(buffer) < 4 + length:
        return None
    message = bytes(buffer[4 : 4 + length])
    del buffer[: 4 + length]
    return message


def parse(data: bytes) -> Message:
    """The message in `data`. Raises ProtocolError, quoting the beginning of what is not understood."""
    text = _decoded(data)
    if text in _PLAIN:
        return _PLAIN[text]
    if text.startswith("<StepClient"):
        step = _STEP.fullmatch(text)
        if step is None:
            raise ProtocolError(f"step {text[:80]!r} is not of the form <StepClient0>commands</StepClient0 >")
        return StepClient(parse_commands(step[2]), with_info=step[1] in "02")
    if text.startswith("<MissionInit"):
        return MissionInit(text)
    if text.startswith("<MalmoEnv"):
        raise ProtocolError(f"the client greets with {text[:40]!r}: this server speaks MalmoEnv {VERSION}")
    raise ProtocolError(f"unknown message {text[:80]!r}")


def parse_token(data: bytes) -> Token:
    """The token in `data`. Raises ProtocolError unless it is one agent's, stepping in lock-step."""
    text = _decoded(data)
    parts = text.split(":")
    form = "uid:role:resets:agents:synchronous[:seed]"
    if len(parts) not in (5, 6) or not parts[0] or not parts[2].isdecimal():
        raise ProtocolError(f"token {text[:80]!r} is not of the form {form}")
    uid, role, _, agents, synchronous = parts[:5]
    if (role, agents) != ("0", "1"):
        raise ProtocolError(
            f"token {text[:80]!r} is for role {role} of {agents} agents: one agent, role 0, is supported"
        )
    if synchronous != "true":
        raise ProtocolError(f"token {text[:80]!r} asks for free running: only synchronous steps are supported")
    if len(parts) == 5:
        return Token(uid, None)
    if re.fullmatch(r"-?[0-9]{1,19}", parts[5]) is None:
        raise ProtocolError(f"token {text[:80]!r} has the seed {parts[5][:40]!r}: a whole number of 64 bits is needed")
    return Token(uid, int(parts[5]))


def parse_commands(text: str) -> Action:
    """The action of a tick: lines of a verb and its arguments, as MineRL's handlers write them.

    Buttons are 0 or 1; `camera` is float64 (2,), degrees [pitch, yaw] by which the view turns, down and right
    positive; `place`, `equip`, `craft`, `nearbyCraft` and `nearbySmelt` are item names or "none". The last line of a
    verb counts.

    Raises ProtocolError for an unknown verb or an argument that is none of these.
    """
    action: dict[str, int | str | NDArray[np.float64]] = {}
    for line in text.split("\n"):
        verb, _, argument = line.strip().partition(" ")
        if not verb:
            continue
        if verb in BUTTONS:
            if argument not in ("0", "1"):
                raise ProtocolError(f"command {line[:80]!r}: 0 or 1 is needed")
            action[verb] = int(argument)
        elif verb == "camera":
            action[verb] = _camera(argument)
        elif verb in _ITEM_VERBS:
            if _ITEM.fullmatch(argument) is None:
                raise ProtocolError(f"command {line[:80]!r}: an item's name is needed, or none")
            action[_ITEM_VERBS[verb]] = argument
        else:
            raise ProtocolError(f"command {line[:80]!r} has an unknown verb")
    return action


def packed(payload: bytes) -> bytes:
    """`payload` as a message."""
    return struct.pack("!I", len(payload)) + payload


def acknowledged(ok: bool) -> bytes:
    """The answer to MissionInit, Quit and Exit. Not ok makes the client ask again a second later."""
    return packed(struct.pack("!I", int(ok)))


def peeked(observation: Observation) -> bytes:
    """The answer to Peek."""
    return _frame(observation) + _info(observation) + packed(struct.pack("!b", 0))


def stepped(observation: Observation, reward: float, done: bool, with_info: bool) -> bytes:
    """The answer to StepClient."""
    answer = _frame(observation) + packed(struct.pack("!dbb", reward, int(done), 1))
    return answer + _info(observation) if with_info else answer


def _frame(observation: Observation) -> bytes:
    return packed(observation.frame[::-1].tobytes())


def _info(observation: Observation) -> bytes:
    stacks = [{**_stack(stack), "index": slot} for slot, stack in enumerate(observation.inventory)]
    info: dict[str, object] = {"inventory": stacks}
    if observation.equipped is not None:
        # -1 is what Malmo says of things that do not wear; no world here wears tools by Minecraft's numbers.
        info["equipped_items"] = {"mainhand": {**_stack(observation.equipped), "damage": -1, "maxDamage": -1}}
    if observation.compass is not None:
        info["compassAngle"] = observation.compass
    return packed(json.dumps(info, allow_nan=False).encode())


def _stack(stack: ItemStack) -> dict[str, str | int]:
    return {"type": stack.type, "quantity": stack.quantity, "metadata": stack.metadata}


def _camera(argument: str) -> NDArray[np.float64]:
    try:
        angles = [float(part) for part in argument.split()]
    except ValueError as error:
        raise ProtocolError(f"command camera {argument[:80]!r}: two numbers are needed") from error
    if len(angles) != 2 or not all(math.isfinite(angle) and abs(angle) <= 180 for angle in angles):
        raise ProtocolError(f"command camera {argument[:80]!r}: pitch and yaw are needed, each -180..180")
    return np.array(angles)


def _decoded(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise ProtocolError(f"a message of {len(data)} bytes is not UTF-8") from error
