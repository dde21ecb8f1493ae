"""The stage groups of an app: as many as the table wants are kept ready, and those that are over are ended."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import math
import time
from collections.abc import Callable, Iterable
from typing import Any

import ray

from rtvi_actors.errors import PlacementError, RtviActorsError
from rtvi_actors.scheduler.admission import Admissions
from rtvi_actors.scheduler.placement import GROUP_CPUS, GROUP_MEMORY_BYTES
from rtvi_actors.scheduler.replicas import Replicas, facts
from rtvi_actors.scheduler.scaling import Limits, Load, Scaling
from rtvi_actors.scheduler.upkeep import LONGEST_PAUSE_S, RESTART_PAUSE_S, Site
from rtvi_actors.scheduler.warm_pool import CONNECT_DEADLINE_S, Member, StageGroup

log = logging.getLogger(__name__)

QUIET_POLL_S = 0.1
ANSWER_DEADLINE_S = 1.0
"""For a stage actor of which an edge says that it is lost."""
EDGE_DEADLINE_S = 5.0
"""For an edge to answer a question about its sessions, or to let go of links."""
SESSION_CPUS = 0.015
"""Cores that a session in a shared group takes beside the processes' own: measured in silence by benchmarks/session_cost.py."""


class GroupPool:
    """``edges()``: the edges that are up. ``ready`` is set when the first group is, or when it cannot be: ``fault`` says why."""

    def __init__(self, site: Site, table: Admissions, replicas: Replicas, edges: Callable[[], list[Member]]) -> None:
        self.ready = asyncio.Event()
        self.fault: RtviActorsError | None = None
        self.paused = False
        """Nobody is admitted any more: none are started."""
        self.shortfall = ""
        """Why the last group that was to be started had no place on any node."""
        self._site = site
        self._table = table
        self._replicas = replicas
        self._edges = edges
        self._groups: dict[str, StageGroup] = {}
        self._numbers = itertools.count()
        scheduler = site.config.scheduler
        self._scaling = Scaling(Limits(least=scheduler.warm_groups, most=max(scheduler.warm_groups, scheduler.max_groups)))
        self._changed = asyncio.Event()

    # ----------------------------------------------------------------------------------------------------- keeping up

    def refill(self) -> None:
        """Look again whether groups are wanted."""
        self._changed.set()

    async def keep(self) -> None:
        """Keep as many groups as the table wants, one after the other, and never while a turn is being answered."""
        pause_s = RESTART_PAUSE_S
        while True:
            self._changed.clear()
            if self.paused or not self._table.wanted():
                await self._changed.wait()
                continue
            try:
                await self._wait_for_quiet()
                await self._start_one()
                pause_s = RESTART_PAUSE_S
            except Exception as error:
                # Whatever it is, the next one is tried: without groups nobody is let in.
                known = isinstance(error, RtviActorsError | ray.exceptions.RayError | TimeoutError)
                log.error("a stage group does not start: %s", error, exc_info=None if known else error)
                if not self.ready.is_set():
                    self.fault = error if isinstance(error, RtviActorsError) else RtviActorsError(str(error))
                    self.ready.set()
                    return
                await self._site.upkeep.pause(pause_s)
                pause_s = min(LONGEST_PAUSE_S, pause_s * 2)

    def bundles(self) -> list[dict[str, float]]:
        """What all groups need together, one more included, as Ray's autoscaler is told it."""
        return [{"CPU": 1.0}] * math.ceil((len(self._groups) + 1) * self._group_cpus())

    def _group_cpus(self) -> float:
        # Each of a shared group's sessions takes some more.
        return GROUP_CPUS + SESSION_CPUS * (self._site.config.scheduler.sessions_per_group - 1)

    def scale(self, now_ms: int) -> None:
        """Have more shared groups while most places are taken, fewer when few are. To be called every 2 s."""
        places = self._site.config.scheduler.sessions_per_group
        if places == 1 or self.paused or not self.ready.is_set():
            return
        groups = self._table.groups()
        open_ = [group for group in groups if group.state == "ready" and not group.closed]
        starting = sum(group.state == "starting" for group in groups)
        wanted = self._table.wanted()
        taken = sum(len(group.sessions) for group in open_)
        share = taken / (places * len(open_)) if open_ else 1.0
        load = Load(len(open_), starting + wanted, len(groups) - len(open_) - starting, share)
        decision = self._scaling.decide(load, now_ms)
        limits = self._scaling.limits
        self._table.shared_groups = max(limits.least, min(limits.most, self._table.shared_groups + decision))
        if decision > 0:
            log.info("%d of %d places are taken; starting %d groups", taken, places * len(open_), decision)
        for group in sorted(open_, key=lambda group: len(group.sessions))[: max(0, -decision)]:
            log.info("group %s is too many; it takes no more sessions", group.name)
            self.retire(self._table.group_draining(group.name), force=False)
        self.refill()

    async def _start_one(self) -> None:
        name = str(next(self._numbers))
        self._table.group_starting(name)
        group: StageGroup | None = None
        try:
            group = self._groups[name] = StageGroup(name, self._place(name), self._site.starter, self._site.nodes)
            await self._start(group)
        except BaseException:
            if group is not None:
                await group.end(force=True)
            self._forget(name)
            raise

    def _place(self, name: str) -> str:
        """A node for the group: that of the edge with the fewest groups beside it, if it has room.

        Raises:
            PlacementError: no node has room.
        """
        beside = [group.node for group in self._groups.values()]
        homes = [edge.node for edge in self._edges()]
        home = min(homes, key=beside.count, default=None)
        try:
            placed = self._site.placement.place_group(_key(name), home, self._group_cpus(), GROUP_MEMORY_BYTES)
        except PlacementError as error:
            self.shortfall = str(error)
            raise
        self.shortfall = ""
        return placed.node

    async def _start(self, group: StageGroup) -> None:
        engines = self._replicas.seen_from(group.node, up=True)
        await group.start(engines, self._replicas.seen_from(group.node, up=False))
        # An engine that came up meanwhile, perhaps elsewhere, was not told to a group that was not there yet.
        while (now := self._replicas.seen_from(group.node, up=True)) != engines:
            await group.redial_changed(engines, now)
            engines = now
        linked: set[str] = set()
        # One that is being started again links with the groups that are ready by then, or is found by the next look.
        while edges := [edge for edge in self._edges() if edge.name not in linked]:
            for edge in edges:
                linked.add(edge.name)
                if edge.handle is not None:  # it has not died while another one was linked
                    await asyncio.wait_for(edge.handle.connect.remote(group.seen_from(edge.node)), CONNECT_DEADLINE_S)
        for member in group.members.values():
            self._site.upkeep.spawn(self._watch(group.name, member), f"watch {member.name}")
        self._table.group_ready(group.name, linked)
        self.ready.set()

    async def _wait_for_quiet(self) -> None:
        """Processes start between turns: four of them take the cores from a live answer for seconds. Bounded.

        Sessions that are to leave a node do not wait for it.
        """
        deadline = time.monotonic() + self._site.config.scheduler.refill_wait_ms / 1_000
        while self._table.places() and not self._table.leaving and time.monotonic() < deadline:
            busy = 0
            for edge in self._edges():
                if edge.handle is not None:
                    with contextlib.suppress(ray.exceptions.RayError, TimeoutError):
                        busy += int(await asyncio.wait_for(edge.handle.busy_turns.remote(), EDGE_DEADLINE_S))
            if not busy:
                return
            await asyncio.sleep(QUIET_POLL_S)

    async def _watch(self, group: str, member: Member) -> None:
        if await self._site.upkeep.until_gone(member) and (broken := self._table.group_broken(group)):
            log.error("%s died; its group is replaced", member.name)
            self.retire(broken, force=True)

    # --------------------------------------------------------------------------------------------------------- linking

    async def link(self, edge: Member) -> None:
        """Link an edge that has just started with all groups that are ready.

        Raises:
            RayError, TimeoutError: it died, or does not answer.
        """
        for name in self._table.ready_groups():
            if name not in self._groups:
                continue
            where = self._groups[name].seen_from(edge.node)
            try:
                await asyncio.wait_for(edge.handle.connect.remote(where), CONNECT_DEADLINE_S)
            except (ray.exceptions.RayError, TimeoutError):
                if name in self._table.ready_groups():
                    raise
            else:
                self._table.group_linked(name, edge.name)

    async def redial(self, engine: Member) -> None:
        """Tell the groups where an engine is now that was started again. One that does not answer is found by its watcher."""
        calls = [group.redial(engine) for group in self._groups.values() if self._is_up(group)]
        for fault in await asyncio.gather(*calls, return_exceptions=True):
            if fault is not None:
                log.warning("a group was not told where %s is: %s", engine.name, fault)

    async def undial(self, engine: Member) -> None:
        """Have nobody dial an engine any more that will not come back."""
        calls = [group.undial(engine) for group in self._groups.values() if self._is_up(group)]
        await asyncio.gather(*calls, return_exceptions=True)

    @staticmethod
    def _is_up(group: StageGroup) -> bool:
        return all(member.running is not None for member in group.members.values())

    def lost(self, actor: str, reason: str) -> None:
        """An edge lost its link to a stage actor that was not meant to end: dead or frozen, its group is replaced."""
        for name, group in self._groups.items():
            for member in group.members.values():
                if member.name == actor:
                    self._site.upkeep.spawn(self._look_at(name, member, reason), f"look at {actor}")

    async def _look_at(self, group: str, member: Member, reason: str) -> None:
        """Replace the group, unless the actor answers: then it was the edge that was paused, or the network between them."""
        if member.handle is not None:
            with contextlib.suppress(ray.exceptions.RayError, TimeoutError):
                await asyncio.wait_for(member.handle.ping.remote(), ANSWER_DEADLINE_S)
                log.warning("an edge lost %s: %s; it answers, and stays", member.name, reason)
                return
        log.warning("lost %s: %s", member.name, reason)
        self.retire(self._table.group_broken(group), force=True)

    # ---------------------------------------------------------------------------------------------------------- ending

    def leave(self, node: str) -> None:
        """The groups of ``node`` let nobody in any more; those without sessions end now, the others with their last session."""
        for name, group in list(self._groups.items()):
            if group.node == node:
                self.retire(self._table.group_draining(name), force=False)
        self.refill()

    def retire(self, name: str | None, *, force: bool) -> None:
        """End the group in the background, if there is one to end."""
        if name is not None:
            self._site.upkeep.spawn(self._end(name, force=force), f"end group {name}")

    async def _end(self, name: str, *, force: bool) -> None:
        group = self._groups.get(name)
        if group is None:
            return  # it was being started, and that has failed meanwhile
        names = [member.name for member in group.members.values()]
        for edge in self._edges():
            if edge.handle is not None:
                with contextlib.suppress(ray.exceptions.RayError, TimeoutError):
                    await asyncio.wait_for(edge.handle.disconnect.remote(names), EDGE_DEADLINE_S)
        try:
            await group.end(force=force)
        finally:
            self._forget(name)
            self.refill()

    def _forget(self, name: str) -> None:
        self._groups.pop(name, None)
        self._site.placement.forget(_key(name))
        for session in self._table.group_gone(name):
            self._replicas.give_back(session)

    async def stop(self) -> None:
        """End all groups, at once."""
        await asyncio.gather(*(group.end(force=True) for group in self._groups.values()), return_exceptions=True)
        self._groups.clear()

    # --------------------------------------------------------------------------------------------------------- telling

    def __getitem__(self, name: str) -> StageGroup:
        return self._groups[name]

    def members(self) -> Iterable[Member]:
        """The stage actors of all groups."""
        return [member for group in self._groups.values() for member in group.members.values()]

    def sessions_on(self, node: str) -> list[str]:
        """The sessions whose groups are on ``node``."""
        return [place.session for place in self._table.places() if (group := self._groups.get(place.group)) and group.node == node]

    def actors_of(self, name: str) -> dict[str, Any]:
        """Role -> facts of the four actors of a group; none if it is gone."""
        group = self._groups.get(name)
        return {} if group is None else {role: facts(role, member) for role, member in group.members.items()}

    def status(self) -> list[dict[str, Any]]:
        """All groups."""
        return [
            {
                "name": group.name,
                "state": group.state,
                "sessions": len(group.sessions),
                "node": self._groups[group.name].node[:8] if group.name in self._groups else "",
                "why": self._site.placement.why(_key(group.name)),
            }
            for group in self._table.groups()
        ]


def _key(name: str) -> str:
    """The group's name among all that is placed."""
    return f"group/{name}"
