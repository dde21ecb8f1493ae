"""How many sessions a machine holds: the same work for each, more and more of them, until they are no longer answered in time.

Each session speaks a recorded utterance every 15 s and is answered with at most 24 tokens. The load is open-loop: an utterance
begins at its time whether or not the server keeps up, so a server that stalls is not spared. An utterance is lost when no sound of
an answer came before the next one begins. The *knee* is the largest number of sessions without a loss and within the limit.

    python benchmarks/session_capacity.py                        shared groups, both voices; 1 to 12 sessions, 60 s each: 15 minutes
    python benchmarks/session_capacity.py --own --sessions 1 2 4
    python benchmarks/session_capacity.py --limit-ms 1100 --config my.toml
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from pathlib import Path
from typing import Any

from load import FAST_VOICE, SHARED, clips, configuration, offer, within
from record import ROOT, append, machine, server
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from rtvi_actors.config import Config


async def ramp(url: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """More and more sessions, up to the first number that is too many."""
    said = await clips()
    rows: list[dict[str, Any]] = []
    with Progress(transient=True, console=Console(stderr=True)) as progress:
        for sessions in options.sessions:
            task = progress.add_task(f"{sessions} sessions", total=options.seconds)
            found = await offer(url, said, sessions, options.seconds, progress, task)
            rows.append(found.figures())
            for problem in dict.fromkeys(found.problems):
                progress.console.print(f"{sessions} sessions: {problem}", style="red", markup=False)
            if not within(rows[-1], options.limit_ms):
                break
            await asyncio.sleep(3.0)  # places are given back
    return rows


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sessions", type=int, nargs="+", default=[1, 2, 4, 6, 8, 10, 12], help="numbers of sessions")
    parser.add_argument("--seconds", type=float, default=60.0, help="length of each load (60)")
    parser.add_argument("--limit-ms", type=float, default=2_000.0, help="voice to voice p95 that is still in time (2000)")
    parser.add_argument("--own", action="store_true", help="an own stage group for each session (default: shared groups)")
    parser.add_argument("--config", nargs="+", default=None, help="profiles, one after the other (with both voices)")
    options = parser.parse_args()
    profiles = options.config or ([None] if options.own else [SHARED, FAST_VOICE])
    groups = "own" if options.own else "shared"
    console, rows, knees = Console(), [], {}
    for profile in profiles:
        voice, found = measure(profile, options)
        rows += [{"voice": voice, **row} for row in found]
        knees[voice] = max((row["sessions"] for row in found if within(row, options.limit_ms)), default=0)
    table = Table(*rows[0], title=f"{groups} groups, p95 up to {options.limit_ms:g} ms, {machine()}")
    for row in rows:
        table.add_row(*("-" if value is None else str(value) for value in row.values()))
    console.print(table)
    console.print("knee: " + ", ".join(f"{knee} sessions with {voice}" for voice, knee in knees.items()))
    path = append("session_capacity", {"groups": groups, "limit_ms": options.limit_ms, "knees": knees, "rows": rows})
    console.print(f"appended to {path.relative_to(ROOT)}", style="dim")


def measure(profile: str | None, options: argparse.Namespace) -> tuple[str, list[dict[str, Any]]]:
    """The voice of a profile, and what its server bears."""
    with tempfile.TemporaryDirectory() as folder:
        config = configuration(Path(folder), profile, max(options.sessions), own=options.own)
        with server(str(config)) as (url, _):
            return Config.load(config).tts.backend, asyncio.run(ramp(url, options))


if __name__ == "__main__":
    main()
