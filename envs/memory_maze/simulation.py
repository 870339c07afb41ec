"""Memory Maze without the overhead of dm_control: the same task, physics and OpenGL calls, hence the same bits.

What dm_control's composer does in each of 50 physics steps of one action, and around every frame, costs several times
what MuJoCo and OpenGL do. Here one loop steps the physics and looks for touched balls, observations are computed once
per action, and the frame is drawn in the calling thread from a scene that is kept, without what lies outside the view.
Everything that uses random numbers (maze, textures, positions, targets) is the task's own code.

Import this after MUJOCO_GL is set.
"""

from __future__ import annotations

import atexit
import contextlib
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple
from xml.etree import ElementTree

import mujoco
import numpy as np
from dm_control import _render as gl
from dm_control import composer, mjcf
from numpy.typing import NDArray

from lssvwm.envs.memory_maze.view import View
from lssvwm.envs.policy import FrameArray

_CAMERA = "walker/egocentric"
_HIDDEN_GROUP = 5  # of the groups of geoms that MuJoCo does not draw


class Outcome(NamedTuple):
    """What an action led to, besides what `look` shows."""

    reward: float
    over: bool


class StockWorld:
    """The same through dm_control as it is: the reference that `FastWorld` equals."""

    environment: Any = None

    def load(self, build: Callable[[], Any]) -> None:
        """Play the world that `build` makes, with the observations that are asked for."""
        self.close()
        self._world = build()
        self.environment = innermost(self._world)

    def reset(self) -> Any:
        """Start the next episode; returns its first observation."""
        self._seen = self._world.reset().observation
        return self._seen

    def step(self, action: int) -> Outcome:
        """One action."""
        time_step = self._world.step(action)
        self._seen = time_step.observation
        return Outcome(float(time_step.reward), time_step.last())

    def look(self) -> Any:
        """What the last step led to: a frame, or the dictionary of `MemoryMaze` with extra observations."""
        return self._seen

    def close(self) -> None:
        """Free the world and its OpenGL context."""
        if self.environment is not None:
            self.environment.close()
        self.environment = None


