"""An RTVI client in Python: both WebSocket wires, a microphone in real time, and an ear that keeps what it hears.

::

    async with RtviClient("ws://127.0.0.1:7860/ws") as client:
        utterance = client.say(pcm)              # spoken by the microphone task, 20 ms at a time
        turn = await client.turn(utterance)      # the transcript, the answer, its audio and its latency

It behaves like the JavaScript client: client-ready first, audio in real time, and audio of the bot is played as it comes.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
import uuid
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import websockets

from rtvi_actors.edge.wire import AudioIn, MessageIn
from rtvi_actors.errors import CapacityError, RtviActorsError, SessionClosedError
from rtvi_actors.testing.recordings import AUDIBLE_RMS, RATE_HZ, audible_samples, rms
from rtvi_actors.testing.wires import WireName, client_wire

PIECE_MS = 20
PIECE_BYTES = RATE_HZ * PIECE_MS // 1_000 * 2
RECORDED_PIECE_BYTES = 512
"""What the JavaScript client puts into one message: 16 ms."""
BOT_RATE_HZ = 24_000
GAP_MS = 40.0
"""Silence inside a turn that counts as a gap."""


@dataclass(frozen=True, slots=True)
class Received:
    """One message of the server. ``at_ns``: monotonic time of its arrival."""

    type: str
    data: Any
    id: str | None
    at_ns: int


@dataclass(slots=True)
class Utterance:
    """Something the microphone says, or a typed text.

    ``ended_ns``: when its last audible sample was sent, 0 before that. ``done`` is set when all of it was sent, or never will be,
    since the session is over. ``aloud``: the answer is spoken. ``at_once``: it is not said in real time.
    """

    pcm: bytes
    first_message: int
    first_audio: int
    audible_bytes: int = 0
    started_ns: int = 0
    ended_ns: int = 0
    aloud: bool = True
    at_once: bool = False
    done: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(slots=True)
class Turn:
    """What came back for an utterance or a typed text.

    ``voice_to_voice_ms``: last audible sample sent to first audible audio received; None when the bot made no sound.
    ``segments_ms``, ``own_share_ms``: the server's account of the same turn. ``gaps_ms``: silences that a player would have heard
    inside the answer. ``transcripts``: finals; more than one means that the turn was cut.
    """

    transcripts: list[str] = field(default_factory=list)
    answer: str = ""
    audio: bytes = b""
    interrupted: bool = False
    voice_to_voice_ms: float | None = None
    server_ms: float | None = None
    own_share_ms: float | None = None
    segments_ms: dict[str, float] = field(default_factory=dict)
    gaps_ms: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


class RtviClient:
    """One session. Use as ``async with``; leaving it closes the socket and waits for all tasks.

    Args:
        url: ``ws://host:port/ws``.
        version: protocol version told in client-ready.
        microphone: send silence in real time between utterances, as an open microphone does.
        wire: protobuf, or JSON in text frames, on which the bot's audio is not heard ...
        capture_bot_audio: ... unless it is asked for, which the server must allow (``edge.eval_messages``).

    Raises:
        CapacityError: on entering: the server has no place (HTTP 503).
        RtviActorsError: on entering: no connection, or no bot-ready within ``ready_deadline_s``.
    """

    def __init__(
        self,
        url: str,
        *,
        version: str = "2.1.0",
        microphone: bool = True,
        ready_deadline_s: float = 10.0,
        wire: WireName = "protobuf",
        capture_bot_audio: bool = False,
    ) -> None:
        self.url = url
        self.messages: list[Received] = []
        self.audio: list[tuple[bytes, int]] = []
        """(PCM16 24 kHz mono, monotonic ns of its arrival), all of it."""
        self.bot_version = ""
        self.ready_ms = 0.0
        """From opening the socket to bot-ready."""
        self.late_ms = 0.0
        """How late the microphone's latest piece left: over 40 ms, and figures of time tell of a busy client, too."""
        self._version = version
        self._ready_deadline_s = ready_deadline_s
        self._with_microphone = microphone
        self._wire = client_wire(wire)
        self._capture_bot_audio = capture_bot_audio
        self._unsaid: deque[Utterance] = deque()
        """What the microphone has to say, that which it is saying first."""
        self._news = asyncio.Condition()
        self._tasks: list[asyncio.Task[None]] = []
        self._socket: Any = None
        self._closed = False

    async def __aenter__(self) -> Self:
        started = time.monotonic()
        await self._connect()
        self._tasks = [asyncio.create_task(self._read(), name="client reader")]
        if self._capture_bot_audio:
            self.send("client-message", {"t": "eval-connect", "d": {"capture_bot_audio": True}})
        request = self.send("client-ready", {"version": self._version, "about": {"library": "rtvi_actors"}})
        try:
            ready = await self.wait(lambda message: message.type == "bot-ready" and message.id == request, self._ready_deadline_s)
        except BaseException:
            await self.close()
            raise
        self.ready_ms = (time.monotonic() - started) * 1_000
        self.bot_version = str(ready.data["version"])
        if self._with_microphone:
            self._tasks.append(asyncio.create_task(self._speak(), name="client microphone"))
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the socket and end the tasks. Repeating it is harmless."""
        self._closed = True
        if self._socket is not None:
            await self._socket.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def closed(self) -> bool:
        """Whether the session is over, from either side."""
        return self._closed

    # -------------------------------------------------------------------------------------------------------- sending

    def send(self, kind: str, data: Any | None = None) -> str:
        """Send a message; returns its id. Sent in order with everything else; waits for nothing."""
        identity = uuid.uuid4().hex[:8]
        text = json.dumps({"label": "rtvi-ai", "type": kind, "data": data, "id": identity})
        self.send_raw(self._wire.encode_message(text))
        return identity

    def send_raw(self, data: bytes | str) -> None:
        """Send bytes as a binary message, or a text frame, as they are, valid or not."""
        if self._closed:
            raise SessionClosedError("the session is over")
        task = asyncio.ensure_future(self._socket.send(data))
        self._tasks.append(task)
        task.add_done_callback(self._sent)

    def send_text(self, text: str, *, run_immediately: bool = True, audio_response: bool = True) -> Utterance:
        """Type ``text``. The result is for :meth:`turn`."""
        utterance = Utterance(b"", len(self.messages), len(self.audio))
        utterance.started_ns = utterance.ended_ns = time.monotonic_ns()
        utterance.aloud = audio_response
        utterance.done.set()
        self.send("send-text", {"content": text, "options": {"run_immediately": run_immediately, "audio_response": audio_response}})
        return utterance

    def say(self, pcm: bytes, *, at_once: bool = False) -> Utterance:
        """Speak ``pcm`` (PCM16 LE mono, 16 kHz) in real time, after what is already being said.

        ``at_once``: in one burst instead, as the JavaScript client sends what it recorded while it connected.

        Raises:
            SessionClosedError: the session is over.
            RtviActorsError: the client was opened without a microphone.
        """
        if self._closed:
            raise SessionClosedError("the session is over")
        if not self._with_microphone:
            raise RtviActorsError("this client was opened with microphone=False and cannot speak")
        utterance = Utterance(pcm, len(self.messages), len(self.audio), audible_samples(pcm) * 2, at_once=at_once)
        self._unsaid.append(utterance)
        return utterance

    # ------------------------------------------------------------------------------------------------------ receiving

    async def wait(self, accept: Callable[[Received], bool], deadline_s: float = 30.0, start: int = 0) -> Received:
        """The first message from index ``start`` that ``accept`` takes.

        Raises:
            RtviActorsError: none came within ``deadline_s``, or the session ended first.
        """

        def found() -> Received | None:
            return next((message for message in self.messages[start:] if accept(message)), None)

        async with self._news:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait_for(lambda: found() is not None or self._closed), deadline_s)
            result = found()
        if result is None:
            why = "the session ended" if self._closed else f"nothing within {deadline_s:.0f} s"
            seen = ", ".join(message.type for message in self.messages[start:][-12:])
            raise RtviActorsError(f"{why}; last messages: {seen or 'none'}")
        return result

    async def wait_type(self, kind: str, deadline_s: float = 30.0, start: int = 0) -> Received:
        """The first message of type ``kind`` from index ``start``."""
        return await self.wait(lambda message: message.type == kind, deadline_s, start)

    async def turn(self, utterance: Utterance, *, deadline_s: float = 60.0) -> Turn:
        """Wait until the bot has answered ``utterance`` and is silent again.

        Raises:
            RtviActorsError: no answer within ``deadline_s``, or the session ended.
        """
        deadline = time.monotonic() + deadline_s
        try:
            await asyncio.wait_for(utterance.done.wait(), deadline_s)
        except TimeoutError:
            raise RtviActorsError(f"not said within {deadline_s:.0f} s") from None
        if not utterance.ended_ns:
            raise RtviActorsError("the session ended before all was said")
        start = utterance.first_message
        last = "bot-stopped-speaking" if utterance.aloud else "bot-llm-stopped"
        # What an interrupted answer still says of itself comes before the new one starts.
        started = await self.wait(
            lambda message: message.type in {"bot-llm-started", "bot-tts-started"} and message.at_ns > utterance.ended_ns,
            deadline - time.monotonic(),
            start,
        )
        await self.wait(lambda message: message.type == last and message.at_ns > started.at_ns, deadline - time.monotonic(), start)
        return self.heard(utterance)

    def heard(self, utterance: Utterance) -> Turn:
        """What came back since ``utterance`` began, so far."""
        turn = Turn()
        for message in self.messages[utterance.first_message :]:
            if message.type == "user-transcription" and message.data["final"]:
                turn.transcripts.append(message.data["text"])
            elif message.type == "bot-llm-text":
                turn.answer += message.data["text"]
            elif message.type == "bot-interrupted":
                turn.interrupted = True
            elif message.type in {"error", "error-response"}:
                turn.errors.append(message.data["error"])
            elif message.type == "metrics":
                self._take_figures(turn, message.data)
        chunks = [chunk for chunk in self.audio[utterance.first_audio :] if chunk[1] >= utterance.ended_ns > 0]
        turn.audio = b"".join(pcm for pcm, _ in chunks)
        turn.gaps_ms = gaps_ms(chunks)
        first = next((at_ns for pcm, at_ns in chunks if rms(pcm) > AUDIBLE_RMS), None)
        if first is not None:
            turn.voice_to_voice_ms = (first - utterance.ended_ns) / 1e6
        return turn

    @staticmethod
    def _take_figures(turn: Turn, data: dict[str, Any]) -> None:
        for figures in data.get("turn_latency", []):
            turn.segments_ms = {entry["name"]: entry["value"] * 1_000 for entry in figures["segments"]}
            turn.server_ms = sum(turn.segments_ms.values())
            if "own_share" in figures:
                turn.own_share_ms = figures["own_share"] * 1_000

    # ---------------------------------------------------------------------------------------------------------- tasks

    async def _connect(self) -> None:
        try:
            self._socket = await websockets.connect(self.url, max_size=2**24, compression=None, open_timeout=10)
        except websockets.exceptions.InvalidStatus as error:
            self._closed = True
            body = error.response.body or b""
            if error.response.status_code == 503 and (refusal := _refusal(bytes(body))) is not None:
                raise refusal from None
            raise RtviActorsError(f"{self.url} answered HTTP {error.response.status_code}: {body[:200]!r}") from None
        except (OSError, TimeoutError, websockets.exceptions.WebSocketException) as error:
            self._closed = True
            raise RtviActorsError(f"cannot connect to {self.url}: {error}; is `rtvi-actors serve` running?") from error

    async def _read(self) -> None:
        try:
            async for data in self._socket:
                at_ns = time.monotonic_ns()
                incoming = self._wire.decode(data)
                if isinstance(incoming, AudioIn):
                    self.audio.append((incoming.pcm, at_ns))
                elif isinstance(incoming, MessageIn):
                    body = json.loads(incoming.text)
                    async with self._news:
                        self.messages.append(Received(body["type"], body.get("data"), body.get("id"), at_ns))
                        self._news.notify_all()
        except websockets.exceptions.ConnectionClosed:
            pass
        finally:
            self._closed = True
            async with self._news:
                self._news.notify_all()

    async def _speak(self) -> None:
        """What there is to say, until the session is over; whoever waits for the rest of it then waits no longer."""
        try:
            await self._speak_in_real_time()
        except websockets.exceptions.ConnectionClosed:
            return
        finally:
            for utterance in self._unsaid:
                utterance.done.set()

    async def _speak_in_real_time(self) -> None:
        """One piece each 20 ms against absolute deadlines, silence when there is nothing to say."""
        silence = bytes(PIECE_BYTES)
        started, count = time.monotonic(), 0
        utterance, position = None, 0
        while not self._closed:
            while utterance is None and self._unsaid and self._unsaid[0].at_once:
                await self._send_recorded(self._unsaid[0])
                self._unsaid.popleft().done.set()
            if utterance is None and self._unsaid:
                utterance, position = self._unsaid[0], 0
                utterance.started_ns = time.monotonic_ns()
            spoken = utterance.pcm[position : position + PIECE_BYTES] if utterance is not None else silence
            piece = spoken.ljust(PIECE_BYTES, b"\0")
            self.late_ms = max(self.late_ms, (time.monotonic() - started) * 1_000 - count * PIECE_MS)
            await self._socket.send(self._wire.encode_audio(piece, RATE_HZ))
            if utterance is not None:
                position += PIECE_BYTES
                if not utterance.ended_ns and position >= utterance.audible_bytes:
                    utterance.ended_ns = time.monotonic_ns()
                if position >= len(utterance.pcm):
                    self._unsaid.popleft().done.set()
                    utterance = None
            count += 1
            await asyncio.sleep(max(0.0, started + count * PIECE_MS / 1_000 - time.monotonic()))

    async def _send_recorded(self, utterance: Utterance) -> None:
        utterance.started_ns = time.monotonic_ns()
        for start in range(0, len(utterance.pcm), RECORDED_PIECE_BYTES):
            await self._socket.send(self._wire.encode_audio(utterance.pcm[start : start + RECORDED_PIECE_BYTES], RATE_HZ))
        utterance.ended_ns = time.monotonic_ns()

    def _sent(self, task: asyncio.Future[None]) -> None:
        if task in self._tasks:
            self._tasks.remove(task)
        if not task.cancelled() and isinstance(task.exception(), websockets.exceptions.ConnectionClosed):
            self._closed = True


def _refusal(body: bytes) -> CapacityError | None:
    """The error that an edge's 503 tells; None if the answer is somebody else's, a proxy's for instance."""
    try:
        fields = json.loads(body)
        return CapacityError(str(fields["detail"]), int(fields["retry_after_ms"]))
    except (ValueError, KeyError, TypeError):
        return None


def gaps_ms(chunks: list[tuple[bytes, int]]) -> list[float]:
    """Silences over 40 ms that a player would have heard: a chunk that came after all before it had been played.

    ``chunks``: (PCM16 24 kHz mono, monotonic ns of its arrival), of one turn.
    """
    gaps: list[float] = []
    played_until_ns = 0.0
    for pcm, at_ns in chunks:
        late_ms = (at_ns - played_until_ns) / 1e6
        if played_until_ns and late_ms > GAP_MS:
            gaps.append(late_ms)
        played_until_ns = max(played_until_ns, at_ns) + len(pcm) / 2 / BOT_RATE_HZ * 1e9
    return gaps
