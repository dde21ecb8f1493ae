"""The Ray actor around an edge: one process with a web server, links to all stage groups, and the sessions of its clients.

A plain class; whoever starts it decorates it with ``ray.remote``. Ray calls start, link, ask and stop it, and it asks the scheduler
for places through Ray; frames travel on the links.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from typing import Any

from rtvi_actors.config import Config
from rtvi_actors.edge import app
from rtvi_actors.edge.scheduler_client import SchedulerClient
from rtvi_actors.edge.session import Wanted
from rtvi_actors.edge.sessions import Sessions
from rtvi_actors.errors import CapacityError, SessionLostError
from rtvi_actors.frames.types import Frame
from rtvi_actors.observe.figures import Figures
from rtvi_actors.runtime import process
from rtvi_actors.runtime.network import Network
from rtvi_actors.runtime.switchboard import Switchboard

log = logging.getLogger(__name__)

CONNECT_DEADLINE_S = 10.0
SERVER_STOP_S = 4.0


class EdgeActor:
    """Serves clients. ``name`` is the actor's on the links, ``path`` its Unix socket, ``node`` the node it runs on.

    ``config``: ``Config.to_dict()``, with the port of this edge; ``scheduler`` and ``namespace``: where places are asked for.
    Everything happens in :meth:`start`, so that an error reaches whoever calls it as what it is.
    """

    def __init__(
        self,
        name: str,
        path: str,
        node: str,
        config: dict[str, Any],
        scheduler: str,
        namespace: str,
        network: Network | None = None,
    ) -> None:
        self._name = name
        self._path = path
        self._node = node
        self._config = config
        self._network = network
        self._admission = SchedulerClient(scheduler, namespace, name)
        self._stopped = asyncio.Event()
        self._sessions: Sessions | None = None
        self._switchboard: Switchboard | None = None
        self._server: app.Server | None = None
        self._serving: asyncio.Task[None] | None = None

    async def start(self) -> dict[str, Any]:
        """Take the port, listen for links, serve. Returns ``{pid, started_at, node, name, path, address, host, port, url}``.

        Raises:
            ConfigError: the port is in use, or the configuration cannot be used.
        """
        config = Config.from_dict(self._config)
        process.set_up(self._name, config)
        process.limit_threads(1)
        listener = app.bind(config.edge.host, config.edge.port)
        port = listener.getsockname()[1]
        switchboard = Switchboard(
            self._name,
            self._path,
            node=self._node,
            on_frame=self._on_frame,
            on_peer=self._on_peer,
            on_overflow=self._on_overflow,
            network=self._network,
        )
        try:
            await switchboard.open()
        except BaseException:
            listener.close()
            raise
        self._switchboard = switchboard
        number = self._name.rpartition("/")[2]
        self._sessions = Sessions(config, self._admission, switchboard, self._admission.report_lost, number)
        self._server = app.Server(app.build(self._sessions, config), config.edge)
        self._serving = asyncio.create_task(self._server.serve(sockets=[listener]), name="web server")
        self._serving.add_done_callback(self._served)
        host = config.edge.host
        if host in ("0.0.0.0", "::") and self._network is not None:
            host = self._network.host  # the node's: where it listens is no address for a client on another host
        url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        log.info("serving at %s", url)
        return process.identity() | {
            "node": self._node,
            "name": self._name,
            "path": self._path,
            "address": switchboard.address,
            "host": host,
            "port": port,
            "url": url,
        }

    async def connect(self, peers: dict[str, str]) -> None:
        """Dial the stage actors ``peers`` (name -> path or HOST:PORT) and wait until all links are up, 10 s at most.

        Raises:
            SessionLostError: not all of them answered in time. They are not dialled any more.
        """
        switchboard = self._open_switchboard()
        for name, path in peers.items():
            switchboard.dial(name, path)
        try:
            await switchboard.wait_connected(list(peers), CONNECT_DEADLINE_S)
        except TimeoutError as error:
            await self.disconnect(list(peers))
            raise SessionLostError(str(error)) from None

    async def disconnect(self, names: list[str]) -> None:
        """Close the links to these actors: their group ends. Sessions that still use them end too."""
        switchboard = self._open_switchboard()
        for name in names:
            switchboard.undial(name)

    async def sessions(self) -> list[dict[str, Any]]:
        """The sessions served now, with the figures of their last turns."""
        return [] if self._sessions is None else self._sessions.status()

    async def busy_turns(self) -> int:
        """In how many sessions somebody speaks or is waited for."""
        return 0 if self._sessions is None else self._sessions.busy_turns

    async def drain(self, timeout_ms: int) -> None:
        """Let nobody in who has no place yet. Sessions may go on for ``timeout_ms``, then the bot finishes and they end."""
        if self._sessions is not None:
            self._sessions.drain(timeout_ms)

    async def reserve(self, bot: str, body: bytes) -> str | None:
        """A token for a client that asked another edge; None where there is no place."""
        try:
            return None if self._sessions is None else await self._sessions.reserve(Wanted(bot, body))
        except CapacityError:
            return None

    async def give_up(self, token: str) -> dict[str, Any] | None:
        """The session and the wishes of a client that came to another edge with the token of this one."""
        found = None if self._sessions is None else self._sessions.give_up(token)
        return None if found is None else {"session": found[0].session, "bot": found[1].bot, "body": found[1].body}

    async def move(self, sessions: list[str], deadline_s: float) -> list[str]:
        """Have these sessions go on at other stage groups; returns those that do not after ``deadline_s``."""
        return [] if self._sessions is None else await self._sessions.move(sessions, deadline_s)

    async def end_some(self, sessions: list[str], timeout_ms: int) -> None:
        """These sessions may go on for ``timeout_ms``; 10 s before, their clients are told."""
        if self._sessions is not None:
            self._sessions.end_some(sessions, timeout_ms)

    async def stats(self) -> dict[str, Any]:
        """Counters of the sessions, the links' figures and how late the event loop runs."""
        switchboard = self._open_switchboard()
        counters = {} if self._sessions is None else self._sessions.stats()
        peers = {name: dataclasses.asdict(figures) for name, figures in switchboard.peers().items()}
        return {**counters, "peers": peers, "loop_lag_ms": switchboard.loop_lag_ms}

    async def ping(self) -> Figures:
        """Answer, which only a process whose event loop runs can: with what is to be told of it."""
        return process.usage() | ({} if self._switchboard is None else self._switchboard.figures())

    async def run_until_stopped(self) -> None:
        """Returns at :meth:`stop`. Its reference fails within milliseconds when the process dies."""
        await self._stopped.wait()

    async def stop(self, grace_s: float = 2.0) -> None:
        """End all sessions, ``grace_s`` for them to give everything back, and leave. The caller sees ``ActorDiedError``."""
        await self.shut_down(grace_s)
        process.leave_actor()

    async def shut_down(self, grace_s: float) -> None:
        """What :meth:`stop` does before the process ends."""
        if self._sessions is not None:
            await self._sessions.stop(grace_s)
        if self._server is not None and self._serving is not None:
            self._server.should_exit = True
            await asyncio.wait({self._serving}, timeout=SERVER_STOP_S)
            self._serving.cancel()
        await self._admission.close()
        if self._switchboard is not None:
            await self._switchboard.close()
        self._sessions = self._switchboard = self._server = self._serving = None
        self._stopped.set()

    def _served(self, serving: asyncio.Task[None]) -> None:
        if not serving.cancelled() and (error := serving.exception()) is not None:
            log.error("the web server failed; this edge leaves", exc_info=error)
            self._stopped.set()

    def _open_switchboard(self) -> Switchboard:
        if self._switchboard is None:
            raise SessionLostError(f"{self._name} is not started, or stopped")
        return self._switchboard

    def _on_frame(self, peer: str, frame: Frame) -> None:
        if self._sessions is not None:
            self._sessions.on_frame(peer, frame)

    def _on_peer(self, peer: str, up: bool, reason: str) -> None:
        if self._sessions is not None:
            self._sessions.on_peer(peer, up, reason)

    def _on_overflow(self, session: str, reason: str) -> None:
        if self._sessions is not None:
            self._sessions.on_overflow(session, reason)
