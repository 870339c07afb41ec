"""The programs that the engine needs, and the shim, which is compiled once for each user."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from importlib.resources import files
from pathlib import Path

from lssvwm.worldmodel.common.atomic import replace
from lssvwm.worldmodel.common.errors import InputError

_FLAGS = ("-O2", "-shared", "-fPIC", "-fvisibility=hidden")
_LIBRARIES = ("-ldl", "-lpthread")


def find_program(name: str, package: str) -> str:
    """The path of a program given by name or path. Raises InputError naming the Debian `package` that brings it."""
    # Debian keeps games out of the PATH of root and of services.
    search = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/games"))
    found = shutil.which(name, path=search)
    if found is None:
        raise InputError(
            f"Minetest environments need the program '{name}', which is not installed: run `make minecraft`, or "
            f"apt-get install --no-install-recommends {package}"
        )
    return found


def build_shim(compiler: str = "gcc") -> Path:
    """The library to preload into minetest, compiled if this version of it is not in the user's cache yet.

    The cache is `lssvwm` in XDG_CACHE_HOME, or in ~/.cache. Any number of processes may build at once.
    Raises InputError when there is no compiler, or no headers of OpenGL and X.
    """
    sources = {
        source.name: source.read_bytes()
        for source in files("lssvwm.envs.minecraft.minetest").joinpath("shim").iterdir()
    }
    key = hashlib.sha256(" ".join((platform.machine(), *_FLAGS)).encode())
    for name in sorted(sources):
        key.update(name.encode() + sources[name])
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lssvwm"
    library = folder / f"minetest-shim-{key.hexdigest()[:16]}.so"
    if library.exists():
        return library
    program = find_program(compiler, "gcc libc6-dev libgl-dev libx11-dev")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"cannot keep the shim of Minetest environments in {folder}: {error}; set XDG_CACHE_HOME"
        ) from error
    with tempfile.TemporaryDirectory(dir=folder, prefix=".shim-") as scratch:
        for name, text in sources.items():
            Path(scratch, name).write_bytes(text)
        result = Path(scratch, "shim.so")
        units = sorted(str(path) for path in Path(scratch).glob("*.c"))
        command = [program, *_FLAGS, "-o", str(result), *units, *_LIBRARIES]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        if done.returncode:
            raise InputError(
                f"{program} cannot compile the shim of Minetest environments: run `make minecraft`, or apt-get install "
                f"--no-install-recommends gcc libc6-dev libgl-dev libx11-dev\n{done.stderr[-2000:]}"
            )
        replace(library, lambda path: shutil.copyfile(result, path))
    return library