class FastWorld:
    """Plays worlds of `memory_maze.tasks`, one after the other; frames are (r, r, 3) with r = `resolution`."""

    environment: Any = None  # dm_control's, of the world that is played

    def __init__(self, resolution: int, extra_obs: bool) -> None:
        self._extra_obs = extra_obs
        self._resolution = resolution
        self._screen: _Screen | None = None

    def load(self, build: Callable[[], Any]) -> None:
        """Play the world that `build` makes, with image observations, from the next `reset` on."""
        self._leave()
        with _uncompiled():
            world = build()
        self._actions: list[NDArray[np.float64]] = world.action_set
        self.environment = innermost(world)
        self._task = self.environment.task
        for observable in self._task.observables.values():
            observable.enabled = False
        self.environment._recompile_physics = self._compile

    def reset(self) -> Any:
        """Start the next episode, as dm_control does; returns its first observation."""
        self.environment.reset()
        physics = self.environment._physics
        self._model, self._data = physics.model.ptr, physics.data.ptr
        self._is_ball = np.zeros(self._model.ngeom, np.bool_)
        self._is_ball[[ball._geom_id for ball in self._task._targets]] = True
        self._body = physics.bind(self._task._walker.root_body).element_id
        if self._screen is None:
            self._screen = _Screen(self._resolution)
        self._screen.show(self._model, self._data)
        return self.look()

    def step(self, action: int) -> Outcome:
        """One action, 50 physics steps."""
        environment, physics, model, data = self.environment, self.environment._physics, self._model, self._data
        environment._hooks.before_step(physics, self._actions[action], environment.random_state)
        with physics.check_invalid_state():
            for _ in range(environment._n_sub_steps):
                mujoco.mj_step2(model, data)
                mujoco.mj_step1(model, data)
                touched = data.contact.geom[: data.ncon]
                if self._is_ball[touched].any():
                    self._activate(touched)
        environment._hooks.after_step(physics, environment.random_state)
        if physics.is_dirty:
            physics.forward()  # the first observable that reads a position does this in dm_control
        over = self._task.should_terminate_episode(physics) or physics.time() >= environment._time_limit
        return Outcome(float(self._task.get_reward(physics)), bool(over))

    def close(self) -> None:
        """Free the physics and the OpenGL context."""
        self._leave()
        if self._screen is not None:
            self._screen.close()
        self._screen = None

    def _leave(self) -> None:
        if getattr(self.environment, "_physics", None) is not None:
            self.environment.close()

    def _compile(self) -> None:
        """As `Environment._recompile_physics`, without the textures that nothing wears: 70 of 88, each a megapixel."""
        if hasattr(self.environment, "_physics"):
            self.environment._physics.free()
        model = self._task.root_entity.mjcf_model
        xml = ElementTree.fromstring(model.to_xml_string())
        worn = {material.get("texture") for material in xml.iter("material")}
        for assets in xml.findall("asset"):
            for texture in assets.findall("texture"):
                if texture.get("name") not in worn and texture.get("type") != "skybox":
                    assets.remove(texture)
        text = ElementTree.tostring(xml, encoding="unicode")
        self.environment._physics = mjcf.Physics.from_xml_string(text, assets=model.get_assets())
        self.environment._physics.legacy_step = self.environment._legacy_step

    def _activate(self, touched: NDArray[np.int32]) -> None:
        # As `TargetSphere._update_activation` for balls that anything may touch, which these are. The binding matters:
        # reading it makes MuJoCo solve for accelerations again, and the next physics step starts from that solution.
        for ball in self._task._targets:
            if not ball._activated and (touched == ball._geom_id).any():
                ball._activated = True
                self.environment._physics.bind(ball._material).rgba[-1] = 0

    def look(self) -> Any:
        """What is seen now, drawn: a frame, or the dictionary of `MemoryMaze` with extra observations."""
        assert self._screen is not None
        frame = self._screen.frame()
        color = self._task._target_colors[self._task._current_target_ix]
        border, paint = int(2 * np.sqrt(self._resolution // 64)), color * 255 * 0.7
        for edge in (np.s_[:, :border], np.s_[:, -border:], np.s_[:border], np.s_[-border:]):
            frame[edge] = paint
        return {"image": frame, "target_color": color.copy(), **self._positions()} if self._extra_obs else frame

    def _positions(self) -> dict[str, NDArray[Any]]:
        arena, data = self._task._maze_arena, self._data
        scale, center = arena.xy_scale, np.array([arena.maze.width - 2.0, arena.maze.height - 2.0]) / 2.0
        position, heading = data.xpos[self._body], data.xmat[self._body].reshape(3, 3)
        balls = [data.geom_xpos[ball._geom_id] for ball in self._task._targets]
        targets_vec = np.array([np.dot(ball - position, heading)[:2] / scale for ball in balls])
        targets_pos = np.array([ball[:2] / scale + center for ball in balls])
        wanted = self._task._current_target_ix
        layout = np.flip(arena.maze.entity_layer[1:-1, 1:-1], 0)
        return {
            "agent_pos": position[:2] / scale + center,
            "agent_dir": heading[:2, 1].copy(),
            "targets_vec": targets_vec,
            "targets_pos": targets_pos,
            "target_vec": targets_vec[wanted].copy(),
            "target_pos": targets_pos[wanted].copy(),
            "maze_layout": np.isin(layout, (" ", "P", "G")).astype(np.uint8),
        }


class _Screen:
    """Draws what the agent's camera sees, in the calling thread. One OpenGL context, for all episodes of a world."""

    def __init__(self, resolution: int) -> None:
        self._side = resolution
        self._rect = mujoco.MjrRect(0, 0, resolution, resolution)
        self._pixels = np.empty((resolution, resolution, 3), np.uint8)
        self._option = mujoco.MjvOption()
        self._perturbation = mujoco.MjvPerturb()
        # The handles live in this list alone, so that they go while OpenGL can still be called, at exit too.
        self._handles = [mujoco.GLContext(resolution, resolution)]
        self._free = weakref.finalize(self, _free, self._handles)
        self._free.atexit = False
        atexit.register(self._free)  # after EGL registered its own end, so before it

    def show(self, model: Any, data: Any) -> None:
        """From now on draw this world."""
        _make_current(self._handles[0])
        while len(self._handles) > 1:
            self._handles.pop().free()
        model.vis.global_.offwidth = model.vis.global_.offheight = self._side
        drawing = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_150)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, drawing)
        self._handles.append(drawing)
        self._model, self._data = model, data
        self._scene = mujoco.MjvScene(model, max(1000, 4 * model.ngeom))
        self._camera = mujoco.MjvCamera()
        self._camera.type = mujoco.mjtCamera.mjCAMERA_FIXED
        self._camera.fixedcamid = model.camera(_CAMERA).id
        self._groups = model.geom_group.copy()
        self._view = View(model, data, self._camera.fixedcamid)

    def frame(self) -> FrameArray:
        """The current view, (r, r, 3)."""
        self._model.geom_group[:] = np.where(self._view.visible(), self._groups, _HIDDEN_GROUP)
        everything = mujoco.mjtCatBit.mjCAT_ALL.value
        mujoco.mjv_updateScene(
            self._model, self._data, self._option, self._perturbation, self._camera, everything, self._scene
        )
        context, drawing = self._handles
        _make_current(context)
        mujoco.mjr_render(self._rect, self._scene, drawing)
        mujoco.mjr_readPixels(self._pixels, None, self._rect, drawing)
        return self._pixels[::-1].copy()

    def close(self) -> None:
        self._free()
        atexit.unregister(self._free)


def _make_current(context: Any) -> None:
    context.make_current()
    # With EGL, dm_control would go on thinking that a context of its own is current in this thread.
    theirs = gl.base._CURRENT_CONTEXT_FOR_THREAD.pop(threading.current_thread(), None)
    gl.base._CURRENT_THREAD_FOR_CONTEXT.pop(theirs, None)


def _free(handles: list[Any]) -> None:
    _make_current(handles[0])
    while handles:
        handles.pop().free()


def innermost(world: Any) -> Any:
    """The environment of dm_control in the wrappers of `memory_maze`."""
    while not isinstance(world, composer.Environment):
        world = world.env
    return world


@contextlib.contextmanager
def _uncompiled() -> Iterator[None]:
    """Environments made meanwhile do not compile their world: `reset` makes another one anyway."""
    name = "_recompile_physics_and_update_observables"
    setattr(composer.Environment, name, lambda environment: None)  # of its base class, so that it can be taken back
    try:
        yield
    finally:
        delattr(composer.Environment, name)
