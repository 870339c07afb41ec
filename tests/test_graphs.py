"""Dreaming over buffers that stay, as CUDA graphs want it: the same dreams. On a CPU nothing is recorded."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from lssvwm.worldmodel import InputError, Memory, Sampler, Sampling, WorldModel
from lssvwm.worldmodel.common.rng import Drawn, normal
from lssvwm.worldmodel.cuda_graphs import GraphSampler
from worlds import assert_close, generator, random_model, small_config

ROWS = 3


@pytest.fixture(scope="module", params=[0, 2], ids=["", "dead reckoning"])
def model(request: pytest.FixtureRequest) -> WorldModel:
    return random_model(small_config(dead_reckoning=request.param), 0).eval()


def actions(step: int) -> Tensor:
    return torch.randint(3, (ROWS,), generator=generator(step))


def test_it_dreams_what_the_sampler_dreams(model: WorldModel) -> None:
    """Over its own memory, and over one in which a row was replaced."""
    sampler, own, theirs = Sampler(model, Sampling(2)), generator(1), generator(1)
    graph, memory, plain = GraphSampler(sampler, ROWS), model.empty(ROWS), model.empty(ROWS)
    for step in range(6):
        if step == 3:
            fresh = model.empty(1)
            memory, plain = (m.put(torch.tensor([1]), fresh) for m in (memory, plain))
        one = graph.imagine(actions(step), memory, generator=own, in_place=True)
        two = sampler.imagine(actions(step), plain, generator=theirs)
        memory, plain = one.memory, two.memory
        for name in ("frame", "reward", "termination", "features"):
            assert torch.equal(getattr(one, name), getattr(two, name)), name
        assert_close(memory.state_dict(), plain.state_dict())


def test_what_it_gives_is_the_callers_own(model: WorldModel) -> None:
    """All but the memory with `in_place`, which is written over."""
    graph, source = GraphSampler(Sampler(model, Sampling(1)), ROWS), generator(2)
    first = graph.imagine(actions(0), model.empty(ROWS), generator=source)
    kept = {name: getattr(first, name).clone() for name in ("frame", "reward", "termination", "features")}
    memory = first.memory.clone()
    second = graph.imagine(actions(1), first.memory, generator=source, in_place=True)
    third = graph.imagine(actions(2), second.memory, generator=source, in_place=True)
    for name, value in kept.items():
        assert torch.equal(getattr(first, name), value)
    assert_close(first.memory.state_dict(), memory.state_dict())
    assert third.memory is second.memory
    assert third.memory.frames.tolist() == [3] * ROWS


def test_what_it_refuses(model: WorldModel) -> None:
    graph, source = GraphSampler(Sampler(model, Sampling(1)), ROWS), generator(0)
    with pytest.raises(InputError, match="action 3 is outside the 3 actions"):
        graph.imagine(torch.full((ROWS,), 3), model.empty(ROWS), generator=source)
    with pytest.raises(ValueError, match="as many rows of memory"):
        graph.imagine(actions(0), model.empty(ROWS - 1), generator=source)
    for changes in ({"chunk": 2, "window": 2}, {"window": None}):
        other = random_model(replace(small_config(), **changes), 0)
        with pytest.raises(InputError, match="dream with Sampler"):
            GraphSampler(Sampler(other, Sampling(1)), ROWS)


def test_numbers_that_were_drawn(model: WorldModel) -> None:
    numbers = torch.randn(2, 3)
    assert normal((2, 3), Drawn(numbers), numbers) is numbers
    with pytest.raises(ValueError, match="were drawn"):
        normal((3, 3), Drawn(numbers), numbers)


@pytest.mark.gpu
@pytest.mark.parametrize("reckoning", [0, 2])
def test_a_recorded_step_dreams_what_a_plain_one_dreams(reckoning: int) -> None:
    model = random_model(small_config(dead_reckoning=reckoning), 0).float().cuda().eval()
    sampler, sources = Sampler(model, Sampling(2)), [torch.Generator("cuda").manual_seed(0) for _ in range(2)]
    graph, memories = GraphSampler(sampler, ROWS), [model.empty(ROWS) for _ in range(2)]
    for step in range(6):
        given: list[Memory] = memories
        one = graph.imagine(actions(step).cuda(), given[0], generator=sources[0], in_place=True)
        two = sampler.imagine(actions(step).cuda(), given[1], generator=sources[1])
        memories = [one.memory, two.memory]
        torch.testing.assert_close(one.features, two.features, rtol=1e-3, atol=1e-4)
