"""Stages that go wrong in every way, for the tests of what runs them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import Any


def good(setting: Any, sheet: Any, *, number: int = 1) -> None:
    sheet.at_most("a figure", float(number), 2)
    sheet.not_run("another", "needs CUDA")


def wrong(setting: Any, sheet: Any) -> None:
    sheet.at_most("not a number", float("nan"), 1.0)
    sheet.at_least("too little", 0.5, 1.0)
    sheet.true("holds", True)


def breaks(setting: Any, sheet: Any) -> None:
    sheet.note("before", 1.0)
    os._exit(3)


def hangs(setting: Any, sheet: Any) -> None:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    sheet.note("child", float(child.pid))
    time.sleep(600)


def cannot(setting: Any, sheet: Any) -> None:
    from benchmarks.gpu.sheet import NotRunError

    raise NotRunError("needs something else")
