"""The Malmo-env server: messages, missions, manners, and the unmodified `minerl` client in front of a tiny world."""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lssvwm.envs.minecraft.malmo import messages, server
from lssvwm.envs.minecraft.malmo.messages import ProtocolError
from lssvwm.envs.minecraft.malmo.mission import Mission, MissionError, Possessions, parse_mission
from lssvwm.envs.minecraft.malmo.server import MAX_CONNECTIONS, MalmoServer
from lssvwm.envs.minecraft.malmo.world import ItemStack, Observation, Step, WorldError
from lssvwm.envs.minecraft.minerl.client import find_python
from lssvwm.worldmodel.common.errors import InputError

REWARD = '<Item amount="1" reward="1.5" type="log"/><Item amount="2" reward="4" type="stick"/>'
XML = """<MissionInit xmlns="http://ProjectMalmo.microsoft.com" PlatformVersion="0.37.0"><Mission>
<About><Summary>MineRLTreechop-v0</Summary></About><ModSettings><MsPerTick>50</MsPerTick></ModSettings>
<ServerSection><ServerHandlers><ServerQuitFromTimeUp timeLimitMs="2000"/></ServerHandlers></ServerSection>
<AgentSection mode="Survival"><Name>Agent</Name><AgentStart><Inventory>
<InventoryObject slot="0" type="iron_axe" metadata="0" quantity="1"/></Inventory></AgentStart>
<AgentHandlers><VideoProducer want_depth="false"><Width>6 </Width><Height>4</Height></VideoProducer><CameraCommands/>
<RewardForPossessingItem sparse="false" excludeLoops="true">%s</RewardForPossessingItem>
<AgentQuitFromPossessingItem><Item type="log" amount="3"/></AgentQuitFromPossessingItem>
</AgentHandlers></AgentSection></Mission><ExperimentUID>abc</ExperimentUID></MissionInit>"""
MISSION = XML % REWARD
LARGE = MISSION.replace("<Width>6 </Width><Height>4</Height>", "<Width>600</Width><Height>480</Height>")
TOKEN = "abc:0:0:1:true"


class TinyWorld:
    """A wall whose colours tell where one looks; three attacks in a row at the horizon give a log."""

    def __init__(self) -> None:
        self.seeds: list[int | None] = []
        self.broken = self.closed = False
        self.entered, self.proceed = threading.Event(), threading.Event()
        self.proceed.set()

    def reset(self, mission: Mission, seed: int | None) -> Observation:
        if mission.name == "MineRLNowhere-v0":
            raise InputError("there is no way to nowhere: choose another mission")
        self.broken = False
        self.seeds.append(seed)
        self._mission, self._items = mission, Possessions(mission)
        self._pitch, self._yaw = 0.0, float((seed or 0) % 360)
        self._hits = self._logs = 0
        return self._look()

    def step(self, action: Mapping[str, Any]) -> Step:
        self.entered.set()
        assert self.proceed.wait(60)
        if self.broken:
            raise WorldError("the sky has fallen")
        pitch, yaw = action.get("camera", (0.0, 0.0))
        self._pitch, self._yaw = self._pitch + float(pitch), self._yaw + float(yaw)
        self._hits = self._hits + 1 if action.get("attack") and abs(self._pitch) < 10 else 0
        found = int(self._hits == 3)
        if found:
            self._hits, self._logs = 0, self._logs + 1
        reward = self._items.change({"log": found})
        return Step(self._look(), reward, self._items.complete)

    def close(self) -> None:
        self.closed = True

    def _look(self) -> Observation:
        frame = np.zeros((self._mission.height, self._mission.width, 3), np.uint8)
        frame[0, :, 0] = 200  # the top row is red
        frame[:, 0, 1] = 100  # the left column is green
        frame[..., 2] = int(self._yaw) % 256
        logs = (ItemStack("log", self._logs, 1),) if self._logs else ()
        axe = ItemStack("iron_axe")
        return Observation(frame, (axe, ItemStack("dirt", 7), *logs), axe, (self._yaw + 180) % 360 - 180)


