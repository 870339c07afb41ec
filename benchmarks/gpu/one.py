"""One stage, in a process of its own: `python -m benchmarks.gpu.one JSON`, as `running` calls it."""

from __future__ import annotations

import faulthandler
import importlib
import json
import signal
import sys
from pathlib import Path

from benchmarks.gpu.sheet import NotRunError, Setting, Sheet


def main() -> None:
    told = json.loads(sys.argv[1])
    faulthandler.register(signal.SIGTERM, chain=True)  # the log of a stage that was cut off says where it was
    setting = Setting(**told["setting"] | {name: Path(told["setting"][name]) for name in ("shared", "out")})
    sheet = Sheet(Path(told["sheet"]))
    module, _, function = told["work"].partition(":")
    try:
        getattr(importlib.import_module(module), function)(setting, sheet, **told["given"])
    except NotRunError as error:
        sheet.not_run("what follows" if sheet.findings else "this stage", str(error))


if __name__ == "__main__":
    main()
