"""Frames (h, w, 3) uint8 out of whatever an environment shows, and beside them the numbers that it tells."""

from __future__ import annotations

import functools
import logging
import multiprocessing as mp
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs
from numpy.typing import NDArray
from PIL import Image

from lssvwm.envs.policy import FrameArray
from lssvwm.worldmodel.common.errors import InputError

_log = logging.getLogger(__name__)

_OURS = {
    "image",
    "action",
    "reward",
    "terminated",
    "truncated",
    "seed",
    "recording",
    "first_frame",
    "goes_on",
    "inverse_actions",
    "fps",
    "file",
}
"""Names in episode files that are not the environment's to give."""

_NUMERIC = (spaces.Box, spaces.Discrete, spaces.MultiBinary, spaces.MultiDiscrete)

_Change = tuple[str, Callable[[NDArray[Any]], NDArray[Any]]]
"""What is done to an image, in words and as a function."""


@dataclass(frozen=True)
class Conversion:
    """What turns the images of a space into frames (h, w, 3) uint8 of `shape`; nothing where `changes` is empty."""

    shape: tuple[int, int, int]
    changes: tuple[_Change, ...]

    def __str__(self) -> str:
        return ", ".join(words for words, _ in self.changes)

    def __call__(self, image: NDArray[Any]) -> FrameArray:
        """The frame that `image` shows; it may share its memory."""
        for _, change in self.changes:
            image = change(image)
        return image


def conversion(space: spaces.Space[Any]) -> Conversion | None:
    """How the images of `space` become frames, or None where it has no images.

    Images have values from 0 to 1 or from 0 to 255 of any type, and one of these shapes:

        (h, w), (h, w, 1), (1, h, w)        grey, which is repeated
        (h, w, 3), (3, h, w)                colors
        (h, w, 4)                           colors with alpha, which is dropped
        (k, ...) of the above               stacked frames, of which the last is taken; (4, h, w) is such a stack
        (h, w, 3 k)                         colors stacked along the channels, of which the last three are taken
    """
    if not isinstance(space, spaces.Box):
        return None
    values, layout = _values(space), _layout(space.shape)
    if values is None or layout is None:
        return None
    found = Conversion((0, 0, 3), (*layout, *values))
    height, width, _ = found(space.low).shape
    return Conversion((height, width, 3), found.changes)


def _layout(shape: tuple[int, ...]) -> list[_Change] | None:
    grey: _Change = ("grey repeated", lambda image: np.repeat(image[..., None], 3, axis=-1))
    if len(shape) == 2:
        return [grey]
    if len(shape) == 3:
        if shape[2] in (1, 3, 4):
            alpha: _Change = ("alpha dropped", lambda image: image[..., :3])
            single: _Change = ("grey repeated", lambda image: np.repeat(image, 3, axis=-1))
            return {1: [single], 3: [], 4: [alpha]}[shape[2]]
        if shape[0] in (1, 3):
            return [
                ("channels last", lambda image: np.moveaxis(image, 0, -1)),
                *(_layout((*shape[1:], shape[0])) or []),
            ]
        if shape[2] % 3 == 0 and shape[2] < min(shape[:2]):
            return [(f"the last of {shape[2] // 3} frames", lambda image: image[..., -3:])]
    rest = _layout(shape[1:]) if len(shape) in (3, 4) and (len(shape) == 4 or shape[0] < min(shape[1:])) else None
    return None if rest is None else [(f"the last of {shape[0]} frames", lambda image: image[-1]), *rest]


def _values(space: spaces.Box) -> list[_Change] | None:
    low, high = float(np.min(space.low)), float(np.max(space.high))
    if space.dtype == np.uint8 and high > 1:
        return []
    if low < 0 or high > 255:
        return None
    scale, top = (255, 1) if high <= 1 else (1, 255)

    def to_bytes(image: NDArray[Any]) -> FrameArray:
        if not (image.min() >= -0.01 * top and image.max() <= 1.01 * top):  # rounding is forgiven, NaN is not
            raise InputError(f"an image has values {image.min()} to {image.max()}, its space says 0 to {top}")
        return np.clip(np.rint(image * np.float32(scale)), 0, 255).astype(np.uint8)

    return [(f"0..{top} to bytes", to_bytes)]


@dataclass(frozen=True)
class _Leaf:
    """An entry of a dictionary observation, however deep."""

    path: tuple[str, ...]
    space: spaces.Space[Any]

    @property
    def name(self) -> str:
        return ".".join(self.path).replace("/", ".")

    def of(self, observation: Any) -> Any:
        for key in self.path:
            observation = observation[key]
        return observation


def _leaves(space: spaces.Space[Any], path: tuple[str, ...] = ()) -> Iterator[_Leaf]:
    if isinstance(space, spaces.Dict):
        for key, part in sorted(space.spaces.items()):
            yield from _leaves(part, (*path, key))
    else:
        yield _Leaf(path, space)


