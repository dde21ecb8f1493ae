"""The benchmark of admission: it counts places as it should, and a slow server cannot hide from it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from types import ModuleType
from typing import Any

import pytest

pytestmark = pytest.mark.unit

FULL = {"detail": "all 3 sessions are in use", "retry_after_ms": 4_001}


@pytest.fixture
def admission(program: Callable[[str], ModuleType]) -> ModuleType:
    return program("admission")


Door = Callable[[int], Awaitable[tuple[int, dict[str, Any], str]]]


@asynccontextmanager
async def served(door: Door) -> AsyncIterator[str]:
    """A server whose n-th request is answered with the status, body and Retry-After of ``door(n)``."""
    asked = 0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        asked += 1
        number = asked
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"POST /start ")
        status, body, after = await door(number)
        text = json.dumps(body)
        writer.write(f"HTTP/1.1 {status} -\r\nRetry-After: {after}\r\nContent-Length: {len(text)}\r\n\r\n{text}".encode())
        await writer.drain()
        writer.close()

    listener = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with listener:
        yield f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"


def places(count: int, *, of: int | None = None, refusal: dict[str, Any] | None = None, after: str = "5") -> Door:
    """A door with ``count`` places, of which only ``of`` differ."""

    async def door(number: int) -> tuple[int, dict[str, Any], str]:
        if number <= count:
            return 200, {"wsUrl": f"ws://host/ws?token={number % (of or count)}"}, ""
        return 503, FULL if refusal is None else refusal, after

    return door


async def test_as_many_places_as_there_are(admission: ModuleType) -> None:
    async with served(places(3)) as url:
        asked = await admission.at_once(url, 12)
    assert asked.problems(3) == []
    row = asked.figures("12 at once", 3)
    assert (row["asked"], row["given"], row["refused"]) == (12, 3, 9)
    assert row["details"] == {FULL["detail"]: 9}
    assert 0 < row["p50_ms"] <= row["p99_ms"] <= row["max_ms"]
    assert asked.problems(4) == ["3 places were given, there are 4"]


@pytest.mark.parametrize(
    ("door", "problem"),
    [
        (places(3, of=2), "a place was given twice"),
        (places(4), "4 places were given, there are 3"),
        (places(3, after="4"), "Retry-After 4"),
        (places(3, refusal={"detail": "", "retry_after_ms": 4_001}), "a refusal with"),
        (places(3, refusal={"detail": "full"}), "a refusal with"),
    ],
)
async def test_what_is_wrong_is_told(admission: ModuleType, door: Door, problem: str) -> None:
    async with served(door) as url:
        asked = await admission.at_once(url, 6)
    assert any(problem in found for found in asked.problems(3)), asked.problems(3)


async def test_no_answer_is_neither_a_place_nor_a_refusal(admission: ModuleType) -> None:
    async with served(places(3)) as url:
        pass
    asked = await admission.at_once(url, 2)
    assert [answer.status for answer in asked.answers] == [0, 0]
    assert asked.figures("2 at once", 0)["refused"] == 0
    assert len(asked.problems(0)) == 1


async def test_a_server_that_stalls_meets_all_who_were_due_meanwhile(admission: ModuleType) -> None:
    waiting = asyncio.Event()

    async def door(number: int) -> tuple[int, dict[str, Any], str]:
        if number == 10:
            waiting.set()
        await waiting.wait()
        return 503, FULL, "5"

    async with served(door) as url:
        asked = await admission.in_turn(url, 100.0, 0.1)
    assert len(asked.answers) == len(asked.late_ms) == 10, "nobody waits for another one's answer"
    took = [answer.took_ms for answer in asked.answers]
    assert took[0] > took[5] > took[9], "from when each was due"


@pytest.mark.parametrize("groups", [1, 5])
def test_the_table_stays_half_full(admission: ModuleType, groups: int) -> None:
    table, sessions = admission.half_full(groups)
    assert table.taken == len(sessions) == groups * admission.PLACES // 2
    assert table.free_places() == table.taken
    assert {len(group.sessions) for group in table.groups()} == {admission.PLACES // 2}
    assert admission.pairs_per_s(groups, 20) > 0
