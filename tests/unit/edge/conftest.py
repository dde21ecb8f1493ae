"""An edge without network: a client, the four stages and a scheduler, all played by the test."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from rtvi_actors.config import Config
from rtvi_actors.edge.admission import Lease, Reserved
from rtvi_actors.edge.client import ClientGoneError
from rtvi_actors.edge.session import EdgeSession
from rtvi_actors.edge.sessions import Sessions
from rtvi_actors.edge.wire import AudioIn, MessageIn, decode, encode_audio, encode_message
from rtvi_actors.errors import CapacityError
from rtvi_actors.frames.types import (
    Attach,
    Attached,
    AudioEnded,
    BotAudio,
    Clause,
    Credit,
    Detach,
    Frame,
    LlmEnded,
    LlmStarted,
    LlmText,
    Refused,
    Transcript,
    TurnEnded,
    TurnStarted,
)

STAGES = ("speaking", "stt", "llm", "tts")


class FakeStages:
    """The links to two groups of stages, 0 and 1. They answer Attach and Detach by themselves; all else is said by the test."""

    def __init__(self) -> None:
        self.up = {f"app/{role}/{group}" for role in STAGES for group in "01"}
        self.sent: list[tuple[str, Frame]] = []
        self.sent_to: list[tuple[str, Frame]] = []
        """The same, by name."""
        self.silent: set[str] = set()
        """Roles that do not answer."""
        self.refusing: set[str] = set()
        self.sessions: Sessions | None = None

    def connected(self, peer: str) -> bool:
        return peer in self.up

    def send(self, peer: str, frame: Frame) -> bool:
        if peer not in self.up:
            return False
        _, role, group = peer.split("/")
        self.sent.append((role, frame))
        self.sent_to.append((peer, frame))
        answer = self._answer(role, frame)
        if answer is not None:
            asyncio.get_running_loop().call_soon(self.say, role, answer, frame.session, frame.epoch, group)
        return True

    def _answer(self, role: str, frame: Frame) -> Frame | None:
        if role in self.silent:
            return None
        if isinstance(frame, Attach):
            return Refused(role=role, reason="full") if role in self.refusing else Attached(role=role)
        return Detach(reason=frame.reason) if isinstance(frame, Detach) else None

    def say(self, role: str, frame: Frame, session: str = "s1", epoch: int = 1, group: str = "0") -> None:
        """``role`` of ``group`` sends ``frame`` to the edge."""
        assert self.sessions is not None
        self.sessions.on_frame(
            f"app/{role}/{group}", dataclasses.replace(frame, session=session, epoch=epoch, sent_ns=time.monotonic_ns())
        )

    def got(self, role: str, kind: type[Any]) -> list[Any]:
        """What ``role`` got of one kind, in order."""
        return [frame for to, frame in self.sent if to == role and isinstance(frame, kind)]

    def got_at(self, peer: str, kind: type[Any]) -> list[Any]:
        """What the actor of that name got of one kind, in order."""
        return [frame for to, frame in self.sent_to if to == peer and isinstance(frame, kind)]

    def granted(self, role: str, stream: str) -> int:
        return sum(credit.bytes for credit in self.got(role, Credit) if credit.stream == stream)

    def die(self, role: str) -> None:
        self.up.discard(f"app/{role}/0")
        assert self.sessions is not None
        self.sessions.on_peer(f"app/{role}/0", False, "connection closed")

    def user_says(self, text: str, turn: int = 1) -> None:
        """A turn of speech from its begin to its end."""
        self.say("speaking", TurnStarted(turn=turn, request="", source="speech"))
        self.say("stt", Transcript(turn=turn, attempt=1, text=text, final=True, language="en"))
        self.say("speaking", TurnEnded(turn=turn, attempt=1, last_sample=512))

    def bot_answers(self, text: str, samples: int, turn: int = 1) -> None:
        """An answer of one clause with ``samples`` samples of audio."""
        self.say("llm", LlmStarted(turn=turn, attempt=1, user_text="hello"))
        self.say("llm", LlmText(turn=turn, attempt=1, text=text))
        self.say("llm", Clause(turn=turn, attempt=1, clause=0, text=text))
        self.say("llm", LlmEnded(turn=turn, attempt=1, clauses=1, reason="stop"))
        for first in range(0, samples, 960):
            pcm = bytes([1]) * (2 * min(960, samples - first))
            self.say("tts", BotAudio(turn=turn, attempt=1, clause=0, first_sample=first, pcm=pcm))
        self.say("tts", AudioEnded(turn=turn, attempt=1, clause=0, samples=samples))


class FakeAdmission:
    """Gives the places s1, s2, ..., at most ``places`` at a time."""

    def __init__(self) -> None:
        self.places = 4
        self.given = 0
        self.taken: set[str] = set()
        self.released: list[tuple[str, bool]] = []
        self.unused: list[str] = []
        """Of these, those that no stage has heard of."""
        self.elsewhere: Reserved | None = None
        """The place at another edge that it gives."""
        self.claims: dict[str, tuple[Lease, str, bytes]] = {}
        """What other edges keep, by token."""
        self.second: list[Lease | None] = []
        """Second places, in the order in which they are asked for."""
        self.moves: list[tuple[str, bool]] = []

    async def admit(self) -> Lease:
        await self.ready()
        self.given += 1
        session = f"s{self.given}"
        self.taken.add(session)
        return Lease(session, 1, {role: [f"app/{role}/0"] for role in STAGES}, "module:Bot")

    async def reserve(self, bot: str, body: bytes) -> Reserved | None:
        return self.elsewhere

    async def claim(self, token: str) -> tuple[Lease, str, bytes] | None:
        return self.claims.pop(token, None)

    async def move(self, session: str) -> Lease:
        lease = self.second.pop(0) if self.second else None
        if lease is None:
            raise CapacityError("no other stage group is free")
        return lease

    async def moved(self, session: str, *, done: bool) -> None:
        self.moves.append((session, done))

    async def release(self, session: str, *, clean: bool, used: bool = True) -> None:
        self.taken.discard(session)
        self.released.append((session, clean))
        if not used:
            self.unused.append(session)

    async def ready(self) -> None:
        if len(self.taken) >= self.places:
            raise CapacityError("all places are in use", 1_500)


class FakeClient:
    """A client that reads everything, unless it is stalled or gone. It speaks protobuf, or ``json``."""

    def __init__(self, json_wire: bool = False) -> None:
        self.json_wire = json_wire
        self.wire: list[AudioIn | MessageIn] = []
        self.closed: tuple[int, str] | None = None
        self.reading = asyncio.Event()
        self.reading.set()
        self.gone = False
        self._incoming: asyncio.Queue[bytes | str | None] = asyncio.Queue()

    async def send_bytes(self, data: bytes) -> None:
        await self.reading.wait()
        if self.gone:
            raise ClientGoneError("gone")
        received = decode(data)
        assert isinstance(received, AudioIn | MessageIn)
        assert not self.json_wire, "a binary message to a client that speaks JSON"
        self.wire.append(received)

    async def send_text(self, text: str) -> None:
        await self.reading.wait()
        if self.gone:
            raise ClientGoneError("gone")
        assert self.json_wire, "a text message to a client that speaks protobuf"
        self.wire.append(MessageIn(text))

    async def close(self, code: int, reason: str) -> None:
        self.closed = (code, reason)

    def send(self, data: bytes | str) -> None:
        self._incoming.put_nowait(data)

    def request(self, kind: str, data: Any = None, request_id: str = "r1") -> None:
        text = json.dumps({"label": "rtvi-ai", "type": kind, "id": request_id, "data": data})
        self.send(text if self.json_wire else encode_message(text))

    def send_audio(self, pcm: bytes, rate_hz: int = 16_000, channels: int = 1) -> None:
        if self.json_wire:
            encoded = base64.b64encode(pcm).decode()
            self.request("raw-audio", {"base64Audio": encoded, "sampleRate": rate_hz, "numChannels": channels})
        else:
            self.send(encode_audio(pcm, rate_hz, channels))

    def leave(self) -> None:
        self.gone = True
        self._incoming.put_nowait(None)

    async def incoming(self) -> AsyncIterator[bytes | str]:
        while (data := await self._incoming.get()) is not None:
            yield data

    @property
    def messages(self) -> list[dict[str, Any]]:
        return [json.loads(entry.text) for entry in self.wire if isinstance(entry, MessageIn)]

    @property
    def types(self) -> list[str]:
        return [message["type"] for message in self.messages]

    @property
    def audio(self) -> bytes:
        return b"".join(entry.pcm for entry in self.wire if isinstance(entry, AudioIn))

    def order(self) -> list[str]:
        """Types of messages, and "audio" once for audio in a row."""
        kinds = ["audio" if isinstance(entry, AudioIn) else json.loads(entry.text)["type"] for entry in self.wire]
        return [kind for place, kind in enumerate(kinds) if kind != "audio" or place == 0 or kinds[place - 1] != "audio"]


class Edge:
    """Everything around one edge."""

    def __init__(self, config: Config) -> None:
        self.stages = FakeStages()
        self.admission = FakeAdmission()
        self.lost: list[tuple[str, str]] = []
        self.sessions = Sessions(config, self.admission, self.stages, lambda actor, reason: self.lost.append((actor, reason)))
        self.stages.sessions = self.sessions
        self.serving: list[asyncio.Task[None]] = []

    async def connect(self, token: str = "", *, json_wire: bool = False) -> tuple[EdgeSession, FakeClient]:
        """A session with its client, as the WebSocket door makes it."""
        session = await self.sessions.open(token)
        client = FakeClient(json_wire)

        async def serve() -> None:
            try:
                await session.serve(client, client.incoming())
            finally:
                await self.sessions.close(session)

        self.serving.append(asyncio.create_task(serve()))
        return session, client

    async def over(self) -> None:
        """Wait until all sessions are over; none may have failed by an exception of its own."""
        async with asyncio.timeout(5):
            await asyncio.gather(*self.serving)


@pytest.fixture
def make_edge() -> Callable[..., Edge]:
    """``make_edge(edge={...}, scheduler={...})``: sections as in the configuration."""
    return lambda **sections: Edge(Config().replace(**sections))


@pytest.fixture
async def edge(make_edge: Callable[..., Edge]) -> AsyncIterator[Edge]:
    """One edge with the default configuration, whose sessions leave no task behind."""
    edge = make_edge()
    yield edge
    await edge.sessions.stop(2.0)
    await edge.over()
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == {asyncio.current_task()}


@pytest.fixture
def until() -> Callable[[Callable[[], Any]], Awaitable[None]]:
    """``await until(condition)``: up to 5 s."""

    async def wait(condition: Callable[[], Any]) -> None:
        async with asyncio.timeout(5):
            while not condition():
                await asyncio.sleep(0.005)

    return wait
