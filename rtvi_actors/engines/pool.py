"""A stage's side of an engine: ask, and read the answer as it comes.

A stage makes one :class:`EngineClient`, hands it every EngineData and EngineEnd that it receives, and tells it when the engine is
lost.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import msgspec

from rtvi_actors.errors import EngineError, EngineLostError, EngineTimeoutError
from rtvi_actors.frames.types import EngineCancel, EngineData, EngineEnd, EngineRequest, Frame, Role
from rtvi_actors.runtime.port import StagePort

MAX_WAITING_BYTES = 2 * 1024 * 1024
"""Pieces of one answer that its reader has not taken yet. Beyond it the request is withdrawn and fails."""


class _TryAgainError(EngineError):
    """An engine's error that came with ``retryable``."""

    retryable = True


Request = TypeVar("Request")
Piece = TypeVar("Piece")


@dataclass(slots=True)
class _Answer:
    """An answer that is being received. ``request``: what was asked, to ask it again."""

    request: bytes
    pieces: deque[bytes] = field(default_factory=deque)
    waiting_bytes: int = 0
    ended: bool = False
    error: EngineError | None = None
    begun: bool = False
    """Its reader has got a piece of it."""
    asked_again: bool = False
    arrived: asyncio.Event = field(default_factory=asyncio.Event)

    def fail(self, error: EngineError) -> None:
        """End it with an error. What its reader has not taken is dropped: half an answer is of no use late."""
        self.pieces.clear()
        self.waiting_bytes = 0
        self.ended = True
        self.error = error
        self.arrived.set()


class EngineClient(Generic[Request, Piece]):
    """Asks the engine of ``kind`` for one session. The stage makes one, since it numbers the requests."""

    def __init__(self, port: StagePort, kind: str, request_type: type[Request], piece_type: type[Piece]) -> None:
        self._port = port
        self._role = f"engine/{kind}"
        self._request_type = request_type
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder: msgspec.msgpack.Decoder[Piece] = msgspec.msgpack.Decoder(piece_type)
        self._numbers = itertools.count(1)
        self._answers: dict[int, _Answer] = {}

    @property
    def open_requests(self) -> int:
        """Requests whose answer is not complete."""
        return len(self._answers)

    async def stream(self, request: Request, *, first_timeout_ms: int, idle_timeout_ms: int) -> AsyncGenerator[Piece, None]:
        """Ask at the first step of the iteration, then yield the answer's pieces as they come.

        Leaving early (``aclose``, cancelling the reading task) withdraws the request. Read it inside ``contextlib.aclosing``: a
        ``break`` alone withdraws it only when Python collects the generator.

        Raises:
            EngineError: the engine failed on this request, or its answer was not read for 2 MiB.
            EngineTimeoutError: no first piece within ``first_timeout_ms``, or no further one within ``idle_timeout_ms``.
            EngineLostError: the engine's process or link is gone, and no other could be asked instead.
        """
        if not isinstance(request, self._request_type):
            raise TypeError(f"{self._role} takes {self._request_type.__name__}, not {type(request).__name__}")
        number = next(self._numbers)
        answer = self._answers[number] = _Answer(self._encoder.encode(request))
        try:
            self._port.send(self._role, EngineRequest(request=number, payload=answer.request))
            timeout_ms = first_timeout_ms
            while await self._next(answer, timeout_ms):
                payload = answer.pieces.popleft()
                answer.waiting_bytes -= len(payload)
                answer.begun = True
                yield self._decode(payload)
                timeout_ms = idle_timeout_ms
        finally:
            if self._answers.pop(number, None) is not None and not answer.ended:
                self._port.send(self._role, EngineCancel(request=number))

    def receive(self, frame: Frame) -> bool:
        """Take a frame if it is part of an answer. True when it was, whether somebody waits for it or not."""
        if isinstance(frame, EngineData):
            answer = self._answers.get(frame.request)
            if answer is not None and not answer.ended:
                self._take(answer, frame)
            return True
        if isinstance(frame, EngineEnd):
            answer = self._answers.get(frame.request)
            if answer is not None and not answer.ended:
                self._finish(answer, frame)
            return True
        return False

    def lost(self, role: Role) -> None:
        """Who played ``role`` is gone. If it is this engine's: what is asked there fails, or is asked once more of another replica.

        Only where nothing of the answer was read: nobody hears a word twice, and no half of an answer follows another's.
        """
        if role != self._role:
            return
        for number, answer in self._answers.items():
            if answer.ended:
                continue
            if answer.begun or answer.asked_again:
                answer.fail(EngineLostError(f"the {role} is gone"))
                continue
            answer.asked_again = True
            answer.pieces.clear()
            answer.waiting_bytes = 0
            # Without another replica the port says that nobody plays the role, which ends here again.
            self._port.send(self._role, EngineRequest(request=number, payload=answer.request))

    def _take(self, answer: _Answer, frame: EngineData) -> None:
        answer.waiting_bytes += len(frame.payload)
        if answer.waiting_bytes > MAX_WAITING_BYTES:
            answer.fail(EngineError(f"an answer of {self._role} was not read for {MAX_WAITING_BYTES} bytes"))
            self._port.send(self._role, EngineCancel(request=frame.request))
            return
        answer.pieces.append(frame.payload)
        answer.arrived.set()

    def _finish(self, answer: _Answer, frame: EngineEnd) -> None:
        if frame.error:
            # The pieces that came before it are still read: they may be the first half of a sentence.
            answer.error = _TryAgainError(frame.error) if frame.retryable else EngineError(frame.error)
        answer.ended = True
        answer.arrived.set()

    async def _next(self, answer: _Answer, timeout_ms: int) -> bool:
        """Wait for a piece. False when the answer is complete."""
        try:
            async with asyncio.timeout(timeout_ms / 1_000):
                while not answer.pieces and not answer.ended:
                    answer.arrived.clear()
                    await answer.arrived.wait()
        except TimeoutError:
            raise EngineTimeoutError(f"{self._role} gave nothing for {timeout_ms} ms") from None
        if answer.pieces:
            return True
        if answer.error is not None:
            raise answer.error
        return False

    def _decode(self, payload: bytes) -> Piece:
        try:
            return self._decoder.decode(payload)
        except msgspec.DecodeError as error:
            raise EngineError(f"{self._role} sent a malformed piece: {error}") from error
