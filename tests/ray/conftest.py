"""An edge for Ray tests: this process's end of the links, and actors that are killed when a test fails."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from rtvi_actors.config import Config, runtime_folder
from rtvi_actors.frames.types import Attach, Frame
from rtvi_actors.runtime.switchboard import Switchboard

F = TypeVar("F", bound=Frame)

DEADLINE_S = 20.0


class Edge:
    """Dials actors as an edge does, and keeps what they say."""

    def __init__(self, folder: Path) -> None:
        self.frames: list[tuple[str, Frame]] = []
        self.downs: list[str] = []
        self.links = Switchboard(
            "edge/0",
            str(folder / "edge.sock"),
            node="n1",
            on_frame=lambda peer, frame: self.frames.append((peer, frame)),
            on_peer=lambda peer, up, reason: None if up else self.downs.append(peer),
            on_overflow=lambda session, reason: None,
        )

    async def connect(self, *facts: dict[str, Any]) -> None:
        for fact in facts:
            self.links.dial(fact["name"], fact["path"])
        await self.links.wait_connected([fact["name"] for fact in facts], DEADLINE_S)

    def attach(self, peer: str, session: str, bot: str = "echo", **route: list[str]) -> None:
        names = {role.replace("_", "/"): each for role, each in route.items()}
        assert self.links.send(peer, Attach(session=session, epoch=1, route=names, bot=bot))

    def got(self, kind: type[F], session: str | None = None) -> list[F]:
        return [f for _, f in self.frames if isinstance(f, kind) and session in (None, f.session)]

    async def until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while not condition():
            assert time.monotonic() < deadline, f"still waiting; got {self.frames}, lost {self.downs}"
            await asyncio.sleep(0.005)


class Actors:
    """Starts actors, and kills those that a test leaves."""

    def __init__(self, ray: Any, folder: Path) -> None:
        self.ray = ray
        self.folder = folder
        self.handles: list[Any] = []

    async def start(self, plain_class: type[Any], role: str, what: str, *rest: Any, name: str = "") -> tuple[Any, dict[str, Any]]:
        """Create ``plain_class(role, name, path, node, what, config, *rest)``; its handle and what ``start`` says."""
        name = name or f"app/{role}/{len(self.handles)}"
        path = str(self.folder / f"{len(self.handles)}.sock")
        remote = self.ray.remote(plain_class).options(num_cpus=0.001, max_concurrency=100, max_restarts=0)
        handle = remote.remote(role, name, path, "n1", what, self.config(), *rest)
        self.handles.append(handle)
        return handle, await asyncio.wait_for(handle.start.remote(), 60)

    def config(self) -> dict[str, Any]:
        return Config().to_dict()

    def sockets(self) -> list[str]:
        """Paths of the socket files that there are."""
        return [str(path) for path in self.folder.iterdir()]

    def kill_all(self) -> None:
        for handle in self.handles:
            self.ray.kill(handle)


@pytest.fixture
def folder() -> Iterator[Path]:
    folder = runtime_folder()
    yield folder
    shutil.rmtree(folder)  # killed actors leave their sockets


@pytest.fixture
async def edge(folder: Path) -> AsyncIterator[Edge]:
    edge = Edge(folder)
    await edge.links.open()
    yield edge
    await edge.links.close()


@pytest.fixture
async def actors(ray_local: Any, folder: Path) -> AsyncIterator[Actors]:
    actors = Actors(ray_local, folder)
    yield actors
    actors.kill_all()
