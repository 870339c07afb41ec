"""The scripts as a user runs them: in processes of their own that can be killed, or in this one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parent.parent

# A world model and a policy that learn nothing, but in enough steps to be killed between them.
TINY_WORLD = (
    *("--preset", "smoke", "--no-progress", "--max-episode-steps", "60", "--num-envs", "1"),
    *("--model.dim", "32", "--model.layers", "1", "--model.features", "16", "--model.state-size", "4"),
    *("--model.head-dim", "32", "--training.batch", "2", "--training.length", "8", "--training.fit-frames", "64"),
    *("--training.save-seconds", "0.1", "--heads.steps", "20", "--heads.kept", "300", "--heads.observed", "600"),
)
TINY_LOOP = (
    *TINY_WORLD,
    *("--dreamer.rows", "4", "--dreamer.horizon", "4", "--dreamer.context", "2", "--dreamer.save-seconds", "0.1"),
)


def start(script: str, *args: str) -> subprocess.Popen[str]:
    """`python script *args` with pipes for its output."""
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, script, *args], cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finish(script: str, *args: str) -> None:
    """Run to the end, which has to be a good one."""
    process = start(script, *args)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors


def stop(script: str, *args: str, when: Callable[[], bool], number: int) -> subprocess.CompletedProcess[str]:
    """Send the signal `number` once `when` holds, which it has to while the script still runs."""
    process = start(script, *args)
    try:
        deadline = time.monotonic() + 120
        while not when() and process.poll() is None:
            assert time.monotonic() < deadline, "waited too long"
            time.sleep(0.005)
        ended = process.poll() is not None
        process.send_signal(number)
        output, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert not ended, f"the script ended before it could be stopped: {errors}"
    return subprocess.CompletedProcess(process.args, process.returncode, output, errors)


def kill(script: str, *args: str, when: Callable[[], bool]) -> None:
    """SIGKILL once `when` holds."""
    assert stop(script, *args, when=when, number=signal.SIGKILL).returncode == -signal.SIGKILL
