"""The episode file, the index beside it, and what a bad file costs: itself."""

from __future__ import annotations

import json
import os
import shutil
import struct
import threading
import time
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zstandard

from lssvwm.envs.recording.writing import Writers
from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.episodes import EpisodeStore, index
from lssvwm.worldmodel.episodes.chunked import ROWS, ChunkedFile
from lssvwm.worldmodel.episodes.files import read_episode, read_header, write_episode
from lssvwm.worldmodel.episodes.index import INDEX, Index
from test_episodes import episode, same, store_of, where


def damage(path: Path) -> None:
    """Flip a byte in the last chunk, which is one of the frames."""
    content = bytearray(path.read_bytes())
    content[-6] ^= 0xFF
    path.write_bytes(content)


def header_of_file(path: Path) -> dict[str, Any]:
    content = path.read_bytes()
    length = struct.unpack_from("<I", content, 8)[0]
    return json.loads(content[16 : 16 + length])["arrays"]  # type: ignore[no-any-return]


def with_header(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """The same file with another header, whose checksum is right."""
    length = struct.unpack_from("<I", content := path.read_bytes(), 8)[0]
    change(arrays := header_of_file(path))
    path.write_bytes(file_of(arrays, content[16 + length :]))


def file_of(arrays: dict[str, Any], body: bytes) -> bytes:
    header = json.dumps({"arrays": arrays}).encode()
    return b"EPISODE\x01" + struct.pack("<II", len(header), zlib.crc32(header)) + header + body


def packed(content: bytes) -> bytes:
    return zstandard.ZstdCompressor(write_checksum=True).compress(content)


# The file


def test_a_file_is_what_the_documentation_says(tmp_path: Path) -> None:
    """Read without any of our code."""
    e = episode(40, 3, size=(16, 16), note=np.array("wood"))
    path = write_episode(tmp_path, e)
    content = path.read_bytes()
    magic, length, checksum = struct.unpack_from("<8sII", content)
    assert magic == b"EPISODE\x01"
    assert zlib.crc32(content[16 : 16 + length]) == checksum
    offset, found = 16 + length, {}
    for key, told in header_of_file(path).items():
        parts = []
        for size in told["sizes"]:
            parts.append(zstandard.ZstdDecompressor().decompress(content[offset : offset + size]))
            offset += size
        found[key] = np.frombuffer(b"".join(parts), told["dtype"]).reshape(told["shape"])
        assert len(parts) == (3 if key == "image" else 1)
        assert told["rows"] == (ROWS if key == "image" else 40 if found[key].ndim else 1)
    assert offset == len(content)
    assert same(replace(e, **{k: found[k] for k in ("image", "reward")}, extras={"note": found["note"]}), e)


@pytest.mark.parametrize(
    "extra",
    [
        np.zeros((0, 3)),
        np.array(7, np.int8),
        np.arange(40 * 200, dtype=">f4").reshape(40, 200),
        np.asfortranarray(np.arange(40 * 300.0).reshape(40, 300)),
        np.array(["ä", "wood"]),
        np.array([b"x", b"yy"]),
        np.array(["2020-01-01"], "datetime64[D]"),
        np.ones((40, 16, 16), np.float32),
        np.arange(3) * 1j,
        np.zeros(3, "U0"),
    ],
    ids=lambda array: f"{array.dtype.str}{array.shape}",
)
def test_extras_come_back(tmp_path: Path, extra: Any) -> None:
    path = write_episode(tmp_path, episode(40, thing=extra))
    back = read_episode(path).extras["thing"]
    assert back.dtype == extra.dtype
    assert back.shape == extra.shape
    assert np.array_equal(back, extra)


def test_a_clip_costs_its_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = store_of(tmp_path, [200])
    decoded: list[tuple[str, int]] = []
    chunk = ChunkedFile.chunk
    monkeypatch.setattr(ChunkedFile, "chunk", lambda self, key, n: (decoded.append((key, n)), chunk(self, key, n))[1])
    clips = store.gather(np.array([0]), np.array([30]), 20)
    assert [n for key, n in decoded if key == "image"] == [1, 2, 3]
    assert where(clips)[1][0].tolist() == list(range(30, 50))
    decoded.clear()
    store.gather(np.array([0]), np.array([40]), 30)
    assert decoded == [("image", 4)]  # the others are kept


@pytest.mark.parametrize("cache", [0, 1 << 20])
def test_clips_of_all_places_and_lengths(tmp_path: Path, cache: int) -> None:
    store_of(tmp_path, [50])
    store = EpisodeStore(tmp_path, cache_bytes=cache)
    whole = store.read(store.names[0])
    for start in (0, 1, 15, 16, 17, 31, 47, 48, 49):
        for length in (1, 2, 16, 17, 40):
            clips = store.gather(np.array([0]), np.array([start]), length)
            n = min(length, 50 - start)
            assert int(clips.mask.sum()) == n
            assert np.array_equal(clips.frames[0, :n].numpy(), whole.image[start : start + n])
            assert np.array_equal(clips.actions[0, :n].numpy(), whole.action[start : start + n])
            assert not clips.frames[0, n:].any()


def test_pose_of_a_clip_is_that_of_its_frames(tmp_path: Path) -> None:
    """Also where a layout has as many rows as the clip frames."""
    place = np.stack([np.arange(40.0), -np.arange(40.0)], 1)
    store = EpisodeStore(tmp_path, create=True, pose=("place",))
    store.append(episode(40, place=place, layout=np.zeros((8, 8))))
    clips = store.gather(np.array([0]), np.array([30]), 8)
    assert clips.pose is not None
    assert np.array_equal(clips.pose[0].numpy(), place[30:38])
    assert store.pose_size == 2
    with pytest.raises(InputError, match=r"'layout' is asked for as pose.*'layout', 'place'"):
        EpisodeStore(tmp_path, pose=("layout",)).sample(1, 8, np.random.default_rng(0))


# Files that are none


@pytest.mark.parametrize("kind", ["folder", "link", "loop", "pipe", "empty", "text", "cut", "header", "longer"])
def test_odd_files_are_named_in_one_line(tmp_path: Path, kind: str) -> None:
    store = store_of(tmp_path, [20, 30])
    odd = tmp_path / "odd.episode"
    whole = (tmp_path / store.names[0]).read_bytes()
    if kind == "folder":
        odd.mkdir()
    elif kind == "link":
        odd.symlink_to(tmp_path / "nowhere")
    elif kind == "loop":
        odd.symlink_to(odd)
    elif kind == "pipe":
        os.mkfifo(odd)
    else:
        content = {"empty": b"", "text": b"no episode" * 9, "cut": whole[:-1], "longer": whole + b"x"}
        odd.write_bytes(content.get(kind, whole[:30] + b"?" + whole[31:]))
    with pytest.raises(InputError, match=r"^[^\n]*odd\.episode [^\n]*: [^\n]*$"):
        read_header(odd)
    with pytest.raises(InputError, match=r"^[^\n]*odd\.episode [^\n]*$"):
        EpisodeStore(tmp_path, strict=True)
    lenient = EpisodeStore(tmp_path)
    assert (len(lenient), list(lenient.broken)) == (2, ["odd.episode"])
    assert lenient.sample(3, 5, np.random.default_rng(0)).mask.any()


LIES: dict[str, tuple[str, Any]] = {
    "frames without end": ("image", {"shape": [1 << 30, 64, 64, 3]}),
    "a frame without end": ("image", {"shape": [40, 1 << 20, 1 << 20, 3]}),
    "an action without end": ("action", {"shape": [40, 1 << 30]}),
    "no such number": ("image", {"shape": [1 << 80, 4, 6, 3]}),
    "less than nothing": ("image", {"shape": [-40, 4, 6, 3]}),
    "half a frame": ("image", {"shape": [39.5, 4, 6, 3]}),
    "rows of nothing": ("image", {"rows": 0}),
    "objects": ("reward", {"dtype": "|O"}),
    "code": ("reward", {"dtype": "__import__('os')"}),
    "a dtype of many": ("reward", {"dtype": "i4,i4"}),
    "sizes": ("image", {"sizes": [1, 2]}),
    "size of nothing": ("image", {"sizes": []}),
    "words": ("image", {"sizes": "abc"}),
    "another length": ("reward", {"shape": [39]}),
}


@pytest.mark.parametrize("lie", LIES)
def test_headers_that_lie(tmp_path: Path, lie: str) -> None:
    path = write_episode(tmp_path, episode(40), name="lie.episode")
    key, change = LIES[lie]
    with_header(path, lambda arrays: arrays[key].update(change))
    for read in (read_header, read_episode):
        with pytest.raises(InputError, match=r"^[^\n]*lie\.episode[^\n]*$"):
            read(path)


def test_a_small_file_does_not_fill_the_memory(tmp_path: Path) -> None:
    """Black frames without end compress to nothing."""
    count, chunk = 1 << 14, packed(bytes(16 * 64 * 64 * 3))
    action, reward = np.zeros(16 * count, np.int64), np.zeros(16 * count, np.float32)
    action[0] = -1
    told = {"image": {"dtype": "|u1", "shape": [16 * count, 64, 64, 3], "rows": 16, "sizes": [len(chunk)] * count}}
    body = chunk * count
    for key, array in (("action", action), ("reward", reward)):
        body += (part := packed(array.tobytes()))
        told[key] = {"dtype": array.dtype.str, "shape": [len(array)], "rows": len(array), "sizes": [len(part)]}
    path = tmp_path / "black.episode"
    path.write_bytes(file_of(told, body))
    assert path.stat().st_size < 1 << 20
    with pytest.raises(InputError, match=r"'image' would take 32212.* bytes, and a file of this size no image"):
        read_episode(path)
    clips = EpisodeStore(tmp_path).sample(2, 8, np.random.default_rng(0))  # a clip takes what it takes
    assert not clips.frames.any()


def test_a_window_past_the_end_is_empty(tmp_path: Path) -> None:
    """Wherever in a chunk it would begin: studies read on beside longer episodes."""
    store = store_of(tmp_path, [ROWS - 2])
    for begin in range(ROWS - 1, 2 * ROWS + 2):
        clips = store.gather(np.array([0]), np.array([begin]), 3)
        assert not clips.mask.any(), begin
        assert not clips.frames.any(), begin


def test_a_chunk_does_not_say_itself_how_much_to_allocate(tmp_path: Path) -> None:
    path = write_episode(tmp_path, episode(40))
    told = header_of_file(path)
    sizes, liar = told["image"]["sizes"], packed(bytes(1 << 26))
    content = path.read_bytes()
    begin = 16 + struct.unpack_from("<I", content, 8)[0]
    body = content[begin : len(content) - sum(sizes)] + liar + content[len(content) - sum(sizes[1:]) :]
    told["image"]["sizes"] = [len(liar), *sizes[1:]]
    path.write_bytes(file_of(told, body))
    with pytest.raises(InputError, match="image: a chunk is not of 1152 bytes"):
        read_episode(path)


def test_flipped_bytes_are_found_whatever_they_hit(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 4, 6, 3), np.uint8)
    path = write_episode(tmp_path, replace(episode(40), image=noise))
    content, whole, found = path.read_bytes(), read_episode(path), 0
    for place in range(0, len(content), 37):
        path.write_bytes(content[:place] + bytes([content[place] ^ 0x10]) + content[place + 1 :])
        try:
            back = read_episode(path)
        except InputError:
            found += 1
        else:  # zstd has bits without a meaning
            assert same(back, whole)
    assert found > 0.9 * len(range(0, len(content), 37))


