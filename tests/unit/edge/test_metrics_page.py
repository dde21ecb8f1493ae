"""GET /metrics of an edge that had a conversation."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from rtvi_actors.config import Config
from rtvi_actors.edge import app
from rtvi_actors.errors import CapacityError
from rtvi_actors.frames.types import Cancel, Error, Metrics

pytestmark = pytest.mark.unit

FIGURES = {"stt": {"processes": 2.0, "cpu_s": 3.5}, "engine/stt": {"engine_in_flight": 1.0}}


@pytest.fixture
def read(edge: Any) -> Callable[[], Any]:
    """The page, as (name, label value, ...) -> value."""
    build = app.build(edge.sessions, Config())

    async def status() -> dict[str, Any]:
        return {"figures": FIGURES}

    edge.admission.status = status

    async def read() -> dict[tuple[str, ...], float]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(build), base_url="http://edge") as client:
            answer = await client.get("/metrics")
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/plain; version=")
        return {
            (sample.name.removeprefix("rtvi_actors_"), *sample.labels.values()): sample.value
            for family in text_string_to_metric_families(answer.text)
            for sample in family.samples
        }

    return read


async def test_a_conversation_is_counted(edge: Any, read: Any, until: Any) -> None:
    _, client = await edge.connect()
    client.request("client-ready", {"version": "2.1.0"})
    await until(lambda: "bot-ready" in client.types)
    assert (await read())["sessions",] == 1
    edge.stages.user_says("hello")
    edge.stages.say("stt", Metrics(turn=1, attempt=1, segment="stt", name="ttfb_ms", value=100.0))
    edge.stages.bot_answers("Hi.", 960)
    await until(lambda: "bot-stopped-speaking" in client.types)
    edge.stages.user_says("again", turn=2)
    edge.stages.bot_answers("I will say something long.", 96_000, turn=2)
    await until(lambda: client.types.count("bot-started-speaking") == 2)
    edge.stages.say("speaking", Cancel(fence=3, reason="speech"))
    edge.stages.say("tts", Error(turn=2, scope="turn", retryable=True, text="x"))
    await until(lambda: client.types.count("bot-stopped-speaking") == 2)
    values = await read()
    assert values["turns_total", "speech"] == 2
    assert values["interruptions_total",] == 1
    assert values["errors_total", "turn"] == 1
    assert values["voice_to_voice_seconds_count",] == 2
    assert values["segment_seconds_count", "endpointing"] == 2
    assert values["service_ttfb_seconds_count", "stt"] == 1
    client.leave()
    await edge.over()
    values = await read()
    assert values["sessions",] == 0
    assert values["sessions_ended_total", "client-gone"] == 1
    assert values["sessions_admitted_total",] == 1
    assert values["processes", "stt"] == 2
    assert values["engine_requests_in_flight", "engine/stt"] == 1


async def test_it_is_served_while_the_scheduler_is_gone(edge: Any, read: Any) -> None:
    async def gone() -> dict[str, Any]:
        raise CapacityError("the scheduler is not there")

    edge.admission.status = gone
    values = await read()
    assert values["scheduler_up",] == 0
    assert ("processes", "stt") not in values


async def test_the_loop_goes_on_while_the_page_is_written(edge: Any, read: Any) -> None:
    rounds = 0

    async def pace() -> None:
        nonlocal rounds
        while True:
            await asyncio.sleep(0)
            rounds += 1

    pacing = asyncio.create_task(pace())
    await read()
    pacing.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await pacing
    assert rounds > 20


async def test_a_lost_stage_is_the_reason_of_an_end(edge: Any, read: Any) -> None:
    await edge.connect()
    edge.stages.die("llm")
    await edge.over()
    values = await read()
    assert values["sessions_ended_total", "failed"] == 1
    assert values["sessions_failed_total",] == 1


async def test_it_can_be_switched_off(make_edge: Any) -> None:
    edge = make_edge(observe={"metrics": False})
    build = app.build(edge.sessions, Config())
    async with httpx.AsyncClient(transport=httpx.ASGITransport(build), base_url="http://edge") as client:
        assert (await client.get("/metrics")).status_code == 404
