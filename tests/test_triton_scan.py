"""The scan by the kernels of mamba-ssm: on CPU in Triton's interpreter, on CUDA where there is one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from kernel_cases import CASES, compare, relative
from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.layers.mamba import BlockwiseMamba
from lssvwm.worldmodel.layers.scan import scan
from lssvwm.worldmodel.layers.triton_scan import INDEX_LIMIT, load_kernel, scan_triton
from worlds import generator, randomised, small_config

ROOT = Path(__file__).parent.parent
NAMES = {"y", "state", "dx", "ddt", "dA", "dB", "dC"}
GPU = {torch.float32: 1e-2, torch.bfloat16: 3e-2}  # products of float32 are taken in TF32 there


@pytest.fixture(scope="module")
def interpreted() -> dict[str, Any]:
    """All cases in one process of their own. Without the kernels this fails, and says what to do."""
    load_kernel()
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": path}
    script = subprocess.run(
        [sys.executable, ROOT / "tests" / "kernel_cases.py"], env=environment, capture_output=True, text=True
    )
    assert script.returncode == 0, script.stderr[-3000:]
    found: dict[str, Any] = json.loads(script.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("name", CASES)
def test_the_kernel_equals_torch(name: str, interpreted: dict[str, Any]) -> None:
    errors = interpreted["errors"][name]
    assert set(errors) >= NAMES
    assert ("dD" in errors) == CASES[name].skip
    assert ("dstart" in errors) == (not CASES[name].zeros)
    assert {k: v for k, v in errors.items() if not v < 1e-5} == {}


def test_importing_the_kernel_leaves_no_crippled_package(interpreted: dict[str, Any]) -> None:
    assert interpreted["modules left"] == []


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", GPU)
@pytest.mark.parametrize("name", CASES)
def test_the_kernel_equals_torch_on_cuda(name: str, dtype: torch.dtype) -> None:
    errors = compare(CASES[name], "cuda", dtype)
    assert {k: v for k, v in errors.items() if not v < GPU[dtype]} == {}


@pytest.mark.gpu
def test_more_sequences_than_the_grid_has_room_for() -> None:
    """70,000 sequences of two chunks each: the kernels alone would fail."""
    source = generator(0)
    b, length, h, p, n = 70_000, 17, 1, 16, 16
    x, B, C = (torch.randn(b, length, *rest, generator=source).cuda() for rest in ((h, p), (n,), (n,)))
    dt, A = torch.rand(b, length, h, generator=source).cuda(), -torch.ones(h).cuda()
    state = torch.randn(b, n, h, p, generator=source).cuda()
    y, after = scan_triton(x, dt, A, B, C, None, state, chunk=16)
    expected = scan(*(v.double() for v in (x, dt, A, B, C)), None, state.double(), choice="torch")
    assert relative(y, expected.y.cpu()) < GPU[torch.float32]
    assert relative(after, expected.state.cpu()) < GPU[torch.float32]


@pytest.mark.gpu
def test_autocast_on_cuda() -> None:
    """A layer in mixed precision, by the kernel and in torch: half precision passes by, the memory keeps 32 bits."""
    config = small_config(dim=64)
    module = randomised(lambda: BlockwiseMamba(config, (2, 1)), 0).float().cuda()
    x = torch.randn(2, 5, config.tokens, config.dim, generator=generator(1)).cuda()
    found = []
    for choice in ("torch", "triton"):
        module.choice = choice  # type: ignore[assignment]
        with torch.autocast("cuda", torch.bfloat16):
            out = module(x, module.empty(2, x))
        assert out.memory.state.dtype == torch.float32
        found.append((out.out, out.recall, out.memory.state, *torch.autograd.grad(out.out.sum(), module.parameters())))
    for ours, theirs in zip(*reversed(found), strict=True):
        assert relative(ours, theirs.cpu().double()) < 5e-2


def tiny(dtype: torch.dtype = torch.float32, length: int = 2) -> tuple[torch.Tensor, ...]:
    shapes = ((1, length, 1, 4), (1, length, 1), (1,), (1, length, 3), (1, length, 3))
    return tuple(torch.ones(shape, dtype=dtype) for shape in shapes)


def test_asked_for_by_name_it_does_not_fall_back() -> None:
    with pytest.raises(InputError, match=r"scan='triton' runs on CUDA, the tensors are on cpu"):
        scan(*tiny(), None, choice="triton")


def test_float64_is_not_for_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with pytest.raises(InputError, match="float64"):
        scan(*tiny(torch.float64), None, choice="triton")


def test_one_sequence_that_is_too_long() -> None:
    """Addresses of 32 bits; nothing is computed, a tensor that is expanded needs no storage."""
    load_kernel()
    x, dt, A, B, _ = tiny()
    x = torch.empty(1, device="meta").expand(1, INDEX_LIMIT // 2, 1, 4)
    dt, B = (torch.empty(1, device="meta").expand(1, INDEX_LIMIT // 2, *v.shape[2:]) for v in (dt, B))
    state = torch.empty(1, 3, 1, 4, device="meta")
    with pytest.raises(InputError, match="too long for the Triton scan"):
        scan_triton(x, dt, A, B, B, None, state)


def test_without_the_package_the_error_names_it_and_the_fix() -> None:
    """In a process that finds everything but mamba_ssm and einops."""
    program = (
        "import importlib.util as u, sys; find = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name in ('mamba_ssm', 'einops') else find(name, *a)\n"
        "from lssvwm.worldmodel.layers.triton_scan import load_kernel\n"
        "load_kernel()"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert "MissingExtraError: the Triton scan needs the packages mamba_ssm, einops" in done.stderr
    assert "make cuda" in done.stderr
