"""A session's port: stamps, routes, credits, tasks, and its end."""

from __future__ import annotations

import asyncio

import pytest

from rtvi_actors.errors import EngineLostError, SessionClosedError
from rtvi_actors.frames.types import BotAudio, BotState, Clause, Credit, Error, Frame
from rtvi_actors.runtime import session_port
from rtvi_actors.runtime.session_port import SessionPort

pytestmark = pytest.mark.unit

ROUTE = {"edge": ["edge/0"], "tts": ["tts/0"], "engine/llm": ["llm/a", "llm/b"]}


class FakeLinks:
    """Keeps what was sent; everybody in ``up`` is connected."""

    def __init__(self, *up: str) -> None:
        self.up = set(up)
        self.sent: list[tuple[str, Frame]] = []

    def connected(self, peer: str) -> bool:
        return peer in self.up

    def send(self, peer: str, frame: Frame) -> bool:
        if peer in self.up:
            self.sent.append((peer, frame))
        return peer in self.up

    def of(self, kind: type[Frame]) -> list[Frame]:
        return [frame for _, frame in self.sent if isinstance(frame, kind)]


def make(*up: str, **callbacks: object) -> tuple[SessionPort, FakeLinks]:
    links = FakeLinks(*(up or ("edge/0", "tts/0", "llm/a", "llm/b")))
    return SessionPort(links, "s1", 3, ROUTE, **callbacks), links  # type: ignore[arg-type]


async def settle() -> None:
    """Let everything run that is ready to."""
    for _ in range(5):
        await asyncio.sleep(0)


def audio(number: int, size: int = 1_920) -> BotAudio:
    return BotAudio(clause=0, first_sample=number, pcm=bytes(size))


async def test_stamps_session_epoch_and_a_number_per_lane() -> None:
    port, links = make()
    state = BotState(turn=7, state="speaking")
    for frame in (state, Clause(turn=7, clause=0, text="a"), state, Clause(turn=7, clause=1, text="b")):
        port.send("tts", frame)
    stamps = [(type(f).__name__, f.session, f.epoch, f.turn, f.seq) for _, f in links.sent]
    assert stamps == [
        ("BotState", "s1", 3, 7, 0),
        ("Clause", "s1", 3, 7, 0),
        ("BotState", "s1", 3, 7, 1),
        ("Clause", "s1", 3, 7, 1),
    ]
    assert state.seq == 0


async def test_a_role_outside_the_route_is_an_error() -> None:
    port, _ = make()
    with pytest.raises(SessionClosedError, match=r"no stt.*edge, tts"):
        port.send("stt", BotState(state="silent"))


async def test_takes_the_first_connected_name_and_stays_with_it() -> None:
    port, links = make("llm/b")
    port.send("engine/llm", BotState(state="1"))
    links.up.add("llm/a")
    port.send("engine/llm", BotState(state="2"))
    links.up.discard("llm/b")
    port.send("engine/llm", BotState(state="3"))
    assert [peer for peer, _ in links.sent] == ["llm/b", "llm/b", "llm/a"]
    assert port.engines_used == {"llm/a", "llm/b"}


async def test_a_frame_for_nobody_is_counted_and_told() -> None:
    told: list[str] = []
    port, links = make("edge/0", on_unreachable=told.append)
    port.send("engine/llm", BotState(state="silent"))
    assert (told, links.sent, port.frames_dropped) == (["engine/llm"], [], 1)


async def test_peer_down_names_the_role_only_if_nobody_else_serves_it() -> None:
    port, links = make()
    port.send("engine/llm", BotState(state="1"))
    links.up.discard("llm/b")
    assert port.peer_down("llm/b") is None
    links.up = {"llm/b"}
    assert port.peer_down("llm/a") == "engine/llm"
    assert port.peer_down("edge/0") == "edge"
    assert port.peer_down("somebody") is None


async def test_credited_frames_wait_for_room_and_keep_their_order() -> None:
    port, links = make()
    producers = [asyncio.create_task(port.send_credited("edge", "bot_audio", audio(n, 48_000), 48_000)) for n in range(5)]
    await settle()
    assert [f.first_sample for f in links.of(BotAudio)] == [0, 1]
    port.credited("edge/0", Credit(stream="bot_audio", bytes=48_000))
    late = asyncio.create_task(port.send_credited("edge", "bot_audio", audio(9, 100), 100))  # may not overtake
    await settle()
    assert [f.first_sample for f in links.of(BotAudio)] == [0, 1, 2]
    port.credited("edge/0", Credit(stream="bot_audio", bytes=96_000))
    await settle()
    assert [f.first_sample for f in links.of(BotAudio)] == [0, 1, 2, 3, 4]
    port.credited("edge/0", Credit(stream="bot_audio", bytes=48_000))
    await asyncio.gather(*producers, late)
    assert [f.first_sample for f in links.of(BotAudio)] == [0, 1, 2, 3, 4, 9]


