"""A loop that stands still is named with the code that it stands in; a loop that does not costs nothing to speak of."""

from __future__ import annotations

import asyncio
import importlib
import logging
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from rtvi_actors.observe.log_context import current
from rtvi_actors.runtime import loop_watch
from rtvi_actors.runtime.heartbeat import Heartbeat
from rtvi_actors.runtime.loop_watch import LoopWatch

pytestmark = pytest.mark.unit

LIMIT_MS = 60
"""Shorter than the default: tests block loops."""


def block_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)


def culprit_that_sleeps(watch: LoopWatch) -> None:
    block_until(lambda: found(watch))


def culprit_that_computes(watch: LoopWatch) -> None:
    deadline = time.monotonic() + 10
    while not found(watch) and time.monotonic() < deadline:
        pass


def found(watch: LoopWatch) -> bool:
    """Whether the loop is late enough, and was looked at while it was."""
    return watch._overdue_ms() > LIMIT_MS and watch._seen_due_ns == watch._due_ns


@pytest.fixture(autouse=True)
def calm_machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The machine is never the one to blame, and nothing stays watched."""
    look = loop_watch.look
    monkeypatch.setattr(loop_watch, "look", lambda thread_late_ms: look(0))
    monkeypatch.setattr(LoopWatch, "_core_wait_ns", lambda self: 0)
    loop_watch.set_limit(LIMIT_MS)
    yield
    loop_watch.set_limit(100)
    assert loop_watch._process.watches == ()


@pytest.fixture
def pulse() -> Iterator[Callable[..., Heartbeat]]:
    made: list[Heartbeat] = []

    def start(on_tick: Callable[[], None] = lambda: None, on_beat: Callable[[int], None] = lambda lag: None) -> Heartbeat:
        made.append(Heartbeat("app/llm/0", on_tick, on_beat))
        return made[-1]

    yield start
    for each in made:
        each.stop()


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


@pytest.mark.parametrize("culprit", [culprit_that_sleeps, culprit_that_computes])
async def test_the_culprit_is_named_once_with_file_line_and_function(
    pulse: Any, until: Any, caplog: pytest.LogCaptureFixture, culprit: Callable[[LoopWatch], None]
) -> None:
    heartbeat = pulse()
    culprit(heartbeat)

    def told() -> list[str]:
        # A machine that is busy may hold the loop up elsewhere, too.
        return [line for line in warnings(caplog) if culprit.__name__ in line]

    await until(told)
    (line,) = told()
    assert line.startswith("the event loop of app/llm/0 stood still for ")
    where = re.search(rf"unit/runtime/test_loop_watch.py:(\d+) {culprit.__name__} < ", line)
    assert where, line
    first = culprit.__code__.co_firstlineno
    assert first < int(where[1]) <= first + 3
    assert "test_the_culprit_is_named_once_with_file_line_and_function" in line
    assert "base_events" not in line


async def test_a_loop_that_stands_still_for_good_is_told_meanwhile(
    pulse: Any, until: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop_watch, "FROZEN_MS", 150)
    heartbeat = pulse()
    told = threading.Event()
    monkeypatch.setattr(loop_watch.log, "log", lambda level, text: told.set() if "stands still for" in text else None)
    told.wait(10)  # blocks this loop until it is told that it is blocked
    assert told.is_set()
    said: list[str] = []
    monkeypatch.setattr(loop_watch.log, "log", lambda level, text: said.append(text))
    await until(lambda: heartbeat.stalls)
    [line] = said
    assert line.startswith("the event loop of app/llm/0 runs again; it stood still for ")


async def test_complaints_are_rare_and_counted(pulse: Any, until: Any, caplog: pytest.LogCaptureFixture) -> None:
    heartbeat = pulse()
    for stalls in (1, 2, 3):
        culprit_that_sleeps(heartbeat)
        await until(lambda stalls=stalls: heartbeat.stalls >= stalls)
    assert len(warnings(caplog)) == 1
    more = heartbeat.stalls - 1
    heartbeat._quiet_until_ns = 0
    culprit_that_sleeps(heartbeat)
    await until(lambda: len(warnings(caplog)) == 2)
    assert warnings(caplog)[1].endswith(f"({more} more since the last such line)")


async def test_a_loop_that_only_waits_is_not_complained_about(pulse: Any, until: Any, caplog: pytest.LogCaptureFixture) -> None:
    ticks = 0

    def tick() -> None:
        nonlocal ticks
        ticks += 1

    heartbeat = pulse(on_tick=tick)
    loop_watch.set_limit(2_000)
    await until(lambda: ticks == 5)
    assert warnings(caplog) == []
    assert heartbeat.stalls == 0


@pytest.mark.parametrize("paused", [False, True])
async def test_lateness_that_is_the_machine_s_is_no_warning(
    until: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, paused: bool
) -> None:
    """The loop's thread had no core; or nothing of the process ran, the thread that looks included."""
    caplog.set_level(logging.INFO)
    watch = LoopWatch("other")
    watch.start()
    try:
        block_until(lambda: watch.lag_ms() > LIMIT_MS)
        watch.look(thread_late_ms=60_000 if paused else 0)
        if not paused:
            monkeypatch.setattr(LoopWatch, "_core_wait_ns", lambda self: 60_000_000_000)
        await until(lambda: watch.stalls)
    finally:
        watch.stop()
    assert warnings(caplog) == []
    assert "the machine was busy" in caplog.text


