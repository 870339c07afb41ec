"""Fetch what a machine with PyTorch for CUDA and no network lacks, as wheels: `make wheels`, here, with network.

    python -m benchmarks.gpu.wheels --into wheels --python 3.12

Versions are those of constraints.txt. Of two packages only what the Memory Maze is made of is kept: the meshes of other
bodies and the viewers are two thirds of everything.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = (
    *("gymnasium", "Farama-Notifications", "tyro", "docstring_parser", "typeguard"),
    *("memory-maze", "dm_control", "mujoco", "labmaze", "dm-env", "dm-tree", "glfw", "PyOpenGL", "zstandard"),
    *("absl-py", "cloudpickle", "etils", "lxml", "wrapt", "einops"),
)
BUILT = "mamba-ssm"
"""Built here from source, without its CUDA extension: its Triton kernels are plain Python."""
GLIBC = (28, 27, 26, 24, 17)
LEFT_OUT = {
    "dm_control": r"dm_control/(suite|blender|locomotion/soccer/assets)/|\.(msh|stl|skn|obj|amc|h5)$|/outdoor_natural/",
    "zstandard": r"zstandard/_cffi",
    "mujoco": r"mujoco/(experimental|sysid|include|plugin)/|_render_filament|_simulate|_rollout",
}
"""Files of a wheel that nothing here reads."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--into", type=Path, default=Path("wheels"))
    parser.add_argument("--python", default="3.12", help="version of Python on that machine")
    parser.add_argument("--without", nargs="+", default=[], metavar="NAME", help="what that machine has already")
    parser.add_argument("--most", type=float, default=55.0, help="MB that all of them may weigh together")
    options = parser.parse_args()
    options.into.mkdir(parents=True, exist_ok=True)
    for old in options.into.glob("*.whl"):
        old.unlink()
    fetch(options.into, options.python, [name for name in PACKAGES if name not in options.without])
    for name, pattern in LEFT_OUT.items():
        slim(next(options.into.glob(f"{name}-*.whl")), re.compile(pattern))
    sizes = {path.name: path.stat().st_size / 1e6 for path in sorted(options.into.glob("*.whl"))}
    for name, size in sizes.items():
        print(f"{size:7.2f} MB  {name}")
    print(f"{sum(sizes.values()):7.2f} MB  together")
    if sum(sizes.values()) > options.most:
        raise SystemExit(f"error: the wheels weigh more than --most {options.most} MB: leave some out")


def fetch(into: Path, python: str, packages: list[str]) -> None:
    """Download wheels for Linux on x86-64, and build the one that is none yet."""
    platforms = [f"--platform=manylinux_2_{minor}_x86_64" for minor in GLIBC]
    platforms += ["--platform=manylinux2014_x86_64", "--platform=manylinux1_x86_64"]
    fixed = ["--no-deps", "-q", "-c", str(ROOT / "constraints.txt")]
    binary = ["--only-binary=:all:", "--implementation=cp", f"--python-version={python}", *platforms]
    pip([*("download", "-d", str(into)), *fixed, *binary, *packages])
    pip(["wheel", "-w", str(into), *fixed, "--no-build-isolation", BUILT])


def pip(arguments: list[str]) -> None:
    where = os.environ | {"MAMBA_SKIP_CUDA_BUILD": "TRUE", "MAMBA_FORCE_BUILD": "TRUE"}
    subprocess.run([sys.executable, "-m", "pip", *arguments], env=where, check=True)


def slim(wheel: Path, left_out: re.Pattern[str]) -> None:
    """Write the wheel anew without the files whose path matches, and without their lines in its record."""
    thin = wheel.with_suffix(".part")
    with zipfile.ZipFile(wheel) as source, zipfile.ZipFile(thin, "w", zipfile.ZIP_DEFLATED) as target:
        for info in source.infolist():
            if left_out.search(info.filename):
                continue
            data = source.read(info)
            if info.filename.endswith(".dist-info/RECORD"):
                lines = data.decode().splitlines(keepends=True)
                data = "".join(line for line in lines if not left_out.search(line.split(",")[0])).encode()
            target.writestr(info, data)
    thin.replace(wheel)


if __name__ == "__main__":
    main()
