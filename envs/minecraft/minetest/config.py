"""What an engine is to be, and the settings of minetest that follow from it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from lssvwm.worldmodel.common.errors import InputError

MAPGENS = ("v5", "v6", "v7", "carpathian", "flat", "fractal", "singlenode", "valleys")

DEGREES_PER_PIXEL = 0.01
"""The turn for one pixel of mouse movement. Minetest's client tells its server directions to this precision."""


@dataclass(frozen=True)
class EngineConfig:
    """One engine: what it shows, how its time runs, and when to give up on it.

    width, height: of the frames in pixels, 16 to 4096.
    viewing_range: how far one sees, in nodes (blocks of 1 m), 20 to 500.
    fov: vertical field of view in degrees, 45 to 160. Minetest widens it for windows narrower than 16:10, by up to 1.4
        (square: 72 becomes 91).
    dt: virtual seconds for one step, 0.001 to 0.5. 0.05 is Minecraft's tick.
    mapgen: minetest's generator of the land: "v7" is its usual one, "flat" is quick to make, "singlenode" is empty.
    seed: of the land, 0 to 2**63 - 1. The same seed makes the same world.
    start_timeout: seconds of real time until the player must stand in the world.
    step_timeout: seconds of real time within which a frame must come. Generating new land may take some.
    minetest, xvfb, compiler: programs, by name or path.
    """

    width: int = 64
    height: int = 64
    viewing_range: int = 30
    fov: float = 72.0
    dt: float = 0.05
    mapgen: str = "v7"
    seed: int = 0
    start_timeout: float = 60.0
    step_timeout: float = 30.0
    minetest: str = "minetest"
    xvfb: str = "Xvfb"
    compiler: str = "gcc"

    def __post_init__(self) -> None:
        for name, low, high in (
            ("width", 16, 4096),
            ("height", 16, 4096),
            ("viewing_range", 20, 500),
            ("fov", 45, 160),
            ("dt", 0.001, 0.5),
            ("seed", 0, 2**63 - 1),
            ("start_timeout", 0.001, math.inf),
            ("step_timeout", 0.001, math.inf),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise InputError(f"EngineConfig.{name} is {value}: give {low} to {high}")
        if self.mapgen not in MAPGENS:
            raise InputError(f"EngineConfig.mapgen is '{self.mapgen}': give one of {', '.join(MAPGENS)}")


def settings(config: EngineConfig) -> str:
    """The text of `minetest.conf`."""
    reach = config.viewing_range // 16 + 2  # in blocks of the map
    values = {
        # the picture
        "screen_w": config.width,
        "screen_h": config.height,
        "viewing_range": config.viewing_range,
        "fov": config.fov,
        "fps_max": 1000,
        "fps_max_unfocused": 1000,
        "video_driver": "opengl",
        "leaves_style": "opaque",
        "node_highlighting": "none",
        "smooth_lighting": False,
        "enable_particles": False,
        "enable_clouds": False,
        "enable_3d_clouds": False,
        "view_bobbing_amount": 0,
        "arm_inertia": False,  # else the hand still sways from what was before a reset
        "show_debug": False,
        "enable_minimap": False,
        "hud_scaling": 0.5,
        "mesh_generation_interval": 0,
        # input
        "mouse_sensitivity": f"{_sensitivity(config):.9f}",
        "pause_on_lost_focus": False,
        "autojump": False,
        "repeat_place_time": 0.25,
        # the server and its world
        "name": "singleplayer",
        "bind_address": "127.0.0.1",
        "enable_ipv6": False,
        "server_announce": False,
        "enable_remote_media_server": False,
        "enable_sound": False,
        "mg_name": config.mapgen,
        "fixed_map_seed": config.seed,
        "time_speed": 0,
        "enable_damage": True,
        "creative_mode": False,
        "disable_anticheat": True,
        "num_emerge_threads": 1,
        "active_block_range": 2,
        "max_block_send_distance": reach,
        "max_block_generate_distance": reach,
        "client_mapblock_limit": 2000,
        "client_unload_unused_data_timeout": 60,
        "emergequeue_limit_generate": 64,
        "emergequeue_limit_diskonly": 64,
        "full_block_send_enable_min_time_from_building": 0,  # else 2 s pass before a new scene is sent
        "server_map_save_interval": 1000000,
        "sqlite_synchronous": 0,
        # The client sends its position this often: less than dt, so every step.
        "dedicated_server_step": config.dt * 0.8,
        "debug_log_level": "error",
        "chat_log_level": "none",  # else errors are written over the picture
    }
    lines = (f"{key} = {str(value).lower() if isinstance(value, bool) else value}" for key, value in values.items())
    return "\n".join(lines) + "\n"


def world_settings() -> str:
    """The text of `world.mt`."""
    return "gameid = minetest\nbackend = sqlite3\nplayer_backend = sqlite3\nauth_backend = sqlite3\n" + (
        "mod_storage_backend = sqlite3\nload_mod_lssvwm_bridge = true\n"
    )


def _sensitivity(config: EngineConfig) -> float:
    # Minetest turns by sensitivity * 1.376 * tan(fov / 2) degrees for a pixel, with the field of view it has widened.
    aspect = config.width / config.height
    fov = math.radians(config.fov) * min(max(math.sqrt(1.6 / aspect), 1.0), 1.4)
    return DEGREES_PER_PIXEL / (1.3763818698 * math.tan(fov / 2))
