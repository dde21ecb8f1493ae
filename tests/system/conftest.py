"""What the system tests share: configurations of fake models, an app with them, and ways to look at an app from outside."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
import tomllib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from rtvi_actors.config import Config
from rtvi_actors.errors import RtviActorsError
from rtvi_actors.testing import recordings
from rtvi_actors.testing.client import RtviClient

CLUSTERS = Path(__file__).parents[2] / "clusters"
FAKES = {
    "stt": {"backend": "rtvi_actors.testing.fakes:FakeStt"},
    "llm": {"backend": "rtvi_actors.testing.fakes:FakeLlm"},
    "tts": {"backend": "rtvi_actors.testing.fakes:FakeTts"},
}
DEADLINE_S = 60.0
"""For anything that has to happen at all, on a loaded machine."""

ConfigFile = Callable[..., str]
Eventually = Callable[..., Awaitable[Any]]


def _toml(sections: dict[str, dict[str, Any]]) -> str:
    """TOML of plain values, which JSON writes the same way."""
    lines = []
    for name, values in sections.items():
        lines += [f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in values.items())]
    return "\n".join(lines) + "\n"


@pytest.fixture(scope="session")
def config_file(tmp_path_factory: pytest.TempPathFactory) -> ConfigFile:
    """``config_file(scheduler={...}, profile="dense.toml")``: path of a file with fake models and these keys."""

    def write(profile: str | None = None, **sections: dict[str, Any]) -> str:
        base = tomllib.loads((CLUSTERS / profile).read_text()) if profile else {}
        merged = {
            name: {**base.get(name, {}), **FAKES.get(name, {}), **sections.get(name, {})} for name in {**base, **FAKES, **sections}
        }
        path = tmp_path_factory.mktemp("config") / "app.toml"
        path.write_text(_toml(merged))
        return str(path)

    return write


@pytest.fixture(scope="module")
def shared_app(start_app: Any, config_file: ConfigFile) -> Iterator[Any]:
    """An app with fake models and the dense profile: one group of stages that 16 sessions share. Not to be broken."""
    with start_app(config_file("dense.toml")) as running:
        yield running


@pytest.fixture
def eventually() -> Eventually:
    """``await eventually(condition)``: wait until it gives something true, and return that. May be a coroutine function."""

    async def wait(condition: Callable[[], Any], what: str = "", deadline_s: float = DEADLINE_S) -> Any:
        deadline = time.monotonic() + deadline_s
        while True:
            found = condition()
            if asyncio.iscoroutine(found):
                found = await found
            if found:
                return found
            assert time.monotonic() < deadline, f"not within {deadline_s:.0f} s: {what or condition}"
            await asyncio.sleep(0.05)

    return wait


@contextlib.asynccontextmanager
async def _connected(url: str, **options: Any) -> AsyncIterator[RtviClient]:
    deadline = time.monotonic() + DEADLINE_S
    options = {"microphone": False, **options}
    while True:
        client = RtviClient(url, **options)
        try:
            await client.__aenter__()
            break
        except RtviActorsError:
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.05)
    try:
        yield client
    finally:
        await client.close()


@pytest.fixture
def connected() -> Callable[..., contextlib.AbstractAsyncContextManager[RtviClient]]:
    """``async with connected(ws_url) as client``: a session, as soon as there is a place. Without microphone unless asked."""
    return _connected


@pytest.fixture
def answered() -> Callable[..., Awaitable[str]]:
    """``await answered(client, "text")``: type it; the fake model's answer to it, once its voice is heard. Not to its end."""

    async def ask(client: RtviClient, text: str) -> str:
        utterance = client.send_text(text)

        def now(*kinds: str) -> Awaitable[Any]:
            return client.wait(lambda received: received.type in kinds, DEADLINE_S, utterance.first_message)

        await now("bot-llm-started")
        await now("bot-llm-stopped")
        await now("bot-started-speaking")
        answer = client.heard(utterance).answer
        assert text in answer
        return answer

    return ask


@pytest.fixture
def serves(connected: Any, answered: Any) -> Callable[[str], Awaitable[None]]:
    """``await serves(ws_url)``: a new client is admitted and answered."""

    async def check(url: str) -> None:
        async with connected(url) as client:
            await answered(client, "are you there")

    return check


@pytest.fixture
def ready() -> Callable[[str], Awaitable[bool]]:
    """``await ready(url)``: what GET /ready says; False as well if nobody answers."""

    async def ask(url: str) -> bool:
        async with httpx.AsyncClient(timeout=5) as web:
            try:
                return (await web.get(f"{url}/ready")).status_code == 200
            except httpx.HTTPError:
                return False

    return ask


@pytest.fixture(scope="session")
def utterances() -> list[recordings.Recording]:
    """Human speech, shortest first; synthesized where the recordings are not installed."""
    found = recordings.recorded("librivox") if recordings.available() else asyncio.run(recordings.synthesized(Config()))
    return sorted(found, key=lambda recording: recording.duration_ms)


@pytest.fixture
def actors() -> Callable[[Any, str], list[psutil.Process]]:
    """``actors(app, "SttActor")``: the processes of the app's actors of that class."""

    def find(app: Any, actor_class: str) -> list[psutil.Process]:
        found = []
        for process in psutil.Process(app.process.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                title = " ".join(process.cmdline()).strip()
                if title == f"ray::{actor_class}" or title.startswith(f"ray::{actor_class}."):
                    found.append(process)
        return found

    return find
