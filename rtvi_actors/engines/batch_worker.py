"""A thread that owns a model, fed by the requests of many sessions in batches.

A backend writes one function that works on a batch, and streams from it::

    class MyBackend:
        def load(self):
            self._worker = BatchWorker("stt", self._decode, BatchQueue(max_batch=4))

        def _decode(self, jobs: list[Job[SttRequest, SttPiece]]) -> None:   # in the worker's thread, one batch at a time
            for job, text in zip(jobs, self._model([job.request for job in jobs])):
                job.emit(SttPiece(text=text, language="en", compute_ns=..., queue_ns=job.queue_ns))

        def stream(self, session, request):
            return self._worker.stream(session, request, urgent=request.final)

        def close(self):
            self._worker.close()

A job's answer is complete when the function returns, or earlier by :meth:`Job.end`. If the function raises, all jobs of the batch
that are not complete fail with it, and the worker goes on with the next batch. Long work looks at :attr:`Job.withdrawn` between its
steps and stops when it is set.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncGenerator, Callable, Hashable
from typing import Generic, TypeVar

from rtvi_actors.engines.batch import BatchQueue
from rtvi_actors.errors import EngineError, EngineLostError
from rtvi_actors.observe.figures import batch_sizes

Request = TypeVar("Request")
Piece = TypeVar("Piece")

log = logging.getLogger(__name__)

MAX_PIECES = 2_048
"""Pieces of one answer that may wait for its reader. A job beyond it fails: a model never waits for a slow reader."""


class _End:
    """The answer is complete; ``error`` says how."""

    def __init__(self, error: EngineError | None) -> None:
        self.error = error


class Job(Generic[Request, Piece]):
    """One request and the way back of its answer. ``emit``, ``end`` and ``fail`` may be called from any thread."""

    def __init__(self, session: str, request: Request) -> None:
        self.session = session
        self.request = request
        self.queue_ns = 0
        """How long it waited for the model; set when its batch is taken."""
        self._loop = asyncio.get_running_loop()
        self._pieces: asyncio.Queue[Piece | _End] = asyncio.Queue()
        self._put_ns = time.monotonic_ns()
        self._withdrawn = False
        self._ended = False

    @property
    def withdrawn(self) -> bool:
        """Nobody wants the answer any more, or it is complete: stop working on it."""
        return self._withdrawn or self._ended

    def emit(self, piece: Piece) -> None:
        """Give a piece of the answer. One that comes after the end, or that nobody wants, is dropped."""
        if self.withdrawn:
            return
        if self._pieces.qsize() >= MAX_PIECES:
            self.fail(EngineError(f"{MAX_PIECES} pieces of an answer were not fetched"))
        else:
            self._deliver(piece)

    def end(self) -> None:
        """The answer is complete."""
        self._finish(None)

    def fail(self, error: EngineError) -> None:
        """There will be no (more of the) answer; the reader gets ``error``."""
        self._finish(error)

    def taken(self) -> None:
        """The model begins: the waiting is over."""
        self.queue_ns = time.monotonic_ns() - self._put_ns

    def withdraw(self) -> None:
        """The answer is not wanted any more."""
        self._withdrawn = True

    async def next_piece(self) -> Piece | None:
        """The next piece of the answer; None at its end.

        Raises:
            EngineError: the job failed.
        """
        piece = await self._pieces.get()
        if not isinstance(piece, _End):
            return piece
        if piece.error is not None:
            raise piece.error
        return None

    def _finish(self, error: EngineError | None) -> None:
        if not self._ended:
            self._ended = True
            self._deliver(_End(error))

    def _deliver(self, piece: Piece | _End) -> None:
        try:
            self._loop.call_soon_threadsafe(self._pieces.put_nowait, piece)
        except RuntimeError:  # the reader's event loop is closed: nobody reads
            self._withdrawn = True


class BatchWorker(Generic[Request, Piece]):
    """A daemon thread named ``name`` that runs ``run`` on one batch of ``queue`` after the other.

    ``run`` gets only jobs that were not withdrawn while they waited. The worker owns ``queue``; nobody else touches it.
    """

    def __init__(self, name: str, run: Callable[[list[Job[Request, Piece]]], None], queue: BatchQueue[Job[Request, Piece]]) -> None:
        self._run = run
        self._queue = queue
        self._changed = threading.Condition()
        self._current: list[Job[Request, Piece]] = []
        self._closed = False
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Requests that wait for the model."""
        with self._changed:
            return len(self._queue)

    @property
    def urgent_waits(self) -> bool:
        """Whether an urgent request waits: a run for others that can be given up should be."""
        with self._changed:
            return self._queue.urgent

    async def stream(
        self, session: str, request: Request, *, urgent: bool = True, shape: Hashable = None
    ) -> AsyncGenerator[Piece, None]:
        """The answer to ``request``, piece by piece. It is put into the queue when the iteration begins.

        Closing the iterator, or cancelling the task that reads it, withdraws a request that waits and sets
        :attr:`Job.withdrawn` of one that is being worked on. ``urgent`` and ``shape`` as in :class:`BatchQueue`.

        Raises:
            EngineError: the request failed, or too many wait.
            EngineLostError: the worker was closed.
        """
        job: Job[Request, Piece] = Job(session, request)
        with self._changed:
            if self._closed:
                raise EngineLostError("the engine is closed")
            ticket = self._queue.put(session, job, _now_ms(), urgent=urgent, shape=shape)
            self._changed.notify()
        try:
            while (piece := await job.next_piece()) is not None:
                yield piece
        finally:
            job.withdraw()
            with self._changed:
                self._queue.withdraw(ticket)

    def close(self, timeout_s: float = 5.0) -> None:
        """Fail all that wait or run with EngineLostError and end the thread, waiting at most ``timeout_s`` for a running batch."""
        with self._changed:
            self._closed = True
            orphans = self._queue.take_all() + self._current
            self._changed.notify_all()
        for job in orphans:
            job.fail(EngineLostError("the engine was closed"))
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout_s)
            if self._thread.is_alive():
                log.warning("thread %s still works %s s after it was closed", self._thread.name, timeout_s)

    def _work(self) -> None:
        while batch := self._next():
            try:
                self._run(batch)
            except EngineError as error:
                _fail(batch, error)
            except Exception as error:
                # A model's own error must not end the thread: the other sessions' requests still come.
                log.exception("%s failed on a batch of %d", self._thread.name, len(batch))
                _fail(batch, EngineError(f"{type(error).__name__}: {error}"))
            for job in batch:
                job.end()
            with self._changed:
                self._current = []

    def _next(self) -> list[Job[Request, Piece]]:
        """Wait for the next batch; [] when the worker was closed."""
        with self._changed:
            while True:
                self._changed.wait_for(lambda: self._closed or len(self._queue) > 0)
                if self._closed:
                    return []
                self._current = [job for job in self._queue.take(_now_ms()) if not job.withdrawn]
                for job in self._current:
                    job.taken()
                if self._current:
                    batch_sizes.add(len(self._current))
                    return self._current


def _fail(jobs: list[Job[Request, Piece]], error: EngineError) -> None:
    for job in jobs:
        job.fail(error)


def _now_ms() -> int:
    return time.monotonic_ns() // 1_000_000
