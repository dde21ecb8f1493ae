"""A thread that owns a voice and speaks the clauses of many sessions in turns, one piece at a time.

Whose turn it is says ``piece_order``: first pieces first, except before a clause whose audio is about to run out. It also says from
when on a clause may be heard.

A clause is read (phonemes, and which belong to which word) in this thread, too: that takes 0.5 to 1.3 ms, up to 3 ms with numbers
in it, of the 40 to 120 ms to its first piece.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from rtvi_actors.engines.batch_worker import Job
from rtvi_actors.errors import EngineError, EngineLostError, EngineTimeoutError
from rtvi_actors.tts.engine import SAMPLE_RATE_HZ, TtsPiece, TtsRequest
from rtvi_actors.tts.piece_order import PieceOrder

log = logging.getLogger(__name__)

MAX_CLAUSES = 256
"""Clauses that may wait or be spoken at a time; the next one is refused."""

_NS_PER_BYTE = 1_000_000_000 // (2 * SAMPLE_RATE_HZ)


class Step(NamedTuple):
    """One vocoder piece of a request."""

    pcm: bytes
    """PCM16; b"" when the piece was all silence."""
    marks: Sequence[tuple[int, int]] = ()
    """See :class:`TtsPiece`; with the first step that has sound."""


Steps = Generator[Step, None, None]
"""A request, piece by piece. Closed early on cancel."""

Speak = Callable[[TtsRequest], Steps]


@dataclass(slots=True, eq=False)
class _Clause:
    job: Job[TtsRequest, TtsPiece]
    steps: Steps | None = None
    compute_ns: int = 0
    held: list[TtsPiece] = field(default_factory=list)
    """Pieces that are there and may not be heard yet."""

    def let_go(self) -> None:
        """Deliver what was held."""
        for piece in self.held:
            self.job.emit(piece)
        self.held.clear()


class PieceWorker:
    """A daemon thread named ``name``. ``set_up`` runs first in it; ``speak`` and its generators run only in it."""

    def __init__(self, name: str, set_up: Callable[[], None], speak: Speak) -> None:
        self._set_up = set_up
        self._speak = speak
        self._changed = threading.Condition()
        self._order: PieceOrder[_Clause] = PieceOrder()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    async def stream(self, session: str, request: TtsRequest) -> AsyncGenerator[TtsPiece, None]:
        """The audio of ``request``, piece by piece. Closing the iterator stops after the piece that is being computed.

        Raises:
            EngineError: the request failed.
            EngineTimeoutError: too many clauses wait.
            EngineLostError: the worker was closed.
        """
        job: Job[TtsRequest, TtsPiece] = Job(session, request)
        with self._changed:
            if self._closed:
                raise EngineLostError("the voice is closed")
            if len(self._order) >= MAX_CLAUSES:
                raise EngineTimeoutError(f"the voice is overloaded: {len(self._order)} clauses wait for it")
            self._order.add(_Clause(job), time.monotonic_ns(), request.reserve_ms * 1_000_000)
            self._changed.notify()
        try:
            while (piece := await job.next_piece()) is not None:
                yield piece
        finally:
            job.withdraw()
            with self._changed:
                self._changed.notify()

    def close(self, timeout_s: float = 5.0) -> None:
        """Fail what is left with EngineLostError and end the thread, waiting at most ``timeout_s`` for a running piece."""
        with self._changed:
            self._closed = True
            for clause in self._order:
                clause.job.fail(EngineLostError("the voice was closed"))
            self._changed.notify()
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            log.warning("thread %s still works %s s after it was closed", self._thread.name, timeout_s)

    def _work(self) -> None:
        self._set_up()
        while (clause := self._next()) is not None:
            if clause.job.withdrawn or not self._step(clause):
                self._drop(clause)

    def _next(self) -> _Clause | None:
        """The clause whose turn it is, withdrawn ones before all; None when the worker was closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._order)
            if self._closed:
                return None
            withdrawn = (clause for clause in self._order if clause.job.withdrawn)
            return next(withdrawn, None) or self._order.next(time.monotonic_ns())

    def _drop(self, clause: _Clause) -> None:
        if clause.steps is not None:
            clause.steps.close()
        with self._changed:
            self._order.remove(clause)

    def _step(self, clause: _Clause) -> bool:
        """Compute and deliver one piece. False when the clause is over."""
        job, begun_ns = clause.job, time.monotonic_ns()
        try:
            if clause.steps is None:
                job.taken()
                clause.steps = self._speak(job.request)
            step = next(clause.steps, None)
        except EngineError as error:
            clause.let_go()
            job.fail(error)
            return False
        except Exception as error:
            # A clause that the model cannot speak must not end the thread: the other sessions' clauses wait for it.
            log.exception("%s failed on a clause of %d characters", self._thread.name, len(job.request.text))
            clause.let_go()
            job.fail(EngineError(f"{type(error).__name__}: {error}"))
            return False
        now_ns = time.monotonic_ns()
        clause.compute_ns += now_ns - begun_ns
        if step is None:
            clause.let_go()
            job.end()
            return False
        with self._changed:
            may_be_heard = self._order.stepped(clause, len(step.pcm) * _NS_PER_BYTE, begun_ns, now_ns)
        if step.pcm:
            clause.held.append(TtsPiece(step.pcm, clause.compute_ns, list(step.marks), job.queue_ns))
        if may_be_heard:
            clause.let_go()
        return True
