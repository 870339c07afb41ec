"""The real world beside the dream, brought to the moment in which the dream begins."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from lssvwm.envs.factory import EnvConfig, FrameEnv, check_programs, make, trusted
from lssvwm.envs.keys import Keys, keys_of
from lssvwm.envs.play.context import PlayContext
from lssvwm.envs.policy import FrameArray
from lssvwm.worldmodel.checkpoint import Checkpoint
from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.config import WorldModelConfig

RECORDED = "recorded"
"""The name for the world in which the checkpoint's episodes were recorded."""
_SAME = 1.0
"""Mean difference of bytes up to which two pictures show the same: renderers round."""


@dataclass(frozen=True)
class RealStep:
    """What a step of the real world told."""

    reward: float
    terminated: bool
    truncated: bool
    seconds: float


def recorded_config(checkpoint: Checkpoint) -> EnvConfig | None:
    """The environment that the checkpoint names, None where it names none."""
    told = checkpoint.world.get("env")
    return EnvConfig.from_dict(told) if isinstance(told, dict) and "id" in told else None


def real_config(name: str, checkpoint: Checkpoint) -> EnvConfig:
    """What `--real NAME` means for this checkpoint: its own world with its own settings, or another."""
    own = recorded_config(checkpoint)
    if name == RECORDED:
        if own is None:
            raise InputError(f"{checkpoint.path} does not say where it was recorded: give --real ENV, a Gymnasium id")
        return trusted(own, str(checkpoint.path))
    if own is not None and name.rpartition(":")[2] == own.id.rpartition(":")[2]:
        check_programs(own, str(checkpoint.path))
        return EnvConfig.from_dict({**own.to_dict(), "id": name})
    height, width = checkpoint.model.config.height, checkpoint.model.config.width
    return EnvConfig(name, size=height if height == width else (height, width))


def known_keys(checkpoint: Checkpoint, real: RealSide | None) -> Keys:
    """The keys of the real world where it is open, else of the world that the checkpoint names."""
    config = recorded_config(checkpoint) if real is None else real.config
    count = checkpoint.model.config.num_actions
    if config is None:
        return keys_of("", count)
    return keys_of(config.id, count, config.actions, None if real is None else real.env)


class RealSide:
    """One real environment. All calls come from one thread: what renders may be bound to it."""

    def __init__(self, config: EnvConfig, model: WorldModelConfig) -> None:
        self.config = config
        self.env: FrameEnv = make(config)
        shape, count = self.env.observation_space.shape, getattr(self.env.action_space, "n", 0)
        if shape != (model.height, model.width, 3) or int(count) != model.num_actions:
            self.env.close()
            raise InputError(
                f"--real {config.id} has frames of {shape} and {count} actions, the model "
                f"{(model.height, model.width, 3)} and {model.num_actions}: name the world that it was trained in"
            )
        self.frame: FrameArray = np.zeros(shape, np.uint8)
        self.notice = ""

    @property
    def fps(self) -> float | None:
        """Frames per second of the world, where it tells them."""
        fps: float | None = self.env.metadata.get("render_fps")
        return fps

    def begin(self, context: PlayContext) -> bool:
        """Play the recorded past again, and note what is wrong with it. Returns whether the world already ended."""
        self.notice, ended = "", False
        if context.seed is None:
            self.frame, _ = self.env.reset(seed=context.number)
            self.notice = "This past was recorded without its seed: the real world begins somewhere else."
            return False
        self.frame, _ = self.env.reset(seed=context.seed)
        for action in context.clips.actions[0, 1:].tolist():
            self.frame, _, terminated, truncated, _ = self.env.step(np.int64(action))
            if ended := terminated or truncated:
                break
        recorded = context.clips.frames[0, -1].numpy()
        apart = float(np.abs(self.frame.astype(np.int16) - recorded).mean())
        if ended or apart > _SAME:
            self.notice = (
                f"Played again from seed {context.seed}, the real world shows another picture than the recording "
                f"(mean difference {apart:.0f} of 255): it was recorded with other settings or another version."
            )
        return ended

    def step(self, action: int) -> RealStep:
        """One step."""
        began = time.perf_counter()
        self.frame, reward, terminated, truncated, _ = self.env.step(np.int64(action))
        return RealStep(float(reward), bool(terminated), bool(truncated), time.perf_counter() - began)
