"""The Python client against a small server of the test's own, over a real socket on the loopback."""

from __future__ import annotations

import array
import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from rtvi_actors.edge.json_wire import JsonWire
from rtvi_actors.edge.wire import AudioIn, MessageIn, decode, encode_audio, encode_message
from rtvi_actors.errors import CapacityError, RtviActorsError, SessionClosedError
from rtvi_actors.rtvi.messages import RawAudio, parse, request_of
from rtvi_actors.testing.client import BOT_RATE_HZ, PIECE_BYTES, RtviClient, gaps_ms

pytestmark = [pytest.mark.unit, pytest.mark.timeout(30)]

MS = 1_000_000
LOUD = array.array("h", [3_000, -3_000] * 480).tobytes()
"""40 ms at 24 kHz, and 60 ms at 16 kHz."""


class Server:
    """Answers client-ready; what else it does is the test's."""

    def __init__(self, *, ready: bool = True) -> None:
        self.url = ""
        self.messages: list[dict[str, Any]] = []
        self.heard: list[AudioIn] = []
        self.texts: list[str] = []
        self.connection: ServerConnection | None = None
        self.on_message: Callable[[dict[str, Any]], Awaitable[None]] | None = None
        self._ready = ready

    async def handle(self, connection: ServerConnection) -> None:
        self.connection = connection
        with contextlib.suppress(ConnectionClosed):
            async for data in connection:
                if isinstance(data, str):
                    self.texts.append(data)
                    continue
                incoming = decode(data)
                if isinstance(incoming, AudioIn):
                    self.heard.append(incoming)
                elif isinstance(incoming, MessageIn):
                    await self._take(json.loads(incoming.text))

    async def _take(self, message: dict[str, Any]) -> None:
        self.messages.append(message)
        if message["type"] == "client-ready":
            # An answer to somebody else's client-ready is not ours.
            await self.tell("bot-ready", {"version": "0.0.0"}, "another")
            if self._ready:
                await self.tell("bot-ready", {"version": "2.2.0"}, message["id"])
        elif self.on_message is not None:
            await self.on_message(message)

    async def tell(self, kind: str, data: Any = None, identity: str | None = None) -> None:
        assert self.connection is not None
        text = json.dumps({"label": "rtvi-ai", "type": kind, "data": data, "id": identity})
        await self.connection.send(encode_message(text))

    async def tell_all(self, messages: Iterable[tuple[str, Any]]) -> None:
        for kind, data in messages:
            await self.tell(kind, data)

    async def play(self, pcm: bytes) -> None:
        assert self.connection is not None
        await self.connection.send(encode_audio(pcm, BOT_RATE_HZ))


@contextlib.asynccontextmanager
async def listening(server: Server, **options: Any) -> AsyncIterator[Server]:
    async with serve(server.handle, "127.0.0.1", 0, **options) as listener:
        port = next(iter(listener.sockets)).getsockname()[1]
        server.url = f"ws://127.0.0.1:{port}/ws"
        yield server


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with listening(Server()) as running:
        yield running


ANSWER = [
    ("user-transcription", {"text": "hel", "final": False}),
    ("user-transcription", {"text": "hello", "final": True}),
    ("bot-llm-started", None),
    ("bot-llm-text", {"text": "Good "}),
    ("bot-llm-text", {"text": "evening."}),
    ("bot-llm-stopped", None),
]
METRICS = {
    "turn_latency": [
        {"turn": 1, "segments": [{"name": "stt", "value": 0.25}, {"name": "playout", "value": 0.05}], "own_share": 0.02},
    ]
}


# ---------------------------------------------------------------------------------------------------------- handshake


async def test_entering_shakes_hands_and_leaving_closes_the_socket(server: Server, no_new_fds: None) -> None:
    async with RtviClient(server.url, version="1.2.0") as client:
        assert client.bot_version == "2.2.0"
        assert client.ready_ms > 0
        assert not client.closed
    assert client.closed
    [ready] = server.messages
    assert ready["label"] == "rtvi-ai"
    assert (ready["type"], ready["data"]["version"]) == ("client-ready", "1.2.0")
    await client.close()


