"""An engine's side: requests in, pieces out, withdrawals, limits."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from rtvi_actors.engines import serve
from rtvi_actors.engines.serve import EngineServer
from rtvi_actors.errors import ConfigError, EngineError, EngineTimeoutError
from rtvi_actors.frames.types import BotState, Detach, EngineCancel, EngineData, EngineEnd, EngineRequest, Frame
from rtvi_actors.llm.engine import ChatMessage, LlmPiece, LlmRequest

pytestmark = pytest.mark.unit


class FakeLinks:
    def __init__(self) -> None:
        self.up = {"llm/0", "llm/1"}
        self.sent: list[tuple[str, Frame]] = []

    def connected(self, peer: str) -> bool:
        return peer in self.up

    def send(self, peer: str, frame: Frame) -> bool:
        if peer in self.up:
            self.sent.append((peer, frame))
        return peer in self.up

    def ends(self) -> list[EngineEnd]:
        return [frame for _, frame in self.sent if isinstance(frame, EngineEnd)]


class EchoBackend:
    """Gives each word of the last message as a piece; ``gate`` holds all but the first. The word decides about failures."""

    memory_bytes = 7

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.gate.set()
        self.left: list[str] = []
        self.forgotten: list[str] = []
        self.closed_in: threading.Thread | None = None

    async def stream(self, session: str, request: LlmRequest) -> AsyncIterator[LlmPiece]:
        words = request.messages[-1].content.split()
        try:
            for number, word in enumerate(words):
                if number:
                    await self.gate.wait()
                if word == "crash":
                    raise KeyError("weights")
                if word == "fail":
                    raise EngineError("no such voice")
                if word == "late":
                    raise EngineTimeoutError("too late")
                yield LlmPiece(text=word, compute_ns=1_000 * (number + 1), queue_ns=5)
        finally:
            self.left.append(session)

    def load(self) -> None: ...

    def warm_up(self) -> None: ...

    def forget(self, session: str) -> None:
        self.forgotten.append(session)

    def close(self) -> None:
        self.closed_in = threading.current_thread()


@pytest.fixture
def links() -> FakeLinks:
    return FakeLinks()


@pytest.fixture
def backend() -> EchoBackend:
    return EchoBackend()


@pytest.fixture
def server(backend: EchoBackend, links: FakeLinks) -> EngineServer:
    return EngineServer("llm", backend, links)


def ask(number: int, text: str, session: str = "s1") -> EngineRequest:
    request = LlmRequest(messages=[ChatMessage("user", text)], max_tokens=8)
    payload = msgspec.msgpack.encode(request)
    return EngineRequest(session=session, epoch=2, turn=4, attempt=1, request=number, payload=payload)


async def settle() -> None:
    """Let everything run that is ready to."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_an_answer_comes_in_pieces_with_the_turn_of_its_question(server: EngineServer, links: FakeLinks) -> None:
    server.on_frame("llm/0", ask(1, "hello there"))
    await settle()
    data = [frame for _, frame in links.sent if isinstance(frame, EngineData)]
    pieces = [msgspec.msgpack.decode(frame.payload, type=LlmPiece) for frame in data]
    assert [(piece.text, piece.compute_ns) for piece in pieces] == [("hello", 1_000), ("there", 2_000)]
    assert [frame.compute_ns for frame in data] == [1_000, 2_000]
    [end] = links.ends()
    assert (end.request, end.compute_ns, end.queue_ns, end.error) == (1, 2_000, 5, "")
    assert [(f.session, f.epoch, f.turn, f.attempt, f.seq) for _, f in links.sent] == [("s1", 2, 4, 1, n) for n in range(3)]
    stats = server.stats()
    assert (stats["done"], stats["in_flight"], stats["sessions"]) == (1, 0, 1)


async def test_requests_run_beside_each_other(server: EngineServer, links: FakeLinks, backend: EchoBackend) -> None:
    backend.gate.clear()
    server.on_frame("llm/0", ask(1, "a b", "s1"))
    server.on_frame("llm/1", ask(1, "c d", "s2"))
    await settle()
    assert server.stats()["in_flight"] == 2
    assert [peer for peer, _ in links.sent] == ["llm/0", "llm/1"]
    backend.gate.set()
    await settle()
    assert sorted(peer for peer, frame in links.sent if isinstance(frame, EngineEnd)) == ["llm/0", "llm/1"]


@pytest.mark.parametrize(
    ("text", "error", "retryable"),
    [
        ("fail", "no such voice", False),
        ("a late", "too late", True),
        ("a crash", "KeyError: 'weights'", False),
    ],
)
async def test_a_failure_is_the_answers_end(server: EngineServer, links: FakeLinks, text: str, error: str, retryable: bool) -> None:
    server.on_frame("llm/0", ask(1, text))
    await settle()
    [end] = links.ends()
    assert (end.error, end.retryable) == (error, retryable)
    server.on_frame("llm/0", ask(2, "next"))
    await settle()
    assert links.ends()[-1].error == ""
    assert (server.stats()["failed"], server.stats()["done"]) == (1, 1)


@pytest.mark.parametrize("payload", [b"", b"\xc1", msgspec.msgpack.encode([1, "x"]), msgspec.msgpack.encode({"a": 1})])
async def test_a_malformed_request_is_answered(server: EngineServer, links: FakeLinks, payload: bytes) -> None:
    server.on_frame("llm/0", EngineRequest(session="s1", epoch=1, request=3, payload=payload))
    await settle()
    [end] = links.ends()
    assert end.request == 3
    assert end.error.startswith("malformed request")
    assert not end.retryable


