"""The TTS stage: one session's clauses, one after the other, from text to 40 ms frames of audio.

Clauses may come speculatively, and what voids them travels on another socket: what is void is remembered and dropped on arrival.
A paused bot needs nothing here: the edge grants no credit for audio, so ``send_credited`` waits, and with it the clauses.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Iterator
from contextlib import aclosing
from typing import TYPE_CHECKING

from rtvi_actors.engines.pool import EngineClient
from rtvi_actors.errors import EngineError
from rtvi_actors.frames.types import (
    Attach,
    AudioEnded,
    BotAudio,
    Cancel,
    Clause,
    Error,
    Frame,
    Marks,
    Metrics,
    Role,
    SpeechResumed,
)
from rtvi_actors.tts.engine import SAMPLE_RATE_HZ, TtsPiece, TtsRequest

if TYPE_CHECKING:
    from rtvi_actors.config import Config
    from rtvi_actors.runtime.port import StagePort

log = logging.getLogger(__name__)

FRAME_BYTES = 40 * SAMPLE_RATE_HZ // 1_000 * 2
"""Audio of one BotAudio frame: 40 ms, 960 samples."""

MAX_VOID_TURNS = 8
"""Turns whose void attempts are remembered; the newest. Older ones cannot have data on the way any more."""


class TtsStages:
    """Makes the TTS stages of a process. Holds nothing: the model is in the engine."""

    def __init__(self, config: Config) -> None:
        self._config = config

    def create(self, port: StagePort, attach: Attach) -> TtsStage:
        """A stage for a new session."""
        return TtsStage(self._config, port)

    def close(self) -> None:
        """Nothing to let go of."""


class _Fence:
    """Which turns and attempts are void."""

    def __init__(self) -> None:
        self._turn = 0
        self._attempts: dict[int, int] = {}

    def raise_turn(self, fence: int) -> None:
        """All turns below ``fence`` are void."""
        self._turn = max(self._turn, fence)
        self._attempts = {turn: attempt for turn, attempt in self._attempts.items() if turn >= self._turn}

    def raise_attempt(self, turn: int, attempt: int) -> None:
        """All attempts of ``turn`` up to ``attempt`` are void."""
        self._attempts[turn] = max(self._attempts.get(turn, -1), attempt)
        if len(self._attempts) > MAX_VOID_TURNS:
            del self._attempts[min(self._attempts)]

    def voids(self, frame: Frame) -> bool:
        """Whether ``frame`` belongs to something void."""
        return frame.turn < self._turn or frame.attempt <= self._attempts.get(frame.turn, -1)


class _Speech:
    """A clause that waits or is being spoken."""

    def __init__(self, clause: Clause, since_ms: int) -> None:
        self.clause = clause
        self.turn = clause.turn
        self.attempt = clause.attempt
        self.number = clause.clause
        self.since_ms = since_ms
        self.task: asyncio.Task[None] | None = None
        self.sent_samples = 0
        self._left = b""

    def frames(self, pcm: bytes) -> Iterator[bytes]:
        """The full frames of what was left and ``pcm``; the remainder is left."""
        pcm = self._left + pcm
        whole = len(pcm) - len(pcm) % FRAME_BYTES
        self._left = pcm[whole:]
        for at in range(0, whole, FRAME_BYTES):
            yield pcm[at : at + FRAME_BYTES]

    def left(self) -> bytes:
        """What no frame was full of."""
        return self._left


class TtsStage:
    """One session. For each spoken clause that is not voided: BotAudio frames and one AudioEnded, in the order of the clauses.

    A clause that fails has an Error of scope turn and an AudioEnded with the samples that were sent; then the next one is spoken.
    The queue of clauses is bounded by the credited stream ``clause``: its bytes are granted back when a clause's audio was handed
    over, or the clause dropped. To the edge go also Marks, and the metrics ``ttfb_ms`` and ``compute_ms`` of a turn's first audio,
    ``processing_ms`` and ``characters`` of each clause.
    """

    def __init__(self, config: Config, port: StagePort) -> None:
        self._port = port
        self._timeout_ms = config.tts.timeout_ms
        self._client: EngineClient[TtsRequest, TtsPiece] = EngineClient(port, "tts", TtsRequest, TtsPiece)
        self._fence = _Fence()
        self._queue: deque[_Speech] = deque()
        self._running: _Speech | None = None
        self._heard_of = (0, 0)
        """(turn, attempt) whose first audio was sent last ..."""
        self._runs_out_ms = 0
        """... and when what was sent of it has been played, if that began at once."""

    async def open(self) -> None:
        """Nothing to prepare."""

    def receive(self, frame: Frame) -> None:
        """Take one frame; those that do not concern speaking are ignored."""
        if self._client.receive(frame):
            return
        match frame:
            case Clause():
                self._on_clause(frame)
            case Cancel():
                self._fence.raise_turn(frame.fence)
                self._drop_void()
            case SpeechResumed():
                self._fence.raise_attempt(frame.turn, frame.attempt)
                self._drop_void()
            case _:
                pass

    @property
    def open_requests(self) -> int:
        """What its engine has not answered to the end."""
        return self._client.open_requests

    def peer_lost(self, role: Role) -> None:
        """The process that plays ``role`` is gone."""
        self._client.lost(role)

    async def close(self) -> None:
        """Forget the clauses that wait."""
        self._queue.clear()

    def _on_clause(self, clause: Clause) -> None:
        if self._fence.voids(clause) or not clause.spoken:
            self._grant(clause)
            return
        # A higher attempt exists only because the lower ones are void, whether SpeechResumed has arrived or not.
        self._fence.raise_attempt(clause.turn, clause.attempt - 1)
        self._queue.append(_Speech(clause, self._port.now_ms()))
        self._drop_void()
        self._go_on()

    def _drop_void(self) -> None:
        """Drop the clauses that became void, and stop the one that is being spoken if it did."""
        void = [speech for speech in self._queue if self._fence.voids(speech.clause)]
        self._queue = deque(speech for speech in self._queue if not self._fence.voids(speech.clause))
        running = self._running
        if running is not None and self._fence.voids(running.clause):
            self._running = None
            if running.task is not None:
                running.task.cancel()
            void.insert(0, running)
        for speech in void:
            self._grant(speech.clause)
        self._go_on()

    def _go_on(self) -> None:
        if self._running is None and self._queue:
            speech = self._running = self._queue.popleft()
            clause = speech.clause
            speech.task = self._port.spawn(self._speak(speech), f"tts clause {clause.turn}.{clause.attempt}.{clause.clause}")

    def _grant(self, clause: Clause) -> None:
        self._port.grant("llm", "clause", len(clause.text.encode()))

    async def _speak(self, speech: _Speech) -> None:
        """Speak one clause to its end. It is cancelled where the clause becomes void; who does that also goes on."""
        turn, attempt, send = speech.turn, speech.attempt, self._port.send
        try:
            if speech.clause.text.strip():
                await self._stream(speech)
        except EngineError as error:
            self._fail(speech, error)
        except Exception as error:
            # Whatever it is, the clause must end: the edge waits for its AudioEnded, and the clauses behind it for their turn.
            log.exception("clause %d of turn %d of session %s failed", speech.number, turn, self._port.session)
            self._fail(speech, EngineError(f"{type(error).__name__}: {error}"))
        send("edge", AudioEnded(turn=turn, attempt=attempt, clause=speech.number, samples=speech.sent_samples))
        self._running = None
        self._grant(speech.clause)
        self._go_on()

    def _fail(self, speech: _Speech, error: EngineError) -> None:
        text = f"speech synthesis: {error}"
        failure = Error(turn=speech.turn, attempt=speech.attempt, scope="turn", retryable=error.retryable, text=text)
        self._port.send("edge", failure)

    async def _stream(self, speech: _Speech) -> None:
        asked_ms = self._port.now_ms()
        goes_on = self._heard_of == (speech.turn, speech.attempt)
        request = TtsRequest(text=speech.clause.text, reserve_ms=max(0, self._runs_out_ms - asked_ms) if goes_on else 0)
        answer = self._client.stream(request, first_timeout_ms=self._timeout_ms, idle_timeout_ms=self._timeout_ms)
        async with aclosing(answer) as pieces:
            async for piece in pieces:
                self._account(speech, piece.compute_ns)
                if piece.marks:
                    # Before the audio: how much of it is heard may have to be told with its first frame.
                    self._mark(speech, piece)
                for pcm in speech.frames(piece.pcm):
                    await self._send(speech, pcm)
        if speech.left():
            await self._send(speech, speech.left())
        self._metric(speech, "processing_ms", float(self._port.now_ms() - asked_ms))
        self._metric(speech, "characters", float(len(speech.clause.text)))

    def _account(self, speech: _Speech, compute_ns: int) -> None:
        """The figures of an answer's first piece, before anything of it is sent.

        The edge closes the account of the turn's latency with its first sound, and what is written first is there first.
        """
        if self._heard_of != (speech.turn, speech.attempt):
            self._heard_of, self._runs_out_ms = (speech.turn, speech.attempt), 0
            self._metric(speech, "ttfb_ms", float(self._port.now_ms() - speech.since_ms))
            self._metric(speech, "compute_ms", compute_ns / 1e6)

    async def _send(self, speech: _Speech, pcm: bytes) -> None:
        turn, attempt, first = speech.turn, speech.attempt, speech.sent_samples
        frame = BotAudio(turn=turn, attempt=attempt, clause=speech.number, first_sample=first, pcm=pcm)
        await self._port.send_credited("edge", "bot_audio", frame, len(pcm))
        speech.sent_samples += len(pcm) // 2
        self._runs_out_ms = max(self._runs_out_ms, self._port.now_ms()) + len(pcm) * 1_000 // (2 * SAMPLE_RATE_HZ)

    def _mark(self, speech: _Speech, piece: TtsPiece) -> None:
        marks = [list(mark) for mark in piece.marks]
        self._port.send("edge", Marks(turn=speech.turn, attempt=speech.attempt, clause=speech.number, marks=marks))

    def _metric(self, speech: _Speech, name: str, value: float) -> None:
        self._port.send("edge", Metrics(turn=speech.turn, attempt=speech.attempt, segment="tts", name=name, value=value))