class Client:
    """A connection that says hello and speaks in whole messages."""

    def __init__(self, port: int, greet: bool = True) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=30)
        if greet:
            self.send("<MalmoEnv0.37.0/>")

    def send(self, *texts: str | bytes) -> None:
        for text in texts:
            data = text.encode() if isinstance(text, str) else text
            self.socket.sendall(struct.pack("!I", len(data)) + data)

    def receive(self) -> bytes:
        (length,) = struct.unpack("!I", self._exactly(4))
        return self._exactly(length)

    def begin(self, xml: str = MISSION, token: str = TOKEN) -> int:
        self.send(xml, token)
        (begun,) = struct.unpack("!I", self.receive())
        return int(begun)

    def step(self, commands: str = "forward 1", option: int = 0) -> tuple[np.ndarray, float, bool]:
        self.send(f"<StepClient{option}>{commands}</StepClient{option} >")
        frame = np.frombuffer(self.receive(), np.uint8).reshape(4, 6, 3)
        reward, done, sent = struct.unpack("!dbb", self.receive())
        assert sent == 1
        if option in (0, 2):
            self.info = json.loads(self.receive())
        self.send("<StepServer></StepServer>")
        return frame, reward, bool(done)

    def is_closed(self) -> bool:
        """Whether the server has closed the connection without another word."""
        with contextlib.suppress(ConnectionError):
            return self.socket.recv(1) == b""
        return True

    def close(self) -> None:
        self.socket.close()

    def _exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            chunk = self.socket.recv(count - len(data))
            if not chunk:
                raise EOFError(f"closed after {len(data)} of {count} bytes")
            data += chunk
        return data


class Served:
    """A server of a TinyWorld in a thread of its own."""

    def __init__(self) -> None:
        self.world = TinyWorld()
        self.server = MalmoServer(self.world, 0)
        self.port = self.server.port
        self.thread = threading.Thread(target=self.server.serve)
        self.thread.start()
        self._clients: list[Client] = []

    def client(self, greet: bool = True) -> Client:
        self._clients.append(Client(self.port, greet))
        return self._clients[-1]

    def end(self) -> None:
        for client in self._clients:
            client.close()
        self.server.stop()
        self.thread.join(30)


@pytest.fixture
def served() -> Iterator[Served]:
    running = Served()
    yield running
    running.world.proceed.set()
    running.end()
    assert not running.thread.is_alive()
    assert running.world.closed


def test_mission_is_read() -> None:
    mission = parse_mission(MISSION)
    assert (mission.name, mission.uid) == ("MineRLTreechop-v0", "abc")
    assert (mission.width, mission.height, mission.ticks) == (6, 4, 40)
    assert [(item.type, item.amount) for item in mission.start_inventory] == [("iron_axe", 1)]
    assert [(rule.item.type, rule.item.amount, rule.reward) for rule in mission.rewards] == [
        ("log", 1, 1.5),
        ("stick", 2, 4.0),
    ]
    assert [(item.type, item.amount) for item in mission.quit_items] == [("log", 3)]
    assert mission.handlers[:2] == ("VideoProducer", "CameraCommands")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("<Mission>", "<Mission", "no XML"),
        ("<MissionInit ", '<!DOCTYPE x [<!ENTITY a "b">]><MissionInit ', "document type"),
        ("ProjectMalmo", "ProjectOther", "root"),
        ("<Width>6 </Width>", "<Width>5000</Width>", "Width.*1..4096"),
        ("<Width>6 </Width>", "<Width>-1</Width>", "Width"),
        ("<Width>6 </Width>", "", "0 elements Width"),
        ("MineRLTreechop-v0", " ", "Summary is empty"),
        ('want_depth="false"', 'want_depth="true"', "depth"),
        ('timeLimitMs="2000"', 'timeLimitMs="nan"', "timeLimitMs"),
        ('timeLimitMs="2000"', 'timeLimitMs="soon"', "timeLimitMs"),
        ('timeLimitMs="2000"', "", "no 'timeLimitMs'"),
        ('reward="1.5"', 'reward="much"', "reward"),
        ('amount="3"', 'amount="0"', "amount"),
        ('sparse="false"', 'sparse="no"', "sparse"),
        ("<AgentSection ", "<AgentSection/><AgentSection ", "2 agents"),
        ("Survival", "S" * 300_000, "characters"),
    ],
)
def test_bad_mission_is_refused(old: str, new: str, message: str) -> None:
    assert old in MISSION
    with pytest.raises(MissionError, match=message):
        parse_mission(MISSION.replace(old, new, 1))


