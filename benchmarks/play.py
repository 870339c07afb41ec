"""Frames per second of the page of `envs.play`, and how long a key takes to its picture, in a real browser.

    python -m benchmarks.play [CHECKPOINT] [--real recorded] [--contexts FOLDER] [--steps 1 2 4] [--threads 1]

The dream and the page's server have `--threads` threads; the browser, which needs little, shares the machine. "fps" is
of pictures shown while a key is held and the speed is no limit. "tap" is from one press, while nothing is computed, to
its picture on the page; the server's share of it is a step of the dream, and of the real world where there is one.
"CPU" is what the server's process spent per picture: 1000 / CPU is what a core of its own would show per second.
Without CHECKPOINT, a model with random weights dreams noise.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from selenium.webdriver import Chrome
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.support.select import Select

from benchmarks.dream import contexts
from benchmarks.imagination import make_model
from benchmarks.shared.machine import cpu_seconds
from lssvwm.worldmodel.checkpoint import save_checkpoint

FLAGS = "headless=new no-sandbox disable-gpu disable-quic no-first-run disable-background-networking disable-sync"


def served(args: argparse.Namespace, out: str) -> tuple[subprocess.Popen[str], str]:
    """The command in a process of its own, and its address."""
    command = [
        sys.executable,
        "-m",
        "lssvwm.envs.play",
        str(args.checkpoint),
        "--no-browser",
        "--port",
        "0",
        "--out",
        out,
    ]
    command += ["--speed", "60", "--past", str(args.past)]
    for name in ("real", "contexts"):
        if getattr(args, name) is not None:
            command += [f"--{name}", str(getattr(args, name))]
    threads = {"OMP_NUM_THREADS": str(args.threads)}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, **threads})
    assert process.stdout is not None
    line = process.stdout.readline()
    if "Play at " not in line:
        raise SystemExit("the page was not served")
    return process, line.split("Play at ")[1].strip()


def opened(address: str, profile: str) -> Chrome:
    wanted = Options()
    wanted.binary_location = "/usr/bin/chromium"
    for flag in (*FLAGS.split(), f"user-data-dir={profile}"):
        wanted.add_argument(f"--{flag}")
    chrome = Chrome(options=wanted, service=Service("/usr/bin/chromedriver"))
    chrome.get(address)
    wait(lambda: shown(chrome) > 0)
    Select(chrome.find_element("id", "idle")).select_by_value("")
    return chrome


def wait(holds: Any, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            raise SystemExit("the page did not answer")
        time.sleep(0.01)


def shown(chrome: Chrome) -> int:
    return int(chrome.execute_script("return Number(document.getElementById('dream').dataset.frames || 0)"))


def answers(chrome: Chrome) -> int:
    return int(chrome.execute_script("return Number(document.body.dataset.answers || 0)"))


def fresh(chrome: Chrome, number: int) -> None:
    """Go to the next context: a world may have ended."""
    chrome.find_element("id", "next").click()
    again = f"Same again ({number})"
    wait(lambda: chrome.execute_script("return document.getElementById('again').textContent") == again)


def noise(folder: Path) -> Path:
    """A checkpoint of random weights, and episodes of noise."""
    model = make_model()
    save_checkpoint(folder / "model", model, world={"episodes": str(contexts(folder / "episodes", model))}, step=0)
    return folder / "model"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, nargs="?")
    parser.add_argument("--real")
    parser.add_argument("--contexts", type=Path)
    parser.add_argument("--past", type=int, default=64)
    parser.add_argument("--steps", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--key", help="held and tapped; None takes that of the second action")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--taps", type=int, default=12)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as out:
        args.checkpoint = args.checkpoint or noise(Path(out))
        process, address = served(args, out)
        chrome = opened(address, f"{out}/profile")
        args.key = args.key or chrome.find_elements("css selector", ".key:nth-child(2) kbd")[0].text.lower()
        print(f"| steps | fps | CPU | tap, median | tap, slowest of {args.taps} |\n|---|---|---|---|---|")
        for number, steps in enumerate(args.steps, 1):
            fresh(chrome, number)
            Select(chrome.find_element("id", "steps")).select_by_value(str(steps))
            ActionChains(chrome, duration=0).key_down(args.key).perform()
            time.sleep(0.5)
            before, begin, spent = shown(chrome), time.perf_counter(), cpu_seconds(process.pid)
            time.sleep(args.seconds)
            pictures = shown(chrome) - before
            fps = pictures / (time.perf_counter() - begin)
            each = 1000 * (cpu_seconds(process.pid) - spent) / max(pictures, 1)
            ActionChains(chrome, duration=0).key_up(args.key).perform()
            time.sleep(1)
            taps = []
            for _ in range(args.taps):
                count = answers(chrome)
                ActionChains(chrome, duration=0).key_down(args.key).key_up(args.key).perform()
                wait(lambda count=count: answers(chrome) > count)
                taps.append(float(chrome.execute_script("return document.body.dataset.latency")))
            print(
                f"| {steps} | {fps:.1f} | {each:.0f} ms | {statistics.median(taps):.0f} ms | {max(taps):.0f} ms |",
                flush=True,
            )
        chrome.quit()
        process.terminate()
        process.wait()


if __name__ == "__main__":
    main()
