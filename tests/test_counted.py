"""Random numbers by counting: Philox as published, rows of their own, dreams that replay."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dreams import actions_of, dream_folder, roll, vec
from lssvwm.envs.dream import DreamState
from lssvwm.envs.dream import seeding as chance
from lssvwm.worldmodel import InputError
from lssvwm.worldmodel.common.philox import MULTIPLIERS, ROUNDS, WEYL, WORD, Counted, normals, philox
from lssvwm.worldmodel.common.rng import normal

CPU = torch.device("cpu")
LIKE = torch.zeros(())


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [
        ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ],
)
def test_known_answers(counter: str, key: str, words: str) -> None:
    """Those of Random123 for philox4x32-10."""
    given = [torch.tensor([[int(word, 16)] for word in text.split()]) for text in (counter, key)]
    assert " ".join(f"{int(word):08x}" for word in philox(*given)) == words


def reference(counter: list[int], key: list[int]) -> list[int]:
    """The paper's pseudocode with whole numbers of Python."""
    for _ in range(ROUNDS):
        high, low = zip(*(divmod(counter[2 * i] * MULTIPLIERS[i], 2**32) for i in range(2)), strict=True)
        counter = [high[1] ^ counter[1] ^ key[0], low[1], high[0] ^ counter[3] ^ key[1], low[0]]
        key = [(k + w) % 2**32 for k, w in zip(key, WEYL, strict=True)]
    return counter


def test_words_are_those_of_the_reference() -> None:
    source = np.random.default_rng(0)
    counters, keys = source.integers(2**32, size=(4, 20)), source.integers(2**32, size=(2, 20))
    found = philox(torch.from_numpy(counters), torch.from_numpy(keys)).T.tolist()
    assert found == [reference(c, k) for c, k in zip(counters.T.tolist(), keys.T.tolist(), strict=True)]


def test_numbers_are_normal() -> None:
    """Moments, both tails, and pairs that are not related."""
    x = Counted(8, CPU).normal((8, 50_000), LIKE).double().flatten()
    for power, moment in enumerate((0.0, 1.0, 0.0, 3.0), 1):
        spread = {1: 1.0, 2: 2**0.5, 3: 15**0.5, 4: 96**0.5}[power]
        assert abs(float((x**power).mean()) - moment) < 5 * spread / len(x) ** 0.5
    assert abs(float((x > 1.96).double().mean()) - 0.025) < 0.002
    assert abs(float((x[:-1] * x[1:]).mean())) < 0.01
    ends = torch.tensor([[0, WORD], [0, WORD], [WORD, 0], [WORD, 0]])
    assert bool(normals(ends).isfinite().all())


def seeded(*seeds: int) -> Counted:
    counted = Counted(len(seeds), CPU)
    for row, seed in enumerate(seeds):
        counted.seed(row, seed)
    counted.begin(np.arange(len(seeds)))
    return counted


def test_a_row_follows_from_seed_dream_and_step() -> None:
    shape, high = (3, 2, 5), 2**62 + 7
    rows, alone = seeded(1, high, 2), seeded(high)
    for step in range(3):
        many = rows.normal(shape, LIKE, torch.tensor([True, True, step == 1]))
        assert torch.equal(many[1], alone.normal((1, 2, 5), LIKE)[0])
        assert bool((many[2] == 0).all()) == (step != 1)
    assert rows.steps.tolist() == [3, 3, 1]
    rows.begin(np.array([1]))
    second = rows.normal(shape, LIKE)[1]
    alone.begin(np.array([0]))
    assert torch.equal(second, alone.normal((1, 2, 5), LIKE)[0])
    drawn = [seeded(seed).normal((1, 40), LIKE) for seed in (1, 2, 1 + 2**32)]
    drawn += [seeded(1).derived().normal((1, 40), LIKE), second.reshape(1, 10).repeat(1, 4)]
    assert len({float(one.sum()) for one in drawn}) == len(drawn)


def test_a_derived_source_leaves_it_as_it_is() -> None:
    one, two = seeded(5), seeded(5)
    one.derived().normal((1, 8), LIKE)
    assert torch.equal(normal((1, 8), one, LIKE), normal((1, 8), two, LIKE))


def test_a_state_goes_on() -> None:
    one, two = seeded(5, 6), Counted(2, CPU)
    one.normal((2, 3), LIKE)
    two.load(one.state())
    assert torch.equal(one.normal((2, 3), LIKE), two.normal((2, 3), LIKE))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return dream_folder(tmp_path_factory.mktemp("run"))


@pytest.fixture
def counting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Environments that count, as they do on other devices."""
    monkeypatch.setattr(chance, "noise_for", Counted)


@pytest.mark.usefixtures("counting")
def test_dreams_by_counting(folder: Path, tmp_path: Path) -> None:
    """Rows are their own, uncertainty changes nothing, and a state from a file replays."""
    options: dict[str, Any] = {"max_episode_steps": 4, "terminate": "never"}
    actions = actions_of(3, 7)
    frames, rewards = roll(vec(folder, **options), [4, 5, 6], actions)
    again, _ = roll(vec(folder, uncertainty="draws", **options), [4, 5, 6], actions)
    assert np.array_equal(frames, again)
    others, _ = roll(vec(folder, **options), [1, 5, 2], np.stack([actions[:, 1]] * 3, 1))
    assert np.array_equal(frames[:, 1], others[:, 1])
    assert not np.array_equal(frames[:, 0], others[:, 0])

    env = vec(folder, **options)
    env.reset(seed=[4, 5, 6])
    for action in actions[:3]:
        env.step(action)
    env.get_state().save(tmp_path / "state")
    there = vec(folder, **options)
    there.set_state(DreamState.load(tmp_path / "state"))
    for step, action in enumerate(actions[3:], 3):
        seen, reward, *_ = there.step(action)
        assert np.array_equal(seen, frames[step + 1])
        assert np.array_equal(reward, rewards[step])


def test_noise_of_another_kind_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    env = vec(folder)
    env.reset(seed=0)
    state = env.get_state()
    monkeypatch.setattr(chance, "noise_for", Counted)
    with pytest.raises(InputError, match=r"'chance\.noise' of the state is torch\.uint8"):
        vec(folder).set_state(state)


@pytest.mark.gpu
def test_a_device_counts_as_a_cpu_does() -> None:
    source = np.random.default_rng(0)
    given = [torch.from_numpy(source.integers(2**32, size=(words, 1000))) for words in (4, 2)]
    there = philox(*(each.cuda() for each in given))
    assert torch.equal(there.cpu(), philox(*given))
    torch.testing.assert_close(normals(there).cpu(), normals(philox(*given)), rtol=1e-4, atol=1e-5)
