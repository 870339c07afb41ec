"""What the dream promises, on the device: one memory however it was read, rows of their own, exact replay."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from benchmarks.gpu.sheet import Setting, Sheet
from benchmarks.gpu.worlds import config_of, model_of, noise_episodes
from lssvwm.envs.dream import DreamVectorEnv
from lssvwm.worldmodel import Checkpoint

LIMIT = {"float32": 1e-2, "bfloat16": 5e-2}
"""Largest difference over the largest entry."""


@torch.no_grad()
def segments(setting: Setting, sheet: Sheet) -> None:
    """A video observed whole, in segments and frame by frame."""
    config = config_of("memory-maze", setting)
    model, frames = model_of(config, setting), 21 if setting.rehearse else 203
    source = torch.Generator().manual_seed(0)
    video = torch.randint(256, (2, frames, config.height, config.width, 3), dtype=torch.uint8, generator=source)
    actions = torch.randint(config.num_actions, (2, frames), generator=source)
    video, actions = video.to(setting.device), actions.to(setting.device)
    ways = {"whole": [frames], "in segments": [1, frames // 3, frames - 1 - frames // 3], "by frames": [1] * frames}
    for precision, limit in LIMIT.items():
        found = {}
        for way, lengths in ways.items():
            memory, features, begin = model.empty(2), [], 0
            for length in lengths:
                part = slice(begin, begin + length)
                with torch.autocast(setting.device, torch.bfloat16, enabled=precision == "bfloat16"):
                    seen, memory = model.observe(video[:, part], actions[:, part], memory)
                features.append(seen.features.float())
                begin += length
            found[way] = {"features": torch.cat(features, 1), **memory.state_dict()}
        for way in ("in segments", "by frames"):
            errors = {
                name: float((found[way][name] - whole).abs().max() / whole.abs().max().clamp(min=1e-6))
                for name, whole in found["whole"].items()
                if whole.is_floating_point()
            }
            sheet.at_most(f"{precision}, {way}: features", errors.pop("features"), limit)
            sheet.at_most(f"{precision}, {way}: memory", max(errors.values()), limit)
            dtypes = {str(v.dtype) for k, v in found[way].items() if v.is_floating_point()}
            sheet.true(f"{precision}, {way}: memory has 32 bits", dtypes == {"torch.float32"})


def rows(setting: Setting, sheet: Sheet) -> None:
    """Rows of a dream whose neighbours do something else, and a snapshot taken up again."""
    config = config_of("memory-maze", setting)
    model, store = model_of(config, setting), noise_episodes(setting.shared / "rows", config, 32)
    checkpoint = Checkpoint(model, {"num_actions": config.num_actions}, 0, setting.shared)

    def make(count: int) -> DreamVectorEnv:
        how: dict[str, Any] = {"device": setting.device, "max_episode_steps": 6, "context_length": 4}
        how["profile"] = "balanced"  # bfloat16 on CUDA
        return DreamVectorEnv(count, checkpoint=checkpoint, contexts=store.root, **how)

    source = np.random.default_rng(0)
    actions = source.integers(config.num_actions, size=(12, 8))
    other = source.integers(config.num_actions, size=(12, 8))
    other[:, 3] = actions[:, 3]
    one, two = make(8), make(8)
    first, _ = one.reset(seed=list(range(8)))
    second, _ = two.reset(seed=[50 + row if row != 3 else 3 for row in range(8)])
    same = np.array_equal(first[3], second[3])
    for mine, theirs in zip(actions, other, strict=True):
        a, b = one.step(mine), two.step(theirs)
        same &= all(np.array_equal(x[3], y[3]) for x, y in zip(a[:4], b[:4], strict=True))
    sheet.true("row 3 of 8 is the same whatever its neighbours do", bool(same))

    alone = make(1)
    alone.reset(seed=[3])
    one.reset(seed=list(range(8)))
    apart = 0.0
    for mine in actions[:5]:
        a, b = one.step(mine), alone.step(mine[3:4])
        apart = max(apart, float(np.abs(a[0][3].astype(float) - b[0][0]).max()))
    sheet.at_most("row 3 of 8 and the same alone differ in pixels by", apart, 8.0)

    state = one.get_state()
    before = [one.step(mine)[:4] for mine in actions]
    one.set_state(state)
    after = [one.step(mine)[:4] for mine in actions]
    replayed = all(np.array_equal(x, y) for a, b in zip(before, after, strict=True) for x, y in zip(a, b, strict=True))
    sheet.true("a snapshot replays bit for bit", replayed)
