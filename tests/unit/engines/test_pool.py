"""A stage's side of an engine: reading an answer, leaving it, losing the engine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import msgspec
import pytest

from rtvi_actors.config import runtime_folder
from rtvi_actors.engines import pool
from rtvi_actors.engines.pool import EngineClient
from rtvi_actors.engines.serve import EngineServer
from rtvi_actors.errors import EngineError, EngineLostError, EngineTimeoutError
from rtvi_actors.frames.types import BotState, EngineCancel, EngineData, EngineEnd, EngineRequest, Frame
from rtvi_actors.runtime.session_port import SessionPort
from rtvi_actors.runtime.switchboard import Switchboard
from rtvi_actors.tts.engine import TtsPiece, TtsRequest

pytestmark = pytest.mark.unit

Client = EngineClient[TtsRequest, TtsPiece]


class FakePort:
    """Only ``send`` is used of a port."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, Frame]] = []

    def send(self, to: str, frame: Frame) -> None:
        self.sent.append((to, frame))

    def kinds(self) -> list[str]:
        return [type(frame).__name__ for _, frame in self.sent]


@pytest.fixture
def port() -> FakePort:
    return FakePort()


@pytest.fixture
def client(port: FakePort) -> Client:
    return EngineClient(port, "tts", TtsRequest, TtsPiece)  # type: ignore[arg-type]


class Reading:
    """A task that reads one answer."""

    def __init__(self, client: Client, *, first_timeout_ms: int = 1_000, idle_timeout_ms: int = 1_000) -> None:
        self.pcm: list[bytes] = []
        self.task = asyncio.create_task(self._read(client, first_timeout_ms, idle_timeout_ms))

    async def _read(self, client: Client, first_ms: int, idle_ms: int) -> None:
        answer = client.stream(TtsRequest("hello"), first_timeout_ms=first_ms, idle_timeout_ms=idle_ms)
        async with aclosing(answer):
            async for piece in answer:
                self.pcm.append(piece.pcm)


def data(request: int, pcm: bytes) -> EngineData:
    payload = msgspec.msgpack.encode(TtsPiece(pcm=pcm, compute_ns=1))
    return EngineData(request=request, payload=payload, compute_ns=1)


def end(request: int, error: str = "", retryable: bool = False) -> EngineEnd:
    return EngineEnd(request=request, compute_ns=1, queue_ns=0, error=error, retryable=retryable)


async def settle() -> None:
    """Let everything run that is ready to."""
    for _ in range(10):
        await asyncio.sleep(0)


async def failure(reading: Reading) -> BaseException:
    await asyncio.wait({reading.task}, timeout=2)
    error = reading.task.exception()
    assert error is not None
    return error


async def test_pieces_come_in_order_until_the_end(client: Client, port: FakePort) -> None:
    reading = Reading(client)
    await settle()
    [(role, request)] = port.sent
    assert (role, type(request)) == ("engine/tts", EngineRequest)
    assert msgspec.msgpack.decode(request.payload, type=TtsRequest) == TtsRequest("hello")  # type: ignore[attr-defined]
    assert client.receive(data(1, b"aa"))
    await settle()
    assert reading.pcm == [b"aa"]
    for frame in (data(1, b"bb"), data(1, b"cc"), end(1)):
        assert client.receive(frame)
    await asyncio.wait_for(reading.task, 1)
    assert reading.pcm == [b"aa", b"bb", b"cc"]
    assert port.kinds() == ["EngineRequest"]
    assert client.open_requests == 0


async def test_requests_are_told_apart(client: Client, port: FakePort) -> None:
    one, two = Reading(client), Reading(client)
    await settle()
    assert [frame.request for _, frame in port.sent] == [1, 2]  # type: ignore[attr-defined]
    for frame in (data(2, b"22"), data(1, b"11"), end(2), end(1)):
        client.receive(frame)
    await asyncio.gather(one.task, two.task)
    assert (one.pcm, two.pcm) == ([b"11"], [b"22"])


