"""The ends of sessions and of processes: whatever dies or hangs, nothing of it stays, and the app serves again."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from rtvi_actors.cli import running
from rtvi_actors.errors import RtviActorsError
from rtvi_actors.testing.client import RtviClient

pytestmark = pytest.mark.system

STAGES = ("SpeakingActor", "SttActor", "LlmActor", "TtsActor")
ENGINES = ("SttEngine", "LlmEngine", "TtsEngine")
SIGNALS = pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "frozen"])


@pytest.fixture(scope="module")
def config(config_file: Any) -> str:
    """One session at a time, on a group of its own: so it is known which processes are whose. Vanished clients are found soon."""
    scheduler = {"warm_groups": 1, "max_sessions": 1}
    path: str = config_file(scheduler=scheduler, edge={"ping_interval_ms": 500})
    return path


@pytest.fixture(scope="module")
def app(start_app: Any, config: str) -> Iterator[Any]:
    with start_app(config) as running:
        yield running


def group_of(app: Any, actors: Any) -> list[psutil.Process]:
    """The processes of the one stage group."""
    group = [process for kind in STAGES for process in actors(app, kind)]
    assert len(group) == 4
    return group


def gone(processes: list[psutil.Process]) -> bool:
    return not any(alive(process) for process in processes)


def alive(process: psutil.Process) -> bool:
    """Whether it runs. It may end between two looks at it."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def census(app: Any, actors: Any) -> dict[str, int]:
    """How many processes there are of each kind of actor."""
    return {kind: len(actors(app, kind)) for kind in (*STAGES, *ENGINES, "EdgeActor", "Scheduler")}


FULL = dict.fromkeys((*STAGES, *ENGINES, "EdgeActor", "Scheduler"), 1)


async def whole_again(app: Any, actors: Any, eventually: Any, ready: Any, serves: Any) -> None:
    """The app has one of everything, no more, and serves."""
    await eventually(lambda: ready(app.url), "the app is ready")
    await serves(app.ws_url)
    await eventually(lambda: census(app, actors) == FULL, f"one process of each kind, not {census(app, actors)}")


# --------------------------------------------------------------------------------------------------------- ends of sessions


async def close(client: RtviClient) -> None:
    await client.close()


async def disconnect(client: RtviClient) -> None:
    client.send("disconnect-bot", {})


async def reset(client: RtviClient) -> None:
    transport = client._socket.transport
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


async def vanish(client: RtviClient) -> None:
    """Nothing is read or answered any more, and nobody says so."""
    client._socket.transport.pause_reading()


@pytest.mark.parametrize("end", [close, disconnect, reset, vanish])
async def test_a_session_that_ends_leaves_nothing(
    app: Any, actors: Any, eventually: Any, connected: Any, answered: Any, ready: Any, end: Callable[[RtviClient], Any]
) -> None:
    async with connected(app.ws_url) as client:
        group = group_of(app, actors)
        await answered(client, "before the end")
        await end(client)
        await eventually(lambda: gone(group), "its four actors are gone")
        await eventually(lambda: ready(app.url), "its place is free")
        facts = await asyncio.to_thread(app.status)
        assert facts["sessions"] == []
        assert facts["capacity"]["sessions"] == 0
        client._socket.transport.abort()


