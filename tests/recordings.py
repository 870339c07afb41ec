"""Small files in the layouts that data sets were published in, of a world whose frames betray an action out of place.

The world: something stands at 0 and moves by the number of the action, and every frame is a grey of STEP per place. So
the difference of two frames is the action that led from one to the other.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

STEP = 5
GREY = 20
STEPS = (1, 0, 2, 2, 0, 1, 1, 0, 2, 0, 0, 1, 2, 1, 0, 2, 1, 2, 0, 1)
"""Actions taken, in this order. No stretch of them is the same shifted by one."""


def places(taken: Sequence[int] = STEPS) -> NDArray[np.int64]:
    """(T + 1,) where the thing stands in each frame."""
    return np.concatenate(([0], np.cumsum(taken)))


def frames_of(at: Sequence[int] | NDArray[np.int64], height: int = 32, width: int = 32) -> NDArray[np.uint8]:
    """(T + 1, h, w, 3), all of one grey."""
    grey = (GREY + STEP * np.asarray(at)).astype(np.uint8)
    return np.broadcast_to(grey[:, None, None, None], (len(grey), height, width, 3)).copy()


def seen(image: NDArray[np.uint8]) -> NDArray[np.int64]:
    """The places that frames (T, h, w, 3) show, through whatever a video codec did to them."""
    return np.rint((image.mean(axis=(1, 2, 3)) - GREY) / STEP).astype(np.int64)


def write_video(path: Path, frames: NDArray[np.uint8], codec: str = "libx264") -> None:
    """`mpeg4` is what OpenCV's mp4v writes, as in TECO's and MineRL's files."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=20)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": "5"} if codec == "libx264" else {"qscale": "1"}
        stream.bit_rate = 8_000_000
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def write_npz(path: Path, **arrays: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **arrays)


def memory_maze(path: Path, taken: Sequence[int] = STEPS, size: int = 32) -> None:
    at = places(taken)
    one_hot = np.zeros((len(at), 6), np.bool_)
    one_hot[np.arange(1, len(at)), taken] = True
    write_npz(
        path,
        image=frames_of(at, size, size),
        action=one_hot,
        reward=np.concatenate(([0.0], np.asarray(taken) / 2)),
        agent_pos=np.stack((at, -at), axis=1).astype(np.float64),
        maze_layout=np.ones((len(at), 9, 9), np.uint8),
    )


def teco_dmlab(path: Path, taken: Sequence[int] = STEPS) -> None:
    write_npz(path, video=frames_of(places(taken)), actions=np.array([0, *taken], np.int32))


def teco_minecraft(path: Path, taken: Sequence[int] = STEPS) -> None:
    write_video(path, frames_of(places(taken), 128, 128), "mpeg4")
    write_npz(path.with_suffix(".npz"), actions=np.array([0, *taken], np.int32))


PRESSES: tuple[dict[str, Any], ...] = ({}, {"forward": 1}, {"attack": 1, "camera": (0.0, 15.0)})
"""What the world's actions 0, 1, 2 press."""


def minerl(folder: Path, taken: Sequence[int] = STEPS, ahead: int = 3, *, success: bool = False) -> None:
    """`ahead`: frames of the video before the stream begins, all black."""
    at = places(taken)
    video = np.concatenate((np.zeros((ahead, 64, 64, 3), np.uint8), frames_of(at, 64, 64)))
    write_video(folder / "recording.mp4", video, "mpeg4")
    pressed = [PRESSES[action] for action in taken]
    arrays = {
        f"action${button}": np.array([press.get(button, 0) for press in pressed])
        for button in ("attack", "back", "forward", "jump", "left", "right", "sneak", "sprint")
    }
    camera = np.array([press.get("camera", (0.0, 0.0)) for press in pressed], np.float32)
    write_npz(
        folder / "rendered.npz",
        **arrays,
        **{
            "reward": np.asarray(taken, np.float32),
            "action$camera": camera,
            "action$place": np.array(["dirt" if action == 2 else "none" for action in taken]),
            "observation$compass$angle": at.astype(np.float32),
            "observation$inventory$dirt": 100 - at,
        },
    )
    metadata = {
        "success": success,
        "duration_ms": 50 * len(taken),
        "duration_steps": len(taken),
        "total_reward": float(sum(taken)),
        "stream_name": folder.name,
        "true_video_frame_count": len(video),
    }
    (folder / "metadata.json").write_text(json.dumps(metadata))


def vpt_line(action: int = 0, at: int = 0, **changes: Any) -> dict[str, Any]:
    """One line of a contractor's `.jsonl`, with the fields of version 7."""
    press = PRESSES[action]
    yaw = press.get("camera", (0.0, 0.0))[1]
    buttons = [0] if "attack" in press else []
    line: dict[str, Any] = {
        "mouse": {
            "x": 640.0,
            "y": 360.0,
            "dx": yaw / 0.15,
            "dy": 0.0,
            "scaledX": 0.0,
            "scaledY": 0.0,
            "dwheel": 0.0,
            "buttons": buttons,
            "newButtons": [],
        },
        "keyboard": {"keys": ["key.keyboard.w"] if "forward" in press else [], "newKeys": [], "chars": ""},
        "isGuiOpen": False,
        "isGuiInventory": False,
        "hotbar": 0,
        "yaw": 90.0,
        "pitch": 0.0,
        "xpos": float(at),
        "ypos": 64.0,
        "zpos": -2.0 * at,
        "tick": at,
        "milli": 1649575088006,
        "inventory": [{"type": "oak_door", "quantity": 3}],
        "serverTick": 6001,
        "serverTickDurationMs": 36.3,
        "stats": {"minecraft.custom:minecraft.jump": 4},
    }
    mouse = changes.pop("mouse", {})
    return {**line, **changes, "mouse": {**line["mouse"], **mouse}}


def vpt(path: Path, lines: Sequence[dict[str, Any]] | None = None, frames: NDArray[np.uint8] | None = None) -> None:
    """By default the world's actions, each on the line of the frame in which it was taken; the last does nothing."""
    at = places()
    if lines is None:
        lines = [vpt_line(action, int(x)) for action, x in zip((*STEPS, 0), at, strict=True)]
    write_video(path, frames_of(at, 180, 320) if frames is None else frames)
    path.with_suffix(".jsonl").write_text("\n".join(json.dumps(line) for line in lines) + "\n")