async def test_other_frames_are_not_taken_and_late_ones_are_dropped(client: Client) -> None:
    assert not client.receive(BotState(state="silent"))
    assert client.receive(data(9, b"aa"))
    assert client.receive(end(9))


@pytest.mark.parametrize("retryable", [False, True])
async def test_the_engines_error_comes_behind_its_pieces(client: Client, port: FakePort, retryable: bool) -> None:
    reading = Reading(client)
    await settle()
    client.receive(data(1, b"aa"))
    client.receive(end(1, "no such voice", retryable))
    error = await failure(reading)
    assert isinstance(error, EngineError)
    assert (str(error), error.retryable, reading.pcm) == ("no such voice", retryable, [b"aa"])
    assert port.kinds() == ["EngineRequest"]


@pytest.mark.parametrize("how", ["cancel", "aclose"])
async def test_leaving_early_withdraws_the_request(client: Client, port: FakePort, how: str) -> None:
    if how == "cancel":
        reading = Reading(client)
        await settle()
        client.receive(data(1, b"aa"))
        await settle()
        reading.task.cancel()
        await asyncio.wait({reading.task}, timeout=1)
    else:
        answer = client.stream(TtsRequest("hello"), first_timeout_ms=1_000, idle_timeout_ms=1_000)
        async with aclosing(answer):
            step = asyncio.ensure_future(anext(answer))
            await settle()
            client.receive(data(1, b"aa"))
            await step
    assert port.kinds() == ["EngineRequest", "EngineCancel"]
    assert port.sent[-1] == ("engine/tts", EngineCancel(request=1))
    assert client.open_requests == 0


async def test_an_answer_that_never_begins(client: Client, port: FakePort) -> None:
    reading = Reading(client, first_timeout_ms=10)
    error = await failure(reading)
    assert isinstance(error, EngineTimeoutError)
    assert error.retryable
    assert port.kinds() == ["EngineRequest", "EngineCancel"]


async def test_an_answer_that_stops_in_the_middle(client: Client, port: FakePort) -> None:
    reading = Reading(client, idle_timeout_ms=10)
    await settle()
    client.receive(data(1, b"aa"))
    assert isinstance(await failure(reading), EngineTimeoutError)
    assert reading.pcm == [b"aa"]
    assert port.kinds() == ["EngineRequest", "EngineCancel"]


async def test_what_the_lost_engine_had_not_begun_is_asked_of_another_once(client: Client, port: FakePort) -> None:
    one, two = Reading(client), Reading(client)
    await settle()
    client.lost("engine/llm")
    assert port.kinds() == ["EngineRequest", "EngineRequest"]
    client.lost("engine/tts")
    first, second, *again = port.sent
    assert again == [first, second]
    client.receive(data(1, b"aa"))
    client.receive(end(1))
    await one.task
    client.lost("engine/tts")  # the other one, too; or there was none
    error = await failure(two)
    assert isinstance(error, EngineLostError)
    assert error.retryable
    assert port.kinds() == ["EngineRequest"] * 4
    assert client.open_requests == 0


async def test_what_the_lost_engine_had_begun_fails(client: Client, port: FakePort) -> None:
    reading = Reading(client)
    await settle()
    client.receive(data(1, b"aa"))
    await settle()
    client.lost("engine/tts")
    assert isinstance(await failure(reading), EngineLostError)
    assert port.kinds() == ["EngineRequest"]
    client.receive(data(1, b"bb"))  # from before the loss
    assert client.open_requests == 0


async def test_an_answer_that_is_not_read_is_withdrawn(client: Client, port: FakePort, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "MAX_WAITING_BYTES", 1_000)
    answer = client.stream(TtsRequest("hello"), first_timeout_ms=1_000, idle_timeout_ms=1_000)
    async with aclosing(answer):
        step = asyncio.ensure_future(anext(answer))
        await settle()
        for _ in range(12):
            client.receive(data(1, bytes(100)))
        with pytest.raises(EngineError, match="not read"):
            await step
    assert port.kinds() == ["EngineRequest", "EngineCancel"]


