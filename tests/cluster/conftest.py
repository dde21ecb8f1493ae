"""A Ray cluster of several nodes on this machine: each a ``ray start`` of its own, in one network or with a namespace for each."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

RAY = [sys.executable, "-m", "ray.scripts.scripts"]
WATCH = Path(__file__).with_name("watch.py")
OBJECT_STORE_BYTES = 80 * 2**20
NODE_DEADLINE_S = 60.0
LEFT_DEADLINE_S = 20.0
HEALTH = {
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 500,
    "health_check_timeout_ms": 2_000,
    "health_check_failure_threshold": 3,
}
"""A node that is killed is dead after 2 s, one that is cut off after 8 s; by default that takes up to a minute."""
LOOPBACKS = {"a": "127.0.0.2", "b": "127.0.0.3", "c": "127.0.0.4"}
"""Not 127.0.0.1: Ray puts the machine's own address in its place."""
GPU_NODE, GPU_LABEL = "b", ",rtvi-gpu-memory-gb=16"
"""Has a GPU by Ray's count, and says that its memory is 16 GB."""


class RayNodes:
    """The cluster. Nodes are called by their label ``seat``; the first one is the head.

    ``hosts``: seat -> (its address, what enters its network namespace); without it each has an address of the loopback.
    """

    def __init__(self, hosts: dict[str, tuple[str, list[str]]] | None = None) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="rt-", dir="/tmp"))  # sockets lie below it: their paths must be short
        self.settings = {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_worker_niceness": "0",
            "RAY_enable_metrics_collection": "0",
            "RAY_USAGE_STATS_ENABLED": "0",
            # Nodes have one core by Ray's count; so many workers may start at a time all the same.
            "RAY_worker_maximum_startup_concurrency": "4",
        }
        self.address = ""
        self._hosts = hosts or {}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def enter(self, seat: str) -> list[str]:
        """What comes before a command that is to run on the node."""
        return self._hosts[seat][1] if self._hosts else []

    def host(self, seat: str) -> str:
        """The node's address."""
        return self._hosts[seat][0] if self._hosts else LOOPBACKS[seat]

    def environment(self, seat: str) -> dict[str, str]:
        """That of a program on the node: the cluster's settings, and a folder for sockets of its own."""
        folder = self.folder / f"{seat}-run"
        folder.mkdir(mode=0o700, exist_ok=True)
        shell = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
        return shell | self.settings | {"XDG_RUNTIME_DIR": str(folder)}

    def add(self, seat: str) -> None:
        """Start a node with one core. It has joined when :meth:`wait_joined` returns."""
        host, gpus = self.host(seat), int(seat == GPU_NODE)
        command = [*self.enter(seat), *RAY, "start", "--block", f"--node-ip-address={host}", f"--temp-dir={self.folder / seat}"]
        command += ["--num-cpus=1", f"--num-gpus={gpus}", f"--object-store-memory={OBJECT_STORE_BYTES}"]
        command += [f"--labels=seat={seat}{GPU_LABEL * gpus}"]
        if self.address:
            command += [f"--address={self.address}"]
        else:
            port = free_port()
            self.address = f"{host}:{port}"
            command += ["--head", f"--port={port}", f"--ray-client-server-port={free_port()}", "--include-dashboard=false"]
            command += [f"--system-config={json.dumps(HEALTH)}"]
        with (self.folder / f"{seat}.log").open("a") as log:
            self._processes[seat] = subprocess.Popen(
                command, stdout=log, stderr=log, env=self.environment(seat), start_new_session=True
            )

    def wait_joined(self, *seats: str) -> None:
        """Wait until these nodes are up."""
        deadline = time.monotonic() + NODE_DEADLINE_S
        for seat in seats:
            log = self.folder / f"{seat}.log"
            while "Ray runtime started" not in log.read_text():
                assert self._processes[seat].poll() is None, f"node {seat} ended:\n{log.read_text()[-3000:]}"
                assert time.monotonic() < deadline, f"node {seat} does not start:\n{log.read_text()[-3000:]}"
                time.sleep(0.05)

    def kill(self, seat: str) -> None:
        """Lose the node's machine: SIGKILL to all its processes, and its folder of sockets is gone."""
        process = self._processes.pop(seat)
        (self.folder / f"{seat}.log").unlink()
        with contextlib.suppress(psutil.Error):
            root = psutil.Process(process.pid)
            for each in [root, *root.children(recursive=True)]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    each.kill()
        process.wait()
        shutil.rmtree(self.folder / f"{seat}-run")

    def actors(self, seat: str, title: str = "") -> list[psutil.Process]:
        """The processes of apps' actors on the node: those of one class, or all. Agents of Ray itself have such titles, too."""
        found = []
        for process in psutil.Process(self._processes[seat].pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                actor_class = " ".join(process.cmdline()).removeprefix("ray::").partition(".")[0].strip()
                if actor_class == title or (not title and actor_class.endswith(("Actor", "Engine", "Scheduler"))):
                    found.append(process)
        return found

    def sockets(self) -> list[str]:
        """The folders of sockets of apps, of all nodes."""
        return [path.name for path in self.folder.glob("*-run/rtvi-*")]

    def close(self) -> None:
        """End all nodes. Fails if any process of the cluster or of an app on it is left."""
        for seat in reversed(list(self._processes)):
            self.kill(seat)
        deadline = time.monotonic() + LEFT_DEADLINE_S
        while (left := self._left()) and time.monotonic() < deadline:
            time.sleep(0.1)
        for pid in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                psutil.Process(pid).kill()
        shutil.rmtree(self.folder)
        assert not left, f"left of the cluster: {left}"

    def _left(self) -> dict[int, str]:
        """Pid -> command of the processes that have the cluster's token."""
        found = {}
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get("RAY_AUTH_TOKEN") == self.settings["RAY_AUTH_TOKEN"]:
                    found[process.pid] = " ".join(process.cmdline())[:100]
        return found


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


class Watch:
    """Asks the cluster, see ``watch.py``."""

    def __init__(self, nodes: RayNodes, seat: str) -> None:
        command = [*nodes.enter(seat), sys.executable, str(WATCH), nodes.address]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=nodes.environment(seat)
        )
        self._answer()

    def status(self, app: str) -> dict[str, Any]:
        """What ``rtvi-actors status`` shows; {} while nobody answers."""
        return self._ask(f"status {app}") or {}

    def actors(self) -> list[dict[str, str]]:
        """All actors with a name, those of all apps."""
        return list(self._ask("actors"))

    def _ask(self, question: str) -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{question}\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        timer = threading.Timer(NODE_DEADLINE_S, self._process.kill)
        timer.start()
        try:
            return json.loads(self._process.stdout.readline())
        finally:
            timer.cancel()
            timer.join()

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(NODE_DEADLINE_S)
        self._process.stdout.close()