async def test_clients_that_leave_during_the_handshake_leave_nothing(
    app: Any, actors: Any, eventually: Any, ready: Any, serves: Any
) -> None:
    host, port = app.url.removeprefix("http://").split(":")
    request = (
        f"GET /ws HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    for _ in range(3):
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(request.encode())
        await writer.drain()
        writer.transport.abort()
    await whole_again(app, actors, eventually, ready, serves)


async def test_ray_lists_the_actors_of_a_session_while_it_lasts(
    app: Any, connected: Any, answered: Any, eventually: Any, actors: Any
) -> None:
    async with connected(app.ws_url) as client:
        await answered(client, "hello")
        [session] = (await asyncio.to_thread(app.status))["sessions"]
        pids = {actor["pid"] for actor in session["actors"].values()}
        listed = [actor for actor in await asyncio.to_thread(listed_actors, app) if actor["pid"] in pids]
        names = {actor["name"]: actor["class_name"] for actor in listed}
        group = session["group"]
        assert names == {
            f"{app.name}/speaking/{group}": "SpeakingActor",
            f"{app.name}/stt/{group}": "SttActor",
            f"{app.name}/llm/{group}": "LlmActor",
            f"{app.name}/tts/{group}": "TtsActor",
        }
        processes = group_of(app, actors)
    await eventually(lambda: gone(processes), "its four actors are gone")
    assert not [actor for actor in await asyncio.to_thread(listed_actors, app) if actor["pid"] in pids]


def listed_actors(app: Any) -> list[dict[str, Any]]:
    """What a person sees who asks the app's Ray: other Rays run beside it here, so it is named."""
    ray = Path(sys.executable).with_name("ray")
    address = running.expect(app.name).address
    command = [str(ray), "list", "actors", "--address", address, "--filter", "state=ALIVE", "--format", "json"]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")} | {"RAY_AUTH_MODE": "token"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True, env=environment)
    found: list[dict[str, Any]] = json.loads(done.stdout[done.stdout.index("[") :])
    return found


# -------------------------------------------------------------------------------------------------- ends of processes


@SIGNALS
@pytest.mark.parametrize("kind", STAGES)
async def test_a_stage_that_is_lost_ends_its_session_and_its_group(
    app: Any, actors: Any, eventually: Any, connected: Any, answered: Any, ready: Any, kind: str, number: int
) -> None:
    # That the app serves again is what the next test begins with.
    async with connected(app.ws_url) as client:
        group = group_of(app, actors)
        await answered(client, "before")
        [victim] = actors(app, kind)
        victim.send_signal(number)
        told = await client.wait_type("error")
        assert told.data["fatal"] is True
        await eventually(lambda: client.closed, "the client is dismissed")
    await eventually(lambda: gone(group), "nothing is left of the group")
    await eventually(lambda: ready(app.url), "there is another group")
    await eventually(lambda: census(app, actors) == FULL, "one process of each kind")


@SIGNALS
@pytest.mark.parametrize("kind", ENGINES)
async def test_a_session_outlives_an_engine(
    app: Any, actors: Any, eventually: Any, connected: Any, utterances: Any, kind: str, number: int
) -> None:
    async with connected(app.ws_url, microphone=True) as client:
        [victim] = actors(app, kind)
        victim.send_signal(number)
        await eventually(lambda: gone([victim]) and len(actors(app, kind)) == 1, "another one has taken its place")
        await eventually(lambda: spoken(client, utterances), "it hears, answers and speaks again")
        assert not [received for received in client.messages if received.type == "error" and received.data["fatal"]]
        assert not client.closed
    await eventually(lambda: census(app, actors) == FULL)


async def spoken(client: RtviClient, utterances: Any) -> bool:
    """Whether the shortest utterance is heard and answered aloud."""
    utterance = client.say(utterances[0].pcm)
    await utterance.done.wait()
    with contextlib.suppress(RtviActorsError):
        await client.wait(
            lambda received: received.type == "bot-started-speaking" and received.at_ns > utterance.ended_ns,
            8.0,
            utterance.first_message,
        )
        return True
    assert not client.closed
    return False


@SIGNALS
async def test_an_edge_comes_back_where_it_was(
    app: Any, actors: Any, eventually: Any, connected: Any, answered: Any, ready: Any, serves: Any, number: int
) -> None:
    async with connected(app.ws_url) as client:
        group = group_of(app, actors)
        await answered(client, "before")
        [victim] = actors(app, "EdgeActor")
        victim.send_signal(number)
        await eventually(lambda: gone([victim, *group]), "nothing is left of it and its session")
        await eventually(lambda: client.closed, "the connection is cut")
    await whole_again(app, actors, eventually, ready, serves)
    assert (await asyncio.to_thread(app.status))["url"] == app.url


# ------------------------------------------------------------------------------------------------------ ends of the app


async def test_the_app_ends_when_its_scheduler_dies(
    start_app: Any, config: str, actors: Any, eventually: Any, connected: Any, answered: Any
) -> None:
    with start_app(config) as app:
        everything = psutil.Process(app.process.pid).children(recursive=True)
        async with connected(app.ws_url) as client:
            await answered(client, "before")
            [scheduler] = actors(app, "Scheduler")
            scheduler.kill()
            assert await asyncio.to_thread(app.process.wait, 60) == 1
            await eventually(lambda: client.closed)
        await eventually(lambda: gone(everything), "no process is left")
        assert "the scheduler died" in app.log.read_text().splitlines()[-1]


async def test_the_app_ends_when_its_scheduler_hangs(
    start_app: Any, config: str, actors: Any, eventually: Any, connected: Any, answered: Any
) -> None:
    with start_app(config) as app:
        everything = psutil.Process(app.process.pid).children(recursive=True)
        async with connected(app.ws_url) as client:
            await answered(client, "before")
            [scheduler] = actors(app, "Scheduler")
            scheduler.suspend()
            assert await asyncio.to_thread(app.process.wait, 90) == 1
            await eventually(lambda: client.closed)
        await eventually(lambda: gone(everything), "no process is left")
        assert "the scheduler does not answer" in app.log.read_text().splitlines()[-1]


async def test_nothing_is_left_of_an_app_whose_serve_is_killed(
    start_app: Any, config: str, eventually: Any, connected: Any, answered: Any
) -> None:
    with start_app(config) as app:
        everything = psutil.Process(app.process.pid).children(recursive=True)
        async with connected(app.ws_url) as client:
            await answered(client, "before")
            app.process.kill()
            await asyncio.to_thread(app.process.wait)
            await eventually(lambda: client.closed)
        await eventually(lambda: gone(everything), "no process is left")
