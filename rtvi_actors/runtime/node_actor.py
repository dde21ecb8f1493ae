"""The Ray actor on each node but the scheduler's: its sockets' folder, and the end of processes that do not end by themselves.

A plain class; whoever starts it decorates it with ``ray.remote``.
"""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Any

from rtvi_actors.config import Config, runtime_folder
from rtvi_actors.observe.figures import Figures
from rtvi_actors.runtime import process
from rtvi_actors.runtime.devices import device_memory_bytes
from rtvi_actors.runtime.supervise import end_processes


class NodeActor:
    """Named ``name``. ``folder``: the one that an earlier one made for the sockets of this node, "" for a new one."""

    def __init__(self, name: str, folder: str, config: dict[str, Any]) -> None:
        self._name = name
        self._folder = folder
        self._config = config
        self._stopped = asyncio.Event()

    async def start(self) -> dict[str, Any]:
        """Make the folder, mode 0700. Returns ``{pid, started_at, name, folder, device_memory_bytes}``."""
        process.set_up(self._name, Config.from_dict(self._config))
        self._folder = self._folder or str(runtime_folder())
        memory_bytes = await asyncio.to_thread(device_memory_bytes)
        return process.identity() | {"name": self._name, "folder": self._folder, "device_memory_bytes": memory_bytes}

    async def end_processes(self, processes: dict[int, float], grace_s: float) -> list[int]:
        """See ``supervise.end_processes``: those of this node, pid -> start time."""
        return await asyncio.to_thread(end_processes, processes, grace_s)

    async def ping(self) -> Figures:
        """Answer, which only a process whose event loop runs can: with what is to be told of it."""
        return process.usage()

    async def run_until_stopped(self) -> None:
        """Returns at :meth:`stop`. Its reference fails within milliseconds when the process dies."""
        await self._stopped.wait()

    async def stop(self) -> None:
        """Remove the folder and leave. The caller sees ``ActorDiedError`` (an intended exit) when it is done."""
        if self._folder:
            await asyncio.to_thread(shutil.rmtree, Path(self._folder), ignore_errors=True)
        self._stopped.set()
        process.leave_actor()
