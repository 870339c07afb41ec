"""How a model is computed: chosen by name or by device, reported once, and the same whatever was chosen."""

from __future__ import annotations

import copy
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.layers.mamba import BlockwiseMamba
from lssvwm.worldmodel.layers.runtime import Chosen, Runtime, choose_attention, choose_scan
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

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"scan": "cuda"}, r"scan='cuda' is not one of \('auto', 'torch', 'triton'\)"),
        ({"attention": "flash"}, r"attention='flash' is not one of \('auto', 'sdpa', 'flex'\)"),
        ({"window": -1}, "window=-1"),
    ],
)
def test_choices_that_do_not_exist(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Runtime(**values)


def test_on_cpu_auto_is_torch() -> None:
    model = random_model(small_config(), 0)
    assert model.backbone.runtime == Runtime()
    assert model.backbone.chosen == Chosen("torch", "sdpa")


def test_use_reaches_every_layer_and_copies() -> None:
    model = random_model(small_config(window=4), 0)
    model.backbone.use(Runtime(scan="torch", attention="flex", window=2))
    for backbone in (model.backbone, copy.deepcopy(model).backbone):
        assert backbone.chosen == Chosen("torch", "flex")
        for layer in backbone._layers:
            assert layer.scan.choice == "torch"
            assert layer.attention.choice == "flex"
            assert layer.attention.rule.window == 2


def test_a_kernel_asked_for_by_name_does_not_fall_back() -> None:
    """And nothing has changed after the refusal."""
    model = random_model(small_config(), 0).float()
    with pytest.raises(InputError, match="scan='triton' runs on CUDA, the tensors are on cpu"):
        model.backbone.use(Runtime(scan="triton", attention="flex"))
    assert model.backbone.runtime == Runtime()
    assert {layer.attention.choice for layer in model.backbone._layers} == {"auto"}


def test_small_heads_are_not_for_flex() -> None:
    assert choose_attention("auto", "cuda", torch.bfloat16, 8) == "sdpa"
    assert choose_attention("auto", "cuda", torch.bfloat16, 16) == "flex"
    assert choose_attention("auto", "cuda", torch.float64, 16) == "sdpa"
    with pytest.raises(InputError, match="wants heads of at least 16 channels"):
        choose_attention("flex", "cuda", torch.bfloat16, 8)


def test_auto_on_cuda_is_the_kernel_but_in_float64() -> None:
    """The kernels are installed where the tests run, see `make kernels`."""
    assert choose_scan("auto", "cuda", torch.bfloat16) == "triton"
    assert choose_scan("auto", "cuda", torch.float64) == "torch"


def test_auto_on_cuda_without_the_kernel_says_so() -> None:
    program = (
        "import importlib.util as u, logging, torch; find = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name == 'mamba_ssm' else find(name, *a)\n"
        "logging.basicConfig(level=logging.INFO)\n"
        "from lssvwm.worldmodel.layers.runtime import choose_scan\n"
        "print(choose_scan('auto', 'cuda', torch.float32))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "torch\n"
    assert "plain torch on CUDA: the Triton scan needs the packages mamba_ssm" in done.stderr
    assert "make cuda" in done.stderr


def test_what_was_chosen_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "lssvwm.worldmodel.layers.runtime"):
        for _ in range(3):
            choose_scan("torch", "cpu", torch.float16)
    assert [record.getMessage() for record in caplog.records] == [
        "scan on cpu in torch.float16: torch (asked for: torch)"
    ]


def test_a_window_without_attention() -> None:
    with pytest.raises(InputError, match="window=2: this model has no attention"):
        random_model(small_config(window=0), 0).backbone.use(Runtime(window=2))


@torch.no_grad()
def test_looking_back_less_far_is_a_model_of_a_smaller_window() -> None:
    """Same weights, same outputs; in segments, frame by frame, and for a model that remembers everything."""
    source = generator(1)
    small = random_model(small_config(window=1), 0)
    frames = random_frames(small.config, 2, 6, source=source)
    actions = random_actions(small.config, 2, 6, source=source)
    expected, _ = observe_in(small, frames, actions, [])
    for window in (2, None):
        model = random_model(small_config(window=window), 0)
        model.backbone.use(Runtime(window=1))
        for cuts in ([], [2], [1, 2, 3, 4, 5]):
            assert_close(observe_in(model, frames, actions, cuts)[0], expected)


@pytest.mark.parametrize("window", [5, None])
def test_chunks_come_whole(window: int | None) -> None:
    config = small_config(chunk=5, window=window)
    model, source = random_model(config, 0), generator(1)
    frames, actions = random_frames(config, 2, 10, source=source), random_actions(config, 2, 10, source=source)
    whole, memory = observe_in(model, frames, actions, [])
    parts, after = observe_in(model, frames, actions, [5])
    assert_close(parts, whole)
    assert_close(after, memory)
    with pytest.raises(InputError, match="3 frames for a model of chunk=5"):
        model.observe(frames[:, :3], actions[:, :3])


def test_the_scan_compiles_into_one_graph() -> None:
    """What is chosen is a constant to torch.compile; logging would break the graph."""
    config = small_config()
    module = BlockwiseMamba(config, (2, 1))
    x = torch.randn(2, 3, config.tokens, config.dim, generator=generator(0))
    compiled = torch.compile(module, fullgraph=True, backend="eager")
    with torch.no_grad():
        assert_same(compiled(x, module.empty(2, x)).out, module(x, module.empty(2, x)).out)


def test_importing_the_package_does_not_import_the_compiler() -> None:
    """It takes seconds, and every worker process would pay them."""
    program = "import sys, worldmodel; print([m for m in ('triton', 'torch._dynamo', 'mamba_ssm') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr
