"""How long a frame takes from one process to another: the sender's stamp to the receiver's callback, on one node.

Windows of 32 ms of audio (1,024 bytes), as the edge sends them to a speaking stage, for several sessions at once over one link, in
real time; beside it the same payload as calls of a Ray actor, for comparison.

    python benchmarks/frame_hop.py                  1, 8 and 32 sessions, 5 s each
    python benchmarks/frame_hop.py --sessions 100 --seconds 10 --no-ray
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from asyncio.subprocess import PIPE
from pathlib import Path
from typing import Any

from record import append, machine, percentile
from rich.console import Console
from rich.progress import track
from rich.table import Table

from rtvi_actors.config import runtime_folder
from rtvi_actors.frames.types import Audio, Frame, LlmText
from rtvi_actors.runtime.switchboard import Switchboard

WINDOW_SAMPLES = 512
WINDOW_S = WINDOW_SAMPLES / 16_000
PCM = bytes(range(256)) * 4
RECEIVER, SENDER = "bench/receiver", "bench/sender"
LINK_DEADLINE_S = 20.0
REPORT_DEADLINE_S = 10.0
MAX_REPORT_BYTES = 64 * 2**20


# -------------------------------------------------------------------------------------------------------- the other process


async def receive(path: str) -> None:
    """Listen at ``path``; after each run print its hop times in microseconds as one JSON line. Ends with its standard input."""
    hops_us: list[float] = []

    def on_frame(_: str, frame: Frame) -> None:
        now_ns = time.monotonic_ns()
        if isinstance(frame, Audio):
            hops_us.append((now_ns - frame.sent_ns) / 1e3)
        elif isinstance(frame, LlmText):  # in order behind the audio: the run is over
            print(json.dumps(hops_us), flush=True)
            hops_us.clear()

    board = Switchboard(RECEIVER, path, node="bench", on_frame=on_frame, on_peer=lambda *_: None)
    await board.open()
    try:
        await asyncio.to_thread(sys.stdin.read)
    finally:
        await board.close()


# --------------------------------------------------------------------------------------------------------------- this process


async def over_links(sessions: list[int], seconds: float) -> dict[int, list[float]]:
    """Sessions -> the hops of all their frames, us."""
    folder = runtime_folder()
    here, there = str(folder / "sender.sock"), str(folder / "receiver.sock")
    command = (sys.executable, __file__, "--receive", there)
    child = await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE, limit=MAX_REPORT_BYTES)
    assert child.stdin is not None
    assert child.stdout is not None
    up = asyncio.Event()
    board = Switchboard(SENDER, here, node="bench", on_frame=lambda *_: None, on_peer=lambda *_: up.set())
    try:
        await board.open()
        board.dial(RECEIVER, there)
        await asyncio.wait_for(up.wait(), LINK_DEADLINE_S)
        hops: dict[int, list[float]] = {}
        for count in sessions:
            await _in_real_time(count, seconds, lambda session, at: board.send(RECEIVER, _window(session, at)))
            board.send(RECEIVER, LlmText("over", session="s0", epoch=1, turn=1))
            hops[count] = json.loads(await asyncio.wait_for(child.stdout.readline(), REPORT_DEADLINE_S))
        return hops
    finally:
        child.stdin.close()
        await asyncio.wait_for(child.wait(), REPORT_DEADLINE_S)
        await board.close()
        folder.rmdir()


def _window(session: int, at: int) -> Audio:
    return Audio(at * WINDOW_SAMPLES, PCM, session=f"s{session}", epoch=1, turn=1)


async def _in_real_time(sessions: int, seconds: float, send: Any) -> None:
    """Each session a window every 32 ms, the sessions evenly spread over that time."""
    began = time.monotonic()
    for at in range(int(seconds / WINDOW_S)):
        for session in range(sessions):
            due = began + (at + session / sessions) * WINDOW_S
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            send(session, at)
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
        asyncio.run(_in_real_time(sessions, seconds, lambda session, at: actor.take.remote(time.monotonic_ns(), PCM)))
        hops: list[float] = ray.get(actor.hops.remote(), timeout=60)
        return hops
    finally:
        local_ray.shut_down(started)


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
    parser.add_argument("--receive", metavar="PATH", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.receive:
        asyncio.run(receive(options.receive))
        return
    console = Console()
    rows: list[dict[str, Any]] = []
    for count in track(options.sessions, "links", console=Console(stderr=True), transient=True):
        hops = asyncio.run(over_links([count], options.seconds))
        rows.append({"way": "link", "sessions": count, **figures(hops[count])})
    if not options.no_ray:
        rows.append({"way": "Ray actor call", "sessions": 1, **figures(over_ray(1, options.seconds))})
    table = Table("way", "sessions", "frames", "p50, ms", "p99, ms", "max, ms", title=f"process to process, {machine()}")
    for row in rows:
        table.add_row(*(f"{value:g}" if isinstance(value, int | float) else str(value) for value in row.values()))
    console.print(table)
    path = append("frame_hop", {"rows": rows})
    console.print(f"appended to {path.relative_to(Path(__file__).parents[1])}", style="dim")


if __name__ == "__main__":
    main()
