"""What a measurement was made on, in a line, and what processes have spent there."""

from __future__ import annotations

import os
from pathlib import Path

TELLING = ("avx2", "fma", "avx512f", "avx512_bf16", "avx512_vnni", "amx_tile", "amx_bf16", "asimd", "bf16", "sve")


def cpu() -> str:
    """The CPU, how many cores it has, those of its instruction sets that decide, and the load."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    told = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    flags = set((told.get("flags") or told.get("Features") or "").split())
    sets = ", ".join(name for name in TELLING if name in flags)
    return f"{os.cpu_count()} cores of {told.get('model name', 'CPU')} ({sets}), load {os.getloadavg()[0]:.1f}"


def cpu_seconds(pid: int) -> float:
    """What a process has spent on a CPU, all threads together (Linux)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
