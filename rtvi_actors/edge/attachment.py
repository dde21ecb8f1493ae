"""The four stages' part in a session: all of them open before the client is let in, all of them closed before its place is free."""

from __future__ import annotations

import asyncio
import dataclasses

from rtvi_actors.errors import CapacityError
from rtvi_actors.frames.types import Attach, Attached, Detach, Refused, Role
from rtvi_actors.runtime.port import StagePort

STAGES: tuple[Role, ...] = ("speaking", "stt", "llm", "tts")


class Attachment:
    """Sends Attach, later Detach, to the stages and collects their answers."""

    def __init__(self, port: StagePort) -> None:
        self._port = port
        self._awaited: type[Attached] | type[Detach] = Attached
        self._missing = set(STAGES)
        """Stages whose answer is awaited."""
        self._lost: set[Role] = set()
        self._refusal = ""
        self._changed = asyncio.Event()

    async def attach(self, attach: Attach, deadline_ms: int) -> None:
        """Open the session at all stages. What the client gave for its bot goes to the LLM stage alone.

        Raises:
            CapacityError: a stage refused, was lost, or did not answer in time. The session must be detached.
        """
        for role in STAGES:
            self._port.send(role, attach if role == "llm" else dataclasses.replace(attach, body=b""))
        await self._collect(deadline_ms)
        if self._refusal:
            raise CapacityError(self._refusal)
        if self._missing:
            raise CapacityError(f"{', '.join(sorted(self._missing))} did not open the session within {deadline_ms} ms")

    async def detach(self, reason: str, deadline_ms: int) -> bool:
        """Close the session at all stages that are still there. Says whether all four have answered that nothing is left."""
        self._awaited = Detach
        self._refusal = ""
        self._missing = set(STAGES) - self._lost
        for role in STAGES:
            self._port.send(role, Detach(reason=reason))
        await self._collect(deadline_ms)
        return not self._missing and not self._lost

    def receive(self, frame: Attached | Refused | Detach, role: Role) -> None:
        """Take a stage's answer. ``role``: who it came from."""
        if isinstance(frame, self._awaited):
            self._missing.discard(role)
        elif isinstance(frame, Refused) and self._awaited is Attached:
            self._refusal = f"{role} refused the session: {frame.reason}"
        self._changed.set()

    def lost(self, role: Role, reason: str) -> None:
        """The stage's process is gone: it will not answer."""
        self._lost.add(role)
        self._missing.discard(role)
        if self._awaited is Attached:
            self._refusal = f"{role} is lost: {reason}"
        self._changed.set()

    async def _collect(self, deadline_ms: int) -> None:
        try:
            async with asyncio.timeout(deadline_ms / 1_000):
                while self._missing and not self._refusal:
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            return  # whoever is still missing says so
