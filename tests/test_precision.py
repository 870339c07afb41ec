"""What keeps its digits where layers compute in 16 bits, and the policy for products of 32."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from lssvwm.worldmodel import WorldModel
from lssvwm.worldmodel.checkpoint import device_of
from lssvwm.worldmodel.common.precision import Full, use_policy
from lssvwm.worldmodel.layers import mamba, teacher_forcing
from worlds import generator, random_clips, random_model, small_config

ROOT = Path(__file__).parent.parent
LENGTHS, FRAMES = (9, 9), 9


@pytest.fixture
def model() -> WorldModel:
    return random_model(small_config(), 0).float()


def clips() -> Any:
    return random_clips(small_config(), LENGTHS, FRAMES, 0)


def test_states_and_time_constants_keep_32_bits(model: WorldModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the scan is given and gives under autocast, in training, observing and dreaming."""
    seen: set[tuple[str, torch.dtype]] = set()
    scan = mamba.scan

    def noted(x: Any, dt: Any, A: Any, B: Any, C: Any, D: Any, state: Any, **how: Any) -> Any:
        found = scan(x, dt, A, B, C, D, state, **how)
        parts = {"x": x, "dt": dt, "A": A, "state": state, "after": found.state}
        seen.update((name, part.dtype) for name, part in parts.items())
        return found

    monkeypatch.setattr(mamba, "scan", noted)
    monkeypatch.setattr(teacher_forcing, "scan", noted)  # in training
    given = clips()
    with torch.autocast("cpu", torch.bfloat16):
        model.train().loss(given, generator(0))
        _, memory = model.eval().observe(given.frames, given.actions)
        memory = model.imagine(given.actions[:, 1], memory, steps=2, generator=generator(1)).memory
    kept = {(name, torch.float32) for name in ("dt", "A", "state", "after")}
    assert seen == kept | {("x", torch.bfloat16)}
    assert {v.dtype for v in memory.state_dict().values()} == {torch.float32, torch.int64}


def test_losses_predictions_and_features_keep_32_bits(model: WorldModel) -> None:
    given = clips()
    with torch.autocast("cpu", torch.bfloat16):
        losses = model.train().loss(given, generator(0))
        torch.autograd.backward(losses.total)
        seen, memory = model.eval().observe(given.frames, given.actions)
        imagined = model.imagine(given.actions[:, 1], memory, steps=2, generator=generator(1))
        predicted = model.denoise(torch.randn(2, 3, model.config.dim).bfloat16())
    told = [
        losses.total,
        losses.diffusion,
        losses.reward,
        losses.termination,
        seen.features,
        seen.reward,
        seen.termination,
        predicted,
    ]
    told += [imagined.features, imagined.reward, imagined.termination]
    told += [p.grad for p in model.parameters() if p.grad is not None]
    assert {v.dtype for v in told} == {torch.float32}


def test_autocast_computes_nearly_the_same(model: WorldModel) -> None:
    given = clips()
    model.eval()
    found = []
    for half in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            found.append(model.observe(given.frames, given.actions)[0])
    full, half = found
    assert not torch.equal(full.features, half.features)
    for name in ("features", "reward", "termination"):
        wanted = getattr(full, name)
        assert float((getattr(half, name) - wanted).abs().max() / wanted.abs().max()) < 0.1, name


def test_full_is_a_sequence_of_layers_that_autocast_leaves_alone() -> None:
    layers = [torch.nn.Linear(3, 4), torch.nn.SiLU(), torch.nn.Linear(4, 2)]
    x = torch.randn(5, 3)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = torch.nn.Sequential(*layers)(x)
        full = Full(*layers)(x)
    assert rounded.dtype == torch.bfloat16
    assert torch.equal(full, torch.nn.Sequential(*layers)(x))
    assert list(Full(*layers).state_dict()) == list(torch.nn.Sequential(*layers).state_dict())


def test_one_place_decides_how_products_are_rounded() -> None:
    for switch in (use_policy, lambda: device_of("cpu")):
        torch.backends.cuda.matmul.allow_tf32 = False
        switch()
        assert torch.backends.cuda.matmul.allow_tf32
    files = [path for folder in ("worldmodel", "envs", "agents") for path in (ROOT / folder).rglob("*.py")]
    switches = re.compile(r"allow_tf32|float32_matmul_precision|fp32_precision")
    assert [path.name for path in files if switches.search(path.read_text())] == ["precision.py"]


@pytest.mark.gpu
def test_products_of_float32_are_rounded_to_tf32() -> None:
    use_policy()
    a, b = (torch.randn(256, 256, device="cuda", dtype=torch.float64) for _ in range(2))
    error = float(((a.float() @ b.float()).double() - a @ b).abs().max() / (a @ b).abs().max())
    assert 1e-5 < error < 1e-2
