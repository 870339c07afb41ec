"""Runs a command and leaves none of its processes behind, whatever happens to whom.

    guard.py FOLDER FD,FD,... COMMAND...        standard input: a pipe whose other end the caller holds

When the command ends, or the caller writes into the pipe, closes it or dies, even by SIGKILL, every process that came
of the command is killed: Minecraft too, which MineRL starts in a session of its own, out of the reach of a process
group. Then, when the caller is done with it too, FOLDER is removed; until then its log can be read there.
Only the standard library, and no other module of this project: it must start quickly and has little to go wrong.
"""

from __future__ import annotations

import ctypes
import os
import select
import shutil
import signal
import subprocess
import sys
import time

_PR_SET_CHILD_SUBREAPER = 36
_LOOK_SECONDS = 1.0  # how often to look whether the caller lives; a fork of the caller may hold the pipe open


def main(arguments: list[str]) -> int:
    """Run the command to its end; the exit status is the command's, negative for a signal."""
    folder, inherited, *command = arguments
    fds = [int(fd) for fd in inherited.split(",")]
    caller = os.getppid()
    # Orphans among the descendants become children of this process instead of vanishing from its sight.
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "cannot become the reaper of the processes of the command")
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_write, False)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    stopped = []
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGTERM, lambda *_: stopped.append(True))
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=fds, cwd=folder)
    for fd in fds:
        os.close(fd)  # the caller must see the end of the command's connection
    closed = False
    while not closed and not stopped and child.poll() is None:
        readable, _, _ = select.select([0, wake_read], [], [], _LOOK_SECONDS)
        if wake_read in readable:
            os.read(wake_read, 4096)
            reap(child.pid)
        closed = 0 in readable or os.getppid() != caller
    end_all(child)
    while not closed and not stopped:
        readable, _, _ = select.select([0], [], [], _LOOK_SECONDS)
        closed = 0 in readable or os.getppid() != caller
    shutil.rmtree(folder, ignore_errors=True)
    return child.returncode


def end_all(child: subprocess.Popen[bytes]) -> None:
    """Kill every descendant of this process, and wait until none is left."""
    while True:
        living = descendants(os.getpid())
        for pid in living:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        child.poll()
        reap(child.pid)
        if not living:
            child.wait()
            return
        time.sleep(0.01)


def reap(but: int) -> None:
    """Collect orphans that ended, but leave the child `but` to who waits for it."""
    for pid in descendants(os.getpid(), ended=True):
        if pid != but:
            try:
                os.waitpid(pid, os.WNOHANG)
            except ChildProcessError:
                continue  # not ours yet: its own parent lives


def descendants(root: int, ended: bool = False) -> list[int]:
    """Processes that come of `root`, by number: those that live, or with `ended` those that wait to be collected."""
    parents: dict[int, int] = {}
    over: set[int] = set()
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat") as file:
                    state, parent = file.read().rpartition(")")[2].split()[:2]
            except (FileNotFoundError, ProcessLookupError):
                continue  # it ended while we looked
            parents[int(name)] = int(parent)
            if state in "ZX":
                over.add(int(name))
    found, last = [], [root]
    while last:
        last = [pid for pid, parent in parents.items() if parent in last]
        found += last
    return [pid for pid in found if (pid in over) == ended]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
