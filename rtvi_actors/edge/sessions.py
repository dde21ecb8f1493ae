"""All sessions of one edge: their admission, the frames that come for them, and their end, after which nothing of them is left."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rtvi_actors.config import Config
from rtvi_actors.edge.admission import Admission, Lease
from rtvi_actors.edge.session import EdgeSession, Wanted
from rtvi_actors.errors import AuthError, CapacityError, DrainingError
from rtvi_actors.frames.types import Frame
from rtvi_actors.observe.log_context import about
from rtvi_actors.observe.observer import Observer
from rtvi_actors.runtime.session_port import Links

log = logging.getLogger(__name__)

DRAIN_WARNING_MS = 10_000
"""How long before its end a client is told that the app is drained."""
RESERVED_S = 10.0
"""How long a place is kept for a client that started and does not connect."""
MAX_TOKEN = 64
MOVE_POLL_S = 0.1
TOKEN_BYTES = 24


@dataclass(frozen=True, slots=True)
class _Reservation:
    """A place that waits for its client."""

    lease: Lease
    wanted: Wanted
    expiry: asyncio.TimerHandle


class Sessions:
    """The sessions of this process. Its ``on_...`` methods are the callbacks of the process's switchboard.

    ``on_lost(actor, reason)`` is called when the link to an actor broke that a session was using. ``number``: this edge's.
    """

    def __init__(
        self, config: Config, admission: Admission, links: Links, on_lost: Callable[[str, str], None], number: str = "0"
    ) -> None:
        self._number = number
        self.admitted = 0
        self.refused = 0
        self.failed = 0
        self.unknown_frames = 0
        """Frames for sessions that are not here (any more)."""
        self.observer = Observer(config)
        self._config = config
        self._admission = admission
        self._links = links
        self._on_lost = on_lost
        self._sessions: dict[str, EdgeSession] = {}
        self._closing: dict[str, asyncio.Task[None]] = {}
        self._reserved: dict[str, _Reservation] = {}
        """By their tokens. As many as there are places at most."""
        self._returning: set[asyncio.Task[None]] = set()
        self._none_left = asyncio.Event()
        self._none_left.set()
        self._stopping = False
        self._last_moment_s: float | None = None
        """Of all sessions, on the loop's clock, once the app is drained."""

    # ------------------------------------------------------------------------------------------------------------- doors

    async def reserve_anywhere(self, wanted: Wanted) -> tuple[str, str]:
        """As :meth:`reserve`, or at another edge of the app that has fewer sessions: the token, and that edge's address or "".

        Raises:
            CapacityError: no place.
        """
        # Behind a proxy, an edge's own address is none for clients; any edge takes the token there.
        proxied = self._config.edge.public_url or self._config.edge.trust_forwarded
        elsewhere = None if proxied else await self._admission.reserve(wanted.bot, wanted.body)
        return (elsewhere.token, elsewhere.url) if elsewhere is not None else (await self.reserve(wanted), "")

    async def reserve(self, wanted: Wanted) -> str:
        """Take a place for whoever comes within 10 s with the token that this returns. It is good for one session.

        Raises:
            CapacityError: no place.
        """
        lease = await self._take_place()
        if self._stopping:
            await self._admission.release(lease.session, clean=True, used=False)
            raise DrainingError("this edge is stopping", 5_000)
        # The app's other edges see of whom to ask for it: a load balancer may bring its client to any.
        token = f"{self._number}.{secrets.token_urlsafe(TOKEN_BYTES)}"
        expiry = asyncio.get_running_loop().call_later(RESERVED_S, self._expire, token)
        self._reserved[token] = _Reservation(lease, wanted, expiry)
        return token

    async def open(self, token: str = "") -> EdgeSession:
        """Open the session at the four stages, in the place that ``token`` names, or in a new one. :meth:`close` must follow.

        Raises:
            AuthError: the token is unknown, expired or used; or there is none, and one is needed.
            CapacityError: no place, or the stages did not open it. Nothing is left of it then.
        """
        if token:
            lease, wanted = await self._redeem(token)
        elif self._config.edge.require_start:
            raise AuthError("a token is needed: POST /start gives one")
        else:
            lease, wanted = await self._take_place(), Wanted()
        observer = self.observer.session(lease.session, wanted.bot or lease.bot)
        session = EdgeSession(lease, self._links, self._config, wanted, observer)
        self._sessions[lease.session] = session
        self._none_left.clear()
        if self._last_moment_s is not None:  # the place is from before
            self._end_in_time(session)
        try:
            await session.attach()
        except BaseException as error:
            if isinstance(error, CapacityError):
                self.refused += 1
                with about(lease.session):
                    log.warning("session %s: %s", lease.session, error)
            await self.close(session)
            raise
        self.admitted += 1
        return session

    async def _redeem(self, token: str) -> tuple[Lease, Wanted]:
        reserved = self.give_up(token)
        if reserved is not None:
            return reserved
        number, dot, _ = token.partition(".")
        if dot and number.isdecimal() and number != self._number and len(token) <= MAX_TOKEN:
            self._check_open()
            claimed = await self._admission.claim(token)
            if claimed is not None:
                lease, bot, body = claimed
                return lease, Wanted(bot, body)
        raise AuthError("the token is unknown, expired or used: POST /start gives a new one")

    def give_up(self, token: str) -> tuple[Lease, Wanted] | None:
        """The place that was kept for ``token``: it is the caller's now. None if there is none."""
        reserved = self._reserved.pop(token, None)
        if reserved is None:
            return None
        reserved.expiry.cancel()
        return reserved.lease, reserved.wanted

    async def _take_place(self) -> Lease:
        try:
            self._check_open()
            return await self._admission.admit()
        except CapacityError:
            self.refused += 1
            raise

    def _check_open(self) -> None:
        if self._stopping or self._last_moment_s is not None:
            raise DrainingError(f"this edge is {'stopping' if self._stopping else 'being drained'}", 5_000)

    def _expire(self, token: str) -> None:
        """Nobody came: the place goes back, unused."""
        reserved = self._reserved.pop(token)
        reserved.expiry.cancel()
        name = reserved.lease.session
        returning = asyncio.create_task(self._admission.release(name, clean=True, used=False), name=f"return {name}")
        self._returning.add(returning)
        returning.add_done_callback(self._returning.discard)

    async def close(self, session: EdgeSession) -> None:
        """End ``session`` and give its place back. Goes on to the end even if the caller is cancelled. May be repeated."""
        name = session.lease.session
        closing = self._closing.get(name)
        if closing is None and name in self._sessions:
            closing = self._closing[name] = asyncio.create_task(self._close(session), name=f"close {name}")
            closing.add_done_callback(lambda _: self._closing.pop(name))
        if closing is not None:
            await asyncio.shield(closing)

    async def _close(self, session: EdgeSession) -> None:
        clean = False
        try:
            clean = await session.close()
        finally:
            self.failed += session.failed
            session.observer.session_over(session.cause, session.counts())
            await self._admission.release(session.lease.session, clean=clean)
            del self._sessions[session.lease.session]
            if not self._sessions:
                self._none_left.set()

    def drain(self, timeout_ms: int) -> None:
        """Give out no more places. Sessions may go on for ``timeout_ms``; 10 s before, their clients are told. May be repeated."""
        last_moment_s = asyncio.get_running_loop().time() + timeout_ms / 1_000
        if self._last_moment_s is not None and last_moment_s >= self._last_moment_s:
            return
        self._last_moment_s = last_moment_s
        for session in self._sessions.values():
            self._end_in_time(session)

    def _end_in_time(self, session: EdgeSession) -> None:
        assert self._last_moment_s is not None
        left_s = max(0.0, self._last_moment_s - asyncio.get_running_loop().time())
        session.end_within(int(left_s * 1_000), DRAIN_WARNING_MS)

    async def move(self, names: Sequence[str], deadline_s: float) -> list[str]:
        """Have these sessions go on at other stage groups, each as soon as nobody speaks in it. Those that are over are done.

        Returns:
            those that are still where they were after ``deadline_s``.
        """
        moved = await asyncio.gather(*(self._move(name, deadline_s) for name in names))
        return [name for name, done in zip(names, moved, strict=True) if not done]

    async def _move(self, name: str, deadline_s: float) -> bool:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + deadline_s
        while (session := self._sessions.get(name)) is not None and name not in self._closing:
            if session.at_rest and await self._move_now(session):
                return True
            if loop.time() > deadline:
                return False
            await asyncio.sleep(MOVE_POLL_S)
        return True

    async def _move_now(self, session: EdgeSession) -> bool:
        name, done = session.lease.session, False
        try:
            done = await session.move(await self._admission.move(name))
        except CapacityError as error:
            log.info("session %s cannot move yet: %s", name, error)
        finally:
            await self._admission.moved(name, done=done)
        return done

    def end_some(self, names: Sequence[str], timeout_ms: int) -> None:
        """These sessions may go on for ``timeout_ms``; 10 s before, their clients are told. Those that are over are done."""
        for name in names:
            if name in self._sessions:
                self._sessions[name].end_within(timeout_ms, DRAIN_WARNING_MS)

    async def stop(self, grace_s: float) -> None:
        """Admit nobody more, end all sessions, and wait ``grace_s`` until they have given everything back."""
        self._stopping = True
        for token in list(self._reserved):
            self._expire(token)
        for session in list(self._sessions.values()):
            session.end("the server is stopping")
        try:
            async with asyncio.timeout(grace_s):
                await self._none_left.wait()
        except TimeoutError:
            late = list(self._sessions.values())
            log.warning("%d sessions did not end within %.1f s", len(late), grace_s)
            await asyncio.gather(*(self.close(session) for session in late))
        if self._returning:
            await asyncio.wait(self._returning, timeout=grace_s)
        if self.observer.traces:
            # A collector that is not there is not waited for.
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.to_thread(self.observer.close), grace_s)

    # -------------------------------------------------------------------------------------------------------- from the links

    def on_frame(self, peer: str, frame: Frame) -> None:
        """Take a frame that came over the link of ``peer``. A session that fails on it ends; the others do not notice."""
        session = self._sessions.get(frame.session)
        if session is None:
            self.unknown_frames += 1
            return
        with about(frame.session, frame.turn):
            try:
                session.receive(peer, frame)
            except Exception as error:
                log.exception("session %s: %s of %s failed", frame.session, type(frame).__name__, peer)
                session.fail(f"internal error: {error}")

    def on_peer(self, peer: str, up: bool, reason: str) -> None:
        """The link of ``peer`` is up or down: sessions that need it end."""
        if up:
            return
        concerned = False
        for name, session in list(self._sessions.items()):
            with about(name):
                concerned |= session.peer_down(peer, reason)
        if concerned:
            self._on_lost(peer, reason)

    def on_overflow(self, session: str, reason: str) -> None:
        """A queue of the links ran over with frames that may not be dropped: the session cannot go on."""
        if session in self._sessions:
            with about(session):
                self._sessions[session].fail(reason)

    # ---------------------------------------------------------------------------------------------------------- for people

    async def ready(self) -> None:
        """Return when the next session could be admitted now.

        Raises:
            CapacityError: it could not, and why.
        """
        self._check_open()
        await self._admission.ready()

    async def app_status(self) -> dict[str, Any]:
        """What the scheduler knows of the whole app.

        Raises:
            CapacityError: it does not answer.
        """
        return await self._admission.status()

    @property
    def busy_turns(self) -> int:
        """Sessions in which somebody speaks or is waited for."""
        return sum(session.busy for session in self._sessions.values())

    def counts(self) -> list[dict[str, int]]:
        """What each session has counted so far."""
        return [session.counts() for session in self._sessions.values()]

    def status(self) -> list[dict[str, Any]]:
        """All sessions, oldest first, as builtins."""
        return [session.status() for session in self._sessions.values()]

    def stats(self) -> dict[str, int]:
        """Counters since the start, and sessions now."""
        return {
            "sessions": len(self._sessions),
            "reserved": len(self._reserved),
            "admitted": self.admitted,
            "refused": self.refused,
            "failed": self.failed,
            "busy_turns": self.busy_turns,
            "unknown_frames": self.unknown_frames,
        }
