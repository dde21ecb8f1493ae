"""The scheduler: a named Ray actor that starts engines, edges and stage groups, gives out places, and replaces what dies.

It runs on one event loop; ``admission`` holds the table of places, ``placement`` that of the nodes, both pure; ``replicas``,
``edges`` and ``group_pool`` carry out what they decide. The path of a client that connects is one call, :meth:`Scheduler.admit`,
which only looks at the table.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray

from rtvi_actors.config import Config
from rtvi_actors.edge.sessions import RESERVED_S
from rtvi_actors.errors import CapacityError, ConfigError
from rtvi_actors.observe.figures import Figures, RoleFigures
from rtvi_actors.runtime import process
from rtvi_actors.runtime.heartbeat import Heartbeat
from rtvi_actors.scheduler import replicas
from rtvi_actors.scheduler.admission import Admissions, Place
from rtvi_actors.scheduler.edges import Edges
from rtvi_actors.scheduler.group_pool import GroupPool
from rtvi_actors.scheduler.nodes import NodeFacts, Nodes
from rtvi_actors.scheduler.placement import Device, Node, Placement, check
from rtvi_actors.scheduler.replicas import Replicas
from rtvi_actors.scheduler.upkeep import Site, Upkeep
from rtvi_actors.scheduler.warm_pool import Member, Starter, kill

log = logging.getLogger(__name__)

HEALTH_PERIOD_S = 2.0
HEALTH_DEADLINE_S = 5.0
"""An actor that does not answer for this long is killed and replaced. Links find a frozen one sooner, while it has a session."""
EDGE_DEADLINE_S = 1.0
"""For an edge to answer another one's question: less than an edge waits for the scheduler."""
DRAIN_POLL_S = 0.1
MOVE_DEADLINE_S = 30.0
"""How long a session that is to move may talk without a pause between two turns; then its client is told that it ends."""
GROUP_START_S = 5.0
"""... and how much longer for each: with own groups, one is started for each session that moves."""
GPU_MEMORY_LABEL = "rtvi-gpu-memory-gb"
"""Label of a node that says how much memory each of its GPUs has; without it, the driver is asked."""
UNKNOWN_DEVICE_BYTES = 10**15
"""Memory of a GPU of which nobody knows it: only shares count there."""


