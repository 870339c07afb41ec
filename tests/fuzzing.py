"""What a fuzz is made of: inputs that are nearly right, refusals told from faults, and what accepted ones must be."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.episodes import Episode, EpisodeStore

T = TypeVar("T")
FUZZ = int(os.environ.get("FUZZ", "10"))
"""Inputs of each test."""

many = settings(
    max_examples=FUZZ,
    deadline=None,
    database=None,
    derandomize="FUZZ" not in os.environ,
    phases=[Phase.generate, Phase.shrink],
    suppress_health_check=list(HealthCheck),
)
EXTREMES = (0, 1, 0xFF, 0x7F, 0x80)


@st.composite
def changes(draw: st.DrawFn) -> list[tuple[str, float, int, int]]:
    """What is done to a file, independent of its length: how, where as a share of it, how much, and with which byte."""
    kinds = st.sampled_from(["flip", "set", "cut", "insert", "drop", "repeat", "number"])
    one = st.tuples(
        kinds,
        st.floats(0, 1),
        st.sampled_from([1, 1, 1, 2, 4, 8, 64]),
        st.sampled_from(EXTREMES) | st.integers(0, 255),
    )
    return draw(st.lists(one, min_size=1, max_size=3))


def changed(content: bytes, done: list[tuple[str, float, int, int]]) -> bytes:
    data = bytearray(content)
    for kind, where, count, byte in done:
        at = min(int(where * len(data)), max(len(data) - 1, 0))
        part = slice(at, at + count)
        if kind == "flip" and data:
            data[at] ^= byte or 1
        elif kind == "set":
            data[part] = bytes([byte]) * len(data[part])
        elif kind == "cut":
            del data[at:]
        elif kind == "insert":
            data[at:at] = bytes([byte]) * count
        elif kind == "drop":
            del data[part]
        elif kind == "repeat":
            data[at:at] = data[part]
        elif kind == "number" and len(data) >= at + 4:
            struct.pack_into("<i", data, at, (byte << 24 | count) - (1 << 31))
    return bytes(data)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@st.composite
def replaced(draw: st.DrawFn, value: Any) -> Any:
    """JSON like `value`, something in which is something else."""
    if isinstance(value, dict) and value and draw(st.integers(0, 9)):
        key = draw(st.sampled_from(sorted(value)))
        if draw(st.integers(0, 9)) == 0:
            return {name: part for name, part in value.items() if name != key}
        return {**value, key: draw(replaced(value[key]))}
    if isinstance(value, list) and value and draw(st.integers(0, 4)):
        at = draw(st.integers(0, len(value) - 1))
        return [*value[:at], draw(replaced(value[at])), *value[at + 1 :]]
    if isinstance(value, int) and draw(st.booleans()):
        return draw(st.sampled_from([-value, value + 1, value - 1, value * 2, 2**31, 2**62, 2**64, 0.5, str(value)]))
    return draw(JSON)


def some_arrays(shape: tuple[int, ...]) -> st.SearchStrategy[Any]:
    """Arrays that have nearly this shape, of one value."""

    def filled(dtype: Any, sizes: tuple[int, ...], value: int) -> Any:
        return np.full(sizes, value).astype(dtype)

    near = st.sampled_from([shape, shape[1:], (1, *shape), shape[::-1], (0, *shape[1:]), (2, *shape[1:])])
    dtypes = st.sampled_from([np.uint8, np.int64, np.float32, np.bool_, "U3", object])
    return st.builds(filled, dtypes, near, st.sampled_from([0, 1, 2, -1, 9]))


def tried(use: Callable[[], T]) -> T | None:
    """What comes of using it; None for an InputError of one line. Any other exception is a fault."""
    try:
        return use()
    except InputError as error:
        said = str(error)
    assert "\n" not in said
    return None


# What is accepted


def same_array(one: NDArray[Any], other: NDArray[Any]) -> bool:
    return (one.dtype, one.shape, one.tobytes()) == (other.dtype, other.shape, other.tobytes())


def same_episode(one: Episode, other: Episode) -> bool:
    left, right = one.arrays(), other.arrays()
    return left.keys() == right.keys() and all(same_array(left[key], right[key]) for key in left)


def check_right(e: Episode) -> None:
    """What docs/timeline.md says of an episode, told anew: `check_episode` is what is on trial."""
    count, height, width, channels = e.image.shape
    assert e.image.dtype == np.uint8
    assert channels == 3
    assert min(height, width) >= 1
    assert count >= 2
    assert (e.reward.dtype, e.reward.shape) == (np.float32, (count,))
    assert e.reward[0] == 0
    assert all(abs(one) < 3.5e38 for one in e.reward.tolist())
    for flags in (e.terminated, e.truncated):
        assert (flags.dtype, flags.shape) == (np.bool_, (count,))
        assert not any(flags.tolist()[:-1])
    led = e.action.tolist()
    if e.action.dtype == np.int64:
        assert e.action.shape == (count,)
        assert led[0] == -1
        assert all(one >= 0 for one in led[1:]) or all(one == -1 for one in led)
    else:
        assert e.action.dtype == np.float32
        assert e.action.shape == (count, len(led[0]))
        assert len(led[0]) >= 1
        assert all(one != one for one in led[0])
        assert all(abs(one) < 3.5e38 for row in led[1:] for one in row)


def check_parts(store: EpisodeStore, pose: tuple[str, ...] = ()) -> None:
    """Episodes are right, and clips are parts of them."""
    for row, name in enumerate(store.names):
        e = store.read(name)
        check_right(e)
        count = len(e.image)
        assert count == store.lengths[row]
        assert e.image.shape[1:3] == store.image_shape
        assert (e.action.shape[1] if e.action.ndim == 2 else 0) == store.action_size
        for start in (0, count // 2):
            clips = store.gather(np.array([row]), np.array([start]), 20)
            n = min(20, count - start)
            assert clips.mask[0].tolist() == [True] * n + [False] * (20 - n)
            parts = {"frames": e.image, "actions": e.action, "rewards": e.reward, "terminated": e.terminated}
            for key, whole in parts.items():
                assert same_array(getattr(clips, key)[0, :n].numpy(), whole[start : start + n])
            if pose:
                wanted = [e.extras[key].reshape(count, -1).astype(np.float32) for key in pose]
                assert clips.pose is not None
                assert np.array_equal(clips.pose[0, :n].numpy(), np.concatenate(wanted, 1)[start : start + n])


def check_kept(e: Episode, root: Path) -> None:
    """A store gives back what it takes."""
    path = tried(lambda: EpisodeStore(root, create=True).append(e))
    if path is not None:
        try:
            assert same_episode(EpisodeStore(root, strict=True).read(path.name), e)
        finally:
            path.unlink()


def as_json(value: Any) -> Any:
    """Settings as JSON has them, so that those written and those read can be compared; numbers are floats."""
    if isinstance(value, Mapping):
        return {key: as_json(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(part) for part in value]
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return value
    return float(value) if isinstance(value, int | float) else str(value)
