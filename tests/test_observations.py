"""Every kind of image that environments show becomes the same frames, which can be recorded, learned and dreamt."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from numpy.typing import NDArray

import train_wm
from lssvwm.agents.evaluation.command import Options, config_of
from lssvwm.agents.evaluation.runs import TrainedRun
from lssvwm.agents.policies.baselines import RandomPolicy
from lssvwm.agents.running.settings import LoopSettings
from lssvwm.agents.running.settings_file import from_json, to_json
from lssvwm.envs.factory import EnvConfig, make
from lssvwm.envs.recording.provenance import LIST
from lssvwm.envs.recording.recorder import record
from lssvwm.envs.spaces import observations
from lssvwm.envs.spaces.observations import conversion
from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.episodes import EpisodeStore
from runs import TINY_WORLD

HEIGHT, WIDTH = 16, 32
COLORS: NDArray[np.uint8] = np.random.default_rng(0).integers(256, size=(HEIGHT, WIDTH, 3), dtype=np.uint8)
GREY = COLORS[..., 0]
OTHER = COLORS[::-1]
ALPHA = np.full((HEIGHT, WIDTH, 1), 7, np.uint8)


def grey(image: Any) -> Any:
    return np.stack([image] * 3, axis=-1)


def box(image: NDArray[Any], low: float = 0, high: float = 255) -> spaces.Box:
    return spaces.Box(low, high, image.shape, image.dtype.type)


@pytest.mark.parametrize(
    ("image", "high", "frame", "words"),
    [
        (COLORS, 255, COLORS, ""),
        (GREY, 255, grey(GREY), "grey repeated"),
        (GREY[..., None], 255, grey(GREY), "grey repeated"),
        (GREY[None], 255, grey(GREY), "channels last, grey repeated"),
        (COLORS.transpose(2, 0, 1), 255, COLORS, "channels last"),
        (np.concatenate([COLORS, ALPHA], axis=2), 255, COLORS, "alpha dropped"),
        (np.stack([OTHER, COLORS]), 255, COLORS, "the last of 2 frames"),
        (np.stack([OTHER, COLORS]).transpose(0, 3, 1, 2), 255, COLORS, "the last of 2 frames, channels last"),
        (np.stack([OTHER[..., 0]] * 3 + [GREY]), 255, grey(GREY), "the last of 4 frames, grey repeated"),
        (np.stack([OTHER[..., :1], GREY[..., None]]), 255, grey(GREY), "the last of 2 frames, grey repeated"),
        (np.concatenate([OTHER, OTHER, COLORS], axis=2), 255, COLORS, "the last of 3 frames"),
        ((COLORS / 255).astype(np.float32), 1, COLORS, "0..1 to bytes"),
        (COLORS.astype(np.float64), 255, COLORS, "0..255 to bytes"),
        (COLORS.astype(np.int64), 255, COLORS, "0..255 to bytes"),
        ((GREY > 99).astype(np.uint8), 1, grey(np.uint8(255) * (GREY > 99)), "grey repeated, 0..1 to bytes"),
        ((COLORS / 255).astype(np.float32).transpose(2, 0, 1)[None], 1, COLORS,
         "the last of 1 frames, channels last, 0..1 to bytes"),
    ],
)  # fmt: skip
def test_images_of_every_kind_become_the_same_frames(image: Any, high: float, frame: Any, words: str) -> None:
    found = conversion(box(image, high=high))
    assert found is not None
    assert (str(found), found.shape) == (words, (HEIGHT, WIDTH, 3))
    assert found(image).dtype == np.uint8
    np.testing.assert_array_equal(found(image), frame)


@pytest.mark.parametrize(
    "space",
    [
        spaces.Box(-1, 1, (4,)),
        spaces.Box(0, 255, (128,), np.uint8),
        spaces.Box(-np.inf, np.inf, (16, 32, 3)),
        spaces.Box(-1, 1, (16, 32, 3)),
        spaces.Box(0, 1000, (16, 32), np.uint16),
        spaces.Box(0, 255, (16, 32, 2), np.uint8),
        spaces.Box(0, 255, (2, 2, 2, 16, 32, 3), np.uint8),
        spaces.Discrete(4),
    ],
)
def test_what_is_no_image(space: spaces.Space[Any]) -> None:
    assert conversion(space) is None


class Shown(gym.Env[Any, Any]):
    """Observes as it is told to, for three steps, and renders COLORS."""

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012

    def __init__(self, observation: Any, space: spaces.Space[Any], *, render_mode: str | None = None) -> None:
        self.observation, self.observation_space = observation, space
        self.action_space, self.render_mode, self.steps = spaces.Discrete(2), render_mode, 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        return self.observation, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        return self.observation, 1.0, self.steps == 3, False, {}

    def render(self) -> Any:
        return np.roll(COLORS, self.steps, axis=1)


class Screenless(gym.Env[Any, Any]):
    def __init__(self) -> None:
        raise type("NoSuchDisplayException", (Exception,), {})("Cannot connect to None")


class Lacking(gym.Env[Any, Any]):
    def __init__(self) -> None:
        raise gym.error.DependencyNotInstalled("run `pip install box`")


NUMBER = spaces.Box(-9, 9, (), np.float32)
VIEWS = spaces.Dict(
    views=spaces.Dict({"front": box(COLORS), "depth": box(GREY / 255, high=1)}),
    inventory=spaces.Dict(wood=NUMBER, tools=spaces.Dict(axe=NUMBER)),
    reward=NUMBER,
    fps=NUMBER,
    mission=spaces.Text(9),
)
SEEN = {
    "views": {"front": COLORS, "depth": GREY / 255},
    "inventory": {"wood": 2, "tools": {"axe": 1}},
    "reward": 5,
    "fps": 7,
    "mission": "go",
}
STATE = np.array([0.5, -0.25], np.float32)
WORLDS: dict[str, Any] = {
    "seen/Views-v0": {"observation": SEEN, "space": VIEWS},
    "seen/Two-v0": {"observation": None, "space": spaces.Dict(left=box(COLORS), right=box(COLORS), image=NUMBER)},
    "seen/State-v0": {"observation": STATE, "space": spaces.Box(-1, 1, (2,))},
    "seen/Depth-v0": {"observation": np.full((8, 8), np.nan), "space": spaces.Box(0, 1, (8, 8), np.float64)},
}


@pytest.fixture(autouse=True, scope="module")
def _registered() -> Iterator[None]:
    for name, told in WORLDS.items():
        gym.register(name, Shown, kwargs=told)
    gym.register("seen/Screenless-v0", Screenless)
    gym.register("seen/Quiet-v0", Quiet)
    gym.register("seen/Lacking-v0", Lacking)
    yield
    for name in (*WORLDS, "seen/Screenless-v0", "seen/Quiet-v0", "seen/Lacking-v0"):
        del gym.registry[name]


def test_the_only_bytes_are_the_image_and_everything_else_has_a_dotted_name() -> None:
    env = make(EnvConfig("seen/Views-v0"))
    frame, info = env.reset(seed=0)
    np.testing.assert_array_equal(frame, COLORS)
    extras = ("inventory.tools.axe", "inventory.wood", "mission", "obs_fps", "obs_reward", "views.depth")
    assert env.get_wrapper_attr("extra_keys") == extras
    assert (info["inventory.wood"], info["inventory.tools.axe"], info["obs_reward"]) == (2, 1, 5)
    np.testing.assert_array_equal(info["views.depth"], GREY / 255)


def test_another_entry_is_shown_on_request() -> None:
    frame, info = make(EnvConfig("seen/Views-v0", size=(8, 4), image_key="views.depth")).reset(seed=0)
    np.testing.assert_allclose(frame[..., 0], GREY.reshape(8, 2, 4, 8).mean((1, 3)), atol=1)
    np.testing.assert_array_equal(info["views.front"], COLORS)


def test_what_is_rendered_is_shown_beside_the_state() -> None:
    env = make(EnvConfig("seen/State-v0", from_render=True))
    env.reset(seed=0)
    frame, _, _, _, info = env.step(np.int64(0))
    np.testing.assert_array_equal(frame, np.roll(COLORS, 1, axis=1))
    assert env.get_wrapper_attr("extra_keys") == ("state",)
    np.testing.assert_array_equal(info["state"], STATE)
    env = make(EnvConfig("seen/Views-v0", from_render=True))
    assert env.reset(seed=0)[1]["state.inventory.wood"] == 2


def test_one_line_tells_what_was_converted(caplog: pytest.LogCaptureFixture) -> None:
    observations._say_once.cache_clear()
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            make(EnvConfig("seen/Views-v0", image_key="views.depth"))
        make(EnvConfig("MiniGrid-MemoryS7-v0"))
    assert [line.getMessage() for line in caplog.records] == [
        "seen/Views-v0: frames of 16 x 32 from 'views.depth', float64 (16, 32): grey repeated, 0..1 to bytes"
    ]


def test_values_beyond_the_space_are_refused() -> None:
    with pytest.raises(InputError, match="an image has values nan to nan, its space says 0 to 1"):
        make(EnvConfig("seen/Depth-v0")).reset(seed=0)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (EnvConfig("seen/Two-v0"), r"several images: name one of \['left', 'right'\] as image_key"),
        (EnvConfig("seen/Two-v0", image_key="middle"), r"no 'middle': its entries are \['image', 'left', 'right'\]"),
        (EnvConfig("seen/Two-v0", image_key="image"), r"observes \{'image': Box.*\}: no image"),
        (EnvConfig("seen/State-v0"), r"observes Box.*no image.*--from-render"),
        (EnvConfig("seen/Screenless-v0"), "needs a display: run the command under `xvfb-run -a`"),
        (EnvConfig("seen/Lacking-v0"), "cannot be made: run `pip install box`"),
        (EnvConfig("seen/Quiet-v0", from_render=True), "renders NoneType"),
        (EnvConfig("ALE/Pong-v6"), "import the package that registers it: 'ale_py:ALE/Pong-v6'"),
        (EnvConfig("MiniWorld-Hallway-v7"), "'miniworld:MiniWorld-Hallway-v7'"),
        (EnvConfig("procgen-coinrun-v0"), "Python up to 3.10 only"),
    ],
)
def test_what_cannot_be_shown_is_named(config: EnvConfig, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make(config)


class Quiet(Shown):
    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__(STATE, spaces.Box(-1, 1, (2,)), render_mode=render_mode)

    def render(self) -> Any:
        return None


def test_a_package_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"'ale_py:ALE/Pong-v6', after `pip install 'lssvwm\[worlds\]'`"):
        make(EnvConfig("ALE/Pong-v6"))


def test_a_package_that_looks_for_a_display(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "screenless.py").write_text("raise type('NoSuchDisplayException', (Exception,), {})('None')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match=r"screenless:A-v0 needs a display: run the command under `xvfb-run -a`"):
        make(EnvConfig("screenless:A-v0"))


def test_only_a_display_is_asked_of_rendering() -> None:
    with pytest.raises(InputError, match="leave out render_mode='human'"):
        make(EnvConfig("seen/State-v0", from_render=True), render_mode="human")


def test_configs_keep_what_is_shown() -> None:
    config = EnvConfig("a/B-v0", size=(8, 12), image_key="x.y", from_render=True)
    assert EnvConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    settings = LoopSettings(env=config.id, size=config.size, image_key="x.y", from_render=True)
    assert from_json(LoopSettings, json.loads(json.dumps(to_json(settings))), Path("x")) == settings
    assert settings.env_config == config
    run = TrainedRun(Path("x"), settings)
    assert config_of(Options(), [run]) == config
    assert config_of(Options(env="c/D-v0"), [run]) == EnvConfig("c/D-v0", size=(8, 12))
    assert config_of(Options(env="c/D-v0", from_render=True), []) == EnvConfig("c/D-v0", from_render=True)
    asked: dict[str, Any] = {"env_options": "", "every": 1, "image_key": "c"}
    told = {"options": "", "every": 1, "image_key": "c"}
    assert config_of(Options(**asked), [run]) == EnvConfig("a/B-v0", size=(8, 12), from_render=True, **told)
    asked, told = {**asked, "env_options": '{"d": 1}', "every": 4}, {**told, "options": '{"d": 1}', "every": 4}
    assert config_of(Options(env="c/D-v0", **asked), []) == EnvConfig("c/D-v0", **told)
    assert config_of(Options(env="c/D-v0", **asked), [run]) == EnvConfig("c/D-v0", size=(8, 12), **told)
    with pytest.raises(InputError, match="every is 0"):
        config_of(Options(env="c/D-v0", every=0), [])
    with pytest.raises(InputError, match=r"size is \(8, 0\)"):
        EnvConfig("a/B-v0", size=(8, 0))


def test_recordings_from_before_these_settings_go_on(tmp_path: Path) -> None:
    store, config = EpisodeStore(tmp_path, create=True), EnvConfig("seen/State-v0", from_render=True)
    told: dict[str, Any] = {"episodes": 2, "num_envs": 1, "seed": 0, "processes": False, "progress": False}
    record(EnvConfig("seen/Views-v0"), store, RandomPolicy(2), **told)
    lines = [json.loads(line) for line in (tmp_path / LIST).read_text().splitlines()]
    for line in lines:
        del line["source"]["env"]["from_render"], line["source"]["env"]["image_key"]
    (tmp_path / LIST).write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert record(EnvConfig("seen/Views-v0"), store, RandomPolicy(2), **told).skipped == 2
    with pytest.raises(InputError, match=r"image_key=None, not views\.depth"):
        record(EnvConfig("seen/Views-v0", image_key="views.depth"), store, RandomPolicy(2), **told)
    with pytest.raises(InputError, match="an episode of seen/Views-v0"):
        record(config, store, RandomPolicy(2), **told)


def test_a_state_world_is_recorded_learned_and_dreamt_from_what_it_renders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With frames that are not square, by the command."""
    told = ("--env", "seen/State-v0", "--from-render", "--size", "8", "16", "--model.patch", "4")
    short = (
        "--no-processes",
        "--model.latent-channels",
        "8",
        "--collect-episodes",
        "3",
        "--world-steps",
        "2",
        "--heads.steps",
        "2",
        "--training.length",
        "3",
    )
    monkeypatch.setattr(sys, "argv", ["train_wm.py", *TINY_WORLD, *told, *short, "--out", str(tmp_path)])
    train_wm.main()
    episode = EpisodeStore(tmp_path / "episodes").read(EpisodeStore(tmp_path / "episodes").names[0])
    assert episode.image.shape == (4, 8, 16, 3)
    np.testing.assert_array_equal(episode.extras["state"], [STATE] * 4)
    dream = gym.make("lssvwm:lssvwm/Dream-v0", checkpoint=str(tmp_path / "world_model"), context_length=2)
    frame, _ = dream.reset(seed=0)
    assert frame.shape == dream.step(1)[0].shape == (8, 16, 3)
