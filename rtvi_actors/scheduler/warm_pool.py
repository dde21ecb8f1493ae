"""Starts and ends actors: one :class:`Member` each, four of them a :class:`StageGroup`.

Nothing here decides how many: ``admission`` does. No actor is ever made in the path of a client that connects: making one costs
0.45-0.9 CPU-seconds; at most ``starts_at_once`` are made at a time on a node.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import ray

from rtvi_actors.config import Config
from rtvi_actors.errors import RtviActorsError, SessionLostError
from rtvi_actors.scheduler.nodes import Nodes, on_node

log = logging.getLogger(__name__)

START_DEADLINE_S = 120.0
CONNECT_DEADLINE_S = 30.0
STOP_DEADLINE_S = 2.0

STAGES: dict[str, tuple[str, str]] = {
    "speaking": ("SpeakingActor", "rtvi_actors.speaking.stage:SpeakingStages"),
    "stt": ("SttActor", "rtvi_actors.stt.stage:SttStages"),
    "llm": ("LlmActor", "rtvi_actors.llm.stage:LlmStages"),
    "tts": ("TtsActor", "rtvi_actors.tts.stage:TtsStages"),
}
"""Role -> class of the Ray actor, and the stages that it hosts."""

DIALS: dict[str, tuple[str, ...]] = {
    "speaking": ("stt", "llm", "tts"),
    "stt": ("llm", "engine/stt"),
    "llm": ("tts", "engine/llm"),
    "tts": ("engine/tts",),
}
"""Who opens the links: the one that stands earlier in edge > speaking > stt > llm > tts > engine."""


@dataclass(slots=True)
class Member:
    """One actor. ``actor_class`` is the plain class; ``node`` and ``path`` are where it runs and listens."""

    name: str
    actor_class: type[Any]
    node: str = ""
    path: str = ""
    generation: int = 0
    """Of those with this name that were to take over from a running one; Ray knows each by a name of its own."""
    handle: Any = None
    facts: dict[str, Any] = field(default_factory=dict)
    """What its ``start`` answered: pid, its start time, name, path, address ..."""
    running: Any = None
    """Reference of ``run_until_stopped``: fails within milliseconds when the process dies."""

    @property
    def pid(self) -> int:
        """Process id, 0 before the start."""
        return int(self.facts.get("pid", 0))

    @property
    def ray_name(self) -> str:
        """Its name in Ray."""
        return f"{self.name}@{self.generation}" if self.generation else self.name

    @property
    def processes(self) -> dict[int, float]:
        """Its process, pid -> start time, which tells it from a later one of the same pid; empty before the start."""
        return {self.pid: float(self.facts["started_at"])} if self.pid else {}

    def seen_from(self, node: str) -> str:
        """Where a process on ``node`` dials it: its socket's path, or from another node its HOST:PORT, "" before its start."""
        return self.path if node == self.node else str(self.facts.get("address", ""))


class Starter:
    """Makes actors, a few at a time."""

    def __init__(self, config: Config, namespace: str, nodes: Nodes) -> None:
        self.config = config
        self._nodes = nodes
        self._namespace = namespace
        self._gates: dict[str, asyncio.Semaphore] = {}
        self._paths = 0

    def settle(self, member: Member, node: str) -> None:
        """``member`` will run on ``node``: where it ran before, it keeps its socket's path, else it gets a new one.

        Raises:
            SessionLostError: the node is gone.
        """
        if member.node == node and member.path:
            return
        if node not in self._nodes:
            raise SessionLostError(f"{member.name} cannot start: its node {node[:8]} is gone")
        self._paths += 1
        member.node, member.path = node, f"{self._nodes.folder(node)}/{self._paths}.sock"
        member.facts = {}

    async def start(self, member: Member, *args: Any, num_gpus: float = 0.0) -> Member:
        """Create ``actor_class(*args, network)`` on the member's node and wait until its ``start`` has answered.

        Raises:
            RtviActorsError: what the actor raised (missing models, a wrong backend, a port in use).
            SessionLostError: its process died, or it was not up within 120 s.
        """
        gate = self._gates.setdefault(member.node, asyncio.Semaphore(self.config.scheduler.starts_at_once))
        async with gate:
            remote = ray.remote(member.actor_class).options(
                name=member.ray_name,
                namespace=self._namespace,
                num_gpus=num_gpus,
                max_restarts=0,
                max_concurrency=100,
                **on_node(member.node),
            )
            try:
                member.handle = remote.remote(*args, self._nodes.network(member.node))
            except KeyError:
                raise SessionLostError(f"{member.name} cannot start: its node {member.node[:8]} is gone") from None
            try:
                member.facts = await asyncio.wait_for(member.handle.start.remote(), START_DEADLINE_S)
            except ray.exceptions.RayTaskError as error:
                kill(member)
                cause = error.cause if hasattr(error, "cause") else error
                if isinstance(cause, RtviActorsError):
                    raise cause from None
                raise
            except (ray.exceptions.RayActorError, TimeoutError) as error:
                kill(member)
                raise SessionLostError(f"{member.name} did not start: {error}") from error
        member.running = member.handle.run_until_stopped.remote()
        return member


