"""The sessions of one process: attach, frames, loss, detach; nothing of a session stays."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rtvi_actors.config import runtime_folder
from rtvi_actors.errors import EngineError, SessionLostError
from rtvi_actors.frames.types import Attach, Attached, BotState, Clause, Credit, Detach, Error, Frame, Refused
from rtvi_actors.runtime import stage_host
from rtvi_actors.runtime.stage_host import SessionHost
from rtvi_actors.runtime.switchboard import Switchboard

pytestmark = pytest.mark.unit

ROUTE = {"speaking": ["speaking/0"], "stt": ["stt/0"], "llm": ["llm/0"], "engine/llm": ["engine/a"]}
EVERYBODY = ("edge/0", "edge/1", "speaking/0", "stt/0", "engine/a")


class FakeLinks:
    def __init__(self) -> None:
        self.up = set(EVERYBODY)
        self.sent: list[tuple[str, Frame]] = []

    def connected(self, peer: str) -> bool:
        return peer in self.up

    def send(self, peer: str, frame: Frame) -> bool:
        if peer in self.up:
            self.sent.append((peer, frame))
        return peer in self.up

    def told(self, peer: str) -> list[str]:
        """Kinds of the frames that ``peer`` got, in order."""
        return [type(frame).__name__ for to, frame in self.sent if to == peer]

    def last(self, kind: type[Any]) -> Any:
        return [frame for _, frame in self.sent if isinstance(frame, kind)][-1]


class FakeStage:
    def __init__(self, port: Any, attach: Attach) -> None:
        self.port = port
        self.attach = attach
        self.received: list[Frame] = []
        self.lost: list[str] = []
        self.closed = 0
        self.may_open = asyncio.Event()
        self.may_open.set()
        self.open_error: Exception | None = None
        self.receive_error: Exception | None = None
        self.may_close = asyncio.Event()
        self.may_close.set()

    async def open(self) -> None:
        await self.may_open.wait()
        if self.open_error:
            raise self.open_error

    def receive(self, frame: Frame) -> None:
        if self.receive_error:
            raise self.receive_error
        self.received.append(frame)

    def peer_lost(self, role: str) -> None:
        self.lost.append(role)

    async def close(self) -> None:
        self.closed += 1
        await self.may_close.wait()


class FakeStages:
    """``prepare`` is applied to each new stage."""

    def __init__(self) -> None:
        self.stages: list[FakeStage] = []
        self.prepare: Callable[[FakeStage], None] = lambda stage: None
        self.closed = False

    def create(self, port: Any, attach: Attach) -> FakeStage:
        stage = FakeStage(port, attach)
        self.prepare(stage)
        self.stages.append(stage)
        return stage

    def close(self) -> None:
        self.closed = True


class House:
    """A host with its surroundings."""

    def __init__(self, limit: int = 2, open_deadline_ms: int = 1_000) -> None:
        self.links = FakeLinks()
        self.stages = FakeStages()
        self.host = SessionHost("llm", self.stages, self.links, limit=limit, open_deadline_ms=open_deadline_ms)  # type: ignore[arg-type]

    @property
    def stage(self) -> FakeStage:
        return self.stages.stages[-1]

    def frame(self, frame: Frame, peer: str = "edge/0") -> None:
        self.host.on_frame(peer, frame)

    async def attach(self, session: str = "s1", epoch: int = 1, peer: str = "edge/0") -> None:
        self.frame(Attach(session=session, epoch=epoch, route=ROUTE, bot="b"), peer)
        await settle()


async def settle() -> None:
    """Let everything run that is ready to."""
    for _ in range(10):
        await asyncio.sleep(0)


@pytest.fixture
def house() -> House:
    return House()


def lose(house: House, peer: str) -> None:
    house.links.up.discard(peer)
    house.host.on_peer(peer, False, "eof")


async def test_a_session_from_attach_to_detach(house: House) -> None:
    await house.attach()
    attached = house.links.last(Attached)
    assert (attached.session, attached.epoch, attached.role) == ("s1", 1, "llm")
    assert house.stage.attach.route == ROUTE
    house.frame(BotState(session="s1", epoch=1, state="silent"))
    house.frame(Clause(session="s1", epoch=1, clause=0, text="x"), "stt/0")
    assert [type(f) for f in house.stage.received] == [BotState, Clause]
    assert [(s["session"], s["state"], s["edge"]) for s in house.host.sessions()] == [("s1", "open", "edge/0")]
    house.stage.port.send("stt", BotState(state="silent"))
    house.frame(Detach(session="s1", epoch=1, reason="bye"))
    await settle()
    assert house.links.told("edge/0") == ["Attached", "Detach"]
    assert house.stage.closed == 1
    assert house.host.sessions() == []
    assert house.host.stats()["detached"] == 1


async def test_detach_repeated_or_for_a_stranger_is_answered(house: House) -> None:
    await house.attach()
    for _ in range(2):
        house.frame(Detach(session="s1", epoch=1, reason="bye"))
    await settle()
    assert house.links.told("edge/0") == ["Attached", "Detach"]
    house.frame(Detach(session="s1", epoch=1, reason="bye"))
    house.frame(Detach(session="other", epoch=4, reason="bye"), "edge/1")
    assert house.links.told("edge/0") == ["Attached", "Detach", "Detach"]
    assert house.links.last(Detach).session == "other"
    assert house.stage.closed == 1


async def test_only_the_sessions_own_edge_may_end_it(house: House) -> None:
    await house.attach()
    house.frame(Detach(session="s1", epoch=1, reason="bye"), "edge/1")
    house.frame(Detach(session="s1", epoch=0, reason="bye"))
    await settle()
    assert len(house.host.sessions()) == 1
    assert house.host.stats()["stale"] == 2


async def test_refuses_what_is_here_already_too_old_or_too_much(house: House) -> None:
    await house.attach(epoch=2)
    await house.attach(epoch=3)
    assert "here already" in house.links.last(Refused).reason
    await house.attach("s2")
    await house.attach("s3")
    assert "all 2 places" in house.links.last(Refused).reason
    house.frame(Detach(session="s1", epoch=2, reason="bye"))
    await settle()
    await house.attach(epoch=2)
    assert house.links.last(Refused).reason == "epoch 2 is not newer than 2"
    await house.attach("s4", epoch=0)
    assert house.links.last(Refused).reason == "epoch 0 is not newer than 0"
    await house.attach(epoch=3)
    assert house.links.last(Attached).epoch == 3
    assert house.host.stats()["refused"] == 4


async def test_an_open_that_raises_is_a_refusal_and_leaves_nothing(house: House) -> None:
    def prepare(stage: FakeStage) -> None:
        stage.open_error = EngineError("no voice")

    house.stages.prepare = prepare
    await house.attach()
    refused = house.links.last(Refused)
    assert (refused.session, refused.role, refused.reason) == ("s1", "llm", "no voice")
    assert house.stage.closed == 1
    assert house.host.sessions() == []


async def test_a_create_that_raises_is_a_refusal(house: House) -> None:
    def prepare(stage: FakeStage) -> None:
        raise ValueError("no such bot")

    house.stages.prepare = prepare
    await house.attach()
    assert house.links.last(Refused).reason == "ValueError: no such bot"
    assert house.host.sessions() == []


async def test_an_open_that_takes_too_long_is_a_refusal() -> None:
    house = House(open_deadline_ms=10)
    house.stages.prepare = lambda stage: stage.may_open.clear()
    await house.attach()
    await asyncio.sleep(0.05)
    assert house.links.last(Refused).reason == "not open within 10 ms"
    assert house.host.sessions() == []


async def test_frames_that_come_while_it_opens_are_delivered_after_it_in_order(house: House) -> None:
    house.stages.prepare = lambda stage: stage.may_open.clear()
    await house.attach()
    for number in range(20):
        house.frame(Clause(session="s1", epoch=1, clause=number, text="x"), "stt/0")
    assert house.stage.received == []
    house.stage.may_open.set()
    await settle()
    assert [f.clause for f in house.stage.received] == list(range(20))  # type: ignore[attr-defined]
    assert house.links.told("edge/0") == ["Attached"]


async def test_too_many_frames_before_it_is_open_refuse_it(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage_host, "HELD_FRAMES", 3)
    house.stages.prepare = lambda stage: stage.may_open.clear()
    await house.attach()
    for _ in range(5):
        house.frame(BotState(session="s1", epoch=1, state="silent"))
    await settle()
    assert house.links.told("edge/0") == ["Refused"]
    assert house.host.sessions() == []


async def test_detach_while_it_opens(house: House) -> None:
    house.stages.prepare = lambda stage: stage.may_open.clear()
    await house.attach()
    house.frame(Detach(session="s1", epoch=1, reason="bye"))
    await settle()
    assert house.links.told("edge/0") == ["Detach"]
    assert house.stage.closed == 1


async def test_stray_frames_are_counted_and_dropped(house: House) -> None:
    await house.attach()
    house.frame(BotState(session="other", epoch=1, state="silent"))
    house.frame(BotState(session="s1", epoch=1, state="silent"), "edge/1")
    house.frame(BotState(session="s1", epoch=9, state="silent"))
    assert house.stage.received == []
    stats = house.host.stats()
    assert (stats["unknown"], stats["stale"], stats["delivered"]) == (2, 1, 0)


async def test_credit_goes_to_the_port_and_not_to_the_stage(house: House) -> None:
    await house.attach()
    port = house.stage.port
    await port.send_credited("edge", "text", BotState(state="1"), 65_536)
    waiting = asyncio.create_task(port.send_credited("edge", "text", BotState(state="2"), 10))
    await settle()
    assert not waiting.done()
    house.frame(Credit(session="s1", epoch=1, stream="text", bytes=10))
    await asyncio.wait_for(waiting, 1)
    assert house.stage.received == []


async def test_a_receive_that_raises_is_told_once_and_the_session_goes_on(house: House) -> None:
    await house.attach()
    house.stage.receive_error = RuntimeError("oops")
    for _ in range(5):
        house.frame(Clause(session="s1", epoch=1, turn=4, attempt=2, clause=0, text="x"), "stt/0")
    house.stage.receive_error = None
    house.frame(BotState(session="s1", epoch=1, state="silent"))
    assert house.links.told("edge/0") == ["Attached", "Error"]
    error = house.links.last(Error)
    assert (error.scope, error.turn, error.attempt, error.text) == ("turn", 4, 2, "RuntimeError: oops")
    assert len(house.stage.received) == 1
    assert house.host.stats()["failed"] == 5


async def test_the_loss_of_the_edge_closes_silently(house: House) -> None:
    await house.attach()
    await house.attach("s2", peer="edge/1")
    lose(house, "edge/0")
    await settle()
    assert [s["session"] for s in house.host.sessions()] == ["s2"]
    assert house.stages.stages[0].closed == 1
    assert house.links.told("edge/0") == ["Attached"]


async def test_the_loss_of_another_stage_ends_the_session_with_an_error(house: House) -> None:
    await house.attach()
    lose(house, "stt/0")
    await settle()
    assert house.links.told("edge/0") == ["Attached", "Error"]
    error = house.links.last(Error)
    assert (error.scope, error.retryable, error.text) == ("session", True, "lost stt/0: eof")
    assert house.host.sessions() == []
    house.frame(Detach(session="s1", epoch=1, reason="bye"))
    assert house.links.told("edge/0")[-1] == "Detach"


async def test_the_loss_of_the_engine_is_told_to_the_stage(house: House) -> None:
    await house.attach()
    house.stage.port.send("engine/llm", BotState(state="1"))
    lose(house, "engine/a")
    await settle()
    assert house.stage.lost == ["engine/llm"]
    house.stage.port.send("engine/llm", BotState(state="2"))
    assert house.stage.lost == ["engine/llm"]  # not while it is sending
    await settle()
    assert house.stage.lost == ["engine/llm", "engine/llm"]
    assert len(house.host.sessions()) == 1


async def test_an_overflow_of_the_links_ends_the_session(house: House) -> None:
    await house.attach()
    house.host.on_overflow("s1", "256 control frames wait")
    house.host.on_overflow("other", "256 control frames wait")
    await settle()
    assert house.links.last(Error).text == "256 control frames wait"
    assert house.host.sessions() == []


async def test_the_engines_of_a_session_learn_its_end(house: House) -> None:
    await house.attach()
    house.stage.port.send("engine/llm", BotState(state="1"))
    house.frame(Detach(session="s1", epoch=1, reason="bye"))
    await settle()
    assert house.links.told("engine/a") == ["BotState", "Detach"]
    assert house.links.sent[-2][0] == "engine/a"
    assert house.links.sent[-2][1].session == "s1"


async def test_tasks_are_cancelled_before_the_stage_is_closed(house: House) -> None:
    await house.attach()
    order: list[str] = []

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            order.append(f"task, closed {house.stage.closed}")

    house.stage.port.spawn(work(), "work")
    await settle()
    house.frame(Detach(session="s1", epoch=1, reason="bye"))
    await settle()
    assert order == ["task, closed 0"]
    assert house.stage.closed == 1


async def test_a_close_that_hangs_does_not_keep_the_session(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage_host, "CLOSE_DEADLINE_S", 0.02)
    await house.attach()
    house.stage.may_close.clear()
    house.frame(Detach(session="s1", epoch=1, reason="bye"))
    await asyncio.sleep(0.08)
    assert house.host.sessions() == []
    assert house.links.told("edge/0") == ["Attached", "Detach"]


async def test_closing_the_host_ends_all_sessions_and_takes_none(house: House) -> None:
    await house.attach()
    await house.attach("s2", peer="edge/1")
    await house.host.close("the actor is stopped")
    assert house.links.told("edge/0") == ["Attached", "Error"]
    assert house.links.told("edge/1") == ["Attached", "Error"]
    assert [stage.closed for stage in house.stages.stages] == [1, 1]
    assert house.stages.closed
    await house.attach("s3")
    assert house.links.last(Refused).reason == "the actor is stopping"


async def test_session_errors_of_a_stage_keep_their_scope(house: House) -> None:
    await house.attach()
    house.stage.receive_error = SessionLostError("the model is gone")
    house.frame(BotState(session="s1", epoch=1, state="silent"))
    assert house.links.last(Error).scope == "session"


async def test_many_sessions_leave_nothing(house: House) -> None:
    for number in range(50):
        await house.attach(f"s{number}")
        house.frame(Detach(session=f"s{number}", epoch=1, reason="bye"))
        await settle()
    assert house.host.sessions() == []
    assert house.links.told("edge/0").count("Detach") == 50
    assert len(asyncio.all_tasks()) == 1


class Process:
    """A switchboard with real sockets and, given a role, a host of fake stages behind it."""

    def __init__(self, folder: Path, name: str, role: str = "") -> None:
        self.frames: list[Frame] = []
        self.name = name
        self.links = Switchboard(
            name,
            str(folder / f"{name.replace('/', '-')}.sock"),
            node="n1",
            on_frame=self._on_frame,
            on_peer=lambda peer, up, reason: self.host.on_peer(peer, up, reason) if self.host else None,
            on_overflow=lambda session, reason: None,
        )
        self.stages = FakeStages()
        self.host: SessionHost | None = None
        if role:
            self.host = SessionHost(role, self.stages, self.links, limit=2, open_deadline_ms=1_000)  # type: ignore[arg-type]

    def _on_frame(self, peer: str, frame: Frame) -> None:
        self.frames.append(frame)
        if self.host:
            self.host.on_frame(peer, frame)

    async def close(self) -> None:
        if self.host:
            await self.host.close("the test is over")
        await self.links.close()


@pytest.mark.usefixtures("no_new_fds")
async def test_two_stages_and_an_edge_over_real_links(until: Any) -> None:
    folder = runtime_folder()
    edge, stt, llm = Process(folder, "edge/0"), Process(folder, "stt/0", "stt"), Process(folder, "llm/0", "llm")
    everybody = (edge, stt, llm)
    for each in everybody:
        await each.links.open()
    for dialler, other in ((edge, stt), (edge, llm), (stt, llm)):
        dialler.links.dial(other.name, other.links.path)
    await edge.links.wait_connected(["stt/0", "llm/0"], 5)
    await stt.links.wait_connected(["llm/0"], 5)

    for other in ("stt/0", "llm/0"):
        edge.links.send(other, Attach(session="s1", epoch=1, route={"stt": ["stt/0"], "llm": ["llm/0"]}, bot="b"))
    await until(lambda: len(edge.frames) == 2)
    assert sorted(frame.role for frame in edge.frames) == ["llm", "stt"]  # type: ignore[attr-defined]
    producer, consumer = stt.stages.stages[0], llm.stages.stages[0]

    async def produce() -> None:
        for number in range(100):
            await producer.port.send_credited("llm", "clause", Clause(clause=number, text="x"), 1_000)

    producing = producer.port.spawn(produce(), "produce")
    for expected in range(1, 101):
        await until(lambda: len(consumer.received) >= expected)  # noqa: B023
        assert len(consumer.received) <= expected + 3  # 4,096 bytes: four may be out
        consumer.port.grant("stt", "clause", 1_000)
    await producing
    assert [frame.clause for frame in consumer.received] == list(range(100))  # type: ignore[attr-defined]

    await stt.close()  # its process ends, and tells the edge first
    await until(lambda: llm.host is not None and not llm.host.sessions())
    await until(lambda: len(edge.frames) == 4)
    assert [(type(frame), frame.scope) for frame in edge.frames[2:]] == [(Error, "session")] * 2  # type: ignore[attr-defined]
    for each in (edge, llm):
        await each.close()
    folder.rmdir()
