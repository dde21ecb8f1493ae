"""One client's session at the edge, from its lease to its end. Knows no web framework: the client is a :class:`Client`.

Its way: ``attach``, then ``serve`` with the connected client, then ``close``; the last one always. Whatever ends a session (the
client, disconnect-bot, a lost stage, a stop of the edge) goes through one place, once.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from rtvi_actors.config import Config
from rtvi_actors.edge.admission import Lease
from rtvi_actors.edge.attachment import STAGES, Attachment
from rtvi_actors.edge.client import Client, ClientGoneError, Outbox
from rtvi_actors.edge.conversation import Conversation
from rtvi_actors.edge.ending import Command, Deafen, End, EndBy, Ending, Event, Leave, Prompt, Seen, Tick, WakeAt, Warn
from rtvi_actors.edge.intake import Intake
from rtvi_actors.errors import CapacityError
from rtvi_actors.frames.snapshot import encode as encode_snapshot
from rtvi_actors.frames.types import (
    Attach,
    Attached,
    ClientMessage,
    Credit,
    Detach,
    Error,
    Frame,
    Moved,
    Refused,
    Role,
    SessionEnd,
)
from rtvi_actors.observe.log_context import about
from rtvi_actors.observe.observer import SessionObserver
from rtvi_actors.rtvi.events import Failure
from rtvi_actors.rtvi.messages import Message
from rtvi_actors.runtime.port import Timer
from rtvi_actors.runtime.session_port import Links, SessionPort, error_frame

log = logging.getLogger(__name__)

DETACH_DEADLINE_MS = 1_000
FLUSH_DEADLINE_S = 1.0
"""How long a session that ends waits for its client to take what is queued."""
MAX_REASON_BYTES = 123
"""Longest reason that a WebSocket's close frame carries."""

CLOSED = 1000
GOING_AWAY = 1001
TOO_SLOW = 1008
FAILED = 1011


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a client asked for before it connected. ``bot``: its class, "" for the app's own; ``body``: JSON for it, or b""."""

    bot: str = ""
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class _Close:
    """Why a session ends, and what the client's connection is closed with. ``flush``: what is queued goes out first.

    ``cause``: the reason in one of a few words, for those who count.
    """

    cause: str
    reason: str
    code: int
    failed: bool = False
    flush: bool = True