@pytest.mark.parametrize(
    ("sparse", "exclude_loops", "rewards"),
    [
        # logs: +1 -1 +1 +2, sticks: +1 +1 +2; 1.5 per log, 4 per two sticks
        ("false", "true", [1.5, 0, 0, 3.0, 0, 4, 4]),
        ("false", "false", [1.5, 0, 1.5, 3.0, 0, 0, 4]),
        ("true", "true", [1.5, 0, 0, 0, 0, 4, 0]),
    ],
)
def test_possessions_earn_as_in_malmo(sparse: str, exclude_loops: str, rewards: list[float]) -> None:
    flags = f'sparse="{sparse}" excludeLoops="{exclude_loops}"'
    items = Possessions(parse_mission(MISSION.replace('sparse="false" excludeLoops="true"', flags)))
    changes = [{"log": 1}, {"log": -1}, {"log2": 1}, {"log": 2}, {"stick": 1}, {"stick": 1}, {"stick": 2}]
    complete = []
    earned = []
    for change in changes:
        earned.append(items.change(change))
        complete.append(items.complete)
    assert earned == rewards
    assert complete == [False, False, False, True, True, True, True]


def test_commands_become_an_action() -> None:
    action = messages.parse_commands(
        "forward 1\nattack 0\ncamera -1.5 30.0\nhotbar.3 1\ncraftNearby furnace\nplace none"
    )
    camera = action.pop("camera")
    assert camera.tolist() == [-1.5, 30.0]
    assert action == {"forward": 1, "attack": 0, "hotbar.3": 1, "nearbyCraft": "furnace", "place": "none"}
    assert messages.parse_commands("") == {}


@pytest.mark.parametrize(
    "commands",
    [
        "forward",
        "forward 2",
        "forward 1.0",
        "fly 1",
        "camera 1",
        "camera nan 0",
        "camera 1 200",
        "camera x y",
        "place ../x",
    ],
)
def test_bad_commands_are_refused(commands: str) -> None:
    with pytest.raises(ProtocolError, match=commands.split()[0]):
        messages.parse_commands(commands)


@pytest.mark.parametrize(
    "token",
    ["abc", "abc:0:0:2:true", "abc:1:0:1:true", "abc:0:0:1:false", "abc:0:0:1:true:x", ":0:0:1:true", "abc:0:-:1:true"],
)
def test_bad_tokens_are_refused(token: str) -> None:
    with pytest.raises(ProtocolError, match="token"):
        messages.parse_token(token.encode())


def test_messages_are_cut_at_their_lengths() -> None:
    buffer = bytearray(messages.packed(b"one") + messages.packed(b"") + messages.packed(b"two"))
    last = buffer.pop()
    assert messages.take(buffer) == b"one"
    assert messages.take(buffer) == b""
    assert messages.take(buffer) is None
    buffer.append(last)
    assert messages.take(buffer) == b"two"
    assert not buffer


def test_an_episode(served: Served) -> None:
    client = served.client()
    assert client.begin(token=f"{TOKEN}:30") == 1
    assert served.world.seeds == [30]
    client.send("<Peek/>")
    frame = np.frombuffer(client.receive(), np.uint8).reshape(4, 6, 3)
    assert (frame[..., 0] == np.array([0, 0, 0, 200])[:, None]).all()  # bottom row first
    assert (frame[..., 1] == np.array([100, 0, 0, 0, 0, 0])).all()
    info = json.loads(client.receive())
    assert client.receive() == b"\0"
    assert info["compassAngle"] == 30
    assert info["equipped_items"]["mainhand"]["type"] == "iron_axe"
    assert info["inventory"][1] == {"type": "dirt", "quantity": 7, "metadata": 0, "index": 1}
    frame, *_ = client.step("camera 0.0 12.0\nattack 1")
    assert (frame[..., 2] == 42).all()
    results = [client.step("attack 1")[1:] for _ in range(8)]
    assert results == [(0, False), (1.5, False), (0, False)] * 2 + [(0, False), (1.5, True)]
    assert client.info["inventory"][-1]["quantity"] == 3
    assert [client.step("attack 1")[1:] for _ in range(3)] == [(0, True)] * 3  # over is over
    assert client.step(option=1)[2]  # without JSON


def test_the_time_limit_of_the_mission(served: Served) -> None:
    client = served.client()
    client.begin()
    assert [client.step()[2] for _ in range(40)] == [False] * 39 + [True]


