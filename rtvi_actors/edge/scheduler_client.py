"""The scheduler as an edge sees it: a named Ray actor. Fulfils :class:`~rtvi_actors.edge.admission.Admission`.

No call waits for longer than its deadline. A place that is granted after the edge gave up waiting is given back.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Coroutine
from typing import Any

import ray
import ray.exceptions

from rtvi_actors.edge.admission import Lease, Reserved
from rtvi_actors.errors import CapacityError

log = logging.getLogger(__name__)

DEADLINE_S = 2.0
RETRY_MS = 2_000
"""When to come again, if the scheduler is not there or does not answer."""
RELEASE_ATTEMPTS = 3


class SchedulerClient:
    """Asks the actor ``scheduler`` of ``namespace`` on behalf of the edge ``edge``."""

    def __init__(self, scheduler: str, namespace: str, edge: str) -> None:
        self._scheduler = scheduler
        self._namespace = namespace
        self._edge = edge
        self._handle: Any = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def admit(self) -> Lease:
        """See :class:`Admission`. No scheduler, or no answer in time, is no place."""
        call = asyncio.ensure_future(self._call("admit", self._edge))
        try:
            await asyncio.wait({call}, timeout=DEADLINE_S)
        finally:
            # Late, or nobody waits for it any more.
            if not call.done():
                self._spawn(self._give_back(call), "give back a late place")
        if not call.done():
            raise CapacityError(f"the scheduler did not answer within {DEADLINE_S:.0f} s", RETRY_MS)
        try:
            return _lease(call.result())
        except (ray.exceptions.RayError, ValueError) as error:
            self._handle = None
            raise CapacityError("the scheduler is not there", RETRY_MS) from error

    async def reserve(self, bot: str, body: bytes) -> Reserved | None:
        """See :class:`Admission`. No answer is none: this edge sees for itself."""
        try:
            answer = await self._ask("reserve", self._edge, bot, body)
        except CapacityError:
            return None
        return Reserved(answer["token"], answer["url"]) if answer else None

    async def claim(self, token: str) -> tuple[Lease, str, bytes] | None:
        """See :class:`Admission`. A place that comes too late is given back."""
        call = asyncio.ensure_future(self._call("claim", token, self._edge))
        await asyncio.wait({call}, timeout=DEADLINE_S)
        if not call.done():
            self._spawn(self._give_back_claimed(call), "give back a late claim")
            raise CapacityError(f"the scheduler did not answer within {DEADLINE_S:.0f} s", RETRY_MS)
        try:
            answer = call.result()
        except (ray.exceptions.RayError, ValueError) as error:
            self._handle = None
            raise CapacityError("the scheduler is not there", RETRY_MS) from error
        return (_lease(answer["lease"]), answer["bot"], answer["body"]) if answer else None

    async def _give_back_claimed(self, call: asyncio.Future[dict[str, Any] | None]) -> None:
        with contextlib.suppress(ray.exceptions.RayError, ValueError):
            if (answer := await call) is not None:
                await self.release(answer["lease"]["session"], clean=True, used=False)

    async def move(self, session: str) -> Lease:
        """See :class:`Admission`. An answer that comes too late is undone by :meth:`moved`, which the caller sends in any case."""
        return _lease(await self._ask("move", session))

    async def moved(self, session: str, *, done: bool) -> None:
        """See :class:`Admission`."""
        await self._tell("moved", session, done)

    async def release(self, session: str, *, clean: bool, used: bool = True) -> None:
        """See :class:`Admission`."""
        await self._tell("release", session, clean, used)

    async def _tell(self, method: str, session: str, *args: Any) -> None:
        """Call until it is answered. A scheduler that is gone has no table any more: nothing is left to be told."""
        for _ in range(RELEASE_ATTEMPTS):
            try:
                await asyncio.wait_for(self._call(method, session, *args), DEADLINE_S)
                return
            except TimeoutError:
                continue
            except (ray.exceptions.RayError, ValueError) as error:
                self._handle = None
                log.warning("session %s: no %s: the scheduler is gone: %s", session, method, error)
                return
        log.error("session %s: no %s: the scheduler does not answer", session, method)

    async def ready(self) -> None:
        """See :class:`Admission`."""
        if not await self._ask("ready", self._edge):
            raise CapacityError("no place is free")

    async def status(self) -> dict[str, Any]:
        """See :class:`Admission`."""
        facts: dict[str, Any] = await self._ask("status")
        if facts["edges"] and facts["edges"][0]["name"] != self._edge:
            # They are the whole app's: one edge tells them, or whoever adds up the edges counts them twice.
            facts["figures"] = {}
        return facts

    def report_lost(self, actor: str, reason: str) -> None:
        """Tell the scheduler that the link to ``actor`` broke under a session. Returns at once."""
        self._spawn(self._report_lost(actor, reason), f"report {actor}")

    async def close(self) -> None:
        """Wait for what is still being told, up to its deadline."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=DEADLINE_S)

    async def _report_lost(self, actor: str, reason: str) -> None:
        try:
            await asyncio.wait_for(self._call("report_lost", actor, reason), DEADLINE_S)
        except (TimeoutError, ray.exceptions.RayError, ValueError) as error:
            log.warning("the loss of %s (%s) is not reported: %s", actor, reason, error or "no answer")

    async def _give_back(self, call: asyncio.Future[dict[str, Any]]) -> None:
        try:
            answer = await call
        except (ray.exceptions.RayError, ValueError):
            return
        if "session" in answer:
            await self.release(answer["session"], clean=True, used=False)

    async def _ask(self, method: str, *args: Any) -> Any:
        """An answer within the deadline, or CapacityError."""
        try:
            return await asyncio.wait_for(self._call(method, *args), DEADLINE_S)
        except TimeoutError:
            raise CapacityError(f"the scheduler did not answer within {DEADLINE_S:.0f} s", RETRY_MS) from None
        except (ray.exceptions.RayError, ValueError) as error:
            self._handle = None
            raise CapacityError("the scheduler is not there", RETRY_MS) from error

    async def _call(self, method: str, *args: Any) -> Any:
        if self._handle is None:
            # A round trip to Ray's control store that blocks: not on the event loop, which paces everybody's audio.
            self._handle = await asyncio.to_thread(ray.get_actor, self._scheduler, self._namespace)
        return await getattr(self._handle, method).remote(*args)

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _lease(answer: dict[str, Any]) -> Lease:
    """What the scheduler gave.

    Raises:
        CapacityError: nothing.
    """
    if "refused" in answer:
        raise CapacityError(answer["refused"], answer["retry_after_ms"])
    return Lease(answer["session"], answer["epoch"], answer["route"], answer["bot"])
