"""How long a frame takes from one process to another: from the sender's call to the receiver's callback.

Windows of 32 ms of audio (1,024 bytes), as the edge sends them to a speaking stage, for several sessions at once over one link, in
real time. The links are a Unix socket, as between processes of one node; TCP and TLS on the loopback; and, for root with iproute2,
TCP to a process in a network namespace of its own, through a veth pair as if it were another host. Beside them the same payload as
calls of a Ray actor. Aim: a link between nodes adds at most 1 ms to the p50 of the Unix socket, wire and switches apart.

    python benchmarks/frame_hop.py                  1, 8 and 32 sessions, 5 s each
    python benchmarks/frame_hop.py --sessions 100 --seconds 10 --no-ray
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from asyncio.subprocess import PIPE
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trustme
from record import append, machine, percentile
from rich.console import Console
from rich.progress import track
from rich.table import Table

from rtvi_actors.config import Cluster, runtime_folder
from rtvi_actors.frames.types import Audio, Frame, LlmText
from rtvi_actors.runtime.network import LinkKey, Network
from rtvi_actors.runtime.switchboard import Switchboard

WINDOW_SAMPLES = 512
WINDOW_S = WINDOW_SAMPLES / 16_000
PCM = bytes(range(256)) * 4
RECEIVER, SENDER = "bench/receiver", "bench/sender"
LINK_DEADLINE_S = 20.0
REPORT_DEADLINE_S = 10.0
MAX_REPORT_BYTES = 64 * 2**20
SETTLE_S = 0.3
"""For a new link's first pings, which no frame should meet."""
LOOPBACK = "127.0.0.1"
HERE, THERE = "198.18.255.1", "198.18.255.2"
"""Of the addresses that are set aside for benchmarks (RFC 2544)."""


@dataclass(frozen=True, slots=True)
class Way:
    """One way for frames. ``here``, ``there``: addresses of both ends, "" for a Unix socket; ``namespace``: the receiver's."""

    name: str
    here: str = ""
    there: str = ""
    settings: Cluster = field(default_factory=Cluster)
    namespace: str = ""


# -------------------------------------------------------------------------------------------------------- the other process


async def receive() -> None:
    """Listen as the first line of the input says and print where; after the run its hop times, us. Ends with the input."""
    setup = json.loads(await asyncio.to_thread(sys.stdin.readline))
    hops_us: list[float] = []

    def on_frame(_: str, frame: Frame) -> None:
        now_ns = time.monotonic_ns()
        if isinstance(frame, Audio):
            hops_us.append((now_ns - frame.first_sample) / 1e3)
        elif isinstance(frame, LlmText):  # in order behind the audio: the run is over
            print(json.dumps(hops_us), flush=True)
            hops_us.clear()

    network = _network(setup["host"], setup["key"], Cluster(**setup["settings"]))
    board = Switchboard(RECEIVER, setup["path"], node="there", on_frame=on_frame, on_peer=lambda *_: None, network=network)
    await board.open()
    print(json.dumps(board.address or board.path), flush=True)
    try:
        await asyncio.to_thread(sys.stdin.read)
    finally:
        await board.close()


def _network(host: str, key: str, settings: Cluster) -> Network | None:
    return Network(host, LinkKey(bytes.fromhex(key)), settings) if host else None


# --------------------------------------------------------------------------------------------------------------- this process


async def over_link(way: Way, sessions: int, seconds: float) -> list[float]:
    """The hops of all frames, us."""
    folder, key = runtime_folder(), LinkKey.new().secret.hex()
    enter = ("ip", "netns", "exec", way.namespace) if way.namespace else ()
    command = (*enter, sys.executable, __file__, "--receive")
    child = await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE, limit=MAX_REPORT_BYTES)
    assert child.stdin is not None
    assert child.stdout is not None
    settings = {name: getattr(way.settings, name) for name in ("tls_cert", "tls_key", "tls_ca")}
    setup = {"path": str(folder / "receiver.sock"), "host": way.there, "key": key, "settings": settings}
    board = Switchboard(
        SENDER,
        str(folder / "sender.sock"),
        node="here",
        on_frame=lambda *_: None,
        on_peer=lambda *_: None,
        network=_network(way.here, key, way.settings),
    )
    try:
        await board.open()
        child.stdin.write(f"{json.dumps(setup)}\n".encode())
        where = json.loads(await asyncio.wait_for(child.stdout.readline(), LINK_DEADLINE_S))
        board.dial(RECEIVER, where)
        await board.wait_connected([RECEIVER], LINK_DEADLINE_S)
        await asyncio.sleep(SETTLE_S)
        await _in_real_time(sessions, seconds, lambda session: board.send(RECEIVER, _window(session)))
        board.send(RECEIVER, LlmText("over", session="s0", epoch=1, turn=1))
        hops: list[float] = json.loads(await asyncio.wait_for(child.stdout.readline(), REPORT_DEADLINE_S))
        return hops
    finally:
        child.stdin.close()
        await asyncio.wait_for(child.wait(), REPORT_DEADLINE_S)
        await board.close()
        folder.rmdir()


def _window(session: int) -> Audio:
    # The stamp is not that of the link: from another node, the receiver gets it on its own clock, less what it errs by.
    return Audio(time.monotonic_ns(), PCM, session=f"s{session}", epoch=1, turn=1)


async def _in_real_time(sessions: int, seconds: float, send: Any) -> None:
    """Each session a window every 32 ms, the sessions evenly spread over that time."""
    began = time.monotonic()
    for at in range(int(seconds / WINDOW_S)):
        for session in range(sessions):
            due = began + (at + session / sessions) * WINDOW_S
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            send(session)
    await asyncio.sleep(WINDOW_S)