async def test_cancel_stops_the_backend_without_an_end(server: EngineServer, links: FakeLinks, backend: EchoBackend) -> None:
    backend.gate.clear()
    server.on_frame("llm/0", ask(1, "a b"))
    await settle()
    server.on_frame("llm/1", EngineCancel(session="s1", request=1))  # not its own
    await settle()
    assert backend.left == []
    server.on_frame("llm/0", EngineCancel(session="s1", request=1))
    server.on_frame("llm/0", EngineCancel(session="s1", request=99))
    await settle()
    assert backend.left == ["s1"]
    assert links.ends() == []
    assert (server.stats()["cancelled"], server.stats()["in_flight"]) == (1, 0)


async def test_a_withdrawal_may_overtake_its_request(server: EngineServer, links: FakeLinks, backend: EchoBackend) -> None:
    """They travel on two sockets."""
    server.on_frame("llm/0", EngineCancel(session="s1", epoch=2, request=2))
    for number in (1, 2, 3):
        server.on_frame("llm/0", ask(number, "a b"))
    await settle()
    assert [end.request for end in links.ends()] == [1, 3]
    assert (server.stats()["cancelled"], server.stats()["done"]) == (1, 2)


async def test_the_end_of_a_session_may_overtake_its_last_request(
    server: EngineServer, links: FakeLinks, backend: EchoBackend
) -> None:
    server.on_frame("llm/0", ask(1, "a b"))
    await settle()
    server.on_frame("llm/0", Detach(session="s1", epoch=2, reason="over"))
    server.on_frame("llm/0", ask(2, "a b"))
    server.on_frame("llm/0", EngineCancel(session="s1", epoch=2, request=2))
    await settle()
    assert [end.request for end in links.ends()] == [1]
    assert (backend.left, backend.forgotten, server.stats()["sessions"]) == (["s1"], ["s1"], 0)


async def test_the_end_of_a_session_or_a_link_withdraws_what_it_asked(
    server: EngineServer, links: FakeLinks, backend: EchoBackend
) -> None:
    backend.gate.clear()
    for session, peer in (("s1", "llm/0"), ("s2", "llm/0"), ("s3", "llm/1")):
        server.on_frame(peer, ask(1, "a b", session))
    await settle()
    server.on_frame("llm/0", Detach(session="s1", reason="over"))
    await settle()
    assert (backend.left, backend.forgotten) == (["s1"], ["s1"])
    server.on_peer("llm/0", True, "")
    server.on_peer("llm/0", False, "eof")
    await settle()
    assert (backend.left, backend.forgotten) == (["s1", "s2"], ["s1", "s2"])
    assert (server.stats()["sessions"], server.stats()["in_flight"]) == (1, 1)


async def test_an_overflow_of_the_links_fails_the_sessions_requests(
    server: EngineServer, links: FakeLinks, backend: EchoBackend
) -> None:
    backend.gate.clear()
    server.on_frame("llm/0", ask(1, "a b"))
    server.on_frame("llm/0", ask(1, "a b", "s2"))
    await settle()
    server.on_overflow("s1", "too much waits")
    await settle()
    assert [(end.session, end.error, end.retryable) for end in links.ends()] == [("s1", "too much waits", True)]
    assert (backend.left, backend.forgotten) == (["s1"], [])
    assert server.stats()["in_flight"] == 1


async def test_an_answer_that_nobody_takes_stops(server: EngineServer, links: FakeLinks, backend: EchoBackend) -> None:
    links.up.clear()
    server.on_frame("llm/0", ask(1, "a b c"))
    await settle()
    assert backend.left == ["s1"]
    assert server.stats()["failed"] == 1


async def test_limits_per_session_and_in_all(
    server: EngineServer, links: FakeLinks, backend: EchoBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve, "MAX_REQUESTS_PER_SESSION", 2)
    monkeypatch.setattr(serve, "MAX_REQUESTS", 3)
    backend.gate.clear()
    for number in (1, 2, 2, 3):
        server.on_frame("llm/0", ask(number, "a b"))
    for number in (1, 2):
        server.on_frame("llm/1", ask(number, "a b", "s2"))
    await settle()
    assert [(end.request, end.retryable) for end in links.ends()] == [(3, True), (2, True)], "one that runs is not run twice"
    texts = [end.error for end in links.ends()]
    assert texts[0] == "the session has 2 requests in flight already"
    assert texts[1] == "the engine has 3 requests in flight already"
    backend.gate.set()
    await settle()
    assert server.stats()["done"] == 3


async def test_other_frames_and_unknown_kinds(server: EngineServer, links: FakeLinks, backend: EchoBackend) -> None:
    server.on_frame("llm/0", BotState(session="s1", state="silent"))
    await settle()
    assert links.sent == []
    with pytest.raises(ConfigError, match="allowed are stt, llm, tts"):
        EngineServer("vision", backend, links)


async def test_close_withdraws_everything_and_closes_the_backend_in_a_thread(server: EngineServer, backend: EchoBackend) -> None:
    backend.gate.clear()
    server.on_frame("llm/0", ask(1, "a b"))
    await settle()
    await asyncio.wait_for(server.close(), 1)
    assert backend.left == ["s1"]
    assert backend.closed_in not in (None, threading.main_thread())
    assert server.stats()["in_flight"] == 0


@pytest.mark.parametrize("kind", ["stt", "llm", "tts"])
def test_every_kind_has_a_request_type(kind: str, backend: Any, links: FakeLinks) -> None:
    EngineServer(kind, backend, links)
