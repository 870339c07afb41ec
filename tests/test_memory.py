"""What can be done with the memory of a batch of dreams, on memories that real frames have left."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.config import WorldModelConfig
from lssvwm.worldmodel.layers.attention import HistoryMemory
from lssvwm.worldmodel.layers.memory import Memory
from lssvwm.worldmodel.model import WorldModel
from worlds import (
    assert_close,
    assert_same,
    generator,
    observe_in,
    random_actions,
    random_frames,
    random_model,
    small_config,
)

CONFIGS = {
    "both": small_config(),
    "scan only": small_config(window=0),
    "window only": small_config(scan="none"),
    "history": small_config(window=None),
    "history only": small_config(window=None, scan="none"),
    "path integration": small_config(path_integration=3),
    "dead reckoning": small_config(dead_reckoning=3),
}
BOTH = CONFIGS["both"]


def remembered(config: WorldModelConfig, rows: int, frames: int, seed: int) -> Memory:
    source = generator(seed)
    video = random_frames(config, rows, frames, source=source)
    return observe_in(random_model(config, 0), video, random_actions(config, rows, frames, source=source), [])[1]


@pytest.fixture(params=CONFIGS)
def memories(request: pytest.FixtureRequest) -> tuple[Memory, Memory]:
    """Four rows that have seen five frames, and four others that have seen three."""
    config = CONFIGS[request.param]
    return remembered(config, 4, 5, 1), remembered(config, 4, 3, 2)


def rows_of(memory: Memory) -> list[dict[str, Tensor]]:
    """By row; of a history the frames that the row has seen."""
    histories = [
        f"layers.{i}.{len(layer.tensors()) - back}"
        for i, layer in enumerate(memory.layers)
        for back in (1, 2)
        if isinstance(layer.window, HistoryMemory)
    ]
    rows = []
    for row, frames in enumerate(memory.frames.tolist()):
        tensors = {name: tensor[row] for name, tensor in memory.state_dict().items()}
        rows.append({**tensors, **{name: tensors[name][len(tensors[name]) - frames :] for name in histories}})
    return rows


def assert_rows(memory: Memory, expected: list[dict[str, Tensor]]) -> None:
    assert memory.rows == len(expected)
    for have, want in zip(rows_of(memory), expected, strict=True):
        assert have.keys() == want.keys()
        assert_same(have, want)


def storages(memory: Memory) -> set[int]:
    return {tensor.untyped_storage().data_ptr() for tensor in memory.state_dict().values()}


def test_the_memories_differ(memories: tuple[Memory, Memory]) -> None:
    """Or else the tests below would show nothing."""
    a, b = memories
    assert a.rows == 4
    assert a.frames.tolist() == [5] * 4
    assert b.frames.tolist() == [3] * 4
    every = rows_of(a) + rows_of(b)
    for name, tensor in every[0].items():
        if name != "frames":
            others = [other[name] for other in every[1:]]
            assert all(tensor.shape != other.shape or bool((tensor != other).any()) for other in others), name


def test_select(memories: tuple[Memory, Memory]) -> None:
    a, _ = memories
    rows = rows_of(a)
    assert_rows(a.select(torch.tensor([2, 0, 2, 3, 1])), [rows[i] for i in (2, 0, 2, 3, 1)])
    assert_rows(a.select(torch.tensor([3])), [rows[3]])
    assert_rows(a.select(torch.tensor([False, True, False, True])), [rows[1], rows[3]])
    assert storages(a.select(torch.arange(4))).isdisjoint(storages(a))


@pytest.mark.parametrize("mask", [[True, False, False, True], [True] * 4, [False] * 4])
def test_where(memories: tuple[Memory, Memory], mask: list[bool]) -> None:
    a, b = memories
    expected = [x if choose else y for choose, x, y in zip(mask, rows_of(a), rows_of(b), strict=True)]
    assert_rows(a.where(torch.tensor(mask), b), expected)


def test_where_copies_what_is_not_a_number(memories: tuple[Memory, Memory]) -> None:
    """A row that has gone wrong does not touch the others: the mask chooses, it does not multiply."""
    a, b = memories
    for name, tensor in b.state_dict().items():
        tensor[1] = 3 if name == "frames" else torch.nan
    mask = torch.tensor([True, True, False, True])
    merged = a.where(mask, b)
    assert_rows(merged, [rows_of(a)[0], rows_of(a)[1], rows_of(b)[2], rows_of(a)[3]])


def test_put(memories: tuple[Memory, Memory]) -> None:
    a, b = memories
    before = rows_of(a.clone())
    new = b.select(torch.tensor([3, 0]))
    assert_rows(a.put(torch.tensor([0, 2]), new), [rows_of(b)[3], before[1], rows_of(b)[0], before[3]])
    assert_rows(a, before)
    assert_rows(a.put(torch.tensor([], dtype=torch.int64), b.select(torch.zeros(4, dtype=torch.bool))), before)


def test_cat(memories: tuple[Memory, Memory]) -> None:
    """Histories of unequal length too."""
    joined = Memory.cat(memories)
    assert joined.rows == sum(memory.rows for memory in memories)
    for memory, rows in zip(memories, (slice(memories[0].rows), slice(memories[0].rows, None)), strict=True):
        assert_same(joined.select(rows), memory)
    assert Memory.cat(memories[:1]) is memories[0]


def test_emptied(memories: tuple[Memory, Memory]) -> None:
    """Rows have seen nothing, even where what they held is no number."""
    memory = memories[0]
    rows = torch.arange(memory.rows) == 1
    spoilt = memory.where(~rows, memory._map(lambda t: torch.full_like(t, torch.nan) if t.is_floating_point() else t))
    emptied = spoilt.emptied(rows)
    assert_same(emptied.select(~rows), memory.select(~rows))
    assert not any(bool(tensor[rows].any()) for tensor in emptied.state_dict().values())


def test_clone_shares_nothing(memories: tuple[Memory, Memory]) -> None:
    a, _ = memories
    before = rows_of(a.clone())
    copy = a.clone()
    assert_rows(copy, before)
    assert storages(copy).isdisjoint(storages(a))
    for tensor in copy.state_dict().values():
        tensor.zero_()
    assert_rows(a, before)


def test_detach() -> None:
    model, source = random_model(BOTH, 0), generator(1)
    latents = model.encode(random_frames(BOTH, 2, 3, source=source))
    actions = random_actions(BOTH, 2, 3, source=source)
    memory = model.backbone(latents, torch.zeros(2, 3, dtype=latents.dtype), actions, model.empty(2)).memory
    assert any(tensor.requires_grad for tensor in memory.state_dict().values())
    cut = memory.detach()
    assert not any(tensor.requires_grad for tensor in cut.state_dict().values())
    assert_rows(cut, rows_of(memory))


def test_to(memories: tuple[Memory, Memory]) -> None:
    a, _ = memories
    assert_rows(a.to("cpu"), rows_of(a))
    moved = a.to(torch.device("meta"))
    assert {tensor.device.type for tensor in moved.state_dict().values()} == {"meta"}
    assert [t.shape for t in moved.state_dict().values()] == [t.shape for t in a.state_dict().values()]


def test_nbytes_counted_by_hand() -> None:
    """Per row: two layers of 4 and 8 tiles, a ring of 2 frames of 8 tokens, and the count of frames."""
    conv = BOTH.conv - 1
    scan = (conv * (2 * 32 + 2 * 4) + 10 * 2 * 32) * (4 + 8)  # 4 entries of B and C make 10 products
    window = 2 * 2 * (2 * 8 * 32)
    assert remembered(BOTH, 3, 4, 0).nbytes == 3 * (8 * (scan + window) + 8)


@pytest.mark.parametrize("config", [CONFIGS[name] for name in ("both", "scan only", "window only")])
def test_size_does_not_depend_on_history(config: WorldModelConfig) -> None:
    """Neither by its own count nor by the storage that it keeps alive."""
    sizes = set()
    for frames in (1, 2, 30):
        memory = remembered(config, 2, frames, 0)
        kept = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in memory.state_dict().values()}
        sizes.add((memory.nbytes, sum(kept.values())))
    assert len(sizes) == 1, sizes


def test_a_history_grows_by_the_frame() -> None:
    """Two layers of keys and values of 8 tokens; nothing else grows, in bytes held or kept alive."""
    sizes = {}
    for frames in (1, 2, 9):
        memory = remembered(CONFIGS["history"], 2, frames, 0)
        kept = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in memory.state_dict().values()}
        sizes[frames] = memory.nbytes
        assert sum(kept.values()) == memory.nbytes
    assert sizes[2] - sizes[1] == 2 * 2 * 2 * 8 * 32 * 8
    assert sizes[9] - sizes[2] == 7 * (sizes[2] - sizes[1])


def slots(memory: Memory) -> set[int]:
    return {layer.slots for layer in memory.layers}


def test_a_history_drops_what_no_row_needs() -> None:
    """Else it would go on growing in an environment whose rows begin anew at different times."""
    model = random_model(CONFIGS["history"], 0)
    old, young = remembered(CONFIGS["history"], 4, 5, 1), remembered(CONFIGS["history"], 4, 3, 2)
    mixed = old.where(torch.tensor([True, False, False, False]), young)
    assert slots(mixed) == {5}
    assert slots(mixed.select(torch.tensor([1, 3]))) == {3}
    assert slots(mixed.select(torch.tensor([False] * 4))) == {0}
    assert slots(mixed.put(torch.tensor([0]), model.empty(1))) == {3}
    assert slots(model.empty(2).put(torch.tensor([1]), old.select(torch.tensor([2])))) == {5}
    assert slots(old.where(torch.tensor([False] * 4), young)) == {3}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_rows_of_unequal_length_go_on_as_each_alone(config: WorldModelConfig) -> None:
    model, source = random_model(config, 0), generator(3)
    old, young = remembered(config, 4, 5, 1), remembered(config, 4, 1, 2)
    mixed = young.put(torch.tensor([2]), old.select(torch.tensor([0]))).put(torch.tensor([1]), model.empty(1))
    frames, actions = random_frames(config, 4, 3, source=source), random_actions(config, 4, 3, source=source)
    seen, after = observe_in(model, frames, actions, [1], mixed)
    alone = [(0, young.select(torch.tensor([0]))), (1, model.empty(1)), (2, old.select(torch.tensor([0])))]
    for row, memory in alone:
        expected, expected_after = observe_in(model, frames[row : row + 1], actions[row : row + 1], [1], memory)
        assert_close(seen.features[row], expected.features[0])
        assert_close(rows_of(after)[row], rows_of(expected_after)[0])


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_existing_leaves_out_empty_slots_alone(config: WorldModelConfig) -> None:
    memory = remembered(config, 2, 1, 0)
    shorter = memory.existing()
    for layer, full in zip(shorter.layers, memory.layers, strict=True):
        assert layer.slots == min(1, full.slots)
        if layer.window is not None and full.window is not None:
            assert_same(layer.window, type(full.window)(*(v[:, -1:] for v in full.window)))
    assert random_model(config, 0).empty(2).existing().layers[0].slots == 0


def test_snapshot_round_trip(memories: tuple[Memory, Memory], tmp_path: Path) -> None:
    """Through a file, into a memory of another number of rows."""
    a, b = memories
    save_file(a.state_dict(), tmp_path / "memory.safetensors")
    loaded = b.select(torch.tensor([0])).load_state_dict(load_file(tmp_path / "memory.safetensors"))
    assert_rows(loaded, rows_of(a))
    assert {name: t.dtype for name, t in loaded.state_dict().items()} == {
        name: t.dtype for name, t in a.state_dict().items()
    }


def test_a_snapshot_goes_on_where_it_stood() -> None:
    model, source = random_model(BOTH, 0), generator(3)
    frames, actions = random_frames(BOTH, 2, 6, source=source), random_actions(BOTH, 2, 6, source=source)
    _, memory = observe_in(model, frames[:, :4], actions[:, :4], [])
    loaded = random_model(BOTH, 9).empty(2).load_state_dict(memory.clone().state_dict())
    expected = observe_in(model, frames[:, 4:], actions[:, 4:], [], memory)
    seen, after = observe_in(model, frames[:, 4:], actions[:, 4:], [], loaded)
    assert_same(seen, expected[0])
    assert_same(after, expected[1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: {k: v for k, v in d.items() if k != "layers.1.0"}, "layers.1.0"),
        (lambda d: {**d, "layers.2.0": d["layers.1.0"]}, "layers.2.0"),
        (lambda d: {k: v for k, v in d.items() if k != "frames"}, "frames"),
        (lambda d: {**d, "layers.0.1": d["layers.0.1"][..., :-1]}, "layers.0.1"),
        (lambda d: {**d, "layers.0.2": d["layers.0.2"][:, :1]}, "layers.0.2"),
        (lambda d: {**d, "layers.0.0": d["layers.0.0"][:2]}, "layers.0.0|rows"),
        (lambda d: {**d, "frames": d["frames"].double()}, "frames"),
    ],
    ids=["missing", "unknown", "no count", "state size", "window", "rows differ", "dtype"],
)
def test_a_snapshot_that_does_not_fit(change: Any, message: str) -> None:
    memory = remembered(BOTH, 3, 4, 0)
    with pytest.raises(InputError, match=message):
        memory.load_state_dict(change(memory.state_dict()))


@pytest.mark.parametrize("name", ["layers.0.2", "layers.1.3"])
def test_a_snapshot_of_a_history_that_lacks_frames(name: str) -> None:
    memory = remembered(CONFIGS["history"], 3, 4, 0)
    snapshot = memory.state_dict()
    with pytest.raises(InputError, match=name):
        memory.load_state_dict({**snapshot, name: snapshot[name][:, 1:]})


def test_a_snapshot_of_another_architecture() -> None:
    other: WorldModel = random_model(small_config(layers=3), 0)
    with pytest.raises(InputError, match=r"layers\.2"):
        other.empty(3).load_state_dict(remembered(BOTH, 3, 4, 0).state_dict())
