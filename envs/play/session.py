"""Who is connected, and the clock: when the game takes a step, and who is told of it.

The game runs in one thread of its own, so that the server answers while a frame is dreamt. It is asked for a step only
while there is a reason to: a key is held, a policy plays, or the world runs on by itself, and somebody looks.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

from starlette.websockets import WebSocket, WebSocketDisconnect

from lssvwm.envs.play.game import Game
from lssvwm.envs.play.messages import DREAM, REAL, Order, RateLimit, parse, picture
from lssvwm.worldmodel.common.errors import InputError, MissingExtraError

T = TypeVar("T")
_log = logging.getLogger(__name__)

RATE, BURST = 100.0, 200
"""Messages of a page per second, and at once."""
SEATS = 8
"""Pages that may look at the same time."""
PATIENCE, PATIENCE_WITH_POLICY = 60.0, 600.0
"""Seconds without a message of the player after which the game pauses."""
TOO_FAST, FULL = "too fast: at most 100 messages a second", "too many pages are open: close one"
_POLICY_VIOLATION, _TRY_LATER = 1008, 1013


@dataclass(eq=False)
class Page:
    """An open page, and what it has yet to be told."""

    socket: WebSocket
    news: asyncio.Event = field(default_factory=asyncio.Event)
    says: list[dict[str, Any]] = field(default_factory=list)

    def say(self, kind: str, text: str) -> None:
        """Show a sentence on the page."""
        self.says = [*self.says[-9:], {"type": kind, "text": text}]
        self.news.set()


class Session:
    """One game, the pages that look at it, the first of which drives it."""

    def __init__(self, game: Game, thread: ThreadPoolExecutor, hello: dict[str, Any], speed: float) -> None:
        """`game` was made in `thread`, the only one of its pool; `hello` is what a page is told first."""
        self.game, self._thread = game, thread
        self._hello = json.dumps({"type": "hello", **hello})
        self._wake = asyncio.Event()
        self._pages: list[Page] = []
        self._view: tuple[dict[str, Any], list[bytes]] = ({}, [])
        self.speed, self.paused, self.policy, self.begun = speed, False, False, False
        self.held: int | None = None
        self.idle: int | None = game.keys.idle
        self._tapped: int | None = None
        self._once: list[int | None] = []
        self._asked: int | None = None
        self._answer: int | None = None
        self._heard = time.monotonic()
        self.steps_taken = 0

    async def open(self) -> None:
        """Get ready for pages."""
        await self._look()

    async def close(self) -> None:
        """Close the game."""
        await self._in_thread(self.game.close)
        self._thread.shutdown()

    async def attend(self, socket: WebSocket) -> None:
        """Serve one page until it leaves."""
        await socket.accept()
        if len(self._pages) >= SEATS:
            await socket.close(_TRY_LATER, FULL)
            return
        page = Page(socket)
        self._pages.append(page)
        writer = asyncio.create_task(self._write(page))
        try:
            self._tell()
            await self._read(page)
        finally:
            writer.cancel()
            if page is self._pages[0]:
                self.held, self._tapped = None, None
                self._heard = time.monotonic()
            self._pages.remove(page)
            self._tell()

    async def run(self) -> None:
        """Take steps while there is a reason to, for ever."""
        while True:
            while not self._due():
                self._wake.clear()
                await self._wake.wait()
            began = time.monotonic()
            action = self._next_action()
            try:
                await self._in_thread(self.game.step, action)
                self.steps_taken += 1
                await self._look()
            except Exception as error:
                self._stop(error)
            if self._expired():
                self.paused, self._once = True, []
                self._say("notice", "Paused, since nobody pressed a key. Play goes on with the next one.")
            await asyncio.sleep(max(0.0, 1 / self.speed - (time.monotonic() - began)))

    def _due(self) -> bool:
        if not self._pages or self.game.over:
            return False
        if self._once:
            return True
        if self.paused:
            return False
        return self.policy or (self.held, self._tapped) != (None, None) or (self.begun and self.idle is not None)

    def _next_action(self) -> int | None:
        """The action that is due; None is the policy's."""
        self._answer, self._asked = self._asked, None
        if self._once:
            return self._once.pop(0)
        if self.policy:
            return None
        chosen = self.held if self._tapped is None else self._tapped
        self._tapped = None
        return self.idle if chosen is None else chosen

    def _expired(self) -> bool:
        patience = PATIENCE_WITH_POLICY if self.policy else PATIENCE
        return self.held is None and not self.paused and time.monotonic() - self._heard > patience

    def _stop(self, error: Exception) -> None:
        if not isinstance(error, InputError):
            _log.error("the game failed", exc_info=error)
        self.paused, self.policy, self._once = True, False, []
        self._say("error", _sentence(error))

    async def _read(self, page: Page) -> None:
        limit = RateLimit(RATE, BURST)
        while True:
            try:
                message = await page.socket.receive()
            except WebSocketDisconnect:
                return
            if message["type"] == "websocket.disconnect":
                return
            if not limit.allows():
                await page.socket.close(_POLICY_VIOLATION, TOO_FAST)
                return
            text = message.get("text")
            try:
                if text is None:
                    raise InputError("orders are text, not binary: send {'do': ..., 'value': ...}")
                order = parse(text, len(self.game.keys.bindings))
                if order.do == "take":
                    self._seat_first(page)
                elif page is not self._pages[0]:
                    raise InputError("another page drives: take the keys first")
                else:
                    await self._obey(order, page)
            except (InputError, MissingExtraError) as error:
                page.say("error", str(error))
            except Exception as error:
                self._stop(error)

    def _seat_first(self, page: Page) -> None:
        self._pages.remove(page)
        self._pages.insert(0, page)
        self.held = None
        self._tell()

    async def _obey(self, order: Order, page: Page) -> None:
        self._heard = time.monotonic()
        value = order.value
        match order.do:
            case "hold":
                self._hold(value, order.id)
            case "step":
                self._step_once(value)
            case "pause":
                self.paused, self.begun = value, True
            case "policy":
                if value and self.game.policy is None:
                    raise InputError("no policy was loaded: start again with --policy")
                self.policy, self.paused = value, False
            case "idle":
                self.idle = value
            case "speed":
                self.speed = float(value)
            case "begin":
                self.begun, self.paused = False, False
                self.held, self._tapped, self._once = None, None, []
                await self._in_thread(self.game.begin, value)
            case "keep":
                await self._in_thread(self.game.keep)
            case "back":
                await self._in_thread(self.game.back)
            case "steps":
                await self._in_thread(lambda: self.game.change(steps=value))
            case "uncertainty":
                await self._in_thread(lambda: self.game.change(uncertainty=value))
            case "save":
                page.say("notice", await self._in_thread(lambda: self.game.save(value, self.speed)))
        if order.do != "hold":
            await self._look()
        self._wake.set()

    def _hold(self, action: int | None, id: int | None) -> None:
        self.held = action
        if action is None or self.game.over:
            return
        self._asked = id
        if self.policy:
            self.policy = False  # whoever presses a key takes over
        if self.paused:
            self._once = [*self._once[-1:], action]
        else:
            self._tapped, self.begun = action, True

    def _step_once(self, action: int | None) -> None:
        chosen = next((a for a in (action, self.held, self.idle) if a is not None), None)
        if chosen is None and not self.policy:
            raise InputError("no action does nothing in this world: while it is paused, each key press is one step")
        self.paused = True
        self._once = [*self._once[-1:], None if self.policy and action is None else chosen]

    async def _in_thread(self, work: Callable[..., T], *args: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *args)

    async def _look(self) -> None:
        """Show what the game shows now."""

        def look() -> tuple[dict[str, Any], list[bytes]]:
            seen = self.game.pictures()
            real = [] if seen.real is None else [picture(REAL, seen.real)]
            return self.game.state(), [*real, picture(DREAM, seen.dream)]

        self._view = await self._in_thread(look)
        self._tell()

    def _tell(self) -> None:
        for page in self._pages:
            page.news.set()
        self._wake.set()

    def _say(self, kind: str, text: str) -> None:
        for page in self._pages:
            page.say(kind, text)

    async def _write(self, page: Page) -> None:
        """Tell a page the newest only: one that is slow skips what lay between."""
        try:
            await page.socket.send_text(self._hello)
            while True:
                await page.news.wait()
                page.news.clear()
                says, page.says = page.says, []
                state, pictures = self._view
                drives = page is self._pages[0]
                own = {"drives": drives, "pages": len(self._pages), "answer": self._answer if drives else None}
                clock = {"paused": self.paused, "policy": self.policy, "speed": self.speed, "idle": self.idle}
                waiting = not self.paused and not self._due()
                for message in (*says, {"type": "state", **state, **own, **clock, "waiting": waiting}):
                    await page.socket.send_text(json.dumps(message))
                for data in pictures:
                    await page.socket.send_bytes(data)
        except (WebSocketDisconnect, RuntimeError):
            return  # it left; whoever reads from it notices too


def _sentence(error: Exception) -> str:
    return str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