class Scheduler:
    """See the module. All methods are coroutines on the actor's one event loop, so the tables need no lock.

    ``several``: the app may use all nodes of the cluster, not only the scheduler's.
    """

    def __init__(self, config: dict[str, Any], folder: str, namespace: str, several: bool = False) -> None:
        self._config = Config.from_dict(config)
        self._name = f"{self._config.app.name}/scheduler"
        process.set_up(self._name, self._config)
        self._nodes = Nodes(self._config, namespace, Path(folder), several=several)
        self._placement = Placement()
        starter = Starter(self._config, namespace, self._nodes)
        self._upkeep = Upkeep()
        site = Site(self._config, self._nodes, self._placement, starter, self._upkeep)
        self._table = Admissions(self._config.scheduler)
        self._replicas = Replicas(site, self._engine_up, self._engine_gone)
        self._edges = Edges(site, self._table, namespace, lambda session: self._give_back(session, clean=False))
        self._pool = GroupPool(site, self._table, self._replicas, self._edges.up)
        self._draining = False
        self._drained: set[str] = set()
        """Nodes of which Ray said that it drains them."""
        self._lacking = False
        """The autoscaler was asked for nodes."""
        self._stopped = asyncio.Event()
        self._figures = RoleFigures()
        self._watch: Heartbeat | None = None

    # --------------------------------------------------------------------------------------------------- start, stop

    async def start(self) -> dict[str, Any]:
        """Start engines, edges and the first stage group; return when the first session can be admitted.

        Returns:
            ``{"url": the first edge's address, "edges": [...]}``.

        Raises:
            PlacementError: the engines do not fit on the nodes; says what is missing. Nothing was started.
            RtviActorsError: whatever keeps it from starting, as the actor concerned raised it. Nothing is left then.
        """
        try:
            await self._look_at_nodes()
            check(replicas.needs(self._config), self._placement.nodes)
            async with asyncio.TaskGroup() as tasks:
                # The edges first: a port in use should be told before a model is loaded.
                tasks.create_task(self._edges.start(self._pool), name="start edges")
                for member in self._replicas.members():
                    tasks.create_task(self._replicas.start(member), name=f"start {member.name}")
            self._upkeep.spawn(self._pool.keep(), "keep pool")
            await self._pool.ready.wait()
            if self._pool.fault is not None:
                raise self._pool.fault
        except BaseException as error:
            await self.stop()
            if isinstance(error, BaseExceptionGroup):
                raise error.exceptions[0] from None
            raise
        # Not before: starting imports modules here, which nobody waits for.
        self._watch = Heartbeat(self._name, on_tick=_nothing, on_beat=_nothing)
        self._upkeep.spawn(self._check_health(), "check health")
        return {"url": self._edges.url(), "edges": [edge.facts for edge in self._edges.members()]}

    async def drain(self, timeout_s: float) -> int:
        """Admit nobody more and wait until all sessions are over. They may go on for ``timeout_s``, then their bots finish.

        Returns:
            how many are left: those of an edge that does not answer. The app goes on; :meth:`stop` ends it. May be repeated.
        """
        await self._pool.ready.wait()
        self._draining = self._pool.paused = True
        log.info("draining: %d sessions may go on for %g s", len(self._table.places()), timeout_s)
        await self._edges.drain(timeout_s, HEALTH_DEADLINE_S)
        await self._until(lambda: not self._table.places(), drain_limit_s(self._config, timeout_s))
        return len(self._table.places())

    async def drain_node(self, node: str, timeout_s: float) -> dict[str, Any]:
        """Empty ``node`` (its address, or the beginning of its id): nothing new comes to it, and what is there goes elsewhere.

        Sessions may end by themselves for ``timeout_s``. Then those whose edge is on another node go on at another stage group,
        with their context, each when nobody speaks; those whose edge is on the node are told 10 s before their end. Engines and
        edges are started on other nodes. May be repeated; returns when the node is empty.

        Returns:
            what is left there: ``{sessions: their number, actors: [names]}``, engines for instance that fit nowhere else.

        Raises:
            ConfigError: there is no such node, or it is the scheduler's, or the only one.
        """
        found = self._find(node)
        log.info("draining node %s (%s)", found.id[:8], found.address)
        self._placement.node_draining(found.id)
        self._replicas.leaving(found.id)
        self._pool.leave(found.id)
        await self._edges.drain(timeout_s, HEALTH_DEADLINE_S, found.id)
        # At once: models take long to load, and the sessions' time may be all that there is.
        engines = asyncio.create_task(self._replicas.leave(found.id), name=f"move engines from {found.id[:8]}")
        await self._until(lambda: not self._table_on(found.id), timeout_s)
        moving = self._pool.sessions_on(found.id)
        await self._edges.move(moving, MOVE_DEADLINE_S + GROUP_START_S * len(moving))
        await self._until(lambda: not self._table_on(found.id), drain_limit_s(self._config, 0.0))
        await self._edges.leave(found.id)
        await engines
        await self._until(lambda: not self._placement.names_on(found.id), HEALTH_DEADLINE_S)
        left = {"sessions": len(self._table_on(found.id)), "actors": self._placement.names_on(found.id)}
        log.info("node %s is drained; left there: %s", found.id[:8], left)
        return left

    def _table_on(self, node: str) -> list[str]:
        """The sessions of which the edge or the stage group is on ``node``."""
        edges = {edge.name for edge in self._edges.members() if edge.node == node}
        at_edges = [place.session for place in self._table.places() if place.edge in edges]
        return list({*self._pool.sessions_on(node), *at_edges})

    def _find(self, node: str) -> Node:
        nodes = self._placement.nodes
        found = [each for each in nodes if node and (each.id.startswith(node) or each.address == node)]
        known = ", ".join(f"{each.id[:8]} ({each.address})" for each in nodes)
        if len(found) != 1:
            raise ConfigError(f"{len(found)} nodes are meant by {node!r}; there are {known}")
        if found[0].id == self._nodes.here:
            raise ConfigError(f"node {node} is the scheduler's: only the whole app can be drained, with `rtvi-actors drain`")
        return found[0]

    async def _until(self, condition: Callable[[], bool], timeout_s: float) -> None:
        """Wait for ``condition``, ``timeout_s`` at most."""
        deadline = time.monotonic() + timeout_s
        while not condition() and time.monotonic() < deadline and not self._upkeep.stopping:
            await asyncio.sleep(DRAIN_POLL_S)

    async def stop(self) -> None:
        """End all sessions and processes. Returns when none is left; 10 s at most, then they are killed."""
        await self._upkeep.stop()
        members = [*self._edges.members(), *self._replicas.members()]
        await self._edges.stop()
        await self._pool.stop()
        by_node: dict[str, dict[int, float]] = {}
        for member in members:
            by_node.setdefault(member.node, {}).update(member.processes)
        await asyncio.gather(*(self._nodes.end_processes(node, processes, 0.0) for node, processes in by_node.items()))
        for member in members:
            kill(member)
        await self._nodes.stop()
        if self._watch is not None:
            self._watch.stop()
            self._watch = None
        self._stopped.set()

    async def run_until_stopped(self) -> None:
        """Returns when :meth:`stop` has ended everything. The reference fails at once if this process dies."""
        await self._stopped.wait()

    async def ping(self) -> None:
        """Answer, which only a process whose event loop runs can."""

    # ------------------------------------------------------------------------------------------------- what edges ask

    async def admit(self, edge: str) -> dict[str, Any]:
        """A place for one session of ``edge``: the lease's fields, or ``{"refused": detail, "retry_after_ms": n}``."""
        if self._upkeep.stopping:
            return {"refused": "the app is stopping", "retry_after_ms": 5_000}
        if self._draining:
            return {"refused": "the app is being drained", "retry_after_ms": 5_000}
        session = secrets.token_hex(8)
        try:
            place = self._table.admit(session, edge, _now_ms())
        except CapacityError as error:
            return {"refused": error.detail, "retry_after_ms": error.retry_after_ms}
        self._pool.refill()
        return self._lease(place)

    async def reserve(self, edge: str, bot: str, body: bytes) -> dict[str, Any] | None:
        """A place at another edge that has fewer sessions than ``edge``, which a client asked: ``{token, url}``, or None."""
        other = None if self._draining else self._edges.emptier_than(edge)
        if other is None:
            return None
        try:
            token = await asyncio.wait_for(other.handle.reserve.remote(bot, body), EDGE_DEADLINE_S)
        except (TimeoutError, ray.exceptions.RayError):
            return None
        return {"token": token, "url": other.facts["url"]} if token else None

    async def claim(self, token: str, edge: str) -> dict[str, Any] | None:
        """The place that another edge keeps for ``token``; it is ``edge``'s from now on. None: nobody knows the token."""
        keeper = self._edges.numbered(token.partition(".")[0])
        if keeper is None or keeper.name == edge:
            return None
        call = asyncio.ensure_future(_result(keeper.handle.give_up.remote(token)))
        await asyncio.wait({call}, timeout=EDGE_DEADLINE_S)
        if not call.done():
            self._upkeep.spawn(self._give_back_late(call), "give back a late claim")
            return None
        found = call.result()
        if found is None:
            return None
        place = self._table.hand_over(found["session"], edge)
        if place is None:
            self._give_back(found["session"], clean=True, used=False)
            return None
        return {**found, "lease": self._lease(place)}

    async def _give_back_late(self, call: asyncio.Future[dict[str, Any] | None]) -> None:
        if (found := await call) is not None:
            self._give_back(found["session"], clean=True, used=False)

    async def move(self, session: str) -> dict[str, Any]:
        """A second place for ``session``, as :meth:`admit` gives one; :meth:`moved` must follow."""
        try:
            place = self._table.move(session)
        except CapacityError as error:
            return {"refused": error.detail, "retry_after_ms": error.retry_after_ms}
        return self._lease(place)

    async def moved(self, session: str, done: bool) -> None:
        """``session`` goes on in its second place, or else in its first."""
        self._pool.retire(self._table.moved(session, done=done), force=False)
        self._pool.refill()

    def _lease(self, place: Place) -> dict[str, Any]:
        route = self._pool[place.group].route() | self._replicas.take(place.session)
        return {"session": place.session, "epoch": 1, "route": route, "bot": self._config.bot.class_}

    async def release(self, session: str, clean: bool, used: bool = True) -> None:
        """Give a place back. A group that may not be used again is ended."""
        self._give_back(session, clean=clean, used=used)

    def _give_back(self, session: str, *, clean: bool, used: bool = True) -> None:
        self._replicas.give_back(session)
        self._pool.retire(self._table.moved(session, done=True), force=not clean)
        self._pool.retire(self._table.release(session, clean=clean, used=used), force=not clean)

    async def report_lost(self, actor: str, reason: str) -> None:
        """An edge lost its link to a stage actor that was not meant to end: dead or frozen, its group is replaced."""
        self._pool.lost(actor, reason)

    async def ready(self, edge: str) -> bool:
        """Whether a session could be admitted through ``edge`` this moment."""
        return not self._upkeep.stopping and not self._draining and self._table.free_places(edge) > 0

    async def status(self) -> dict[str, Any]:
        """Everything a person wants to know: sessions with their actors, engines, edges, groups, nodes, capacity."""
        return {
            "app": self._config.app.name,
            "url": self._edges.url(),
            "node": self._nodes.here[:8],
            "draining": self._draining,
            "capacity": {
                "sessions": len(self._table.places()),
                "max_sessions": self._config.scheduler.max_sessions,
                "free": 0 if self._draining else self._table.free_places(),
                "granted": self._table.granted,
                "refused": self._table.refused,
            },
            "sessions": [self._session_status(place) for place in self._table.places()],
            "groups": self._pool.status(),
            "engines": self._replicas.status(),
            "edges": self._edges.status(),
            "nodes": [self._node_status(node) for node in self._placement.nodes],
            "pending": self._pending(),
            "figures": self._figures.by_role(),
        }

    def _pending(self) -> dict[str, str]:
        """What has no node -> why."""
        pending = {need.name: self._placement.why(need.name) for need in self._placement.pending}
        return pending | ({"a stage group": self._pool.shortfall} if self._pool.shortfall else {})

    def _session_status(self, place: Place) -> dict[str, Any]:
        return {
            "session": place.session,
            "edge": place.edge,
            "group": place.group,
            "age_s": round((_now_ms() - place.since_ms) / 1_000, 1),
            "actors": self._pool.actors_of(place.group),
        }

    def _node_status(self, node: Node) -> dict[str, Any]:
        return {
            "node": node.id[:8],
            "address": node.address,
            "cpus": node.cpus,
            "memory_bytes": node.memory_bytes,
            "gpus": len(node.devices),
            "labels": dict(node.labels),
            "draining": node.draining,
            "sessions": len(self._pool.sessions_on(node.id)),
            "actors": self._placement.names_on(node.id),
        }

    # ------------------------------------------------------------------------------------------------------- upkeep

    async def _engine_up(self, member: Member) -> None:
        await self._pool.redial(member)

    async def _engine_gone(self, member: Member) -> None:
        await self._pool.undial(member)

    async def _scale(self) -> None:
        """Have as many groups and engines as the load asks for, and ask Ray's autoscaler for nodes while something has none."""
        self._pool.scale(_now_ms())
        await self._replicas.scale(_now_ms())
        lacking = bool(self._pending())
        if lacking != self._lacking:
            self._lacking = lacking
            bundles = [*self._replicas.bundles(), *self._pool.bundles()] if lacking else []
            await self._nodes.ask_for(bundles)

    async def _look_at_nodes(self) -> None:
        """Take in nodes that joined, and let go of those that are gone: what ran there is started again by its watchers."""
        for facts in await self._nodes.look(self._node_gone):
            log.log(logging.INFO if self._nodes.several else logging.DEBUG, "node %s (%s) joined", facts.id[:8], facts.host)
            self._drained.discard(facts.id)
            if facts.resources.get("CPU"):
                self._placement.node_joined(_node(facts))
                self._joined()
        for node, left_s in (await self._nodes.draining()).items():
            if node not in self._drained and node != self._nodes.here:
                self._drained.add(node)
                # What is left then is for sessions to be moved.
                timeout_s = max(0.0, left_s - MOVE_DEADLINE_S)
                self._upkeep.spawn(self._obey_drain(node, timeout_s), f"drain node {node[:8]}")

    def _node_gone(self, node: str) -> None:
        log.error("node %s is gone, with %s", node[:8], ", ".join(self._placement.node_gone(node)) or "nothing of ours")

    def _joined(self) -> None:
        """There may be room for what had none, and on each node there may have to be an edge."""
        if self._pool.ready.is_set():
            self._upkeep.try_now()
            self._pool.refill()
            self._upkeep.spawn(self._upkeep.again(lambda: self._edges.start(self._pool), "an edge"), "start edges")

    async def _obey_drain(self, node: str, timeout_s: float) -> None:
        log.warning("Ray drains node %s", node[:8])
        await self.drain_node(node, timeout_s)

    async def _check_health(self) -> None:
        """Find what hangs without a session: Ray itself does not notice a stopped process."""
        while True:
            await asyncio.sleep(HEALTH_PERIOD_S)
            for look in (self._look_at_nodes, self._look_at_members, self._nodes.check, self._scale):
                try:
                    await look()
                except Exception:
                    # Ray's control store may be away for a while: the next look comes all the same.
                    log.exception("%s failed", look.__name__)

    async def _look_at_members(self) -> None:
        members = [*self._replicas.members(), *self._edges.members(), *self._pool.members()]
        self._figures.keep({self._name, *(member.name for member in members)})
        self._figures.report(self._name, "scheduler", self._own_figures())
        checks = [self._answers(member) for member in members if member.running is not None]
        for member, healthy in await asyncio.gather(*checks):
            if not healthy and member.pid:
                log.error("%s has not answered for %.0f s; killing it", member.name, HEALTH_DEADLINE_S)
                await self._nodes.end_processes(member.node, member.processes, 0.0)

    async def _answers(self, member: Member) -> tuple[Member, bool]:
        try:
            figures = await asyncio.wait_for(member.handle.ping.remote(), HEALTH_DEADLINE_S)
            self._figures.report(member.name, self._role(member.name), figures)
            self._replicas.count(member.name, figures, _now_ms())
        except TimeoutError:
            return member, False
        except (ray.exceptions.RayError, AttributeError):
            return member, True  # its watcher deals with a dead one
        return member, True

    def _role(self, name: str) -> str:
        """``engine/stt`` of ``app/engine/stt/0``."""
        return name.removeprefix(f"{self._config.app.name}/").rpartition("/")[0]

    def _own_figures(self) -> Figures:
        assert self._watch is not None
        return process.usage() | {"loop_lag_s": self._watch.take_worst_ms() / 1_000, "stalls": self._watch.stalls}


