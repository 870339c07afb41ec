"""The presets: where the defaults of all options come from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from lssvwm.agents.running.settings import (
    CloningOptions,
    DreamerOptions,
    LoopSettings,
    ModelOptions,
    TrainingOptions,
)
from lssvwm.agents.running.settings_file import DERIVED
from lssvwm.envs.factory import is_minigrid
from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.config import WorldModelConfig
from lssvwm.worldmodel.presets import SIZES
from lssvwm.worldmodel.training import HeadsConfig


def _options(config: WorldModelConfig) -> ModelOptions:
    values = {name: value for name, value in config.to_dict().items() if name not in DERIVED["model"]}
    return ModelOptions.from_dict(values)


_MINIGRID = LoopSettings(
    env="MiniGrid-MemoryS7-v0",
    actions=(0, 1, 2),  # turn left, turn right, forward: the only ones that matter in this world
    num_envs=16,
    processes=False,
    model=ModelOptions(patch=28, latent_channels=128, whitening=0.75, noise_mean=1.0, noise_std=1.4, min_noise=0.5),
    training=TrainingOptions(batch=8, length=32),
)

_CORRIDORS = replace(
    _MINIGRID,
    rounds=3,
    collect_episodes=3000,
    collect_frames=25_000,
    explore=0.3,
    world_steps=450,
    heads=HeadsConfig(steps=1000, calibration=300),
    dreams=200,
    # With less entropy all walk straight on before somebody has looked back.
    dreamer=DreamerOptions(entropy=0.03, reset_every=200),
    eval_episodes=100,
)

# Where the next reward is tens of steps away: at 0.97 a ball 38 steps off is worth 0.3, and a step wasted a hundredth,
# which is what entropy would be worth at the usual weight. And were half of the dreams to begin in the first sixteen of
# a thousand frames, the other half would be left for nearly all of real play.
# The critic's slow copy would hold value back for many batches (docs/dreamer.md).
_FAR = DreamerOptions(discount=0.99, entropy=1e-3, episode_start=0.1, slow_target=False, slow_weight=0.0)

# A dreamt frame begins as noise alone. Where actions decide what is seen, that is where they have to be learned, and by
# the usual levels one draw in seventeen is above 0.9: docs/world_model.md, "Noise levels".
_NEAR_NOISE = ModelOptions(patch=16, noise_mean=2.0, noise_std=1.5, min_noise=0.5)

PRESETS: Mapping[str, LoopSettings] = {
    "default": LoopSettings(),
    "minigrid": _CORRIDORS,
    "demo": replace(_CORRIDORS, dreamer=replace(_CORRIDORS.dreamer, rows=32)),  # as well, in less time: docs/memory.md
    "smoke": replace(
        _MINIGRID,
        collect_episodes=24,
        world_steps=60,
        heads=HeadsConfig(steps=200),
        dreams=20,
        eval_episodes=20,
        model=replace(_MINIGRID.model, dim=64, layers=2, features=64, state_size=5),
        dreamer=DreamerOptions(rows=16, horizon=8, context=4),
    ),
    "memory-maze": LoopSettings(
        env="lssvwm/MemoryMaze-9x9-v0",
        model=_NEAR_NOISE,
        training=TrainingOptions(carry=0.95),
        collector="seeker",
        explore=0.2,
        collect_episodes=20,
        world_steps=4000,
        dreams=600,
        dreamer=_FAR,
        cloning=CloningOptions(discount=_FAR.discount),
        eval_episodes=10,
    ),
    "treechop": LoopSettings(
        env="lssvwm/Minetest-Treechop-v0",
        extra_obs=True,
        model=ModelOptions(patch=16),
        training=TrainingOptions(carry=0.95),
        collector="scripted",
        collect_episodes=20,
        world_steps=4000,
        dreams=300,
        # A log takes 28 strikes.
        dreamer=replace(_FAR, horizon=32),
        cloning=CloningOptions(discount=_FAR.discount),
        eval_episodes=10,
    ),
    "tiny": replace(
        _MINIGRID,
        env="lssvwm/MiniGrid-Carpet-v0",
        model=_options(SIZES["tiny"]),
        training=TrainingOptions(batch=2, length=64),
    ),
    **{
        name: LoopSettings(
            env="lssvwm/MemoryMaze-9x9-v0",
            size=size.height,
            model=_options(size),
            world_steps=steps,
            training=replace(training, precision="bfloat16", workers=8),
            dreamer=replace(_FAR, rows=rows),
            cloning=CloningOptions(discount=_FAR.discount),
        )
        # Steps: of the paper's schedule (section 4), and shares of it. Rows: each remembers 24, 414 and 947 MB of its
        # dream, three times over.
        for name, size, steps, rows, training in (
            ("small", SIZES["small"], 20_000, 64, TrainingOptions(batch=16, carry=0.95, length=64, ema=0.999)),
            (
                "base",
                SIZES["base"],
                100_000,
                32,
                TrainingOptions(batch=32, carry=0.9, length=128, ema=0.9999, warmup=1_000),
            ),
            (
                "paper",
                SIZES["paper"],
                400_000,
                16,
                TrainingOptions(batch=32, length=400, ema=0.9999, warmup=10_000),
            ),
        )
    },
}


def preset(name: str, env: str | None = None) -> LoopSettings:
    """The settings of the preset `name`, to be played in the environment id `env` instead of the preset's own.

    What a preset picks of MiniGrid's actions and frames holds in no other world. There the environment has all its own
    actions and runs in processes, frames are cut into sixteen tokens, and "smoke" ends the episodes, which are short in
    MiniGrid, after 100 steps.

    Raises InputError for another name.
    """
    if name not in PRESETS:
        raise InputError(f"unknown preset '{name}': choose one of {', '.join(PRESETS)}")
    settings = PRESETS[name]
    if env is None or settings.actions is None:
        return settings
    if is_minigrid(env):
        if env == settings.env:
            return settings
        frames = replace(settings.model, patch=_MINIGRID.model.patch, tiles=_MINIGRID.model.tiles)
        return replace(settings, env=env, model=frames)  # all but Carpet show 7 x 7 cells
    usual = LoopSettings()
    return replace(
        settings,
        env=env,
        actions=usual.actions,
        num_envs=usual.num_envs,
        processes=usual.processes,
        max_episode_steps=100 if name == "smoke" else usual.max_episode_steps,
        model=replace(settings.model, patch=0, tiles=_MINIGRID.model.tiles),
    )