def test_damaged_clips_are_drawn_again_and_named_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = store_of(tmp_path, [40, 40, 40])
    damage(tmp_path / store.names[1])
    fresh, other = EpisodeStore(tmp_path), EpisodeStore(tmp_path, cache_bytes=0)
    seen = set()
    for seed in range(40):
        clips = fresh.sample(1, 20, np.random.default_rng(seed))
        assert torch.equal(clips.frames, other.sample(1, 20, np.random.default_rng(seed)).frames)
        if where(clips)[0][0, 0] == 1:
            assert where(clips)[1].max() < 32  # its whole chunks are of use
        seen.add(int(where(clips)[0][0, 0]))
        fresh.sample_contexts(1, 20, np.random.default_rng(seed))
    assert seen >= {0, 2}
    told = [record.message for record in caplog.records if store.names[1] in record.message]
    assert len(told) == 2  # one for each store
    with pytest.raises(InputError, match=store.names[1]):
        EpisodeStore(tmp_path, strict=True).sample(40, 20, np.random.default_rng(0))
    with pytest.raises(InputError, match=store.names[1]):
        fresh.gather(np.array([1]), np.array([20]), 20)


def test_a_file_that_becomes_whole_is_taken(tmp_path: Path) -> None:
    source = store_of(tmp_path / "a", [20, 30])
    (tmp_path / "b").mkdir()
    content = (tmp_path / "a" / source.names[1]).read_bytes()
    shutil.copy(tmp_path / "a" / source.names[0], tmp_path / "b")
    (tmp_path / "b" / source.names[1]).write_bytes(content[:100])  # as `cp` writes it
    store = EpisodeStore(tmp_path / "b")
    assert (len(store), store.refresh(), list(store.broken)) == (1, 0, [source.names[1]])
    (tmp_path / "b" / source.names[1]).write_bytes(content)
    assert (store.refresh(), len(store), store.broken) == (1, 2, {})