def drain_limit_s(config: Config, timeout_s: float) -> float:
    """How long a drain takes at most: bots finish, and places that were taken before are kept for their clients."""
    return timeout_s + config.session.finish_ms / 1_000 + RESERVED_S + HEALTH_DEADLINE_S


def _node(facts: NodeFacts) -> Node:
    """The node as placement sees it: what Ray counts, with the GPUs' memory by its label or by the driver."""
    count, label = int(facts.resources.get("GPU", 0)), facts.labels.get(GPU_MEMORY_LABEL, "")
    known = list(facts.device_memory_bytes[:count])
    if label:
        try:
            known = [int(float(label) * 1e9)] * count
        except (ValueError, OverflowError):
            log.error("node %s: label %s = %r is no number of GB; it does not count", facts.host, GPU_MEMORY_LABEL, label)
    sizes = known + [UNKNOWN_DEVICE_BYTES] * (count - len(known))
    devices = tuple(Device(index, size) for index, size in enumerate(sizes))
    cpus, memory_bytes = facts.resources.get("CPU", 0.0), int(facts.resources.get("memory", 0))
    return Node(facts.id, facts.host, cpus, memory_bytes, devices, dict(facts.labels))


async def _result(reference: Any) -> Any:
    """What an edge answers; None if it is gone."""
    try:
        return await reference
    except ray.exceptions.RayError:
        return None


def _nothing(*_: int) -> None:
    """For a heartbeat that nobody but the process itself wants: the scheduler has no links."""


def _now_ms() -> int:
    return int(time.monotonic() * 1_000)
