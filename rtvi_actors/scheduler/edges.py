"""The edges of an app: as many as are configured, spread over the nodes, again when they die."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import ray

from rtvi_actors.errors import RtviActorsError
from rtvi_actors.scheduler.admission import Admissions
from rtvi_actors.scheduler.group_pool import GroupPool
from rtvi_actors.scheduler.replicas import facts
from rtvi_actors.scheduler.upkeep import Site
from rtvi_actors.scheduler.warm_pool import Member, as_coroutine, kill

log = logging.getLogger(__name__)

STOP_DEADLINE_S = 4.0
GRACE_S = 2.0
MOVE_MARGIN_S = 10.0
"""What a move takes at most, once it has begun."""
END_MS = 10_000
"""Until the end of a session that cannot move."""


class Edges:
    """``on_lost(session)`` is called for each session of an edge that died."""

    def __init__(self, site: Site, table: Admissions, namespace: str, on_lost: Callable[[str], None]) -> None:
        # Imported here: the class lives beside Ray, and only the scheduler's process needs it.
        from rtvi_actors.edge.actor import EdgeActor

        self._site = site
        self._table = table
        self._namespace = namespace
        self._on_lost = on_lost
        app = site.config.app.name
        self._scheduler = f"{app}/scheduler"
        self._members = [Member(f"{app}/edge/{number}", EdgeActor) for number in range(site.config.scheduler.edges)]
        self._leaving: set[str] = set()

    def members(self) -> list[Member]:
        """All of them."""
        return self._members

    def up(self) -> list[Member]:
        """Those that run."""
        return [edge for edge in self._members if edge.running is not None]

    async def start(self, pool: GroupPool) -> None:
        """Place and start all, one after the other.

        Raises:
            PlacementError: there is no node for one.
            RtviActorsError: what keeps one from starting: a port in use.
        """
        for edge in self._members:
            await self._start(edge, pool)

    async def _start(self, edge: Member, pool: GroupPool) -> None:
        site, app = self._site, self._site.config.app.name
        site.placement.forget(edge.name)
        placed = {found.name: found for found in site.placement.place_edges(len(self._members), f"{app}/edge")}[edge.name]
        port = self._port(edge, placed.node)
        site.starter.settle(edge, placed.node)
        config = site.config.replace(edge={"port": port}).to_dict()
        await site.starter.start(edge, edge.name, edge.path, edge.node[:8], config, self._scheduler, self._namespace)
        try:
            await pool.link(edge)
        except (ray.exceptions.RayError, TimeoutError) as error:
            await site.nodes.end_processes(edge.node, edge.processes, 0.0)
            kill(edge)
            raise RtviActorsError(f"{edge.name} has no links: {error}") from error
        self._leaving.discard(edge.name)
        site.upkeep.spawn(self._watch(edge, pool), f"watch {edge.name}")

    def _port(self, edge: Member, node: str) -> int:
        """The first edge of a host listens on the configured port, the next one on the port behind it.

        One that comes back on its node takes the port that its clients know. 0 is any.
        """
        if edge.node == node and "port" in edge.facts:
            return int(edge.facts["port"])
        first, host = self._site.config.edge.port, self._site.nodes.host(node)
        others = [other for other in self._members if other is not edge and other.node in self._site.nodes]
        taken = {other.facts.get("port") for other in others if self._site.nodes.host(other.node) == host}
        return first and next(port for port in range(first, first + len(self._members) + 1) if port not in taken)

    async def _watch(self, edge: Member, pool: GroupPool) -> None:
        if not await self._site.upkeep.until_gone(edge):
            return
        if edge.name not in self._leaving:
            log.error("%s died; its sessions are over; starting it again", edge.name)
        self._table.edge_gone(edge.name)
        for session in self._table.sessions_of_edge(edge.name):
            self._on_lost(session)
        kill(edge)
        await self._site.upkeep.again(lambda: self._start(edge, pool), edge.name)

    async def drain(self, timeout_s: float, deadline_s: float, node: str | None = None) -> None:
        """Tell all edges, or those of ``node``, that nobody is let in any more and sessions may go on for ``timeout_s``."""
        # One that is being started again has no sessions.
        edges = [edge for edge in self.up() if node in (None, edge.node)]
        self._leaving |= {edge.name for edge in edges}
        told = [asyncio.ensure_future(as_coroutine(edge.handle.drain.remote(int(timeout_s * 1_000)))) for edge in edges]
        if told:
            await asyncio.wait(told, timeout=deadline_s)

    async def move(self, sessions: list[str], deadline_s: float) -> None:
        """Have ``sessions`` go on at other stage groups; who does not within ``deadline_s`` is ended, 10 s after it was told."""
        at = {place.session: place.edge for place in self._table.places()}
        calls = []
        for edge in self.up():
            mine = [session for session in sessions if at.get(session) == edge.name]
            if mine and edge.name not in self._leaving:
                calls.append(self._move(edge, mine, deadline_s))
        await asyncio.gather(*calls)

    async def _move(self, edge: Member, sessions: list[str], deadline_s: float) -> None:
        try:
            left = await asyncio.wait_for(edge.handle.move.remote(sessions, deadline_s), deadline_s + MOVE_MARGIN_S)
            log.info("%d of %d sessions of %s have moved", len(sessions) - len(left), len(sessions), edge.name)
            if left:
                await asyncio.wait_for(edge.handle.end_some.remote(left, END_MS), MOVE_MARGIN_S)
        except (ray.exceptions.RayError, TimeoutError) as error:
            log.warning("the sessions of %s were not moved: %s", edge.name, error or "it does not answer")

    async def leave(self, node: str) -> None:
        """End the edges of ``node``, which is being emptied; their watchers start them on other nodes."""
        for edge in [edge for edge in self.up() if edge.node == node]:
            log.info("moving %s away from node %s", edge.name, node[:8])
            await self._stop(edge)
            await self._site.nodes.end_processes(node, edge.processes, 0.0)

    async def stop(self) -> None:
        """Ask all edges to end their sessions, one after the other; who does not answer is left to be killed."""
        for edge in self._members:
            if edge.handle is not None:
                await self._stop(edge)

    async def _stop(self, edge: Member) -> None:
        await asyncio.wait([asyncio.ensure_future(as_coroutine(edge.handle.stop.remote(GRACE_S)))], timeout=STOP_DEADLINE_S)

    def url(self) -> str:
        """Address of the first edge, "" before it is up."""
        return str(self._members[0].facts.get("url", ""))

    def status(self) -> list[dict[str, Any]]:
        """Facts of all edges."""
        sessions = [place.edge for place in self._table.places()]
        return [
            facts("edge", edge)
            | {
                "sessions": sessions.count(edge.name),
                "leaving": edge.name in self._leaving,
                "why": self._site.placement.why(edge.name),
            }
            for edge in self._members
        ]