class ClusterApp:
    """An app on the cluster, and what its scheduler says of it."""

    def __init__(self, running: Any, nodes: RayNodes, watch: Watch) -> None:
        self.running = running
        self.nodes = nodes
        self.watch = watch
        self.name: str = running.name

    def status(self) -> dict[str, Any]:
        return self.watch.status(self.name)

    def seats(self) -> dict[str, str]:
        """Node -> seat, of the nodes that the app knows."""
        return {node["node"]: node["labels"]["seat"] for node in self.status().get("nodes", [])}

    def where(self, kind: str) -> dict[str, str]:
        """Name -> seat of the engines or edges that are up; ``kind``: engines, edges."""
        facts, seats = self.status(), self.seats()
        return {member["name"]: seats.get(member["node"], "") for member in facts.get(kind, []) if member["state"] == "up"}

    def sessions(self) -> list[str]:
        """The seats of the sessions' groups, those of the oldest session first."""
        facts, seats = self.status(), self.seats()
        nodes = {group["name"]: seats.get(group["node"], "") for group in facts["groups"]}
        return [nodes[session["group"]] for session in facts["sessions"]]

    def groups(self) -> list[str]:
        """The seats of the stage groups that are ready."""
        facts, seats = self.status(), self.seats()
        return sorted(seats.get(group["node"], "") for group in facts.get("groups", []) if group["state"] == "ready")

    def edge_urls(self) -> dict[str, str]:
        """Name -> where clients connect, of the edges that are up."""
        edges = self.status().get("edges", [])
        return {edge["name"]: edge["url"].replace("http", "ws", 1) + "/ws" for edge in edges if edge["state"] == "up"}


@pytest.fixture
def answered_in_the_end(eventually: Any) -> Callable[..., Any]:
    """``await answered_in_the_end(client)``: ask until there is an answer. An engine that was lost may take a moment more."""

    async def check(client: Any) -> None:
        async def asked() -> bool:
            first = client.send_text("are you there").first_message
            news = await client.wait(lambda message: message.type in ("bot-started-speaking", "error"), NODE_DEADLINE_S, first)
            return bool(news.type == "bot-started-speaking")

        await eventually(asked, "an answer")

    return check


@pytest.fixture
def answers(connected: Any, answered_in_the_end: Any, eventually: Any) -> Callable[..., Any]:
    """``await answers(app)``: in the end three edges are up, and a new session at each of them is answered."""

    async def check(app: ClusterApp) -> None:
        urls = await eventually(lambda: urls if len(urls := app.edge_urls()) == 3 else None, "all edges are up")
        for url in urls.values():
            async with connected(url) as client:
                await answered_in_the_end(client)

    return check


@contextlib.contextmanager
def cluster_app(start_app: Any, nodes: RayNodes, config: str) -> Iterator[ClusterApp]:
    """``serve`` on the head of ``nodes``, with three edges."""
    watch = Watch(nodes, "a")
    try:
        options = {"enter": nodes.enter("a"), "settings": nodes.environment("a")}
        with start_app(config, "--address", nodes.address, "--host", "0.0.0.0", **options) as running:
            yield ClusterApp(running, nodes, watch)
    finally:
        watch.close()


@pytest.fixture(scope="module")
def serve_on(start_app: Any, config_file: Any) -> Callable[..., contextlib.AbstractContextManager[ClusterApp]]:
    """``with serve_on(nodes, cluster={...}) as app``: three edges, each with a group beside it, and one engine of each kind."""
    scheduler = {"edges": 3, "sessions_per_group": 40, "warm_groups": 3, "max_sessions": 120}

    def serve(nodes: RayNodes, **sections: dict[str, Any]) -> contextlib.AbstractContextManager[ClusterApp]:
        return cluster_app(start_app, nodes, config_file(scheduler=scheduler, **sections))

    return serve


@pytest.fixture(scope="module")
def start_nodes() -> Callable[..., contextlib.AbstractContextManager[RayNodes]]:
    """``with start_nodes() as nodes``: a, b and c, each on a host of its own where ``hosts`` are given."""

    @contextlib.contextmanager
    def start(hosts: dict[str, tuple[str, list[str]]] | None = None) -> Iterator[RayNodes]:
        nodes = RayNodes(hosts)
        try:
            nodes.add("a")
            nodes.wait_joined("a")
            for seat in ("b", "c"):
                nodes.add(seat)
            nodes.wait_joined("b", "c")
            yield nodes
        finally:
            nodes.close()

    return start
