"""The Ray actors of a stage group: SpeakingActor, SttActor, LlmActor, TtsActor.

They are plain classes here; whoever starts them decorates them with ``ray.remote``. Each is one process with a switchboard and the
sessions of one role. Ray calls only start, link, ask and stop them: frames travel on the links.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time
from typing import Any

from rtvi_actors.config import Config
from rtvi_actors.errors import SessionLostError
from rtvi_actors.frames.types import Frame
from rtvi_actors.observe.figures import Figures
from rtvi_actors.runtime import process
from rtvi_actors.runtime.network import Network
from rtvi_actors.runtime.stage_host import SessionHost
from rtvi_actors.runtime.switchboard import Switchboard

log = logging.getLogger(__name__)

CONNECT_DEADLINE_S = 10.0
QUIET_DEADLINE_S = 5.0
"""An answer that goes on for longer than this, or others that begin all the time, do not hold up the change to another engine."""
QUIET_POLL_S = 0.01


class StageActor:
    """Hosts up to ``limit`` sessions of ``role``. ``name`` is the actor's on the links, ``path`` its Unix socket.

    ``network``: its way to other nodes. ``host_class``: ``module:Class`` of the StageHost; ``config``: ``Config.to_dict()``.
    Everything happens in :meth:`start`, so that an error reaches whoever calls it as what it is.
    """

    def __init__(
        self,
        role: str,
        name: str,
        path: str,
        node: str,
        host_class: str,
        config: dict[str, Any],
        limit: int,
        network: Network | None = None,
    ) -> None:
        self._role = role
        self._name = name
        self._path = path
        self._node = node
        self._host_class = host_class
        self._config = config
        self._network = network
        self._limit = limit
        self._stopped = asyncio.Event()
        self._host: SessionHost | None = None
        self._switchboard: Switchboard | None = None

    async def start(self) -> dict[str, Any]:
        """Import the stage, load what its sessions share, listen. Returns ``{pid, started_at, node, name, path, address}``.

        Raises:
            ConfigError: the host class or the configuration cannot be used.
            ModelMissingError: the stage needs a model that is not prepared.
        """
        config = Config.from_dict(self._config)
        process.set_up(self._name, config)
        process.limit_threads(1)
        stages = process.load_class(self._host_class, f"stage of {self._role}")(config)
        switchboard = Switchboard(
            self._name,
            self._path,
            node=self._node,
            on_frame=self._on_frame,
            on_peer=self._on_peer,
            on_overflow=self._on_overflow,
            network=self._network,
        )
        deadline_ms = config.scheduler.attach_deadline_ms
        self._host = SessionHost(self._role, stages, switchboard, limit=self._limit, open_deadline_ms=deadline_ms)
        try:
            await switchboard.open()
        except BaseException:
            await self._host.close("it did not start")
            raise
        self._switchboard = switchboard
        log.debug("listening on %s", self._path)
        return process.identity() | {
            "node": self._node,
            "name": self._name,
            "path": self._path,
            "address": switchboard.address,
        }

    async def connect(
        self, peers: dict[str, str], spares: dict[str, str] | None = None, deadline_s: float = CONNECT_DEADLINE_S
    ) -> None:
        """Dial ``peers`` and ``spares`` (name -> path or HOST:PORT) and wait until all links to ``peers`` are up.

        Raises:
            SessionLostError: not all of them answered in time. Dialling goes on.
        """
        switchboard = self._open_switchboard()
        for name, path in {**peers, **(spares or {})}.items():
            switchboard.dial(name, path)
        try:
            await switchboard.wait_connected(list(peers), deadline_s)
        except TimeoutError as error:
            raise SessionLostError(str(error)) from None

    async def redial(self, peer: str, where: str) -> None:
        """The engine ``peer`` runs at ``where`` now: change over when nothing is asked of it, or after 5 s, and wait for the link.

        Raises:
            SessionLostError: it does not answer there in time. Dialling goes on.
        """
        deadline_s = time.monotonic() + QUIET_DEADLINE_S
        while self._host is not None and self._host.open_requests and time.monotonic() < deadline_s:
            await asyncio.sleep(QUIET_POLL_S)
        await self.connect({peer: where})

    async def undial(self, peer: str) -> None:
        """Dial ``peer`` no more, and close the link to it."""
        self._open_switchboard().undial(peer)

    async def sessions(self) -> list[dict[str, Any]]:
        """The sessions hosted now."""
        return [] if self._host is None else self._host.sessions()

    async def stats(self) -> dict[str, Any]:
        """Counters of the sessions, the links' figures and how late the event loop runs."""
        switchboard = self._open_switchboard()
        counters = {} if self._host is None else self._host.stats()
        peers = {name: dataclasses.asdict(peer) for name, peer in switchboard.peers().items()}
        return {**counters, "peers": peers, "loop_lag_ms": switchboard.loop_lag_ms}

    async def ping(self) -> Figures:
        """Answer, which only a process whose event loop runs can: with what is to be told of it."""
        links = {} if self._switchboard is None else self._switchboard.figures()
        return process.usage() | links | ({} if self._host is None else self._host.figures())

    async def set_niceness(self, niceness: int) -> int:
        """Set the niceness of the whole process; returns what it is now (lowering it needs a privilege)."""
        return process.set_niceness(niceness)

    async def run_until_stopped(self) -> None:
        """Returns at :meth:`stop`. Its reference fails within milliseconds when the process dies."""
        await self._stopped.wait()

    async def stop(self) -> None:
        """End all sessions, close the links and leave. The caller sees ``ActorDiedError`` (an intended exit) when it is done."""
        await self.shut_down()
        process.leave_actor()

    async def shut_down(self) -> None:
        """What :meth:`stop` does before the process ends."""
        if self._host is not None:
            await self._host.close("the actor is stopped")
        if self._switchboard is not None:
            await self._switchboard.close()
        self._host = self._switchboard = None
        self._stopped.set()

    def _open_switchboard(self) -> Switchboard:
        if self._switchboard is None:
            raise SessionLostError(f"{self._name} is not started, or stopped")
        return self._switchboard

    def _on_frame(self, peer: str, frame: Frame) -> None:
        if self._host is not None:
            self._host.on_frame(peer, frame)

    def _on_peer(self, peer: str, up: bool, reason: str) -> None:
        if self._host is not None:
            self._host.on_peer(peer, up, reason)

    def _on_overflow(self, session: str, reason: str) -> None:
        if self._host is not None:
            self._host.on_overflow(session, reason)


class SpeakingActor(StageActor):
    """Decides who has the floor."""


class SttActor(StageActor):
    """Makes text of what the user says."""


class LlmActor(StageActor):
    """Makes the answer."""


class TtsActor(StageActor):
    """Makes speech of the answer."""
