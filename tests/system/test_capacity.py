"""Places: exactly as many sessions as there are, an honest refusal of the others, and places that come back."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import websockets

from rtvi_actors.errors import CapacityError
from rtvi_actors.testing.client import RtviClient

pytestmark = pytest.mark.system

STAGES = ("SpeakingActor", "SttActor", "LlmActor", "TtsActor")


@pytest.fixture
def own_app(start_app: Any, config_file: Any) -> Iterator[Any]:
    """Groups of their own: two are kept warm, three sessions at most."""
    with start_app(config_file(scheduler={"warm_groups": 2, "max_sessions": 3})) as running:
        yield running


async def connect_at_once(stack: contextlib.AsyncExitStack, url: str, count: int) -> tuple[list[RtviClient], list[CapacityError]]:
    """Who was admitted, and what the others were told. The stack closes the clients."""

    async def connect() -> RtviClient | CapacityError:
        client = RtviClient(url, microphone=False)
        try:
            await client.__aenter__()
        except CapacityError as refusal:
            return refusal
        stack.push_async_callback(client.close)
        return client

    outcomes = await asyncio.gather(*(connect() for _ in range(count)))
    return (
        [outcome for outcome in outcomes if isinstance(outcome, RtviClient)],
        [outcome for outcome in outcomes if isinstance(outcome, CapacityError)],
    )


async def capacity(app: Any) -> dict[str, int]:
    facts: dict[str, int] = (await asyncio.to_thread(app.status))["capacity"]
    return facts


async def free(app: Any) -> int:
    return (await capacity(app))["free"]


async def test_own_groups(own_app: Any, eventually: Any, connected: Any, answered: Any, ready: Any, actors: Any) -> None:
    async def two_free() -> bool:
        return await free(own_app) == 2

    await eventually(two_free, "both warm groups are ready")
    before = await capacity(own_app)
    async with contextlib.AsyncExitStack() as stack:
        admitted, refusals = await connect_at_once(stack, own_app.ws_url, 8)
        assert len(admitted) == 2
        assert all(refusal.retry_after_ms > 0 for refusal in refusals)
        # The pool is refilled, up to the limit and not beyond it.
        third = await stack.enter_async_context(connected(own_app.ws_url))
        for number, client in enumerate([*admitted, third]):
            await answered(client, f"client {number}")
        facts = await asyncio.to_thread(own_app.status)
        assert facts["capacity"]["sessions"] == 3
        assert facts["capacity"]["granted"] - before["granted"] == 3
        pids = Counter(actor["pid"] for session in facts["sessions"] for actor in session["actors"].values())
        assert len(pids) == 12, "three sessions, four actors each, none shared"
        assert not await ready(own_app.url)
        with pytest.raises(websockets.exceptions.InvalidStatus) as refused:
            await websockets.connect(own_app.ws_url)
        response = refused.value.response
        body = json.loads(response.body or b"")
        assert response.status_code == 503
        assert body == {"detail": "all 3 sessions are in use", "retry_after_ms": 5_000}
        assert response.headers["Retry-After"] == "5"
        assert response.headers["Content-Type"] == "application/json"
        assert sum(len(actors(own_app, kind)) for kind in STAGES) == 12
        await admitted[0].close()
        # A place that comes back is one on a new group.
        fourth = await stack.enter_async_context(connected(own_app.ws_url))
        await answered(fourth, "the fourth")
        again = await asyncio.to_thread(own_app.status)
        assert {session["group"] for session in again["sessions"]} - {session["group"] for session in facts["sessions"]}
    await eventually(two_free, "both warm groups are ready again")
    assert [len(actors(own_app, kind)) for kind in STAGES] == [2, 2, 2, 2]


async def test_shared_groups(shared_app: Any, eventually: Any, answered: Any, actors: Any) -> None:
    async def all_free() -> bool:
        return await free(shared_app) == 16

    await eventually(all_free, "no session is left of other tests")
    group = [actor.pid for kind in STAGES for actor in actors(shared_app, kind)]
    assert len(group) == 4
    async with contextlib.AsyncExitStack() as stack:
        admitted, refusals = await connect_at_once(stack, shared_app.ws_url, 24)
        assert len(admitted) == 16
        assert {(str(refusal), refusal.retry_after_ms) for refusal in refusals} == {("all 16 sessions are in use", 5_000)}
        # All at once, each hears its own answer and no other.
        answers = await asyncio.gather(*(answered(client, f"client-{number}-") for number, client in enumerate(admitted)))
        for number, answer in enumerate(answers):
            assert [other for other in range(16) if f"client-{other}-" in answer] == [number]
        (only,) = (await asyncio.to_thread(shared_app.status))["groups"]
        assert (only["name"], only["state"], only["sessions"]) == ("0", "ready", 16)
        await asyncio.gather(*(client.close() for client in admitted[:5]))

        async def five_free() -> bool:
            return await free(shared_app) == 5

        await eventually(five_free, "five places are given back")
        later, refusals = await connect_at_once(stack, shared_app.ws_url, 8)
        assert (len(later), len(refusals)) == (5, 3)
        await answered(later[0], "somebody new")
        await answered(admitted[15], "somebody who stayed")
    await eventually(all_free, "all places are given back")
    assert [actor.pid for kind in STAGES for actor in actors(shared_app, kind)] == group, "a shared group is not replaced"


async def test_health_and_ready(shared_app: Any, ready: Any) -> None:
    async with httpx.AsyncClient() as web:
        assert (await web.get(f"{shared_app.url}/health")).json() == {"status": "up"}
        assert (await web.get(f"{shared_app.url}/ready")).json() == {"status": "ready"}
        assert "detail" in (await web.get(f"{shared_app.url}/nothing")).json()
    assert await ready(shared_app.url)
