"""What the machine is, and what the tests marked `gpu` say of it."""

from __future__ import annotations

import importlib.util
import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version

import torch

from benchmarks.gpu.sheet import CUDA, NotRunError, Setting, Sheet
from benchmarks.gpu.timing import product_rate
from lssvwm.worldmodel.common.precision import POLICY

PACKAGES = ("torch", "triton", "numpy", "gymnasium", "tyro", "mamba-ssm", "einops", "mujoco", "dm_control", "av")
TESTS = [f"tests/test_{name}.py" for name in ("windows", "attention", "dream_gpu", "precision", "graphs", "counted")]


def look(setting: Setting, sheet: Sheet) -> None:
    """Versions, device, clocks, and the rate that all others are compared with."""
    sheet.note("python", platform.python_version())
    for name in PACKAGES:
        try:
            sheet.note(name, version(name))
        except PackageNotFoundError:
            sheet.note(name, "missing")
    sheet.note("cores", float(os.cpu_count() or 0))
    sheet.note("products of float32 on CUDA", POLICY)
    if setting.cuda:
        properties = torch.cuda.get_device_properties(0)
        sheet.note("device", properties.name)
        sheet.note("CUDA of torch", str(torch.version.cuda))
        sheet.note("compute capability", ".".join(map(str, torch.cuda.get_device_capability())))
        sheet.note("memory", properties.total_memory / 2**30, "GiB")
        asked = "driver_version,clocks.sm,clocks.max.sm,clocks.mem,power.limit,temperature.gpu"
        command = ["nvidia-smi", f"--query-gpu={asked}", "--format=csv,noheader"]
        told = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
        sheet.note("driver, clocks (SM, most, memory), power, temperature", told.stdout.strip() or told.stderr.strip())
    else:
        sheet.not_run("device and clocks", CUDA)
    sheet.note("bfloat16 product", product_rate(setting) / 1e12, "TFLOP/s")


def tests(setting: Setting, sheet: Sheet) -> None:
    """The tests marked `gpu`, but for those of the scan, which the stages before compare at the sizes of models."""
    if not setting.cuda:
        raise NotRunError(CUDA)
    if importlib.util.find_spec("pytest_timeout") is None:
        raise NotRunError("pytest with pytest-timeout is not installed")
    done = subprocess.run([sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", *TESTS])
    sheet.true("tests marked gpu pass", done.returncode == 0)