async def test_the_stack_of_what_came_after_the_stall_is_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    watch = LoopWatch("other")
    watch.start()
    try:
        block_until(lambda: watch.lag_ms() > LIMIT_MS)

        def run_meanwhile() -> tuple[str, ...]:
            watch._due_ns += 1
            return ("something else",)

        monkeypatch.setattr(watch, "_take_stack", run_meanwhile)
        watch.look(0)
        assert watch._stack == ()
    finally:
        watch.stop()


async def test_other_loops_are_watched_while_something_runs_there(pulse: Any, until: Any, caplog: pytest.LogCaptureFixture) -> None:
    pulse()
    sessions: list[str] = []
    watch = LoopWatch("the bot Shop", "s7")

    class Note(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            sessions.append(current()[0])

    async def work() -> None:
        watch.start()
        culprit_that_sleeps(watch)
        while not watch.stalls:
            await asyncio.sleep(0.005)
        watch.stop()

    note = Note()
    loop_watch.log.addHandler(note)
    try:
        await asyncio.to_thread(asyncio.run, work())
    finally:
        loop_watch.log.removeHandler(note)
    [line] = warnings(caplog)
    assert "the bot Shop stood still" in line
    assert "culprit_that_sleeps < unit/runtime/test_loop_watch.py" in line
    assert sessions == ["s7"]


async def test_a_watch_that_ends_with_the_stall_tells_it(pulse: Any, caplog: pytest.LogCaptureFixture) -> None:
    """As a hook that never waits: its loop has no tick in it."""
    pulse()
    watch = LoopWatch("the bot Shop", "s7")
    watch.start()
    culprit_that_sleeps(watch)
    watch.stop()
    [line] = [line for line in warnings(caplog) if line.startswith("the bot Shop")]
    assert "culprit_that_sleeps < " in line
    watch.stop()
    assert watch.stalls == 1


async def test_the_worst_lag_is_kept_until_it_is_taken(pulse: Any, until: Any) -> None:
    heartbeat = pulse()
    culprit_that_sleeps(heartbeat)
    await until(lambda: heartbeat.stalls)
    assert heartbeat.take_worst_ms() > LIMIT_MS
    assert heartbeat._worst_ms == 0


async def test_ticks_and_beats_come_in_their_proportion(pulse: Any, until: Any) -> None:
    ticks, beats = 0, []

    def tick() -> None:
        nonlocal ticks
        ticks += 1

    pulse(on_tick=tick, on_beat=beats.append)
    loop_watch.set_limit(60_000)
    await until(lambda: len(beats) >= 3)
    # 750 ms: seven ticks, fewer on a busy machine.
    assert 2 <= ticks <= 10


async def test_an_import_is_told_by_who_imports(
    pulse: Any, caplog: pytest.LogCaptureFixture, tmp_path: Any, monkeypatch: Any
) -> None:
    (tmp_path / "imported_slowly.py").write_text("import __main__\n__main__.hold_up()\n")
    monkeypatch.syspath_prepend(tmp_path)
    pulse()
    watch = LoopWatch("other")
    watch.start()
    monkeypatch.setattr(sys.modules["__main__"], "hold_up", lambda: culprit_that_sleeps(watch), raising=False)
    importlib.import_module("imported_slowly")
    watch.stop()
    [line] = [line for line in warnings(caplog) if line.startswith("other")]
    assert "imported_slowly.py:2 <module> < " in line
    assert "importlib/__init__.py" in line
    assert "test_an_import_is_told_by_who_imports" in line
    assert "frozen" not in line
