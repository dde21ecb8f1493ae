"""The thread of a session's hooks: results, errors, cancelling, and its end."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from typing import Any

import pytest

from rtvi_actors.errors import EngineError
from rtvi_actors.llm.hooks import PIECES_AHEAD, HookThread, TurnCall

pytestmark = pytest.mark.unit


async def until(done: Any) -> None:
    deadline = time.monotonic() + 5
    while not done():
        assert time.monotonic() < deadline, "it did not come"
        await asyncio.sleep(0.002)


async def test_hooks_run_on_a_thread_of_their_own_and_plain_functions_behind_it() -> None:
    thread = HookThread("Shop", "s1")

    async def where() -> str:
        return threading.current_thread().name

    assert await thread.run("on_start", where, blocking=False) == "bot-s1"
    assert (await thread.run("on_start", lambda: threading.current_thread().name, blocking=True)).startswith("bot-s1_")
    await thread.close(1)
    await until(lambda: "bot-s1" not in {thread.name for thread in threading.enumerate()})


async def fails() -> None:
    raise LookupError("what\nand where")


async def leaves() -> None:
    sys.exit(2)


async def cancels_itself() -> None:
    raise asyncio.CancelledError


@pytest.mark.parametrize(
    ("hook", "line"),
    [
        (fails, "on_start of Shop failed: LookupError: what"),
        (leaves, "on_start of Shop failed: RuntimeError: it called sys.exit(2)"),
        (cancels_itself, "on_start of Shop failed: RuntimeError: it was cancelled from inside"),
    ],
)
async def test_an_error_is_one_line_and_the_thread_goes_on(hook: Any, line: str, caplog: pytest.LogCaptureFixture) -> None:
    thread = HookThread("Shop", "s1")
    with pytest.raises(EngineError) as caught:
        await thread.run("on_start", hook, blocking=False)
    assert str(caught.value) == line
    assert "Traceback" in caplog.text
    assert await thread.run("on_start", lambda: 7, blocking=False) == 7
    await thread.close(1)


async def test_cancelling_reaches_the_hook() -> None:
    thread = HookThread("Shop", "s1")
    seen: list[str] = []

    async def waits() -> None:
        seen.append("begun")
        try:
            await asyncio.sleep(60)
        finally:
            seen.append("cancelled")

    task = asyncio.create_task(thread.run("on_start", waits, blocking=False))
    await until(lambda: seen)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until(lambda: seen == ["begun", "cancelled"])
    await thread.close(1)


async def test_closing_cancels_what_runs() -> None:
    thread = HookThread("Shop", "s1")
    seen: list[str] = []

    async def waits() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            seen.append("cancelled")

    future = thread.submit(waits())
    await asyncio.sleep(0.01)
    await thread.close(1)
    assert seen == ["cancelled"]
    assert future.cancelled()


async def test_a_hook_that_blocks_forever_is_left_behind(caplog: pytest.LogCaptureFixture) -> None:
    thread, release = HookThread("Shop", "s1"), threading.Event()

    async def blocks() -> None:
        release.wait(5)

    future = thread.submit(blocks())
    await asyncio.sleep(0.01)
    await thread.close(0.02)
    assert "blocks its thread" in caplog.text
    release.set()
    await until(future.done)
    await until(lambda: "bot-s1" not in {thread.name for thread in threading.enumerate()})


async def test_on_turn_is_never_far_ahead_of_its_reader() -> None:
    thread = HookThread("Shop", "s1")
    given: list[int] = []

    async def counts() -> Any:
        for number in range(100):
            given.append(number)
            yield str(number)

    call = TurnCall(thread, counts, blocking=False)
    pieces = call.pieces(1_000)
    read = [await anext(pieces)]
    await until(lambda: len(given) >= PIECES_AHEAD)
    await asyncio.sleep(0.02)
    assert len(given) <= PIECES_AHEAD + 3
    read += [piece async for piece in pieces]
    assert read == [str(number) for number in range(100)]
    assert call.answered
    assert not call.open
    await thread.close(1)
