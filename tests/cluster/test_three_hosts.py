"""An app on three hosts with a network between them: namespaces on one bridge, whose cables are pulled and put back.

The tests share one cluster and one app; the last one ends it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from typing import Any

import psutil
import pytest

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(180)]

NET = "198.18.254"
"""Of the addresses that are set aside for benchmarks (RFC 2544)."""
SEATS = ("a", "b", "c")


def ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"ip {' '.join(arguments)}: {done.stderr.strip()}"


def runs(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


class Hosts:
    """Three network namespaces, and a bridge between them and this one. Clients are here, as on a fourth host."""

    def __init__(self) -> None:
        self.bridge = f"rtbr{os.getpid()}"

    def name(self, seat: str) -> str:
        return f"rtvi-{seat}{os.getpid()}"

    def cable(self, seat: str) -> str:
        """The host's end at the bridge."""
        return f"rtv{seat}{os.getpid()}"

    def build(self) -> None:
        ip("link", "add", self.bridge, "type", "bridge")
        ip("address", "add", f"{NET}.254/24", "dev", self.bridge)
        ip("link", "set", self.bridge, "up")
        for number, seat in enumerate(SEATS, 1):
            ip("netns", "add", self.name(seat))
            ip("link", "add", self.cable(seat), "type", "veth", "peer", "name", "eth0", "netns", self.name(seat))
            ip("link", "set", self.cable(seat), "master", self.bridge, "up")
            inside = ("-n", self.name(seat))
            ip(*inside, "link", "set", "lo", "up")
            ip(*inside, "address", "add", f"{NET}.{number}/24", "dev", "eth0")
            ip(*inside, "link", "set", "eth0", "up")
            ip(*inside, "route", "add", "default", "via", f"{NET}.254")

    def pull(self, seat: str) -> None:
        """Pull the host's cable."""
        ip("link", "set", self.cable(seat), "down")

    def plug(self, seat: str) -> None:
        """Put it back."""
        ip("link", "set", self.cable(seat), "up")

    def remove(self) -> None:
        for seat in SEATS:
            with contextlib.suppress(AssertionError):
                ip("netns", "delete", self.name(seat))
        with contextlib.suppress(AssertionError):
            ip("link", "delete", self.bridge)


@pytest.fixture(scope="module")
def hosts() -> Iterator[Hosts]:
    if os.geteuid():
        pytest.skip("network namespaces need root")
    assert shutil.which("ip"), "network namespaces need iproute2: apt-get install iproute2"
    hosts = Hosts()
    try:
        hosts.build()
        yield hosts
    finally:
        hosts.remove()


@pytest.fixture(scope="module")
def nodes(start_nodes: Any, hosts: Hosts) -> Iterator[Any]:
    places = {seat: (f"{NET}.{number}", ["ip", "netns", "exec", hosts.name(seat)]) for number, seat in enumerate(SEATS, 1)}
    with start_nodes(places) as started:
        yield started


@pytest.fixture(scope="module")
def app(serve_on: Any, nodes: Any) -> Iterator[Any]:
    with serve_on(nodes, cluster={"link_ports": "21000-21099"}) as running:
        yield running


async def test_a_sentence_is_answered_from_host_to_host(
    app: Any, connected: Any, answers: Any, eventually: Any, utterances: Any
) -> None:
    await eventually(lambda: app.groups() == ["a", "b", "c"], "a group beside each edge")
    assert sorted(app.where("engines").values()) == ["a", "b", "c"]
    await answers(app)
    async with connected(next(iter(app.edge_urls().values())), microphone=True) as client:
        turn = await client.turn(client.say(utterances[0].pcm))
        assert turn.transcripts[0].startswith("utterance of")
        assert turn.audio
        assert turn.errors == []
        # Milestones of four hosts' clocks, each after the one before.
        assert turn.segments_ms
        assert min(turn.segments_ms.values()) >= 0


async def test_a_cable_that_is_pulled_for_seconds_costs_sessions_at_most(
    app: Any, hosts: Hosts, connected: Any, answers: Any, answered: Any, eventually: Any
) -> None:
    edges = app.where("edges")
    away = next(url for name, url in app.edge_urls().items() if edges[name] == "c")
    near = next(url for name, url in app.edge_urls().items() if edges[name] == "a")
    async with connected(near) as client, connected(away) as other:
        await answered(client, "before")
        await answered(other, "before")
        hosts.pull("c")
        await asyncio.sleep(2)  # links are dead after 1 s, nodes after 8 s
        hosts.plug("c")
    await answers(app)
    assert sorted(app.seats().values()) == ["a", "b", "c"]
    await eventually(lambda: app.groups() == ["a", "b", "c"], "each edge has a group again")


async def test_a_host_without_its_cable_is_replaced_and_does_no_harm_when_it_is_back(
    app: Any, nodes: Any, hosts: Hosts, answers: Any, eventually: Any
) -> None:
    cut_off = nodes.actors("c")
    assert cut_off
    hosts.pull("c")
    await eventually(lambda: sorted(app.seats().values()) == ["a", "b"], "the node is gone")
    await answers(app)
    hosts.plug("c")
    await eventually(lambda: not any(map(runs, cut_off)), "what still ran there has ended")
    nodes.kill("c")
    await answers(app)


async def test_nothing_is_left_after_sigterm(app: Any, nodes: Any, eventually: Any) -> None:
    assert all(nodes.actors(seat) for seat in "ab")
    app.running.process.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(app.running.process.wait, 60) == 0
    assert app.watch.actors() == []
    assert nodes.sockets() == []
    await eventually(lambda: not [actor for seat in "ab" for actor in nodes.actors(seat)], "their processes have ended")