async def test_no_bot_ready_is_an_error_and_leaves_nothing(no_new_fds: None) -> None:
    async with listening(Server(ready=False)) as server:
        with pytest.raises(RtviActorsError, match=r"nothing within 0 s; last messages: bot-ready"):
            async with RtviClient(server.url, ready_deadline_s=0.1):
                pytest.fail("entered")


async def test_a_server_that_closes_before_bot_ready() -> None:
    class Closing(Server):
        async def handle(self, connection: ServerConnection) -> None:
            await connection.close()

    async with listening(Closing()) as server:
        with pytest.raises(RtviActorsError, match=r"session ended|session is over"):
            async with RtviClient(server.url):
                pytest.fail("entered")


def refusing(status: int, body: bytes) -> Callable[[ServerConnection, Request], Response]:
    return lambda connection, request: Response(status, "No", Headers({"Content-Length": str(len(body))}), body)


async def test_503_is_a_capacity_error_with_its_retry_after() -> None:
    body = json.dumps({"detail": "all places are taken", "retry_after_ms": 1_500}).encode()
    async with listening(Server(), process_request=refusing(503, body)) as server:
        client = RtviClient(server.url)
        with pytest.raises(CapacityError, match="all places are taken") as refused:
            await client.__aenter__()
        assert refused.value.retry_after_ms == 1_500
        assert client.closed


@pytest.mark.parametrize(
    ("status", "body"), [(404, b"no such path"), (503, b"<html>bad gateway</html>"), (503, b"{}"), (503, b"[1]")]
)
async def test_other_answers_are_told_as_they_are(status: int, body: bytes) -> None:
    async with listening(Server(), process_request=refusing(status, body)) as server:
        with pytest.raises(RtviActorsError, match=f"answered HTTP {status}") as refused:
            await RtviClient(server.url).__aenter__()
        assert not isinstance(refused.value, CapacityError)


@pytest.mark.parametrize("url", ["ws://127.0.0.1:1/ws", "not a url"])
async def test_no_connection_says_what_to_start(url: str) -> None:
    with pytest.raises(RtviActorsError, match="rtvi-actors serve"):
        await RtviClient(url).__aenter__()


# ------------------------------------------------------------------------------------------------------------ speaking


async def test_the_microphone_sends_all_of_an_utterance_between_silence(server: Server) -> None:
    pcm = LOUD + bytes(100)
    async with RtviClient(server.url) as client:
        utterance = client.say(pcm)
        assert utterance.ended_ns == 0
        await asyncio.wait_for(utterance.done.wait(), 5)
        assert utterance.started_ns < utterance.ended_ns
    assert {(piece.rate_hz, piece.channels, len(piece.pcm)) for piece in server.heard} == {(16_000, 1, PIECE_BYTES)}
    assert b"".join(piece.pcm for piece in server.heard).strip(b"\0") == pcm.strip(b"\0")


async def test_utterances_are_said_one_after_the_other(server: Server) -> None:
    first, second = array.array("h", [1_000] * 320).tobytes(), array.array("h", [2_000] * 320).tobytes()
    async with RtviClient(server.url) as client:
        utterances = [client.say(first), client.say(second)]
        for utterance in utterances:
            await asyncio.wait_for(utterance.done.wait(), 5)
    loud = [piece.pcm for piece in server.heard if any(piece.pcm)]
    assert loud == [first, second]


async def test_who_waits_for_an_utterance_is_told_when_the_session_ends_first(server: Server) -> None:
    async with RtviClient(server.url) as client:
        saying, waiting = client.say(LOUD * 100), client.say(LOUD)
        assert server.connection is not None
        await server.connection.close()
        for utterance in (saying, waiting):
            with pytest.raises(RtviActorsError, match="session ended"):
                await client.turn(utterance, deadline_s=5)


async def test_an_utterance_that_takes_longer_than_the_deadline(server: Server) -> None:
    async with RtviClient(server.url) as client:
        with pytest.raises(RtviActorsError, match="not said within"):
            await client.turn(client.say(LOUD * 100), deadline_s=0.05)


async def test_without_a_microphone_nothing_is_sent_and_nothing_can_be_said(server: Server) -> None:
    async with RtviClient(server.url, microphone=False) as client:
        with pytest.raises(RtviActorsError, match="microphone=False"):
            client.say(LOUD)
        client.send_raw("a text frame")
        client.send("something", {"a": 1})
        async with asyncio.timeout(5):
            while len(server.messages) < 2:
                await asyncio.sleep(0.002)
    assert server.heard == []
    assert server.texts == ["a text frame"]
    assert server.messages[1]["data"] == {"a": 1}


