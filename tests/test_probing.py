"""Probes find what is there, and nothing in what holds nothing."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch import Tensor

from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.episodes import Episode, EpisodeStore
from lssvwm.worldmodel.evaluation.probing.memory import (
    Sketch,
    probe_memory,
    read_memory,
    read_times,
    split_episodes,
    targets_of,
)
from lssvwm.worldmodel.evaluation.probing.probes import (
    Examples,
    ProbeConfig,
    ProbeKind,
    classes_of,
    fit_basis,
    fit_probe,
)
from lssvwm.worldmodel.evaluation.protocols.clips import draw_windows, read_windows
from places import places_checkpoint, places_store
from worlds import random_clips, random_model, small_config

KINDS = get_args(ProbeKind)
QUICK = ProbeConfig(hidden=48, steps=160, batch=128, lr=3e-3)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def parts(inputs: Tensor, targets: Tensor) -> tuple[Examples, Examples, Examples]:
    cuts = [0, len(inputs) * 3 // 5, len(inputs) * 4 // 5, len(inputs)]
    train, validation, test = (Examples(inputs[a:b], targets[a:b]) for a, b in pairwise(cuts))
    return train, validation, test


def planted(code: Tensor, size: int, noise: float, seed: int = 0) -> Tensor:
    """A code (n, k) written into `size` inputs along random directions, under noise ten times as many inputs wide."""
    source = generator(seed)
    directions = torch.randn(code.shape[1], size, generator=source) / code.shape[1] ** 0.5
    return 3 + code @ directions + noise * torch.randn(len(code), size, generator=source)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [40, 3000])
def test_a_planted_layout_is_found(kind: ProbeKind, size: int) -> None:
    cells = torch.randint(2, (600, 3, 4), generator=generator(1))
    found = fit_probe(kind, *parts(planted(cells.flatten(1).float(), size, 0.05), cells), QUICK)
    assert found.measure == "accuracy"
    assert found.score > 0.97
    assert found.base == pytest.approx(0.5, abs=0.05)
    assert (found.train_examples, found.test_examples) == (360, 120)


@pytest.mark.parametrize("kind", KINDS)
def test_a_planted_position_is_found(kind: ProbeKind) -> None:
    position = 9 * torch.rand(600, 2, 2, generator=generator(1))
    found = fit_probe(kind, *parts(planted(position.flatten(1), 60, 0.01), position), QUICK)
    assert found.measure == "distance"
    assert found.score < (0.05 if kind == "linear" else 0.8)
    assert found.base == pytest.approx(9 * 0.3826, rel=0.08)  # mean distance of a random point to a square's middle


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_found_in_noise(kind: ProbeKind) -> None:
    noise = torch.randn(600, 200, generator=generator(2))
    cells = (torch.rand(600, 5, 5, generator=generator(1)) < 0.3).long()
    found = fit_probe(kind, *parts(noise, cells), QUICK)
    assert found.base == pytest.approx(0.7, abs=0.03)
    assert found.score < found.base + 0.01
    position = 9 * torch.rand(600, 2, generator=generator(1))
    lost = fit_probe(kind, *parts(noise, position), QUICK)
    assert lost.score > 0.93 * lost.base


def test_only_the_mlp_reads_what_is_not_linear() -> None:
    bits = torch.randint(2, (1500, 2), generator=generator(1))
    either = bits[:, 0] ^ bits[:, 1]
    linear, mlp = (fit_probe(kind, *parts(planted(bits.float(), 20, 0.1), either), QUICK) for kind in KINDS)
    assert linear.score < 0.65
    assert mlp.score > 0.95


def test_base_rates_by_hand() -> None:
    inputs = torch.randn(5, 3, generator=generator(0))
    cells = torch.tensor([[0, 7], [0, 7], [1, 2], [0, 2], [1, 9]])
    train, other = Examples(inputs[:3], cells[:3]), Examples(inputs[3:], cells[3:])
    assert fit_probe("linear", train, other, other).base == 0.25  # says 0 and 7; 9 was never seen
    numbers = cells.float()
    train, other = Examples(inputs[:3], numbers[:3]), Examples(inputs[3:], numbers[3:])
    mean = numbers[:3].mean(0)
    expected = torch.linalg.vector_norm(numbers[3:] - mean, dim=-1).mean()
    assert fit_probe("linear", train, other, other).base == pytest.approx(float(expected), rel=1e-5)
    scalars = [Examples(each.inputs, each.targets[:, 1]) for each in (train, other)]
    assert fit_probe("linear", scalars[0], scalars[1], scalars[1]).base == pytest.approx(
        float((numbers[3:, 1] - mean[1]).abs().mean()), rel=1e-5
    )


def test_probes_follow_from_their_seed() -> None:
    cells = torch.randint(2, (200, 3), generator=generator(1))
    data = parts(planted(cells.float(), 30, 1.0), cells)
    before = torch.get_rng_state()
    results = [fit_probe("mlp", *data, ProbeConfig(steps=40, seed=seed)) for seed in (0, 0, 1)]
    assert results[0] == results[1]
    assert torch.equal(before, torch.get_rng_state())


def test_components_lose_nothing_that_training_inputs_show() -> None:
    inputs = torch.randn(20, 100, generator=generator(0)) * torch.linspace(0.1, 50, 100) + 7
    basis = fit_basis(inputs, 512)
    found = basis.apply(inputs)
    assert found.shape == (20, 19)
    scaled = (inputs - inputs.mean(0)) / inputs.std(0)
    ratio = torch.pdist(found) / torch.pdist(scaled)
    torch.testing.assert_close(ratio, ratio[:1].expand_as(ratio), rtol=1e-3, atol=0)
    assert found.square().mean().item() == pytest.approx(1, rel=1e-3)
    assert fit_basis(inputs, 5).apply(inputs).shape == (20, 5)


def test_many_values_are_no_classes() -> None:
    with pytest.raises(InputError, match="takes 100 values"):
        classes_of(torch.arange(100))


def test_sketches_keep_inner_products_and_small_vectors() -> None:
    sketch = Sketch(0, size=2000)
    values = torch.randn(8, 20_000, generator=generator(0))
    values[4:] += values[:4]
    short = sketch("a", values)
    assert short.shape == (8, 2000)
    angle = torch.nn.functional.cosine_similarity(short[:, None], short[None], dim=-1)
    true = torch.nn.functional.cosine_similarity(values[:, None], values[None], dim=-1)
    torch.testing.assert_close(angle, true, rtol=0, atol=0.08)
    assert torch.equal(Sketch(0, size=2000)("a", values), short)
    assert torch.equal(sketch("b", values[:, :2000]), values[:, :2000])


# Memory


@torch.no_grad()
def test_readings_are_those_of_the_memory_after_the_frame() -> None:
    config = small_config()
    clips, model = random_clips(config, [9] * 3, 9, 3), random_model(config, 2)
    found = read_memory(model, clips, [3, 8], Sketch(0), rows=2)
    assert set(found) == {"features", "recall", "state"}
    for read, time in enumerate((3, 8)):
        seen, memory = model.observe(clips.frames[:, : time + 1], clips.actions[:, : time + 1])
        states = [layer.scan.state.flatten(1) for layer in memory.layers if layer.scan is not None]
        for name, expected in (("features", seen.features[:, -1]), ("state", torch.cat(states, 1))):
            torch.testing.assert_close(found[name].view(3, 2, -1)[:, read], expected.float(), rtol=1e-5, atol=1e-6)
        hidden: list[Any] = []
        handle = model.backbone.register_forward_hook(lambda module, given, made, into=hidden: into.append(made.recall))
        model.observe(clips.frames[:, : time + 1], clips.actions[:, : time + 1])
        handle.remove()
        recall = torch.cat([each[:, -1].flatten(1) for each in hidden[0]], 1)
        torch.testing.assert_close(found["recall"].view(3, 2, -1)[:, read], recall.float(), rtol=1e-5, atol=1e-6)


def test_a_model_without_scan_has_features_alone() -> None:
    config = small_config(scan="none")
    found = read_memory(random_model(config, 2), random_clips(config, [9] * 3, 9, 3), [8], Sketch(0))
    assert set(found) == {"features"}


@pytest.mark.parametrize(
    ("context", "reads", "chunk", "expected"),
    [(48, 4, 1, [29, 35, 41, 47]), (10, 2, 5, [4, 9]), (50, 4, 5, [29, 34, 39, 49]), (3, 4, 1, [0, 1, 2])],
)
def test_memory_is_read_over_the_second_half(context: int, reads: int, chunk: int, expected: list[int]) -> None:
    assert read_times(context, reads, chunk) == expected


def test_episodes_are_held_out_whole() -> None:
    for count in (3, 4, 11, 100):
        split = split_episodes(count, np.random.default_rng(0))
        assert sorted(np.concatenate(split).tolist()) == list(range(count))
        assert len(split.test) == len(split.validation) == max(1, count // 5)
    with pytest.raises(InputError, match="3 episodes or more"):
        split_episodes(2, np.random.default_rng(0))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> EpisodeStore:
    return places_store(tmp_path_factory.mktemp("places") / "episodes", episodes=40)


def test_targets_are_those_of_the_frame_or_of_the_episode(store: EpisodeStore) -> None:
    windows = draw_windows(store, 5, 8, np.random.default_rng(0))
    place, home = (targets_of(store, windows, [2, 7], key) for key in ("place", "home"))
    assert (place.dtype, place.shape, home.dtype, home.shape) == (torch.float32, (10, 1), torch.int64, (10,))
    for i, (episode, start) in enumerate(zip(windows.episodes, windows.starts, strict=True)):
        extras = store.read(store.names[episode]).extras
        assert place[2 * i : 2 * i + 2, 0].tolist() == extras["place"][[start + 2, start + 7], 0].tolist()
        assert home[2 * i : 2 * i + 2].tolist() == [int(extras["home"])] * 2


def test_what_cannot_be_probed_for_is_named(store: EpisodeStore, tmp_path: Path) -> None:
    windows = draw_windows(store, 5, 8, np.random.default_rng(0))
    with pytest.raises(InputError, match=r"no extra 'walls' to probe for, only \['colors', 'home', 'name', 'place'\]"):
        targets_of(store, windows, [7], "walls")
    with pytest.raises(InputError, match="'name' is <U9, probes need numbers"):
        targets_of(store, windows, [7], "name")
    mixed = EpisodeStore(tmp_path, create=True)
    for size in (2, 3):
        episode = store.read(store.names[0])
        mixed.append(Episode(*list(vars(episode).values())[:5], extras={"layout": np.zeros((size, size), np.uint8)}))
    with pytest.raises(InputError, match=r"'layout' has shape \(\d, \d\), \(\d, \d\) elsewhere"):
        targets_of(mixed, draw_windows(mixed, 40, 8, np.random.default_rng(0)), [7], "layout")


def test_windows_are_whole_different_and_equally_likely(store: EpisodeStore) -> None:
    every = draw_windows(store, 10_000, 8, np.random.default_rng(0))
    pairs = set(zip(every.episodes.tolist(), every.starts.tolist(), strict=True))
    assert len(pairs) == len(every.starts) == 40 * (30 - 8 + 1)  # all there are, the last frame included
    clips = read_windows(store, every)
    assert clips.mask.all()
    assert int(clips.terminated.sum()) == 20
    first = draw_windows(store, 50, 8, np.random.default_rng(0), start="episode", among=np.array([3, 4, 9]))
    assert sorted(first.episodes.tolist()) == [3, 4, 9]
    assert not first.starts.any()
    some = [draw_windows(store, 5, 8, np.random.default_rng(seed)) for seed in (1, 1, 2)]
    assert some[0].starts.tolist() == some[1].starts.tolist() != some[2].starts.tolist()
    with pytest.raises(InputError, match="longest episode has 30"):
        draw_windows(store, 5, 31, np.random.default_rng(0))


def test_an_untrained_memory_shows_the_frame_and_not_what_nobody_saw(store: EpisodeStore, tmp_path: Path) -> None:
    model = places_checkpoint(tmp_path / "model", store)
    found = probe_memory(model, store, ["colors", "home"], context=4, clips=300, reads=2, config=QUICK, rows=64)
    assert len(found) == 2 * 3 * 2
    results = {(each.target, each.reading, each.result.kind): each.result for each in found}
    for kind in KINDS:
        colors, home = results["colors", "features", kind], results["home", "features", kind]
        assert colors.score > colors.base + 0.15, colors
        assert home.score < 0.75, home


def homes(store: EpisodeStore, windows: Any, times: list[int]) -> Tensor:
    """The number of the episode's home at every read of every window."""
    names = [store.names[number] for number in windows.episodes]
    return torch.tensor([int(store.read(name).extras["home"]) for name in names for _ in times])


