"""The scheduler: a named Ray actor that starts engines, edges and stage groups, gives out places, and replaces what dies.

It runs on one event loop; ``admission`` holds the table and decides, ``warm_pool`` makes and ends processes. The path of a client
that connects is one call, :meth:`Scheduler.admit`, which only looks at the table.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import secrets
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import ray

from rtvi_actors.config import Config
from rtvi_actors.edge.sessions import RESERVED_S
from rtvi_actors.errors import CapacityError, RtviActorsError
from rtvi_actors.observe.figures import Figures, RoleFigures
from rtvi_actors.runtime import process
from rtvi_actors.runtime.heartbeat import Heartbeat
from rtvi_actors.runtime.supervise import end_processes
from rtvi_actors.scheduler.admission import Admissions
from rtvi_actors.scheduler.shares import EngineShares
from rtvi_actors.scheduler.warm_pool import CONNECT_DEADLINE_S, Member, StageGroup, Starter, as_coroutine, kill

log = logging.getLogger(__name__)

HEALTH_PERIOD_S = 2.0
HEALTH_DEADLINE_S = 5.0
"""An actor that does not answer for this long is killed and replaced. Links find a frozen one sooner, while it has a session."""
RESTART_PAUSE_S = 1.0
QUIET_POLL_S = 0.1
DRAIN_POLL_S = 0.1

ENGINE_CLASSES = {"stt": "SttEngine", "llm": "LlmEngine", "tts": "TtsEngine"}


class Scheduler:
    """See the module. All methods are coroutines on the actor's one event loop, so the table needs no lock."""

    def __init__(self, config: dict[str, Any], folder: str, namespace: str) -> None:
        self._config = Config.from_dict(config)
        self._name = f"{self._config.app.name}/scheduler"
        process.set_up(self._name, self._config)
        self._namespace = namespace
        self._table = Admissions(self._config.scheduler)
        self._node = ray.get_runtime_context().get_node_id()[:8]
        self._starter = Starter(self._config, namespace, Path(folder), self._node)
        self._engines: dict[str, list[Member]] = {}
        """Kind -> its replicas."""
        self._shares = EngineShares()
        self._edges: dict[str, Member] = {}
        self._groups: dict[str, StageGroup] = {}
        self._group_numbers = itertools.count()
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = asyncio.Event()
        self._draining = False
        self._stopped = asyncio.Event()
        self._refill = asyncio.Event()
        self._first_ready = asyncio.Event()
        self._fault: RtviActorsError | None = None
        self._figures = RoleFigures()
        self._watch: Heartbeat | None = None

    # --------------------------------------------------------------------------------------------------- start, stop

    async def start(self) -> dict[str, Any]:
        """Start engines, edges and the first stage group; return when the first session can be admitted.

        Returns:
            ``{"url": the first edge's address, "edges": [...]}``.

        Raises:
            RtviActorsError: whatever keeps it from starting, as the actor concerned raised it. Nothing is left then.
        """
        try:
            async with asyncio.TaskGroup() as tasks:
                # The edge first: a port in use should be told before a model is loaded.
                tasks.create_task(self._start_edges(), name="start edges")
                for member in self._engine_members():
                    tasks.create_task(self._start_engine(member), name=f"start {member.name}")
            self._spawn(self._keep_pool(), "keep pool")
            await self._first_ready.wait()
            if self._fault is not None:
                raise self._fault
        except BaseException as error:
            await self.stop()
            if isinstance(error, BaseExceptionGroup):
                raise error.exceptions[0] from None
            raise
        # Not before: starting imports modules here, which nobody waits for.
        self._watch = Heartbeat(self._name, on_tick=_nothing, on_beat=_nothing)
        self._spawn(self._check_health(), "check health")
        return {"url": self._url(), "edges": [edge.facts for edge in self._edges.values()]}

    async def drain(self, timeout_s: float) -> int:
        """Admit nobody more and wait until all sessions are over. They may go on for ``timeout_s``, then their bots finish.

        Returns:
            how many are left: those of an edge that does not answer. The app goes on; :meth:`stop` ends it. May be repeated.
        """
        await self._first_ready.wait()
        self._draining = True
        log.info("draining: %d sessions may go on for %g s", len(self._table.places()), timeout_s)
        # One that is being started again has no sessions.
        up = [edge for edge in self._edges.values() if edge.running is not None]
        told = [asyncio.ensure_future(as_coroutine(edge.handle.drain.remote(int(timeout_s * 1_000)))) for edge in up]
        if told:
            await asyncio.wait(told, timeout=HEALTH_DEADLINE_S)
        deadline = time.monotonic() + drain_limit_s(self._config, timeout_s)
        while self._table.places() and time.monotonic() < deadline and not self._stopping.is_set():
            await asyncio.sleep(DRAIN_POLL_S)
        return len(self._table.places())

    async def stop(self) -> None:
        """End all sessions and processes. Returns when none is left; 10 s at most, then they are killed."""
        self._stopping.set()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        members = [*self._edges.values(), *self._replicas()]
        for edge in self._edges.values():
            if edge.handle is not None:
                await asyncio.wait([asyncio.ensure_future(as_coroutine(edge.handle.stop.remote(2.0)))], timeout=4.0)
        await asyncio.gather(*(group.end(force=True) for group in self._groups.values()), return_exceptions=True)
        pids = {member.pid: member.started_at for member in members if member.pid}
        await asyncio.to_thread(end_processes, pids, 0.0)
        for member in members:
            kill(member)
        self._edges.clear()
        self._engines.clear()
        self._groups.clear()
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
        if self._stopping.is_set():
            return {"refused": "the app is stopping", "retry_after_ms": 5_000}
        if self._draining:
            return {"refused": "the app is being drained", "retry_after_ms": 5_000}
        session = secrets.token_hex(8)
        try:
            place = self._table.admit(session, edge, _now_ms())
        except CapacityError as error:
            return {"refused": error.detail, "retry_after_ms": error.retry_after_ms}
        self._refill.set()
        up = {kind: {member.name: member.running is not None for member in members} for kind, members in self._engines.items()}
        asked = self._shares.take(session, up)
        route = self._groups[place.group].route() | {f"engine/{kind}": names for kind, names in asked.items()}
        return {"session": session, "epoch": 1, "route": route, "bot": self._config.bot.class_}

    async def release(self, session: str, clean: bool, used: bool = True) -> None:
        """Give a place back. A group that may not be used again is ended."""
        self._give_back(session, clean=clean, used=used)

    def _give_back(self, session: str, *, clean: bool, used: bool = True) -> None:
        self._shares.give_back(session)
        self._retire(self._table.release(session, clean=clean, used=used), force=not clean)

    async def report_lost(self, actor: str, reason: str) -> None:
        """An edge lost its link to a stage actor that was not meant to end: dead or frozen, its group is replaced."""
        for name, group in self._groups.items():
            if any(member.name == actor for member in group.members.values()):
                log.warning("lost %s: %s", actor, reason)
                self._retire(self._table.group_broken(name), force=True)

    async def ready(self, edge: str) -> bool:
        """Whether a session could be admitted through ``edge`` this moment."""
        return not self._stopping.is_set() and not self._draining and self._table.free_places(edge) > 0

    async def status(self) -> dict[str, Any]:
        """Everything a person wants to know: sessions with their actors, engines, edges, groups, capacity."""
        return {
            "app": self._config.app.name,
            "url": self._url(),
            "node": self._node,
            "draining": self._draining,
            "capacity": {
                "sessions": len(self._table.places()),
                "max_sessions": self._config.scheduler.max_sessions,
                "free": 0 if self._draining else self._table.free_places(),
                "granted": self._table.granted,
                "refused": self._table.refused,
            },
            "sessions": [self._session_status(place) for place in self._table.places()],
            "groups": [
                {"name": group.name, "state": group.state, "sessions": len(group.sessions)} for group in self._table.groups()
            ],
            "engines": self._engine_status(),
            "edges": [_facts("edge", member) for member in self._edges.values()],
            "figures": self._figures.by_role(),
        }

    def _engine_status(self) -> list[dict[str, Any]]:
        sessions = self._shares.counts()
        return [
            _facts(kind, member) | {"sessions": sessions[member.name]}
            for kind, members in sorted(self._engines.items())
            for member in members
        ]

    def _session_status(self, place: Any) -> dict[str, Any]:
        group = self._groups.get(place.group)
        actors = {} if group is None else {role: _facts(role, member) for role, member in group.members.items()}
        return {
            "session": place.session,
            "edge": place.edge,
            "group": place.group,
            "age_s": round((_now_ms() - place.since_ms) / 1_000, 1),
            "actors": actors,
        }

    def _url(self) -> str:
        return next((str(edge.facts.get("url", "")) for edge in self._edges.values()), "")

    # ------------------------------------------------------------------------------------------------ engines, edges

    def _engine_members(self) -> list[Member]:
        """As many of each kind as are configured, not started yet."""
        from rtvi_actors.engines import actor as engine_actor

        for kind, class_name in ENGINE_CLASSES.items():
            self._engines[kind] = [
                self._starter.member(f"{self._config.app.name}/engine/{kind}/{number}", getattr(engine_actor, class_name))
                for number in range(getattr(self._config, kind).replicas)
            ]
        return self._replicas()

    def _replicas(self) -> list[Member]:
        return [member for members in self._engines.values() for member in members]

    def _engine_paths(self, *, up: bool) -> dict[str, dict[str, str]]:
        """Role -> name -> path of those that are up, or of those that are not."""
        return {
            f"engine/{kind}": {member.name: member.path for member in members if (member.running is not None) == up}
            for kind, members in self._engines.items()
        }

    async def _start_engine(self, member: Member) -> None:
        kind = self._role(member.name).removeprefix("engine/")
        settings = getattr(self._config, kind)
        arguments = (kind, member.name, member.path, self._node, settings.backend, self._config.to_dict())
        await self._starter.start(member, *arguments, num_gpus=settings.num_gpus)
        self._spawn(self._watch_engine(member), f"watch {member.name}")

    async def _watch_engine(self, member: Member) -> None:
        """Start the engine again, under the same name and path, when its process dies: stages dial it again by themselves."""
        await _until_gone(member)
        if self._stopping.is_set():
            return
        log.error("engine %s died; starting it again", member.name)
        kill(member)
        kind = self._role(member.name).removeprefix("engine/")
        self._shares.lost(member.name, [other.name for other in self._engines[kind] if other.running is not None])
        await self._again(lambda: self._start_engine(member), member.name)

    async def _start_edges(self) -> None:
        for number in range(self._config.scheduler.edges):
            await self._start_edge(number)

    async def _start_edge(self, number: int) -> None:
        from rtvi_actors.edge.actor import EdgeActor

        name = f"{self._config.app.name}/edge/{number}"
        member = self._edges.get(name) or self._starter.member(name, EdgeActor)
        scheduler = f"{self._config.app.name}/scheduler"
        config = self._edge_config(number, member)
        await self._starter.start(member, name, member.path, self._node, config, scheduler, self._namespace)
        self._edges[name] = member
        for group in self._table.ready_groups():
            await asyncio.wait_for(member.handle.connect.remote(self._groups[group].addresses()), CONNECT_DEADLINE_S)
            self._table.group_linked(group, name)
        self._spawn(self._watch_edge(number, member), f"watch {name}")

    def _edge_config(self, number: int, member: Member) -> dict[str, Any]:
        """Edge n listens on port + n; one that comes back takes the port that its clients know."""
        port = int(member.facts.get("port", 0)) or (self._config.edge.port and self._config.edge.port + number)
        return self._config.replace(edge={"port": port}).to_dict()

    async def _watch_edge(self, number: int, member: Member) -> None:
        await _until_gone(member)
        if self._stopping.is_set():
            return
        log.error("%s died; its sessions are over; starting it again", member.name)
        self._table.edge_gone(member.name)
        for session in self._table.sessions_of_edge(member.name):
            self._give_back(session, clean=False)
        kill(member)
        await self._again(lambda: self._start_edge(number), member.name)

    async def _again(self, start: Any, name: str) -> None:
        """Call ``start`` until it succeeds, with a pause that doubles up to 30 s."""
        pause_s = RESTART_PAUSE_S
        while not self._stopping.is_set():
            try:
                await start()
                return
            except (RtviActorsError, ray.exceptions.RayError) as error:
                log.error("%s does not start: %s; trying again in %.0f s", name, error, pause_s)
                await asyncio.sleep(pause_s)
                pause_s = min(30.0, pause_s * 2)

    # ---------------------------------------------------------------------------------------------------------- groups

    async def _keep_pool(self) -> None:
        """Keep as many groups as the table wants, one after the other, and never while a turn is being answered."""
        pause_s = RESTART_PAUSE_S
        while True:
            self._refill.clear()
            if self._draining or not self._table.wanted():
                await self._refill.wait()
                continue
            await self._wait_for_quiet()
            name = str(next(self._group_numbers))
            group = self._groups[name] = StageGroup(name, self._starter)
            self._table.group_starting(name)
            try:
                await self._start_group(group)
                pause_s = RESTART_PAUSE_S
            except (RtviActorsError, ray.exceptions.RayError, TimeoutError) as error:
                await group.end(force=True)
                self._table.group_gone(name)
                self._groups.pop(name, None)
                log.error("stage group %s does not start: %s", name, error)
                if not self._first_ready.is_set():
                    self._fault = error if isinstance(error, RtviActorsError) else RtviActorsError(str(error))
                    self._first_ready.set()
                    return
                await asyncio.sleep(pause_s)
                pause_s = min(30.0, pause_s * 2)

    async def _start_group(self, group: StageGroup) -> None:
        await group.start(self._engine_paths(up=True), self._engine_paths(up=False))
        linked: set[str] = set()
        # One that is being started again links with the groups that are ready by then, or is found by the next look.
        while edges := [edge for edge in self._edges.values() if edge.running is not None and edge.name not in linked]:
            for edge in edges:
                await asyncio.wait_for(edge.handle.connect.remote(group.addresses()), CONNECT_DEADLINE_S)
                linked.add(edge.name)
        for member in group.members.values():
            self._spawn(self._watch_stage(group.name, member), f"watch {member.name}")
        self._table.group_ready(group.name, linked)
        self._first_ready.set()

    async def _wait_for_quiet(self) -> None:
        """Processes start between turns: four of them take the cores from a live answer for seconds. Bounded."""
        deadline = time.monotonic() + self._config.scheduler.refill_wait_ms / 1_000
        while self._table.places() and time.monotonic() < deadline:
            busy = 0
            for edge in self._edges.values():
                if edge.handle is not None:
                    with contextlib.suppress(ray.exceptions.RayError, TimeoutError):
                        busy += int(await asyncio.wait_for(edge.handle.busy_turns.remote(), HEALTH_DEADLINE_S))
            if not busy:
                return
            await asyncio.sleep(QUIET_POLL_S)

    async def _watch_stage(self, group: str, member: Member) -> None:
        await _until_gone(member)
        if not self._stopping.is_set() and (broken := self._table.group_broken(group)):
            log.error("%s died; its group is replaced", member.name)
            self._retire(broken, force=True)

    def _retire(self, name: str | None, *, force: bool) -> None:
        if name is not None:
            self._spawn(self._end_group(name, force=force), f"end group {name}")

    async def _end_group(self, name: str, *, force: bool) -> None:
        group = self._groups[name]
        names = list(group.addresses())
        for edge in self._edges.values():
            if edge.handle is not None:
                with contextlib.suppress(ray.exceptions.RayError, TimeoutError):
                    await asyncio.wait_for(edge.handle.disconnect.remote(names), HEALTH_DEADLINE_S)
        await group.end(force=force)
        self._groups.pop(name, None)
        for session in self._table.group_gone(name):
            self._shares.give_back(session)
        self._refill.set()

    async def _check_health(self) -> None:
        """Find what hangs without a session: Ray itself does not notice a stopped process."""
        while True:
            await asyncio.sleep(HEALTH_PERIOD_S)
            members = [*self._replicas(), *self._edges.values()]
            members += [member for group in self._groups.values() for member in group.members.values()]
            self._figures.keep({self._name, *(member.name for member in members)})
            self._figures.report(self._name, "scheduler", self._own_figures())
            checks = [self._answers(member) for member in members if member.running is not None]
            for member, healthy in await asyncio.gather(*checks):
                if not healthy and member.pid:
                    log.error("%s has not answered for %.0f s; killing it", member.name, HEALTH_DEADLINE_S)
                    await asyncio.to_thread(end_processes, {member.pid: member.started_at}, 0.0)

    async def _answers(self, member: Member) -> tuple[Member, bool]:
        try:
            figures = await asyncio.wait_for(member.handle.ping.remote(), HEALTH_DEADLINE_S)
            self._figures.report(member.name, self._role(member.name), figures)
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

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("%s failed", task.get_name(), exc_info=error)


def drain_limit_s(config: Config, timeout_s: float) -> float:
    """How long a drain takes at most: bots finish, and places that were taken before are kept for their clients."""
    return timeout_s + config.session.finish_ms / 1_000 + RESERVED_S + HEALTH_DEADLINE_S


async def _until_gone(member: Member) -> None:
    """Return when the actor's process has ended, however."""
    with contextlib.suppress(ray.exceptions.RayError):
        await member.running


def _facts(kind: str, member: Member) -> dict[str, Any]:
    state = "starting" if member.running is None else "up"
    facts = {"kind": kind, "name": member.name, "state": state, "pid": member.pid, **member.facts}
    if member.handle is not None:
        facts["actor_id"] = member.handle._actor_id.hex()
    return facts


def _nothing(*_: int) -> None:
    """For a heartbeat that nobody but the process itself wants: the scheduler has no links."""


def _now_ms() -> int:
    return int(time.monotonic() * 1_000)
