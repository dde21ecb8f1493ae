"""One link between two processes: two stream sockets, ``control`` and ``data``, each carrying frames in both directions.

A :class:`Connection` is one socket. It is read and written directly, not through a transport of the event loop: a heartbeat
thread must be able to write to it while the loop is blocked, and what waits in user space must be ours to drop. It never stops
reading once its link is up. What the socket does not take waits in an ``Outbox``.

A :class:`Link` is a joined pair of them and the numbers that are reported about it.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import threading
import time
from collections.abc import Callable
from typing import Literal

from rtvi_actors.errors import FrameDecodeError, ProtocolError, VersionError
from rtvi_actors.frames.codec import FrameDecoder, encode
from rtvi_actors.frames.types import VERSION, Audio, Frame, Hello, Lane, Ping
from rtvi_actors.runtime.clocks import PeerClock
from rtvi_actors.runtime.mailbox import Outbox
from rtvi_actors.runtime.network import Socket

log = logging.getLogger(__name__)

READ_BYTES = 256 * 1024
"""Most that is read in one go; one buffer of it serves all connections of a loop."""
BATCH_BYTES = 64 * 1024
"""Frames of one turn of the loop are written together, up to this."""
_BATCHES_A_TURN = 16

OverflowCallback = Callable[[str, str], None]
"""Called with a session and what overflowed, from inside ``send``."""


class Connection:
    """One connected socket that carries frames. All methods but :meth:`ping` belong to the event loop's thread.

    At first only one frame is read, for :meth:`hello`; what follows waits for :meth:`start`.

    Attributes:
        remote: the peer is on another node, with a clock of its own.
        heard_ping: when the peer sent its last ping, on its clock, and when it came; for the heartbeat's thread.
    """

    def __init__(self, sock: Socket, read_buffer: memoryview, *, remote: bool = False) -> None:
        sock.setblocking(False)
        self.remote = remote
        self.heard_ping = (0, 0)
        # Which lane it is, only the hello says; until then nothing but our own hello is sent.
        self.outbox = Outbox("control")
        self.last_heard_ns = time.monotonic_ns()
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        self._read_buffer = read_buffer
        self._decoder = FrameDecoder()
        self._first: asyncio.Future[Hello] = self._loop.create_future()
        self._early: list[Frame] = []
        self._on_frame: Callable[[Frame], None] | None = None
        self._on_closed: Callable[[str], None] | None = None
        self._batch: list[bytes] = []
        self._batch_bytes = 0
        self._writer_armed = False
        # Shared with the heartbeat's thread, under the lock: the socket's writing side and what it has not taken.
        self._lock = threading.Lock()
        self._pending = bytearray()
        self._closed = False
        self._loop.add_reader(sock, self._on_readable)

    @property
    def unknown_frames(self) -> int:
        """Frames of kinds that are not in the table, skipped."""
        return self._decoder.unknown_frames

    @property
    def closed(self) -> bool:
        """Whether it is closed, by whatever side."""
        return self._closed

    async def hello(self) -> Hello:
        """The peer's first frame. The caller sets the deadline.

        Raises:
            ProtocolError: it is no Hello, or of another version; or the stream is malformed.
            ConnectionError: the connection closed before.
        """
        hello = await self._first
        if hello.version != VERSION:
            raise VersionError(f"{hello.name} (pid {hello.pid}) speaks version {hello.version} of the links, we {VERSION}")
        return hello

    def start(self, lane: Lane, on_frame: Callable[[Frame], None], on_closed: Callable[[str], None]) -> None:
        """Deliver frames from now on, those that came behind the hello first; ``on_closed`` once, with the reason."""
        self.outbox = Outbox(lane)
        self.last_heard_ns = time.monotonic_ns()
        self._on_frame = on_frame
        self._on_closed = on_closed
        self._loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        if self._closed:
            return
        # Reading begins after the early frames, not before: uvloop polls sockets ahead of what was called soon.
        early, self._early = self._early, []
        self._deliver(early)
        if not self._closed:
            self._loop.add_reader(self._sock, self._on_readable)

    def send(self, data: bytes, session: str = "", audio_samples: int = 0) -> str | None:
        """Write ``data`` with what else is sent in this turn of the loop, in order; or let it wait (see ``Outbox.push``)."""
        if self._writer_armed:
            return self.outbox.push(session, data, audio_samples)
        self._batch.append(data)
        self._batch_bytes += len(data)
        if self._batch_bytes >= BATCH_BYTES:
            self.flush()
        elif len(self._batch) == 1:
            self._loop.call_soon(self.flush)
        return None

    def flush(self) -> None:
        """Write what this turn of the loop gathered."""
        if not self._batch:
            return
        data = b"".join(self._batch)
        self._batch.clear()
        self._batch_bytes = 0
        with self._lock:
            self._write(data)
            blocked = bool(self._pending)
        if blocked:
            self._arm_writer()

    def ping(self, data: bytes) -> None:
        """Write ``data`` from any thread, unless older bytes still wait for the peer: they prove as much as a ping."""
        with self._lock:
            self._write(b"" if self._pending else data)
            blocked = bool(self._pending) and not self._closed
        if blocked:
            # The loop may have closed meanwhile; then nothing is left to write for.
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._arm_writer)

    def close(self, reason: str) -> None:
        """Write what the socket takes at once, and close. Harmless when it is closed."""
        if self._closed:
            return
        self.flush()
        self._loop.remove_reader(self._sock)
        if self._writer_armed:
            self._loop.remove_writer(self._sock)
        with self._lock:
            self._closed = True
            self._pending.clear()
            self._sock.close()
        if not self._first.done():
            self._first.set_exception(ConnectionError(reason))
            self._first.exception()  # Nobody may be waiting for it.
        if self._on_closed is not None:
            self._on_closed(reason)

    # ------------------------------------------------------------------------------------------------------- reading

    def _on_readable(self) -> None:
        try:
            size = self._sock.recv_into(self._read_buffer)
        except (BlockingIOError, InterruptedError):
            return
        except ConnectionResetError:
            # The peer closed with bytes of ours unread.
            self.close("closed")
            return
        except OSError as error:
            self.close(f"broken: {error.strerror or error}")
            return
        if not size:
            self.close("closed")
            return
        self.last_heard_ns = time.monotonic_ns()
        try:
            frames = self._decoder.feed(self._read_buffer[:size])
        except FrameDecodeError as error:
            self.close(f"malformed: {error}")
            return
        if self._on_frame is None:
            self._take_first(frames)
        else:
            self._deliver(frames)

    def _take_first(self, frames: list[Frame]) -> None:
        if not frames:
            return
        self._loop.remove_reader(self._sock)
        if self._first.done():
            return
        self._early = frames[1:]
        if isinstance(frames[0], Hello):
            self._first.set_result(frames[0])
        else:
            self._first.set_exception(ProtocolError(f"the first frame is {type(frames[0]).__name__}, not Hello"))
            self._first.exception()

    def _deliver(self, frames: list[Frame]) -> None:
        assert self._on_frame is not None
        for frame in frames:
            if self._closed:
                return
            self._on_frame(frame)

    # ------------------------------------------------------------------------------------------------------- writing

    def _write(self, data: bytes) -> None:
        """Write what the socket takes of the pending bytes and ``data``; the rest is pending. Under the lock."""
        if self._closed:
            return
        if self._pending:
            self._pending += data
            sent = self._send(self._pending)
            del self._pending[:sent]
        elif data:
            sent = self._send(data)
            if sent < len(data):
                self._pending += memoryview(data)[sent:]

    def _send(self, data: bytes | bytearray) -> int:
        try:
            return self._sock.send(data)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError:
            # The peer is gone; the reading side sees it too and closes, with the reason.
            return len(data)

    def _arm_writer(self) -> None:
        if self._closed or self._writer_armed:
            return
        self._writer_armed = True
        # Frames sent from here on go to the outbox: those gathered before must not fall behind them.
        self.flush()
        self._loop.add_writer(self._sock, self._on_writable)

    def _on_writable(self) -> None:
        for _ in range(_BATCHES_A_TURN):
            with self._lock:
                self._write(b"" if self._pending else b"".join(self.outbox.pop(BATCH_BYTES)))
                blocked = bool(self._pending)
            if blocked:
                return
            if not self.outbox:
                self._writer_armed = False
                self._loop.remove_writer(self._sock)
                return


class Link:
    """Two joined connections to one peer.

    Attributes:
        peer: the peer's Hello.
        frames_in: frames received, pings not counted.
        frames_out: frames sent or waiting to be.
        peer_lag_ms: how late the peer's event loop ran, by its last ping.
        clock: the peer's, where it is on another node.
    """

    def __init__(
        self,
        peer: Hello,
        control: Connection,
        data: Connection,
        on_frame: Callable[[str, Frame], None],
        on_down: Callable[[Link, str], None],
    ) -> None:
        self.peer = peer
        self.control = control
        self.data = data
        self.frames_in = 0
        self.frames_out = 0
        self.peer_lag_ms = 0
        self.clock = PeerClock() if control.remote else None
        self.state: Literal["up", "down"] = "up"
        self._on_frame = on_frame
        self._on_down = on_down
        self._last_ping_ns = time.monotonic_ns()
        self._heard_ns = 0
        self._silent_ticks = 0

    def start(self) -> None:
        """Begin to deliver frames."""
        self.control.start("control", self._receive, self.close)
        self.data.start("data", self._receive, self.close)

    def send(self, frame: Frame, on_overflow: OverflowCallback) -> bool:
        """Send ``frame`` on its lane, stamped with the time. False when what waits for its session overflowed.

        Raises:
            ValueError: the frame cannot be encoded.
        """
        encoded = encode(frame, time.monotonic_ns())
        if frame.LANE == "control":
            overflow = self.control.send(encoded, frame.session)
        else:
            samples = len(frame.pcm) // 2 if isinstance(frame, Audio) else 0
            overflow = self.data.send(encoded, frame.session, samples)
        if overflow is not None:
            on_overflow(frame.session, f"{overflow} for {self.peer.name}")
            return False
        self.frames_out += 1
        return True

    def tick(self) -> int:
        """Called at every tick of the heartbeat. In how many of them in a row nothing had been heard of the peer."""
        heard_ns = max(self.control.last_heard_ns, self.data.last_heard_ns)
        self._silent_ticks = self._silent_ticks + 1 if heard_ns == self._heard_ns else 0
        self._heard_ns = heard_ns
        return self._silent_ticks

    def ping_age_ms(self) -> float:
        """Time since the last ping of the peer was read, or since the link came up."""
        return (time.monotonic_ns() - self._last_ping_ns) / 1e6

    def close(self, reason: str) -> None:
        """Close both connections and say so, once."""
        if self.state == "down":
            return
        self.state = "down"
        self.control.close(reason)
        self.data.close(reason)
        self._on_down(self, reason)

    def _take_ping(self, ping: Ping) -> None:
        now_ns = self._last_ping_ns = time.monotonic_ns()
        self.peer_lag_ms = ping.loop_lag_ms
        if self.clock is not None:
            self.clock.ping(ping.sent_ns, ping.echo_ns, ping.held_ns, now_ns)
            self.control.heard_ping = (ping.sent_ns, now_ns)

    def _receive(self, frame: Frame) -> None:
        if type(frame) is Ping:
            self._take_ping(frame)
            return
        self.frames_in += 1
        if self.clock is not None:
            frame = dataclasses.replace(frame, sent_ns=self.clock.ours_ns(frame.sent_ns, time.monotonic_ns()))
        try:
            self._on_frame(self.peer.name, frame)
        except Exception:
            log.exception("a %s frame of session %r from %s", type(frame).__name__, frame.session, self.peer.name)
