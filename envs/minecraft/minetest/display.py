"""A display server of one's own: Xvfb, for nobody else to see, on a free number."""

from __future__ import annotations

import os
import secrets
import select
import struct
import subprocess
import time
from pathlib import Path

from lssvwm.envs.minecraft.minetest.build import find_program
from lssvwm.worldmodel.common.errors import InputError

_FAMILY_ANY = 65535


class Display:
    """A running Xvfb with one screen of `width` x `height`. It ends with `close`, or with this process.

    Without TCP, and only for those who can read the cookie in `folder`; `variables` are what a client's environment
    needs to reach it. `shim`: the library that ends it with this process, which then also removes `folder`.

    Raises InputError when Xvfb is missing or does not start within `timeout` seconds.
    """

    def __init__(self, program: str, width: int, height: int, folder: Path, shim: Path, timeout: float) -> None:
        cookie = folder / "cookie"
        _write_cookie(cookie)
        command = [find_program(program, "xvfb"), "-screen", "0", f"{width}x{height}x24", "-nolisten", "tcp"]
        environment = {
            **os.environ,
            "LD_PRELOAD": str(shim),
            "LSSVWM_PARENT": str(os.getpid()),
            "LSSVWM_FOLDER": str(folder),
        }
        log = folder / "display.log"
        reading, writing = os.pipe()
        try:
            with log.open("wb") as output:
                self.process = subprocess.Popen(
                    [*command, "-auth", str(cookie), "-displayfd", str(writing)],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    pass_fds=(writing,),
                    start_new_session=True,  # Ctrl-C is for this process, which then closes the display in order
                    env=environment,
                )
            os.close(writing)
            writing = -1
            number = _read_line(reading, timeout)
        finally:
            os.close(reading)
            if writing >= 0:
                os.close(writing)
        if number is None:
            self.close()
            tail = log.read_text(errors="replace")[-2000:]
            raise InputError(f"{command[0]} opened no display within {timeout:g} s; it says:\n{tail}")
        self.variables = {"DISPLAY": f":{number}", "XAUTHORITY": str(cookie)}

    def close(self) -> None:
        """End Xvfb."""
        stop(self.process)


def stop(process: subprocess.Popen[bytes], patience: float = 5.0) -> None:
    """Ask `process` to end, after `patience` seconds end it, and wait until it has."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            process.kill()
    process.wait()


def _read_line(descriptor: int, timeout: float) -> str | None:
    end, text, poll = time.monotonic() + timeout, b"", select.poll()
    poll.register(descriptor, select.POLLIN)
    while not text.endswith(b"\n"):
        if not poll.poll(max(end - time.monotonic(), 0) * 1000):
            return None
        part = os.read(descriptor, 64)
        if not part:
            return None
        text += part
    return text.decode().strip()


def _write_cookie(path: Path) -> None:
    # An Xauthority entry, see Xauth(3): it fits any address and any display number.
    def field(value: bytes) -> bytes:
        return struct.pack(">H", len(value)) + value

    entry = struct.pack(">H", _FAMILY_ANY) + field(b"") + field(b"")
    path.write_bytes(entry + field(b"MIT-MAGIC-COOKIE-1") + field(secrets.token_bytes(16)))
    path.chmod(0o600)
