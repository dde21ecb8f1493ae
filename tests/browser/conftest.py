"""Chromium for the tests, and a server that says what a test wants said."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import threading
import time
from array import array
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from rtvi_actors.config import Config
from rtvi_actors.edge import app, console, start
from rtvi_actors.edge.wire import AudioIn, MessageIn, decode, encode_audio, encode_message
from rtvi_actors.errors import CapacityError
from rtvi_actors.rtvi.messages import Message, to_json

HERE = Path(__file__).parent
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = [
    "--autoplay-policy=no-user-gesture-required",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-quic",
]
DEADLINE_S = 20.0


@pytest.fixture(scope="module")
def browsers() -> Iterator[Callable[..., Any]]:
    """``browsers(*flags)``: a Chromium with these flags, the same one for a module's tests."""
    playwright = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("needs chromium: `make test` installs it where it may")
    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
    with playwright.sync_playwright() as driver:
        running: dict[tuple[str, ...], Any] = {}

        def start(*flags: str) -> Any:
            if flags not in running:
                arguments = [*FLAGS, *sandbox, *flags]
                running[flags] = driver.chromium.launch(executable_path=CHROMIUM, headless=True, args=arguments)
            return running[flags]

        yield start
        for browser in running.values():
            browser.close()


@pytest.fixture
def launch(browsers: Callable[..., Any]) -> Iterator[Callable[..., Any]]:
    """``launch(*flags)``: a Chromium with these flags, whose pages are closed after the test."""
    used = []

    def start(*flags: str) -> Any:
        used.append(browsers(*flags))
        return used[-1]

    yield start
    for browser in used:
        for context in browser.contexts:
            context.close()


@dataclass
class Script:
    """A server with the console's own routes and a bot that the test plays.

    :meth:`say` and :meth:`sound` send to the page; ``got`` and ``heard`` are what came from it.
    """

    url: str = ""
    got: list[dict[str, Any]] = field(default_factory=list)
    """Messages of the client, in order."""
    heard: list[AudioIn] = field(default_factory=list)
    """The microphone."""
    connections: int = 0
    refusal: str = ""
    """Why nobody gets a place, if not ""."""
    answers_ready: bool = True
    wanted: Any = None
    """What the last one who came asked for."""
    facts: dict[str, Any] = field(default_factory=dict)
    """What the scheduler says."""
    own: list[dict[str, Any]] = field(default_factory=list)
    """The sessions of this edge."""
    _loop: asyncio.AbstractEventLoop | None = None
    _socket: WebSocket | None = None

    # -------------------------------------------------------------------------------------------------- what the test does

    def say(self, kind: str, data: Any = None, message_id: str | None = None) -> None:
        """Send one RTVI message."""
        self._do(self._send(encode_message(to_json(Message(kind, data, message_id)))))

    def sound(self, samples: int, amplitude: int = 8_000) -> None:
        """Send ``samples`` samples of a rough tone (24 kHz), in one burst."""
        tone = array("h", [amplitude if index // 30 % 2 else -amplitude for index in range(samples)])
        self._do(self._send(encode_audio(tone.tobytes(), 24_000)))

    def close(self, code: int, reason: str) -> None:
        """End the connection."""
        assert self._socket is not None
        self._do(self._socket.close(code, reason))

    def types(self) -> list[str]:
        """Types of what came."""
        return [message["type"] for message in self.got]

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        assert self._loop is not None
        asyncio.run_coroutine_threadsafe(work, self._loop).result(DEADLINE_S)

    async def _send(self, data: bytes) -> None:
        assert self._socket is not None
        await self._socket.send_bytes(data)

    # -------------------------------------------------------------------------------------------------- what the app sees

    async def reserve_anywhere(self, wanted: Any) -> tuple[str, str]:
        self.wanted = wanted
        if self.refusal:
            raise CapacityError(self.refusal, 1_000)
        return "token", ""

    async def app_status(self) -> dict[str, Any]:
        return self.facts

    def status(self) -> list[dict[str, Any]]:
        return self.own

    async def serve(self, socket: WebSocket) -> None:
        await socket.accept()
        self._socket = socket
        self._loop = asyncio.get_running_loop()
        self.connections += 1
        try:
            while True:
                await self._take(decode(await socket.receive_bytes()))
        except (WebSocketDisconnect, KeyError):
            return  # the page or the test has closed it

    async def _take(self, received: Any) -> None:
        if isinstance(received, AudioIn):
            self.heard.append(received)
        elif isinstance(received, MessageIn):
            message = json.loads(received.text)
            self.got.append(message)
            if message["type"] == "client-ready" and self.answers_ready:
                await self._send(encode_message(to_json(Message("bot-ready", {"version": "2.2.0", "about": {}}, message["id"]))))


NO_SESSIONS: dict[str, Any] = {
    "app": "rtvi_actors",
    "capacity": {"sessions": 0, "max_sessions": 4, "free": 2, "granted": 0, "refused": 0},
    "sessions": [],
    "engines": [{"kind": kind, "state": "up", "memory_bytes": 80_000_000} for kind in ("stt", "llm", "tts")],
}


@pytest.fixture
def script() -> Iterator[Script]:
    """A :class:`Script` on a port of the loopback."""
    script = Script(facts=dict(NO_SESSIONS))
    config = Config().replace(bots={"shop": "apps:Shop"})
    sessions: Any = script
    web = Starlette(
        routes=[*console.routes(sessions, config), *start.routes(sessions, config), WebSocketRoute("/ws", script.serve)],
    )
    listener = app.bind("127.0.0.1", 0)
    script.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    server = app.Server(web, config.edge)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listener])), name="scripted server")
    thread.start()
    yield script
    server.should_exit = True
    thread.join(DEADLINE_S)
    assert not thread.is_alive()


def wait_until(condition: Callable[[], Any], what: str) -> None:
    """Wait until ``condition`` is true, 20 s at most."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, f"no {what} within {DEADLINE_S:.0f} s"
        time.sleep(0.02)


@pytest.fixture(name="wait_until")
def _wait_until() -> Callable[[Callable[[], Any], str], None]:
    return wait_until