class EdgeSession:
    """See the module.

    Args:
        lease: the place that the session got.
        links: the links of this process, to the stages.
        config: the app's.
        wanted: what the client asked for.
        observer: is told what happens.
    """

    def __init__(
        self, lease: Lease, links: Links, config: Config, wanted: Wanted = Wanted(), observer: SessionObserver | None = None
    ) -> None:
        self.lease = lease
        self.observer = observer or SessionObserver()
        self._links = links
        self._wanted = wanted
        self.since = time.time()
        self._config = config
        self._port = SessionPort(
            links,
            lease.session,
            lease.epoch,
            lease.route,
            on_error=lambda failure: self.fail(f"internal error: {failure.text}"),
            on_unreachable=lambda role: self._lost(role, "not connected"),
        )
        self._outbox = Outbox(config.edge.send_buffer_bytes, self._too_slow)
        self._conversation = Conversation(self._port, self._outbox, config.edge.lead_ms, self._bot_silent, self.observer)
        self._intake = Intake(self._port, self._conversation, config.edge, self._disconnect, self._cancelled)
        self._attachment = Attachment(self._port)
        self._ending = Ending(config.session, self._port.now_ms())
        self._seen = Seen()
        self._last_turn = 0
        """The turn that the bot wants to finish before the session ends."""
        self._timer: Timer | None = None
        self._closing: _Close | None = None
        self._over = asyncio.Event()
        self._detached: bool | None = None
        self._epoch = lease.epoch
        """The highest one that stages have heard of."""
        self._moving: asyncio.Future[bool] | None = None
        self._elsewhere: tuple[SessionPort, Attachment] | None = None
        """The group that it comes to, or leaves, while it moves."""

    # ------------------------------------------------------------------------------------------------------------- life

    async def attach(self) -> None:
        """Open the session at the four stages.

        Raises:
            CapacityError: they are not all open within the deadline. :meth:`close` must follow.
        """
        attach = Attach(route=self.lease.route, bot=self._wanted.bot or self.lease.bot, body=self._wanted.body)
        await self._attachment.attach(attach, self._config.scheduler.attach_deadline_ms)

    async def move(self, lease: Lease) -> bool:
        """Go on at the stage group of ``lease``, with a higher epoch and the conversation so far; the old group lets go of it.

        Only between turns, where nothing is lost: the caller asks :attr:`at_rest` before. False where it stays where it is, since
        the new stages did not open it, or somebody began to speak meanwhile; the new group holds nothing of it then.
        """
        moving = self._moving = asyncio.ensure_future(self._move(lease))
        try:
            return await asyncio.shield(moving)
        finally:
            if moving.done():
                self._moving = None

    async def _move(self, lease: Lease) -> bool:
        self._epoch += 1  # also where the move before came to nothing: stages refuse what is not newer than they know
        there = SessionPort(self._links, lease.session, self._epoch, lease.route)
        arriving = Attachment(there)
        self._elsewhere = (there, arriving)
        snapshot = self._conversation.snapshot(started=self._intake.ready)
        attach = Attach(
            route=lease.route, bot=self._wanted.bot or lease.bot, body=self._wanted.body, snapshot=encode_snapshot(snapshot)
        )
        try:
            await arriving.attach(attach, self._config.scheduler.attach_deadline_ms)
            resting = self._closing is None and self._conversation.at_rest
            if not resting or self._conversation.snapshot(started=self._intake.ready) != snapshot:
                raise CapacityError("the conversation went on meanwhile")
        except CapacityError as error:
            log.info("session %s stays where it is: %s", lease.session, error)
            await arriving.detach("the session did not come", DETACH_DEADLINE_MS)
            self._elsewhere = None
            return False
        self._port.send("llm", Moved())
        here = SessionPort(self._links, lease.session, self.lease.epoch, self.lease.route)
        leaving = Attachment(here)
        self._elsewhere = (here, leaving)
        self._port.reroute(there)
        self._attachment = Attachment(self._port)
        self.lease = dataclasses.replace(lease, epoch=self._port.epoch)
        if snapshot.started:
            self._port.send("llm", ClientMessage(id="", type="session-moved", data=b"{}"))
        await leaving.detach("the session has moved", DETACH_DEADLINE_MS)
        self._elsewhere = None
        return True

    @property
    def at_rest(self) -> bool:
        """Whether nothing is going on, so that it may move."""
        return self._closing is None and self._moving is None and self._conversation.at_rest

    async def serve(self, client: Client, incoming: AsyncIterator[bytes | str]) -> None:
        """Talk with ``client`` until the session is over, and close its connection.

        ``incoming`` yields what the client sends, text frames as str, and ends when it is gone. What a transport can hand over
        at once it may give to :meth:`take` instead.
        """
        writer = self._port.spawn(self._write(client), "writer")
        self._port.spawn(self._read(incoming), "reader")
        self._decide(Tick())
        await self._over.wait()
        # Stages stop at once, while the client still gets what is queued for it.
        await asyncio.gather(self._dismiss(client, writer), self._detach())

    async def close(self) -> bool:
        """End the session wherever it is, and give everything back. Says whether no stage holds anything of it any more."""
        self._stop(_Close("not-begun", "the session is closed", GOING_AWAY))
        if self._moving is not None:
            await asyncio.wait({self._moving})  # every wait in it has a deadline
        await self._detach()
        await self._port.close()
        return bool(self._detached) and not self.failed

    def end(self, reason: str) -> None:
        """Tell the client that this side stops, and end it. Returns at once; :meth:`serve` returns when it is done."""
        if self._closing is None:
            self._tell_end("server-stopping", reason)
            self._stop(_Close("server-stopping", reason, GOING_AWAY))

    def end_within(self, left_ms: int, warning_ms: int) -> None:
        """It may last so long at most; the client is told ``warning_ms`` before, and then the bot finishes."""
        leave = Leave("draining", "The server is being emptied.")
        self._decide(EndBy(self._port.now_ms() + left_ms, warning_ms, leave))

    def fail(self, reason: str) -> None:
        """It cannot go on: tell the client and end it."""
        if self._closing is None:
            log.warning("session %s fails: %s", self.lease.session, reason)
            self._conversation.tell(Failure(reason, fatal=True))
            self._stop(_Close("failed", reason, FAILED, failed=True))

    def _stop(self, closing: _Close) -> None:
        if self._closing is None:
            self._closing = closing
            self._conversation.close()
            self._outbox.finish()
            self._over.set()

    def _too_slow(self) -> None:
        self._stop(_Close("slow-client", "the client reads too slowly", TOO_SLOW, flush=False))

    async def _detach(self) -> None:
        if self._detached is None:
            reason = self._closing.reason if self._closing else ""
            self._detached = await self._attachment.detach(reason, DETACH_DEADLINE_MS)

    async def _dismiss(self, client: Client, writer: asyncio.Task[None]) -> None:
        assert self._closing is not None
        if self._closing.flush:
            await asyncio.wait({writer}, timeout=FLUSH_DEADLINE_S)
        writer.cancel()
        await asyncio.wait({writer})
        reason = self._closing.reason.encode()[:MAX_REASON_BYTES].decode(errors="ignore")
        await client.close(self._closing.code, reason)

    async def _write(self, client: Client) -> None:
        try:
            await self._outbox.write_to(client)
        except ClientGoneError:
            self._client_gone()

    async def _read(self, incoming: AsyncIterator[bytes | str]) -> None:
        async for data in incoming:
            self.take(data)
        self._client_gone()

    def take(self, data: bytes | str) -> None:
        """Take one message of the client's, in the order of their arrival. The session fails where that fails."""
        if self._closing is not None:
            return
        with about(self.lease.session):
            try:
                if self._intake.take(data):
                    self._look()
            except Exception as error:
                log.exception("session %s: a message of its client failed", self.lease.session)
                self.fail(f"internal error: {error_frame(error).text}")

    def _client_gone(self) -> None:
        """Never told to the client: there is nobody to tell."""
        self._outbox.discard()
        self._stop(_Close("client-gone", "the client is gone", CLOSED, flush=False))

    # -------------------------------------------------------------------------------------------------------- from stages

    def receive(self, peer: str, frame: Frame) -> None:
        """Take a frame that came from the actor ``peer``. Strangers and other epochs are ignored."""
        if self._elsewhere is not None and frame.epoch == self._elsewhere[0].epoch != self.lease.epoch:
            self._receive_elsewhere(peer, frame)
            return
        role = self._port.role_of(peer)
        if role is None or frame.epoch != self.lease.epoch:
            return
        if isinstance(frame, Attached | Refused | Detach):
            self._attachment.receive(frame, role)
        elif isinstance(frame, Credit):
            self._port.credited(peer, frame)
        elif self._closing is None:
            if isinstance(frame, Error):
                self.observer.error(frame.scope)
            if isinstance(frame, Error) and frame.scope in ("session", "cluster"):
                self.fail(frame.text)
            elif isinstance(frame, SessionEnd):
                self._last_turn = frame.turn
                self._leave("bot-ended", frame.reason or "The bot has ended the session.")
            else:
                self._conversation.receive(frame)
                self._look()

    def _receive_elsewhere(self, peer: str, frame: Frame) -> None:
        """From the group that it leaves, or comes to: only whether that has begun or ended concerns it."""
        assert self._elsewhere is not None
        port, attachment = self._elsewhere
        role = port.role_of(peer)
        if role is not None and isinstance(frame, Attached | Refused | Detach):
            attachment.receive(frame, role)

    def peer_down(self, peer: str, reason: str) -> bool:
        """The link to the actor ``peer`` is down. Says whether the session needed it; it fails then."""
        if self._elsewhere is not None and (gone := self._elsewhere[0].peer_down(peer)) in STAGES:
            assert gone is not None
            self._elsewhere[1].lost(gone, reason)
        role = self._port.peer_down(peer)
        if role not in STAGES or self._detached is not None:
            return False
        self._lost(role, reason)
        return True

    def _lost(self, role: Role, reason: str) -> None:
        self._attachment.lost(role, reason)
        self.fail(f"{role} is lost: {reason}")

    # ------------------------------------------------------------------------------------------------ when it ends by itself

    def _disconnect(self) -> None:
        """disconnect-bot came."""
        self._leave("disconnect-bot", "The client disconnected the bot.")

    def _leave(self, reason: str, text: str) -> None:
        """The bot finishes, then the session ends."""
        self._look()
        self._decide(Leave(reason, text))

    def _look(self) -> None:
        """Weigh the conversation as it is now, if it has changed."""
        conversation = self._conversation
        seen = Seen(
            ready=self._intake.ready,
            user=conversation.user_speaking,
            bot=conversation.bot_state != "silent",
            waiting=conversation.owes or not conversation.is_over(self._last_turn),
            texts=self._intake.texts,
        )
        if seen != self._seen:
            self._seen = seen
            self._decide(seen)

    def _decide(self, event: Event) -> None:
        if self._closing is not None:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for command in self._ending.handle(event, self._port.now_ms()):
            self._obey(command)

    def _obey(self, command: Command) -> None:
        match command:
            case Prompt(text=text):
                data = json.dumps({"text": text}).encode()
                self._port.send("llm", ClientMessage(id="", type="idle-prompt", data=data))
            case Warn(left_ms=left_ms, reason=reason):
                warning = {"type": "session-ending", "reason": reason, "ends_in_ms": left_ms}
                self._conversation.send(Message("server-message", warning))
            case Deafen():
                self._intake.deafen()
            case End(reason=reason, text=text):
                self._tell_end(reason, text)
                self._stop(_Close(reason, text if reason != "disconnect-bot" else reason, CLOSED))
            case WakeAt(at_ms=at_ms):
                self._timer = self._port.call_later(max(0, at_ms - self._port.now_ms()), lambda: self._decide(Tick()))

    def _tell_end(self, reason: str, text: str) -> None:
        """Say why it ends. To JavaScript clients any close is an error that names a number, so they get one that names the cause;
        but whoever asked for the end knows it.
        """
        self._conversation.send(Message("server-message", {"type": "session-ended", "reason": reason, "text": text}))
        if reason != "disconnect-bot":
            self._conversation.tell(Failure(text, fatal=True))

    def _cancelled(self) -> None:
        """The test that drives this session has ended it."""
        self._stop(_Close("cancelled", "cancelled by the client", CLOSED))

    def _bot_silent(self) -> None:
        # Not at once: the next answer may be opened by what is being handled now.
        self._port.call_later(0, self._look)

    # ---------------------------------------------------------------------------------------------------------- for people

    @property
    def failed(self) -> bool:
        """Whether it ended since it could not go on."""
        return self._closing is not None and self._closing.failed

    @property
    def cause(self) -> str:
        """Why it ended, in one of a few words; "" while it goes on."""
        return self._closing.cause if self._closing is not None else ""

    def counts(self) -> dict[str, int]:
        """What it has counted so far."""
        playout = self._conversation.playout
        return {
            "underruns": playout.underruns,
            "gap_ms": playout.gap_ms,
            "dropped_messages": self._intake.budget.dropped,
            "dropped_audio_windows": self._intake.microphone.dropped_windows,
        }

    @property
    def busy(self) -> bool:
        """Whether a turn is going on."""
        return self._conversation.busy

    def status(self) -> dict[str, Any]:
        """What a person wants to know of it, as builtins."""
        conversation = self._conversation
        return {
            "session": self.lease.session,
            "epoch": self.lease.epoch,
            "since": self.since,
            "turns": conversation.turns,
            "route": self.lease.route,
            "bot": conversation.bot_state,
            "figures": [
                {
                    "turn": figures.turn,
                    "total_ms": figures.total_ms,
                    "own_share_ms": figures.own_share_ms,
                    "segments_ms": figures.segments_ms,
                }
                for figures in conversation.figures
            ],
            **self.counts(),
            "waiting_bytes": self._outbox.waiting_bytes,
        }