async def test_reading_makes_room_again(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "MAX_WAITING_BYTES", 300)
    reading = Reading(client)
    await settle()
    for _ in range(20):
        client.receive(data(1, bytes(100)))
        await settle()
    client.receive(end(1))
    await asyncio.wait_for(reading.task, 1)
    assert len(reading.pcm) == 20


async def test_a_malformed_piece_fails_the_request(client: Client, port: FakePort) -> None:
    reading = Reading(client)
    await settle()
    client.receive(EngineData(request=1, payload=b"\xc1", compute_ns=0))
    error = await failure(reading)
    assert isinstance(error, EngineError)
    assert "malformed piece" in str(error)
    assert port.kinds() == ["EngineRequest", "EngineCancel"]


async def test_the_wrong_type_of_request_is_a_mistake_of_the_stage(client: Client, port: FakePort) -> None:
    wrong: Any = "hello"
    with pytest.raises(TypeError, match="TtsRequest, not str"):
        await anext(client.stream(wrong, first_timeout_ms=1, idle_timeout_ms=1))
    assert port.sent == []


class SlowVoice:
    """Gives each word's bytes; waits for ever after "wait"."""

    memory_bytes = 0

    def __init__(self) -> None:
        self.left = 0

    async def stream(self, session: str, request: TtsRequest) -> AsyncIterator[TtsPiece]:
        try:
            for word in request.text.split():
                yield TtsPiece(pcm=word.encode(), compute_ns=1)
                if word == "wait":
                    await asyncio.Event().wait()
        finally:
            self.left += 1

    def load(self) -> None: ...

    def warm_up(self) -> None: ...

    def close(self) -> None: ...


@pytest.mark.usefixtures("no_new_fds")
async def test_client_and_server_over_a_real_link(until: Any) -> None:
    folder = runtime_folder()
    voice = SlowVoice()
    lost: list[str] = []

    def on_peer(peer: str, up: bool, reason: str) -> None:
        if not up:
            lost.append(peer)
            client.lost("engine/tts")

    def on_request(peer: str, frame: Frame) -> None:
        server.on_frame(peer, frame)

    def on_answer(_: str, frame: Frame) -> None:
        assert client.receive(frame)

    def on_stage(peer: str, up: bool, reason: str) -> None:
        server.on_peer(peer, up, reason)

    engine = Switchboard(
        "engine/tts/0",
        str(folder / "engine.sock"),
        node="n1",
        on_frame=on_request,
        on_peer=on_stage,
    )
    stage = Switchboard(
        "tts/0",
        str(folder / "stage.sock"),
        node="n1",
        on_frame=on_answer,
        on_peer=on_peer,
    )
    server = EngineServer("tts", voice, engine)
    port = SessionPort(stage, "s1", 1, {"edge": ["edge/0"], "engine/tts": ["engine/tts/0"]})
    client: Client = EngineClient(port, "tts", TtsRequest, TtsPiece)
    await engine.open()
    await stage.open()
    stage.dial("engine/tts/0", engine.path)
    await stage.wait_connected(["engine/tts/0"], 5)

    answer = client.stream(TtsRequest("one two"), first_timeout_ms=2_000, idle_timeout_ms=2_000)
    assert [piece.pcm async for piece in answer] == [b"one", b"two"]

    answer = client.stream(TtsRequest("wait"), first_timeout_ms=2_000, idle_timeout_ms=2_000)
    async with aclosing(answer):
        assert (await anext(answer)).pcm == b"wait"
    await until(lambda: voice.left == 2)  # the cancel reached it

    answer = client.stream(TtsRequest("wait"), first_timeout_ms=2_000, idle_timeout_ms=60_000)
    await anext(answer)
    await server.close()
    await engine.close()
    with pytest.raises(EngineLostError):
        await asyncio.wait_for(anext(answer), 5)
    assert lost == ["engine/tts/0"]
    await port.close()
    await stage.close()
    folder.rmdir()
