"""One session's connection to its other actors, over the links of its process. Fulfils :class:`.port.StagePort`.

Stage actors make one for each session that they host; an edge makes one for its own side of a session.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time
from collections import deque
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Protocol

from rtvi_actors.errors import RtviActorsError, SessionClosedError
from rtvi_actors.frames.types import Credit, Error, Frame, Lane, Role
from rtvi_actors.observe.log_context import about
from rtvi_actors.runtime.mailbox import WINDOW_BYTES, CreditWindow

log = logging.getLogger(__name__)

CLOSE_DEADLINE_S = 2.0
"""How long cancelled tasks of a session may take to end."""


class Links(Protocol):
    """What sessions need of the process's switchboard."""

    def send(self, peer: str, frame: Frame) -> bool:
        """Queue ``frame`` for the actor named ``peer``; False when it cannot be sent. Never blocks."""

    def connected(self, peer: str) -> bool:
        """Whether the link to ``peer`` is up."""


class SessionPort:
    """The port of one session. Use it on the event loop only.

    ``route`` names the actors of each role, best first; a session stays with the one that it chose while its link is up.
    ``on_error`` is told what went wrong in a task or timer; left out, it goes to the edge as an Error frame.
    ``on_unreachable`` is called when a frame had nowhere to go, since no actor of its role is connected.
    """

    def __init__(
        self,
        links: Links,
        session: str,
        epoch: int,
        route: Mapping[Role, Sequence[str]],
        *,
        on_error: Callable[[Error], None] | None = None,
        on_unreachable: Callable[[Role], None] | None = None,
    ) -> None:
        self.session = session
        self.epoch = epoch
        self._links = links
        self._route = {role: tuple(names) for role, names in route.items()}
        self._roles = {name: role for role, names in self._route.items() for name in names}
        self._chosen: dict[Role, str] = {}
        self._used: set[str] = set()
        self._seq: dict[Lane, int] = {"control": 0, "data": 0}
        self._gates: dict[tuple[Role, str], _CreditGate] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._timers: set[_SessionTimer] = set()
        self._on_error = on_error or self._tell_edge
        self._on_unreachable = on_unreachable
        self._closed = False
        self.frames_sent = 0
        self.frames_dropped = 0

    # -------------------------------------------------------------------------------------------------- what stages use

    def now_ms(self) -> int:
        """Milliseconds of the monotonic clock."""
        return time.monotonic_ns() // 1_000_000

    def send(self, to: Role, frame: Frame) -> None:
        """See :meth:`StagePort.send`."""
        if to not in self._route:
            raise SessionClosedError(f"session {self.session} has no {to}: its route names {', '.join(self._route)}")
        if self._closed:
            return
        name = self._choose(to)
        if name is not None and self._links.send(name, self.stamp(frame)):
            self.frames_sent += 1
            return
        self.frames_dropped += 1
        if name is None and self._on_unreachable is not None:
            self._on_unreachable(to)

    async def send_credited(self, to: Role, stream: str, frame: Frame, size_bytes: int) -> None:
        """See :meth:`StagePort.send_credited`. Those who wait for room get it in the order they came.

        Raises:
            ValueError: no such stream.
            SessionClosedError: as :meth:`send`.
        """
        await self._gate(to, stream).enter(size_bytes)
        self.send(to, frame)  # nothing ran since room was granted: order and window hold

    def grant(self, to: Role, stream: str, size_bytes: int) -> None:
        """See :meth:`StagePort.grant`."""
        if size_bytes > 0:
            self.send(to, Credit(stream=stream, bytes=size_bytes))

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """See :meth:`StagePort.spawn`.

        Raises:
            SessionClosedError: the session is closing; ``work`` does not run.
        """
        if self._closed:
            work.close()
            raise SessionClosedError(f"session {self.session} is closing: {name} is not started")
        with about(self.session):
            task = asyncio.create_task(work, name=f"{self.session} {name}")
            self._tasks.add(task)
            task.add_done_callback(self._task_done)
        return task

    def call_later(self, delay_ms: int, callback: Callable[[], None]) -> _SessionTimer:
        """See :meth:`StagePort.call_later`."""
        timer = _SessionTimer(self._timers, callback, self._failed)
        if not self._closed:
            with about(self.session):
                timer.start(delay_ms)
        return timer

    # ---------------------------------------------------------------------------------------------------- what hosts use

    @property
    def tasks(self) -> int:
        """Tasks of the session that run."""
        return len(self._tasks)

    @property
    def credits_waiting(self) -> int:
        """Sends that wait for their receiver's credit."""
        return sum(gate.waiting for gate in self._gates.values())

    @property
    def engines_used(self) -> set[str]:
        """Names of the engines that this session has sent something to."""
        return {name for name in self._used if self._roles[name].startswith("engine/")}

    def role_of(self, peer: str) -> Role | None:
        """The role that the actor ``peer`` plays in this session, None for a stranger."""
        return self._roles.get(peer)

    def peer_down(self, peer: str) -> Role | None:
        """The link to ``peer`` is down: the role that the session has nobody for now, None when it did not need that peer."""
        role = self._roles.get(peer)
        if role is None:
            return None
        chosen = self._chosen.get(role)
        if chosen == peer:
            del self._chosen[role]
            return role
        alone = chosen is None and not any(self._links.connected(name) for name in self._route[role])
        return role if alone else None

    def reroute(self, other: SessionPort) -> None:
        """Go on where ``other`` was opened, with its epoch and its actors. Who waits for credit of the old ones waits no more."""
        for gate in self._gates.values():
            gate.close()
        self._gates = {}
        self.epoch = other.epoch
        self._route, self._roles, self._chosen = other._route, other._roles, other._chosen
        self._used, self._seq = other._used, other._seq

    def credited(self, peer: str, credit: Credit) -> None:
        """A Credit frame came from ``peer``. One for an unknown stream is logged and dropped."""
        role = self._roles.get(peer)
        if role is None or credit.stream not in WINDOW_BYTES:
            log.warning("session %s: credit for stream %r from %s dropped", self.session, credit.stream, peer)
            return
        self._gate(role, credit.stream).give(credit.bytes)

    def stamp(self, frame: Frame) -> Frame:
        """A copy of ``frame`` with this session's fields and the next number of its lane."""
        lane = frame.LANE
        seq = self._seq[lane]
        self._seq[lane] = seq + 1
        return dataclasses.replace(frame, session=self.session, epoch=self.epoch, seq=seq)

    async def close(self) -> None:
        """Cancel timers and tasks and wait until the tasks have ended, 2 s at most. Later sends do nothing. May be repeated."""
        self._closed = True
        for timer in list(self._timers):
            timer.cancel()
        for gate in self._gates.values():
            gate.close()
        tasks = self._tasks - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        if tasks:
            _, stuck = await asyncio.wait(tasks, timeout=CLOSE_DEADLINE_S)
            for task in stuck:
                log.error("session %s: task %s ignores its cancellation", self.session, task.get_name())

    # ------------------------------------------------------------------------------------------------------------ inside

    def _choose(self, role: Role) -> str | None:
        """The actor to send to: the one chosen before while it is connected, else the first one that is."""
        name = self._chosen.get(role)
        if name is None or not self._links.connected(name):
            name = next((other for other in self._route[role] if self._links.connected(other)), None)
            if name is None:
                self._chosen.pop(role, None)
            else:
                self._chosen[role] = name
                self._used.add(name)
        return name

    def _gate(self, role: Role, stream: str) -> _CreditGate:
        gate = self._gates.get((role, stream))
        if gate is None:
            if stream not in WINDOW_BYTES:
                raise ValueError(f"no credited stream {stream!r}; there are {', '.join(WINDOW_BYTES)}")
            gate = self._gates[role, stream] = _CreditGate(WINDOW_BYTES[stream])
        return gate

    def _task_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._failed(error, task.get_name())

    def _failed(self, error: BaseException, what: str) -> None:
        log.error("session %s: %s failed", self.session, what, exc_info=error)
        if not self._closed:
            self._on_error(error_frame(error))

    def _tell_edge(self, error: Error) -> None:
        if "edge" in self._route:
            self.send("edge", error)


