"""`python -m lssvwm.agents.report RUN`: where the report of a run is, or with `--serve` a server of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from lssvwm.agents.report.serve import HOST, server
from lssvwm.worldmodel.common.command_line import run_main, started_as
from lssvwm.worldmodel.common.errors import InputError


@dataclass(frozen=True)
class Options:
    """Say where the report of a run is, or serve it to browsers of this machine. The run may still go on."""

    run: tyro.conf.Positional[Path]
    """Folder of a run (train_agent.py --out)."""
    serve: bool = False
    """Serve it on 127.0.0.1 until Ctrl-C."""
    port: int = 0
    """TCP port; 0 takes one that is free."""


def main(args: Sequence[str] | None = None) -> None:
    """Parse the command line, and serve if asked to."""
    options = tyro.cli(Options, args=args, prog=started_as("lssvwm.agents.report"))
    page = options.run / "report" / "index.html"
    if not page.is_file():
        raise InputError(f"{page} does not exist: name the folder of a run of train_agent.py that has begun")
    if not options.serve:
        print(page.resolve())
        return
    with server(page.parent, options.port) as serving:
        print(f"http://{HOST}:{serving.server_port}/ until Ctrl-C", flush=True)
        try:
            serving.serve_forever()
        except KeyboardInterrupt:
            return


if __name__ == "__main__":
    run_main(main)