class StageGroup:
    """The four stage actors of one group, from their start to their end."""

    def __init__(self, name: str, node: str, starter: Starter, nodes: Nodes) -> None:
        # Imported here: the classes live beside Ray, and only the scheduler's process needs them.
        from rtvi_actors.runtime import stage_actor

        self.name = name
        self.node = node
        self._starter = starter
        self._nodes = nodes
        app = self._app = starter.config.app.name
        self.members = {
            role: Member(f"{app}/{role}/{name}", getattr(stage_actor, class_name)) for role, (class_name, _) in STAGES.items()
        }
        for member in self.members.values():
            starter.settle(member, node)

    def route(self) -> dict[str, list[str]]:
        """Role -> names of the four, for the Attach frame."""
        return {role: [member.name] for role, member in self.members.items()}

    def seen_from(self, node: str) -> dict[str, str]:
        """Name -> where a process on ``node`` dials it, of the four."""
        return {member.name: member.seen_from(node) for member in self.members.values()}

    def processes(self) -> dict[int, float]:
        """Process id -> start time of the members that run."""
        return {pid: started for member in self.members.values() for pid, started in member.processes.items()}

    async def redial(self, engine: Member) -> None:
        """Have who uses ``engine`` dial it where it is now: it was started again, perhaps elsewhere.

        Raises:
            RtviActorsError, RayError, TimeoutError: the stage actor that uses it is gone, does not answer, or gets no answer there.
        """
        call = self._user_of(engine).handle.redial.remote(engine.name, engine.seen_from(self.node))
        await asyncio.wait_for(call, CONNECT_DEADLINE_S)

    async def redial_changed(self, before: Mapping[str, dict[str, str]], now: Mapping[str, dict[str, str]]) -> None:
        """Have those engines dialled that are not where they were (both: role -> name -> where).

        Raises:
            RtviActorsError, RayError, TimeoutError: as :meth:`redial`.
        """
        for role, names in now.items():
            user = next(self.members[user] for user, dialled in DIALS.items() if role in dialled)
            for name, where in names.items():
                if before[role].get(name) != where:
                    await asyncio.wait_for(user.handle.redial.remote(name, where), CONNECT_DEADLINE_S)

    async def undial(self, engine: Member) -> None:
        """Have who uses ``engine`` dial it no more: it will not come back.

        Raises:
            RayError, TimeoutError: the stage actor that uses it is gone, or does not answer.
        """
        await asyncio.wait_for(self._user_of(engine).handle.undial.remote(engine.name), CONNECT_DEADLINE_S)

    def _user_of(self, engine: Member) -> Member:
        """The stage actor that dials ``engine``."""
        role = engine.name.removeprefix(f"{self._app}/").rpartition("/")[0]
        return next(self.members[user] for user, dialled in DIALS.items() if role in dialled)

    async def start(self, engines: Mapping[str, dict[str, str]], spares: Mapping[str, dict[str, str]]) -> None:
        """Start the four, link them with each other and the ``engines`` (role -> name -> where). On failure none is left.

        ``spares``: engines that are dialled, too, and not waited for: they are being started again.

        Raises:
            RtviActorsError: as :meth:`Starter.start`.
        """
        config = self._starter.config
        try:
            async with asyncio.TaskGroup() as tasks:
                for role, member in self.members.items():
                    arguments = (
                        role,
                        member.name,
                        member.path,
                        self.node[:8],
                        STAGES[role][1],
                        config.to_dict(),
                        config.scheduler.sessions_per_group,
                    )
                    tasks.create_task(self._starter.start(member, *arguments), name=f"start {member.name}")
            everybody = dict(engines) | {role: {member.name: member.path} for role, member in self.members.items()}
            for role in ("tts", "llm", "stt", "speaking"):
                peers = {name: path for other in DIALS[role] for name, path in everybody[other].items()}
                later = {name: path for other in DIALS[role] for name, path in spares.get(other, {}).items()}
                await asyncio.wait_for(self.members[role].handle.connect.remote(peers, later), CONNECT_DEADLINE_S)
        except BaseException as error:
            await self.end(force=True)
            if isinstance(error, BaseExceptionGroup):
                raise error.exceptions[0] from None
            raise

    async def end(self, *, force: bool) -> None:
        """End the four processes for sure. ``force`` skips the polite question, for a group of which one is dead or frozen."""
        members = list(self.members.values())
        if not force:
            calls = [member.handle.stop.remote() for member in members if member.handle is not None]
            if calls:
                await asyncio.wait([asyncio.ensure_future(as_coroutine(call)) for call in calls], timeout=STOP_DEADLINE_S)
        await self._nodes.end_processes(self.node, self.processes(), 0.0 if force else 0.5)
        for member in members:
            kill(member)


async def as_coroutine(reference: Any) -> None:
    """Wait for a Ray reference; the actor's death while it answers ``stop`` is what was asked for."""
    with contextlib.suppress(ray.exceptions.RayActorError, ray.exceptions.RayTaskError):
        await reference


def kill(member: Member) -> None:
    """Make Ray forget the actor, dead or alive."""
    if member.handle is not None:
        with contextlib.suppress(ray.exceptions.RayActorError, ValueError):
            ray.kill(member.handle, no_restart=True)
        member.handle = None
        member.running = None