def test_what_is_known_later_shows_by_age(store: EpisodeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A memory that holds the home from frame 15 of 20 on: of the second half, reads at 15 and 20 know it."""
    drawn = []

    def noted(store: EpisodeStore, windows: Any) -> Any:
        drawn.append(windows)
        return windows

    def knowing(model: Any, windows: Any, times: list[int], *args: Any, **settings: Any) -> dict[str, Tensor]:
        known = torch.tensor([time + 1 >= 15 for time in times]).repeat(len(windows.episodes))
        home = homes(store, windows, times)
        noise = torch.randn(len(home), 3, generator=generator(1))
        return {"features": torch.cat([noise, (known * (2 * home - 1))[:, None].float() * 3], 1)}

    monkeypatch.setattr("lssvwm.worldmodel.evaluation.probing.memory.read_windows", noted)
    monkeypatch.setattr("lssvwm.worldmodel.evaluation.probing.memory.read_memory", knowing)
    model = random_model(small_config(), 0)
    asked = {"context": 20, "clips": 300, "reads": 4, "whole": True, "config": QUICK}
    linear, mlp = probe_memory(model, store, ["home"], **asked)
    for found in (linear, mlp):
        assert found.ages == (5, 10, 15, 20)
        assert found.result.scores[2:] == (1.0, 1.0)
        assert all(score < 0.9 for score in found.result.scores[:2])
        assert found.result.score == 1.0  # the read at 10 is no part of the second half
    assert all((windows.starts == 0).all() for windows in drawn)
    told = probe_memory(model, store, ["home"], **{**asked, "given": ("home",)})
    assert told[0].result.scores == (1.0, 1.0, 1.0, 1.0)


def test_reads_over_the_whole_context_begin_with_it() -> None:
    assert read_times(1000, 4, 1, whole=True) == [249, 499, 749, 999]
    assert read_times(20, 4, 3, whole=True) == [2, 8, 14, 17]
