"""RLDS data sets, as `rlds` writes them byte by byte."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lssvwm.envs.recorded import FORMATS, ReadOptions, convert
from lssvwm.envs.recorded.__main__ import main
from lssvwm.envs.recorded.formats.tfrecord import crc32c, read_record
from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.episodes import NO_ACTION, Episode, EpisodeStore
from recordings import STEPS, frames_of, places, seen
from rlds import (
    PICTURE,
    PIXELS,
    SHARD,
    dataset,
    described,
    encoded,
    example,
    features_of,
    record,
    slow_crc32c,
    tensor,
    tree,
    write,
)

RLDS = FORMATS["rlds"]
SMALL = ReadOptions(size=8)
FEW = STEPS[:4]


def read(root: Path, options: ReadOptions = SMALL) -> list[Episode]:
    return [episode for source in RLDS.find(root) for episode in RLDS.read(source, options)]


def one(root: Path, camera: Any = PICTURE, told: dict[str, Any] | None = None, **steps: Any) -> Episode:
    frames = frames_of(places(FEW), 8, 8)
    stored = encoded(frames_of(places(FEW))) if camera is PICTURE else frames[..., 0].ravel().tolist()
    write(root, described(camera, **(told or {})), [features_of(FEW, True, steps.pop("image", stored), **steps)])
    (episode,) = read(root)
    return episode


@pytest.mark.parametrize("size", [0, 1, 3, 9, 100, 4097])
def test_checksums(size: int) -> None:
    assert crc32c(b"123456789") == 0xE3069283  # of RFC 3720
    data = np.random.default_rng(size).bytes(size)
    assert crc32c(data) == slow_crc32c(data)


def test_a_record_is_what_was_written(tmp_path: Path) -> None:
    features = {"a": [1.5, -2.0], "b": [0, -1, 2**62], "ä/c": [b"", b"\x00\xff"]}
    unpacked = b"\x0a\x0d" + b"\x0a\x0b" + b"\x0a\x01d" + b"\x12\x06" + b"\x1a\x04" + b"\x08\x03\x08\x04"
    (tmp_path / "it").write_bytes(record(example(features)) + record(unpacked))
    found = read_record(tmp_path / "it", 0)
    assert {key: list(values) for key, values in found.items()} == features
    assert np.asarray(read_record(tmp_path / "it", 1)["d"]).tolist() == [3, 4]


def test_what_led_to_what(tmp_path: Path) -> None:
    """Two frames differ by the action between them; what the last step says of action and reward is left out."""
    dataset(tmp_path / "robots")
    assert [source.name for source in RLDS.find(tmp_path)] == [f"robots/{SHARD}/{i:06d}" for i in range(2)]
    episodes = read(tmp_path)
    for episode in episodes:
        assert seen(episode.image).tolist() == places().tolist()
        assert episode.action.tolist() == [NO_ACTION, *STEPS]
        assert episode.reward.tolist() == [0, *STEPS]
        assert episode.extras["observation.state"][:, 1].tolist() == (-places()).tolist()
        assert str(episode.extras["task"]) == "walk"
    assert [bool(episode.terminated[-1]) for episode in episodes] == [False, True]
    assert [bool(episode.truncated[-1]) for episode in episodes] == [True, False]


def test_the_command(tmp_path: Path) -> None:
    dataset(tmp_path / "from", FEW)
    assert main(["rlds", str(tmp_path / "from"), "--to", str(tmp_path / "to"), "--size", "8", "--no-progress"]) == 0
    assert EpisodeStore(tmp_path / "to", strict=True).lengths.tolist() == [len(FEW) + 1] * 2


def test_frames_of_numbers_and_of_jpeg(tmp_path: Path) -> None:
    assert np.array_equal(one(tmp_path / "a", PIXELS).image, frames_of(places(FEW), 8, 8))
    jpeg = one(tmp_path / "b", image=encoded(frames_of(places(FEW)), "JPEG"))
    assert seen(jpeg.image).tolist() == places(FEW).tolist()


def test_vectors_and_dictionaries_of_actions(tmp_path: Path) -> None:
    steps = len(FEW) + 1
    vector = one(tmp_path / "a", told={"action": tensor("float32", 2)}, action=[float(i) for i in range(2 * steps)])
    assert vector.action[1:].tolist() == [[2.0 * i, 2.0 * i + 1] for i in range(steps - 1)]
    parts = {"grip": tensor("bool"), "move": tensor("float32", 2)}
    frames = encoded(frames_of(places(FEW)))
    features = features_of(FEW, False, frames)
    features["steps/action/move"] = [float(i) for i in range(2 * steps)]
    features["steps/action/grip"] = [1, 0, 1, 0, 1]
    del features["steps/action"]
    write(tmp_path / "b", described(PICTURE, action=tree(parts)), [features])
    (episode,) = read(tmp_path / "b")
    assert episode.action[1:].tolist() == [[1.0, 0, 1], [0, 2, 3], [1, 4, 5], [0, 6, 7]]


STEPPED = len(FEW) + 1
WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no action": ({"told": {"action": {"text": {}}}}, "'action' is not of numbers"),
    "fewer actions": ({"action": [0, 1]}, "'action' is 2 values, and should be numbers of shape"),
    "actions of another type": ({"action": [0.0] * STEPPED}, "'action' is stored as float32 and should be int32"),
    "actions too large": ({"action": [2**40] * STEPPED}, "'action' has values that are no int32"),
    "an action below 0": ({"action": [-1] * STEPPED}, "numbered actions are 0 or more"),
    "an end in the middle": ({"is_last": [0, 1, 0, 0, 1]}, r"'is_last' is true at steps \[1, 4\] of 5"),
    "fewer pictures": ({"image": [b"x"] * 2}, "'observation/image' is not one picture for each of 5 steps"),
    "no picture": ({"image": [b"x"] * STEPPED}, "step 0 is no picture"),
    "pictures of another size": (
        {"image": encoded(frames_of(places(FEW), 16, 16))},
        r"step 0 is \(16, 16\), features.json tells of \(32, 32\)",
    ),
    "text that is none": ({"language_instruction": [b"\xff"] * STEPPED}, "is no UTF-8"),
    "two cameras": ({"told": {"wrist": PICTURE}}, "choose with --image-key"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_features_are_named(name: str, tmp_path: Path) -> None:
    steps, message = WRONG[name]
    with pytest.raises(InputError, match=message) as told:
        one(tmp_path, **steps)
    assert f"{SHARD} record 0" in str(told.value)


def flip(at: int) -> Callable[[bytes], bytes]:
    return lambda data: data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :]


DAMAGE: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "a bit": (flip(200), "fails its checksum"),
    "a bit of a length": (flip(1), "length that is cut off or fails its checksum"),
    "cut off": (lambda data: data[:-100], "is cut off"),
    "half a head": (lambda data: data + b"\x00" * 5, "length that is cut off"),
    "a record that is gone": (lambda data: data[: 16 + struct.unpack_from("<Q", data)[0]], "is not there, only 1 are"),
    "no Example": (lambda data: record(b"\xff\xff") + data, "is no tf.train.Example"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_named_and_other_records_are_read(name: str, tmp_path: Path) -> None:
    damage, message = DAMAGE[name]
    dataset(tmp_path / "from", FEW)
    path = tmp_path / "from" / SHARD
    path.write_bytes(damage(path.read_bytes()))
    summary = convert(RLDS, tmp_path / "from", tmp_path / "to", SMALL, progress=False)
    (broken,) = summary.broken if name != "a bit of a length" else summary.broken[:1]
    assert message in broken.reason
    assert f"{path} record " in broken.reason
    assert summary.converted == {"half a head": 2, "no Example": 2, "a bit of a length": 0}.get(name, 1)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"featuresDict": {"features": {"steps": 1}}}'])
def test_a_description_that_is_none_is_named(text: str, tmp_path: Path) -> None:
    dataset(tmp_path, FEW)
    (tmp_path / "features.json").write_text(text)
    with pytest.raises(InputError, match=r"features.json does not describe steps of RLDS"):
        read(tmp_path)
