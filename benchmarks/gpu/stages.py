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


KERNELS = [(128, "float32", 66), (128, "bfloat16", 36), (128, "bfloat16", 66), (128, "bfloat16", 128)]
"""Chunk, precision and state of the scans that are compared: those of `memory-maze`, `small`, `base` and `paper`. Each
is compiled for itself."""
OTHERS = [(chunk, dtype, 64) for chunk in (16, 64, 256) for dtype in ("float32", "bfloat16")]
"""The same that no preset computes."""
UNTUNED = {"MAMBA_DETERMINISTIC": "1", "TRITON_CACHE_AUTOTUNING": "0"}
"""One configuration of every kernel, without a minute of trying which is the fastest; gradients without atomic sums."""
BESIDE = {"TORCHINDUCTOR_COMPILE_THREADS": "1", "OMP_NUM_THREADS": "1", **UNTUNED}
"""Beside others no kernel is timed well."""


def stages(*, rehearse: bool) -> list[Stage]:
    """All of them. A rehearsal compares the scans in Triton's interpreter, which knows neither bfloat16 nor haste: one
    case stands for all, and one precision for both of attention.
    """
    at, kind = "benchmarks.gpu", "torch" if rehearse else "triton"

    def alone(name: str, work: str, title: str, seconds: float, given: Any = None, extra: bool = False) -> Stage:
        return Stage(name, f"{at}.{work}", title, seconds, given=given or {}, extra=extra, environment=UNTUNED)

    scans = [
        Stage(
            f"scan-{chunk}-{dtype}-{state}",
            f"{at}.equality:scans",
            f"Triton scan = torch scan, chunks of {chunk}, {dtype}, state {state}: values, gradients, ragged lengths",
            100,
            "kernels" if (chunk, dtype, state) not in OTHERS else "other-kernels",
            {"chunk": chunk, "dtype": dtype, "state": state},
            extra=(chunk, dtype, state) in OTHERS,
            environment=BESIDE | ({"TRITON_INTERPRET": "1"} if rehearse else {}),
        )
        for chunk, dtype, state in ([(16, "float32", 16)] if rehearse else KERNELS + OTHERS)
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
        alone("waiting", "waiting:look", "where a dream step and a training step wait for the device", 25),
        alone("profile-torch", "profiling:look", "where the time goes, scan in torch", 35, {"scan": "torch"}),
        alone("profile-triton", "profiling:look", "where the time goes, scan by Triton", 35, {"scan": kind}, rehearse),
        alone("dreams", "speed:dreams", "imagined frames per second by rows, steps and size", 60),
        alone("scans", "speed:scans", "the scan by length", 40),
        alone("history", "speed:history", "cost of a dreamt frame by length of the history", 25),
        alone("training", "speed:training", "trained frames per second and share of the product's rate", 70),
        alone("record", "playing:record", "Memory Maze in processes", 40),
        alone("train", "playing:train", "a world model of Memory Maze for the time that is left, judged", 100),
        alone("agent", "playing:agent", "the dreamer in that world model", 60),
        Stage("tuned", f"{at}.profiling:look", "as profile-triton, tuned", 120, given={"scan": kind}, extra=True),
        Stage("compiled", f"{at}.profiling:compiled", "a training step under torch.compile", 60, extra=True),
        alone("retrieval", "playing:retrieval", "as train with a pose, judged by retrieval", 150, extra=True),
    ]
