"""What a process writes on stderr."""

from __future__ import annotations

import asyncio
import json
import logging
import subprocess
import sys
from collections.abc import Iterator

import pytest
import structlog

from rtvi_actors.observe import log
from rtvi_actors.observe.log_context import about, current

pytestmark = pytest.mark.unit

ours = logging.getLogger("rtvi_actors.stt.stage")


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """The log of this process is pytest's."""
    package, root = logging.getLogger("rtvi_actors"), logging.getLogger()
    level, handlers = package.level, root.handlers[:]
    yield
    package.setLevel(level)
    root.handlers[:] = handlers
    structlog.reset_defaults()


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    shown = capsys.readouterr()
    assert shown.out == ""
    return shown.err.splitlines()


def test_a_line_names_actor_session_and_turn(capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        log.set_up("app/stt/0", "info")
    with about("s1", 3):
        ours.warning("hello %s", "world")
    ours.info("alone")
    ours.debug("not wanted")
    with_session, alone = lines(capsys)
    assert with_session.endswith(" WARNING hello world actor=app/stt/0 session=s1 turn=3 logger=rtvi_actors.stt.stage")
    assert alone.endswith(" INFO alone actor=app/stt/0 logger=rtvi_actors.stt.stage")


def test_json_lines_parse_even_with_a_traceback_and_strange_values(capsys: pytest.CaptureFixture[str]) -> None:
    log.set_up("app/stt/0", "info", "json")
    with about("s1", 3):
        try:
            raise ValueError("two\nlines")
        except ValueError:
            ours.exception("failed on %r", "\x1b[31m")
        structlog.get_logger("rtvi_actors.bot").info("booked", room=object(), nights=2)
    failed, booked = map(json.loads, lines(capsys))
    assert (failed["event"], failed["level"], failed["session"], failed["turn"]) == (r"failed on '\x1b[31m'", "error", "s1", 3)
    assert failed["exception"].startswith("Traceback")
    assert failed["exception"].endswith("ValueError: two\nlines")
    assert (booked["event"], booked["nights"], booked["session"], booked["actor"]) == ("booked", 2, "s1", "app/stt/0")
    assert booked["room"].startswith("<object")
    assert booked["timestamp"].endswith("Z")


def test_what_comes_from_outside_makes_no_line_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    log.set_up("a", "info")
    ours.warning("refused: %s", "x\n2026-01-01 ERROR forged\r")
    ours.warning("told", extra={"session": 'a b="c"\n'})
    refused, told = lines(capsys)
    assert r"refused: x\n2026-01-01 ERROR forged\r actor=a" in refused
    assert r'session="a b=\"c\"\n"' in told


def test_others_are_heard_from_warnings_on_and_the_application_like_us(capsys: pytest.CaptureFixture[str]) -> None:
    log.set_up("a", "info")
    logging.getLogger("httpx").info("GET /")
    logging.getLogger("httpx").warning("slow")
    concierge = logging.getLogger("concierge")
    concierge.info("before")
    log.listen_to("concierge")
    concierge.info("after")
    assert [line.split(" actor=")[0].split(" ", 1)[1] for line in lines(capsys)] == ["WARNING slow", "INFO after"]


def test_a_line_of_another_session_does_not_get_this_one_s_turn(capsys: pytest.CaptureFixture[str]) -> None:
    log.set_up("a", "info", "json")
    with about("s1", 3):
        ours.info("other", extra={"session": "s2"})
    [line] = map(json.loads, lines(capsys))
    assert line["session"] == "s2"
    assert "turn" not in line


async def test_tasks_and_timers_carry_on_whose_they_are() -> None:
    seen: list[tuple[str, int]] = []
    with about("s1", 3):
        task = asyncio.create_task(asyncio.sleep(0))
        task.add_done_callback(lambda _: seen.append(current()))
        asyncio.get_running_loop().call_later(0, lambda: seen.append(current()))
        with about("s1"):
            seen.append(current())
        with about("s2"):
            seen.append(current())
    assert current() == ("", 0)
    await task
    await asyncio.sleep(0.01)
    assert seen == [("s1", 3), ("s2", 0), ("s1", 3), ("s1", 3)]


def test_it_does_not_bring_rich_into_a_process() -> None:
    code = """
import sys
from rtvi_actors.observe import log
log.set_up("a", "info")
assert "structlog" in sys.modules
print([name for name in ("rich", "pygments") if name in sys.modules])
import rich
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.PIPE, text=True)
    assert done.stdout == "[]\n"