def over_ray(sessions: int, seconds: float) -> list[float]:
    """The hops of the same payload as calls of an async Ray actor, us."""
    from rtvi_actors.cli import local_ray
    from rtvi_actors.cli.local_ray import ray

    started = local_ray.start("frame-hop", None)
    try:

        class Receiver:
            def __init__(self) -> None:
                self._hops_us: list[float] = []

            async def take(self, sent_ns: int, pcm: bytes) -> None:
                self._hops_us.append((time.monotonic_ns() - sent_ns) / 1e3)

            async def hops(self) -> list[float]:
                return self._hops_us

        actor = ray.remote(Receiver).remote()
        ray.get(actor.hops.remote(), timeout=60)
        asyncio.run(_in_real_time(sessions, seconds, lambda _: actor.take.remote(time.monotonic_ns(), PCM)))
        hops: list[float] = ray.get(actor.hops.remote(), timeout=60)
        return hops
    finally:
        local_ray.shut_down(started)


# ---------------------------------------------------------------------------------------------------------------- the ways


@contextlib.contextmanager
def ways() -> Iterator[list[Way]]:
    """Those that there are on this machine. The first one is what the others are compared with."""
    with contextlib.ExitStack() as stack:
        folder = runtime_folder()
        stack.callback(shutil.rmtree, folder)
        found = [Way("Unix socket"), Way("TCP", LOOPBACK, LOOPBACK), Way("TLS", LOOPBACK, LOOPBACK, _certificates(folder))]
        if os.geteuid() or not shutil.which("ip"):
            Console(stderr=True).print("TCP between two hosts is left out: it needs root and iproute2", style="yellow")
        else:
            found.append(Way("TCP, two hosts", HERE, THERE, namespace=stack.enter_context(_other_host())))
        yield found


def _certificates(folder: Path) -> Cluster:
    authority = trustme.CA()
    certificate = authority.issue_cert("node.example")
    files = {name: folder / f"{name}.pem" for name in ("tls_cert", "tls_key", "tls_ca")}
    certificate.cert_chain_pems[0].write_to_path(files["tls_cert"])
    certificate.private_key_pem.write_to_path(files["tls_key"])
    authority.cert_pem.write_to_path(files["tls_ca"])
    return Cluster(**{name: str(path) for name, path in files.items()})


@contextlib.contextmanager
def _other_host() -> Iterator[str]:
    """A network namespace at ``THERE``, joined to this one, which is ``HERE``, by a veth pair. Its name; gone afterwards."""
    name, ours, theirs = f"rtvi-hop-{os.getpid()}", f"hopa{os.getpid()}", f"hopb{os.getpid()}"
    _ip("netns", "add", name)
    try:
        _ip("link", "add", ours, "type", "veth", "peer", "name", theirs, "netns", name)
        _ip("address", "add", f"{HERE}/30", "dev", ours)
        _ip("link", "set", ours, "up")
        _ip("-n", name, "address", "add", f"{THERE}/30", "dev", theirs)
        _ip("-n", name, "link", "set", theirs, "up")
        yield name
    finally:
        _ip("netns", "delete", name)  # and the pair with it


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


# ------------------------------------------------------------------------------------------------------------- the figures


def figures(hops_us: list[float]) -> dict[str, float]:
    """Count, p50, p99 and the longest, ms."""
    return {
        "frames": len(hops_us),
        "p50_ms": round(percentile(hops_us, 0.5) / 1e3, 3),
        "p99_ms": round(percentile(hops_us, 0.99) / 1e3, 3),
        "max_ms": round(max(hops_us, default=0.0) / 1e3, 3),
    }


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sessions", type=int, nargs="+", default=[1, 8, 32], help="sessions that share the link (1 8 32)")
    parser.add_argument("--seconds", type=float, default=5.0, help="length of each run (5)")
    parser.add_argument("--no-ray", action="store_true", help="leave out the comparison with Ray actor calls")
    parser.add_argument("--receive", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.receive:
        asyncio.run(receive())
        return
    rows = measure(options.sessions, options.seconds)
    if not options.no_ray:
        rows.append({"way": "Ray actor call", "sessions": 1, **figures(over_ray(1, options.seconds)), "added_p50_ms": None})
    console = Console()
    headers = ("way", "sessions", "frames", "p50, ms", "p99, ms", "max, ms", "added to the p50, ms")
    table = Table(*headers, title=f"process to process, {machine()}")
    for row in rows:
        table.add_row(*map(_cell, row.values()))
    console.print(table)
    path = append("frame_hop", {"rows": rows})
    console.print(f"appended to {path.relative_to(Path(__file__).parents[1])}", style="dim")


def measure(sessions: list[int], seconds: float) -> list[dict[str, Any]]:
    """A row for each way and number of sessions. ``added_p50_ms``: what it adds to the p50 of the Unix socket."""
    rows: list[dict[str, Any]] = []
    with ways() as found:
        runs = [(way, count) for count in sessions for way in found]
        firsts: dict[int, float] = {}
        for way, count in track(runs, "links", console=Console(stderr=True), transient=True):
            told = figures(asyncio.run(over_link(way, count, seconds)))
            first = firsts.setdefault(count, told["p50_ms"])
            rows.append({"way": way.name, "sessions": count, **told, "added_p50_ms": round(told["p50_ms"] - first, 3)})
    return rows


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:g}" if isinstance(value, int | float) else str(value)


if __name__ == "__main__":
    main()