def test_quit_ends_a_mission_and_the_next_may_begin(served: Served) -> None:
    client = served.client()
    client.begin()
    client.send("<Quit/>")
    assert client.receive() == struct.pack("!I", 1)
    assert client.begin(token=f"{TOKEN}:-5") == 1
    assert client.begin(token=f"{TOKEN}:6") == 1  # takes the place of the one before
    assert served.world.seeds == [None, -5, 6]
    client.send("<Quit/>", "<Peek/>")
    assert client.receive() == struct.pack("!I", 1)
    assert client.is_closed()  # there is nothing to peek at


@pytest.mark.parametrize("end", ["disconnect", "close"])
def test_another_client_waits_until_the_first_is_gone(served: Served, end: str) -> None:
    first, second = served.client(), served.client()
    assert first.begin() == 1
    assert second.begin() == 0
    first.step()
    if end == "disconnect":
        first.send("<Disconnect/>")
        assert first.is_closed()
    else:
        first.close()
    while second.begin() == 0:
        pass
    second.step()


@pytest.mark.parametrize(
    ("texts", "reason"),
    [
        (["<Peek/>"], "before the greeting"),
        (["<MalmoEnv0.36.0/>"], "speaks MalmoEnv 0.37.0"),
        (["<MalmoEnv0.37.0/>", "<MalmoEnv0.37.0/>"], "second greeting"),
        (["<MalmoEnv0.37.0/>", "<Peek/>"], "without a running mission"),
        (["<MalmoEnv0.37.0/>", "<StepClient0>forward 1</StepClient0 >"], "without a running mission"),
        (["<MalmoEnv0.37.0/>", "<StepClient0>forward 1"], "is not of the form"),
        (["<MalmoEnv0.37.0/>", "<Teleport/>"], "unknown message"),
        (["<MalmoEnv0.37.0/>", b"\xff\xfe"], "not UTF-8"),
        (["<MalmoEnv0.37.0/>", MISSION, "other:0:0:1:true"], "the mission for 'abc'"),
        (["<MalmoEnv0.37.0/>", MISSION.replace("Treechop", "Nowhere"), TOKEN], "no way to nowhere"),
        (["<MalmoEnv0.37.0/>", MISSION[:-1], TOKEN], "no XML"),
    ],
)
def test_what_is_wrong_is_logged_and_closes_only_that_connection(
    served: Served, caplog: pytest.LogCaptureFixture, texts: list[str | bytes], reason: str
) -> None:
    bad = served.client(greet=False)
    bad.send(*texts)
    assert bad.is_closed()
    assert reason in caplog.text
    assert served.client().begin() == 1