def error_frame(error: BaseException, *, turn: int = 0, attempt: int = 0) -> Error:
    """What the edge is told about ``error``: our own with their scope, strangers as the failure of one turn."""
    if isinstance(error, RtviActorsError):
        return Error(turn=turn, attempt=attempt, scope=error.scope, retryable=error.retryable, text=str(error))
    return Error(turn=turn, attempt=attempt, scope="turn", retryable=False, text=f"{type(error).__name__}: {error}")


class _CreditGate:
    """The producer's side of one credited stream: its window, and those who wait for room, in the order they came.

    Whoever is first in the line stays there until its task runs, so nobody who comes later gets past it.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._window = CreditWindow(limit_bytes)
        self._line: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._closed = False

    @property
    def waiting(self) -> int:
        """Those in the line."""
        return len(self._line)

    async def enter(self, size_bytes: int) -> None:
        """Wait until there is room for ``size_bytes`` and take it. Cancelling gives back what was taken."""
        if self._closed or (not self._line and self._window.take(size_bytes)):
            return
        place = (size_bytes, asyncio.get_running_loop().create_future())
        self._line.append(place)
        try:
            await place[1]
        except asyncio.CancelledError:
            if not place[1].cancelled() and not self._closed:
                self._window.give(size_bytes)
            raise
        finally:
            self._line.remove(place)
            self._admit_next()

    def give(self, size_bytes: int) -> None:
        """The receiver used up ``size_bytes``."""
        self._window.give(size_bytes)
        self._admit_next()

    def close(self) -> None:
        """Let everybody through: what they send goes nowhere."""
        self._closed = True
        for _, future in self._line:
            if not future.done():
                future.set_result(None)

    def _admit_next(self) -> None:
        if self._line and not self._line[0][1].done() and self._window.take(self._line[0][0]):
            self._line[0][1].set_result(None)


class _SessionTimer:
    """A call that waits for its time, and is forgotten when the session closes."""

    def __init__(
        self,
        timers: set[_SessionTimer],
        callback: Callable[[], None],
        on_error: Callable[[BaseException, str], None],
    ) -> None:
        self._timers = timers
        self._callback = callback
        self._on_error = on_error
        self._handle: asyncio.TimerHandle | None = None

    def start(self, delay_ms: int) -> None:
        """Begin to wait."""
        self._handle = asyncio.get_running_loop().call_later(delay_ms / 1_000, self._run)
        self._timers.add(self)

    def cancel(self) -> None:
        """Forget the call. Harmless when it already ran."""
        self._timers.discard(self)
        if self._handle is not None:
            self._handle.cancel()

    def _run(self) -> None:
        self._timers.discard(self)
        try:
            self._callback()
        except Exception as error:
            self._on_error(error, "a timer")
