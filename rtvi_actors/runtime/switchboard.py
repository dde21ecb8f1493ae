"""All links of one process: the sockets that others dial, the peers that it dials itself, and the watch over them."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from rtvi_actors.errors import RtviActorsError
from rtvi_actors.frames.codec import FrameEncoder
from rtvi_actors.frames.types import Frame, Hello, Ping
from rtvi_actors.observe.figures import Figures
from rtvi_actors.runtime.connector import Connector, check_path
from rtvi_actors.runtime.heartbeat import Heartbeat
from rtvi_actors.runtime.link import Connection, Link
from rtvi_actors.runtime.network import Network

log = logging.getLogger(__name__)

REDIAL_S = 0.25
AUDIO_RATE_HZ = 16_000
"""Of the user's audio, the only one that links drop."""
SILENT_TICKS = 10
"""A peer of which nothing, not even a heartbeat, was heard in so many ticks of our own (100 ms each) is dead.

Not so many milliseconds: while the whole machine was paused or starved, this process did not tick either, and the peers that come
back with it get their time to beat again.
"""


@dataclass(frozen=True, slots=True)
class PeerStats:
    """What is known about one connected peer. ``waiting_*``: what its sockets have not taken yet."""

    pid: int
    node: str
    frames_in: int
    frames_out: int
    dropped_frames: int
    dropped_samples: int
    unknown_frames: int
    waiting_frames: int
    waiting_bytes: int
    ping_age_ms: int
    loop_lag_ms: int
    round_trip_us: int
    """To a peer on another node and back, the shortest of late; 0 on the same node, or before it is known."""


