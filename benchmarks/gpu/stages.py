"""The stages in order: cheapest and most telling first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Stage:
    """One process with a log and a sheet of its own. `work` is MODULE:FUNCTION.

    `seconds` is its share of nine minutes; of another budget, and of what earlier stages left, it gets as large a part.
    Stages of one `group` that follow each other run side by side: they look for errors, not for time. `extra` stages
    run only where they are named.
    """

    name: str
    work: str
    title: str
    seconds: float
    group: str = ""
    given: Mapping[str, Any] = field(default_factory=dict)
    extra: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)


PAIRS = [(chunk, dtype) for chunk in (16, 64, 128, 256) for dtype in ("float32", "bfloat16")]
OTHERS = [(chunk, "bfloat16", state) for chunk in (16, 128) for state in (32, 128)]
KERNELS = [(*pair, 64) for pair in PAIRS] + OTHERS
"""Chunk, precision and state of the scans that are compared: each is compiled and tuned for itself, which takes a
core a minute. The states are those of `small`, `memory-maze` and `base`."""
BESIDE = {"TRITON_CACHE_AUTOTUNING": "0", "TORCHINDUCTOR_COMPILE_THREADS": "2", "OMP_NUM_THREADS": "1"}
"""Beside others no kernel is timed well: what is found to be fastest there is not kept for later stages."""


def stages(*, rehearse: bool) -> list[Stage]:
    """All of them. A rehearsal compares the scans in Triton's interpreter, which knows neither bfloat16 nor haste: one
    case stands for all, and one precision for both of attention.
    """
    at = "benchmarks.gpu"
    scans = [
        Stage(
            f"scan-{chunk}-{dtype}-{state}",
            f"{at}.equality:scans",
            f"Triton scan = torch scan, chunks of {chunk}, {dtype}, state {state}: values, gradients, ragged lengths",
            100,
            "kernels",
            {"chunk": chunk, "dtype": dtype, "state": state},
            environment=BESIDE | ({"TRITON_INTERPRET": "1"} if rehearse else {}),
        )
        for chunk, dtype, state in ([(16, "float32", 16)] if rehearse else KERNELS)
    ]
    attentions = [
        Stage(
            f"attention-{dtype}",
            f"{at}.equality:attentions",
            f"FlexAttention = SDPA, {dtype}: lengths that 128 does not divide, rows short of frames, compilations",
            100,
            "kernels",
            {"dtype": dtype},
            environment=BESIDE,
        )
        for dtype in ("bfloat16", "float32")[: 1 if rehearse else 2]
    ]
    promises = [
        Stage(name, f"{at}.{work}", title, 60, "promises", environment=BESIDE)
        for name, work, title in (
            ("segments", "dreaming:segments", "observed whole = in segments = frame by frame"),
            ("rows", "dreaming:rows", "rows of a dream are independent, snapshots replay"),
            ("tests", "environment:tests", "the tests marked gpu"),
        )
    ]
    return [
        Stage("environment", f"{at}.environment:look", "versions, device, clocks, rate of a bfloat16 product", 15),
        *scans,
        *attentions,
        *promises,
        Stage("waiting", f"{at}.waiting:look", "where a dream step and a training step wait for the device", 30),
        Stage("dreams", f"{at}.speed:dreams", "imagined frames per second by rows, steps and size", 60),
        Stage("scans", f"{at}.speed:scans", "the scan by length", 40),
        Stage("history", f"{at}.speed:history", "cost of a dreamt frame by length of the history", 25),
        Stage("training", f"{at}.speed:training", "trained frames per second and share of the product's rate", 70),
        Stage("record", f"{at}.playing:record", "Memory Maze in processes", 40),
        Stage("train", f"{at}.playing:train", "a world model of Memory Maze for the time that is left, judged", 100),
        Stage("agent", f"{at}.playing:agent", "the dreamer in that world model", 60),
        Stage("retrieval", f"{at}.playing:retrieval", "the same with a pose, judged by retrieval", 150, extra=True),
    ]
