"""The background work of the scheduler: tasks that are kept and named, processes that are watched, starts that are tried again."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import ray

from rtvi_actors.config import Config
from rtvi_actors.errors import RtviActorsError
from rtvi_actors.scheduler.nodes import Nodes
from rtvi_actors.scheduler.placement import Placement
from rtvi_actors.scheduler.warm_pool import Member, Starter

log = logging.getLogger(__name__)

RESTART_PAUSE_S = 1.0
LONGEST_PAUSE_S = 30.0


@dataclass(frozen=True, slots=True)
class Site:
    """What all parts of one scheduler work with."""

    config: Config
    nodes: Nodes
    placement: Placement
    starter: Starter
    upkeep: Upkeep


class Upkeep:
    """The tasks of one scheduler, up to :meth:`stop`."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = asyncio.Event()
        self._pauses: set[asyncio.Event] = set()

    @property
    def stopping(self) -> bool:
        """Whether everything ends: what is gone now was meant to go."""
        return self._stopping.is_set()

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        """Run ``work`` in the background; a failure of it is logged."""
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    async def again(self, start: Callable[[], Awaitable[None]], name: str) -> None:
        """Call ``start`` until it succeeds or everything ends, with a pause that doubles up to 30 s."""
        pause_s = RESTART_PAUSE_S
        while not self.stopping:
            try:
                await start()
                return
            except (RtviActorsError, ray.exceptions.RayError) as error:
                log.error("%s does not start: %s; trying again in %.0f s", name, error, pause_s)
            except Exception:
                # Whatever it is, an engine or edge that is not tried again would be missing for good.
                log.exception("%s does not start; trying again in %.0f s", name, pause_s)
            await self.pause(pause_s)
            pause_s = min(LONGEST_PAUSE_S, pause_s * 2)

    async def pause(self, pause_s: float) -> None:
        """Wait before something is tried again: so long, or until :meth:`try_now`."""
        over = asyncio.Event()
        self._pauses.add(over)
        try:
            await asyncio.wait_for(over.wait(), pause_s)
        except TimeoutError:
            pass
        finally:
            self._pauses.discard(over)

    def try_now(self) -> None:
        """A node has joined: end all pauses, there may be room for what had none."""
        for over in self._pauses:
            over.set()

    async def until_gone(self, member: Member) -> bool:
        """Return when the actor's process has ended, however. False if everything ends: nothing is to be done about it."""
        with contextlib.suppress(ray.exceptions.RayError):
            await member.running
        return not self.stopping

    async def stop(self) -> None:
        """End all tasks."""
        self._stopping.set()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("%s failed", task.get_name(), exc_info=error)