class Switchboard:
    """The links of the process ``name``. All methods belong to the event loop's thread.

    ``path``: the Unix socket to listen on; its folder is made, or must be, 0700. ``network``: how other nodes are reached, and
    reach this process; without it, they do not. ``on_frame(peer, frame)`` gets every frame, in
    order per peer and lane. ``on_peer(peer, up, reason)`` is told when a link comes up and when it is gone; a new link of the
    same name (a restarted process) ends the older one first. ``on_overflow(session, reason)``: too much waits for a peer,
    frames of the session are lost and it must end; it is called from inside :meth:`send`.

    Attributes:
        address: where peers on other nodes dial, ``HOST:PORT``; "" without a network, and before :meth:`open`.
        unsent_frames: frames that were given to :meth:`send` for a peer without a link.
    """

    def __init__(
        self,
        name: str,
        path: str,
        *,
        node: str,
        on_frame: Callable[[str, Frame], None],
        on_peer: Callable[[str, bool, str], None],
        on_overflow: Callable[[str, str], None] | None = None,
        network: Network | None = None,
    ) -> None:
        self.name = name
        self.path = path
        self.address = ""
        self.unsent_frames = 0
        self._on_frame = on_frame
        self._on_peer = on_peer
        self._on_overflow = on_overflow or self._log_overflow
        self._connector = Connector(name, node, self._add_link, network)
        self._links: dict[str, Link] = {}
        self._dials: dict[str, asyncio.Task[None]] = {}
        self._dialled: dict[str, str] = {}
        """Peer -> where it is to be dialled ..."""
        self._linked_at: dict[str, str] = {}
        """... and where its link was dialled, if it was from here."""
        self._ended_dials: set[asyncio.Task[None]] = set()
        self._waiters: set[asyncio.Event] = set()
        # Replaced as a whole, never changed: the heartbeat's thread walks over it.
        self._pinged: tuple[Connection, ...] = ()
        self._ping_encoder = FrameEncoder()
        self._heartbeat: Heartbeat | None = None
        self._dropped_samples = 0
        """Of links that are gone."""
        self._closing = False

    async def open(self) -> None:
        """Listen, and begin to beat. A socket file left at the path by a dead process is replaced.

        Raises:
            ConfigError: the path is too long, taken by something else, or in a folder that others may enter; or no port is free.
        """
        self.address = self._connector.listen(self.path)
        self._heartbeat = Heartbeat(self.name, on_tick=self._drop_silent, on_beat=self._ping_all)

    async def close(self) -> None:
        """Close all links, after writing what their sockets take at once. ``on_peer`` is not called any more.

        Nothing is left: no task, thread, descriptor or socket file. Harmless when it is closed.
        """
        self._closing = True
        if self._heartbeat is not None:
            self._heartbeat.stop()
        for peer in list(self._dials):
            self._stop_dialling(peer)
        await asyncio.gather(*self._ended_dials, return_exceptions=True)
        await self._connector.close()
        for link in list(self._links.values()):
            link.close("switchboard closed")

    @property
    def loop_lag_ms(self) -> int:
        """How late this process's event loop runs."""
        return self._heartbeat.lag_ms() if self._heartbeat is not None else 0

    def figures(self) -> Figures:
        """What the scheduler is told of the loop, at its worst since the last call, and of the links."""
        links = [_stats(link) for link in self._links.values()]
        dropped_samples = self._dropped_samples + sum(link.dropped_samples for link in links)
        return {
            "loop_lag_s": self._heartbeat.take_worst_ms() / 1_000 if self._heartbeat is not None else 0.0,
            "stalls": self._heartbeat.stalls if self._heartbeat is not None else 0,
            "links": len(links),
            "link_waiting_bytes": sum(link.waiting_bytes for link in links),
            "link_dropped_s": dropped_samples / AUDIO_RATE_HZ,
            "links_refused": self._connector.refused,
        }

    # --------------------------------------------------------------------------------------------------------- peers

    def dial(self, peer: str, where: str) -> None:
        """Keep a link to ``peer``, which listens at the path or HOST:PORT ``where``, until :meth:`undial`; dial again if it goes.

        One that was dialled elsewhere before keeps that link until the new one is up.

        Raises:
            ConfigError: no socket can have this path.
        """
        if where.startswith("/"):
            check_path(where)
        self._stop_dialling(peer)
        self._dialled[peer] = where
        self._dials[peer] = asyncio.create_task(self._keep_dialled(peer, where), name=f"{self.name} dials {peer}")

    def undial(self, peer: str) -> None:
        """Stop dialling ``peer`` and close the link to it. Harmless when it was never dialled."""
        self._dialled.pop(peer, None)
        self._linked_at.pop(peer, None)
        if self._stop_dialling(peer) and peer in self._links:
            self._links[peer].close("undialled")

    def connected(self, peer: str) -> bool:
        """Whether there is a link to ``peer`` now."""
        return peer in self._links

    async def wait_connected(self, peers: Iterable[str], timeout_s: float) -> None:
        """Wait until there are links to all ``peers`` at once, to where they were dialled last.

        Raises:
            TimeoutError: there are not after ``timeout_s``; the text names those that are missing.
        """
        wanted = list(peers)
        changed = asyncio.Event()
        self._waiters.add(changed)
        try:
            async with asyncio.timeout(timeout_s):
                while not all(map(self._settled, wanted)):
                    changed.clear()
                    await changed.wait()
        except TimeoutError:
            missing = ", ".join(peer for peer in wanted if not self._settled(peer))
            raise TimeoutError(f"no link from {self.name} to {missing} within {timeout_s} s") from None
        finally:
            self._waiters.discard(changed)

    def peers(self) -> dict[str, PeerStats]:
        """The connected peers."""
        return {name: _stats(link) for name, link in self._links.items()}

    def _settled(self, peer: str) -> bool:
        """Whether the link to ``peer`` is up, and none to where it was before."""
        return peer in self._links and self._linked_at.get(peer) == self._dialled.get(peer)

    # ------------------------------------------------------------------------------------------------------- sending

    def send(self, peer: str, frame: Frame) -> bool:
        """Send ``frame`` in order behind what went to ``peer`` on its lane; ``sent_ns`` is set here. Never blocks.

        False when there is no link to ``peer``, or when too much waited for the frame's session (``on_overflow`` is told).

        Raises:
            ValueError: the frame's values do not fit its fields, or it is too large.
        """
        link = self._links.get(peer)
        if link is None:
            self.unsent_frames += 1
            return False
        return link.send(frame, self._on_overflow)

    def _log_overflow(self, session: str, reason: str) -> None:
        log.error("%s: session %r must end: %s", self.name, session, reason)

    # --------------------------------------------------------------------------------------------------------- links

    def _add_link(self, hello: Hello, control: Connection, data: Connection) -> None:
        older = self._links.get(hello.name)
        link = Link(hello, control, data, self._on_frame, self._remove_link)
        self._links[hello.name] = link
        self._links_changed()
        link.start()
        if older is not None:
            # The new one is there already: what the loss of the older one makes somebody send goes this way.
            older.close("replaced by a new link")
        self._tell_peer(hello.name, True, "connected")

    def _remove_link(self, link: Link, reason: str) -> None:
        if self._links.get(link.peer.name) is link:
            del self._links[link.peer.name]
        self._dropped_samples += _stats(link).dropped_samples
        self._links_changed()
        self._tell_peer(link.peer.name, False, reason)

    def _links_changed(self) -> None:
        self._pinged = tuple(link.control for link in self._links.values())
        for waiter in self._waiters:
            waiter.set()

    def _tell_peer(self, peer: str, up: bool, reason: str) -> None:
        if self._closing:
            return
        log.debug("%s: link to %s is %s: %s", self.name, peer, "up" if up else "down", reason)
        try:
            self._on_peer(peer, up, reason)
        except Exception:
            log.exception("%s: told that %s is %s", self.name, peer, "up" if up else "down")

    async def _keep_dialled(self, peer: str, where: str) -> None:
        told = ""
        while True:
            if not self._settled(peer):
                try:
                    pair = await self._connector.dial(peer, where)
                    self._linked_at[peer] = where
                    self._add_link(*pair)
                    told = ""
                except (FileNotFoundError, ConnectionRefusedError):
                    told = ""  # Not up yet, or restarting: no news.
                except (OSError, RtviActorsError) as error:
                    if str(error) != told:
                        log.warning("%s cannot reach %s at %s: %s", self.name, peer, where, error)
                    told = str(error)
            await asyncio.sleep(REDIAL_S)

    def _stop_dialling(self, peer: str) -> bool:
        task = self._dials.pop(peer, None)
        if task is None:
            return False
        self._ended_dials.add(task)
        task.add_done_callback(self._ended_dials.discard)
        task.cancel()
        return True

    # --------------------------------------------------------------------------------------------------------- watch

    def _ping_all(self, loop_lag_ms: int) -> None:
        """On the heartbeat's thread."""
        now_ns = time.monotonic_ns()
        data = self._ping_encoder.encode(Ping(loop_lag_ms), now_ns)
        for connection in self._pinged:
            connection.ping(self._echo(connection, loop_lag_ms, now_ns) if connection.remote else data)

    def _echo(self, connection: Connection, loop_lag_ms: int, now_ns: int) -> bytes:
        """A ping from which a peer on another node learns how far our clocks are apart."""
        sent_ns, came_ns = connection.heard_ping
        held_ns = max(0, now_ns - came_ns) if sent_ns else 0
        return self._ping_encoder.encode(Ping(loop_lag_ms, sent_ns, held_ns), now_ns)

    def _drop_silent(self) -> None:
        for link in list(self._links.values()):
            if link.tick() >= SILENT_TICKS:
                link.close("silent for 1 s")


def _stats(link: Link) -> PeerStats:
    outboxes = (link.control.outbox, link.data.outbox)
    return PeerStats(
        pid=link.peer.pid,
        node=link.peer.node,
        frames_in=link.frames_in,
        frames_out=link.frames_out,
        dropped_frames=sum(outbox.dropped_frames for outbox in outboxes),
        dropped_samples=sum(outbox.dropped_samples for outbox in outboxes),
        unknown_frames=link.control.unknown_frames + link.data.unknown_frames,
        waiting_frames=sum(map(len, outboxes)),
        waiting_bytes=sum(outbox.size_bytes for outbox in outboxes),
        ping_age_ms=int(link.ping_age_ms()),
        loop_lag_ms=link.peer_lag_ms,
        round_trip_us=(link.clock.round_trip_ns or 0) // 1_000 if link.clock is not None else 0,
    )
