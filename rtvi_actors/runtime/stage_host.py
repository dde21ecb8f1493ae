"""All sessions that one process hosts for one role: their begin, their frames, their end. No Ray, no sockets.

A session begins with an Attach from an edge and ends with its Detach, or by itself when an actor that it needs is gone. Whatever
happens, each session's tasks are cancelled, its stage is closed once, and nothing of it stays.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, Literal

from rtvi_actors.frames.types import Attach, Attached, Credit, Detach, Error, Frame, Refused, Role
from rtvi_actors.observe.figures import Figures
from rtvi_actors.observe.log_context import about
from rtvi_actors.runtime.port import Stage, StageHost
from rtvi_actors.runtime.session_port import CLOSE_DEADLINE_S, Links, SessionPort, error_frame

log = logging.getLogger(__name__)

HELD_FRAMES = 512
"""Frames that may wait for a session's stage to open. A session that gets more is refused: control may not be dropped."""

REMEMBERED_EPOCHS = 1_024
"""Ended sessions whose epoch is remembered, so that an Attach that arrives late does not bring them back."""

COMPLAINT_PERIOD_MS = 1_000
"""A stage that fails frame after frame is logged and told to the edge once in this time."""


@dataclass(slots=True, eq=False)
class _Hosted:
    """One session, from its Attach to its end."""

    port: SessionPort
    edge: str
    since_ms: int
    stage: Stage | None = None
    state: Literal["opening", "open", "closing"] = "opening"
    opening: asyncio.Task[None] | None = None
    held: deque[Frame] = field(default_factory=deque)
    answers: list[Frame] = field(default_factory=list)
    """What the edge is told when the session is closed."""
    complained_ms: int = -COMPLAINT_PERIOD_MS


