"""Starts and ends actors: one :class:`Member` each, four of them a :class:`StageGroup`.

Nothing here decides how many: ``admission`` does. No actor is ever made in the path of a client that connects: making one costs
0.45-0.9 CPU-seconds; at most ``starts_at_once`` are made at a time on this node.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray

from rtvi_actors.config import Config
from rtvi_actors.errors import RtviActorsError, SessionLostError
from rtvi_actors.runtime.supervise import end_processes, start_time_of

log = logging.getLogger(__name__)

NUM_CPUS = 0.001
"""A small resource for each actor, so that Ray's placement is meant: an actor without any is placed at random."""

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
    """One actor. ``actor_class`` is the plain class; ``args`` what its constructor takes after ``name`` and ``path``."""

    name: str
    path: str
    actor_class: type[Any]
    handle: Any = None
    facts: dict[str, Any] = field(default_factory=dict)
    """What its ``start`` answered: pid, name, path ..."""
    started_at: float = 0.0
    """Start time of its process, which tells it from a later one of the same pid."""
    running: Any = None
    """Reference of ``run_until_stopped``: fails within milliseconds when the process dies."""

    @property
    def pid(self) -> int:
        """Process id, 0 before the start."""
        return int(self.facts.get("pid", 0))


class Starter:
    """Makes actors, a few at a time."""

    def __init__(self, config: Config, namespace: str, folder: Path, node: str) -> None:
        self.config = config
        self.node = node
        self._namespace = namespace
        self._folder = folder
        self._gate = asyncio.Semaphore(config.scheduler.starts_at_once)
        self._paths = 0

    def member(self, name: str, actor_class: type[Any]) -> Member:
        """A member that is not started yet, with a socket path of its own."""
        self._paths += 1
        return Member(name, str(self._folder / f"{self._paths}.sock"), actor_class)

    async def start(self, member: Member, *args: Any, num_gpus: float = 0.0) -> Member:
        """Create the actor ``actor_class(*args)`` and wait until its ``start`` has answered.

        Raises:
            RtviActorsError: what the actor raised (missing models, a wrong backend, a port in use).
            SessionLostError: its process died, or it was not up within 120 s.
        """
        async with self._gate:
            remote = ray.remote(member.actor_class).options(
                name=member.name,
                namespace=self._namespace,
                num_cpus=NUM_CPUS,
                num_gpus=num_gpus,
                max_restarts=0,
                max_concurrency=100,
            )
            member.handle = remote.remote(*args)
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
        member.started_at = start_time_of(member.pid)
        member.running = member.handle.run_until_stopped.remote()
        return member


class StageGroup:
    """The four stage actors of one group, from their start to their end."""

    def __init__(self, name: str, starter: Starter) -> None:
        # Imported here: the classes live beside Ray, and only the scheduler's process needs them.
        from rtvi_actors.runtime import stage_actor

        self.name = name
        self._starter = starter
        app = starter.config.app.name
        self.members = {
            role: starter.member(f"{app}/{role}/{name}", getattr(stage_actor, class_name))
            for role, (class_name, _) in STAGES.items()
        }

    def route(self) -> dict[str, list[str]]:
        """Role -> names of the four, for the Attach frame."""
        return {role: [member.name] for role, member in self.members.items()}

    def addresses(self) -> dict[str, str]:
        """Name -> socket path of the four."""
        return {member.name: member.path for member in self.members.values()}

    def pids(self) -> dict[int, float]:
        """Process id -> start time of the members that run."""
        return {member.pid: member.started_at for member in self.members.values() if member.pid}

    async def start(self, engines: dict[str, dict[str, str]], spares: dict[str, dict[str, str]]) -> None:
        """Start the four, link them with each other and the ``engines`` (role -> name -> path). On failure nothing is left of them.

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
                        self._starter.node,
                        STAGES[role][1],
                        config.to_dict(),
                        config.scheduler.sessions_per_group,
                    )
                    tasks.create_task(self._starter.start(member, *arguments), name=f"start {member.name}")
            everybody = engines | {role: {member.name: member.path} for role, member in self.members.items()}
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
        await asyncio.to_thread(end_processes, self.pids(), 0.0 if force else 0.5)
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
