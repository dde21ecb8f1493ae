"""The edge as a process would run it, without Ray: its port, its links to four hosts over real sockets, a client, the end."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import connect

from rtvi_actors.config import Config, runtime_folder
from rtvi_actors.edge import actor as actor_module
from rtvi_actors.edge.actor import EdgeActor
from rtvi_actors.edge.admission import Lease
from rtvi_actors.edge.wire import MessageIn, decode, encode_message
from rtvi_actors.errors import ConfigError, SessionLostError
from rtvi_actors.frames.types import Attach, ClientMessage, Frame
from rtvi_actors.runtime.network import LinkKey, Network
from rtvi_actors.runtime.stage_host import SessionHost
from rtvi_actors.runtime.switchboard import Switchboard

pytestmark = pytest.mark.unit

STAGES = ("speaking", "stt", "llm", "tts")
ROUTE = {role: [f"app/{role}/0"] for role in STAGES}


class Recorder:
    """A stage that does nothing, and the host that makes it."""

    def __init__(self) -> None:
        self.received: list[Frame] = []
        self.closed = 0

    def create(self, port: Any, attach: Attach) -> Recorder:
        return self

    async def open(self) -> None:
        pass

    def receive(self, frame: Frame) -> None:
        self.received.append(frame)

    async def close(self) -> None:  # of a stage
        self.closed += 1


class Host:
    """One stage process, without the process."""

    def __init__(self, role: str, folder: Path) -> None:
        self.role = role
        self.name = f"app/{role}/0"
        self.path = str(folder / f"{role}.sock")
        self.stage = Recorder()
        self.switchboard = Switchboard(
            self.name, self.path, node="n", on_frame=self._on_frame, on_peer=self._on_peer, on_overflow=self._on_overflow
        )
        self.sessions = SessionHost(role, self.stage, self.switchboard, limit=4, open_deadline_ms=1_000)  # type: ignore[arg-type]

    def _on_frame(self, peer: str, frame: Frame) -> None:
        self.sessions.on_frame(peer, frame)

    def _on_peer(self, peer: str, up: bool, reason: str) -> None:
        self.sessions.on_peer(peer, up, reason)

    def _on_overflow(self, session: str, reason: str) -> None:
        self.sessions.on_overflow(session, reason)


class FakeAdmission:
    def __init__(self, *_: str) -> None:
        self.released: list[tuple[str, bool]] = []
        self.lost: list[str] = []

    async def admit(self) -> Lease:
        return Lease("s1", 1, ROUTE, "module:Bot")

    async def reserve(self, bot: str, body: bytes) -> None:
        return None

    async def release(self, session: str, *, clean: bool, used: bool = True) -> None:
        self.released.append((session, clean))

    async def ready(self) -> None:
        pass

    def report_lost(self, actor: str, reason: str) -> None:
        self.lost.append(actor)

    async def close(self) -> None:
        pass


@pytest.fixture
def folder() -> Iterator[Path]:
    """For sockets, none of which may be left."""
    folder = runtime_folder()
    yield folder
    folder.rmdir()


@pytest.fixture(autouse=True)
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """What an actor does to its own process must not happen to this one."""
    monkeypatch.setattr(actor_module.process, "set_up", lambda name, config: None)
    monkeypatch.setattr(actor_module.process, "limit_threads", lambda threads: None)
    monkeypatch.setattr(actor_module, "SchedulerClient", FakeAdmission)


def make(folder: Path, port: int = 0) -> EdgeActor:
    config = Config().replace(edge={"port": port}).to_dict()
    return EdgeActor("app/edge/0", str(folder / "edge.sock"), "n", config, "app/scheduler", "app")


@pytest.fixture
async def hosts(folder: Path) -> AsyncIterator[list[Host]]:
    hosts = [Host(role, folder) for role in STAGES]
    for host in hosts:
        await host.switchboard.open()
    yield hosts
    for host in hosts:
        await host.switchboard.close()
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_an_edge_that_listens_everywhere_tells_its_nodes_address(folder: Path) -> None:
    config = Config().replace(edge={"host": "0.0.0.0", "port": 0})
    network = Network("127.0.0.2", LinkKey.new(), config.cluster)
    edge = EdgeActor("app/edge/0", str(folder / "edge.sock"), "n", config.to_dict(), "app/scheduler", "app", network)
    facts = await edge.start()
    await edge.shut_down(0)
    assert facts["url"] == f"http://127.0.0.2:{facts['port']}"


async def test_a_client_through_real_links_and_what_its_end_leaves(folder: Path, hosts: list[Host], until: Any) -> None:
    edge = make(folder)
    facts = await edge.start()
    assert facts["url"] == f"http://127.0.0.1:{facts['port']}"
    await edge.connect({host.name: host.path for host in hosts})
    try:
        async with connect(f"ws://127.0.0.1:{facts['port']}/ws") as client:
            hello = {"label": "rtvi-ai", "type": "client-ready", "id": "r1", "data": {"version": "2.1.0"}}
            await client.send(encode_message(json.dumps(hello)))
            answer = decode(await client.recv(decode=False))
            assert isinstance(answer, MessageIn)
            assert json.loads(answer.text)["type"] == "bot-ready"
            llm = hosts[2].stage
            await until(lambda: [type(frame) for frame in llm.received] == [ClientMessage])
            (status,) = await edge.sessions()
            assert (status["session"], status["route"]) == ("s1", ROUTE)
            assert (await edge.stats())["sessions"] == 1
            assert set((await edge.stats())["peers"]) == {host.name for host in hosts}
            assert await edge.busy_turns() == 0
        admission: Any = edge._admission
        await until(lambda: admission.released == [("s1", True)])
        assert [host.stage.closed for host in hosts] == [1, 1, 1, 1]
    finally:
        await edge.shut_down(2.0)
    await asyncio.wait_for(edge.run_until_stopped(), 1)
    with pytest.raises(httpx.ConnectError):
        async with httpx.AsyncClient() as web:
            await web.get(facts["url"] + "/health")


async def test_the_end_of_a_group_ends_its_sessions(folder: Path, hosts: list[Host], until: Any) -> None:
    edge = make(folder)
    facts = await edge.start()
    await edge.connect({host.name: host.path for host in hosts})
    try:
        async with connect(f"ws://127.0.0.1:{facts['port']}/ws") as client:
            await until(lambda: all(host.sessions.sessions() for host in hosts))
            await edge.disconnect([host.name for host in hosts])
            fatal = decode(await client.recv(decode=False))
            assert isinstance(fatal, MessageIn)
            assert json.loads(fatal.text)["data"]["fatal"] is True
        assert (await edge.stats())["peers"] == {}
        admission: Any = edge._admission
        await until(lambda: admission.released == [("s1", False)])
    finally:
        await edge.shut_down(2.0)


async def test_stages_that_do_not_answer_are_told_and_not_dialled_any_more(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(actor_module, "CONNECT_DEADLINE_S", 0.05)
    edge = make(folder)
    await edge.start()
    try:
        with pytest.raises(SessionLostError, match="app/llm/7"):
            await edge.connect({"app/llm/7": str(folder / "nobody.sock")})
    finally:
        await edge.shut_down(1.0)


async def test_the_port_is_taken_first(folder: Path) -> None:
    first = make(folder)
    facts = await first.start()
    try:
        second = EdgeActor(
            "app/edge/1", str(folder / "second.sock"), "n", Config().replace(edge={"port": facts["port"]}).to_dict(), "s", "app"
        )
        with pytest.raises(ConfigError, match="is in use; choose another with --port"):
            await second.start()
    finally:
        await first.shut_down(1.0)


async def test_an_edge_that_is_not_started_says_so(folder: Path) -> None:
    with pytest.raises(SessionLostError, match="not started"):
        await make(folder).connect({})
