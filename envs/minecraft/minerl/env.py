"""MineRL tasks as Gymnasium environments, whichever of its versions is installed in its own interpreter."""

from __future__ import annotations

import copy
import logging
import os
import time
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from PIL import Image

from lssvwm.envs.minecraft.actions import BUTTONS, ActionSet, action_set
from lssvwm.envs.minecraft.minerl import protocol
from lssvwm.envs.minecraft.minerl.client import Worker, WorkerConfig, WorkerFailed, find_python
from lssvwm.envs.minecraft.minerl.ids import TASKS
from lssvwm.envs.minecraft.minerl.spaces import Extras, action_space, read_action
from lssvwm.envs.policy import FrameArray
from lssvwm.worldmodel.common.errors import InputError

PORT_VARIABLE = "LSSVWM_MALMO_PORT"
"""A Malmo server of this machine to play on; without it MineRL launches a Minecraft of its own."""

_SEEDS = 2**31
_logger = logging.getLogger(__name__)


class MineRLError(RuntimeError):
    """MineRL does not start an episode, and has been tried often enough. The message has the reason and its log."""


class MineRLEnv(gym.Env[Any, Any]):
    """A task of MineRL: `minerl` plays in a worker process, with the interpreter that `make minerl` builds.

    Observation: the view `pov` as (size, size, 3) uint8. With `extra_obs` a dictionary of `image` and of all else that
    the task observes, under flat names: `compass.angle` () float32 degrees, `inventory` (n,) int64 counts of the items
    that `env.items` names, `equipped_items.mainhand.type` a number whose meaning `env.choices` lists.

    Actions: an action set of `envs.minecraft.actions` by name, Discrete; or "dict", MineRL's own dictionary (buttons
    0 or 1, `camera` (2,) degrees [pitch, yaw] a tick, choices such as `craft` by number or name; what is left out is
    not done). Buttons of a set that the task does not have are not pressed: `env.unused_buttons` names them. A tick is
    a twentieth of a second.

    Episodes end as MineRL's do: terminated by what happened (in the BASALT tasks of 1.0.x also by the button ESC),
    truncated by the time limit of the task. `reset(seed=s)` gives the seed s itself to Minecraft, for one episode;
    without a seed it is drawn from the environment's generator. Minecraft is not deterministic beyond that.

    A worker or Minecraft that crashed, hung, lost its connection or outgrew its memory limit is killed with all its
    processes. The episode is then truncated, with the reason in `info["error"]`, reward 0 and the observation of the
    step before; after a good step, which outgrowing the limit is, with the reason in `info["cut"]`. The next `reset`
    starts another.

    task: a name of `envs.minecraft.minerl.ids.TASKS`. size: side of the frame in pixels, the mean over the area of
        `pov` (64x64, or 360x640 in 1.0.x; the aspect ratio is not kept); None keeps `pov`.
    port: play on the Malmo server that listens there; default LSSVWM_MALMO_PORT, else MineRL launches Minecraft.
    python: the interpreter with `minerl`; default LSSVWM_MINERL_PYTHON, else `.venv-minerl/bin/python`.
    worker: time and memory limits.

    Raises InputError for an unknown task, set, action or interpreter, and for a task that the installed version does
    not have; MineRLError from `reset` when no episode starts.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}  # noqa: RUF012 (gymnasium declares it so)

    def __init__(
        self,
        task: str = "Treechop",
        *,
        size: int | None = 64,
        actions: str = "treechop",
        extra_obs: bool = False,
        port: int | None = None,
        python: str | None = None,
        worker: WorkerConfig | None = None,
        render_mode: str | None = None,
    ) -> None:
        if task not in TASKS:
            raise InputError(f"there is no MineRL task '{task}': choose one of {', '.join(TASKS)}")
        if size is not None and size < 1:
            raise InputError(f"MineRL has size {size}: give the side in pixels, 1 or more, or None")
        if render_mode not in (None, "rgb_array"):
            raise InputError(f"MineRL has no render mode '{render_mode}': choose rgb_array or None")
        chosen = None if actions == "dict" else action_set(actions)
        self._task = TASKS[task]
        self._size = size
        self._port = _find_port(port)
        self._python = find_python(python)
        self._config = worker or WorkerConfig()
        self._extra_obs = extra_obs
        self._last: FrameArray | None = None
        self._last_extras: dict[str, Any] = {}
        self._over = True
        self._steps = 0
        self.render_mode = render_mode
        self._worker: Worker | None = None
        try:
            # The spaces are those of the installed version, so it has to be asked.
            self._worker = self._start()
        except WorkerFailed as failure:
            raise MineRLError(f"MineRL does not start: {failure}\n{failure.log}") from failure
        self.about: protocol.Ready = self._worker.ready
        self._extras = Extras(self.about.observation)
        self.items = self._extras.items
        self.choices = {name: entry.choices for name, entry in self.about.action.items() if entry.kind == "choice"}
        self.choices |= self._extras.choices
        self.unused_buttons: tuple[str, ...] = ()
        self.action_names: tuple[str, ...] = ()
        self._table: list[dict[str, Any]] = []
        if chosen is None:
            self.action_space: spaces.Space[Any] = action_space(self.about.action)
        else:
            self._offer(chosen)
        height, width = self.about.frame if size is None else (size, size)
        image = spaces.Box(0, 255, (height, width, 3), np.uint8)
        self.observation_space = spaces.Dict({"image": image, **self._extras.spaces}) if extra_obs else image

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode, with a new worker where the last one failed. No options, no info."""
        if seed is not None and seed >= 2**63:
            raise InputError(f"the seed {seed} is too large for Minecraft: give one below 2**63")
        super().reset(seed=seed)
        world = int(self.np_random.integers(_SEEDS)) if seed is None else int(seed)
        reason = ""
        for attempt in range(self._config.attempts):
            if attempt:
                time.sleep(self._config.retry_pause)
            try:
                self._worker = self._worker or self._start()
                answer = self._worker.reset(world)
            except WorkerFailed as failure:
                self._discard(failure)
                reason = f"{failure}\n{failure.log}"
                continue
            if self._worker.ready != self.about:
                raise MineRLError(f"{self._python} has another MineRL now, {self._worker.ready}: make the env anew")
            self._show(answer.frame, answer.observed)
            self._over, self._steps = False, 0
            return self._observation(), {}
        where = "launching Minecraft" if self._port is None else f"on the Malmo server at port {self._port}"
        raise MineRLError(f"no episode of {self._task.env_id} in {self._config.attempts} attempts, {where}: {reason}")

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Act for one tick."""
        if self._over or self._worker is None:
            raise gym.error.ResetNeeded("this episode is over or never began: call reset() before step()")
        request = self._translate(action)
        try:
            answer = self._worker.step(request)
        except WorkerFailed as failure:
            self._discard(failure)
            return self._observation(), 0.0, False, True, {"error": str(failure)}
        self._show(answer.frame, answer.observed)
        self._steps += 1
        observed = answer.observed
        self._over = observed.done
        terminated, truncated = observed.done and not observed.over_time, observed.over_time
        info: dict[str, Any] = {}
        excess = self._excess()
        if excess is not None:
            self._discard(excess)
            truncated = not terminated
            info["cut"] = str(excess)  # not an error: this step was good
        return self._observation(), float(observed.reward), terminated, truncated, info

    def render(self) -> FrameArray | None:
        """The current frame, or None without a render mode."""
        if self.render_mode is None:
            return None
        if self._last is None:
            raise gym.error.ResetNeeded("there is no frame to render yet: call reset() first")
        return self._last.copy()

    def close(self) -> None:
        """End the worker, and the Minecraft that it launched."""
        self._over = True
        if self._worker is not None:
            self._worker.close()
            self._worker = None

    def _start(self) -> Worker:
        try:
            return Worker(self._python, self._task.env_id, self._port, self._config)
        except InputError as error:
            versions = " and ".join(self._task.versions)
            raise InputError(f"{error} ({self._task.env_id} is a task of minerl {versions}: docs/minerl.md)") from error

    def _discard(self, failure: WorkerFailed) -> None:
        self._over = True
        _logger.warning("%s starts anew: %s\n%s", self._task.env_id, failure, failure.log)
        if self._worker is not None:
            self._worker.close(kill=True)
            self._worker = None

    def _excess(self) -> WorkerFailed | None:
        limit = self._config.memory_limit
        if limit is None or self._worker is None or self._steps % self._config.memory_every:
            return None
        used = self._worker.memory() >> 20
        return WorkerFailed(f"MineRL used {used} MiB of memory, memory_limit is {limit}", "") if used > limit else None

    def _translate(self, action: Any) -> dict[str, Any]:
        if not self._table:
            return read_action(action, self.about.action)
        if not self.action_space.contains(action):
            raise InputError(f"the action is {action!r}: give one of 0..{len(self._table) - 1}, {self.action_names}")
        return self._table[int(action)]

    def _offer(self, chosen: ActionSet) -> None:
        pressed = {name for number in range(len(chosen)) for name in chosen[number]}
        self.unused_buttons = tuple(sorted(pressed.intersection(BUTTONS).difference(self.about.action)))
        for number in range(len(chosen)):
            known = {name: value for name, value in chosen[number].items() if name not in self.unused_buttons}
            self._table.append(read_action(known, self.about.action))
        self.action_names = chosen.names
        self.action_space = spaces.Discrete(len(chosen))

    def _show(self, frame: FrameArray, observed: protocol.Observed) -> None:
        if self._size is not None and frame.shape != (self._size, self._size, 3):
            # BOX is the mean over the area when it shrinks and the nearest pixel when it grows.
            frame = np.array(Image.fromarray(frame).resize((self._size, self._size), Image.Resampling.BOX))
        self._last = frame
        if self._extra_obs:
            self._last_extras = self._extras.read(observed.values)

    def _observation(self) -> Any:
        assert self._last is not None
        if not self._extra_obs:
            return self._last.copy()
        return {"image": self._last.copy(), **copy.deepcopy(self._last_extras)}


def _find_port(port: int | None) -> int | None:
    named = os.environ.get(PORT_VARIABLE) if port is None else str(port)
    if not named:
        return None
    if not named.isdigit() or not 0 < int(named) < 1 << 16:
        raise InputError(f"the port of the Malmo server is '{named}' (port=, or {PORT_VARIABLE}): give 1..65535")
    return int(named)
