"""The engines of an app: as many replicas of each kind as are configured, where ``placement`` puts them, again when they die."""

from __future__ import annotations

import dataclasses
import itertools
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import ray

from rtvi_actors.config import Config, Engine
from rtvi_actors.errors import RtviActorsError, SessionLostError
from rtvi_actors.observe.figures import WAIT_S, Figures
from rtvi_actors.scheduler.placement import EngineNeed, largest_first
from rtvi_actors.scheduler.scaling import Limits, Load, Scaling, Usage
from rtvi_actors.scheduler.shares import EngineShares
from rtvi_actors.scheduler.upkeep import Site
from rtvi_actors.scheduler.warm_pool import Member, kill

log = logging.getLogger(__name__)

ENGINE_CLASSES = {"stt": "SttEngine", "llm": "LlmEngine", "tts": "TtsEngine"}


def needs(config: Config) -> list[EngineNeed]:
    """What all replicas of ``config`` need."""
    return [_need(config, kind, number) for kind in ENGINE_CLASSES for number in range(getattr(config, kind).replicas)]


def _limits(settings: Engine) -> Limits:
    return Limits(least=settings.replicas, most=max(settings.replicas, settings.max_replicas))


def _need(config: Config, kind: str, number: int) -> EngineNeed:
    settings: Engine = getattr(config, kind)
    return EngineNeed(
        name=f"{config.app.name}/engine/{kind}/{number}",
        kind=kind,
        num_gpus=settings.num_gpus,
        memory_bytes=int(settings.gpu_memory_gb * 1e9) if settings.num_gpus else 0,
        threads=settings.threads,
        labels=settings.labels,
        preferred_labels=tuple(settings.preferred_labels),
        replica=number,
    )


