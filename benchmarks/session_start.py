"""From opening the WebSocket to bot-ready, one session after the other, with a place ready for each ("warm").

With an own group for each session (the default profile) the next one starts when the warm pool is filled again; with shared groups
(clusters/dense.toml) at once.

    python benchmarks/session_start.py                    20 sessions with own groups, 50 with shared ones
    python benchmarks/session_start.py --own 5 --shared 0
"""

from __future__ import annotations

import argparse
import asyncio
import time
from pathlib import Path
from typing import Any

import httpx
from record import ROOT, append, machine, percentile, server
from rich.console import Console
from rich.progress import track
from rich.table import Table

from rtvi_actors.testing.client import RtviClient

WARM_DEADLINE_S = 60.0
SHARED = "clusters/dense.toml"


async def start_sessions(name: str, url: str, count: int) -> dict[str, Any]:
    """``count`` sessions: the time to bot-ready of each, ms."""
    ready_ms: list[float] = []
    for _ in track(range(count), name, console=Console(stderr=True), transient=True):
        await _until_ready(url)
        async with RtviClient(url.replace("http", "ws", 1) + "/ws", microphone=False) as client:
            ready_ms.append(client.ready_ms)
    return {
        "groups": name,
        "sessions": count,
        "p50_ms": round(percentile(ready_ms, 0.5), 1),
        "p95_ms": round(percentile(ready_ms, 0.95), 1),
        "max_ms": round(max(ready_ms), 1),
    }


async def _until_ready(url: str) -> None:
    """Wait until the next session can be admitted, and the starting of actors no longer takes the cores."""
    deadline = time.monotonic() + WARM_DEADLINE_S
    async with httpx.AsyncClient() as http:
        while (await http.get(f"{url}/ready")).status_code != 200:
            if time.monotonic() > deadline:
                raise TimeoutError(f"no warm group within {WARM_DEADLINE_S:.0f} s")
            await asyncio.sleep(0.1)
    await asyncio.sleep(0.5)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--own", type=int, default=20, help="sessions with an own group each (20)")
    parser.add_argument("--shared", type=int, default=50, help=f"sessions with shared groups, {SHARED} (50)")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for name, count, arguments in (("own", options.own, []), ("shared", options.shared, [str(ROOT / SHARED)])):
        if count:
            with server(*arguments) as (url, _):
                rows.append(asyncio.run(start_sessions(name, url, count)))
    table = Table("groups", "sessions", "p50, ms", "p95, ms", "max, ms", title=f"WebSocket open to bot-ready, warm, {machine()}")
    for row in rows:
        table.add_row(*(f"{value:g}" if isinstance(value, int | float) else str(value) for value in row.values()))
    console = Console()
    console.print(table)
    path = append("session_start", {"rows": rows})
    console.print(f"appended to {path.relative_to(Path(__file__).parents[1])}", style="dim")


if __name__ == "__main__":
    main()
