"""An app on three nodes of one machine, with TLS on its links: where things run, what a lost node costs, what is refused, its end.

The tests share one cluster and one app, and leave it whole; the last one ends it.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import trustme

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(180)]

CLI = [sys.executable, "-m", "rtvi_actors.cli.main"]


@pytest.fixture(scope="module")
def nodes(start_nodes: Any) -> Iterator[Any]:
    with start_nodes() as started:
        yield started


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What ``[cluster]`` says of TLS."""
    folder, authority = tmp_path_factory.mktemp("tls"), trustme.CA()
    certificate = authority.issue_cert("node.example")
    files = {key: folder / f"{key}.pem" for key in ("tls_cert", "tls_key", "tls_ca")}
    certificate.cert_chain_pems[0].write_to_path(files["tls_cert"])
    certificate.private_key_pem.write_to_path(files["tls_key"])
    authority.cert_pem.write_to_path(files["tls_ca"])
    return {key: str(path) for key, path in files.items()}


@pytest.fixture(scope="module")
def app(serve_on: Any, nodes: Any, certificates: dict[str, str]) -> Iterator[Any]:
    with serve_on(nodes, cluster=certificates) as running:
        yield running


async def command(app: Any, *arguments: str) -> subprocess.CompletedProcess[str]:
    """``rtvi-actors ARGUMENTS --address ...`` in the cluster's environment."""
    words = [*CLI, *arguments, "--address", app.nodes.address]
    run = functools.partial(subprocess.run, capture_output=True, text=True, timeout=60, env=app.nodes.environment("a"), check=False)
    return await asyncio.to_thread(run, words)


async def test_engines_edges_and_groups_are_spread_and_every_edge_answers(app: Any, answers: Any, eventually: Any) -> None:
    assert sorted(app.where("edges").values()) == ["a", "b", "c"]
    assert sorted(app.where("engines").values()) == ["a", "b", "c"]
    await eventually(lambda: app.groups() == ["a", "b", "c"], "a group beside each edge")
    # So each session asks two of its three engines on other nodes.
    await answers(app)


async def test_links_between_nodes_are_under_tls(app: Any, certificates: dict[str, str]) -> None:
    host, _, port = app.status()["engines"][0]["address"].rpartition(":")
    context = ssl.create_default_context(cafile=certificates["tls_ca"])
    context.load_cert_chain(certificates["tls_cert"], certificates["tls_key"])
    plain = socket.create_connection((host, int(port)), 10)
    with context.wrap_socket(plain, server_hostname="node.example") as secured:
        assert secured.version() == "TLSv1.3"


async def test_what_cannot_be_placed_is_refused_with_all_shortfalls(app: Any, nodes: Any, config_file: Any) -> None:
    config = config_file(
        stt={"num_gpus": 2},
        llm={"preferred_labels": [{"zone": "sun"}], "labels": {"zone": "moon"}},
        tts={"num_gpus": 0.5, "gpu_memory_gb": 14.5},
    )
    before = {actor["name"] for actor in app.watch.actors()}, nodes.sockets()
    done = await command(app, "serve", config, "--port", "0", "--app", "too-large")
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert "stt: needs 2 devices on one node, the cluster has 1 of 16.0 GB free" in done.stderr
    assert "llm: needs a node with zone=moon, of 3 that take anything none fits" in done.stderr
    assert "tts: needs 0.5 of a device with 14.5 GB, the most that one has left is 1 and 14.4 GB" in done.stderr
    assert ({actor["name"] for actor in app.watch.actors()}, nodes.sockets()) == before


async def test_the_actor_of_a_node_that_is_killed_comes_back(app: Any, nodes: Any, answers: Any, eventually: Any) -> None:
    (killed,) = nodes.actors("b", "NodeActor")
    killed.kill()
    await eventually(lambda: [each for each in nodes.actors("b", "NodeActor") if each.pid != killed.pid], "it is back")
    await answers(app)


async def test_a_node_that_is_drained_under_load_costs_no_session_and_its_successor_is_used(
    app: Any, nodes: Any, connected: Any, answered: Any, eventually: Any
) -> None:
    edges = app.where("edges")
    staying = next(url for name, url in app.edge_urls().items() if edges[name] == "a")
    over = asyncio.Event()

    async def talk(client: Any) -> int:
        asked = 0
        while not over.is_set():
            first = len(client.messages)
            await answered(client, f"number {asked}")
            await client.wait(lambda message: message.type == "bot-stopped-speaking", 60, first)
            await asyncio.sleep(0.2)  # between two turns
            asked += 1
        return asked

    async with contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(connected(staying)) for _ in range(6)]
        assert sorted(app.sessions()) == ["a", "a", "b", "b", "c", "c"]
        talks = [asyncio.create_task(talk(client)) for client in clients]
        done = await command(app, "drain", nodes.host("b"), "--app", app.name, "--timeout", "1")
        assert done.returncode == 0, done.stderr
        over.set()
        assert all(await asyncio.gather(*talks))
        assert len(app.sessions()) == 6
        for what in ("engines", "edges"):
            assert "b" not in app.where(what).values()
        assert "b" not in [*app.sessions(), *app.groups()]
        nodes.kill("b")
        nodes.add("b")
        await eventually(lambda: "b" in app.groups(), "the third group is on its successor")
        for client in clients:
            await answered(client, "after")
            assert [message.data for message in client.messages if message.type in ("error", "server-message")] == []


async def test_what_ran_on_a_lost_node_comes_back_on_the_others_and_on_one_that_joins(
    app: Any, nodes: Any, connected: Any, answered: Any, answered_in_the_end: Any, answers: Any, eventually: Any
) -> None:
    edges = app.where("edges")
    away = [name for name, seat in app.where("engines").items() if seat == "c"]
    staying = next(url for name, url in app.edge_urls().items() if edges[name] == "a")
    async with contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(connected(staying)) for _ in "abc"]
        for client in clients:
            await answered(client, "before")
        seats = app.sessions()
        assert sorted(seats) == ["a", "b", "c"]
        nodes.kill("c")
        await eventually(lambda: sorted(app.seats().values()) == ["a", "b"], "the node is gone")
        await eventually(lambda: {app.where("engines").get(name) for name in away} <= {"a", "b"}, f"{away} run elsewhere")
        for client, seat in zip(clients, seats, strict=True):
            if seat == "c":
                await eventually(lambda client=client: client.closed, "its stages are lost, and the session with them")
            else:
                await answered_in_the_end(client)
    await eventually(lambda: len(app.where("edges")) == 3 and set(app.where("edges").values()) == {"a", "b"}, "so do its edges")
    # Two cores have room for two groups of this size.
    assert app.groups() == ["a", "b"]
    await answers(app)
    nodes.add("c")
    await eventually(lambda: app.groups() == ["a", "b", "c"], "the third group is on the node that has joined")
    await answers(app)


async def test_nothing_is_left_when_the_app_is_stopped(app: Any, nodes: Any, eventually: Any) -> None:
    assert all(nodes.actors(seat) for seat in "abc")
    assert len(nodes.sockets()) == 3
    done = await command(app, "stop", "--app", app.name)
    assert (done.returncode, done.stdout) == (0, f"stopped {app.name}\n"), done.stderr
    assert app.running.process.wait(30) == 0
    assert app.watch.actors() == []
    assert nodes.sockets() == []
    await eventually(lambda: not [actor for seat in "abc" for actor in nodes.actors(seat)], "their processes have ended")
