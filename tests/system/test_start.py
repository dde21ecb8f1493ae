"""``POST /start`` as the JavaScript client's ``startBotAndConnect`` uses it: a place, a bot, its data, and one way in."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from rtvi_actors.errors import RtviActorsError
from rtvi_actors.testing.client import RtviClient

pytestmark = pytest.mark.system

BOTS = """
import rtvi_actors as ra


class Shop(ra.Bot):
    async def on_start(self, session: ra.Session) -> None:
        await session.say(f"Welcome to the shop, {session.body.get('user', 'stranger')}.")


class Clinic(ra.Bot):
    async def on_start(self, session: ra.Session) -> None:
        await session.say("This is the clinic.")
"""


@pytest.fixture(scope="module")
def started(start_app: Any, config_file: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """An app with one place, on a group of its own, and two bots to choose from."""
    file = tmp_path_factory.mktemp("bots") / "branches.py"
    file.write_text(BOTS)
    bots = {"shop": f"{file}:Shop", "clinic": f"{file}:Clinic"}
    with start_app(config_file(bots=bots, scheduler={"warm_groups": 1, "max_sessions": 1})) as running:
        yield running


@pytest.fixture
def start(started: Any, eventually: Any) -> Any:
    """``await start(bot="shop")``: the answer to POST /start, as soon as there is a place."""

    async def ask(**request: Any) -> dict[str, Any]:
        async with httpx.AsyncClient(timeout=10) as web:

            async def answer() -> dict[str, Any] | None:
                response = await web.post(f"{started.url}/start", json=request)
                assert response.status_code in (200, 503), response.text
                return response.json() if response.status_code == 200 else None

            found: dict[str, Any] = await eventually(answer, "a place")
            return found

    return ask


async def group(app: Any) -> str | None:
    """The name of the group that waits for a session, if there is one."""
    facts = await asyncio.to_thread(app.status)
    return facts["groups"][0]["name"] if facts["capacity"]["free"] else None


@pytest.mark.parametrize(
    ("request_", "welcome"),
    [
        ({"bot": "shop", "body": {"user": "Ada"}}, "Welcome to the shop, Ada."),
        ({"bot": "shop"}, "Welcome to the shop, stranger."),
        ({"bot": "clinic", "body": {"user": "Ada"}, "transport": "websocket"}, "This is the clinic."),
    ],
)
async def test_the_bot_of_choice_says_what_it_was_given(start: Any, request_: dict[str, Any], welcome: str) -> None:
    answer = await start(**request_)
    assert list(answer) == ["wsUrl"]
    async with RtviClient(answer["wsUrl"], microphone=False) as client:
        await client.wait_type("bot-stopped-speaking")
        said = [message.data["text"] for message in client.messages if message.type == "bot-tts-text"]
        assert " ".join(said) == welcome


async def test_one_place_one_token_one_session(started: Any, start: Any) -> None:
    url = (await start())["wsUrl"]
    async with httpx.AsyncClient() as web:
        full = await web.post(f"{started.url}/start")
        assert full.status_code == 503
        assert full.json()["retry_after_ms"] > 0
    with pytest.raises(RtviActorsError, match="503"):
        await _enter(url.split("?")[0])
    with pytest.raises(RtviActorsError, match="403"):
        await _enter(url[:-1])
    async with RtviClient(url, microphone=False) as client:
        assert client.bot_version
        with pytest.raises(RtviActorsError, match="403"):
            await _enter(url)
        assert (await client.turn(client.send_text("still here"))).answer


async def _enter(url: str) -> None:
    try:
        async with RtviClient(url, microphone=False):
            pass
    except RtviActorsError as refusal:
        # The client knows a refusal for want of places, and says only what it is.
        raise RtviActorsError(f"503: {refusal}" if refusal.retryable else str(refusal)) from None


async def test_a_place_that_nobody_takes_comes_back_with_its_group(started: Any, start: Any, eventually: Any) -> None:
    async def free() -> str | None:
        return await group(started)

    before = await eventually(free, "a group waits")
    url = (await start())["wsUrl"]
    assert await group(started) is None
    assert await eventually(free, "the place comes back") == before
    with pytest.raises(RtviActorsError, match="403"):
        await _enter(url)


async def test_what_cannot_be_met_is_refused_and_takes_no_place(started: Any) -> None:
    async with httpx.AsyncClient(timeout=10) as web:
        for content, status, detail in [
            (b'{"bot": "bakery"}', 400, "there are: clinic, shop"),
            (b'{"bot": "os:system"}', 400, "there are: clinic, shop"),
            (b'{"transport": "webrtc"}', 400, "websocket"),
            (b"{", 400, "JSON"),
            (b" " * 70_000, 413, "65536"),
        ]:
            answer = await web.post(f"{started.url}/start", content=content, headers={"Origin": "https://example.org"})
            assert answer.status_code == status
            assert detail in answer.json()["detail"]
            assert answer.headers["access-control-allow-origin"] == "*"
        assert (await web.get(f"{started.url}/start")).status_code == 405