class SessionHost:
    """The sessions of one process. Its ``on_...`` methods are the callbacks of the process's switchboard."""

    def __init__(self, role: Role, stages: StageHost, links: Links, *, limit: int, open_deadline_ms: int) -> None:
        self._role = role
        self._stages = stages
        self._links = links
        self._limit = limit
        self._open_deadline_ms = open_deadline_ms
        self._sessions: dict[str, _Hosted] = {}
        self._epochs: OrderedDict[str, int] = OrderedDict()
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = False
        self._counts: Counter[str] = Counter()

    # ------------------------------------------------------------------------------------------------------ from the links

    def on_frame(self, peer: str, frame: Frame) -> None:
        """Take a frame that came over the link of ``peer``."""
        with about(frame.session, frame.turn):
            self._take(peer, frame)

    def _take(self, peer: str, frame: Frame) -> None:
        if isinstance(frame, Attach):
            self._attach(peer, frame)
            return
        if isinstance(frame, Detach):
            self._detach(peer, frame)
            return
        hosted = self._sessions.get(frame.session)
        if hosted is None or hosted.port.role_of(peer) is None:
            self._counts["unknown"] += 1
        elif frame.epoch != hosted.port.epoch:
            self._counts["stale"] += 1
        elif isinstance(frame, Credit):
            hosted.port.credited(peer, frame)
        elif hosted.state == "open":
            self._deliver(hosted, frame)
        elif hosted.state == "opening":
            self._hold(hosted, frame)

    def on_peer(self, peer: str, up: bool, reason: str) -> None:
        """The link of ``peer`` is up or down. Sessions end without their edge or another stage; an engine may be replaced."""
        if up:
            return
        for hosted in list(self._sessions.values()):
            role = hosted.port.peer_down(peer)
            if role is None:
                continue
            with about(hosted.port.session):
                self._lost(hosted, role, f"{peer}: {reason}")

    def _lost(self, hosted: _Hosted, role: Role, who: str) -> None:
        if role.startswith("engine/"):
            self._unreachable(hosted, role)
        elif role == "edge":
            log.warning("session %s: its edge is gone (%s); closing it", hosted.port.session, who)
            self._end(hosted)
        else:
            self._end_with_error(hosted, f"lost {who}")

    def on_overflow(self, session: str, reason: str) -> None:
        """A queue of the links ran over with frames that may not be dropped: the session cannot go on."""
        hosted = self._sessions.get(session)
        if hosted is not None:
            self._end_with_error(hosted, reason)

    # ------------------------------------------------------------------------------------------------------ from the actor

    def sessions(self) -> list[dict[str, Any]]:
        """What is hosted now."""
        now_ms = _now_ms()
        return [
            {
                "session": hosted.port.session,
                "epoch": hosted.port.epoch,
                "edge": hosted.edge,
                "state": hosted.state,
                "age_ms": now_ms - hosted.since_ms,
                "tasks": hosted.port.tasks,
                "frames_sent": hosted.port.frames_sent,
                "frames_dropped": hosted.port.frames_dropped,
            }
            for hosted in self._sessions.values()
        ]

    @property
    def open_requests(self) -> int:
        """What engines have not answered to the end, of those stages that ask any (they have a property ``open_requests``)."""
        return sum(getattr(hosted.stage, "open_requests", 0) for hosted in self._sessions.values())

    def stage_of(self, session: str) -> Stage | None:
        """The stage of ``session``, once it is open."""
        hosted = self._sessions.get(session)
        return None if hosted is None else hosted.stage

    def stats(self) -> dict[str, int]:
        """Counters since the start: attached, refused, detached, delivered, failed, unknown, stale; and sessions now."""
        names = ("attached", "refused", "detached", "delivered", "failed", "unknown", "stale")
        return {"sessions": len(self._sessions)} | {name: self._counts[name] for name in names}

    def figures(self) -> Figures:
        """What the scheduler is told of the sessions."""
        return {
            "credits_waiting": sum(hosted.port.credits_waiting for hosted in self._sessions.values()),
            "stage_failures": self._counts["failed"],
        }

    async def close(self, reason: str) -> None:
        """End all sessions, telling their edges why, and let go of what they shared. No Attach is taken any more."""
        self._stopping = True
        for hosted in list(self._sessions.values()):
            self._end_with_error(hosted, reason)
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=3 * CLOSE_DEADLINE_S)
        self._stages.close()

    # -------------------------------------------------------------------------------------------------------------- begin

    def _attach(self, peer: str, attach: Attach) -> None:
        refusal = self._refusal(attach)
        if refusal:
            self._counts["refused"] += 1
            log.warning("session %s from %s refused: %s", attach.session, peer, refusal)
            answer = Refused(session=attach.session, epoch=attach.epoch, role=self._role, reason=refusal)
            self._links.send(peer, answer)
            return
        route = {**attach.route, "edge": [peer]}
        hosted = _Hosted(
            SessionPort(
                self._links,
                attach.session,
                attach.epoch,
                route,
                on_unreachable=lambda role: self._unreachable(hosted, role),
            ),
            edge=peer,
            since_ms=_now_ms(),
        )
        self._sessions[attach.session] = hosted
        hosted.opening = self._run(self._open(hosted, attach), f"open {attach.session}")

    def _refusal(self, attach: Attach) -> str:
        """Why the session may not begin here; "" when it may."""
        known = self._sessions.get(attach.session)
        if self._stopping:
            return "the actor is stopping"
        if known is not None:
            return f"the session is here already, with epoch {known.port.epoch}"
        last = self._epochs.get(attach.session, 0)
        if attach.epoch <= last:
            return f"epoch {attach.epoch} is not newer than {last}"
        if len(self._sessions) >= self._limit:
            return f"all {self._limit} places are taken"
        return ""

    async def _open(self, hosted: _Hosted, attach: Attach) -> None:
        deadline = asyncio.timeout(self._open_deadline_ms / 1_000)
        try:
            async with deadline:
                hosted.stage = self._stages.create(hosted.port, attach)
                await hosted.stage.open()
        except Exception as error:
            log.exception("session %s: opening its %s stage failed", attach.session, self._role)
            late = f"not open within {self._open_deadline_ms} ms"
            self._refuse(hosted, late if deadline.expired() else error_frame(error).text)
        else:
            if hosted.state != "opening":
                return
            hosted.state = "open"
            self._counts["attached"] += 1
            hosted.port.send("edge", Attached(role=self._role))
            while hosted.held and hosted.state == "open":
                self._deliver(hosted, hosted.held.popleft())

    def _refuse(self, hosted: _Hosted, reason: str) -> None:
        if hosted.state == "opening":
            self._counts["refused"] += 1
            hosted.answers.append(Refused(role=self._role, reason=reason))
            self._end(hosted)

    def _hold(self, hosted: _Hosted, frame: Frame) -> None:
        if len(hosted.held) >= HELD_FRAMES:
            self._refuse(hosted, f"more than {HELD_FRAMES} frames came before it was open")
            return
        hosted.held.append(frame)

    # ------------------------------------------------------------------------------------------------------------- frames

    def _deliver(self, hosted: _Hosted, frame: Frame) -> None:
        assert hosted.stage is not None
        self._counts["delivered"] += 1
        try:
            hosted.stage.receive(frame)
        except Exception as error:
            self._complain(hosted, error, frame)

    def _complain(self, hosted: _Hosted, error: Exception, frame: Frame) -> None:
        """A stage failed on one frame: the session goes on, the edge is told, at most once a second."""
        self._counts["failed"] += 1
        now_ms = _now_ms()
        if now_ms - hosted.complained_ms < COMPLAINT_PERIOD_MS:
            return
        hosted.complained_ms = now_ms
        log.error("session %s: %s failed on %s", frame.session, self._role, type(frame).__name__, exc_info=error)
        hosted.port.send("edge", error_frame(error, turn=frame.turn, attempt=frame.attempt))

    def _unreachable(self, hosted: _Hosted, role: Role) -> None:
        """Who played ``role`` is gone. A stage hears of its engine's loss, but not from inside its own ``send``."""
        if role.startswith("engine/"):
            asyncio.get_running_loop().call_soon(self._peer_lost, hosted, role)

    def _peer_lost(self, hosted: _Hosted, role: Role) -> None:
        """Tell the stage that who played ``role`` is gone, if it wants to know (it has a method ``peer_lost(role)``)."""
        listener = getattr(hosted.stage, "peer_lost", None)
        if listener is None or hosted.state == "closing":
            return
        try:
            listener(role)
        except Exception as error:
            self._complain(hosted, error, Frame(session=hosted.port.session))

    # ---------------------------------------------------------------------------------------------------------------- end

    def _detach(self, peer: str, detach: Detach) -> None:
        hosted = self._sessions.get(detach.session)
        if hosted is None:
            # It was repeated, or the session ended by itself: there is nothing left of it, which is what the edge asks.
            self._links.send(peer, Detach(session=detach.session, epoch=detach.epoch, reason="not here"))
        elif peer != hosted.edge or detach.epoch != hosted.port.epoch:
            self._counts["stale"] += 1
        else:
            if not any(isinstance(answer, Detach) for answer in hosted.answers):
                hosted.answers.append(Detach(reason=detach.reason))
            self._end(hosted)

    def _end_with_error(self, hosted: _Hosted, reason: str) -> None:
        if hosted.state != "closing":
            with about(hosted.port.session):
                log.warning("session %s ends: %s", hosted.port.session, reason)
            hosted.port.send("edge", Error(scope="session", retryable=True, text=reason))
            self._end(hosted)

    def _end(self, hosted: _Hosted) -> None:
        if hosted.state == "closing":
            return
        hosted.state = "closing"
        hosted.held.clear()
        self._run(self._close(hosted), f"close {hosted.port.session}")

    async def _close(self, hosted: _Hosted) -> None:
        """Tasks first, then the stage, then the answer: the edge may rely on it that nothing is held any more."""
        session = hosted.port.session
        if hosted.opening is not None and not hosted.opening.done():
            hosted.opening.cancel()
            await asyncio.wait({hosted.opening}, timeout=CLOSE_DEADLINE_S)
        await hosted.port.close()
        if hosted.stage is not None:
            closing = self._run(hosted.stage.close(), f"close the {self._role} stage of {session}")
            await asyncio.wait({closing}, timeout=CLOSE_DEADLINE_S)
            if not closing.done():
                closing.cancel()
                log.error("session %s: its %s stage did not close within %.0f s", session, self._role, CLOSE_DEADLINE_S)
        for engine in hosted.port.engines_used:
            self._links.send(engine, hosted.port.stamp(Detach(reason="the session is over")))
        self._forget(hosted)
        for answer in hosted.answers:
            self._links.send(hosted.edge, hosted.port.stamp(answer))

    def _forget(self, hosted: _Hosted) -> None:
        session = hosted.port.session
        del self._sessions[session]
        self._counts["detached"] += 1
        self._epochs[session] = hosted.port.epoch
        self._epochs.move_to_end(session)
        while len(self._epochs) > REMEMBERED_EPOCHS:
            self._epochs.popitem(last=False)

    def _run(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("%s failed", task.get_name(), exc_info=error)


def _now_ms() -> int:
    return time.monotonic_ns() // 1_000_000
