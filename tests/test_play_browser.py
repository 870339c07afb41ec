"""The page in a real browser: keys move both pictures, and whatever else it has does what it says."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from plays import Served, corridor_run, options_of

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
pytest.importorskip("selenium")
if not (shutil.which("chromium") and shutil.which("chromedriver")):
    pytest.skip("needs chromium and chromium-driver: .ci/system-packages browser", allow_module_level=True)

from selenium.webdriver import Chrome
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.support.select import Select

FLAGS = (
    "headless=new no-sandbox disable-gpu disable-quic no-first-run disable-background-networking "
    "disable-component-update disable-sync"
)


class Window:
    """The page, as somebody at the keyboard has it."""

    def __init__(self, folder: Path) -> None:
        self.options = options_of(corridor_run(folder), policy="plays:script=1", speed=30.0)
        self.served = Served(self.options)
        wanted = Options()
        wanted.binary_location = shutil.which("chromium") or ""
        for flag in (*FLAGS.split(), f"user-data-dir={folder / 'profile'}", "window-size=1200,900"):
            wanted.add_argument(f"--{flag}")
        wanted.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        self.chrome = Chrome(options=wanted, service=Service(shutil.which("chromedriver")))
        self.chrome.set_script_timeout(20)
        self.chrome.get(self.served.url)
        self.until(lambda: self.text("status-text") == "connected" and self.frames("dream") > 0)

    def text(self, name: str) -> str:
        return str(self.chrome.execute_script("return document.getElementById(arguments[0]).textContent", name))

    def frames(self, side: str) -> int:
        return int(self.chrome.execute_script(f"return Number(document.getElementById('{side}').dataset.frames || 0)"))

    def pixels(self, side: str) -> Any:
        code = (
            f"const c = document.getElementById('{side}');"
            "return Array.from(c.getContext('2d').getImageData(0, 0, c.width, c.height).data).join()"
        )
        return self.chrome.execute_script(code)

    def click(self, name: str) -> None:
        self.chrome.find_element("id", name).click()

    def press(self, key: str) -> None:
        ActionChains(self.chrome, duration=0).key_down(key).key_up(key).perform()

    def played(self, side: str = "dream") -> int:
        return int(self.text(f"{side}-played").replace("–", "-1"))

    def until(self, holds: Callable[[], bool], seconds: float = 15) -> None:
        end = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < end, (self.text("status-text"), self.text("notice"), self.text("hint"))
            time.sleep(0.02)

    def begin(self) -> None:
        """Go to another context, where the policy goes on if it plays."""
        number = self.text("again")
        self.until(lambda: self.chrome.find_element("id", "next").is_enabled())
        self.click("next")
        self.until(lambda: self.text("again") != number)

    def close(self) -> None:
        self.chrome.quit()
        self.served.stop()


@pytest.fixture(scope="module")
def window(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Window]:
    window = Window(tmp_path_factory.mktemp("run"))
    try:
        yield window
        severe = [line for line in window.chrome.get_log("browser") if line["level"] == "SEVERE"]
        assert [line for line in severe if "WebSocket" not in line["message"]] == []  # while the server was away
    finally:
        window.close()


def test_keys_mouse_and_buttons_move_both(window: Window) -> None:
    assert window.pixels("real") == window.pixels("dream")  # the same recorded frame
    before = window.pixels("real"), window.pixels("dream")
    assert [cap.text for cap in window.chrome.find_elements("css selector", "kbd")] == ["0", "1"]
    window.press("1")
    window.until(lambda: window.played("real") == window.played() == 1)
    window.until(lambda: window.pixels("real") != before[0] and window.pixels("dream") != before[1])
    assert float(window.chrome.execute_script("return document.body.dataset.latency")) > 0
    window.begin()
    window.chrome.find_element("css selector", ".key[data-action='1']").click()
    window.until(lambda: window.played() == window.played("real") == 1)
    time.sleep(0.2)
    assert window.played() == 1  # it waits for the next one


def test_pause_step_snapshot_and_back(window: Window) -> None:
    window.begin()
    window.press("1")
    window.until(lambda: window.played() == 1)
    window.click("pause")
    window.until(lambda: "Paused" in window.text("hint"))
    window.click("keep")
    window.until(lambda: window.text("back") == "Go back to 1")
    there = window.pixels("dream")
    window.press("0")
    window.until(lambda: window.played() == 2)
    window.until(lambda: window.pixels("dream") != there)
    moved = window.pixels("real")
    window.click("back")
    window.until(lambda: window.pixels("dream") == there)
    assert window.pixels("real") == moved
    assert (window.played(), window.played("real")) == (1, 2)
    assert window.text("real-note") == "has not gone back"
    window.click("pause")
    window.until(lambda: "the real world cannot" in window.text("hint"))


def test_policy_takes_over_and_a_key_takes_back(window: Window) -> None:
    window.begin()
    window.click("policy")
    window.until(lambda: window.played() >= 2)
    assert "The policy plays" in window.text("hint") or "over" in window.text("hint")
    window.begin()
    window.until(lambda: window.played() >= 1)
    window.press("0")
    window.until(lambda: window.text("policy").startswith("Hand over"))


def test_settings_and_saving(window: Window) -> None:
    window.begin()
    Select(window.chrome.find_element("id", "steps")).select_by_visible_text("4")
    window.until(lambda: window.text("dream-note") == "4 denoising steps")
    Select(window.chrome.find_element("id", "uncertainty")).select_by_value("draws")
    window.press("1")
    window.until(lambda: window.played() == 1 and window.text("doubt-value") != "–")
    assert "RMS" in window.text("doubt-name")
    window.click("save-video")
    window.until(lambda: ".mp4" in window.text("notice"))
    assert Path(window.text("notice").removeprefix("Saved ")).stat().st_size > 0


def test_a_page_in_the_background_pauses(window: Window) -> None:
    window.begin()
    Select(window.chrome.find_element("id", "idle")).select_by_value("0")
    window.press("1")
    window.until(lambda: window.played() > 2)  # it runs on by itself
    hide = "Object.defineProperty(document, 'hidden', {value: arguments[0], configurable: true});"
    window.chrome.execute_script(f"{hide} document.dispatchEvent(new Event('visibilitychange'))", True)
    window.until(lambda: window.text("pause") == "Play")
    time.sleep(0.2)
    played = window.played()
    time.sleep(0.2)
    assert window.played() == played
    window.chrome.execute_script(hide, False)
    Select(window.chrome.find_element("id", "idle")).select_by_value("")


def test_two_tabs(window: Window) -> None:
    first = window.chrome.current_window_handle
    window.begin()
    window.chrome.switch_to.new_window("window")
    window.chrome.get(window.served.url)
    window.until(lambda: window.text("status-text") == "watching")
    assert not window.chrome.find_element("id", "next").is_enabled()
    window.press("1")
    window.until(lambda: "another page drives" in window.text("notice"))
    window.click("take")
    window.until(lambda: "you drive" in window.text("status-text"))
    window.press("1")
    window.until(lambda: window.played() == 1)
    window.chrome.close()
    window.chrome.switch_to.window(first)
    window.until(lambda: window.text("status-text") == "connected" and window.played() == 1)


def test_it_comes_back_when_the_server_does(window: Window) -> None:
    port = window.served.port
    window.served.stop()
    window.until(lambda: "no connection" in window.text("status-text"))
    window.served = Served(window.options, port=port)
    window.until(lambda: window.text("status-text") == "connected")
    window.until(lambda: window.played() == 0)
    window.press("1")
    window.until(lambda: window.played() == window.played("real") == 1)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_it_fits_in_light_and_dark(window: Window, scheme: str, width: int) -> None:
    tell = window.chrome.execute_cdp_cmd
    tell("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]})
    size = {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": width < 500}
    tell("Emulation.setDeviceMetricsOverride", size)
    look = (
        "const s = getComputedStyle(document.documentElement);"
        "return [s.backgroundColor, s.color, document.documentElement.scrollWidth, innerWidth]"
    )
    ground, ink, wide, view = window.chrome.execute_script(look)
    bright = [sum(map(int, color[color.index("(") + 1 : -1].split(",")[:3])) for color in (ground, ink)]
    assert (bright[0] > bright[1]) == (scheme == "light")
    assert abs(bright[0] - bright[1]) > 450
    assert wide <= view
    tell("Emulation.clearDeviceMetricsOverride", {})