class Replicas:
    """``on_up(member)`` is called whenever an engine is up: those who use it dial it. ``on_gone``: it will not come back."""

    def __init__(
        self, site: Site, on_up: Callable[[Member], Awaitable[None]], on_gone: Callable[[Member], Awaitable[None]]
    ) -> None:
        # Imported here: the classes live beside Ray, and only the scheduler's process needs them.
        from rtvi_actors.engines import actor

        self._site = site
        self._on_up = on_up
        self._on_gone = on_gone
        self._shares = EngineShares()
        self._classes = {kind: getattr(actor, name) for kind, name in ENGINE_CLASSES.items()}
        self._needs = {need.name: need for need in needs(site.config)}
        self._members = {name: Member(name, self._classes[need.kind]) for name, need in self._needs.items()}
        self._leaving: set[str] = set()
        """Names of those that run on a node which is being emptied, or that are too many."""
        self._moving: set[str] = set()
        """Of these, those from which another one is about to take over."""
        self._surplus: set[str] = set()
        """Of these, those that are ended with their last session."""
        self._usage = Usage()
        self._scaling = {kind: Scaling(_limits(getattr(site.config, kind))) for kind in ENGINE_CLASSES}

    def members(self) -> list[Member]:
        """All of them, in the order in which they are to be placed."""
        return [self._members[need.name] for need in largest_first(self._needs.values()) if need.name in self._members]

    async def start(self, member: Member) -> None:
        """Place and start one.

        Raises:
            PlacementError: no node has room for it; or it takes more memory than it declared.
            RtviActorsError: what keeps it from starting, as it raised it.
        """
        # Booked by its name in Ray: one that is to take over from another is placed beside it.
        need = dataclasses.replace(self._needs[member.name], name=member.ray_name)
        self._site.placement.forget(need.name)
        placed = self._site.placement.place_engine(need)
        self._site.starter.settle(member, placed.node)
        settings: Any = getattr(self._site.config, need.kind)
        arguments = (need.kind, member.name, member.path, member.node[:8], settings.backend, self._site.config.to_dict())
        await self._site.starter.start(member, *arguments, num_gpus=placed.share)
        try:
            self._site.placement.verified(need.name, int(member.facts["memory_bytes"]))
            if member.name not in self._needs or self._site.upkeep.stopping:
                raise SessionLostError(f"{member.name} is not wanted any more")
        except RtviActorsError:
            await self._end(member)
            kill(member)
            self._site.placement.forget(need.name)
            raise
        self._members[member.name] = member
        self._leaving.discard(member.name)
        self._site.upkeep.spawn(self._watch(member), f"watch {member.name}")
        await self._on_up(member)

    async def _watch(self, member: Member) -> None:
        """Start the engine again, under the same name, when its process dies: its users dial it again by themselves."""
        if not await self._site.upkeep.until_gone(member) or self._members.get(member.name) is not member:
            return
        if member.name in self._surplus or member.name in self._moving:
            return  # whoever ends it, or has another one take over, sees to it
        log.error("engine %s died; starting it again", member.name)
        kill(member)
        self._shares.lost(member.name, self._others(member))
        await self._again(member)

    async def _again(self, member: Member) -> None:
        async def start() -> None:
            if member.name in self._needs:
                await self.start(member)

        await self._site.upkeep.again(start, member.name)

    async def leave(self, node: str) -> None:
        """Start the engines of ``node``, which is being emptied, on other nodes; end them here once their users changed over.

        They do when nothing is asked of the engine, 5 s later at most: an answer that goes on then fails. An engine for which
        there is no room elsewhere stays.
        """
        for member in [member for member in self._members.values() if member.node == node and member.running is not None]:
            if member.name in self._moving:
                continue  # an earlier drain is at it
            self._moving.add(member.name)
            try:
                await self._take_over(member)
            finally:
                self._moving.discard(member.name)

    async def _take_over(self, member: Member) -> None:
        """Have another process take over from ``member``."""
        log.info("moving engine %s away from node %s", member.name, member.node[:8])
        successor = Member(member.name, member.actor_class, generation=member.generation + 1)
        try:
            await self.start(successor)
        except (RtviActorsError, ray.exceptions.RayError) as error:
            log.error("%s stays on node %s: %s", member.name, member.node[:8], error)
            self._site.placement.forget(successor.ray_name)
            if ray.wait([member.running], timeout=0)[0]:  # and it has died meanwhile
                kill(member)
                self._site.upkeep.spawn(self._again(member), f"start {member.name}")
            return
        await self._end(member)
        kill(member)
        self._site.placement.forget(member.ray_name)

    def leaving(self, node: str) -> None:
        """Sessions that begin ask the engines of ``node`` only if there are no others."""
        self._leaving |= {member.name for member in self._members.values() if member.node == node}

    async def _end(self, member: Member) -> None:
        await self._site.nodes.end_processes(member.node, member.processes, 0.0)

    def _others(self, member: Member) -> list[str]:
        kind = self._needs[member.name].kind
        return [name for name, up in self._up()[kind].items() if up and name != member.name]

    def _up(self) -> dict[str, dict[str, bool]]:
        """Kind -> name -> whether it is up, and stays."""
        found: dict[str, dict[str, bool]] = {kind: {} for kind in ENGINE_CLASSES}
        for name, member in self._members.items():
            found[self._needs[name].kind][name] = member.running is not None and name not in self._leaving
        return found

    # -------------------------------------------------------------------------------------------------------- scaling

    def count(self, name: str, figures: Figures, now_ms: int) -> None:
        """What an engine told of itself."""
        need, waits = self._needs.get(name), figures.get("engine_wait_s")
        if need is not None and isinstance(waits, list):
            batches: int = getattr(self._site.config, need.kind).max_batch
            compute_s = figures.get("engine_compute_s", 0.0)
            assert isinstance(compute_s, float)
            self._usage.count(name, compute_s / batches, waits[:-1], now_ms)

    async def scale(self, now_ms: int) -> None:
        """Start more replicas of a kind that requests wait for, let go of those that are too many. To be called every 2 s."""
        self._usage.keep(set(self._members))
        for kind, scaling in self._scaling.items():
            decision = scaling.decide(self._load(kind), now_ms)
            if decision > 0:
                self._add(kind, decision)
            for name in self._last(kind, -decision):
                log.info("engine %s is too many; it takes no more sessions", name)
                self._leaving.add(name)
                self._surplus.add(name)
        sessions = self._shares.counts()
        for name in [name for name in self._surplus - self._moving if not sessions[name]]:
            await self._remove(name)

    def bundles(self) -> list[dict[str, float]]:
        """What all engines need together, as Ray's autoscaler is told it."""
        return [{"GPU": need.num_gpus} if need.num_gpus else {"CPU": float(need.threads)} for need in self._needs.values()]

    def _load(self, kind: str) -> Load:
        names = [name for name in self._members if self._needs[name].kind == kind and name not in self._surplus]
        up = [name for name in names if self._members[name].running is not None]
        draining = sum(self._needs[name].kind == kind for name in self._surplus)
        wait_ms = self._usage.wait_p95_ms(up, WAIT_S)
        return Load(len(up), len(names) - len(up), draining, self._usage.occupancy(up), wait_ms)

    def _add(self, kind: str, count: int) -> None:
        prefix = f"{self._site.config.app.name}/engine/{kind}"
        numbers = (number for number in itertools.count() if f"{prefix}/{number}" not in self._needs)
        for number in itertools.islice(numbers, count):
            need = _need(self._site.config, kind, number)
            member = Member(need.name, self._classes[kind])
            self._needs[need.name], self._members[need.name] = need, member
            log.info("requests wait for %s engines; starting %s", kind, need.name)
            self._site.upkeep.spawn(self._again(member), f"start {need.name}")

    def _last(self, kind: str, count: int) -> list[str]:
        """Those to let go of: of the ones with the highest numbers, that began last."""
        names = [name for name in self._members if self._needs[name].kind == kind and name not in self._leaving]
        return sorted(names, key=lambda name: int(name.rpartition("/")[2]))[len(names) - max(0, count) :]

    async def _remove(self, name: str) -> None:
        member = self._members.pop(name)
        del self._needs[name]
        self._surplus.discard(name)
        self._leaving.discard(name)
        await self._on_gone(member)
        await self._end(member)
        kill(member)
        self._site.placement.forget(member.ray_name)
        log.info("engine %s is ended", name)

    # ------------------------------------------------------------------------------------------------------- sessions

    def take(self, session: str) -> dict[str, list[str]]:
        """Role -> names of the engines that ``session`` asks, in this order."""
        return {f"engine/{kind}": names for kind, names in self._shares.take(session, self._up()).items()}

    def give_back(self, session: str) -> None:
        """``session`` is over. Harmless if it never was."""
        self._shares.give_back(session)

    def seen_from(self, node: str, *, up: bool) -> Mapping[str, dict[str, str]]:
        """Role -> name -> where a process on ``node`` dials it, of those that are up, or of those that are not and have a place."""
        return {
            f"engine/{kind}": {
                name: where
                for name, member in self._members.items()
                if self._needs[name].kind == kind and (member.running is not None) == up and (where := member.seen_from(node))
            }
            for kind in ENGINE_CLASSES
        }

    def status(self) -> list[dict[str, Any]]:
        """Facts of all engines, by kind and number."""
        sessions = self._shares.counts()
        return [
            facts(self._needs[name].kind, member)
            | {"sessions": sessions[name], "leaving": name in self._leaving, "why": self._site.placement.why(member.ray_name)}
            for name, member in sorted(self._members.items())
        ]


def facts(kind: str, member: Member) -> dict[str, Any]:
    """What is told of an actor."""
    state = "starting" if member.running is None else "up"
    told = {"kind": kind, "name": member.name, "state": state, "pid": member.pid, **member.facts}
    if member.handle is not None:
        told["actor_id"] = member.handle._actor_id.hex()
    return told
