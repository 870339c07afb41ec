"""Sizes, and the paper's baselines as configuration."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from lssvwm.agents.running.presets import PRESETS as RUNS
from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.config import WorldModelConfig
from lssvwm.worldmodel.config_parts import MAMBA2
from lssvwm.worldmodel.model import WorldModel
from lssvwm.worldmodel.presets import SIZES, VARIANTS, matched, parameters, variant
from runs import ROOT
from worlds import generator, random_actions, random_frames, random_model, small_config


def test_paper_has_two_hundred_million_parameters() -> None:
    with torch.device("meta"):
        model = WorldModel(SIZES["paper"])
    video_and_heads = sum(p.numel() for p in model.parameters()) - sum(p.numel() for p in model.tokenizer.parameters())
    assert video_and_heads == pytest.approx(200e6, rel=0.03)
    assert parameters(SIZES["paper"]) == pytest.approx(200e6, rel=0.03)
    assert model.config.tokens == 256


def test_sizes_grow() -> None:
    counts = [parameters(size) for size in SIZES.values()]
    assert list(SIZES) == ["tiny", "small", "base", "paper"]
    assert all(b > 2 * a for a, b in pairwise(counts))
    assert counts == sorted(counts)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", VARIANTS)
def test_variants_have_as_many_parameters(size: str, name: str) -> None:
    """Within one percent; and a size mixes small and large tiles."""
    assert parameters(variant(SIZES[size], name)) == pytest.approx(parameters(SIZES[size]), rel=0.01)
    areas = {rows * columns for rows, columns in SIZES[size].tiles}
    assert min(areas) == 1
    assert max(areas) >= min(SIZES[size].tokens, 16)


def test_what_the_variants_are() -> None:
    """Design: every comparison is the two mixers of a layer, and what they see."""
    config = SIZES["tiny"]
    assert variant(config, "lssvwm") == config
    found = {name: variant(config, name, window=9) for name in VARIANTS}
    mixers = {name: (v.scan, v.window, v.mixer == MAMBA2, v.forcing) for name, v in found.items()}
    assert mixers == {
        "lssvwm": ("blockwise", 2, False, "teacher"),
        "causal-window": ("none", 9, False, "teacher"),
        "mamba2": ("whole-frame", 0, True, "teacher"),
        "mamba2-local": ("whole-frame", 2, True, "teacher"),
        "causal-full": ("none", None, False, "teacher"),
        "one-tile": ("whole-frame", 2, False, "teacher"),
        "tiles-1x1": ("blockwise", 2, False, "teacher"),
        "paper-mixer": ("blockwise", 2, True, "teacher"),
        "diffusion-forcing": ("blockwise", 2, False, "diffusion"),
        "paper-mixer-and-forcing": ("blockwise", 2, True, "diffusion"),
        "no-clean-prefix": ("blockwise", 2, False, "diffusion"),
    }
    assert variant(config, "tiles-1x1").tiles == ((1, 1),)
    assert variant(config, "no-clean-prefix").context_prob == 0
    assert variant(config, "causal-full").layers > config.layers  # what it lacks in scans it has in depth
    with pytest.raises(InputError, match="unknown variant 'mamba3': choose one of lssvwm"):
        variant(config, "mamba3")


def test_too_small_to_match() -> None:
    with pytest.raises(InputError, match="within 1 %"):
        matched(small_config(), 5_000)


@pytest.mark.parametrize("name", ["lssvwm", "causal-window", "mamba2", "mamba2-local", "causal-full"])
def test_how_far_the_variants_see(name: str) -> None:
    """Changing the first of 8 frames changes the features of the last, unless only a short window was there to see it.

    A window of 1 frame reaches one frame further back with every layer.
    """
    base = small_config(layers=2, window=1, mlp_ratio=2.0)
    config: WorldModelConfig = replace(base, **VARIANTS[name])  # type: ignore[arg-type]
    config = replace(config, window=1) if name == "causal-window" else config
    model, source = random_model(config, 0), generator(1)
    frames = random_frames(config, 1, 8, source=source)
    actions = random_actions(config, 1, 8, source=source)
    other = frames.clone()
    other[:, 0] = 255 - other[:, 0]
    with torch.no_grad():
        (one, _), (two, _) = (model.observe(video, actions) for video in (frames, other))
    assert torch.equal(one.features[:, -1], two.features[:, -1]) == (name == "causal-window")


@pytest.mark.parametrize("name", RUNS)
def test_the_table_of_presets(name: str) -> None:
    """In docs/commands.md."""
    s = RUNS[name]
    recorded = f"{s.collect_frames:,} frames" if s.collect_frames else f"{s.collect_episodes} episodes"
    later = "" if s.later_world_steps is None else f", then {s.later_world_steps}"
    row = (
        f"| `{name}` | `{s.env}` | {s.rounds} | {recorded}, {s.collector} | {s.world_steps:,}{later} | "
        f"{s.dreams} x {s.dreamer.rows} |"
    )
    assert row in (ROOT / "docs" / "commands.md").read_text().splitlines()