def test_too_long_a_message_is_refused_before_it_is_read(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    client = served.client()
    client.socket.sendall(struct.pack("!I", messages.MAX_MESSAGE + 1))
    assert client.is_closed()
    assert "1048577 bytes" in caplog.text


def test_half_a_message_holds_up_nobody(served: Served) -> None:
    slow = served.client()
    slow.socket.sendall(b"\0\0")
    client = served.client()
    client.begin()
    client.step()


def test_a_client_that_does_not_read_holds_up_nobody_and_loses_nothing(served: Served) -> None:
    slow = served.client()
    slow.begin(LARGE)
    slow.send(*["<Peek/>"] * 20)  # 17 MB of frames, more than sockets hold
    assert served.client().begin() == 0  # answered: it has to wait for the mission of the other
    for _ in range(20):
        assert len(slow.receive()) == 480 * 600 * 3
        slow.receive()
        slow.receive()


def test_a_client_that_never_reads_is_given_up(
    served: Served, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "SEND_TIMEOUT", 0.2)
    slow = served.client()
    slow.begin(LARGE)
    slow.send(*["<Peek/>"] * 20)
    deadline = time.monotonic() + 30
    while "has read nothing for 0.2 seconds" not in caplog.text and time.monotonic() < deadline:
        time.sleep(0.02)
    assert served.client().begin() == 1


def test_a_broken_world_ends_the_episode_and_is_mended_by_the_next(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    client = served.client()
    client.begin()
    served.world.broken = True
    client.send("<StepClient0>forward 1</StepClient0 >")
    assert client.is_closed()
    assert "the sky has fallen" in caplog.text
    client = served.client()
    client.begin()
    client.step()


def test_a_client_that_dies_in_a_step_frees_the_server(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    served.world.proceed.clear()
    client = served.client()
    client.begin()
    client.send("<StepClient0>forward 1</StepClient0 >")
    assert served.world.entered.wait(30)
    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # reset, do not part
    client.close()
    served.world.proceed.set()
    other = served.client()
    while other.begin() == 0:
        pass
    other.step()


def test_too_many_connections_are_turned_away(served: Served) -> None:
    kept = [served.client() for _ in range(MAX_CONNECTIONS)]
    assert served.client().is_closed()
    kept[0].send("<Disconnect/>")
    assert kept[0].is_closed()
    assert served.client().begin() == 1


def test_exit_ends_the_server(served: Served) -> None:
    client = served.client()
    client.begin()
    client.send("<Exit>NOW</Exit>")
    assert client.receive() == struct.pack("!I", 1)
    served.thread.join(30)
    assert served.world.closed
    with pytest.raises(ConnectionRefusedError):
        served.client()


def test_a_port_in_use_names_the_fix(served: Served) -> None:
    with pytest.raises(InputError, match=rf"port {served.port} .* is in use: .* --port"):
        MalmoServer(TinyWorld(), served.port)
    with pytest.raises(InputError, match="65536"):
        MalmoServer(TinyWorld(), 65536)


def test_the_port_can_be_taken_again_at_once() -> None:
    first = Served()
    client = first.client()
    client.begin()
    first.server.stop()
    first.thread.join(30)
    second = MalmoServer(TinyWorld(), first.port)
    second.close()
    client.close()


def test_only_loopback_is_listened_on(served: Served) -> None:
    port = f"{served.port:04X}"
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    listening = {row[1] for row in rows if row[3] == "0A" and row[1].endswith(f":{port}")}
    assert listening == {f"0100007F:{port}"}
    assert f":{port} " not in Path("/proc/net/tcp6").read_text()


PLAY = """
import json, sys, warnings
warnings.filterwarnings("ignore")
import gym, minerl
from minerl.env.malmo import InstanceManager
port, name = int(sys.argv[1]), sys.argv[2]
instance = InstanceManager.add_existing_instance(port)
instance.had_to_clean = False
env = gym.make(name, instances=[instance])
env.seed(77)
first = env.reset()
assert env.observation_space.contains(first), first
said = {"blue": int(first["pov"][5, 5, 2]), "top": first["pov"][0, 5].tolist(), "shape": first["pov"].shape}
action = env.action_space.noop()
action["attack"], action["camera"] = 1, [0.0, 2.0]
rewards = []
for _ in range(6):
    observation, reward, done, info = env.step(action)
    assert not done and not info, info
    assert env.observation_space.contains(observation), observation
    rewards.append(reward)
said.update(rewards=rewards, last=int(observation["pov"][5, 5, 2]))
said["inventory"] = {key: int(count) for key, count in observation.get("inventory", {}).items()}
said["compass"] = float(observation["compass"]["angle"]) if "compass" in observation else None
said["hand"] = str(observation["equipped_items"]["mainhand"]["type"]) if "equipped_items" in observation else None
env.reset()
env.step(action)
env.close()
print(json.dumps(said))
"""


@pytest.mark.parametrize(
    ("name", "rewards"),
    [
        ("MineRLTreechop-v0", [0, 0, 1, 0, 0, 1]),
        ("MineRLNavigateDense-v0", [0] * 6),
        ("MineRLObtainDiamond-v0", [0, 0, 1, 0, 0, 0]),  # the first log only
    ],
)
def test_the_unmodified_client_plays(served: Served, name: str, rewards: list[float]) -> None:
    command = [str(find_python(None)), "-c", PLAY, str(served.port), name]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["shape"] == [64, 64, 3]
    assert said["top"] == [200, 0, 77]
    assert said["blue"] == 77
    assert said["last"] == 89
    assert said["rewards"] == rewards
    assert served.world.seeds == [77, None]
    if name == "MineRLNavigateDense-v0":
        assert said["compass"] == 89
        assert said["inventory"] == {"dirt": 7}
    if name == "MineRLObtainDiamond-v0":
        assert said["inventory"]["log"] == 2
        assert said["inventory"]["dirt"] == 7
        assert said["hand"] == "iron_axe"


def test_what_begins_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "lssvwm.envs.minecraft.malmo.server"):
        running = Served()
        running.client().begin()
        running.end()
    assert "MineRLTreechop-v0 begins, 6x4, seed None" in caplog.text