class FrameObservation(gym.Wrapper[FrameArray, Any, Any, Any], RecordConstructorArgs):
    """Shows the frame (h, w, 3) uint8 alone, `size` pixels high and wide; the numbers move into `info`.

    size: the side, or height and width; None leaves frames as they are. The aspect ratio is not kept.
    The image of a dictionary is the entry `image_key` ("camera", "views.front"); without, the one called "image", or
    the only one of bytes, or the only one. Others that could be frames are numbers, like everything else.

    `extra_keys`: the names of those numbers, and of texts, which move into `info` as well, sorted; parts of nested
    dictionaries have dots in their names, and names that episodes have of their own get the prefix `obs_`.
    `shown`: what the frames are made from, and how, in words.

    Raises InputError where nothing shows an image, or several entries do and none is named.
    """

    extra_keys: tuple[str, ...]
    shown: str

    def __init__(
        self, env: gym.Env[Any, Any], size: int | tuple[int, int] | None = None, image_key: str | None = None
    ) -> None:
        RecordConstructorArgs.__init__(self, size=size, image_key=image_key)
        super().__init__(env)
        name = name_of(env)
        leaves = list(_leaves(env.observation_space))
        self._image = _image(leaves, image_key, name)
        convert = conversion(self._image.space)
        assert convert is not None
        self._convert: Callable[[NDArray[Any]], FrameArray] = convert
        self._extras: dict[str, tuple[_Leaf, np.dtype[Any] | None]] = {}
        for leaf in leaves:
            text = leaf.space.dtype is not None and leaf.space.dtype.kind == "U"  # Text, and MiniGrid's MissionSpace
            if leaf is not self._image and (text or isinstance(leaf.space, _NUMERIC)):
                key = f"obs_{leaf.name}" if leaf.name in _OURS else leaf.name
                if key in self._extras:
                    raise InputError(f"{name} observes '{leaf.path}' and '{self._extras[key][0].path}': rename one")
                self._extras[key] = (leaf, None if text else leaf.space.dtype)
        self.extra_keys = tuple(sorted(self._extras))
        height, width, _ = convert.shape
        wanted = (size, size) if isinstance(size, int) else size
        self._size = None if wanted == (height, width) else wanted
        self.observation_space = spaces.Box(0, 255, (*(self._size or (height, width)), 3), np.uint8)
        self.shown = f"{self._image.space.dtype} {self._image.space.shape}"
        if self._image.path:
            self.shown = f"'{self._image.name}', {self.shown}"
        if convert.changes:
            self.shown += f": {convert}"
        if convert.changes or self._image.name not in ("", "image"):
            _say(f"{name}: frames of {height} x {width} from {self.shown}")

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[FrameArray, dict[str, Any]]:
        """As of the environment, with the frame alone as observation."""
        observation, info = self.env.reset(seed=seed, options=options)
        return self._frame(observation), self._info(observation, info)

    def step(self, action: Any) -> tuple[FrameArray, float, bool, bool, dict[str, Any]]:
        """As of the environment, with the frame alone as observation."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        return self._frame(observation), float(reward), terminated, truncated, self._info(observation, info)

    def _frame(self, observation: Any) -> FrameArray:
        frame = self._convert(np.asarray(self._image.of(observation)))
        if self._size is None:
            return np.array(frame)  # environments may write the next frame into the same array
        # BOX is the mean over the area when it shrinks and the nearest pixel when it grows.
        height, width = self._size
        return np.array(Image.fromarray(frame).resize((width, height), Image.Resampling.BOX))

    def _info(self, observation: Any, info: dict[str, Any]) -> dict[str, Any]:
        # Arrays even for single numbers: gymnasium's vector environments batch arrays with their dtype.
        # Texts stay texts: an array would be as long as the first one, and cut off the others.
        extras = {
            name: str(leaf.of(observation)) if dtype is None else np.array(leaf.of(observation), dtype)
            for name, (leaf, dtype) in self._extras.items()
        }
        return {**info, **extras}


def _image(leaves: list[_Leaf], key: str | None, env: str) -> _Leaf:
    """The entry that is shown."""
    images = [leaf for leaf in leaves if conversion(leaf.space) is not None]
    asked = key if key is not None else "image"
    named = [leaf for leaf in leaves if asked in (leaf.name, "/".join(leaf.path))]
    if key is not None and not named:
        raise InputError(f"{env} observes no '{key}': its entries are {[leaf.name for leaf in leaves]}")
    found = [leaf for leaf in images if leaf in named] or ([] if key is not None else images)
    if len(found) > 1:
        found = [leaf for leaf in found if leaf.space.dtype == np.uint8] or found
    if len(found) > 1:
        raise InputError(f"{env} observes several images: name one of {[leaf.name for leaf in found]} as image_key")
    if not found:
        shown: Mapping[str, Any] = {leaf.name: leaf.space for leaf in named or leaves}
        raise InputError(
            f"{env} observes {shown.get('', dict(shown))}: no image with values from 0 to 1 or to 255. "
            "from_render (--from-render) shows what it renders instead"
        )
    return found[0]


class RenderedFrames(gym.ObservationWrapper[Any, Any, Any], RecordConstructorArgs):
    """What the environment renders as `image`, beside what it observes as `state`.

    Raises InputError where it does not render frames (h, w, 3) uint8: it has to be made with `render_mode="rgb_array"`.
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        RecordConstructorArgs.__init__(self)
        super().__init__(env)
        env.reset()  # most have nothing to render before
        frame = env.render()
        space = spaces.Box(0, 255, frame.shape, frame.dtype.type) if isinstance(frame, np.ndarray) else None
        if space is None or space.dtype != np.uint8 or len(space.shape) != 3 or space.shape[2] != 3:
            seen = type(frame).__name__ if space is None else f"{space.dtype} {space.shape}"
            raise InputError(f"{name_of(env)} renders {seen}, from_render needs frames of uint8 (h, w, 3)")
        self.observation_space = spaces.Dict({"image": space, "state": env.observation_space})

    def observation(self, observation: Any) -> dict[str, Any]:
        """What is rendered now, and `observation`."""
        return {"image": self.env.render(), "state": observation}


def name_of(env: gym.Env[Any, Any]) -> str:
    """The id of `env`, or its class where it has none."""
    return type(env.unwrapped).__name__ if env.spec is None else env.spec.id


def _say(text: str) -> None:
    if mp.parent_process() is None:  # or every worker would say it
        _say_once(text)


@functools.cache
def _say_once(text: str) -> None:
    _log.warning("%s", text)
