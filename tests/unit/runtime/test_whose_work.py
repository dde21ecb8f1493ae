"""Whatever runs for a session knows so, and its turn: what it logs carries them."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from rtvi_actors.engines.serve import EngineServer
from rtvi_actors.frames.types import Attach, Detach, EngineRequest, Frame, Pause
from rtvi_actors.observe.log_context import current
from rtvi_actors.runtime.session_port import SessionPort
from rtvi_actors.runtime.stage_host import SessionHost
from rtvi_actors.tts.engine import TtsRequest

pytestmark = pytest.mark.unit

Seen = list[tuple[str, str, int]]


class Links:
    def send(self, peer: str, frame: Frame) -> bool:
        return True

    def connected(self, peer: str) -> bool:
        return True


class Stage:
    """Notes whose work it does, in each way in which it can."""

    def __init__(self, port: SessionPort, seen: Seen) -> None:
        self._port = port
        self._seen = seen

    def note(self, where: str) -> None:
        self._seen.append((where, *current()))

    async def open(self) -> None:
        self.note("open")

    def receive(self, frame: Frame) -> None:
        self.note("receive")
        self._port.call_later(0, lambda: self.note("timer"))
        self._port.spawn(self._work(), "work")

    async def _work(self) -> None:
        self.note("task")

    async def close(self) -> None:
        self.note("close")


class Stages:
    def __init__(self) -> None:
        self.seen: Seen = []

    def create(self, port: Any, attach: Attach) -> Stage:
        return Stage(port, self.seen)

    def close(self) -> None:
        pass


async def test_what_a_stage_does_is_its_session_s_and_turn_s(until: Any) -> None:
    stages = Stages()
    host = SessionHost("llm", stages, Links(), limit=4, open_deadline_ms=5_000)  # type: ignore[arg-type]
    route = {"edge": ["edge"], "speaking": ["speaking"]}
    for session in ("s1", "s2"):
        host.on_frame("edge", Attach(session=session, epoch=1, route=route, bot="b"))
    await until(lambda: host.stats()["attached"] == 2)
    host.on_frame("speaking", Pause(session="s1", epoch=1, turn=3))
    host.on_frame("speaking", Pause(session="s2", epoch=1, turn=5))
    await until(lambda: len(stages.seen) == 8)
    for session in ("s1", "s2"):
        host.on_frame("edge", Detach(session=session, epoch=1, reason="over"))
    await until(lambda: len(stages.seen) == 10)
    await host.close("done")
    for session, turn in (("s1", 3), ("s2", 5)):
        own = [(where, of_turn) for where, of, of_turn in stages.seen if of == session]
        assert own[:2] == [("open", 0), ("receive", turn)]
        assert sorted(own[2:]) == [("close", 0), ("task", turn), ("timer", turn)]
    assert current() == ("", 0)


async def test_a_lost_peer_is_told_session_by_session(caplog: pytest.LogCaptureFixture, until: Any) -> None:
    stages = Stages()
    host = SessionHost("llm", stages, Links(), limit=4, open_deadline_ms=5_000)  # type: ignore[arg-type]
    route = {"edge": ["edge"], "speaking": ["speaking"]}
    for session in ("s1", "s2"):
        host.on_frame("edge", Attach(session=session, epoch=1, route=route, bot="b"))
    await until(lambda: host.stats()["attached"] == 2)
    whose: list[str] = []
    caplog.handler.addFilter(lambda record: whose.append(current()[0]) is None)
    host.on_peer("edge", False, "connection closed")
    assert whose == ["s1", "s2"]
    await host.close("done")


async def test_an_engine_s_work_is_that_of_the_session_that_asked(until: Any) -> None:
    seen: Seen = []

    class Backend:
        memory_bytes = 0

        async def stream(self, session: str, request: Any) -> Any:
            seen.append(("stream", *current()))
            return
            yield

        def close(self) -> None:
            pass

    server = EngineServer("tts", Backend(), Links())  # type: ignore[arg-type]
    payload = msgspec.msgpack.encode(TtsRequest(text="hi"))
    server.on_frame("app/tts/0", EngineRequest(session="s1", epoch=1, turn=7, request=1, payload=payload))
    await until(lambda: server.stats()["in_flight"] == 0)
    await server.close()
    assert seen == [("stream", "s1", 7)]


async def test_a_port_without_a_frame_around_it_still_knows_its_session() -> None:
    port = SessionPort(Links(), "s9", 1, {"edge": ["edge"]})
    seen: list[tuple[str, int]] = []

    async def work() -> None:
        seen.append(current())

    await port.spawn(work(), "work")
    port.call_later(0, lambda: seen.append(current()))
    await asyncio.sleep(0.01)
    await port.close()
    assert seen == [("s9", 0), ("s9", 0)]
