"""The edges of an app: as many as are configured, spread over the nodes, or one on each node; again when they die."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
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
        self._site = site
        self._table = table
        self._namespace = namespace
        self._on_lost = on_lost
        self._prefix = f"{site.config.app.name}/edge"
        self._members: dict[str, Member] = {}
        self._leaving: set[str] = set()

    def members(self) -> list[Member]:
        """All of them."""
        return list(self._members.values())

    def up(self) -> list[Member]:
        """Those that run."""
        return [edge for edge in self._members.values() if edge.running is not None]

    def _wanted(self) -> int:
        labels = self._site.config.edge.labels.items()
        takers = sum(not node.draining and labels <= node.labels.items() for node in self._site.placement.nodes)
        return self._site.config.scheduler.edges or max(1, takers)

    # ------------------------------------------------------------------------------------------------ start, keeping up

    async def start(self, pool: GroupPool) -> None:
        """Place and start those that are missing, one after the other: all at first, later one for each node that joined.

        Raises:
            PlacementError: there is no node for one.
            RtviActorsError: what keeps one from starting: a port in use.
        """
        # Imported here: the class lives beside Ray, and only the scheduler's process needs it.
        from rtvi_actors.edge.actor import EdgeActor

        while len(self._members) < self._wanted():
            number = next(number for number in range(self._wanted()) if f"{self._prefix}/{number}" not in self._members)
            edge = Member(f"{self._prefix}/{number}", EdgeActor)
            self._members[edge.name] = edge
            try:
                await self._start(edge, pool)
            except BaseException:
                del self._members[edge.name]
                raise

    async def _start(self, edge: Member, pool: GroupPool) -> None:
        site = self._site
        site.placement.forget(edge.name)
        placed = site.placement.place_edge(edge.name, site.config.edge.labels)
        port = self._port(edge, placed.node)
        site.starter.settle(edge, placed.node)
        config = site.config.replace(edge={"port": port}).to_dict()
        scheduler = f"{site.config.app.name}/scheduler"
        await site.starter.start(edge, edge.name, edge.path, edge.node[:8], config, scheduler, self._namespace)
        try:
            await pool.link(edge)
        except Exception as error:
            # It may have let somebody in at the groups that it has links to.
            await site.nodes.end_processes(edge.node, edge.processes, 0.0)
            self._gone(edge)
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
        others = [other for other in self._members.values() if other is not edge and other.node in self._site.nodes]
        taken = {other.facts.get("port") for other in others if self._site.nodes.host(other.node) == host}
        return first and next(port for port in range(first, first + len(self._members) + 1) if port not in taken)

    async def _watch(self, edge: Member, pool: GroupPool) -> None:
        if not await self._site.upkeep.until_gone(edge):
            return
        if edge.name not in self._leaving:
            log.error("%s died; its sessions are over; starting it again", edge.name)
        self._gone(edge)
        await self._site.upkeep.again(lambda: self._start_again(edge, pool), edge.name)

    def _gone(self, edge: Member) -> None:
        self._table.edge_gone(edge.name)
        for session in self._table.sessions_of_edge(edge.name):
            self._on_lost(session)
        kill(edge)

    async def _start_again(self, edge: Member, pool: GroupPool) -> None:
        """Start it, unless there is one for each node already: its own is gone or is being emptied."""
        if len(self._members) > self._wanted():
            self._site.placement.forget(edge.name)
            del self._members[edge.name]
        else:
            await self._start(edge, pool)

    # ---------------------------------------------------------------------------------------------------------- drain

    async def drain(self, timeout_s: float, deadline_s: float, node: str | None = None) -> None:
        """Tell all edges, or those of ``node``, that nobody is let in any more and sessions may go on for ``timeout_s``."""
        # One that is being started again has no sessions.
        edges = [edge for edge in self.up() if node in (None, edge.node)]
        self._leaving |= {edge.name for edge in edges}
        limit_ms = int(timeout_s * 1_000)
        told = [
            asyncio.ensure_future(as_coroutine(edge.handle.drain.remote(limit_ms))) for edge in edges if edge.handle is not None
        ]
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
            self._site.placement.forget(edge.name)

    async def stop(self) -> None:
        """Ask all edges to end their sessions; who does not answer is left to be killed."""
        await asyncio.gather(*(self._stop(edge) for edge in self._members.values()))

    async def _stop(self, edge: Member) -> None:
        if edge.handle is None:
            return
        await asyncio.wait([asyncio.ensure_future(as_coroutine(edge.handle.stop.remote(GRACE_S)))], timeout=STOP_DEADLINE_S)

    # ---------------------------------------------------------------------------------------------------------- asking

    def emptier_than(self, name: str) -> Member | None:
        """The edge with the fewest sessions, if it has a place, and ``name`` has more sessions or no place; else None."""
        sessions = Counter(place.edge for place in self._table.places())
        open_ = [edge for edge in self.up() if edge.name not in self._leaving and self._table.free_places(edge.name)]
        best = min(open_, key=lambda edge: (sessions[edge.name], edge.name != name), default=None)
        return None if best is None or best.name == name else best

    def numbered(self, number: str) -> Member | None:
        """The edge of that number, if it is up."""
        edge = self._members.get(f"{self._prefix}/{number}")
        return edge if edge is not None and edge.running is not None else None

    def url(self) -> str:
        """Address of the first edge, "" before it is up."""
        return next((str(edge.facts.get("url", "")) for edge in self._members.values()), "")

    def status(self) -> list[dict[str, Any]]:
        """Facts of all edges."""
        sessions = Counter(place.edge for place in self._table.places())
        return [
            facts("edge", edge)
            | {
                "sessions": sessions[edge.name],
                "leaving": edge.name in self._leaving,
                "why": self._site.placement.why(edge.name),
            }
            for edge in self._members.values()
        ]