async def test_nothing_can_be_sent_when_the_session_is_over(server: Server) -> None:
    async with RtviClient(server.url) as client:
        pass
    with pytest.raises(SessionClosedError):
        client.send("something")
    with pytest.raises(SessionClosedError):
        client.say(LOUD)


# ----------------------------------------------------------------------------------------------------------- listening


async def test_a_spoken_turn(server: Server) -> None:
    async with RtviClient(server.url) as client:
        utterance = client.say(LOUD)
        await asyncio.wait_for(utterance.done.wait(), 5)
        await server.tell_all(ANSWER)
        await server.tell("bot-started-speaking")
        await server.play(bytes(len(LOUD)))
        await server.play(LOUD)
        await server.tell("metrics", METRICS)
        await server.tell("error", {"error": "something small", "fatal": False})
        await server.tell("bot-stopped-speaking")
        turn = await client.turn(utterance, deadline_s=5)
        assert turn.transcripts == ["hello"]
        assert turn.answer == "Good evening."
        assert turn.audio == bytes(len(LOUD)) + LOUD
        assert not turn.interrupted
        assert turn.errors == ["something small"]
        assert turn.segments_ms == {"stt": 250.0, "playout": 50.0}
        assert (turn.server_ms, turn.own_share_ms) == (300.0, 20.0)
        # It counts from the last audible sample to the first audible one: not to the silence before.
        assert turn.voice_to_voice_ms == (client.audio[1][1] - utterance.ended_ns) / 1e6


async def test_a_typed_turn_without_sound_is_over_with_its_text(server: Server) -> None:
    async def answer(message: dict[str, Any]) -> None:
        assert message["type"] == "send-text"
        await server.tell_all(ANSWER[2:])

    server.on_message = answer
    async with RtviClient(server.url, microphone=False) as client:
        turn = await client.turn(client.send_text("hello", audio_response=False), deadline_s=5)
    assert server.messages[-1]["data"] == {"content": "hello", "options": {"run_immediately": True, "audio_response": False}}
    assert turn.answer == "Good evening."
    assert turn.voice_to_voice_ms is None
    assert turn.audio == b""


async def test_what_belongs_to_an_earlier_turn_is_not_counted(server: Server) -> None:
    async with RtviClient(server.url) as client:
        await server.tell_all(ANSWER)
        await server.play(LOUD)
        await server.tell("bot-stopped-speaking")
        await client.wait_type("bot-stopped-speaking", 5)
        later = client.say(LOUD)
        await asyncio.wait_for(later.done.wait(), 5)
        heard = client.heard(later)
        assert (heard.transcripts, heard.answer, heard.audio) == ([], "", b"")
        with pytest.raises(RtviActorsError, match="last messages: none"):
            await client.turn(later, deadline_s=0.2)


async def test_an_interruption_and_a_cut_turn_are_seen(server: Server) -> None:
    async with RtviClient(server.url) as client:
        utterance = client.say(LOUD)
        await server.tell_all([("bot-interrupted", None), *ANSWER[:2], ("user-transcription", {"text": "again", "final": True})])
        await client.wait(lambda message: message.data == {"text": "again", "final": True}, 5)
        turn = client.heard(utterance)
    assert turn.interrupted
    assert turn.transcripts == ["hello", "again"]


async def test_wait_finds_what_came_before_and_ends_with_the_session(server: Server) -> None:
    async with RtviClient(server.url) as client:
        assert (await client.wait_type("bot-ready", 0)).id == "another"
        waiting = asyncio.create_task(client.wait_type("never", 20))
        await asyncio.sleep(0)
        assert server.connection is not None
        await server.connection.close()
        with pytest.raises(RtviActorsError, match="the session ended"):
            await asyncio.wait_for(waiting, 5)
        assert client.closed


# ---------------------------------------------------------------------------------------------------------------- gaps