def test_the_odd_one_out_is_left_out(tmp_path: Path) -> None:
    """Not the many, whatever their names."""
    write_episode(tmp_path, episode(9, size=(8, 8)), name="0.episode")
    for number in range(3):
        write_episode(tmp_path, episode(9, number), name=f"{1 + number}.episode")
    store = EpisodeStore(tmp_path)
    assert (store.image_shape, store.names) == ((4, 6), ("1.episode", "2.episode", "3.episode"))
    assert list(store.broken) == ["0.episode"]


# The index


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files whose headers are read, from now on."""
    names: list[str] = []
    header = index.read_header
    monkeypatch.setattr(index, "read_header", lambda path: (names.append(path.name), header(path))[1])
    return names


def test_an_index_saves_opening_files(tmp_path: Path, read: list[str]) -> None:
    store = store_of(tmp_path, [9, 9, 12])
    assert (EpisodeStore(tmp_path).lengths.tolist(), read) == ([9, 9, 12], [])
    (tmp_path / INDEX).unlink()
    assert (EpisodeStore(tmp_path).lengths.tolist(), read) == ([9, 9, 12], list(store.names))
    read.clear()
    again = EpisodeStore(tmp_path)
    assert (again.lengths.tolist(), again.max_action, read) == ([9, 9, 12], 4, [])


def test_what_is_recorded_is_noted(tmp_path: Path, read: list[str]) -> None:
    """By who writes it, and by nobody else: the index file does not grow with the number of readers."""
    readers = [EpisodeStore(tmp_path, create=True) for _ in range(3)]
    with Writers(readers[0]) as writers:
        for number in range(3):
            writers.put(episode(9, number))
    for store in readers:
        assert store.refresh() == 3
    read.clear()
    assert (len(EpisodeStore(tmp_path)), read) == (3, [])
    assert len((tmp_path / INDEX).read_bytes().splitlines()) == 4


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: b"",
        lambda text: b"\x00" * 50,
        lambda text: text[:-20],
        lambda text: text.replace(b"[9", b"[[[[["),
        lambda text: text.replace(b",9,", b',"nine",'),
        lambda text: text.replace(b",9,", b",-9,"),
        lambda text: text.replace(b",9,", b",true,"),
        lambda text: text.replace(b'"frames"', b'"other"'),
        lambda text: text + b"[" * 100_000,
        lambda text: text + b'{"a": 1}\n["x"]\nnull\n',
        lambda text: text.replace(b"[4,6]", b"[4,{}]"),
    ],
)
def test_an_index_that_is_spoilt_is_made_anew(tmp_path: Path, spoil: Callable[[bytes], bytes]) -> None:
    store_of(tmp_path, [9, 9, 12])
    path = tmp_path / INDEX
    path.write_bytes(spoil(path.read_bytes()))
    for _ in range(2):
        assert EpisodeStore(tmp_path, strict=True).lengths.tolist() == [9, 9, 12]


def test_a_file_that_was_replaced_is_read_again(tmp_path: Path, read: list[str]) -> None:
    store = store_of(tmp_path, [9, 12])
    write_episode(tmp_path, episode(20), name=store.names[0])
    assert EpisodeStore(tmp_path).lengths.tolist() == [20, 12]
    assert read == [store.names[0]]
    with pytest.raises(InputError, match=f"{store.names[0]} is not the file that was indexed: open the store again"):
        store.read(store.names[0])


def test_lines_of_files_that_are_gone_do_not_stay(tmp_path: Path) -> None:
    store = store_of(tmp_path, [2] * 120)
    for name in store.names[1:]:
        (tmp_path / name).unlink()
    assert len(EpisodeStore(tmp_path)) == 1
    assert len((tmp_path / INDEX).read_bytes().splitlines()) == 2
    assert EpisodeStore(tmp_path).append(episode(3)).exists()
    assert len(EpisodeStore(tmp_path)) == 2


def test_a_folder_that_cannot_be_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store_of(tmp_path, [9, 9])
    (tmp_path / INDEX).unlink()
    (tmp_path / INDEX).mkdir()  # even root cannot write to that
    assert EpisodeStore(tmp_path).lengths.tolist() == [9, 9]


def test_appending_takes_the_same_time_in_any_store(tmp_path: Path) -> None:
    header = read_header(write_episode(tmp_path, episode(9)))
    index = Index.of({f"{number:06d}": header for number in range(100_000)})
    assert index.ends[-1] == 900_000
    begin = time.process_time()
    for number in range(100_000, 100_500):
        index.add(f"{number:06d}", header)
    assert time.process_time() - begin < 0.25  # building it anew takes a tenth of that each time
    assert (index.ends[-1], index.row("100499"), len(index.names)) == (904_500, 100_499, 100_500)
    index.add("000000x", header)
    assert (index.names[1], index.lengths[1], index.ends[-1]) == ("000000x", 9, 904_509)


def test_a_copy_does_not_see_what_is_appended(tmp_path: Path) -> None:
    """As the thread has one that reads contexts ahead."""
    import copy

    store = store_of(tmp_path, [9, 9])
    other = copy.copy(store)
    store.append(episode(5, 2))
    assert (len(store), len(other), len(other.names)) == (3, 2, 2)


def test_writers_in_threads_lose_nothing(tmp_path: Path) -> None:
    def write(number: int) -> None:
        store = EpisodeStore(tmp_path, create=True)
        for _ in range(10):
            store.append(episode(5, number))

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(EpisodeStore(tmp_path, strict=True)) == 40


def test_what_dead_writers_left_goes_after_an_hour(tmp_path: Path) -> None:
    store = store_of(tmp_path, [9])
    old = [f".{store.names[0]}.{'a' * 32}", ".x.npz.partial", f"{INDEX}.{'b' * 32}"]
    kept = [f".{store.names[0]}.{'c' * 32}", ".converted.jsonl", ".hidden", "notes.partial"]
    for name in old + kept:
        (tmp_path / name).write_bytes(b"half")
        if name != kept[0]:
            os.utime(tmp_path / name, (time.time() - 3700,) * 2)
    EpisodeStore(tmp_path)  # a reader leaves them
    assert {path.name for path in tmp_path.iterdir()} >= set(old)
    EpisodeStore(tmp_path, create=True)
    assert {path.name for path in tmp_path.iterdir()} == {*store.names, INDEX, *kept}


def test_the_cache_is_bounded_whatever_is_read(tmp_path: Path) -> None:
    store_of(tmp_path, [50] * 4)
    store = EpisodeStore(tmp_path, cache_bytes=9000)
    for seed in range(50):
        store.sample(2, 12, np.random.default_rng(seed))
        store.read(store.names[seed % 4])
        kept = store._reader._cache.values()
        assert store._reader._cached == sum(size for _, size in kept) <= 9000
