"""An engine's side of the links: requests of stages in, pieces of answers out. No Ray, no model: the backend has that.

One task serves one request. Who may withdraw it: the stage (EngineCancel), the end of its session (Detach from the stage's host),
the loss of the stage's link. Both frames travel on another socket than the requests and may overtake them, so what they withdraw is
remembered. Stages bound how long they wait; here the number of requests is bounded.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import time
from collections import OrderedDict
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec

from rtvi_actors.errors import ConfigError, EngineError, RtviActorsError
from rtvi_actors.frames.types import Detach, EngineCancel, EngineData, EngineEnd, EngineRequest, Frame
from rtvi_actors.observe.figures import WAIT_S, Distribution, Figures, batch_sizes
from rtvi_actors.observe.log_context import about
from rtvi_actors.runtime.process import load_class
from rtvi_actors.runtime.session_port import CLOSE_DEADLINE_S, Links

log = logging.getLogger(__name__)

REQUEST_TYPES = {
    "stt": "rtvi_actors.stt.engine:SttRequest",
    "llm": "rtvi_actors.llm.engine:LlmRequest",
    "tts": "rtvi_actors.tts.engine:TtsRequest",
}
"""Kind -> what a stage of that kind asks. By name: the stage rooms lie above this one."""

MAX_REQUESTS_PER_SESSION = 8
MAX_REQUESTS = 256
MAX_WITHDRAWN = 32
"""Withdrawn requests of one session that have not arrived yet; the newest are remembered."""
MAX_ENDED = 256
"""Ended sessions of which a late request is recognized; the newest."""


class Backend(Protocol):
    """What the protocols of all kinds of backends have in common. Its pieces have ``compute_ns`` and ``queue_ns``."""

    @property
    def memory_bytes(self) -> int:
        """What the loaded weights take on the device."""

    def load(self) -> None:
        """Load the weights; in a thread."""

    def warm_up(self) -> None:
        """Run once; in a thread."""

    def stream(self, session: str, request: Any) -> AsyncIterator[Any]:
        """Answer one request, piece by piece."""

    def close(self) -> None:
        """Stop the threads."""


@dataclass(slots=True)
class _Session:
    """What one stage has asked in one session."""

    peer: str
    session: str
    seq: int = 0
    requests: dict[int, _Work] = field(default_factory=dict)
    newest: int = 0
    """Number of the last request: they rise, and come in order."""
    withdrawn: list[int] = field(default_factory=list)
    """Numbers above it that were withdrawn already."""

    def withdraw(self, request: int) -> None:
        """Nobody wants ``request`` any more, whether it is here or still on the way."""
        if request in self.requests:
            self.requests[request].cancel()
        elif request > self.newest:
            self.withdrawn = [*self.withdrawn, request][-MAX_WITHDRAWN:]

    def arrives(self, request: int) -> bool:
        """Take note that ``request`` is here; whether it is still wanted."""
        wanted = request not in self.withdrawn
        self.newest = max(self.newest, request)
        self.withdrawn = [number for number in self.withdrawn if number > request]
        return wanted


@dataclass(slots=True)
class _Work:
    """One request. ``compute_ns`` and ``queue_ns`` are those of its last piece."""

    asked: _Session
    frame: EngineRequest
    since_ns: int
    task: asyncio.Task[None] | None = None
    compute_ns: int = 0
    queue_ns: int = 0

    def cancel(self) -> None:
        """Withdraw it."""
        if self.task is not None:
            self.task.cancel()


class EngineServer:
    """Serves requests of ``kind`` with ``backend``. Its ``on_...`` methods are the callbacks of the process's switchboard.

    Raises:
        ConfigError: no such kind.
    """

    def __init__(self, kind: str, backend: Backend, links: Links) -> None:
        self._kind = kind
        self._backend = backend
        self._links = links
        if kind not in REQUEST_TYPES:
            raise ConfigError(f"engine kind = {kind!r}: allowed are {', '.join(REQUEST_TYPES)}")
        request_type = load_class(REQUEST_TYPES[kind], f"request type of {kind}")
        self._decoder: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(request_type)
        self._encoder = msgspec.msgpack.Encoder()
        self._sessions: dict[tuple[str, str], _Session] = {}
        self._ended: OrderedDict[tuple[str, str], int] = OrderedDict()
        """Epoch of the sessions that were ended here."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._done = self._failed = self._cancelled = self._refused = 0
        self._compute_ns = 0
        self._waits_s = Distribution(WAIT_S)

    # ------------------------------------------------------------------------------------------------------ from the links

    def on_frame(self, peer: str, frame: Frame) -> None:
        """Take a frame that came over the link of ``peer``. Frames that engines have no use for are dropped."""
        with about(frame.session, frame.turn):
            self._take(peer, frame)

    def _take(self, peer: str, frame: Frame) -> None:
        if isinstance(frame, EngineRequest):
            self._request(peer, frame)
        elif isinstance(frame, EngineCancel):
            if not self._is_over(peer, frame):
                self._session(peer, frame.session).withdraw(frame.request)
        elif isinstance(frame, Detach):
            self._ended[peer, frame.session] = frame.epoch
            self._ended.move_to_end((peer, frame.session))
            if len(self._ended) > MAX_ENDED:
                self._ended.popitem(last=False)
            self._end_session(peer, frame.session)
        else:
            log.warning("%s from %s dropped", type(frame).__name__, peer)

    def on_peer(self, peer: str, up: bool, reason: str) -> None:
        """The link of ``peer`` is up or down: down withdraws all that came over it."""
        if up:
            return
        for owner, session in list(self._sessions):
            if owner == peer:
                log.debug("session %s: its stage %s is gone (%s)", session, peer, reason)
                self._end_session(owner, session)

    def on_overflow(self, session: str, reason: str) -> None:
        """A queue of the links ran over with this session's frames and was emptied: its answers have a hole, so they fail."""
        with about(session):
            log.error("session %s: %s", session, reason)
        works = [work for asked in self._sessions.values() if asked.session == session for work in asked.requests.values()]
        for work in works:
            self._end(work, reason, retryable=True)
            work.cancel()

    # ------------------------------------------------------------------------------------------------------ from the actor

    def stats(self) -> dict[str, int]:
        """Requests since the start (done, failed, cancelled, refused), in flight now, sessions, compute in ms, oldest in ms."""
        now_ns = time.monotonic_ns()
        since_ns = [work.since_ns for asked in self._sessions.values() for work in asked.requests.values()]
        return {
            "in_flight": len(self._tasks),
            "oldest_ms": (now_ns - min(since_ns, default=now_ns)) // 1_000_000,
            "sessions": len(self._sessions),
            "done": self._done,
            "failed": self._failed,
            "cancelled": self._cancelled,
            "refused": self._refused,
            "compute_ms": self._compute_ns // 1_000_000,
        }

    def figures(self) -> Figures:
        """What the scheduler is told of the requests."""
        stats = self.stats()
        return {
            "engine_in_flight": stats["in_flight"],
            "engine_oldest_s": stats["oldest_ms"] / 1_000,
            "engine_done": self._done,
            "engine_failed": self._failed,
            "engine_cancelled": self._cancelled,
            "engine_refused": self._refused,
            "engine_compute_s": self._compute_ns / 1e9,
            "engine_wait_s": self._waits_s.figure(),
            "engine_batch": batch_sizes.figure(),
        }

    async def close(self) -> None:
        """Withdraw everything, 2 s at most, then close the backend."""
        tasks = set(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            _, stuck = await asyncio.wait(tasks, timeout=CLOSE_DEADLINE_S)
            for task in stuck:
                log.error("%s ignores its cancellation", task.get_name())
        self._sessions.clear()
        await asyncio.to_thread(self._backend.close)

    # ----------------------------------------------------------------------------------------------------------- requests

    def _request(self, peer: str, frame: EngineRequest) -> None:
        if self._is_over(peer, frame):
            return
        asked = self._session(peer, frame.session)
        if frame.request in asked.requests:
            return  # asked again by a stage that lost a replica and did not know that it had asked here already
        if not asked.arrives(frame.request):
            self._cancelled += 1
            return
        work = _Work(asked, frame, time.monotonic_ns())
        refusal = self._refusal(asked)
        if refusal:
            self._refused += 1
            self._end(work, refusal, retryable=True)
            return
        name = f"{self._kind} request {frame.request} of {frame.session}"
        work.task = asyncio.create_task(self._serve(work), name=name)
        asked.requests[frame.request] = work
        self._tasks.add(work.task)
        work.task.add_done_callback(lambda task: self._finished(task, work))

    def _session(self, peer: str, session: str) -> _Session:
        asked = self._sessions.get((peer, session))
        if asked is None:
            asked = self._sessions[peer, session] = _Session(peer, session)
        return asked

    def _is_over(self, peer: str, frame: Frame) -> bool:
        """Whether ``frame`` comes behind the end of its session."""
        return frame.epoch <= self._ended.get((peer, frame.session), -1)

    def _refusal(self, asked: _Session) -> str:
        if len(asked.requests) >= MAX_REQUESTS_PER_SESSION:
            return f"the session has {MAX_REQUESTS_PER_SESSION} requests in flight already"
        if len(self._tasks) >= MAX_REQUESTS:
            return f"the engine has {MAX_REQUESTS} requests in flight already"
        return ""

    async def _serve(self, work: _Work) -> None:
        """Answer one request. Whatever the backend raises becomes the answer's end, so that the stage need not wait."""
        try:
            request = self._decoder.decode(work.frame.payload)
        except msgspec.DecodeError as error:  # a ValidationError is one
            self._fail(work, f"malformed request: {error}", retryable=False)
            return
        try:
            await self._stream(work, request)
        except EngineError as error:
            self._fail(work, str(error), retryable=error.retryable)
        except Exception as error:
            log.exception("session %s: %s failed", work.frame.session, self._kind)
            text = str(error) if isinstance(error, RtviActorsError) else f"{type(error).__name__}: {error}"
            self._fail(work, text, retryable=False)
        else:
            self._done += 1
            self._end(work)

    async def _stream(self, work: _Work, request: Any) -> None:
        pieces = self._backend.stream(work.frame.session, request)
        async with contextlib.AsyncExitStack() as stack:
            if hasattr(pieces, "aclose"):
                stack.push_async_callback(pieces.aclose)
            async for piece in pieces:
                work.compute_ns, work.queue_ns = piece.compute_ns, piece.queue_ns
                payload = self._encoder.encode(piece)
                if not self._send(work, EngineData(request=work.frame.request, payload=payload, compute_ns=piece.compute_ns)):
                    raise EngineError(f"{work.asked.peer} does not take the answer")

    def _fail(self, work: _Work, text: str, *, retryable: bool) -> None:
        self._failed += 1
        self._end(work, text, retryable=retryable)

    def _end(self, work: _Work, error: str = "", *, retryable: bool = False) -> None:
        self._send(
            work,
            EngineEnd(
                request=work.frame.request,
                compute_ns=work.compute_ns,
                queue_ns=work.queue_ns,
                error=error,
                retryable=retryable,
            ),
        )

    def _send(self, work: _Work, frame: Frame) -> bool:
        """Send a part of the answer, with the turn of its question. All of them travel in the data lane."""
        asked = work.asked
        stamped = dataclasses.replace(
            frame,
            session=asked.session,
            epoch=work.frame.epoch,
            turn=work.frame.turn,
            attempt=work.frame.attempt,
            seq=asked.seq,
        )
        asked.seq += 1
        return self._links.send(asked.peer, stamped)

    def _finished(self, task: asyncio.Task[None], work: _Work) -> None:
        self._tasks.discard(task)
        self._compute_ns += work.compute_ns
        if work.queue_ns:
            self._waits_s.add(work.queue_ns / 1e9)
        del work.asked.requests[work.frame.request]
        if task.cancelled():
            self._cancelled += 1
        elif (error := task.exception()) is not None:
            log.error("%s failed", task.get_name(), exc_info=error)

    def _end_session(self, peer: str, session: str) -> None:
        """The stage wants nothing more: withdraw its requests, and let the backend drop what it keeps for the session."""
        asked = self._sessions.pop((peer, session), None)
        if asked is None:
            return
        for work in asked.requests.values():
            work.cancel()
        forget = getattr(self._backend, "forget", None)
        if forget is not None:
            forget(session)
