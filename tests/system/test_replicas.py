"""Engines of which there are two: sessions are spread over them, and one that dies or hangs costs no turn."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from typing import Any

import psutil
import pytest

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def app(start_app: Any, config_file: Any) -> Iterator[Any]:
    """An app with two language models and two voices, all fake."""
    with start_app(config_file("dense.toml", llm={"replicas": 2}, tts={"replicas": 2})) as running:
        yield running


async def replicas(app: Any, kind: str) -> list[dict[str, Any]]:
    facts = await asyncio.to_thread(app.status)
    return [engine for engine in facts["engines"] if engine["kind"] == kind]


@pytest.mark.parametrize(("kind", "number"), [("llm", signal.SIGKILL), ("tts", signal.SIGSTOP)], ids=["killed", "frozen"])
async def test_a_replica_that_is_lost_costs_no_turn(
    app: Any, connected: Any, answered: Any, eventually: Any, kind: str, number: int
) -> None:
    async with connected(app.ws_url) as one, connected(app.ws_url) as two:

        async def spread() -> bool:
            return [engine["sessions"] for engine in await replicas(app, kind)] == [1, 1]

        await eventually(spread, "each replica has a session")
        first, _ = await replicas(app, kind)
        for client in (one, two):
            await answered(client, "before")
        psutil.Process(first["pid"]).send_signal(number)
        for client in (one, two):
            # It interrupts the answer before: what the lost one was asked for then is withdrawn, not asked again.
            await answered(client, "after")
            assert [message.data for message in client.messages if message.type == "error"] == []
        assert sum(engine["sessions"] for engine in await replicas(app, kind)) == 2

        async def whole() -> bool:
            found = await replicas(app, kind)
            return [engine["state"] for engine in found] == ["up", "up"] and first["pid"] not in {engine["pid"] for engine in found}

        await eventually(whole, "another one has taken its place")