@pytest.mark.parametrize("granted_first", [False, True])
async def test_a_cancelled_producer_sends_nothing_and_lets_the_next_one_in(granted_first: bool) -> None:
    port, links = make()
    await port.send_credited("edge", "bot_audio", audio(0, 96_000), 96_000)
    first = asyncio.create_task(port.send_credited("edge", "bot_audio", audio(1, 50_000), 50_000))
    second = asyncio.create_task(port.send_credited("edge", "bot_audio", audio(2, 50_000), 50_000))
    await settle()
    if granted_first:  # room was granted, but its task has not run yet
        port.credited("edge/0", Credit(stream="bot_audio", bytes=96_000))
        first.cancel()
    else:
        first.cancel()
        await settle()
        port.credited("edge/0", Credit(stream="bot_audio", bytes=96_000))
    await asyncio.wait([first, second], timeout=1)
    assert first.cancelled()
    assert [f.first_sample for f in links.of(BotAudio)] == [0, 2]
    await asyncio.wait_for(port.send_credited("edge", "bot_audio", audio(3, 46_000), 46_000), 1)


async def test_streams_have_windows_of_their_own_and_must_exist() -> None:
    port, links = make()
    await port.send_credited("edge", "bot_audio", audio(0, 96_000), 96_000)
    await asyncio.wait_for(port.send_credited("tts", "clause", Clause(clause=0, text="a"), 4_096), 1)
    assert len(links.sent) == 2
    with pytest.raises(ValueError, match="no credited stream"):
        await port.send_credited("edge", "video", audio(0), 10)
    port.credited("edge/0", Credit(stream="video", bytes=10))  # logged, dropped


async def test_a_frame_larger_than_the_window_goes_when_nothing_else_is_out() -> None:
    port, links = make()
    await asyncio.wait_for(port.send_credited("tts", "clause", Clause(clause=0, text="a"), 10_000), 1)
    second = asyncio.create_task(port.send_credited("tts", "clause", Clause(clause=1, text="b"), 10_000))
    await settle()
    assert len(links.sent) == 1
    port.credited("tts/0", Credit(stream="clause", bytes=10_000))
    await asyncio.wait_for(second, 1)


async def test_grant_sends_credit_to_the_producer() -> None:
    port, links = make()
    port.grant("tts", "bot_audio", 1_920)
    port.grant("tts", "bot_audio", 0)
    assert [(peer, f.stream, f.bytes) for peer, f in links.sent] == [("tts/0", "bot_audio", 1_920)]


@pytest.mark.parametrize(
    ("error", "scope", "retryable", "text"),
    [
        (KeyError("x"), "turn", False, "KeyError: 'x'"),
        (EngineLostError("gone"), "turn", True, "gone"),
        (SessionClosedError("over"), "session", False, "over"),
    ],
)
async def test_an_exception_in_a_task_becomes_an_error_frame(error: Exception, scope: str, retryable: bool, text: str) -> None:
    port, links = make()

    async def fail() -> None:
        raise error

    port.spawn(fail(), "work")
    await settle()
    [(peer, told)] = links.sent
    assert isinstance(told, Error)
    assert (peer, told.scope, told.retryable, told.text) == ("edge/0", scope, retryable, text)
    assert port.tasks == 0


async def test_an_edge_is_told_by_its_callback() -> None:
    errors: list[Error] = []
    links = FakeLinks("tts/0")
    port = SessionPort(links, "s1", 1, {"tts": ["tts/0"]}, on_error=errors.append)

    def fail() -> None:
        raise RuntimeError("boom")

    port.call_later(0, fail)
    await asyncio.sleep(0.01)
    assert [error.text for error in errors] == ["RuntimeError: boom"]
    assert links.sent == []


async def test_timers_run_in_time_unless_cancelled_or_closed() -> None:
    port, _ = make()
    ran: list[str] = []
    port.call_later(20, lambda: ran.append("late"))
    port.call_later(1, lambda: ran.append("soon"))
    port.call_later(1, lambda: ran.append("cancelled")).cancel()
    await asyncio.sleep(0.06)
    assert ran == ["soon", "late"]
    port.call_later(1, lambda: ran.append("closed"))
    await port.close()
    port.call_later(1, lambda: ran.append("after"))
    await asyncio.sleep(0.02)
    assert ran == ["soon", "late"]


async def test_close_ends_tasks_and_silences_the_port() -> None:
    port, links = make()
    ended: list[str] = []

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            port.send("edge", BotState(state="silent"))
            ended.append("work")

    await port.send_credited("edge", "bot_audio", audio(0, 96_000), 96_000)
    stranger = asyncio.create_task(port.send_credited("edge", "bot_audio", audio(1), 1_920))
    port.spawn(work(), "work")
    await settle()
    await port.close()
    await asyncio.wait_for(stranger, 1)
    await asyncio.wait_for(port.send_credited("edge", "bot_audio", audio(2), 1_920), 1)
    assert ended == ["work"]
    assert [type(f) for _, f in links.sent] == [BotAudio]
    with pytest.raises(SessionClosedError):
        port.spawn(work(), "again")
    await port.close()


async def test_close_from_one_of_its_own_tasks() -> None:
    port, _ = make()
    task = port.spawn(port.close(), "close")
    await asyncio.wait_for(task, 1)
    assert port.tasks == 0


async def test_close_does_not_wait_for_a_task_that_ignores_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(session_port, "CLOSE_DEADLINE_S", 0.02)
    port, _ = make()
    release = asyncio.Event()

    async def stubborn() -> None:
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue

    task = port.spawn(stubborn(), "stubborn")
    await settle()
    with caplog.at_level("ERROR", logger="rtvi_actors"):
        await asyncio.wait_for(port.close(), 1)
    assert "stubborn ignores its cancellation" in caplog.text
    release.set()
    await task