def arrivals(*chunks: tuple[int, int]) -> list[tuple[bytes, int]]:
    """(length in ms, arrival in ms) of each chunk."""
    return [(bytes(length * BOT_RATE_HZ // 1_000 * 2), (1_000 + at) * MS) for length, at in chunks]


@pytest.mark.parametrize(
    ("chunks", "gaps"),
    [
        ([], []),
        ([(40, 0)], []),
        ([(40, 0), (40, 40), (40, 80)], []),
        ([(40, 0), (40, 80)], []),  # 40 ms of silence: not over 40
        ([(40, 0), (40, 81)], [41.0]),
        ([(40, 0), (40, 10), (40, 20), (40, 160)], []),  # 120 ms were there ahead of time, 40 are missing
        ([(40, 0), (40, 10), (40, 20), (40, 220)], [100.0]),
        ([(40, 0), (40, 140), (40, 180), (40, 320)], [100.0, 100.0]),
    ],
)
def test_gaps(chunks: list[tuple[int, int]], gaps: list[float]) -> None:
    assert gaps_ms(arrivals(*chunks)) == pytest.approx(gaps)


async def test_a_recording_is_sent_at_once_and_before_what_is_said_then(server: Server, until: Any) -> None:
    recorded = array.array("h", range(1, 30_001)).tobytes()
    async with RtviClient(server.url) as client:
        utterance = client.say(recorded, at_once=True)
        said = client.say(LOUD)
        await asyncio.wait_for(said.done.wait(), 5)
        await until(lambda: LOUD in b"".join(audio.pcm for audio in server.heard))
    heard = b"".join(audio.pcm for audio in server.heard)
    assert 0 <= heard.index(recorded) < heard.index(LOUD)
    assert len([audio for audio in server.heard if len(audio.pcm) == 512]) == len(recorded) // 512
    assert utterance.started_ns <= utterance.ended_ns < said.started_ns


# -------------------------------------------------------------------------------------------------------- the JSON wire


class JsonServer(Server):
    """Reads and writes with the edge's own JSON wire. Its audio is carried from the start."""

    def __init__(self) -> None:
        super().__init__()
        self.wire = JsonWire()
        self.wire.carry_audio()

    async def handle(self, connection: ServerConnection) -> None:
        self.connection = connection
        with contextlib.suppress(ConnectionClosed):
            async for data in connection:
                incoming = self.wire.decode(data)
                assert isinstance(incoming, MessageIn)
                request = request_of(parse(incoming.text, max_depth=32))
                if isinstance(request, RawAudio):
                    self.heard.append(AudioIn(request.pcm, request.rate_hz, request.channels))
                else:
                    await self._take(json.loads(incoming.text))

    async def tell(self, kind: str, data: Any = None, identity: str | None = None) -> None:
        assert self.connection is not None
        await self.connection.send(json.dumps({"label": "rtvi-ai", "type": kind, "data": data, "id": identity}))

    async def play(self, pcm: bytes) -> None:
        assert self.connection is not None
        audio = self.wire.encode_audio(pcm, BOT_RATE_HZ)
        assert audio is not None
        await self.connection.send(audio)


async def test_a_spoken_turn_on_the_json_wire(until: Any) -> None:
    async with listening(JsonServer()) as server, RtviClient(server.url, wire="json", capture_bot_audio=True) as client:
        utterance = client.say(LOUD)
        await utterance.done.wait()
        await server.tell_all(ANSWER)
        await server.tell("bot-started-speaking")
        await server.play(LOUD)
        await server.tell("bot-stopped-speaking")
        turn = await client.turn(utterance)
        assert (turn.transcripts, turn.answer, turn.audio) == (["hello"], "Good evening.", LOUD)
        await until(lambda: LOUD in b"".join(audio.pcm for audio in server.heard))
    assert [(message["type"], message["data"].get("t")) for message in server.messages] == [
        ("client-message", "eval-connect"),
        ("client-ready", None),
    ]
    assert server.messages[0]["data"]["d"] == {"capture_bot_audio": True}
    assert {(audio.rate_hz, audio.channels, len(audio.pcm)) for audio in server.heard} == {(16_000, 1, PIECE_BYTES)}


async def test_on_the_json_wire_the_bot_s_audio_is_not_asked_for_by_itself() -> None:
    async with listening(JsonServer()) as server, RtviClient(server.url, wire="json", microphone=False):
        pass
    assert [message["type"] for message in server.messages] == ["client-ready"]
